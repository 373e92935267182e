import Glibc
import OCIModel
import PosixIO
import TestSupport
import Testing

@testable import BlobIO
@testable import LayerFormat

/// A tar of a few files in every form that a plain layer has.
private struct PlainLayer {
    static let forms = ["tar", "gzip", "gzip members", "zstd", "zstd frames"]

    let form: String
    let files: [(name: String, content: [UInt8])]
    let tar: [UInt8]
    let blob: [UInt8]

    /// - Parameter large: bytes of the largest file.
    init(_ form: String, large: Int = 9 << 20, in directory: TemporaryDirectory) throws {
        self.form = form
        var files: [(name: String, content: [UInt8])] = []
        for number in 0..<40 {
            files.append(("d/small\(number)", compressible(100 + number * 997, seed: UInt64(number))))
        }
        files.append(("d/large", compressible(large, seed: 99)))
        files.append(("e/noise", noise(3 << 20, seed: 7)))
        files.append(("e/zeros", [UInt8](repeating: 0, count: 5 << 20)))
        for number in 40..<60 {
            files.append(("e/small\(number)", compressible(1000 + number * 311, seed: UInt64(number))))
        }
        self.files = files
        let root = try directory.makeDirectory("root-\(form.replacing(" ", with: "-"))")
        for name in ["d", "e"] { try makeDirectories("\(root)/\(name)") }
        for file in files { try write(file.content, "\(root)/\(file.name)") }
        let path = "\(root).tar"
        try runChecked("tar", ["-cf", path, "-C", root, "d", "e"])
        tar = try readFile(path, limit: 256 << 20).array
        switch form {
        case "tar": blob = tar
        case "gzip": blob = try runChecked("gzip", ["-6", "-n", "-c", path]).output
        case "zstd": blob = try runChecked("zstd", ["-q", "-3", "-c", path]).output
        default:
            // Pieces that are compressed by themselves, and not at the boundaries of anything.
            var pieces: [UInt8] = []
            for start in stride(from: 0, to: tar.count, by: 1_234_567) {
                let piece = "\(path).piece"
                try write(Array(tar[start..<min(tar.count, start + 1_234_567)]), piece)
                pieces += try runChecked(
                    form == "zstd frames" ? "zstd" : "gzip",
                    form == "zstd frames" ? ["-q", "-c", piece] : ["-n", "-c", piece]
                ).output
            }
            blob = pieces
        }
    }

    var descriptor: ContentDescriptor {
        let suffix = form == "tar" ? "" : form.hasPrefix("gzip") ? "+gzip" : "+zstd"
        return ContentDescriptor(
            mediaType: "application/vnd.oci.image.layer.v1.tar\(suffix)",
            digest: digest(of: blob),
            size: UInt64(blob.count)
        )
    }
}

private func write(_ bytes: [UInt8], _ path: String) throws {
    unsafe try replaceFile(path, with: bytes.span.bytes)
}

/// Bytes that deflate can halve, the same for the same seed.
private func compressible(_ count: Int, seed: UInt64) -> [UInt8] {
    var bytes = noise(count, seed: seed)
    for index in bytes.indices { bytes[index] = bytes[index] & 15 }
    return bytes
}

private func expectFiles(_ bench: Bench, _ layer: Layer, _ plain: PlainLayer) async throws {
    for file in plain.files {
        let content = try await bench.read(layer, file.name)
        #expect(content == file.content, "\(plain.form) \(file.name)")
    }
}

@Suite(.enabled(if: Requirement.program("zstd").runs, Comment(rawValue: Requirement.program("zstd").reason)))
struct PlainLayerTests {
    private let directory: TemporaryDirectory

    init() throws {
        try Requirement.program("zstd").orFail()
        directory = try TemporaryDirectory("plain")
    }

    @Test(arguments: PlainLayer.forms)
    func everyFileOfEveryFormIsReadWithOneDownload(_ form: String) async throws {
        let plain = try PlainLayer(form, in: directory)
        let source = ScriptedSource(plain.blob)
        let bench = try Bench()
        let layer = try await bench.blobIO.open(plain.descriptor, at: source.place)
        #expect(layer.diffID == digest(of: plain.tar))
        let streamed = source.ranges
        try await expectFiles(bench, layer, plain)
        #expect(source.ranges == streamed)
        #expect(bench.blobIO.streamingLayers.isEmpty)
    }

    @Test(arguments: PlainLayer.forms)
    func anIndexIsUsedAgainAndWhatIsMissingComesFromTheNearestPoint(_ form: String) async throws {
        let plain = try PlainLayer(form, in: directory)
        let source = ScriptedSource(plain.blob)
        let first = try Bench()
        _ = try await first.blobIO.open(plain.descriptor, at: source.place)
        source.forgetRequests()

        let second = try Bench(cacheBytes: 8 << 20, indexDirectory: first.indexDirectory)
        let layer = try await second.blobIO.open(plain.descriptor, at: source.place)
        #expect(source.requestCount == 0)
        #expect(try await second.read(layer, "e/noise", 2 << 20, 1000) == Array(plain.files[41].content[2 << 20..<(2 << 20) + 1000]))
        if form != "zstd" {
            let bytes = source.ranges.reduce(0) { $0 + $1.count }
            #expect(bytes < UInt64(plain.blob.count) * 2 / 3, "\(bytes) of \(plain.blob.count)")
        }
        try await expectFiles(second, layer, plain)
        #expect(second.blobIO.statistics.mismatches == 0)
    }

