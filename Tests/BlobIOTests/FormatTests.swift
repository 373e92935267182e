import LayerFormat
import OCIModel
import PosixIO
import TestSupport
import Testing

@testable import BlobIO

/// zstd:chunked layers: where the TOC is found, and how chunks are read.
@Suite struct ZstdChunkedTests {
    private let layer = ChunkedLayer([
        .init(name: "small", pieces: [.data(noise(3000, seed: 1))]),
        .init(
            name: "cut",
            pieces: [
                .data(noise(70_000, seed: 2)), .zeros(100_000), .data(noise(300, seed: 3)),
                .split([noise(20_000, seed: 4), noise(140_000, seed: 5), noise(1, seed: 6)]), .zeros(5000),
            ],
            headersBehind: 300_000
        ),
        .init(name: "last", pieces: [.data(noise(10, seed: 7))]),
    ])

    private func expectFiles(_ bench: Bench, _ opened: Layer) async throws {
        for file in layer.files { #expect(try await bench.read(opened, file.name) == file.content) }
        let content = layer.files[1].content
        for (offset, count) in [(69_990, 20), (69_999, 100_002), (170_290, 20), (190_000, 5000), (330_300, 9000)] {
            let expected = Array(content[offset..<min(content.count, offset + count)])
            #expect(try await bench.read(opened, "cut", UInt64(offset), count) == expected, "\(offset)")
        }
    }

    @Test(arguments: ["io.github.containers.zstd-chunked", "io.containers.zstd-chunked"])
    func theTOCComesByTheAnnotationAlone(_ prefix: String) async throws {
        let bench = try Bench(verify: .require)
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.blobIO.open(layer.descriptor(prefix: prefix), at: source.place)
        #expect(
            source.ranges == [ByteRange(offset: UInt64(layer.frame.offset), count: UInt64(layer.frame.compressed))]
        )
        #expect(opened.index.format == .zstdChunked && opened.isVerified)
        #expect(opened.index.tocDigest == layer.tocDigest && opened.index.tocFrameDigest == layer.frameDigest)
        try await expectFiles(bench, opened)
        // And the index of an earlier run holds for the same promises.
        let other = try Bench(verify: .require, indexDirectory: bench.indexDirectory)
        source.forgetRequests()
        _ = try await other.blobIO.open(layer.descriptor(prefix: prefix, json: true), at: source.place)
        #expect(source.requestCount == 0)
    }

    @Test(arguments: [40, 64])
    func theTOCComesByTheFooterWithoutAnAnnotation(_ payload: Int) async throws {
        let layer = ChunkedLayer(self.layer.files, footerPayload: payload)
        let bench = try Bench(verify: .require)
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.blobIO.open(layer.descriptor(position: false), at: source.place)
        #expect(source.requestCount == 1)
        try await expectFiles(bench, opened)
        #expect(!bench.log.text.contains { $0.contains("tarSplit") })
        let unknown = layer.descriptor(frame: false)
        let lenient = try Bench()
        _ = try await lenient.blobIO.open(unknown, at: source.place)
        #expect(lenient.log.count("no promised TOC digest") == 1)
    }

