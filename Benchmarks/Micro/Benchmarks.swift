// The inner pieces of crfs, in memory only. `make bench-micro` prints the table.
//
// A figure is per iteration of its name: one TOC, one look-up, one member.

import Benchmark
import BlockCodec
import CShims
import ChunkStore
import LayerFormat
import OCIModel
import PosixIO
import SyntheticTOC

let entries = 40_000
let memberSize = 4 << 20
let blockSize = 65_536

/// Text of made-up words, about three times as large as its LZ4 block.
func makeText(_ count: Int) -> [UInt8] {
    var random: UInt64 = 88_172_645_463_325_252
    func next() -> Int {
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        return Int(truncatingIfNeeded: random >> 20)
    }
    let words = (0..<700).map { _ in (0..<(3 + next() % 8)).map { _ in UInt8(97 + next() % 26) } }
    var text: [UInt8] = []
    text.reserveCapacity(count + 16)
    while text.count < count {
        // Small numbers come up more often, as common words do.
        text += words[min(next() % 700, next() % 700)]
        text.append(32)
    }
    return Array(text.prefix(count))
}

func digest(_ number: Int) -> Digest { Digest(words: (UInt64(number), 1, 2, 3)) }

func padded(_ json: [UInt8]) -> UniqueBytes {
    var bytes = UniqueBytes(capacity: json.count + Int(CRFS_TOC_PADDING))
    bytes.withUnsafeMutableBytes { $0.copyBytes(from: json) }
    bytes.truncate(to: json.count)
    return bytes
}

func buildIndex(_ json: [UInt8]) -> UniqueBytes {
    let source = TOCSource(layerDigest: digest(0), blobSize: 3 << 30, tocOffset: 2 << 30, promisedDigest: nil)
    do {
        return try LayerIndexBuilder.build(json: padded(json), source: source) { _ in }
    } catch {
        fatalError("the synthetic TOC is refused: \(error)")
    }
}

func openIndex(_ json: [UInt8]) -> LayerIndex {
    do {
        return try LayerIndex(bytes: buildIndex(json).share(), layer: digest(0))
    } catch {
        fatalError("the index of the synthetic TOC is refused: \(error)")
    }
}

func measureTOC(_ json: [UInt8]) {
    Benchmark("TOC of 40,000 entries to index") { benchmark in
        for _ in benchmark.scaledIterations { blackHole(buildIndex(json).count) }
    }

    let index = openIndex(json)
    Benchmark("look-up of a name", configuration: .init(scalingFactor: .kilo)) { benchmark in
        // Far apart in the index, as look-ups are.
        var record: UInt32 = 1
        for _ in benchmark.scaledIterations {
            record = (record &+ 7_919) % UInt32(index.recordCount)
            if record == 0 { record = 1 }
            blackHole(index.lookup(index.name(record), in: index.parent(record)))
        }
    }
}

func measureCodecs() {
    let text = makeText(memberSize)
    var deflater = Deflater(level: 6)
    let member = deflater.gzip(text.span.bytes)
    Benchmark("inflate a member of 4 MiB") { benchmark in
        var inflater = Inflater()
        for _ in benchmark.scaledIterations {
            do {
                blackHole(try inflater.inflate(member.span.bytes, wanted: memberSize, limit: memberSize).count)
            } catch {
                fatalError("the member is refused: \(error)")
            }
        }
    }
    Benchmark("SHA-256 of 4 MiB") { benchmark in
        for _ in benchmark.scaledIterations { blackHole(SHA256.digest(of: text.span.bytes)) }
    }

    let plain = Array(text.prefix(blockSize))
    var room = [UInt8](repeating: 0, count: blockSize)
    let size = plain.withUnsafeBytes { input in room.withUnsafeMutableBytes { LZ4.compress(input, into: $0) } }
    guard let size else { fatalError("text that LZ4 makes no smaller") }
    let block = Array(room.prefix(size))
    Benchmark("LZ4 compress 64 KiB", configuration: .init(scalingFactor: .kilo)) { benchmark in
        var output = [UInt8](repeating: 0, count: blockSize)
        for _ in benchmark.scaledIterations {
            blackHole(
                plain.withUnsafeBytes { input in output.withUnsafeMutableBytes { LZ4.compress(input, into: $0) } }
            )
        }
    }
    Benchmark("LZ4 decompress 64 KiB", configuration: .init(scalingFactor: .kilo)) { benchmark in
        var output = [UInt8](repeating: 0, count: blockSize)
        for _ in benchmark.scaledIterations {
            blackHole(
                block.withUnsafeBytes { input in output.withUnsafeMutableBytes { LZ4.decompress(input, into: $0) } }
            )
        }
    }
}

func measureStore() {
    let chunkSize = 1 << 20
    let chunks = 64
    let store = ChunkStore(capacity: 2 * chunks * chunkSize)
    let text = makeText(chunkSize)
    let keys = (0..<chunks).map { ChunkKey(content: digest($0), length: UInt32(chunkSize)) }
    for key in keys { store.insert(key, text.span.bytes) }
    Benchmark("store hit: find a chunk", configuration: .init(scalingFactor: .kilo)) { benchmark in
        for number in benchmark.scaledIterations {
            guard let record = store.find(keys[number % chunks]) else { fatalError("a chunk is not in the store") }
            blackHole(record.count)
        }
    }
    Benchmark("store hit: find and unpack 64 KiB", configuration: .init(scalingFactor: .kilo)) { benchmark in
        var output = [UInt8](repeating: 0, count: blockSize)
        for number in benchmark.scaledIterations {
            guard let record = store.find(keys[number % chunks]) else { fatalError("a chunk is not in the store") }
            let done = output.withUnsafeMutableBytes { record.unpack(number % record.blockCount, into: $0) }
            precondition(done)
        }
    }
}

let benchmarks: @Sendable () -> Void = {
    Benchmark.defaultConfiguration = .init(
        metrics: [.wallClock, .throughput],
        warmupIterations: 3,
        maxDuration: .seconds(2),
        maxIterations: 100_000
    )
    let json = makeTOC(entries: entries, seed: 1)
    measureTOC(json)
    measurePlanning(json)
    measureCodecs()
    measureStore()
}
