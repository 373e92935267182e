import Glibc
import HTTPTransport
import OCIModel
import PosixIO
import Synchronization
import TestSupport
import Testing

@testable import BlobIO

/// A place whose stream breaks at a byte of the blob.
private final class BreakingSource: Sendable {
    private struct State {
        var blob: [UInt8]
        var end: Int?
        var streams: [ByteRange] = []
        var gate: Completion?
    }

    let name: String
    private let state: Mutex<State>

    init(_ blob: [UInt8], name: String = "test/breaking") {
        self.name = name
        state = Mutex(State(blob: blob))
    }

    /// Where streams end from now on; nil: where they are to.
    func breakAt(_ end: Int?) { state.withLock { $0.end = end } }
    func serve(_ blob: [UInt8]) { state.withLock { $0.blob = blob } }
    /// What was streamed since this was asked last.
    func takeStreams() -> [ByteRange] {
        state.withLock { state in
            defer { state.streams = [] }
            return state.streams
        }
    }
    /// Streams wait where they break, until this is finished.
    func hold(_ gate: Completion) { state.withLock { $0.gate = gate } }

    var place: Place {
        var place = Place(name: name) { (range, _, _) throws(BlobError) in
            self.state.withLock { SharedBytes(Array($0.blob[Int(range.offset)..<Int(range.end)])) }
        }
        place.stream = { (range, _, _, _, take) throws(BlobError) in
            let (bytes, end, gate) = self.state.withLock { state in
                state.streams.append(range)
                let end = min(Int(range.end), max(Int(range.offset), state.end ?? .max))
                return (Array(state.blob[Int(range.offset)..<end]), end, state.gate)
            }
            for start in stride(from: 0, to: bytes.count, by: 100_000) {
                let piece = SharedBytes(Array(bytes[start..<min(bytes.count, start + 100_000)]))
                guard take(piece.span) else { throw BlobError(.system(ENOMEM), "nobody takes it") }
            }
            guard end < Int(range.end) else { return }
            if let gate { await wait(for: gate) }
            throw BlobError(.timedOut, "scripted break at \(end)")
        }
        return place
    }
}

/// A plain layer whose stream did not come to its end is taken up by the next process.
@Suite(.enabled(if: Requirement.program("zstd").runs, Comment(rawValue: Requirement.program("zstd").reason)))
struct PlainResumeTests {
    init() throws { try Requirement.program("zstd").orFail() }

    private func file(_ plain: PlainLayer, _ directory: String, _ suffix: String) -> String {
        "\(directory)/\(plain.descriptor.digest.directoryName).\(suffix)"
    }

    private func bytes(_ path: String) throws -> [UInt8] { try readFile(path, limit: 64 << 20).array }

    /// The index of a stream that nothing interrupts.
    private func index(_ plain: PlainLayer) async throws -> [UInt8] {
        let bench = try Bench()
        _ = try await bench.blobIO.open(plain.descriptor, at: ScriptedSource(plain.blob).place)
        return try bytes(file(plain, bench.indexDirectory, "idx"))
    }

