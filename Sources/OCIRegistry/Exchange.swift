internal import HTTPTransport
internal import Logging
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// What is asked of a registry.
struct Ask: Sendable {
    var host: RegistryHost
    /// Path and query on the host, from `/v2/` on.
    var target: String
    /// The scope that a token for it needs.
    var scope: String
    var method = HTTPRequest.Method.get
    var accept: String?
    var range: ByteRange?
    var priority = TransferPriority.demand
    var sink: BodySink?
    var bodyLimit = 1 << 20
    /// Whether 401 is as good an answer as any.
    var acceptsUnauthorized = false
    /// The repository that it is about; nil for none.
    var path: String?
    /// What a server must be configured for to be asked.
    var capability = Endpoint.Capabilities.pull
    /// Whether mirrors are asked at all, and the registry before them: lists are whole only there.
    var order = Order.mirrorsFirst
    /// The content that is asked for, where it has a digest: servers that gave it wrong are asked last.
    var content: Digest?

    /// Which servers are asked first.
    enum Order: Sendable {
        case mirrorsFirst, registryFirst, registryOnly
    }

    /// `repository:NAME:pull`.
    static func pullScope(_ repository: Repository) -> String { "repository:\(repository.apiName):pull" }
}

/// Makes one attempt of a request: asks the registry's mirrors and the registry in their order, finds out how to speak to
/// each, authorizes, follows redirects. Statuses that are worth another attempt come out as failures, all others as answers.
final class Exchange: Sendable {
    /// An answer, and whose it is.
    struct Answer: ~Copyable, Sendable {
        var response: HTTPResponse
        /// Whether it is another server's than the one that was asked.
        let isElsewhere: Bool
        /// The server that was asked.
        let endpoint: Endpoint
        /// When the first redirect was made by its server's clock (seconds since 1970); nil where it does not say.
        var redirectedAt: Int64?
        /// Where a redirect leads that was not to be followed.
        var redirect: HTTPURL?
    }

    /// Hears of the first redirect to another server, before it is followed: where to, and the server's clock.
    typealias RedirectObserver = @Sendable (_ url: HTTPURL, _ date: Int64?) -> Void

    let wire: Wire
    let hosts: HostTable
    let health = HealthTable()
    private let schemes: SchemeTable
    private let tokens: TokenStore
    /// Servers that gave content with a wrong digest.
    private let liars = Mutex<Set<Lie>>([])

    private struct Lie: Hashable, Sendable {
        var endpoint: String
        var content: Digest
    }

    /// How many redirects of one request are followed.
    static let redirectLimit = 5
    /// How many tokens one attempt tries: a second one, because the first can expire on the way.
    private static let tokenLimit = 2
    /// How long a connection to a server may take, and how long it may be silent, where another one can be asked instead;
    /// in seconds.
    private static let dialPatience = 3.0
    private static let silencePatience = 10.0

    init(wire: Wire) {
        self.wire = wire
        hosts = HostTable(directory: wire.options.hostsDirectory, caFile: wire.options.caFile, log: wire.log)
        schemes = SchemeTable(wire: wire)
        tokens = TokenStore(wire: wire)
    }

    /// How many servers can be asked for a registry's content.
    func serverCount(_ host: RegistryHost) -> Int { hosts.endpoints(of: host).count }

    /// Notes that a server gave content that is not what it was asked for.
    func distrust(_ endpoint: String, _ content: Digest) {
        liars.withLock { liars in
            if liars.count >= 4096 { liars.removeAll() }
            liars.insert(Lie(endpoint: endpoint, content: content))
        }
    }

    // MARK: Which server

    /// The servers for a request, in the order in which they are asked: those that do not work at the moment come after the
    /// others, and those that gave this content wrong last.
    private func candidates(_ ask: Ask) -> [Endpoint] {
        let all = hosts.endpoints(of: ask.host)
        guard all.count > 1 else { return all }
        var chosen: [Endpoint] =
            switch ask.order {
            case .mirrorsFirst: all.filter { $0.isRegistry || $0.capabilities.contains(ask.capability) }
            case .registryFirst:
                all.filter(\.isRegistry) + all.filter { !$0.isRegistry && $0.capabilities.contains(ask.capability) }
            case .registryOnly: all.filter(\.isRegistry)
            }
        let down = chosen.filter { endpoint in
            !health.isUp(endpoint.name) { [self] in await probe(ask.host, endpoint) }
        }
        if !down.isEmpty {
            let names = Set(down.map(\.name))
            chosen = chosen.filter { !names.contains($0.name) } + down
        }
        guard let content = ask.content else { return chosen }
        let lying = liars.withLock { liars in
            Set(chosen.map(\.name).filter { liars.contains(Lie(endpoint: $0, content: content)) })
        }
        return chosen.filter { !lying.contains($0.name) } + chosen.filter { lying.contains($0.name) }
    }

