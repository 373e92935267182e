internal import FoundationEssentials
internal import HTTPTransport
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// The value of an Authorization header that a registry gave us the right to. Its text is in no description, so that no
/// log can hold it.
struct Authorization: Sendable, CustomStringConvertible, CustomDebugStringConvertible {
    fileprivate let header: Secret
    /// Until when it is used (CLOCK_MONOTONIC, nanoseconds).
    let expiresAt: UInt64
    /// From when on the next one is fetched, while this one is still used.
    let refreshAt: UInt64
    /// Tells them apart without their text.
    let serial: UInt64
    /// What basic authentication sent, to refuse it; nil for a token.
    fileprivate let credential: Credential?

    var description: String { "authorization \(serial)" }
    var debugDescription: String { description }

    /// The header's value; nil when it cannot be one.
    var value: String? { header.headerText() }
}

/// Authorizes requests: bearer tokens (distribution specification, "token authentication") and basic authentication, with
/// the credentials of `CredentialStore`. A token is kept until it expires: one for each server and scope, one request for
/// it however many wait, and the next one fetched before the last one's end.
///
/// LOCK ORDER: the lock is a leaf.
final class TokenStore: Sendable {
    struct Key: Hashable, Sendable {
        /// `scheme://host:port` of the server that wants it.
        var server: String
        /// What is asked for: `repository:NAME:pull`, `registry:catalog:*`.
        var scope: String
    }

    /// What a server wants, and who it is.
    struct Demand: Sendable {
        var challenges: [Challenge]
        /// The server's URL.
        var registry: HTTPURL
        var place: CredentialPlace
        var tls: TLSSettings

        var bearer: Challenge? { challenges.first { $0.scheme == "bearer" } }
        var isBasic: Bool { challenges.contains { $0.scheme == "basic" } }
    }

    private typealias Answer = Result<Authorization?, AttemptFailure>

    private struct Entry: Sendable {
        var authorization: Authorization?
        var flight: Flight<Answer>?
        /// How it was asked for the last time.
        var demand: Demand?
        /// When a refresh ahead of the end may be tried again.
        var notBefore: UInt64 = 0
    }

    private struct State: Sendable {
        var entries: [Key: Entry] = [:]
        var nextSerial: UInt64 = 0
        /// The credentials' state that the entries were made with.
        var generation: UInt64 = 0
    }

    private struct Document: Decodable {
        var token: String?
        var access_token: String?
        var expires_in: Double?
    }

    private let wire: Wire
    private let credentials: CredentialStore?
    private let state = Mutex(State())

    /// How long one request for a token may be silent, in seconds.
    private static let patience = 10.0
    /// How long a token holds that says nothing about it, in seconds (the specification's own figure).
    private static let defaultLife = 60.0
    private static let entryLimit = 4096

    init(wire: Wire) {
        self.wire = wire
        credentials = wire.options.credentials.map {
            CredentialStore($0, transport: wire.transport, log: wire.log)
        }
    }

    /// What is there and has not expired; starts to fetch the next one when the end is near.
    func current(_ key: Key) -> Authorization? {
        let now = monotonicNanoseconds()
        let generation = credentials?.generation ?? 0
        let (authorization, refresh): (Authorization?, (Demand, Flight<Answer>)?) = state.withLock { state in
            if generation != state.generation {
                // Somebody logged in or out.
                state.generation = generation
                for key in state.entries.keys { state.entries[key]?.authorization = nil }
            }
            guard let entry = state.entries[key], let known = entry.authorization, known.expiresAt > now else {
                return (nil, nil)
            }
            guard now >= known.refreshAt, now >= entry.notBefore, entry.flight == nil, let demand = entry.demand
            else { return (known, nil) }
            let flight = Flight<Answer>()
            state.entries[key]?.flight = flight
            return (known, (demand, flight))
        }
        if let (demand, flight) = refresh { run(key, demand, flight, TokenStore.patience) }
        return authorization
    }

    /// What a server that answered 401 is to get: what is there, unless it is what was just rejected, else something new;
    /// nil where there is nothing to be had.
    func authorization(
        _ key: Key,
        _ demand: Demand,
        rejected: Authorization?,
        patience: Double
    ) async throws(AttemptFailure) -> Authorization? {
        if let known = current(key), known.serial != rejected?.serial { return known }
        guard demand.bearer != nil || demand.isBasic else { return nil }
        let (flight, isMine): (Flight<Answer>, Bool) = state.withLock { state in
            if let flight = state.entries[key]?.flight { return (flight, false) }
            if state.entries.count >= TokenStore.entryLimit {
                state.entries = state.entries.filter { $0.value.flight != nil }
            }
            let flight = Flight<Answer>()
            state.entries[key] = Entry(flight: flight, demand: demand)
            return (flight, true)
        }
        if isMine {
            let patience = min(patience, CredentialHelper.patience + TokenStore.patience)
            run(key, demand, flight, patience, refused: rejected?.credential)
        }
        guard let answer = await flight.wait(atMost: patience) else {
            throw .transport(TransportError(.timedOut, "no token in time"), host: demand.registry.authority)
        }
        return try answer.get()
    }

