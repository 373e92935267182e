import Glibc
import OCIModel
import PosixIO
import TestSupport
import Testing

@testable import BlobIO
@testable import LayerFormat

@Suite(.enabled(if: Requirement.program("zstd").runs, Comment(rawValue: Requirement.program("zstd").reason)))
struct PlainLayerTests {
    init() throws { try Requirement.program("zstd").orFail() }

    @Test(arguments: PlainLayer.forms)
    func everyFileOfEveryFormIsReadWithOneDownload(_ form: String) async throws {
        let plain = try PlainLayer(form)
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
        let plain = try PlainLayer(form)
        let source = ScriptedSource(plain.blob)
        let first = try Bench()
        _ = try await first.blobIO.open(plain.descriptor, at: source.place)
        source.forgetRequests()

        let second = try Bench(cacheBytes: 8 << 20, indexDirectory: first.indexDirectory)
        let layer = try await second.blobIO.open(plain.descriptor, at: source.place)
        #expect(source.requestCount == 0)
        let expected = Array(plain.files[41].content[2 << 20..<(2 << 20) + 1000])
        #expect(try await second.read(layer, "e/noise", 2 << 20, 1000) == expected)
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
        let plain = try PlainLayer(form)
        let source = ScriptedSource(plain.blob)
        let bench = try Bench(cacheBytes: 100_000)
        let layer = try await bench.blobIO.open(plain.descriptor, at: source.place)
        for file in [plain.files[3], plain.files[40], plain.files[59], plain.files[0]] {
            #expect(try await bench.read(layer, file.name) == file.content)
        }
    }

    @Test func whatComesWrongIsAskedForOnceMoreAndNeverShown() async throws {
        let plain = try PlainLayer("gzip", large: 1 << 20)
        let source = ScriptedSource(plain.blob)
        let bench = try Bench()
        // In all that is asked for the first time: the footer, then the blob in pieces of 1 MiB.
        let pieces = (plain.blob.count + (1 << 20) - 1) >> 20
        source.script([ScriptedSource.Fault](repeating: .flips(plain.blob.count / 2), count: 1 + pieces))
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
        let plain = try PlainLayer("zstd", large: 1 << 20)
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
        let plain = try PlainLayer("gzip")
        let source = ScriptedSource(plain.blob)
        let first = try Bench()
        _ = try await first.blobIO.open(plain.descriptor, at: source.place)
        let path = "\(first.indexDirectory)/\(plain.descriptor.digest.directoryName).rst"
        let bytes = try readFile(path, limit: 64 << 20).array
        // A window: streaming the layer again answers.
        var damaged = bytes
        for index in 200..<1500 { damaged[index] ^= 0x55 }
        try writeBytes(damaged, path)
        let second = try Bench(cacheBytes: 1 << 20, indexDirectory: first.indexDirectory)
        let layer = try await second.blobIO.open(plain.descriptor, at: source.place)
        try await expectFiles(second, layer, plain)
        // The spans: the layer is streamed anew when it is opened.
        damaged = bytes
        damaged[bytes.count - 10] ^= 1
        try writeBytes(damaged, path)
        source.forgetRequests()
        let third = try Bench(indexDirectory: first.indexDirectory)
        _ = try await third.blobIO.open(plain.descriptor, at: source.place)
        #expect(source.requestCount > 0)
        #expect(try readFile(path, limit: 64 << 20).array == bytes)
    }

    @Test func whatABlobIsCutIntoDoesNotChangeItsIndex() async throws {
        for form in ["gzip", "zstd"] {
            let plain = try PlainLayer(form)
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
                            let end = min(bytes.byteCount, start + piece)
                            guard take(bytes.extracting(start..<end)) else { return false }
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
    init() throws { try Requirement.program("zstd").orFail() }

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
        let plain = try PlainLayer("gzip")
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
        let plain = try PlainLayer("tar", large: 1 << 20)
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
        let plain = try PlainLayer("zstd", large: 1 << 20)
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
