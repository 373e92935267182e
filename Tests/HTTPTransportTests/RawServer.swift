import Glibc
import HTTPTransport
import PosixIO
import Synchronization
import TestSupport

/// A server that answers with bytes, whatever they are: for what no well-behaved server sends.
final class RawServer: Sendable {
    /// What happens to one request.
    struct Reply {
        /// What is written.
        var bytes: [UInt8]
        /// What happens then.
        var then = Then.keepOpen

        enum Then {
            /// The next request is awaited.
            case keepOpen
            /// The connection ends.
            case close
            /// Nothing is read or written any more; the connection stays until the client ends it.
            case hold
            /// The same bytes again, until the client goes.
            case forever
        }

        init(_ text: String, then: Then = .keepOpen) {
            bytes = Array(text.utf8)
            self.then = then
        }
    }

    private struct Seen {
        var requests: [String] = []
        var connections = 0
        var open = 0
        var mostOpen = 0
    }

    let port: UInt16
    private let listener: Descriptor
    private let seen = Mutex(Seen())
    private let handler: @Sendable (String) -> Reply

    /// Listens on a free port of 127.0.0.1 and answers each request (its head, as text) with what `handler` gives.
    init(_ handler: @escaping @Sendable (String) -> Reply) throws {
        self.handler = handler
        let descriptor = Descriptor(owning: socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let failed = unsafe withUnsafeMutablePointer(to: &address) { pointer in
            // SAFETY: a sockaddr_in is a sockaddr, and its size is given.
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                unsafe bind(descriptor.raw, pointer, length) != 0 || listen(descriptor.raw, 512) != 0
                    || getsockname(descriptor.raw, pointer, &length) != 0
            }
        }
        guard !failed else { throw SystemError.last("listen") }
        port = UInt16(bigEndian: address.sin_port)
        let raw = descriptor.raw
        listener = descriptor
        startThread(named: "raw-server") { [weak self] in
            while true {
                let connection = accept(raw, nil, nil)
                guard connection >= 0 else { return }
                let owned = Descriptor(owning: connection)
                guard let self else { return }
                self.serve(consume owned)
            }
        }
    }

    deinit {
        // Ends the thread's accept(2).
        shutdown(listener.raw, CInt(SHUT_RDWR))
    }

    func url(_ path: String = "/") -> HTTPURL {
        guard let url = HTTPURL("http://127.0.0.1:\(port)\(path)") else { preconditionFailure("no URL: \(path)") }
        return url
    }

    /// The heads of all requests so far.
    var requests: [String] { seen.withLock { $0.requests } }
    /// How many connections there were.
    var connections: Int { seen.withLock { $0.connections } }
    /// How many there are now.
    var open: Int { seen.withLock { $0.open } }
    /// How many there were at once.
    var mostOpen: Int { seen.withLock { $0.mostOpen } }

    private func serve(_ connection: consuming Descriptor) {
        seen.withLock { seen in
            seen.connections += 1
            seen.open += 1
            seen.mostOpen = max(seen.mostOpen, seen.open)
        }
        let raw = connection.release()
        startThread(named: "raw-connection") { [self] in
            let connection = Descriptor(owning: raw)
            while let head = readHead(connection) {
                seen.withLock { $0.requests.append(head) }
                let reply = handler(head)
                var written = write(reply.bytes, to: connection)
                while written, reply.then == .forever { written = write(reply.bytes, to: connection) }
                if reply.then == .hold { _ = readHead(connection) }
                if reply.then != .keepOpen { break }
            }
            seen.withLock { $0.open -= 1 }
        }
    }

    private func readHead(_ connection: borrowing Descriptor) -> String? {
        var head: [UInt8] = []
        while !head.reversed().starts(with: [10, 13, 10, 13]) {
            var byte: UInt8 = 0
            guard unsafe read(connection.raw, &byte, 1) == 1 else { return nil }
            head.append(byte)
        }
        return String(decoding: head, as: UTF8.self)
    }

    private func write(_ bytes: [UInt8], to connection: borrowing Descriptor) -> Bool {
        var done = 0
        while done < bytes.count {
            // SAFETY: the buffer is what is left of the array.
            let count = unsafe bytes[done...].withUnsafeBytes { buffer in
                unsafe send(connection.raw, buffer.baseAddress, buffer.count, CInt(MSG_NOSIGNAL))
            }
            guard count > 0 else { return false }
            done += count
        }
        return true
    }
}
