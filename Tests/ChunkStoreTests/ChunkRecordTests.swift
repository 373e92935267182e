import BlockCodec
import Testing

@testable import ChunkStore

@Suite struct ChunkRecordTests {
    @Test(arguments: PayloadKind.allCases)
    func aRecordGivesBackItsPayload(_ kind: PayloadKind) throws {
        let block = ChunkRecord.blockSize
        for count in [1, 2, 15, 16, 17, 4096, block - 1, block, block + 1, 3 * block, 5 * block + 77] {
            let payload = makePayload(kind, count: count, seed: UInt64(count))
            let record = try pack(payload).record
            #expect(record.count == count)
            #expect(unpack(record) == payload, "\(kind), \(count) bytes")
        }
    }

    @Test func zerosTakeNoRoomAndTextTakesLess() throws {
        let zeros = try pack(makePayload(.zeros, count: 1 << 20, seed: 1))
        #expect(zeros.byteCount < 200)
        let text = try pack(makePayload(.text, count: 1 << 20, seed: 1))
        #expect(text.byteCount < 3 << 18)
    }

    @Test func whatDoesNotPackIsKeptRaw() throws {
        let count = 3 * ChunkRecord.blockSize + 5
        let payload = makePayload(.noise, count: count, seed: 2)
        let chunk = try pack(payload)
        let record = chunk.record
        for block in 0..<record.blockCount {
            guard case .raw = unsafe record.block(block) else {
                Issue.record("block \(block) is not raw")
                continue
            }
        }
        #expect(chunk.byteCount == RecordLayout.headerSize + count + (record.blockCount + 1) * 4)
    }

    @Test func anEmptyPayloadHasNoRecord() {
        let chunk = unsafe PackedChunk(layerKey(0, length: 0), packing: [UInt8]().span.bytes)
        #expect(chunk == nil)
    }

    @Test func lz4GivesBackWhatItPacked() throws {
        for count in [1, 12, 13, 1000, 65536] {
            let payload = makePayload(.text, count: count, seed: 3)
            var packed = [UInt8](repeating: 0, count: count + count / 255 + 16)
            let size = try #require(lz4(payload, into: &packed))
            #expect(unlz4(Array(packed[..<size]), count: count) == payload)
            // Of another size than announced is damaged.
            #expect(unlz4(Array(packed[..<size]), count: count + 1) == nil)
            if count > 1 { #expect(unlz4(Array(packed[..<size]), count: count - 1) == nil) }
        }
    }

    @Test func lz4RefusesWhatDoesNotFit() {
        let noise = makePayload(.noise, count: 4096, seed: 4)
        var room = [UInt8](repeating: 0, count: 4000)
        #expect(lz4(noise, into: &room) == nil)
    }

    @Test func damagedBlocksDoNoHarm() throws {
        let payload = makePayload(.text, count: 5000, seed: 5)
        var room = [UInt8](repeating: 0, count: 6000)
        let size = try #require(lz4(payload, into: &room))
        let packed = Array(room[..<size])
        for cut in 0..<packed.count { #expect(unlz4(Array(packed[..<cut]), count: payload.count) == nil) }
        for position in 0..<packed.count {
            var flipped = packed
            flipped[position] ^= 0x55
            // It may unpack to something else (a literal changed); it must not do more than that.
            if let other = unlz4(flipped, count: payload.count) { #expect(other.count == payload.count) }
        }
    }

    private func lz4(_ bytes: [UInt8], into room: inout [UInt8]) -> Int? {
        unsafe bytes.withUnsafeBytes { input in
            unsafe room.withUnsafeMutableBytes { output in unsafe LZ4.compress(input, into: output) }
        }
    }

    private func unlz4(_ bytes: [UInt8], count: Int) -> [UInt8]? {
        var result = [UInt8](repeating: 0, count: count)
        let done = unsafe bytes.withUnsafeBytes { input in
            unsafe result.withUnsafeMutableBytes { output in unsafe LZ4.decompress(input, into: output) }
        }
        return done ? result : nil
    }
}