    /// Fetches in a task of its own, so that it goes on when who asked first gives up.
    private func run(
        _ key: Key,
        _ demand: Demand,
        _ flight: Flight<Answer>,
        _ patience: Double,
        refused: Credential? = nil
    ) {
        Task {
            if let refused { credentials?.refuse(refused) }
            let answer = await fetchResult(key, demand, refused, patience)
            state.withLock { state in
                var entry = state.entries[key] ?? Entry()
                entry.flight = nil
                switch answer {
                case .success(let authorization):
                    entry.authorization = authorization
                    entry.demand = demand
                case .failure:
                    // What is there goes on being used to its end.
                    entry.notBefore = monotonicNanoseconds() + 1_000_000_000
                }
                state.entries[key] = entry
            }
            flight.finish(answer)
        }
    }

    private func fetchResult(
        _ key: Key,
        _ demand: Demand,
        _ refused: Credential?,
        _ patience: Double
    ) async -> Answer {
        do throws(AttemptFailure) {
            let credential = await credentials?.credential(for: demand.place, patience: patience)
            if let credential, credential.proof == refused?.proof {
                credentials?.complain("\(demand.place.host) refuses the credential from \(credential.source)")
                return .success(nil)
            }
            if case .bearer(let secret)? = credential?.proof, demand.bearer != nil {
                return .success(lasting(Secret("Bearer " + (secret.headerText() ?? "")), credential))
            }
            if demand.bearer == nil {
                return .success(credential.flatMap { lasting($0.basic, $0) })
            }
            return .success(try await fetch(key, demand, credential, patience))
        } catch {
            return .failure(error)
        }
    }

    /// One that holds until it is refused.
    private func lasting(_ header: Secret?, _ credential: Credential?) -> Authorization? {
        guard let header else { return nil }
        return make(header, expiresAt: .max, refreshAt: .max, credential)
    }

    private func make(
        _ header: Secret,
        expiresAt: UInt64,
        refreshAt: UInt64,
        _ credential: Credential?
    ) -> Authorization {
        state.withLock { state in
            state.nextSerial += 1
            return Authorization(
                header: header,
                expiresAt: expiresAt,
                refreshAt: refreshAt,
                serial: state.nextSerial,
                credential: credential
            )
        }
    }

    /// Asks the token server; once more, with what the helper says then, when it refuses the credential.
    private func fetch(
        _ key: Key,
        _ demand: Demand,
        _ credential: Credential?,
        _ patience: Double
    ) async throws(AttemptFailure) -> Authorization {
        guard let challenge = demand.bearer else {
            throw .final(RegistryError(.denied, "\(demand.registry.authority) wants no token"))
        }
        let realm = try TokenRequest.realm(challenge, registry: demand.registry)
        if let objection = wire.objection(to: realm, from: demand.registry) {
            throw .final(
                RegistryError(.denied, "\(demand.registry.authority) wants a token from \(realm.origin), \(objection)")
            )
        }
        let server = TokenServer(wire: wire, realm: realm, challenge: challenge, scope: key.scope, demand: demand)
        var credential = credential
        var askedAt = monotonicNanoseconds()
        var response = try await server.ask(credential, patience)
        if response.status == 401, let refused = credential {
            credentials?.refuse(refused)
            credential = await credentials?.credential(for: demand.place, patience: patience)
            if let credential, credential.proof != refused.proof {
                askedAt = monotonicNanoseconds()
                response = try await server.ask(credential, patience)
            }
        }
        if let refusal = StatusRule.refusal(response) { throw refusal }
        guard response.status == 200 else {
            if let credential {
                credentials?.complain("\(realm.origin) refuses the credential from \(credential.source) for \(key.scope)")
            }
            throw server.denial(response, credential)
        }
        let document = try? JSONDecoder().decode(Document.self, from: Data(bytes(response)))
        guard let text = [document?.token, document?.access_token].compactMap({ $0 }).first(where: { !$0.isEmpty }),
            text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f })
        else {
            throw .final(RegistryError(.protocolViolation, "the token server \(realm.origin) gave no token"))
        }
        let life = document?.expires_in.flatMap { $0.isFinite && $0 > 0 ? min($0, 1e6) : nil } ?? TokenStore.defaultLife
        // A little earlier than the server counts, so that it does not expire on the way.
        let usable = life - min(10, life / 5)
        let early = usable - min(60, usable / 2)
        return make(
            Secret("Bearer " + text),
            expiresAt: askedAt + UInt64(usable * 1e9),
            refreshAt: askedAt + UInt64(early * 1e9),
            nil
        )
    }
}