    /// Whether a server is back: any answer of its own will do.
    private func probe(_ host: RegistryHost, _ endpoint: Endpoint) async -> Bool {
        let ask = Ask(host: host, target: "/v2/", scope: "", acceptsUnauthorized: true)
        let budget = RetryBudget(seconds: Exchange.silencePatience, now: monotonicNanoseconds())
        do throws(AttemptFailure) {
            _ = try await perform(ask, at: endpoint, budget, isLast: false, nil)
            wire.log.notice("\(endpoint.name) answers again, for \(host)")
            return true
        } catch {
            return false
        }
    }

    /// Asks one server after the other. Only the registry's own word counts for what is not there; and not even that for
    /// content by digest while a mirror is away that may well have it.
    ///
    /// - Parameter followsRedirect: false: the answer is the redirect itself.
    func perform(
        _ ask: Ask,
        _ budget: RetryBudget,
        followsRedirect: Bool = true,
        onRedirect: RedirectObserver? = nil
    ) async throws(AttemptFailure) -> Answer {
        let candidates = candidates(ask)
        var failure: AttemptFailure?
        for (index, endpoint) in candidates.enumerated() {
            let isLast = index == candidates.count - 1
            do throws(AttemptFailure) {
                let answer = try await perform(
                    ask,
                    at: endpoint,
                    budget,
                    isLast: isLast,
                    followsRedirect: followsRedirect,
                    onRedirect
                )
                if candidates.count > 1 { health.worked(endpoint.name) }
                let isMiss = answer.response.status >= 400
                if !isMiss || (endpoint.isRegistry && failure == nil) { return answer }
                if endpoint.isRegistry, ask.capability == .resolve { return answer }
                if isLast, failure == nil { return answer }
            } catch {
                if candidates.count == 1 || !note(error, of: endpoint, ask) { throw error }
                if endpoint.isRegistry, ask.capability == .resolve, !error.isRetryable { throw error }
                // What a further attempt can overcome counts more than what it cannot.
                if endpoint.isRegistry || error.isRetryable, failure?.isRetryable != true { failure = error }
            }
        }
        throw failure ?? .final(RegistryError(.protocolViolation, "no server is configured for \(ask.host)"))
    }

    /// Notes that a server failed; false where no other one may be asked in its place in this attempt.
    private func note(_ error: AttemptFailure, of endpoint: Endpoint, _ ask: Ask) -> Bool {
        switch error {
        case .transport(let reason, _):
            if reason.kind == .cancelled || reason.kind == .outOfMemory { return false }
        case .refused: break
        // It works, and does not give us this.
        case .once, .final: return true
        }
        if health.failed(endpoint.name) {
            wire.log.notice("\(endpoint.name) does not work for \(ask.host): \(error.reason); asking the next server")
        }
        // What a sink took is not to come a second time: the next attempt asks for the rest.
        if case .transport(let reason, _) = error, ask.sink != nil, reason.bytesReceived > 0 { return false }
        return true
    }

    // MARK: One server

    private func perform(
        _ ask: Ask,
        at endpoint: Endpoint,
        _ budget: RetryBudget,
        isLast: Bool,
        followsRedirect: Bool = true,
        _ onRedirect: RedirectObserver?
    ) async throws(AttemptFailure) -> Answer {
        let origin: HTTPURL
        switch endpoint.base {
        case .origin(let url): origin = url
        case .host(let host):
            origin = try await schemes.origin(of: host, tls: endpoint.tls, patience: patience(budget))
        }
        guard let url = origin.replacingTarget(endpoint.path(ask.target)) else {
            throw .final(RegistryError(.protocolViolation, "\(endpoint.name)\(ask.target) is no URL"))
        }
        let request = request(ask, url, endpoint, isLast: isLast)
        let key = TokenStore.Key(server: url.origin, scope: ask.scope)
        var authorization = ask.acceptsUnauthorized ? nil : tokens.current(key)
        var fetched = 0
        while true {
            let answer = try await follow(
                request,
                endpoint,
                authorization,
                budget,
                isLast: isLast,
                followsRedirect: followsRedirect,
                onRedirect
            )
            guard answer.response.status == 401, !answer.isElsewhere, !ask.acceptsUnauthorized,
                fetched < Exchange.tokenLimit
            else { return try checked(answer) }
            let demand = TokenStore.Demand(
                challenges: Challenge.parse(answer.response.headers.all("www-authenticate")),
                registry: url,
                place: CredentialPlace(authority: url.authority, path: ask.path),
                tls: endpoint.tls
            )
            let next = try await tokens.authorization(
                key,
                demand,
                rejected: authorization,
                patience: patience(budget)
            )
            guard let next else { return try checked(answer) }
            authorization = next
            fetched += 1
        }
    }

