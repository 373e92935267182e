/// One message of the control socket (docs/control-socket.md, "Protocol").
public enum Frame: Sendable, Equatable {
    /// A JSON object.
    case message([UInt8])
    /// Bytes of a command's output.
    case output([UInt8])

    /// The most that one frame may hold, in bytes.
    public static let limit = 1 << 20
    /// Set in the length of a frame that holds output.
    private static let outputMark: UInt32 = 1 << 31
    static let headerSize = 4

    /// The four bytes before the content.
    static func header(count: Int, isOutput: Bool) -> [UInt8] {
        precondition(count > 0 && count <= limit)
        let length = UInt32(count) | (isOutput ? outputMark : 0)
        return (0..<4).map { UInt8(truncatingIfNeeded: length >> (8 * UInt32($0))) }
    }

    /// The frame as it goes over the socket.
    public var bytes: [UInt8] {
        switch self {
        case .message(let content): Frame.header(count: content.count, isOutput: false) + content
        case .output(let content): Frame.header(count: content.count, isOutput: true) + content
        }
    }

    /// What a header announces.
    static func announced(_ header: ArraySlice<UInt8>) throws(ControlError) -> (count: Int, isOutput: Bool) {
        let length = header.reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        let count = Int(length & ~outputMark)
        guard count > 0, count <= limit else {
            throw ControlError(.malformed, "a message of \(count) bytes, where 1 to \(limit) are allowed")
        }
        return (count, length & outputMark != 0)
    }
}

/// Puts frames together from the pieces in which they come. Holds what came and not more: an announced length alone
/// takes no memory.
public struct FrameReader: Sendable {
    private var pending: [UInt8] = []
    private var start = 0

    /// An empty one.
    public init() {}

    /// Takes in what came.
    public mutating func append(_ piece: some Collection<UInt8>) {
        if start > 0 && start == pending.count {
            pending.removeAll(keepingCapacity: false)
            start = 0
        }
        pending += piece
    }

    /// The next frame that is whole; nil when more must come. What is no frame throws, and nothing after it can be read.
    public mutating func next() throws(ControlError) -> Frame? {
        guard pending.count - start >= Frame.headerSize else { return nil }
        let body = start + Frame.headerSize
        let announced = try Frame.announced(pending[start..<body])
        guard pending.count - body >= announced.count else { return nil }
        let content = Array(pending[body..<body + announced.count])
        start = body + announced.count
        if start >= Frame.limit {
            pending.removeFirst(start)
            start = 0
        }
        return announced.isOutput ? .output(content) : .message(content)
    }
}
