import OCIModel
import PosixIO
import Synchronization
import TestSupport
import Testing

@testable import ChunkStore

@Suite struct DiskStoreTests {
    @Test(arguments: PayloadKind.allCases)
    func findsWhatWasInsertedAlsoAfterItWasOpenedAgain(_ kind: PayloadKind) throws {
        let bench = try DiskBench(capacity: 64 << 20)
        let chunks = [1, 17, 65_535, 65_536, 65_537, 300_000].enumerated().map {
            numbered(UInt64($0.offset), kind, count: $0.element)
        }
        for chunk in chunks {
            #expect(bench.store.find(chunk.key) == nil)
            bench.store.insert(chunk.key, chunk.payload)
            #expect(bench.has(chunk))
        }
        for _ in 0..<3 {
            bench.reopen()
            for chunk in chunks { #expect(bench.has(chunk), "\(kind) \(chunk.payload.count)") }
            #expect(bench.store.statistics.chunks == chunks.count)
            #expect(bench.segments.count == 1)
        }
        bench.store.remove(chunks[3].key)
        #expect(!bench.store.contains(chunks[3].key))
        #expect(bench.store.find(chunks[3].key) == nil)
    }

    @Test func contentAndPlaceAreNameSpacesOfTheirOwn() throws {
        let bench = try DiskBench(capacity: 64 << 20)
        let digest = Digest(words: (1, 2, 3, 4))
        let kept = ChunkKey(layer: digest, offset: 0, innerOffset: 0, length: 3)
        let others = [
            ChunkKey(content: digest, length: 3), ChunkKey(layer: digest, offset: 0, innerOffset: 1, length: 3),
            ChunkKey(layer: digest, offset: 1, innerOffset: 0, length: 3),
            ChunkKey(layer: digest, offset: 0, innerOffset: 0, length: 4),
            ChunkKey(layer: Digest(words: (1, 2, 3, 5)), offset: 0, innerOffset: 0, length: 3),
        ]
        bench.store.insert(kept, [1, 2, 3])
        for _ in 0..<2 {
            for other in others { #expect(bench.store.find(other) == nil) }
            #expect(bench.has((kept, [1, 2, 3])))
            bench.reopen()
        }
    }

    @Test func twoKeysWithOneFingerprintAreNotMixedUp() throws {
        let bench = try DiskBench(capacity: 64 << 20)
        // The fingerprint takes in only the digest's first word.
        let first = ChunkKey(content: Digest(words: (9, 0, 0, 0)), length: 3)
        let second = ChunkKey(content: Digest(words: (9, 1, 0, 0)), length: 3)
        #expect(first.fingerprint == second.fingerprint)
        bench.store.insert(first, [1, 2, 3])
        bench.store.insert(second, [4, 5, 6])
        #expect(bench.store.find(second) == nil)
        #expect(bench.has((first, [1, 2, 3])))
    }

    @Test func openingReadsNoData() throws {
        let bench = try DiskBench(capacity: 64 << 20)
        var data = 0
        for number: UInt64 in 0..<400 {
            let chunk = numbered(number, .noise, count: 50_000)
            bench.store.insert(chunk.key, chunk.payload)
            data += 50_000
        }
        let sealed = bench.segments.count - 1
        #expect(sealed >= 4)
        bench.reopen()
        let read = bench.files.bytesRead.load(ordering: .relaxed)
        #expect(read < data / 500, "\(read) of \(data) bytes were read")
        #expect(bench.store.statistics.chunks == 400)
    }

    @Test func whatSegmentsTakeNeverExceedsTheBoundAndIsKnownExactly() throws {
        let bench = try DiskBench(capacity: 1 << 20)
        var generator = SeededGenerator(seed: 1)
        for number: UInt64 in 0..<300 {
            let kind = PayloadKind.allCases[Int(number) % 4]
            let chunk = numbered(number, kind, count: Int.random(in: 1...40_000, using: &generator))
            bench.store.insert(chunk.key, chunk.payload)
            #expect(bench.has(chunk))
            try #require(bench.allocated <= 1 << 20)
            try #require(bench.allocated == bench.store.statistics.diskBytes)
        }
        #expect(bench.store.statistics.evictions > 0)
        // The bound is what this process was told, not what another one was.
        bench.options = DiskStoreOptions(capacity: 512 << 10)
        bench.reopen()
        #expect(bench.allocated <= 512 << 10)
        #expect(bench.allocated == bench.store.statistics.diskBytes)
        #expect(bench.store.statistics.chunks > 0)
    }

    @Test func aChunkThatNeedsASegmentOfItsOwnGetsOne() throws {
        let bench = try DiskBench(capacity: 4 << 20)
        let large = numbered(1, .noise, count: 700_000)
        let small = numbered(2, .noise, count: 1000)
        bench.store.insert(small.key, small.payload)
        bench.store.insert(large.key, large.payload)
        #expect(bench.segments.count == 2)
        for _ in 0..<2 {
            #expect(bench.has(large))
            #expect(bench.has(small))
            bench.reopen()
        }
    }

    @Test func aChunkAboveAQuarterOfTheBoundIsKeptInMemoryOnly() throws {
        let bench = try DiskBench(capacity: 1 << 20, memory: 1 << 20)
        let large = numbered(1, .noise, count: 300_000)
        bench.store.insert(large.key, large.payload)
        #expect(bench.has(large))
        #expect(bench.store.statistics.diskBytes == 0)
        #expect(bench.store.statistics.bytes > 300_000)
        #expect(bench.reports.count == 0)
    }

    @Test func whatIsReadAgainMovesOnAndWhatIsNotGoes() throws {
        let bench = try DiskBench(capacity: 4 << 20)
        let hot = (0..<12).map { numbered(UInt64($0), .noise, count: 8192) }
        for chunk in hot { bench.store.insert(chunk.key, chunk.payload) }
        let cold = (100..<120).map { numbered(UInt64($0), .noise, count: 8192) }
        for chunk in cold { bench.store.insert(chunk.key, chunk.payload) }
        for number: UInt64 in 1000..<2600 {
            let other = numbered(number, .noise, count: 8192)
            bench.store.insert(other.key, other.payload)
            // Each is read in pieces, at once.
            for _ in 0..<4 { _ = bench.store.find(other.key) }
            for chunk in hot { _ = bench.store.find(chunk.key) }
        }
        for chunk in hot { #expect(bench.has(chunk)) }
        for chunk in cold { #expect(!bench.store.contains(chunk.key)) }
        #expect(bench.store.statistics.evictions > 1000)
        bench.reopen()
        for chunk in hot { #expect(bench.has(chunk)) }
    }

    @Test func aReaderKeepsARecordWhoseSegmentIsGone() throws {
        let bench = try DiskBench(capacity: 1 << 20)
        let first = numbered(0, .noise, count: 20_000)
        bench.store.insert(first.key, first.payload)
        do {
            let record = try #require(bench.store.find(first.key))
            for number: UInt64 in 1..<200 {
                let other = numbered(number, .noise, count: 20_000)
                bench.store.insert(other.key, other.payload)
            }
            #expect(bench.store.find(first.key) == nil)
            // The space of its segment is not free yet, and is counted.
            #expect(bench.store.statistics.diskBytes > bench.allocated)
            #expect(bench.store.statistics.diskBytes <= 1 << 20)
            #expect(unpack(record) == first.payload)
        }
        #expect(bench.store.statistics.diskBytes == bench.allocated)
    }

    @Test func theIndexTakesLessThanAHundredBytesAChunk() throws {
        let bench = try DiskBench(capacity: 256 << 20)
        let payload: [UInt8] = [1, 2, 3]
        for number: UInt64 in 0..<20_000 { bench.store.insert(layerKey(number, length: 3), payload) }
        let figures = bench.store.statistics
        #expect(figures.chunks == 20_000)
        #expect(figures.indexBytes < figures.chunks * 50)
    }

    // MARK: Reference model

    @Test(arguments: [UInt64(1), 2, 3, UInt64.random(in: 4 ... .max)])
    func behavesLikeADictionaryWhileThereIsRoom(seed: UInt64) throws {
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let bench = try DiskBench(capacity: 256 << 20, segmentSize: 1 << 18)
        var reference: [ChunkKey: [UInt8]] = [:]
        for step in 0..<1500 {
            let number = UInt64.random(in: 0..<300, using: &generator)
            let chunk = numbered(number, PayloadKind.allCases[Int(number % 4)], count: 1 + Int(number * number % 9000))
            switch Int.random(in: 0..<100, using: &generator) {
            case 0..<45: #expect(bench.payload(chunk.key) == reference[chunk.key], "seed \(seed) step \(step)")
            case 45..<95:
                bench.store.insert(chunk.key, chunk.payload)
                reference[chunk.key] = chunk.payload
            default: bench.reopen()
            }
            try #require(bench.store.statistics.chunks == reference.count, "seed \(seed) step \(step)")
        }
        for (key, payload) in reference { #expect(bench.payload(key) == payload, "seed \(seed)") }
    }

    @Test(arguments: [UInt64(1), 2, UInt64.random(in: 3 ... .max)])
    func isNeverWrongAndHasTheNewestWhenThereIsNoRoom(seed: UInt64) throws {
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let bench = try DiskBench(capacity: 1 << 20)
        for step in 0..<800 {
            let number = UInt64.random(in: 0..<400, using: &generator)
            let chunk = numbered(number, PayloadKind.allCases[Int(number % 4)], count: 1 + Int(number * 101 % 20_000))
            switch Int.random(in: 0..<100, using: &generator) {
            case 0..<40:
                if let found = bench.payload(chunk.key) {
                    try #require(found == chunk.payload, "seed \(seed) step \(step)")
                }
            case 40..<96:
                bench.store.insert(chunk.key, chunk.payload)
                try #require(bench.has(chunk), "seed \(seed) step \(step)")
            case 96..<98: bench.store.remove(chunk.key)
            default: bench.reopen()
            }
            try #require(bench.allocated <= 1 << 20, "seed \(seed) step \(step)")
        }
        #expect(bench.store.statistics.chunks > 0)
    }

    @Test func segmentsGoWhileOthersRead() async throws {
        let bench = try DiskBench(capacity: 2 << 20)
        let store = bench.store
        let wrong = Counter()
        let found = Counter()
        let pool = WorkerPool(named: "store-test", threads: 4)
        await withTaskGroup(of: Void.self) { group in
            for worker in 0..<4 {
                group.addTask {
                    await pool.run {
                        var generator = SeededGenerator(seed: UInt64(worker))
                        for _ in 0..<600 {
                            let number = UInt64.random(in: 0..<250, using: &generator)
                            let kind: PayloadKind = number % 2 == 0 ? .text : .noise
                            let chunk = numbered(number, kind, count: 1000 + Int(number) * 80)
                            if let record = store.find(chunk.key) {
                                found.increment()
                                if unpack(record) != chunk.payload { wrong.increment() }
                            } else {
                                store.insert(chunk.key, chunk.payload)
                            }
                            if store.statistics.bytes > 2 << 20 { wrong.increment() }
                        }
                    }
                }
            }
        }
        #expect(wrong.count == 0)
        #expect(found.count > 0)
        #expect(store.statistics.evictions > 0)
        #expect(store.statistics.damaged == 0)
        #expect(bench.allocated == store.statistics.diskBytes)
        bench.reopen()
        for number: UInt64 in 0..<250 {
            let kind: PayloadKind = number % 2 == 0 ? .text : .noise
            let chunk = numbered(number, kind, count: 1000 + Int(number) * 80)
            #expect(bench.isNotWrong(chunk))
        }
        #expect(bench.store.statistics.damaged == 0)
    }
}
