internal import CShims
internal import Glibc
public import Logging
public import PosixIO

/// Listens on a cache directory's control socket and runs requests.
///
/// One thread accepts, reads requests without waiting for anybody, and sees clients go; each request that is whole runs
/// on a thread of its own. So neither a client that says nothing nor one that does not take its answer holds up another.
///
/// LOCK ORDER: `state` is a leaf; handlers and system calls run without it.
public final class ControlServer: Sendable {
    private struct State: Sendable {
        var isStopping = false
        var hasStopped = false
        var running = 0
    }

    /// The most connections at once; beyond, the oldest that has not asked anything goes.
    static let mostConnections = 512
    /// The most requests at once.
    static let mostRunning = 256
    /// A request must be whole after so long, in nanoseconds.
    static let patience: UInt64 = 30_000_000_000
    /// Bytes that one turn takes from one connection.
    private static let pieceSize = 64 << 10

    private let requests: [String: ControlRequest]
    private let logger: Logger
    private let user: UInt32
    private let listener: Descriptor
    /// Bytes written to the second wake whoever waits for the first.
    private let wakeReading: Descriptor
    private let wakeWriting: Descriptor
    private let path: ControlSocketPath
    private let state = Monitor(State())

    /// Listens at once, as the user that this process runs as; the caller holds the directory's lock.
    public convenience init(directory: String, requests: [ControlRequest], logger: Logger) throws(SystemError) {
        try self.init(directory: directory, requests: requests, logger: logger, user: geteuid())
    }

