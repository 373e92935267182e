internal import CShims
public import PosixIO

/// Compressed data that cannot be what it must be.
public enum CodecError: Error, Sendable, Equatable, CustomStringConvertible {
    /// Bad header, bad code, wrong checksum or wrong size field.
    case corrupt
    /// The data ends before what it announced.
    case truncated
    /// It unpacks to more than the caller allows.
    case tooLarge(limit: Int)
    /// The system has no memory for it.
    case outOfMemory(bytes: Int)

    /// What is wrong.
    public var description: String {
        switch self {
        case .corrupt: "corrupt compressed data"
        case .truncated: "compressed data ends too early"
        case .tooLarge(let limit): "compressed data unpacks to more than \(limit) bytes"
        case .outOfMemory(let bytes): "no memory for \(bytes) bytes of unpacked data"
        }
    }
}

/// Inflates gzip members with libdeflate. One thread at a time.
@safe
public struct Inflater: ~Copyable {
    private let decompressor: OpaquePointer

    /// Allocates a decompressor; traps when memory is out.
    public init() {
        guard let decompressor = unsafe libdeflate_alloc_decompressor() else {
            fatalError("out of memory for a decompressor")
        }
        unsafe self.decompressor = decompressor
    }

    deinit {
        unsafe libdeflate_free_decompressor(decompressor)
    }

    /// Inflates the gzip members (RFC 1952) at the start of `bytes` until at least `wanted` bytes have come out.
    /// Each member's CRC-32 and size are checked.
    ///
    /// - Parameters:
    ///   - bytes: one or more members; what follows the last one needed is ignored.
    ///   - wanted: how many bytes must come out; more may (whole members only).
    ///   - limit: the most that may come out, a bound on memory whatever the data says.
    ///   - expected: how many bytes are likely to come out; with too little room for them all begins again.
    /// - Returns: what came out, `wanted` bytes or more.
    public mutating func inflate(
        _ bytes: borrowing RawSpan,
        wanted: Int,
        limit: Int,
        expected: Int = 0
    ) throws(CodecError) -> UniqueBytes {
        let context = unsafe decompressor
        return unsafe try decodeGrowing(bytes, wanted: wanted, expected: expected, limit: limit) {
            input,
            output,
            produced in
            var consumed = 0
            return unsafe crfs_inflate_members(
                context,
                input.baseAddress,
                input.count,
                wanted,
                output.baseAddress,
                output.count,
                &produced,
                &consumed
            )
        }
    }
}
