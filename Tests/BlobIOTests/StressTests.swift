import ChunkStore
import LayerFormat
import OCIModel
import Synchronization
import TestSupport
import Testing

@testable import BlobIO

@Suite struct StressTests {
    /// Many readers, a store that is too small, requests that fail and members that come damaged: a read ends with the
    /// right bytes or with an error that was scripted, and everything reads well once the faults are over.
    @Test(arguments: [1, UInt64.random(in: 2 ... .max)], [FetchLimits.nothingAhead, FetchLimits()])
    func readersUnderFaults(_ seed: UInt64, _ limits: FetchLimits) async throws {
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let files = (0..<12).map { number in
            TestLayer.File(
                name: "f\(number)",
                content: noise(Int.random(in: 1...90_000, using: &generator), seed: seed &+ UInt64(number)),
                chunkSize: Int.random(in: 3000...40_000, using: &generator)
            )
        }
        let layer = TestLayer(files)
        let bench = try Bench(cacheBytes: 150_000, limits: limits)
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        let failures = await withTaskGroup(of: Int.self) { group in
            for reader in 0..<16 {
                group.addTask {
                    await StressTests.readAtRandom(bench, opened, layer, source, seed: seed &+ UInt64(reader) &* 77)
                }
            }
            return await group.reduce(0, +)
        }
        source.script()
        #expect(await bench.settled())
        #expect(failures < 16 * 60, "seed \(seed)")
        for file in files { #expect(try await bench.read(opened, file.name) == file.content, "seed \(seed)") }
        #expect(bench.blobIO.statistics.store.bytes <= 150_000)
        #expect(await bench.settled())
        #expect(opened.bytesAhead.load(ordering: .relaxed) == 0)
    }

    /// Returns how many reads failed as scripted.
    private static func readAtRandom(
        _ bench: Bench,
        _ opened: Layer,
        _ layer: TestLayer,
        _ source: ScriptedSource,
        seed: UInt64
    ) async -> Int {
        var generator = SeededGenerator(seed: seed)
        var failures = 0
        for _ in 0..<60 {
            let file = layer.files.randomElement(using: &generator) ?? layer.files[0]
            let offset = Int.random(in: 0..<file.content.count, using: &generator)
            let count = Int.random(in: 1...50_000, using: &generator)
            switch Int.random(in: 0..<20, using: &generator) {
            case 0: source.script(.fails(.unavailable))
            case 1: source.script(.flips(Int.random(in: 0..<layer.tocOffset, using: &generator)))
            case 2: source.script(.short)
            default: break
            }
            do {
                let bytes = try await bench.read(opened, file.name, UInt64(offset), count)
                let expected = Array(file.content[offset..<min(file.content.count, offset + count)])
                #expect(bytes == expected, "seed \(seed) \(file.name) \(offset)+\(count)")
            } catch let error as BlobError {
                #expect(error.kind == .unavailable || error.kind == .corrupt, "seed \(seed) \(error)")
                failures += 1
            } catch {
                Issue.record(error)
            }
        }
        return failures
    }
}