    @Test func headersBehindAFileAreNotFetchedWithIt() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.blobIO.open(layer.descriptor(), at: source.place)
        source.forgetRequests()
        _ = try await bench.read(opened, "cut")
        let bytes = source.ranges.reduce(0) { $0 + $1.count }
        #expect(bytes < 240_000, "\(bytes) bytes were fetched for 230,301 that are stored")
    }

    @Test func aPositionOutsideOfTheBlobIsCorruptAndAnUnreadableOneIsIgnored() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        var descriptor = layer.descriptor()
        for key in descriptor.annotations.keys where key.hasSuffix("position") {
            descriptor.annotations[key] = "\(layer.blob.count - 5):100:100:1"
        }
        let error = await #expect(throws: BlobError.self) {
            try await bench.blobIO.open(descriptor, at: source.place)
        }
        #expect(error?.kind == .corrupt)
        #expect(source.requestCount == 0)
        for key in descriptor.annotations.keys where key.hasSuffix("position") {
            descriptor.annotations[key] = "1:2:3:7"
        }
        try await expectFiles(bench, try await bench.blobIO.open(descriptor, at: source.place))
    }

    @Test func theAnnouncedSizeMustBeTheTOCs() async throws {
        for size in [layer.toc.count - 1, layer.toc.count + 1, 1, 256 << 20] {
            let bench = try Bench()
            var descriptor = layer.descriptor()
            for key in descriptor.annotations.keys where key.hasSuffix("position") {
                descriptor.annotations[key] = "\(layer.frame.offset):\(layer.frame.compressed):\(size):1"
            }
            let source = ScriptedSource(layer.blob)
            let error = await #expect(throws: BlobError.self) {
                try await bench.blobIO.open(descriptor, at: source.place)
            }
            #expect(error?.kind == .corrupt, "\(size)")
        }
    }

    @Test func aHoleLargerThanAChunkCanBeIsRead() async throws {
        let size: UInt64 = 3 << 30 | 5
        let layer = ChunkedLayer([.init(name: "a", pieces: [.data([1, 2, 3])])])
        let hole = "\"chunkType\":\"zeros\",\"chunkOffset\":3,\"chunkSize\":\(size)"
        let toc = """
            {"version":1,"entries":[{"name":"a","type":"reg","size":\(size + 4),"offset":521,"chunkSize":3},\
            {"name":"a","type":"chunk","offset":533,\(hole)},\
            {"name":"a","type":"chunk","offset":521,"chunkOffset":\(size + 3),"chunkSize":1}]}
            """
        let source = TOCSource(
            layerDigest: layer.digest,
            blobSize: UInt64(layer.blob.count),
            tocOffset: UInt64(layer.frame.offset - 8),
            promisedDigest: nil,
            format: .zstdChunked
        )
        let json = unsafe UniqueBytes(copying: Array(toc.utf8).span.bytes)
        let index = try LayerIndexBuilder.build(json: json, source: source) { _ in }
        let bench = try Bench(verify: .off)
        try makeDirectories(bench.indexDirectory)
        try replaceFile("\(bench.indexDirectory)/\(layer.digest.directoryName).idx", with: index.span)
        let opened = try await bench.blobIO.open(layer.descriptor(), at: ScriptedSource(layer.blob).place)
        #expect(try await bench.read(opened, "a", 0, 5) == [1, 2, 3, 0, 0])
        #expect(try await bench.read(opened, "a", size, 10) == [0, 0, 0, 1])
        #expect(try await bench.read(opened, "a", 1 << 30, 4) == [0, 0, 0, 0])
    }
}

/// What `--verify` asks for, for every format (spec section 4).
@Suite struct VerifyTests {
    private enum Expectation { case verified, mounted, refused }

    private func expect(
        _ expectation: Expectation,
        _ layer: CorpusLayer,
        _ descriptor: ContentDescriptor,
        _ mode: VerifyMode
    ) async throws {
        let bench = try Bench(verify: mode)
        let source = ScriptedSource(layer.blob)
        let opened: Layer
        do {
            opened = try await bench.blobIO.open(descriptor, at: layer.place(source))
        } catch {
            #expect(expectation == .refused && error.kind == .unsupported, "\(layer.format) \(mode): \(error)")
            return
        }
        #expect(expectation != .refused, "\(layer.format) \(mode)")
        #expect(opened.isVerified == (expectation == .verified), "\(layer.format) \(mode)")
        let notices = bench.log.count("its content is checked by")
        #expect(notices == (expectation == .mounted && mode == .auto ? 1 : 0), "\(layer.format) \(mode)")
        if let file = try layer.files().first {
            #expect(digest(of: try await bench.read(opened, file.plainPath)).hex == file.sha256)
        }
    }

