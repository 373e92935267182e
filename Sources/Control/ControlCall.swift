internal import Glibc
public import PosixIO
internal import Synchronization

/// One request in the hands of its handler, on a thread of its own.
///
/// Answers go out from one thread at a time. A client that does not take them holds up this thread and nothing else.
///
/// LOCK ORDER: `state` is a leaf and is not held across a system call or a callback.
public final class ControlCall: Sendable {
    private struct State: ~Copyable, Sendable {
        var descriptor: Descriptor?
        var isFinished = false
    }

    let socket: Descriptor
    /// The request's bytes, a JSON object.
    let request: [UInt8]
    private let state: Mutex<State>

    /// Finished when nobody waits for the answer any more: the client is gone, or the server stops.
    public let cancelled = Completion()
    /// The client's process.
    public let process: Int32

    init(_ socket: consuming Descriptor, process: Int32, request: [UInt8], descriptor: consuming Descriptor?) {
        self.socket = socket
        self.process = process
        self.request = request
        state = Mutex(State(descriptor: descriptor))
    }

    /// Whether nobody waits for the answer any more.
    public var isCancelled: Bool { cancelled.isFinished }

    /// The descriptor that came with the request; nil when none did, or it was taken before.
    public func takeDescriptor() -> Descriptor? {
        state.withLock { $0.descriptor.take() }
    }

    /// Tells the client how far it is.
    public func progress(_ value: some Encodable) throws(ControlError) {
        try send(Frame.message(try ControlProtocol.encode(ProgressAnswer(progress: value))).bytes)
    }

    /// Bytes for the client's standard output. Cut into frames here.
    public func output(_ bytes: borrowing RawSpan) throws(ControlError) {
        var done = 0
        while done < bytes.byteCount {
            let count = min(Frame.limit, bytes.byteCount - done)
            try send(Frame.header(count: count, isOutput: true))
            try send(bytes.extracting(done..<done + count))
            done += count
        }
    }

    func send(_ bytes: [UInt8]) throws(ControlError) {
        // SAFETY: a UInt8 is one byte without padding.
        try unsafe send(bytes.span.bytes)
    }

    private func send(_ bytes: borrowing RawSpan) throws(ControlError) {
        do throws(SystemError) {
            try sendAll(socket.raw, bytes)
        } catch {
            throw ControlError(.lost, "the client is gone: \(error.reason)")
        }
    }

    /// Whether the handler has come back.
    var isFinished: Bool { state.withLock { $0.isFinished } }

    /// Nothing more is sent.
    func finish() {
        state.withLock { $0.isFinished = true }
        _ = shutdown(socket.raw, CInt(SHUT_RDWR))
    }

    /// Nobody waits any more; a handler that is just sending is woken.
    func cancel() {
        _ = shutdown(socket.raw, CInt(SHUT_RDWR))
        cancelled.finish()
    }
}

/// A kind of request: its name, and what is done for it.
public struct ControlRequest: Sendable {
    /// As it stands in messages.
    public let name: String
    let run: @Sendable (ControlCall) throws -> [UInt8]

    /// A request whose members are those of `Arguments` and whose result is an `Answer`.
    ///
    /// - Parameter body: runs on a thread that may wait. What it throws goes to the client in the words of its
    ///   description. It returns early when the call is cancelled.
    public init<Arguments: Decodable & SendableMetatype, Answer: Encodable & SendableMetatype>(
        _ name: String,
        _ arguments: Arguments.Type,
        _ body: @escaping @Sendable (Arguments, ControlCall) throws -> Answer
    ) {
        self.name = name
        run = { call in
            let arguments = try ControlProtocol.decode(Arguments.self, call.request)
            return try ControlProtocol.encode(ResultAnswer(ok: try body(arguments, call)))
        }
    }
}