    /// - Parameter user: the only one beside root who is answered.
    init(directory: String, requests: [ControlRequest], logger: Logger, user: UInt32) throws(SystemError) {
        let path = try ControlSocketPath(directory: directory)
        let listener = try path.listen()
        var ends: [CInt] = [-1, -1]
        let type = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        guard unsafe socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw SystemError.last("socketpair") }
        self.path = path
        self.listener = listener
        wakeReading = Descriptor(owning: ends[0])
        wakeWriting = Descriptor(owning: ends[1])
        self.requests = Dictionary(requests.map { ($0.name, $0) }, uniquingKeysWith: { $1 })
        self.logger = logger
        self.user = user
        startThread(named: "control") { self.serve() }
    }

    /// Ends all requests and the socket. Returns when handlers are back, or after so many seconds.
    public func stop(seconds: Double = 2) {
        state.withLock { $0.isStopping = true }
        wakeUp()
        state.wait { $0.hasStopped ? () : nil }
        _ = state.wait(nanoseconds: UInt64(seconds * 1e9)) { $0.running == 0 ? () : nil }
    }

    /// Waits for the requests that run, at most so many seconds; further ones go on being taken.
    public func drain(seconds: Double) {
        _ = state.wait(nanoseconds: UInt64(seconds * 1e9)) { $0.running == 0 ? () : nil }
    }

    private func wakeUp() {
        // A full buffer wakes as well.
        var one: UInt8 = 1
        _ = unsafe write(wakeWriting.raw, &one, 1)
    }

    // MARK: The thread

    /// A connection as the thread knows it.
    private final class Connection {
        let socket: CInt
        let process: Int32
        let since = monotonicNanoseconds()
        var reader = FrameReader()
        var descriptor: Descriptor?
        /// Owned here until the request is whole, by the call then.
        private var owned: Descriptor?
        var call: ControlCall?

        init(_ socket: consuming Descriptor, process: Int32) {
            self.socket = socket.raw
            self.process = process
            owned = .some(socket)
        }

        /// Sends what fits now, and means to close.
        func refuse(_ error: ControlError) {
            guard let bytes = try? ControlProtocol.encode(ErrorAnswer(error)) else { return }
            let frame = Frame.message(bytes).bytes
            _ = unsafe frame.withUnsafeBytes { buffer in
                unsafe send(socket, buffer.baseAddress, buffer.count, CInt(MSG_DONTWAIT | MSG_NOSIGNAL))
            }
        }

        func begin(_ request: [UInt8]) -> ControlCall? {
            guard let socket = owned.take() else { return nil }
            let call = ControlCall(socket, process: process, request: request, descriptor: descriptor.take())
            self.call = call
            return call
        }

        /// Receives what there is. Nil: the other side ended.
        func receivePiece(_ limit: Int) throws(SystemError) -> [UInt8]? {
            guard owned != nil else { return nil }
            let duplicate = Descriptor(owning: socket)
            do throws(SystemError) {
                var received = try receive(duplicate, limit: limit, waits: false)
                _ = duplicate.release()
                if let came = received.descriptor.take() { descriptor = .some(came) }
                return received.bytes.isEmpty ? nil : received.bytes
            } catch {
                _ = duplicate.release()
                throw error
            }
        }
    }

    private func serve() {
        var connections: [Connection] = []
        var pausedUntil: UInt64 = 0
        while !state.withLock({ $0.isStopping }) {
            connections.removeAll { $0.call?.isFinished ?? false }
            let isPaused = monotonicNanoseconds() < pausedUntil
            let events = wait(connections, isPaused: isPaused)
            for (index, connection) in connections.enumerated().reversed() where events[index] != 0 {
                if !attend(connection, events[index]) { connections.remove(at: index) }
            }
            let now = monotonicNanoseconds()
            connections.removeAll { $0.call == nil && now - $0.since > ControlServer.patience }
            if !isPaused, !accept(&connections) { pausedUntil = monotonicNanoseconds() + 100_000_000 }
        }
        path.remove()
        for connection in connections {
            if let call = connection.call {
                call.cancel()
            } else {
                connection.refuse(ControlServer.ending)
            }
        }
        connections = []
        state.withLock { $0.hasStopped = true }
    }

    static let ending = ControlError(.ending, "this crfs is about to end: try again")

    /// Waits until something happens; what, for each connection.
    private func wait(_ connections: [Connection], isPaused: Bool) -> [Int16] {
        var polled = [
            pollfd(fd: wakeReading.raw, events: Int16(POLLIN), revents: 0),
            pollfd(fd: isPaused ? -1 : listener.raw, events: Int16(POLLIN), revents: 0),
        ]
        var hasReading = isPaused
        for connection in connections {
            let isReading = connection.call == nil
            hasReading = hasReading || isReading
            polled.append(pollfd(fd: connection.socket, events: isReading ? Int16(POLLIN) : 0, revents: 0))
        }
        let timeout: CInt = isPaused ? 100 : (hasReading ? 1000 : -1)
        guard unsafe poll(&polled, nfds_t(polled.count), timeout) > 0 else {
            return [Int16](repeating: 0, count: connections.count)
        }
        if polled[0].revents != 0 {
            var bytes: (UInt64, UInt64) = (0, 0)
            while unsafe read(wakeReading.raw, &bytes, 16) == 16 {}
        }
        return polled.dropFirst(2).map(\.revents)
    }

    /// Takes in new connections. False when the system has no more room for them.
    private func accept(_ connections: inout [Connection]) -> Bool {
        while true {
            let raw = crfs_unix_accept(listener.raw)
            guard raw >= 0 else {
                switch errno {
                case EAGAIN: return true
                case EINTR, ECONNABORTED: continue
                default:
                    logger.warning("control socket: cannot take a connection: \(describeErrno(errno))")
                    return false
                }
            }
            let socket = Descriptor(owning: raw)
            var peer: uid_t = 0
            var process: pid_t = 0
            let isKnown = unsafe crfs_unix_peer(raw, &peer, &process) == 0
            let connection = Connection(socket, process: process)
            guard isKnown, peer == user || peer == 0 else {
                connection.refuse(ControlError(.refused, "this crfs is of user \(user) and answers nobody else"))
                continue
            }
            if connections.count >= ControlServer.mostConnections {
                guard let oldest = connections.firstIndex(where: { $0.call == nil }) else {
                    connection.refuse(ControlServer.busy)
                    continue
                }
                connections.remove(at: oldest)
            }
            connections.append(connection)
        }
    }

    private static let busy = ControlError(.refused, "this crfs has too many requests at once: try again later")

    /// Goes on with a connection. False when it is done with.
    private func attend(_ connection: Connection, _ events: Int16) -> Bool {
        if let call = connection.call {
            guard events & Int16(POLLHUP | POLLERR) != 0 else { return true }
            call.cancel()
            return false
        }
        do throws(SystemError) {
            guard let piece = try connection.receivePiece(ControlServer.pieceSize) else { return false }
            connection.reader.append(piece)
        } catch {
            return error.code == EAGAIN
        }
        do throws(ControlError) {
            switch try connection.reader.next() {
            case nil: return true
            case .output: throw ControlError(.malformed, "output where a request must be")
            case .message(let bytes): return try begin(connection, bytes)
            }
        } catch {
            connection.refuse(error)
            return false
        }
    }

    private func begin(_ connection: Connection, _ bytes: [UInt8]) throws(ControlError) -> Bool {
        let head = try ControlProtocol.decode(RequestHead.self, bytes)
        guard ControlProtocol.versions.contains(head.crfs) else {
            throw ControlError(
                .version(ControlProtocol.versions),
                "version \(head.crfs) of the control protocol is not spoken here, but \(ControlProtocol.versions)"
            )
        }
        guard let request = requests[head.request] else {
            throw ControlError(.refused, "this crfs knows no request '\(head.request)'")
        }
        let hasRoom = state.withLock { state in
            guard state.running < ControlServer.mostRunning else { return false }
            state.running += 1
            return true
        }
        guard hasRoom else { throw ControlServer.busy }
        guard let call = connection.begin(bytes) else {
            state.withLock { $0.running -= 1 }
            return false
        }
        startThread(named: "request") { self.run(request, call) }
        return true
    }

    /// Runs a request; on its own thread.
    private func run(_ request: ControlRequest, _ call: ControlCall) {
        do {
            try call.send(Frame.message(try request.run(call)).bytes)
        } catch {
            let failure = (error as? ControlError) ?? ControlError(.refused, "\(error)")
            if let bytes = try? ControlProtocol.encode(ErrorAnswer(failure)) {
                try? call.send(Frame.message(bytes).bytes)
            }
        }
        call.finish()
        state.withLock { $0.running -= 1 }
        wakeUp()
    }
}
