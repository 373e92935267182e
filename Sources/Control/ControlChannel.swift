internal import Glibc
internal import PosixIO
internal import Synchronization

/// A client's connection to the owner of a cache directory: one request, and its answers.
///
/// `send` and `receive` are called by one thread; `hangUp` by any.
public final class ControlChannel: Sendable {
    /// What the owner said.
    public enum Answer: Sendable {
        /// Bytes of a command's output.
        case output([UInt8])
        /// How far it is: a JSON object with the member `progress`.
        case progress([UInt8])
        /// It is done: a JSON object with the member `ok`.
        case result([UInt8])
    }

    private let socket: Descriptor
    private let reader = Mutex(FrameReader())

    /// Connects to whoever listens in the directory.
    public init(directory: String) throws(ControlError) {
        do throws(SystemError) {
            socket = try ControlSocketPath(directory: directory).connect()
        } catch {
            let reason =
                switch error.code {
                case ENOENT: "no crfs listens there"
                case ECONNREFUSED: "the crfs that listened there is gone"
                case EACCES: "it belongs to another user"
                default: error.reason
                }
            throw ControlError(.unreachable, "cannot reach the crfs of the cache directory \(directory): \(reason)")
        }
    }

    /// Sends the request.
    ///
    /// - Parameter descriptor: goes along; the caller keeps it too.
    public func send(_ request: String, _ arguments: some Encodable, descriptor: CInt? = nil) throws(ControlError) {
        let head = RequestHead(crfs: ControlProtocol.version, request: request)
        let bytes = Frame.message(try ControlProtocol.encode(OutgoingRequest(head: head, arguments: arguments))).bytes
        do throws(SystemError) {
            // SAFETY: a UInt8 is one byte without padding.
            try unsafe sendAll(socket.raw, bytes.span.bytes, descriptor: descriptor ?? -1)
        } catch {
            throw ControlChannel.lost
        }
    }

    private static let lost = ControlError(.lost, "the crfs that owns the cache directory ended before it answered")

    /// Waits for the next answer. An error of the owner is thrown, and so is its end.
    public func receive() throws(ControlError) -> Answer {
        while true {
            if let frame = try takeFrame() { return try answer(frame) }
            let piece: [UInt8]
            do throws(SystemError) {
                piece = try PosixReceive.bytes(socket)
            } catch {
                throw ControlChannel.lost
            }
            guard !piece.isEmpty else { throw ControlChannel.lost }
            reader.withLock { $0.append(piece) }
        }
    }

    private func takeFrame() throws(ControlError) -> Frame? {
        try reader.withLock { (reader) throws(ControlError) in try reader.next() }
    }

    private func answer(_ frame: Frame) throws(ControlError) -> Answer {
        let bytes: [UInt8]
        switch frame {
        case .output(let bytes): return .output(bytes)
        case .message(let message): bytes = message
        }
        let head = try ControlProtocol.decode(AnswerHead.self, bytes)
        if let error = head.error {
            let kind: ControlError.Kind =
                if let versions = head.versions { .version(versions) } else if head.isEnding { .ending } else {
                    .refused
                }
            throw ControlError(kind, error, code: head.code ?? 1)
        }
        if head.hasResult { return .result(bytes) }
        if head.hasProgress { return .progress(bytes) }
        throw ControlError(.malformed, "the crfs that owns the cache directory answered what is not understood")
    }

    /// Ends the connection, which cancels the request; a thread in `receive` comes back.
    public func hangUp() {
        _ = shutdown(socket.raw, CInt(SHUT_RDWR))
    }

    /// The value of a progress answer.
    public static func progress<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8]) throws(ControlError) -> Value {
        try ControlProtocol.decode(ProgressAnswer<Value>.self, bytes).progress
    }

    /// Sends a request and waits for its result.
    ///
    /// - Parameters:
    ///   - progress: called with each progress answer that is of type `Progress`.
    ///   - output: called with the bytes of a command's output.
    public func call<Result: Decodable, Progress: Decodable>(
        _ request: String,
        _ arguments: some Encodable,
        descriptor: CInt? = nil,
        progress: (Progress) throws -> Void = { (_: NoValue) in },
        output: ([UInt8]) throws -> Void = { _ in }
    ) throws -> Result {
        try send(request, arguments, descriptor: descriptor)
        while true {
            switch try receive() {
            case .output(let bytes): try output(bytes)
            case .progress(let bytes):
                if let value = try? ControlChannel.progress(Progress.self, bytes) { try progress(value) }
            case .result(let bytes): return try ControlProtocol.decode(ResultAnswer<Result>.self, bytes).ok
            }
        }
    }
}

private enum PosixReceive {
    static func bytes(_ socket: borrowing Descriptor) throws(SystemError) -> [UInt8] {
        let received = try Control.receive(socket, limit: 256 << 10, waits: true)
        return received.bytes
    }
}