    @Test(arguments: CorpusLayer.indexed)
    func everyModeOfEveryFormat(_ format: String) async throws {
        let isPromised = format != "stargz-legacy"
        for layer in try CorpusLayer.all(format) {
            try await expect(isPromised ? .verified : .mounted, layer, layer.descriptor, .auto)
            try await expect(isPromised ? .verified : .refused, layer, layer.descriptor, .require)
            try await expect(.mounted, layer, layer.descriptor, .off)
            // Without what the manifest promises; a TOC of a second image is not believed then, so the layer is
            // streamed whole, which its own digest covers.
            let isExternal = format == "estargz-exttoc"
            try await expect(isExternal ? .verified : .mounted, layer, layer.unpromised, .auto)
            try await expect(isExternal ? .verified : .refused, layer, layer.unpromised, .require)
            try await expect(.mounted, layer, layer.unpromised, .off)
        }
    }

    @Test func chunksWithoutDigestsAreNotVerified() async throws {
        let layer = ChunkedLayer([.init(name: "a", pieces: [.data([1, 2]), .data([3])])], digests: false)
        let source = ScriptedSource(layer.blob)
        let strict = try Bench(verify: .require)
        let error = await #expect(throws: BlobError.self) {
            try await strict.blobIO.open(layer.descriptor(), at: source.place)
        }
        #expect(error?.reason.contains("chunks without a digest") == true)
        let bench = try Bench()
        let opened = try await bench.blobIO.open(layer.descriptor(), at: source.place)
        #expect(!opened.isVerified)
        #expect(bench.log.count("chunks without a digest") == 1)
        #expect(try await bench.read(opened, "a") == [1, 2, 3])
    }

    @Test func aTOCOfASecondImageMustBeThePromisedOne() async throws {
        let layers = try CorpusLayer.all("estargz-exttoc")
        let layer = layers[1]
        let right = try #require(layer.toc)
        let wrong = try #require(layers[2].toc)
        let source = ScriptedSource(layer.blob)
        var place = source.place
        place.tocLayers = { _ in [TOCLayer { SharedBytes(wrong) }] }
        // A wrong one, or none, is no reason to fail: the layer is read as a plain one then.
        #expect(try await Bench().blobIO.open(layer.descriptor, at: place).index.format == .tarGzip)
        place.tocLayers = { _ in [TOCLayer { SharedBytes(wrong) }, TOCLayer { SharedBytes(right) }] }
        let opened = try await Bench().blobIO.open(layer.descriptor, at: place)
        #expect(opened.isVerified && opened.index.format == .estargzExternalTOC)
        place.tocLayers = { _ in [] }
        #expect(try await Bench().blobIO.open(layer.descriptor, at: place).index.format == .tarGzip)
    }
}

/// One flipped bit anywhere in a layer's blob, served for as long as it lasts: what it touches is an error, all else reads
/// right, and nothing of it stays when the right bytes come again.
@Suite struct FlippedBitTests {
    /// What a flip came to.
    private enum Outcome: String { case refused, failedReads, harmless }

    @Test(arguments: CorpusLayer.indexed, [1, UInt64.random(in: 2 ... .max)])
    func aFlippedBitIsAnErrorForWhatItTouchesOnly(_ format: String, _ seed: UInt64) async throws {
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        var outcomes: [Outcome: Int] = [:]
        for layer in try CorpusLayer.all(format) {
            let files = try layer.files()
            for _ in 0..<6 {
                let position = Int.random(in: 0..<layer.blob.count, using: &generator)
                // What the flip touches, and some more.
                let others = files.shuffled(using: &generator).prefix(12)
                let outcome = try await flip(position, layer, files, Set(others.map(\.path)), seed)
                outcomes[outcome, default: 0] += 1
            }
        }
        #expect(outcomes.values.reduce(0, +) == 18)
    }

