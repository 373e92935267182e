import OCIModel
import Synchronization
import TestSupport
import Testing

@testable import ChunkStore

/// How a test payload packs.
enum PayloadKind: CaseIterable {
    case zeros, text, noise, mixed
}

func makePayload(_ kind: PayloadKind, count: Int, seed: UInt64) -> [UInt8] {
    var generator = SeededGenerator(seed: seed)
    if kind == .zeros { return [UInt8](repeating: 0, count: count) }
    if kind == .noise {
        var bytes = [UInt8](repeating: 0, count: (count + 7) / 8 * 8)
        unsafe bytes.withUnsafeMutableBytes { buffer in
            for at in stride(from: 0, to: buffer.count, by: 8) {
                unsafe buffer.storeBytes(of: generator.next(), toByteOffset: at, as: UInt64.self)
            }
        }
        return Array(bytes[..<count])
    }
    return (0..<count).map { index in
        switch kind {
        case .zeros: 0
        case .text: UInt8(ascii: "a") + UInt8(generator.next() % 3)
        case .noise: UInt8(truncatingIfNeeded: generator.next())
        case .mixed:
            switch index / ChunkRecord.blockSize % 3 {
            case 0: 0
            case 1: UInt8(index & 7)
            default: UInt8(truncatingIfNeeded: generator.next())
            }
        }
    }
}

/// A record of a payload, which must not be empty.
func pack(_ payload: [UInt8]) throws -> PackedChunk {
    let chunk = unsafe PackedChunk(layerKey(0, length: payload.count), packing: payload.span.bytes)
    return try #require(chunk)
}

/// What a record holds, by its blocks.
func unpack(_ record: ChunkRecord) -> [UInt8]? {
    var result: [UInt8] = []
    for block in 0..<record.blockCount {
        let size = record.payloadSize(block)
        switch unsafe record.block(block) {
        case .zeros: result += [UInt8](repeating: 0, count: size)
        case .raw(let bytes):
            var copy = [UInt8](repeating: 0, count: size)
            let isCopied = unsafe copy.withUnsafeMutableBytes { unsafe ChunkRecord.copy(bytes, into: $0) }
            guard unsafe isCopied && ChunkRecord.isReadable(bytes) else { return nil }
            result += copy
        case .damaged: return nil
        case .packed:
            var bytes = [UInt8](repeating: 0, count: size)
            let unpacked = unsafe bytes.withUnsafeMutableBytes { unsafe record.unpack(block, into: $0) }
            guard unpacked else { return nil }
            result += bytes
        }
    }
    return result
}

func layerKey(_ number: UInt64, length: Int) -> ChunkKey {
    ChunkKey(layer: Digest(words: (7, 7, 7, 7)), offset: number, innerOffset: 0, length: UInt32(length))
}

extension ChunkStore {
    func insert(_ key: ChunkKey, _ payload: [UInt8]) {
        unsafe insert(key, payload.span.bytes)
    }
}

/// Counts what several threads see.
final class Counter: Sendable {
    private let value = Atomic(0)
    var count: Int { value.load(ordering: .sequentiallyConsistent) }
    func increment() { value.add(1, ordering: .sequentiallyConsistent) }
}