    /// One process that streams up to a byte of the blob, and ends. Returns where it began.
    private func interrupt(_ plain: PlainLayer, _ source: BreakingSource, at end: Int, _ directory: String) async throws
        -> UInt64
    {
        source.breakAt(end)
        let bench = try Bench(indexDirectory: directory)
        let error = await #expect(throws: BlobError.self) {
            try await bench.blobIO.open(plain.descriptor, at: source.place)
        }
        #expect(error?.kind == .timedOut)
        #expect(!namesInDirectory(directory).contains { $0.hasSuffix(".idx") || $0.hasSuffix(".rst") })
        source.breakAt(nil)
        return try #require(source.takeStreams().first).offset
    }

    @Test(arguments: PlainLayer.forms)
    func aStreamGoesOnWhereAnEarlierProcessWas(_ form: String) async throws {
        let plain = try PlainLayer(form, large: 20 << 20)
        let expected = try await index(plain)
        let directory = try TemporaryDirectory("resume")
        let source = BreakingSource(plain.blob)
        var starts: [UInt64] = []
        for part in [4, 7, 9] {
            starts.append(try await interrupt(plain, source, at: plain.blob.count * part / 10, directory.path))
        }
        let bench = try Bench(indexDirectory: directory.path)
        let layer = try await bench.blobIO.open(plain.descriptor, at: source.place)
        starts.append(try #require(source.takeStreams().first).offset)
        if form == "zstd" {
            // One frame: it can be taken up nowhere.
            #expect(starts == [0, 0, 0, 0])
        } else {
            #expect(starts[0] == 0)
            for (before, after) in zip(starts, starts.dropFirst()) { #expect(before < after, "\(starts)") }
            #expect(starts[3] > UInt64(plain.blob.count / 4), "\(starts)")
            #expect(bench.log.count("goes on at byte \(starts[3])") == 1)
        }
        #expect(layer.diffID == digest(of: plain.tar))
        #expect(try bytes(file(plain, directory.path, "idx")) == expected)
        #expect(!namesInDirectory(directory.path).contains { $0.hasSuffix(".part") })
        try await expectFiles(bench, layer, plain)
        #expect(bench.blobIO.statistics.mismatches == 0)
        // By the restart points alone, those from before the interruptions included.
        let small = try Bench(cacheBytes: 100_000, indexDirectory: directory.path)
        let again = try await small.blobIO.open(plain.descriptor, at: source.place)
        for file in [plain.files[3], plain.files[40], plain.files[59]] {
            #expect(try await small.read(again, file.name) == file.content)
        }
        #expect(small.blobIO.statistics.mismatches == 0)
    }

    @Test func aDamagedJournalCostsOnlyWhatItNoLongerKnows() async throws {
        let plain = try PlainLayer("gzip members")
        let expected = try await index(plain)
        let directory = try TemporaryDirectory("resume")
        let source = BreakingSource(plain.blob)
        _ = try await interrupt(plain, source, at: plain.blob.count * 9 / 10, directory.path)
        let path = file(plain, directory.path, "part")
        let journal = try bytes(path)
        var generator = SeededGenerator(seed: 20)
        for round in 0..<12 {
            var damaged = journal
            switch round {
            case 0: damaged = []
            case 1: damaged[10] ^= 1
            case 2: damaged.removeLast()
            case 3: damaged += noise(5000, seed: 9)
            default:
                if round % 2 == 0 {
                    damaged.removeLast(Int.random(in: 1..<journal.count, using: &generator))
                } else {
                    damaged[Int.random(in: journal.indices, using: &generator)] ^= 1 << UInt8(round % 8)
                }
            }
            try writeBytes(damaged, path)
            let bench = try Bench(indexDirectory: directory.path)
            let layer = try await bench.blobIO.open(plain.descriptor, at: source.place)
            let streams = source.takeStreams()
            #expect(streams.count == 1, "round \(round): \(streams)")
            if round < 2 { #expect(streams.first?.offset == 0) }
            if round == 3 { #expect(streams.first?.offset ?? 0 > 0) }
            #expect(try bytes(file(plain, directory.path, "idx")) == expected, "round \(round)")
            #expect(try await bench.read(layer, "e/small59") == plain.files[62].content)
            for suffix in ["idx", "rst"] { _ = unsafe unlink(file(plain, directory.path, suffix)) }
        }
    }

    /// Sound records that are of something else: the digest of the whole tells, and the layer is streamed from its start.
    @Test func whatWasSavedOfOtherContentIsNeverShown() async throws {
        let plain = try PlainLayer("tar")
        let expected = try await index(plain)
        let directory = try TemporaryDirectory("resume")
        var wrong = plain.blob
        let place = try #require(plain.tar.indices.first { $0 > 100_000 && plain.tar[$0] == 3 })
        wrong[place] ^= 1
        let source = BreakingSource(wrong)
        _ = try await interrupt(plain, source, at: plain.blob.count * 6 / 10, directory.path)
        source.serve(plain.blob)
        let bench = try Bench(indexDirectory: directory.path)
        let layer = try await bench.blobIO.open(plain.descriptor, at: source.place)
        let starts = source.takeStreams().map(\.offset)
        #expect(starts.count == 2 && starts[0] > 0 && starts[1] == 0, "\(starts)")
        #expect(try bytes(file(plain, directory.path, "idx")) == expected)
        try await expectFiles(bench, layer, plain)
    }

    /// Right at first, then wrong for good: an error, and nothing that looks complete.
    @Test func otherContentBehindThePointIsAnError() async throws {
        let plain = try PlainLayer("gzip members")
        let directory = try TemporaryDirectory("resume")
        let source = BreakingSource(plain.blob)
        _ = try await interrupt(plain, source, at: plain.blob.count * 6 / 10, directory.path)
        var wrong = plain.blob
        wrong[plain.blob.count * 9 / 10] ^= 1
        source.serve(wrong)
        let bench = try Bench(indexDirectory: directory.path)
        let error = await #expect(throws: BlobError.self) {
            try await bench.blobIO.open(plain.descriptor, at: source.place)
        }
        #expect(error?.kind == .corrupt)
        #expect(namesInDirectory(directory.path).filter { !$0.contains(".tmp-") } == [])
        source.serve(plain.blob)
        let layer = try await bench.blobIO.open(plain.descriptor, at: source.place)
        try await expectFiles(bench, layer, plain)
    }
}

/// What one place fails to give comes from the next.
struct PlaceListTests {
    private let blob = noise(300_000, seed: 4)

    @Test func aPlaceThatFailsInTheMiddleIsReplacedByAnother() async throws {
        let (first, second) = (BreakingSource(blob, name: "first"), BreakingSource(blob, name: "second"))
        first.breakAt(120_000)
        let gate = Completion()
        first.hold(gate)
        let places = PlaceList(first.place)
        let taken = Mutex<[UInt8]>([])
        let range = ByteRange(offset: 1000, count: 250_000)
        async let result: Void = places.stream(range, .demand, fresh: false) { bytes in
            let piece = UniqueBytes(copying: bytes).share().array
            taken.withLock { $0 += piece }
            return true
        }
        // Known only when the stream is under way.
        #expect(await eventually { taken.withLock { $0.count } == 119_000 })
        places.add(second.place)
        gate.finish()
        try await result
        #expect(taken.withLock { $0 } == Array(blob[1000..<251_000]))
        #expect(first.takeStreams() == [range])
        #expect(second.takeStreams() == [ByteRange(offset: 120_000, count: 131_000)])
    }

    @Test func theErrorIsTheFirstPlacesAndARefusalEndsIt() async throws {
        let (first, second) = (BreakingSource(blob, name: "first"), BreakingSource(blob, name: "second"))
        first.breakAt(50_000)
        second.breakAt(70_000)
        let places = PlaceList(first.place)
        places.add(second.place)
        let range = ByteRange(offset: 0, count: 300_000)
        let error = await #expect(throws: BlobError.self) {
            try await places.stream(range, .demand, fresh: false) { _ in true }
        }
        #expect(error?.reason == "scripted break at 50000")
        #expect(second.takeStreams() == [ByteRange(offset: 50_000, count: 250_000)])
        await #expect(throws: BlobError.self) { try await places.stream(range, .demand, fresh: false) { _ in false } }
        #expect(second.takeStreams() == [])
    }

    /// Whoever opens a layer that is being opened brings a further place for it.
    @Test func aLayerThatIsBeingOpenedTakesFurtherPlaces() async throws {
        let (first, second) = (BreakingSource(blob, name: "first"), BreakingSource(blob, name: "second"))
        first.breakAt(0)
        let table = LayerTable(failureMemory: 0)
        let key = LayerTable.Key(digest: digest(of: blob), promise: .none)
        let range = ByteRange(offset: 0, count: 300_000)
        let isStarted = Completion()
        async let one = reason(table, key, first.place) { places in
            isStarted.finish()
            let isRead = await eventually {
                (try? await places.stream(range, .demand, fresh: false) { _ in true }) != nil
            }
            return isRead ? "read" : "not read"
        }
        await wait(for: isStarted)
        async let other = reason(table, key, second.place) { _ in "opened twice" }
        #expect(await [one, other] == ["read", "read"])
        #expect(second.takeStreams() == [range])
    }

    /// Why a layer could not be opened; whoever opens it says so.
    private func reason(
        _ table: LayerTable,
        _ key: LayerTable.Key,
        _ place: Place,
        _ open: @escaping @Sendable (PlaceList) async -> String
    ) async -> String? {
        do throws(BlobError) {
            _ = try await table.open(key, at: place) { places, _ in
                .failure(BlobError(.unsupported, await open(places)))
            }
            return nil
        } catch {
            return error.reason
        }
    }
}
