import LayerFormat
import OCIModel
import PosixIO
import Synchronization
import TestSupport
import Testing

@testable import BlobIO

@Suite struct RecorderTests {
    private let layer = TestLayer(
        (0..<8).map { .init(name: "f\($0)", content: noise(10_000, seed: UInt64($0)), chunkSize: 2_500) }
    )
    private let other = TestLayer(
        (0..<8).map { .init(name: "g\($0)", content: noise(5_000, seed: UInt64(100 + $0)), chunkSize: 2_500) }
    )

    /// Files of a run's chunks, each once, in their order.
    private func files(_ run: ProfileRun, _ layers: [Layer]) -> [String] {
        var result: [String] = []
        for place in run.chunks {
            let index = layers[Int(place.layer)].index
            let name = index.path(index.chunk(index.chunkInBlobOrder(Int(place.position))).record)
            if result.last != name { result.append(name) }
        }
        return result
    }

    @Test func firstReadsComeInTheirOrderAcrossLayers() async throws {
        let bench = try Bench()
        let first = try await bench.open(layer, ScriptedSource(layer.blob))
        let second = try await bench.open(other, ScriptedSource(other.blob))
        let recording = bench.blobIO.recorder.begin {}
        recording.add([first, second])
        for name in ["f5", "f1"] { _ = try await bench.read(first, name) }
        _ = try await bench.read(second, "g3")
        for name in ["f5", "f0"] { _ = try await bench.read(first, name) }
        let run = recording.run()
        #expect(files(run, [first, second]) == ["f5", "f1", "g3", "f0"])
        #expect(run.chunks.count == 4 * 3 + 2)
        #expect(run.hasOpened)
        recording.end()
    }

    @Test func whatTheKernelHidesCountsAsOpened() async throws {
        let bench = try Bench()
        let opened = try await bench.open(layer, ScriptedSource(layer.blob))
        let recording = bench.blobIO.recorder.begin {}
        recording.add([opened])
        opened.noteOpen(try opened.record("f6"))
        let run = recording.run()
        #expect(run.chunks.isEmpty && run.hasOpened)
        for position in 0..<opened.index.chunkCount {
            let name = opened.index.path(opened.index.chunk(opened.index.chunkInBlobOrder(position)).record)
            #expect(run.isOpened(ProfilePlace(layer: 0, position: UInt32(position))) == (name == "f6"))
        }
        recording.end()
    }

    @Test func aFileWhoseReadsAreHiddenIsTakenWholeOnlyWhereNothingOfItIsKnown() async throws {
        let bench = try Bench()
        let opened = try await bench.open(layer, ScriptedSource(layer.blob))
        let recording = bench.blobIO.recorder.begin {}
        recording.add([opened])
        _ = try await bench.read(opened, "f2", 0, 100)
        for name in ["f2", "f6"] { opened.noteHiddenReads(try opened.record(name)) }
        let run = recording.run()
        recording.end()
        #expect(run.chunks.count == 1 && run.hidden.count == 1)
        let profile = Profile(manifest: layer.digest, job: "").merged(with: run, isOver: true)
        #expect(profile.items.count == 1 + 4)
        var known = Profile(manifest: layer.digest, job: "")
        known.layers = run.layers
        known.items = [Profile.Item(run.hidden[0][3])]
        #expect(known.merged(with: run, isOver: true).items.count == 1 + 1)
    }

    @Test func aReadCountsForEveryRecordingThatHasTheLayer() async throws {
        let bench = try Bench()
        let opened = try await bench.open(layer, ScriptedSource(layer.blob))
        let first = bench.blobIO.recorder.begin {}
        first.add([opened])
        _ = try await bench.read(opened, "f1")
        // The second one begins later: what was read before is not its own, what is read again is.
        let second = bench.blobIO.recorder.begin {}
        second.add([opened])
        for name in ["f2", "f1"] { _ = try await bench.read(opened, name) }
        #expect(files(first.run(), [opened]) == ["f1", "f2"])
        #expect(files(second.run(), [opened]) == ["f2", "f1"])
        first.end()
        _ = try await bench.read(opened, "f3")
        #expect(files(first.run(), [opened]) == ["f1", "f2"])
        #expect(files(second.run(), [opened]) == ["f2", "f1", "f3"])
        second.end()
    }

    @Test func theFirstReadIsToldOnce() async throws {
        let bench = try Bench()
        let opened = try await bench.open(layer, ScriptedSource(layer.blob))
        let told = Counter()
        let recording = bench.blobIO.recorder.begin { told.add() }
        recording.add([opened])
        #expect(told.value == 0)
        for name in ["f1", "f2"] { _ = try await bench.read(opened, name) }
        #expect(await eventually { told.value == 1 })
        _ = recording.run()
        _ = try await bench.read(opened, "f3")
        _ = recording.run()
        #expect(told.value == 1)
        recording.end()
    }

    @Test func recordingAgreesWithAModelWhateverIsReadByWhom() async throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let bench = try Bench()
        let opened = try await bench.open(layer, ScriptedSource(layer.blob))
        var recordings: [(Recording, [String])] = []
        for _ in 0..<200 {
            switch Int.random(in: 0..<10, using: &generator) {
            case 0:
                let recording = bench.blobIO.recorder.begin {}
                recording.add([opened])
                recordings.append((recording, []))
            case 1 where !recordings.isEmpty:
                let (recording, expected) = recordings.remove(
                    at: Int.random(in: 0..<recordings.count, using: &generator)
                )
                recording.end()
                #expect(files(recording.run(), [opened]) == expected)
            default:
                let name = "f\(Int.random(in: 0..<8, using: &generator))"
                _ = try await bench.read(opened, name)
                for number in recordings.indices where !recordings[number].1.contains(name) {
                    recordings[number].1.append(name)
                }
            }
        }
        for (recording, expected) in recordings {
            recording.end()
            #expect(files(recording.run(), [opened]) == expected)
        }
    }
}

private final class Counter: Sendable {
    private let count = Atomic(0)

    var value: Int { count.load(ordering: .relaxed) }
    func add() { count.add(1, ordering: .relaxed) }
}
