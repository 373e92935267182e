internal import CShims
internal import PosixIO

/// The walk over a TOC's JSON (see shim_simdjson.h).
enum TOCWalk {
    /// How many bytes must be readable behind the JSON.
    static let padding = Int(CRFS_TOC_PADDING)

    /// A copy of `bytes` with the padding behind it.
    static func padded(_ bytes: borrowing RawSpan) -> UniqueBytes {
        var copy = UniqueBytes(capacity: bytes.byteCount + padding)
        // SAFETY: the new allocation is larger than the bytes.
        unsafe copy.withUnsafeMutableBytes { target in
            unsafe bytes.withUnsafeBytes { source in unsafe target.copyMemory(from: source) }
        }
        copy.truncate(to: bytes.byteCount)
        return copy
    }

    /// Feeds every entry of the TOC to `reader`.
    ///
    /// - Parameters:
    ///   - json: the JSON, with `padding` readable bytes behind `range`.
    ///   - range: where it stands.
    ///   - reader: takes the entries.
    static func run(
        _ json: borrowing UniqueBytes,
        _ range: Range<Int>,
        into reader: inout TOCReader
    ) throws(LayerFormatError) {
        precondition(json.capacity - range.upperBound >= padding)
        var version: UInt64 = 0
        var failure = unsafe crfs_toc_failure()
        let capacity = json.capacity - range.lowerBound
        let status = unsafe json.span.withUnsafeBytes { bytes in
            // SAFETY: the reader outlives the walk, which calls back on this thread only; the JSON's allocation has the
            // padding (checked above).
            unsafe withUnsafeMutablePointer(to: &reader) { context in
                unsafe crfs_toc_walk(
                    bytes.baseAddress.map { unsafe ($0 + range.lowerBound).assumingMemoryBound(to: CChar.self) },
                    range.count,
                    capacity,
                    { context, entry in
                        guard let context = unsafe context, let entry = unsafe entry else { return 1 }
                        let reader = unsafe context.assumingMemoryBound(to: TOCReader.self)
                        return unsafe reader.pointee.take(entry) ? 0 : 1
                    },
                    context,
                    &version,
                    &failure
                )
            }
        }
        switch status {
        case CRFS_TOC_OK: break
        case CRFS_TOC_STOPPED: throw reader.failure ?? LayerFormatError(.corrupt, "the TOC cannot be read")
        case CRFS_TOC_NO_MEMORY:
            throw LayerFormatError(.system, "no memory to read a TOC of \(range.count) bytes")
        default: throw unsafe LayerFormatError(.corrupt, describe(failure))
        }
        if version != 1 { reader.tree.notes.add(.other, "the TOC has version \(version); read as version 1") }
    }

    private static func describe(_ failure: crfs_toc_failure) -> String {
        var place = "the TOC"
        // SIZE_MAX, which Swift sees as -1, stands for "outside of the entries".
        if unsafe failure.entry >= 0 {
            place = unsafe "entry \(failure.entry) of the TOC"
            if let name = unsafe failure.name.bytes {
                // SAFETY: the name stands in the JSON, which outlives the failure.
                let bytes = unsafe UnsafeRawBufferPointer(start: name, count: failure.name.count)
                place += unsafe " (\(printable(bytes)))"
            }
        }
        // SAFETY: both are static C strings.
        if let field = unsafe failure.field { place += unsafe ": \"\(String(cString: field))\"" }
        return unsafe place + " " + (failure.reason.map { unsafe String(cString: $0) } ?? "is not valid")
    }
}

/// Bytes of an image's name for a message: quoted, control characters escaped, cut at 200 bytes.
func printable(_ bytes: UnsafeRawBufferPointer) -> String {
    let shown = unsafe String(decoding: bytes.prefix(200), as: UTF8.self)
    var text = "\""
    for scalar in shown.unicodeScalars {
        switch scalar.value {
        case 0..<0x20, 0x7f..<0xa0, 0x22, 0x5c: text += scalar.escaped(asASCII: true)
        default: text.unicodeScalars.append(scalar)
        }
    }
    return text + (bytes.count > 200 ? "…\"" : "\"")
}
