internal import FoundationEssentials
internal import HTTPTransport
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// A bearer token. Its text is in no description, so that no log can hold it.
struct Token: Sendable, CustomStringConvertible, CustomDebugStringConvertible {
    fileprivate let text: String
    /// Until when it is used (CLOCK_MONOTONIC, nanoseconds).
    let expiresAt: UInt64
    /// Tells tokens apart without their text.
    let serial: UInt64

    var description: String { "token \(serial)" }
    var debugDescription: String { description }

    /// The value of an Authorization header.
    var authorization: String { "Bearer \(text)" }
}

/// Fetches bearer tokens (distribution specification, "token authentication") and keeps them until they expire: one for
/// each host and scope, and one request for it however many wait. Anonymous: a source of credentials has its place in
/// `fetch`, where the token's request is made.
///
/// LOCK ORDER: the lock is a leaf.
final class TokenStore: Sendable {
    struct Key: Hashable, Sendable {
        var host: RegistryHost
        /// What is asked for: `repository:NAME:pull`, `registry:catalog:*`.
        var scope: String
    }

    private typealias Answer = Result<Token, AttemptFailure>

    private struct Entry: Sendable {
        var token: Token?
        var flight: Flight<Answer>?
    }

    private struct State: Sendable {
        var entries: [Key: Entry] = [:]
        var nextSerial: UInt64 = 0
    }

    private struct Document: Decodable {
        var token: String?
        var access_token: String?
        var expires_in: Double?
    }

    private let wire: Wire
    private let state = Mutex(State())

    /// How long one request for a token may be silent, in seconds.
    private static let patience = 10.0
    /// How long a token holds that says nothing about it, in seconds (the specification's own figure).
    private static let defaultLife = 60.0
    private static let entryLimit = 4096

    init(wire: Wire) { self.wire = wire }

    /// The token that is there and has not expired.
    func current(_ key: Key) -> Token? {
        let now = monotonicNanoseconds()
        return state.withLock { state in
            guard let token = state.entries[key]?.token, token.expiresAt > now else { return nil }
            return token
        }
    }

    /// The token for a challenge: the one that is there, unless it is the one that was just rejected, else a new one.
    func token(
        _ key: Key,
        challenge: Challenge,
        rejected: Token?,
        registry: HTTPURL,
        patience: Double
    ) async throws(AttemptFailure) -> Token {
        if let token = current(key), token.serial != rejected?.serial { return token }
        let (flight, isMine): (Flight<Answer>, Bool) = state.withLock { state in
            if let flight = state.entries[key]?.flight { return (flight, false) }
            if state.entries.count >= TokenStore.entryLimit {
                state.entries = state.entries.filter { $0.value.flight != nil }
            }
            let flight = Flight<Answer>()
            state.entries[key] = Entry(token: nil, flight: flight)
            return (flight, true)
        }
        if isMine {
            Task {
                let answer = await fetchResult(key, challenge, registry, min(patience, TokenStore.patience))
                state.withLock { $0.entries[key] = Entry(token: try? answer.get(), flight: nil) }
                flight.finish(answer)
            }
        }
        guard let answer = await flight.wait(atMost: patience) else {
            throw .transport(TransportError(.timedOut, "no token in time"), host: registry.authority)
        }
        return try answer.get()
    }

    private func fetchResult(_ key: Key, _ challenge: Challenge, _ registry: HTTPURL, _ patience: Double) async
        -> Answer
    {
        do throws(AttemptFailure) {
            return .success(try await fetch(key, challenge, registry, patience))
        } catch {
            return .failure(error)
        }
    }

    private func fetch(
        _ key: Key,
        _ challenge: Challenge,
        _ registry: HTTPURL,
        _ patience: Double
    ) async throws(AttemptFailure) -> Token {
        let url = try TokenStore.requestURL(challenge, scope: key.scope, registry: registry)
        if let objection = wire.objection(to: url, from: registry) {
            throw .final(RegistryError(.denied, "\(registry.authority) wants a token from \(url.origin), \(objection)"))
        }
        wire.counters.tokenRequests.add(1, ordering: .relaxed)
        let askedAt = monotonicNanoseconds()
        let response = try await wire.send(HTTPRequest(url), patience: patience)
        if let refusal = StatusRule.refusal(response) { throw refusal }
        guard response.status == 200 else {
            throw .final(
                RegistryError(
                    .denied,
                    "the token server \(url.origin) answered \(response.status)\(ErrorBody.detail(response))"
                        + " for \(key.scope)"
                )
            )
        }
        let document = try? JSONDecoder().decode(Document.self, from: Data(bytes(response)))
        guard let text = [document?.token, document?.access_token].compactMap({ $0 }).first(where: { !$0.isEmpty }),
            text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f })
        else {
            throw .final(RegistryError(.protocolViolation, "the token server \(url.origin) gave no token"))
        }
        let life = document?.expires_in.flatMap { $0.isFinite && $0 > 0 ? min($0, 1e6) : nil } ?? TokenStore.defaultLife
        // A little earlier than the server counts, so that it does not expire on the way.
        let usable = life - min(10, life / 5)
        return state.withLock { state in
            state.nextSerial += 1
            return Token(text: text, expiresAt: askedAt + UInt64(usable * 1e9), serial: state.nextSerial)
        }
    }

    /// The realm with `service` and `scope` in its query. A challenge without a scope means what was asked for.
    static func requestURL(
        _ challenge: Challenge,
        scope: String,
        registry: HTTPURL
    ) throws(AttemptFailure) -> HTTPURL {
        guard let realm = challenge.parameters["realm"], let base = HTTPURL(realm) else {
            throw .final(
                RegistryError(.protocolViolation, "\(registry.authority) wants a token and does not say from where")
            )
        }
        var query: [String] = []
        if let service = challenge.parameters["service"] { query.append("service=" + percentEncode(service)) }
        let challenged = challenge.parameters["scope"] ?? ""
        // Scopes are separated by blanks, and each goes into the query by itself.
        for one in (challenged.isEmpty ? scope : challenged).split(separator: " ") {
            query.append("scope=" + percentEncode(String(one)))
        }
        let separator = base.target.contains("?") ? "&" : "?"
        let target = query.isEmpty ? base.target : base.target + separator + query.joined(separator: "&")
        guard let url = base.replacingTarget(target) else {
            throw .final(RegistryError(.protocolViolation, "\(registry.authority) names a token server without a URL"))
        }
        return url
    }

    /// Everything but the unreserved characters of RFC 3986 and `:`, `/`, `,`, which a query may have.
    static func percentEncode(_ text: String) -> String {
        let digits = Array("0123456789ABCDEF".utf8)
        var result: [UInt8] = []
        for byte in text.utf8 {
            switch byte {
            case 0x30...0x39, 0x41...0x5a, 0x61...0x7a: result.append(byte)
            case _ where "-._~:/,".utf8.contains(byte): result.append(byte)
            default: result += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            }
        }
        return String(decoding: result, as: UTF8.self)
    }
}
