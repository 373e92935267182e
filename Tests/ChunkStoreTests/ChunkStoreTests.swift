import OCIModel
import PosixIO
import TestSupport
import Testing

@testable import ChunkStore

@Suite struct ChunkStoreTests {
    @Test func findsWhatWasInserted() throws {
        let store = ChunkStore(capacity: 1 << 20)
        let payload = makePayload(.text, count: 100_000, seed: 1)
        let key = layerKey(1, length: payload.count)
        #expect(store.find(key) == nil)
        store.insert(key, payload)
        #expect(store.contains(key))
        #expect(try unpack(#require(store.find(key))) == payload)
        #expect(store.statistics.hits == 1)
        #expect(store.statistics.misses == 1)
        #expect(store.statistics.payloadBytes == payload.count)
        store.remove(key)
        #expect(store.find(key) == nil)
        #expect(store.statistics.bytes == 0)
        #expect(store.statistics.payloadBytes == 0)
    }

    @Test func contentAndPlaceAreNameSpacesOfTheirOwn() {
        let store = ChunkStore(capacity: 1 << 20)
        let digest = Digest(words: (1, 2, 3, 4))
        store.insert(ChunkKey(layer: digest, offset: 0, innerOffset: 0, length: 3), [1, 2, 3])
        #expect(!store.contains(ChunkKey(content: digest, length: 3)))
        #expect(!store.contains(ChunkKey(layer: digest, offset: 0, innerOffset: 1, length: 3)))
        #expect(!store.contains(ChunkKey(layer: digest, offset: 1, innerOffset: 0, length: 3)))
        #expect(!store.contains(ChunkKey(layer: digest, offset: 0, innerOffset: 0, length: 4)))
        #expect(store.contains(ChunkKey(layer: digest, offset: 0, innerOffset: 0, length: 3)))
    }

    @Test func aPayloadOfAnotherLengthThanItsKeyIsNotKept() {
        let store = ChunkStore(capacity: 1 << 20)
        let key = layerKey(1, length: 4)
        store.insert(key, [1, 2, 3])
        #expect(!store.contains(key))
    }

    @Test func aChunkAboveTheBoundIsNotKeptAndCostsNobodyItsPlace() {
        let store = ChunkStore(capacity: 10_000)
        let small = makePayload(.noise, count: 5000, seed: 1)
        store.insert(layerKey(1, length: small.count), small)
        let large = makePayload(.noise, count: 10_000, seed: 2)
        store.insert(layerKey(2, length: large.count), large)
        #expect(store.contains(layerKey(1, length: small.count)))
        #expect(!store.contains(layerKey(2, length: large.count)))
        let nothing = ChunkStore(capacity: 0)
        nothing.insert(layerKey(1, length: small.count), small)
        #expect(nothing.statistics.chunks == 0)
    }

    @Test func aReaderKeepsARecordThatIsEvicted() throws {
        let store = ChunkStore(capacity: 10_000)
        let first = makePayload(.noise, count: 6000, seed: 1)
        store.insert(layerKey(1, length: first.count), first)
        let record = try #require(store.find(layerKey(1, length: first.count)))
        let second = makePayload(.noise, count: 6000, seed: 2)
        store.insert(layerKey(2, length: second.count), second)
        #expect(!store.contains(layerKey(1, length: first.count)))
        #expect(unpack(record) == first)
    }

    @Test func whatIsReadOnceDoesNotDriveOutWhatIsHot() {
        let store = ChunkStore(capacity: 1 << 20)
        func payload(_ number: UInt64) -> [UInt8] { makePayload(.noise, count: 8192, seed: number) }
        let hot: Range<UInt64> = 0..<40
        for number in hot { store.insert(layerKey(number, length: 8192), payload(number)) }
        for number: UInt64 in 1000..<1400 {
            store.insert(layerKey(number, length: 8192), payload(number))
            // Each is read in pieces, at once.
            for _ in 0..<4 { _ = store.find(layerKey(number, length: 8192)) }
            for number in hot { _ = store.find(layerKey(number, length: 8192)) }
        }
        for number in hot { #expect(store.contains(layerKey(number, length: 8192)), "hot chunk \(number)") }
        #expect(store.statistics.evictions > 200)
    }

    @Test(arguments: [UInt64(1), 2, 3, UInt64.random(in: 4 ... .max)])
    func behavesLikeTheReference(seed: UInt64) throws {
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let capacity = Int.random(in: 2000...200_000, using: &generator)
        var table = CacheTable(capacity: capacity)
        var reference = ReferenceCache(capacity: capacity)
        let records = try (0..<64).map { number in
            let kind = PayloadKind.allCases[number % 4]
            let count = Int.random(in: 1...20_000, using: &generator)
            return try pack(makePayload(kind, count: count, seed: UInt64(number)))
        }
        for step in 0..<6000 {
            // Low numbers come often, high ones rarely.
            let number = min(Int.random(in: 0..<64, using: &generator), Int.random(in: 0..<64, using: &generator))
            let key = layerKey(UInt64(number), length: records[number].count)
            switch Int.random(in: 0..<20, using: &generator) {
            case 0:
                _ = table.remove(key)
                reference.remove(key)
            case 1..<12:
                #expect((table.find(key) != nil) == reference.find(key), "seed \(seed) step \(step)")
            default:
                _ = table.insert(key, records[number])
                reference.insert(key, cost: records[number].byteCount + CacheTable.overhead)
            }
            let figures = table.statistics
            try #require(figures.bytes <= capacity, "seed \(seed) step \(step)")
            try #require(figures.bytes == reference.bytes, "seed \(seed) step \(step)")
        }
        for number in 0..<64 {
            let key = layerKey(UInt64(number), length: records[number].count)
            #expect(table.contains(key) == reference.keys.contains(key), "seed \(seed)")
        }
        let figures = table.statistics
        #expect(figures.hits == reference.hits)
        #expect(figures.misses == reference.misses)
        #expect(figures.evictions == reference.evictions)
        #expect(figures.chunks == reference.keys.count)
    }

    @Test func threadsReadWhileOthersInsert() async {
        let store = ChunkStore(capacity: 100_000)
        let wrong = Counter()
        let pool = WorkerPool(named: "store-test", threads: 4)
        await withTaskGroup(of: Void.self) { group in
            for worker in 0..<4 {
                group.addTask {
                    await pool.run {
                        var generator = SeededGenerator(seed: UInt64(worker))
                        for _ in 0..<300 {
                            let number = UInt64.random(in: 0..<30, using: &generator)
                            let count = 1000 + Int(number) * 300
                            let payload = makePayload(.text, count: count, seed: number)
                            if let record = store.find(layerKey(number, length: count)) {
                                if unpack(record) != payload { wrong.increment() }
                            } else {
                                store.insert(layerKey(number, length: count), payload)
                            }
                            if store.statistics.bytes > 100_000 { wrong.increment() }
                        }
                    }
                }
            }
        }
        #expect(wrong.count == 0)
    }
}