    /// A store that holds nothing for long: each read brings what it needs, however often.
    @Test(arguments: PlainLayer.forms)
    func aStoreThatIsTooSmallIsNoError(_ form: String) async throws {
        let plain = try PlainLayer(form, in: directory)
        let source = ScriptedSource(plain.blob)
        let bench = try Bench(cacheBytes: 100_000)
        let layer = try await bench.blobIO.open(plain.descriptor, at: source.place)
        for file in [plain.files[3], plain.files[40], plain.files[59], plain.files[0]] {
            #expect(try await bench.read(layer, file.name) == file.content)
        }
    }

    @Test func whatComesWrongIsAskedForOnceMoreAndNeverShown() async throws {
        let plain = try PlainLayer("gzip", large: 1 << 20, in: directory)
        let source = ScriptedSource(plain.blob)
        let bench = try Bench()
        // The middle of the noise, where a flipped bit is no error of deflate.
        source.script(.flips(plain.blob.count / 2), .flips(plain.blob.count / 2), .flips(plain.blob.count / 2))
        let layer = try await bench.blobIO.open(plain.descriptor, at: source.place)
        try await expectFiles(bench, layer, plain)
        #expect(source.freshRequests > 0)

        let other = try Bench()
        source.failAlways(.flips(plain.blob.count / 2))
        let error = await #expect(throws: BlobError.self) {
            try await other.blobIO.open(plain.descriptor, at: source.place)
        }
        #expect(error?.kind == .corrupt)
        #expect(!namesInDirectory(other.indexDirectory).contains { $0.hasSuffix(".idx") })
        source.failAlways(nil)
        _ = try await other.blobIO.open(plain.descriptor, at: source.place)
    }

    @Test func aFailedTransferLeavesNothingThatLooksComplete() async throws {
        let plain = try PlainLayer("zstd", large: 1 << 20, in: directory)
        let source = ScriptedSource(plain.blob)
        let bench = try Bench()
        source.failAlways(.fails(.timedOut))
        let error = await #expect(throws: BlobError.self) {
            try await bench.blobIO.open(plain.descriptor, at: source.place)
        }
        #expect(error?.kind == .timedOut)
        #expect(!namesInDirectory(bench.indexDirectory).contains { $0.hasSuffix(".idx") })
        source.failAlways(nil)
        let layer = try await bench.blobIO.open(plain.descriptor, at: source.place)
        try await expectFiles(bench, layer, plain)
    }

    @Test func aBlobThatIsNoTarIsOneClearError() async throws {
        let bench = try Bench()
        for blob in [noise(100_000, seed: 3), gzip(noise(100_000, seed: 4)), gzip([])] {
            let descriptor = ContentDescriptor(mediaType: gzipLayer, digest: digest(of: blob), size: UInt64(blob.count))
            let source = ScriptedSource(blob)
            guard blob != gzip([]) else {
                // An archive without entries.
                let layer = try await bench.blobIO.open(descriptor, at: source.place)
                #expect(layer.index.recordCount == 1)
                continue
            }
            let error = await #expect(throws: BlobError.self) {
                try await bench.blobIO.open(descriptor, at: source.place)
            }
            #expect(error?.kind == .unsupported)
            #expect(error?.reason.contains("\(descriptor.digest) is no layer that can be read") == true)
        }
    }

    @Test func damagedRestartPointsAreNoError() async throws {
        let plain = try PlainLayer("gzip", in: directory)
        let source = ScriptedSource(plain.blob)
        let first = try Bench()
        _ = try await first.blobIO.open(plain.descriptor, at: source.place)
        let path = "\(first.indexDirectory)/\(plain.descriptor.digest.directoryName).rst"
        let bytes = try readFile(path, limit: 64 << 20).array
        // A window: streaming the layer again answers.
        var damaged = bytes
        for index in 200..<1500 { damaged[index] ^= 0x55 }
        try write(damaged, path)
        let second = try Bench(cacheBytes: 1 << 20, indexDirectory: first.indexDirectory)
        let layer = try await second.blobIO.open(plain.descriptor, at: source.place)
        try await expectFiles(second, layer, plain)
        // The spans: the layer is streamed anew when it is opened.
        damaged = bytes
        damaged[bytes.count - 10] ^= 1
        try write(damaged, path)
        source.forgetRequests()
        let third = try Bench(indexDirectory: first.indexDirectory)
        _ = try await third.blobIO.open(plain.descriptor, at: source.place)
        #expect(source.requestCount > 0)
        #expect(try readFile(path, limit: 64 << 20).array == bytes)
    }

    @Test func whatABlobIsCutIntoDoesNotChangeItsIndex() async throws {
        for form in ["gzip", "zstd"] {
            let plain = try PlainLayer(form, in: directory)
            var indexes: [[UInt8]] = []
            for piece in [777, 1 << 20] {
                let bench = try Bench()
                let place = Place(name: "pieces") { (range, _, _) throws(BlobError) in
                    SharedBytes(Array(plain.blob[Int(range.offset)..<Int(range.end)]))
                }
                var cut = place
                cut.stream = { (range, priority, fresh, gate, take) throws(BlobError) in
                    try await place.stream(range, priority, fresh, gate) { bytes in
                        for start in stride(from: 0, to: bytes.byteCount, by: piece) {
                            guard take(bytes.extracting(start..<min(bytes.byteCount, start + piece))) else { return false }
                        }
                        return true
                    }
                }
                let layer = try await bench.blobIO.open(plain.descriptor, at: cut)
                indexes.append(layer.indexFiles.index.array)
            }
            #expect(indexes[0] == indexes[1], "\(form)")
        }
    }
}

