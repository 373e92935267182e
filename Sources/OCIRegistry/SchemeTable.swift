internal import HTTPTransport
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// Knows how each host is spoken to: HTTPS; plain HTTP where the options say so, and on this machine where TLS cannot be
/// spoken. What was found out about a host of this machine holds for as long as the process lives.
///
/// LOCK ORDER: the lock is a leaf.
final class SchemeTable: Sendable {
    private typealias Answer = Result<String, AttemptFailure>

    private enum State: Sendable {
        case known(String)
        case probing(Flight<Answer>)
    }

    private let wire: Wire
    private let states = Mutex<[RegistryHost: State]>([:])

    /// How long a server of this machine may take to begin a TLS handshake, in seconds. One that speaks plain HTTP can
    /// wait for the end of a line that never comes.
    private static let handshakePatience = 2.0

    init(wire: Wire) { self.wire = wire }

    /// `scheme://authority` of a host.
    func origin(
        of host: RegistryHost,
        tls: TLSSettings,
        patience: Double
    ) async throws(AttemptFailure) -> HTTPURL {
        let scheme = try await scheme(of: host, tls, patience: patience)
        guard let url = HTTPURL("\(scheme)://\(host.apiAuthority)/") else {
            throw .final(RegistryError(.protocolViolation, "\(host) makes no URL"))
        }
        return url
    }

    private func scheme(
        of host: RegistryHost,
        _ tls: TLSSettings,
        patience: Double
    ) async throws(AttemptFailure) -> String {
        if wire.options.insecureHosts.contains(host.name) { return "http" }
        guard host.isLoopback else { return "https" }
        let (flight, isMine): (Flight<Answer>?, Bool) = states.withLock { states in
            switch states[host] {
            case .known: return (nil, false)
            case .probing(let flight): return (flight, false)
            case nil:
                let flight = Flight<Answer>()
                states[host] = .probing(flight)
                return (flight, true)
            }
        }
        guard let flight else { return knownScheme(host) }
        if isMine {
            Task {
                let answer = await probe(host, tls)
                states.withLock { states in
                    if case .success(let scheme) = answer { states[host] = .known(scheme) } else { states[host] = nil }
                }
                flight.finish(answer)
            }
        }
        guard let answer = await flight.wait(atMost: patience) else {
            throw .transport(TransportError(.timedOut, "no answer to the first request"), host: host.name)
        }
        return try answer.get()
    }

    private func knownScheme(_ host: RegistryHost) -> String {
        states.withLock { states in
            if case .known(let scheme) = states[host] { return scheme }
            return "https"
        }
    }

    /// Any answer over TLS means HTTPS. Only when TLS itself fails, plain HTTP is tried: not for an untrusted
    /// certificate, which shows that TLS is spoken. A TLS server answers a plain request with 400.
    private func probe(_ host: RegistryHost, _ tls: TLSSettings) async -> Answer {
        do throws(AttemptFailure) {
            _ = try await ask(host, tls, "https", patience: SchemeTable.handshakePatience)
            return .success("https")
        } catch {
            guard case .transport(let reason, _) = error,
                reason.kind == .tlsHandshake || reason.kind == .timedOut || reason.kind == .connectionLost
            else { return .failure(error) }
            let status = try? await ask(host, tls, "http", patience: wire.options.stallSeconds)
            if let status, status != 400 { return .success("http") }
            return .failure(error)
        }
    }

    private func ask(
        _ host: RegistryHost,
        _ tls: TLSSettings,
        _ scheme: String,
        patience: Double
    ) async throws(AttemptFailure) -> Int {
        guard let url = HTTPURL("\(scheme)://\(host.apiAuthority)/v2/") else {
            throw .final(RegistryError(.protocolViolation, "\(host) makes no URL"))
        }
        var request = HTTPRequest(url)
        request.tls = tls
        return try await wire.send(request, patience: patience).status
    }
}
