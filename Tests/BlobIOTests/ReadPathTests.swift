import ChunkStore
import LayerFormat
import OCIModel
import PosixIO
import Synchronization
import TestSupport
import Testing

@testable import BlobIO

@Suite struct ReadPathTests {
    /// Chunks of 10,000 bytes.
    private let chunked = TestLayer([
        .init(name: "first", content: noise(3000, seed: 1)),
        .init(name: "big", content: noise(123_456, seed: 2), chunkSize: 10_000),
        .init(name: "zeros", content: [UInt8](repeating: 0, count: 200_000), chunkSize: 70_000),
        .init(name: "empty", content: []),
    ])

    @Test func everyOffsetAndLengthEqualsTheReference() async throws {
        let bench = try Bench()
        let layer = try await bench.open(chunked, ScriptedSource(chunked.blob))
        let reference = chunked.files[1].content
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        var reads = [(0, 1), (9999, 1), (9999, 2), (10_000, 10_000), (0, reference.count), (123_455, 100)]
        for _ in 0..<300 {
            let offset = Int.random(in: 0..<reference.count, using: &generator)
            reads.append((offset, Int.random(in: 1...60_000, using: &generator)))
        }
        for (offset, count) in reads {
            let expected = Array(reference[offset..<min(reference.count, offset + count)])
            #expect(
                try await bench.read(layer, "big", UInt64(offset), count) == expected,
                "seed \(seed) \(offset)+\(count)"
            )
        }
    }

    @Test func aSecondReadComesFromTheStoreAtOnce() async throws {
        let bench = try Bench()
        let source = ScriptedSource(chunked.blob)
        let layer = try await bench.open(chunked, source)
        source.hold()
        let first = try bench.begin(layer, "big")
        #expect(first.isParked)
        source.release()
        #expect(try await bench.finish(bench.blobIO, first) == chunked.files[1].content)
        // The flights leave the table when their chunks are in the store.
        #expect(await bench.settled())
        source.forgetRequests()
        let started = try bench.begin(layer, "big", 100, 50_000)
        guard case .ready = started.outcome else {
            Issue.record("not from the store: \(started.outcome)")
            return
        }
        #expect(started.bytes == Array(chunked.files[1].content[100..<50_100]))
        #expect(source.requestCount == 0)
    }

    @Test func emptyFilesAndReadsPastTheEndAreEmpty() async throws {
        let bench = try Bench()
        let source = ScriptedSource(chunked.blob)
        let layer = try await bench.open(chunked, source)
        source.forgetRequests()
        for (path, offset) in [("empty", 0), ("empty", 10), ("big", 123_456), ("big", UInt64.max), ("", 0)] {
            let started = try bench.begin(layer, path, offset, 4096)
            guard case .ready = started.outcome else {
                Issue.record("\(path) at \(offset): \(started.outcome)")
                continue
            }
            #expect(started.bytes.isEmpty)
        }
        let started = try bench.begin(layer, "big", 0, 0)
        #expect(!started.isParked && started.bytes.isEmpty)
        #expect(source.requestCount == 0)
    }

    @Test func aFileOfZerosReadsBack() async throws {
        let bench = try Bench()
        let layer = try await bench.open(chunked, ScriptedSource(chunked.blob))
        for _ in 0..<2 {
            #expect(try await bench.read(layer, "zeros") == chunked.files[2].content)
            #expect(await bench.settled())
        }
        #expect(bench.blobIO.statistics.store.bytes < 10_000)
    }

    @Test func neighboursThatAreMissingComeInOneRequest() async throws {
        let bench = try Bench()
        let source = ScriptedSource(chunked.blob)
        let layer = try await bench.open(chunked, source)
        source.forgetRequests()
        #expect(try await bench.read(layer, "big", 5000, 30_000) == Array(chunked.files[1].content[5000..<35_000]))
        let members = chunked.memberOffsets
        #expect(
            source.ranges == [ByteRange(offset: UInt64(members[1]), count: UInt64(members[5] - members[1]))]
        )
    }

    @Test func aReaderWhoGoesOnIsReadAheadFor() async throws {
        let layer = TestLayer([.init(name: "f", content: noise(3 << 20, seed: 3), chunkSize: 256 << 10)])
        let bench = try Bench(limits: FetchLimits())
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        for chunk in 0..<12 {
            let expected = Array(layer.files[0].content[(chunk << 18)..<(chunk << 18) + 1000])
            #expect(try await bench.read(opened, "f", UInt64(chunk) << 18, 1000) == expected)
            #expect(await bench.settled())
        }
        // The first chunk alone; then more and more at a time, each once.
        #expect(source.requestCount <= 8)
        #expect(source.ranges.reduce(0) { $0 + $1.count } == UInt64(layer.tocOffset))
        #expect(bench.blobIO.statistics.bytesAheadRead > 0)
        #expect(opened.bytesAhead.load(ordering: .relaxed) == 0)
        #expect(bench.blobIO.statistics.flights == 12)
    }

    @Test func aMemberOfSeveralChunksIsFetchedAndInflatedOnce() async throws {
        var files = [TestLayer.File(name: "f0", content: noise(900, seed: 0))]
        for number in 1..<20 {
            let content = noise(900 + number, seed: UInt64(number))
            files.append(.init(name: "f\(number)", content: content, sharesMember: true))
        }
        let layer = TestLayer(files)
        #expect(layer.memberOffsets.count == 1)
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        for file in files {
            #expect(try await bench.read(opened, file.name) == file.content)
            #expect(await bench.settled())
        }
        #expect(source.requestCount == 1)
        #expect(bench.blobIO.statistics.flights == 1)
        #expect(bench.blobIO.statistics.store.chunks == 20)
    }

    @Test func layersShareChunksByContentButOnlyWhereItIsChecked() async throws {
        let content = noise(50_000, seed: 5)
        let one = TestLayer([.init(name: "a", content: content)])
        let other = TestLayer([.init(name: "x", content: noise(10, seed: 6)), .init(name: "b", content: content)])
        let bench = try Bench()
        let first = try await bench.open(one, ScriptedSource(one.blob))
        let source = ScriptedSource(other.blob)
        let second = try await bench.open(other, source)
        _ = try await bench.read(first, "a")
        #expect(await bench.settled())
        source.forgetRequests()
        #expect(try await bench.read(second, "b") == content)
        #expect(source.requestCount == 0)

        let unchecked = TestLayer([.init(name: "a", content: content)], digests: false)
        let third = ScriptedSource(unchecked.blob)
        let opened = try await bench.open(unchecked, third)
        third.forgetRequests()
        #expect(try await bench.read(opened, "a") == content)
        #expect(third.requestCount == 1)
    }

    @Test(arguments: [0, 5000, 30_000])
    func aStoreSmallerThanAReadServesItAllTheSame(_ cacheBytes: Int) async throws {
        let bench = try Bench(cacheBytes: cacheBytes)
        let layer = try await bench.open(chunked, ScriptedSource(chunked.blob))
        for _ in 0..<2 {
            #expect(try await bench.read(layer, "big") == chunked.files[1].content)
            #expect(try await bench.read(layer, "zeros") == chunked.files[2].content)
        }
        #expect(bench.blobIO.statistics.store.bytes <= cacheBytes)
    }
}
