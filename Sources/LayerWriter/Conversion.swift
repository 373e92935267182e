internal import BlockCodec
internal import LayerFormat
internal import OCIModel
internal import PosixIO

/// One conversion: the passes over its input.
///
/// Without prioritized paths there is one. With them the first pass works out which entries move, the second one puts
/// their content aside, and the third one writes the rest: a compressed stream cannot be read from the middle, and
/// reading is cheap beside compressing.
final class Conversion {
    typealias Reader = TarReader<DecodedSource<FileSource>>

    private let input: String
    private let output: String
    private let options: ConvertOptions
    private let meter: ProgressMeter

    init(
        input: String,
        output: String,
        size: UInt64,
        options: ConvertOptions,
        report: @escaping (ConvertProgress) -> Bool
    ) {
        self.input = input
        self.output = output
        self.options = options
        meter = ProgressMeter(size: size, passes: options.prioritized.isEmpty ? 1 : 3, report: report)
    }

    func run() throws(ConvertError) -> ConvertResult {
        var plan = PriorityPlan()
        if !options.prioritized.isEmpty { try scan(into: &plan) }
        let file = try OutputFile(output)
        let assembler = BlobAssembler(file, options)
        if !options.prioritized.isEmpty { try writeFirst(plan, to: assembler) }
        // zstd:chunked has no landmark of its own: one is written where it says something.
        let hasLandmark =
            options.format == .estargz || options.format == .zstdChunked && assembler.entries > 0
        if hasLandmark {
            let name = assembler.entries > 0 ? ReservedName.prefetchLandmark : ReservedName.noPrefetchLandmark
            var landmark = TarEntry(path: Array(name.utf8), kind: .regular)
            landmark.mode = 0o644
            landmark.size = UInt64(ReservedName.landmarkContent.count)
            try assembler.append(landmark, bytes: ReservedName.landmarkContent)
        }
        try writeRest(plan, to: assembler)
        let summary = try assembler.finish()
        let blobSize = file.offset
        let blobDigest = try file.commit()
        return ConvertResult(
            path: output,
            format: options.format,
            tocDigest: summary.tocDigest,
            diffID: summary.diffID,
            blobDigest: blobDigest,
            blobSize: blobSize,
            uncompressedSize: summary.uncompressedSize,
            tocOffset: summary.tocOffset,
            tocFrameDigest: summary.frameDigest,
            tocFramePosition: summary.frame?.annotation,
            entries: assembler.entries - (hasLandmark ? 1 : 0),
            notMoved: plan.notMoved
        )
    }

    private func scan(into plan: inout PriorityPlan) throws(ConvertError) {
        var scanned = PriorityPlan()
        try forEachEntry { (_, item) throws(ConvertError) in
            scanned.scan(item.entry, cleaned: item.cleaned)
            return true
        }
        scanned.choose(options.prioritized)
        plan = scanned
    }

    /// Writes the chosen entries in their order.
    private func writeFirst(_ plan: PriorityPlan, to assembler: BlobAssembler) throws(ConvertError) {
        let spool = try Spool(beside: output)
        var left = plan.order.count
        if left > 0 {
            try forEachEntry { (reader, item) throws(ConvertError) in
                guard plan.isChosen(item.number) else { return true }
                try unsafe spool.add(item.entry, number: item.number) { (buffer) throws(ConvertError) in
                    try unsafe self.read(&reader, into: buffer)
                }
                left -= 1
                return left > 0
            }
        } else {
            try meter.endPass()
        }
        for number in plan.order {
            try unsafe spool.withEntry(number) { (entry, content) throws(ConvertError) in
                try unsafe assembler.append(entry, content: content)
            }
        }
    }

    /// Writes all entries that are not chosen and not made anew.
    private func writeRest(_ plan: PriorityPlan, to assembler: BlobAssembler) throws(ConvertError) {
        try forEachEntry { (reader, item) throws(ConvertError) in
            if plan.isChosen(item.number) || ReservedName.contains(item.cleaned) { return true }
            try unsafe assembler.append(item.entry) { (buffer) throws(ConvertError) in
                try unsafe self.read(&reader, into: buffer)
            }
            return true
        }
    }

    private struct Item {
        var entry: TarEntry
        var cleaned: [UInt8]
        /// Which entry of the input it is.
        var number: Int
    }

    /// Reads the input once. `body` says whether to go on; at the archive's end the rest of the input is read too, so
    /// that its checksums are checked.
    private func forEachEntry(
        _ body: (inout Reader, Item) throws(ConvertError) -> Bool
    ) throws(ConvertError) {
        var reader = try open()
        var number = 0
        while true {
            guard var entry = try next(&reader) else {
                try drain(&reader)
                break
            }
            guard let cleaned = cleanedPath(entry.path) else {
                throw ConvertError(
                    .input,
                    "\(input) cannot be read as a layer: the entry \(String(decoding: entry.path, as: UTF8.self)) "
                        + "has a \"..\" in its name"
                )
            }
            if entry.kind == .directory && entry.path.last != UInt8(ascii: "/") {
                entry.path.append(UInt8(ascii: "/"))
            }
            guard try body(&reader, Item(entry: entry, cleaned: cleaned, number: number)) else { break }
            number += 1
        }
        try meter.endPass()
    }

    private func open() throws(ConvertError) -> Reader {
        let file: Descriptor
        do throws(SystemError) {
            file = try Descriptor.open(input)
        } catch {
            throw ConvertError(error, "\(input) cannot be read")
        }
        do throws(ByteSourceError) {
            return TarReader(try DecodedSource(FileSource(file)))
        } catch {
            throw ConvertError(.input, "\(input) cannot be read: \(error)")
        }
    }

    private func next(_ reader: inout Reader) throws(ConvertError) -> TarEntry? {
        try meter.reached(reader.source.upstream.position)
        do throws(TarError) {
            return try reader.next()
        } catch {
            throw ConvertError(error, input: input)
        }
    }

    private func read(
        _ reader: inout Reader,
        into buffer: UnsafeMutableRawBufferPointer
    ) throws(ConvertError) -> Int {
        try meter.reached(reader.source.upstream.position)
        do throws(TarError) {
            return try unsafe reader.read(into: buffer)
        } catch {
            throw ConvertError(error, input: input)
        }
    }

    private func drain(_ reader: inout Reader) throws(ConvertError) {
        do throws(TarError) {
            _ = try reader.drain()
        } catch {
            throw ConvertError(error, input: input)
        }
    }
}

/// Says how far a conversion is, a step at a time.
final class ProgressMeter {
    /// Progress is reported after so many bytes of input.
    private static let step: UInt64 = 1024 * 1024

    private let size: UInt64
    private let total: UInt64
    private let report: (ConvertProgress) -> Bool
    private var passStart: UInt64 = 0
    private var reported: UInt64 = 0

    init(size: UInt64, passes: UInt64, report: @escaping (ConvertProgress) -> Bool) {
        self.size = size
        total = size.multipliedReportingOverflow(by: passes).partialValue
        self.report = report
    }

    /// The current pass has read `position` bytes.
    func reached(_ position: UInt64) throws(ConvertError) {
        // The file may have grown since its size was asked for.
        let done = passStart + min(position, size)
        guard done >= reported + Self.step else { return }
        try say(done)
    }

    /// The current pass is over.
    func endPass() throws(ConvertError) {
        passStart = min(passStart + size, total)
        try say(passStart)
    }

    private func say(_ done: UInt64) throws(ConvertError) {
        reported = done
        guard report(ConvertProgress(done: done, total: total)) else {
            throw ConvertError(.cancelled, "the conversion was stopped")
        }
    }
}