/// Indexes that somebody else made.
@Suite(.enabled(if: Requirement.program("zstd").runs, Comment(rawValue: Requirement.program("zstd").reason)))
struct PlainHintTests {
    private let directory: TemporaryDirectory

    init() throws {
        try Requirement.program("zstd").orFail()
        directory = try TemporaryDirectory("hint")
    }

    private func hint(_ plain: PlainLayer) async throws -> PlainHint {
        let bench = try Bench()
        let layer = try await bench.blobIO.open(plain.descriptor, at: ScriptedSource(plain.blob).place)
        let files = layer.indexFiles
        return PlainHint(index: files.index, restarts: files.restarts, source: "test/index")
    }

    private func bench(proofDelay: UInt64) throws -> Bench {
        try Bench(proofDelay: proofDelay)
    }

    @Test func aLayerIsLazyByAHintAndProvedLater() async throws {
        let plain = try PlainLayer("gzip", in: directory)
        let hint = try await hint(plain)
        let source = ScriptedSource(plain.blob)
        let bench = try bench(proofDelay: 300_000_000)
        let layer = try await bench.blobIO.open(plain.descriptor, at: source.place) { hint }
        #expect(try await bench.read(layer, "d/small3") == plain.files[3].content)
        #expect(source.ranges.reduce(0) { $0 + $1.count } < UInt64(plain.blob.count) / 2)
        let path = "\(bench.indexDirectory)/\(plain.descriptor.digest.directoryName).idx"
        #expect(await eventually { (try? FileStatus(path)) != nil })
        #expect(await eventually { bench.blobIO.streamingLayers.isEmpty })
        #expect(!layer.isRefuted)
        try await expectFiles(bench, layer, plain)
    }

    @Test func aHintThatIsWrongIsDroppedWithOneError() async throws {
        let plain = try PlainLayer("tar", large: 1 << 20, in: directory)
        // The index of another tar, said to be this layer's.
        var entry = TarEntry(path: Array("d/small3".utf8), kind: .regular)
        entry.size = 5
        var builder = PlainIndexBuilder()
        try builder.add(entry)
        let number = try builder.addChunk(at: 512, count: 5)
        builder.setDigest(digest(of: Array(plain.tar[512..<517])), ofChunk: number)
        let facts = PlainLayerFacts(
            layerDigest: plain.descriptor.digest,
            diffID: plain.descriptor.digest,
            blobSize: plain.descriptor.size,
            format: .tar
        )
        let index = try builder.finish(facts, spans: []) { _ in }
        let hint = PlainHint(index: index.share(), restarts: nil, source: "evil/index")
        let source = ScriptedSource(plain.blob)
        let bench = try bench(proofDelay: 300_000_000)
        let layer = try await bench.blobIO.open(plain.descriptor, at: source.place) { hint }
        #expect(try await bench.read(layer, "d/small3").count == 5)
        #expect(await eventually { layer.isRefuted })
        let error = await #expect(throws: BlobError.self) { try await bench.read(layer, "d/small3") }
        #expect(error?.kind == .corrupt)
        #expect(error?.reason.contains("evil/index") == true)
        #expect(bench.log.text.filter { $0.hasPrefix("error") }.count == 1)
        // Opened again it is what it is.
        let again = try await bench.blobIO.open(plain.descriptor, at: source.place) { hint }
        try await expectFiles(bench, again, plain)
    }

    @Test func aHintThatCannotBeUsedIsNone() async throws {
        let plain = try PlainLayer("zstd", large: 1 << 20, in: directory)
        let good = try await hint(plain)
        var damaged = good.index.array
        damaged[700] ^= 1
        for bad in [
            PlainHint(index: SharedBytes(damaged), restarts: good.restarts, source: "test"),
            PlainHint(index: good.index, restarts: nil, source: "test"),
            PlainHint(index: SharedBytes([]), restarts: good.restarts, source: "test"),
        ] {
            let bench = try Bench()
            let layer = try await bench.blobIO.open(plain.descriptor, at: ScriptedSource(plain.blob).place) { bad }
            try await expectFiles(bench, layer, plain)
        }
    }
}