/// One token server and what it is asked for.
private struct TokenServer: Sendable {
    let wire: Wire
    let realm: HTTPURL
    let challenge: Challenge
    let scope: String
    let demand: TokenStore.Demand

    /// Who we say that we are to servers that want to know.
    private static let clientID = "crfs"

    /// Asks for a token: with a refresh token by POST, else, and where POST is not known, by GET.
    func ask(_ credential: Credential?, _ patience: Double) async throws(AttemptFailure) -> HTTPResponse {
        if case .identity(_, let secret)? = credential?.proof {
            let response = try await send(method: .form(form(secret)), realm, nil, patience)
            guard response.status == 404 || response.status == 405 else { return response }
        }
        let url = try TokenRequest.url(challenge, scope: scope, realm: realm, registry: demand.registry)
        return try await send(method: .get, url, credential?.basic, patience)
    }

    /// Redirects are not followed: the credential is for this server.
    private func send(
        method: HTTPRequest.Method,
        _ url: HTTPURL,
        _ authorization: Secret?,
        _ patience: Double
    ) async throws(AttemptFailure) -> HTTPResponse {
        var request = HTTPRequest(url)
        request.method = method
        if url.origin == demand.registry.origin { request.tls = demand.tls }
        if let authorization {
            guard let value = authorization.headerText() else {
                throw .final(RegistryError(.denied, "the credential for \(demand.place.host) cannot be sent"))
            }
            request.headers.append(("Authorization", value))
        }
        wire.counters.tokenRequests.add(1, ordering: .relaxed)
        return try await wire.send(request, patience: patience)
    }

    private func form(_ secret: Secret) -> String {
        var fields = ["grant_type=refresh_token", "client_id=" + TokenServer.clientID]
        if let service = challenge.parameters["service"] { fields.append("service=" + percentEncode(service.utf8)) }
        fields.append("scope=" + percentEncode(TokenRequest.scopes(challenge, scope).utf8))
        fields.append("refresh_token=" + secret.formText())
        return fields.joined(separator: "&")
    }

    /// Why there is no token. A server's own words could repeat what it was sent, so that they count only where that
    /// was nothing.
    func denial(_ response: borrowing HTTPResponse, _ credential: Credential?) -> AttemptFailure {
        let detail = credential == nil ? ErrorBody.detail(response) : " to the credential from \(credential!.source)"
        return .final(
            RegistryError(
                .denied,
                "the token server \(realm.origin) answered \(response.status)\(detail) for \(scope); "
                    + "log in again, if \(demand.place.host) wants a login"
            )
        )
    }
}

/// What a request for a token says.
enum TokenRequest {
    /// Where the challenge says that tokens come from.
    static func realm(_ challenge: Challenge, registry: HTTPURL) throws(AttemptFailure) -> HTTPURL {
        guard let realm = challenge.parameters["realm"], let url = HTTPURL(realm) else {
            throw .final(
                RegistryError(.protocolViolation, "\(registry.authority) wants a token and does not say from where")
            )
        }
        return url
    }

    /// The scopes that the challenge names; one without any means what was asked for.
    static func scopes(_ challenge: Challenge, _ scope: String) -> String {
        let challenged = challenge.parameters["scope"] ?? ""
        return challenged.isEmpty ? scope : challenged
    }

    /// The realm with `service` and `scope` in its query.
    static func url(
        _ challenge: Challenge,
        scope: String,
        realm: HTTPURL,
        registry: HTTPURL
    ) throws(AttemptFailure) -> HTTPURL {
        var query: [String] = []
        if let service = challenge.parameters["service"] { query.append("service=" + percentEncode(service.utf8)) }
        // Scopes are separated by blanks, and each goes into the query by itself.
        for one in scopes(challenge, scope).split(separator: " ") { query.append("scope=" + percentEncode(one.utf8)) }
        let separator = realm.target.contains("?") ? "&" : "?"
        let target = query.isEmpty ? realm.target : realm.target + separator + query.joined(separator: "&")
        guard let url = realm.replacingTarget(target) else {
            throw .final(RegistryError(.protocolViolation, "\(registry.authority) names a token server without a URL"))
        }
        return url
    }
}