    /// Bytes of the TOC, every one of which is covered.
    @Test(arguments: CorpusLayer.indexed.filter { $0 != "estargz-exttoc" }, [1, UInt64.random(in: 2 ... .max)])
    func aFlippedBitInTheTOCIsAFailedLookUp(_ format: String, _ seed: UInt64) async throws {
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for layer in try CorpusLayer.all(format) {
            let footer = try unsafe Footer(tail: layer.blob.span.bytes, blobSize: UInt64(layer.blob.count))
            let sound = try await Bench().blobIO.open(layer.descriptor, at: ScriptedSource(layer.blob).place)
            let tocDigest = sound.index.tocDigest
            let range: Range<Int>
            if let frame = footer.frame {
                range = Int(frame.offset)..<Int(frame.offset + frame.compressedSize)
            } else {
                // The first bytes of the gzip header say when and where it was made; the last 1.5 KiB of the tar are zero.
                range = Int(footer.tocOffset) + 10..<layer.blob.count - footer.byteCount - 8
            }
            for _ in 0..<4 {
                let position = Int.random(in: range, using: &generator)
                let bench = try Bench()
                let source = ScriptedSource(layer.blob)
                source.failAlways(.flips(position))
                let what: Comment = "seed \(seed) byte \(position)"
                do {
                    let opened = try await bench.blobIO.open(layer.descriptor, at: source.place)
                    // Deflate has bits without a meaning: the JSON is what it must be all the same.
                    #expect(footer.frame == nil && opened.index.tocDigest == tocDigest, what)
                } catch {
                    #expect(error.kind == .corrupt, what)
                }
                source.failAlways(nil)
                _ = try await bench.blobIO.open(layer.descriptor, at: source.place)
            }
        }
    }

    private func flip(
        _ position: Int,
        _ layer: CorpusLayer,
        _ files: [ExpectedFile],
        _ others: Set<String>,
        _ seed: UInt64
    ) async throws -> Outcome {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let place = layer.place(source)
        source.failAlways(.flips(position))
        let what: Comment = "\(layer.format) layer \(layer.number) seed \(seed) byte \(position)"
        let faulty: Layer
        do {
            faulty = try await bench.blobIO.open(layer.descriptor, at: place)
        } catch {
            #expect(error.kind == .corrupt || error.kind == .unsupported, what)
            source.failAlways(nil)
            let healed = try await bench.blobIO.open(layer.descriptor, at: place)
            try await expectAll(bench, healed, files.filter { others.contains($0.path) }, what)
            return .refused
        }
        let looked = try files.filter { file in
            try others.contains(file.path) || touches(faulty, file.plainPath, position)
        }
        var failures = 0
        for file in looked {
            let isTouched = try touches(faulty, file.plainPath, position)
            do {
                let content = try await bench.read(faulty, file.plainPath)
                #expect(digest(of: content).hex == file.sha256, what)
            } catch let error as BlobError {
                #expect(error.kind == .corrupt && isTouched, what)
                failures += 1
            }
        }
        if failures > 0 {
            let digest = "\(layer.descriptor.digest)"
            #expect(bench.log.text.contains { $0.hasPrefix("error:") && $0.contains(digest) }, what)
        }
        source.failAlways(nil)
        try await expectAll(bench, faulty, looked, what)
        return failures > 0 ? .failedReads : .harmless
    }

    /// Whether a byte of the blob is in a member of the file.
    private func touches(_ layer: Layer, _ path: String, _ position: Int) throws -> Bool {
        layer.index.chunks(try layer.record(path)).contains { number in
            let member = layer.index.chunk(number).member
            return member.offset <= UInt64(position) && UInt64(position) < member.end
        }
    }

    private func expectAll(_ bench: Bench, _ layer: Layer, _ files: [ExpectedFile], _ what: Comment) async throws {
        for file in files {
            #expect(digest(of: try await bench.read(layer, file.plainPath)).hex == file.sha256, what)
        }
    }
}