    private func request(_ ask: Ask, _ url: HTTPURL, _ endpoint: Endpoint, isLast: Bool) -> HTTPRequest {
        var request = HTTPRequest(url)
        request.method = ask.method
        request.range = ask.range
        request.priority = ask.priority
        request.sink = ask.sink
        request.bodyLimit = ask.bodyLimit
        request.tls = endpoint.tls
        if let accept = ask.accept { request.headers.append(("Accept", accept)) }
        if let seconds = endpoint.dialTimeout {
            request.connectTimeout = seconds
        } else if !isLast {
            request.connectTimeout = Exchange.dialPatience
        }
        return request
    }

    /// Sends a request and follows its redirects. The authorization and the configured header fields go only to the server
    /// that the request is for, and not to it either once another one was in between.
    func follow(
        _ request: HTTPRequest,
        _ endpoint: Endpoint,
        _ authorization: Authorization?,
        _ budget: RetryBudget,
        isLast: Bool = true,
        followsRedirect: Bool = true,
        _ onRedirect: RedirectObserver? = nil
    ) async throws(AttemptFailure) -> Answer {
        let home = request.url
        var request = request
        var isElsewhere = false
        var redirects = 0
        var redirectedAt: Int64?
        while true {
            var sent = request
            if !isElsewhere { authorize(&sent, endpoint, authorization) }
            let response = try await wire.send(
                sent,
                patience: patience(budget),
                silence: isLast ? nil : Exchange.silencePatience,
                fresh: budget.lastWasSilent && redirects == 0
            )
            guard [301, 302, 303, 307, 308].contains(response.status) else {
                return Answer(
                    response: response,
                    isElsewhere: isElsewhere,
                    endpoint: endpoint,
                    redirectedAt: redirectedAt
                )
            }
            let next = try target(response, from: home)
            redirects += 1
            guard redirects <= Exchange.redirectLimit else {
                throw violation("\(home.authority) redirects more than \(Exchange.redirectLimit) times")
            }
            wire.counters.redirects.add(1, ordering: .relaxed)
            if next.origin != home.origin {
                if !isElsewhere {
                    redirectedAt = response.headers["date"].flatMap { RetryAfter.parseDate($0) }
                    onRedirect?(next, redirectedAt)
                }
                isElsewhere = true
            }
            // What was configured for the registry's server is not for others.
            request.tls = next.origin == home.origin ? endpoint.tls : hosts.trust(next.authority)
            if !followsRedirect {
                return Answer(
                    response: response,
                    isElsewhere: isElsewhere,
                    endpoint: endpoint,
                    redirectedAt: redirectedAt,
                    redirect: next
                )
            }
            request.url = next
        }
    }

    /// Where a redirect leads.
    private func target(_ response: borrowing HTTPResponse, from home: HTTPURL) throws(AttemptFailure) -> HTTPURL {
        let server = response.url
        guard let location = response.headers["location"], let next = server.resolving(location) else {
            throw violation("\(server.authority) redirects to nowhere")
        }
        if let objection = wire.objection(to: next, from: home) {
            throw violation("\(server.authority) redirects to \(next.origin), \(objection)")
        }
        return next
    }

    private func authorize(_ request: inout HTTPRequest, _ endpoint: Endpoint, _ authorization: Authorization?) {
        for (name, value) in endpoint.headers {
            if authorization != nil, name.lowercased() == "authorization" { continue }
            if let text = value.headerText() { request.headers.append((name, text)) }
        }
        if let text = authorization?.value { request.headers.append(("Authorization", text)) }
    }

    func patience(_ budget: RetryBudget) -> Double { budget.remaining(now: monotonicNanoseconds()) }

    private func checked(_ answer: consuming Answer) throws(AttemptFailure) -> Answer {
        if let refusal = StatusRule.refusal(answer.response) { throw refusal }
        return answer
    }

    private func violation(_ text: String) -> AttemptFailure { .final(RegistryError(.protocolViolation, text)) }
}
