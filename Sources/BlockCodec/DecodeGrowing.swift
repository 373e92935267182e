internal import CShims
internal import PosixIO

/// Decompresses into a buffer that grows until what is wanted fits; what the gzip and the zstd decoder of whole members
/// and frames have in common.
///
/// - Parameters:
///   - bytes: members or frames.
///   - wanted: how many bytes must come out.
///   - expected: how many bytes are likely to come out.
///   - limit: the most that may come out, a bound on memory whatever the data says.
///   - decode: tries once with the room that it is given: a status of the shim (`CRFS_INFLATE_…`), and how many bytes came
///     out.
/// - Returns: what came out, `wanted` bytes or more.
func decodeGrowing(
    _ bytes: borrowing RawSpan,
    wanted: Int,
    expected: Int,
    limit: Int,
    _ decode: (
        _ input: UnsafeRawBufferPointer, _ output: UnsafeMutableRawBufferPointer, _ produced: inout Int
    ) -> crfs_inflate_status
) throws(CodecError) -> UniqueBytes {
    guard wanted <= limit else { throw .tooLarge(limit: limit) }
    // The padding and headers up to the next payload come out too, so leave room for some of them first.
    var capacity = min(limit, max(wanted, expected) + 16 * 1024)
    while true {
        guard var out = UniqueBytes(trying: capacity) else { throw .outOfMemory(bytes: capacity) }
        var produced = 0
        let status = unsafe bytes.withUnsafeBytes { input in
            unsafe out.withUnsafeMutableCapacity { unsafe decode(input, $0, &produced) }
        }
        switch status {
        case CRFS_INFLATE_OK:
            out.truncate(to: produced)
            return out
        case CRFS_INFLATE_SHORT: throw .truncated
        case CRFS_INFLATE_MEMORY: throw .outOfMemory(bytes: capacity)
        case CRFS_INFLATE_SPACE:
            guard capacity < limit else { throw .tooLarge(limit: limit) }
            capacity = min(limit, capacity * 4)
        default: throw .corrupt
        }
    }
}
