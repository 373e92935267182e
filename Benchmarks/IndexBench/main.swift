// Opening a TOC: what it costs beside simdjson's bare walk, how large the index is, and how long merging takes.
//
//     swift run -c release --package-path Benchmarks IndexBench [TOC.json]
//
// Without a file it makes a TOC of 40,000 entries. Every figure is processor time, the best of several runs.

import BlockCodec
import CShims
import Glibc
import LayerFormat
import OCIModel
import PosixIO
import SyntheticTOC

/// Processor time of this thread: other work on the machine counts for little in it.
func processorNanoseconds() -> UInt64 {
    var time = timespec()
    _ = clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

func best(_ body: () -> Void) -> Double {
    var best = UInt64.max
    for _ in 0..<10 {
        let start = processorNanoseconds()
        body()
        best = min(best, processorNanoseconds() - start)
    }
    return Double(best) / 1e6
}

/// Two decimals, without Foundation.
func show(_ value: Double) -> String {
    let hundredths = Int((value * 100).rounded())
    let fraction = hundredths % 100
    return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)"
}

func padded(_ json: [UInt8]) -> UniqueBytes {
    var bytes = UniqueBytes(capacity: json.count + Int(CRFS_TOC_PADDING))
    bytes.withUnsafeMutableBytes { $0.copyBytes(from: json) }
    bytes.truncate(to: json.count)
    return bytes
}

/// Zeros stand behind the JSON as padding.
func paddedShared(_ json: [UInt8]) -> SharedBytes {
    SharedBytes(json + [UInt8](repeating: 0, count: Int(CRFS_TOC_PADDING)))
}

func digest(_ number: Int) -> Digest { Digest(words: (UInt64(number), 1, 2, 3)) }

func source(_ number: Int) -> TOCSource {
    TOCSource(layerDigest: digest(number), blobSize: 3 << 30, tocOffset: 2 << 30, promisedDigest: nil)
}

func index(_ json: [UInt8], _ number: Int) throws -> LayerIndex {
    let bytes = try LayerIndexBuilder.build(json: padded(json), source: source(number)) { print("note: \($0)") }
    return try LayerIndex(bytes: bytes.share(), layer: digest(number))
}

func merge(_ layers: Int, _ entries: Int) throws {
    let indexes = try (0..<layers).map { try index(makeTOC(entries: entries, seed: $0 + 1), $0) }
    let bytes = try ImageIndex.build(layers: indexes) { _ in }.share()
    let merged = try ImageIndex(bytes: bytes, layers: indexes)
    let time = best {
        do { _ = try ImageIndex.build(layers: indexes) { _ in } } catch { fatalError("\(error)") }
    }
    let each = Double(merged.byteCount) / Double(merged.recordCount)
    print(
        "merging \(layers) layers of \(entries) entries: \(show(time)) ms, \(merged.recordCount) names, \(show(each)) bytes each"
    )
}

func measure() throws {
    let json: [UInt8]
    if CommandLine.arguments.count > 1 {
        json = try readFile(CommandLine.arguments[1], limit: 256 << 20).array
    } else {
        json = makeTOC(entries: 40_000, seed: 1)
    }
    let whole = try index(json, 0)
    let text = paddedShared(json)
    // Turn by turn, so that a busy machine disturbs all of them alike.
    var times = (bare: UInt64.max, hash: UInt64.max, build: UInt64.max)
    for _ in 0..<30 {
        let copy = padded(json)
        let start = processorNanoseconds()
        let fields = text.span.withUnsafeBytes { bytes in
            let start = bytes.baseAddress?.assumingMemoryBound(to: CChar.self)
            return crfs_toc_bare_walk(start, json.count, json.count + Int(CRFS_TOC_PADDING))
        }
        let walked = processorNanoseconds()
        precondition(fields > 0)
        _ = SHA256.digest(of: text.span)
        let hashed = processorNanoseconds()
        _ = try LayerIndexBuilder.build(json: copy, source: source(0)) { _ in }
        let built = processorNanoseconds()
        times = (
            min(times.bare, walked - start), min(times.hash, hashed - walked), min(times.build, built - hashed)
        )
    }
    let (bare, hash, build) = (Double(times.bare) / 1e6, Double(times.hash) / 1e6, Double(times.build) / 1e6)
    print(
        "TOC: \(json.count) bytes; index: \(whole.recordCount) nodes, \(whole.chunkCount) chunks, \(whole.byteCount) bytes"
    )
    print("bytes a node: \(show(Double(whole.byteCount) / Double(whole.recordCount)))")
    print("bare simdjson walk: \(show(bare)) ms; SHA-256 of the TOC: \(show(hash)) ms")
    print("JSON to index: \(show(build)) ms with the TOC's digest, \(show(build - hash)) ms without it")
    print("that is \(show(build / bare)) and \(show((build - hash) / bare)) times the bare walk")

    let path = "/tmp/crfs-index-bench-\(getpid())"
    let file = try LayerIndexBuilder.build(json: padded(json), source: source(0)) { _ in }.share()
    try replaceFile(path, with: file.span)
    let opening = best {
        do { _ = try LayerIndex(path: path, layer: digest(0)) } catch { fatalError("\(error)") }
    }
    print("opening the index file, all blocks checked: \(show(opening)) ms")
    unlink(path)

    let lookups = best {
        for record in 1..<UInt32(whole.recordCount) {
            precondition(whole.lookup(whole.name(record), in: whole.parent(record)) == record)
        }
    }
    print("look-up of a name: \(show(lookups * 1e6 / Double(whole.recordCount))) ns")
}

// For a profiler: only builds, many times.
if CommandLine.arguments.count > 2, CommandLine.arguments[2] == "build" {
    let json = try readFile(CommandLine.arguments[1], limit: 256 << 20).array
    for _ in 0..<100 { _ = try LayerIndexBuilder.build(json: padded(json), source: source(0)) { _ in }.share() }
    exit(0)
}
try measure()
try merge(1, 40_000)
try merge(5, 40_000)
try merge(40, 12_500)
