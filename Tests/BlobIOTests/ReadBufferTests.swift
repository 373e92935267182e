import ChunkStore
import Glibc
import PosixIO
import TestSupport
import Testing

@testable import BlobIO

@Suite struct ReadBufferTests {
    @Test func anEmptyBufferHasNoSegments() {
        let buffer = ReadBuffer()
        #expect(buffer.byteCount == 0)
        #expect(unsafe buffer.withSegments { $0.count } == 0)
    }

    @Test func appendsPartsOfBytesInMemoryAndNothingPastTheirEnd() {
        var buffer = ReadBuffer()
        let bytes = SharedBytes(noise(10_000, seed: 1))
        buffer.append(bytes, offset: 5000, count: 100)
        #expect(buffer.bytes == Array(bytes.array[5000..<5100]))
        buffer.reset()
        buffer.append(bytes, offset: 9000, count: 5000)
        #expect(buffer.bytes == Array(bytes.array[9000...]))
        buffer.reset()
        buffer.append(bytes, offset: 10_000, count: 1)
        buffer.append(bytes, offset: .max, count: 1)
        buffer.append(bytes, offset: 0, count: 0)
        #expect(buffer.byteCount == 0)
    }

    @Test func zerosComeFromOneStaticArea() {
        var buffer = ReadBuffer()
        buffer.appendZeros(200_000)
        #expect(buffer.bytes == [UInt8](repeating: 0, count: 200_000))
        let bases = unsafe buffer.withSegments { segments in unsafe Set(segments.map(\.baseAddress)) }
        #expect(unsafe bases.count == 1)
    }

    @Test func recordsOfEveryKindReadBackAtEveryPlace() throws {
        // A zero block, a block that packs, a block that does not, and a short one.
        let block = ChunkRecord.blockSize
        let payload =
            [UInt8](repeating: 0, count: block) + (0..<block).map { UInt8($0 & 7) } + noise(block, seed: 2)
            + noise(300, seed: 3)
        let store = ChunkStore(capacity: 1 << 20)
        let key = ChunkKey(content: digest(of: payload), length: UInt32(payload.count))
        unsafe store.insert(key, payload.span.bytes)
        let record = try #require(store.find(key))
        var buffer = ReadBuffer()
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<200 {
            let offset = Int.random(in: 0..<payload.count, using: &generator)
            let count = Int.random(in: 0...payload.count - offset, using: &generator)
            buffer.reset()
            buffer.prepare(count)
            let isSound = buffer.append(record, from: offset, count: count)
            #expect(isSound)
            #expect(buffer.byteCount == count)
            #expect(buffer.bytes == Array(payload[offset..<offset + count]), "seed \(seed) \(offset)+\(count)")
        }
    }

    @Test func whatADiskDoesNotGiveIsNotAppended() throws {
        let directory = try TemporaryDirectory("chunks")
        let store = ChunkStore(directory: directory.path, capacity: 64 << 20, memory: 0) { _ in }
        let payload = noise(200_000, seed: 1)
        let key = ChunkKey(content: digest(of: payload), length: UInt32(payload.count))
        unsafe store.insert(key, payload.span.bytes)
        let record = try #require(store.find(key))
        var buffer = ReadBuffer()
        // Whole blocks, and a piece that is small enough to be copied.
        for range in [0..<200_000, 100..<600] {
            buffer.reset()
            buffer.prepare(payload.count)
            let isThere = buffer.append(record, from: range.lowerBound, count: range.count)
            #expect(isThere && buffer.bytes == Array(payload[range]))
        }
        for name in namesInDirectory(directory.path) {
            try Descriptor.open(directory.file(name), O_RDWR).truncate(to: 0)
        }
        for range in [0..<200_000, 100..<600] {
            buffer.reset()
            let isThere = buffer.append(record, from: range.lowerBound, count: range.count)
            #expect(!isThere)
        }
        #expect(store.find(key) == nil)
    }

    @Test func aReadOfTinyChunksHasFewSegments() throws {
        // writev(2) takes 1024.
        let store = ChunkStore(capacity: 16 << 20)
        var buffer = ReadBuffer()
        buffer.prepare(1 << 20)
        var expected: [UInt8] = []
        for number in 0..<1024 {
            let payload = noise(1024, seed: UInt64(number))
            let key = ChunkKey(content: digest(of: payload), length: 1024)
            unsafe store.insert(key, payload.span.bytes)
            let record = try #require(store.find(key))
            _ = buffer.append(record, from: 0, count: 1024)
            expected += payload
        }
        #expect(buffer.bytes == expected)
        #expect(unsafe buffer.withSegments { $0.count } < 600)
    }
}
