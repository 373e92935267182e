/// A run of bytes in a blob: where it starts and how many there are, in bytes.
public struct ByteRange: Hashable, Sendable, CustomStringConvertible {
    /// The first byte.
    public var offset: UInt64
    /// How many bytes; never 0 in a request.
    public var count: UInt64

    /// Makes a range; `offset + count` must not overflow.
    public init(offset: UInt64, count: UInt64) {
        precondition(!offset.addingReportingOverflow(count).overflow)
        self.offset = offset
        self.count = count
    }

    /// The first byte after the range.
    public var end: UInt64 { offset + count }

    /// `bytes=a-b`, the value of a Range header (RFC 9110, 14.1.2); the range must not be empty.
    public var headerValue: String {
        precondition(count > 0)
        return "bytes=\(offset)-\(end - 1)"
    }

    /// `a+n`.
    public var description: String { "\(offset)+\(count)" }
}
