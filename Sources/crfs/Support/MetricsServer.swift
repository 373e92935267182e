internal import CShims
internal import Glibc
internal import PosixIO

/// Answers GET /metrics by HTTP/1.1 with a text, one connection after the other: who scrapes comes every some seconds, and
/// nobody else has anything to ask.
final class MetricsServer: Sendable {
    /// The most that a request may have, in bytes.
    private static let requestLimit = 8192
    /// How long a client may be silent, in seconds.
    private static let patience = 2

    private let listener: Descriptor

    /// Listens on `HOST:PORT` (an address, `[…]` around one of IPv6; no host: all addresses).
    init(_ address: String) throws {
        guard let colon = address.lastIndex(of: ":") else {
            throw CommandError("--metrics: \(address) is not HOST:PORT")
        }
        var host = String(address[..<colon])
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        let port = String(address[address.index(after: colon)...])
        var hints = unsafe addrinfo()
        unsafe hints.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV
        unsafe hints.ai_socktype = CInt(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let code = unsafe getaddrinfo(host.isEmpty ? nil : host, port, &hints, &list)
        defer { if let list = unsafe list { unsafe freeaddrinfo(list) } }
        guard code == 0, let found = unsafe list?.pointee else {
            throw CommandError("--metrics: \(address) is no address and port to listen on")
        }
        let raw = unsafe socket(found.ai_family, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard raw >= 0 else { throw CommandError("--metrics: \(SystemError.last("socket"))") }
        let descriptor = Descriptor(owning: raw)
        var one: CInt = 1
        _ = unsafe setsockopt(raw, SOL_SOCKET, SO_REUSEADDR, &one, socklen_t(MemoryLayout<CInt>.size))
        guard unsafe bind(raw, found.ai_addr, found.ai_addrlen) == 0, Glibc.listen(raw, 16) == 0 else {
            throw CommandError("--metrics: cannot listen on \(address): \(SystemError.last("bind").reason)")
        }
        listener = descriptor
    }

    /// Answers from now on, to the end of the process.
    func start(_ text: @escaping @Sendable () -> String) {
        startThread(named: "metrics") { [self] in
            while true {
                let raw = crfs_unix_accept(listener.raw)
                guard raw >= 0 else {
                    // Out of descriptors, mostly: it may pass.
                    if errno != EINTR && errno != ECONNABORTED { usleep(100_000) }
                    continue
                }
                answer(Descriptor(owning: raw), text)
            }
        }
    }

    private func answer(_ client: consuming Descriptor, _ text: () -> String) {
        var patience = timeval(tv_sec: MetricsServer.patience, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            _ = unsafe setsockopt(
                client.raw,
                SOL_SOCKET,
                option,
                &patience,
                socklen_t(MemoryLayout<timeval>.size)
            )
        }
        var request: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 2048)
        let end = Array("\r\n\r\n".utf8)
        while !request.contains(end) {
            let count = unsafe piece.withUnsafeMutableBytes { unsafe recv(client.raw, $0.baseAddress, $0.count, 0) }
            guard count > 0, request.count + count <= MetricsServer.requestLimit else { return }
            request += piece[..<count]
        }
        let words = request.prefix { $0 != UInt8(ascii: "\r") }.split(separator: UInt8(ascii: " "))
        let method = words.first.map { String(decoding: $0, as: UTF8.self) } ?? ""
        let target = words.count > 1 ? String(decoding: words[1], as: UTF8.self) : ""
        var status = "200 OK"
        var body = ""
        if method != "GET" && method != "HEAD" {
            status = "405 Method Not Allowed"
        } else if target.prefix(while: { $0 != "?" }) != "/metrics" {
            status = "404 Not Found"
        } else {
            body = text()
        }
        let head =
            "HTTP/1.1 \(status)\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            + "Content-Length: \(body.utf8.count)\r\nConnection: close\r\n\r\n"
        // Who does not take it has gone.
        let bytes = Array((method == "HEAD" ? head : head + body).utf8)
        try? unsafe client.writeNext(bytes.span.bytes)
    }
}
