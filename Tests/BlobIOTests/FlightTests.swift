import ChunkStore
import LayerFormat
import OCIModel
import PosixIO
import TestSupport
import Testing

@testable import BlobIO

@Suite struct FlightTests {
    private let layer = TestLayer([
        .init(name: "a", content: noise(50_000, seed: 1)),
        .init(name: "b", content: noise(20_000, seed: 2)),
        .init(name: "c", content: noise(40_000, seed: 3), chunkSize: 10_000),
    ])

    @Test func concurrentReadersOfOneMissingChunkCauseOneFetch() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        source.hold()
        let started = try (0..<50).map { try bench.begin(opened, "a", UInt64($0) * 1000, 1000) }
        #expect(started.allSatisfy { $0.isParked })
        #expect(bench.blobIO.statistics.flights == 1)
        source.release()
        for (number, read) in started.enumerated() {
            let expected = Array(layer.files[0].content[number * 1000..<(number + 1) * 1000])
            #expect(try await bench.finish(bench.blobIO, read) == expected)
        }
        #expect(source.requestCount == 1)
    }

    @Test func anErrorReachesAllWhoWaitAndTheNextReadStartsAnew() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        source.hold()
        source.failAlways(.fails(.timedOut))
        let started = try (0..<20).map { _ in try bench.begin(opened, "a") }
        source.release()
        for read in started {
            let error = await #expect(throws: BlobError.self) { try await bench.finish(bench.blobIO, read) }
            #expect(error?.kind == .timedOut)
        }
        #expect(source.requestCount == 1)
        #expect(bench.log.count("scripted failure") == 1)
        #expect(bench.blobIO.statistics.flightsNow == 0)
        source.failAlways(nil)
        #expect(try await bench.read(opened, "a") == layer.files[0].content)
    }

    @Test func aWrongChunkIsAskedOnceMore() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        source.script(.flips(layer.memberOffsets[0] + 100))
        #expect(try await bench.read(opened, "a") == layer.files[0].content)
        #expect(source.requestCount == 2)
        #expect(source.freshRequests == 1)
        #expect(bench.log.count("asking for it once more") == 1)
        #expect(bench.blobIO.statistics.mismatches == 1)
    }

    @Test func aMemberThatStaysDamagedIsAnErrorAndNotKept() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        source.failAlways(.flips(layer.memberOffsets[0] + 100))
        let error = await #expect(throws: BlobError.self) { try await bench.read(opened, "a") }
        #expect(error?.kind == .corrupt)
        #expect(error?.reason.contains("a at 0") == true)
        #expect(source.requestCount == 2)
        #expect(bench.blobIO.statistics.store.chunks == 0)
        // Others of the layer are not touched by that.
        #expect(try await bench.read(opened, "b") == layer.files[1].content)
    }

    @Test func aWrongDigestIsAnErrorThatNamesTheFileAndIsNeverKept() async throws {
        var files = layer.files
        files[2].wrongDigestInChunk = 2
        let bad = TestLayer(files)
        let bench = try Bench()
        let source = ScriptedSource(bad.blob)
        let opened = try await bench.open(bad, source)
        source.forgetRequests()
        for _ in 0..<2 {
            let error = await #expect(throws: BlobError.self) { try await bench.read(opened, "c", 20_000, 10) }
            #expect(error?.kind == .corrupt)
            #expect(error?.reason.contains("\(bad.digest)") == true)
            #expect(error?.reason.contains("c at 20000") == true)
            #expect(await bench.settled())
        }
        // Each time once, and once more.
        #expect(source.requestCount == 4)
        #expect(bench.blobIO.statistics.store.chunks == 0)
        #expect(bench.log.count("error: layer \(bad.digest): the chunk of c at 20000") == 1)
        // The chunks around it are as good as ever.
        #expect(try await bench.read(opened, "c", 0, 20_000) == Array(bad.files[2].content[..<20_000]))
        #expect(try await bench.read(opened, "c", 30_000, 10_000) == Array(bad.files[2].content[30_000...]))
    }

    @Test func aWrongDigestInASharedMemberSparesItsNeighbours() async throws {
        let bad = TestLayer([
            .init(name: "a", content: noise(1000, seed: 1)),
            .init(name: "b", content: noise(1000, seed: 2), wrongDigestInChunk: 0, sharesMember: true),
            .init(name: "c", content: noise(1000, seed: 3), sharesMember: true),
        ])
        let bench = try Bench()
        let opened = try await bench.open(bad, ScriptedSource(bad.blob))
        #expect(try await bench.read(opened, "a") == bad.files[0].content)
        let error = await #expect(throws: BlobError.self) { try await bench.read(opened, "b") }
        #expect(error?.kind == .corrupt)
        #expect(try await bench.read(opened, "c") == bad.files[2].content)
        #expect(await bench.settled())
        #expect(bench.blobIO.statistics.store.chunks == 2)
    }

    @Test func withoutVerifyingTheDigestIsNotLookedAtAndNotAKey() async throws {
        var files = layer.files
        files[0].wrongDigestInChunk = 0
        let bad = TestLayer(files)
        let bench = try Bench(verify: .off)
        let opened = try await bench.open(bad, ScriptedSource(bad.blob))
        #expect(try await bench.read(opened, "a") == bad.files[0].content)
        #expect(await bench.settled())
        let chunk = opened.index.chunk(opened.index.chunks(try opened.record("a")).lowerBound)
        #expect(bench.blobIO.store.contains(opened.key(chunk)))
        #expect(!bench.blobIO.store.contains(ChunkKey(content: digest(of: [1, 2, 3]), length: 50_000)))
    }

    @Test func aShortAnswerIsAnErrorAndTheNextReadWorks() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.script(.short)
        let error = await #expect(throws: BlobError.self) { try await bench.read(opened, "a") }
        #expect(error?.kind == .unavailable)
        #expect(try await bench.read(opened, "a") == layer.files[0].content)
    }

    @Test func readersOfADeadRegistryDoNotDisturbOthers() async throws {
        let bench = try Bench()
        let dead = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, dead)
        #expect(try await bench.read(opened, "b") == layer.files[1].content)
        #expect(await bench.settled())
        let other = TestLayer([.init(name: "x", content: noise(30_000, seed: 9))])
        let alive = try await bench.open(other, ScriptedSource(other.blob))
        dead.hold()
        let parked = try (0..<200).map { try bench.begin(opened, "c", UInt64($0 % 4) * 10_000, 1000) }
        #expect(parked.allSatisfy { $0.isParked })
        // From the store, at once; from elsewhere, with a fetch.
        let cached = try bench.begin(opened, "b")
        #expect(!cached.isParked && cached.bytes == layer.files[1].content)
        #expect(try await bench.read(alive, "x") == other.files[0].content)
        // That of "x" leaves the table when its chunk is in the store.
        #expect(await eventually { bench.blobIO.statistics.flightsNow == 4 })
        dead.release()
        for read in parked { #expect(try await bench.finish(bench.blobIO, read).count == 1000) }
    }

    @Test func aReadThatIsGivenUpLeavesItsFlightToOthers() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        source.hold()
        var given: Started? = try bench.begin(opened, "c")
        #expect(given?.isParked == true)
        let other = try bench.begin(opened, "c")
        given = nil
        source.release()
        #expect(try await bench.finish(bench.blobIO, other) == layer.files[2].content)
        #expect(source.requestCount == 1)
    }

    @Test func aJobHoldsWhatArrivedForIt() async throws {
        // No store at all: what a job was parked for it has, and it is not fetched again for it.
        let bench = try Bench(cacheBytes: 0)
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        source.hold()
        let started = try bench.begin(opened, "c")
        guard case .parked(let job) = started.outcome else {
            Issue.record("not parked")
            return
        }
        source.release()
        await wait(for: job.completion)
        #expect(await bench.settled())
        var buffer = ReadBuffer()
        guard case .ready = job.resume(into: &buffer) else {
            Issue.record("not served from what the job holds")
            return
        }
        #expect(buffer.bytes == layer.files[2].content)
        #expect(source.requestCount == 1)
    }
}
