internal import HTTPTransport
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

    /// `repository:NAME:pull`.
    static func pullScope(_ repository: Repository) -> String { "repository:\(repository.apiName):pull" }
}

/// Makes one attempt of a request: finds out how to speak to the host, gets a token where one is asked for, follows
/// redirects. Statuses that are worth another attempt come out as failures, all others as answers.
final class Exchange: Sendable {
    /// An answer, and whether it is another server's than the registry's.
    struct Answer: ~Copyable, Sendable {
        var response: HTTPResponse
        let isElsewhere: Bool
    }

    let wire: Wire
    private let schemes: SchemeTable
    private let tokens: TokenStore

    /// How many redirects of one request are followed.
    static let redirectLimit = 5
    /// How many tokens one attempt tries: a second one, because the first can expire on the way.
    private static let tokenLimit = 2

    init(wire: Wire) {
        self.wire = wire
        schemes = SchemeTable(wire: wire)
        tokens = TokenStore(wire: wire)
    }

    func perform(_ ask: Ask, _ budget: RetryBudget) async throws(AttemptFailure) -> Answer {
        let origin = try await schemes.origin(of: ask.host, patience: patience(budget))
        guard let url = origin.replacingTarget(ask.target) else {
            throw .final(RegistryError(.protocolViolation, "\(ask.host)\(ask.target) is no URL"))
        }
        var request = HTTPRequest(url)
        request.method = ask.method
        request.range = ask.range
        request.priority = ask.priority
        request.sink = ask.sink
        request.bodyLimit = ask.bodyLimit
        if let accept = ask.accept { request.headers.append(("Accept", accept)) }

        let key = TokenStore.Key(host: ask.host, scope: ask.scope)
        var token = ask.acceptsUnauthorized ? nil : tokens.current(key)
        var fetched = 0
        while true {
            let answer = try await follow(request, token, budget)
            guard answer.response.status == 401, !answer.isElsewhere, !ask.acceptsUnauthorized,
                fetched < Exchange.tokenLimit
            else { return try checked(answer) }
            let challenges = Challenge.parse(answer.response.headers.all("www-authenticate"))
            guard let challenge = challenges.first(where: { $0.scheme == "bearer" }) else { return try checked(answer) }
            token = try await tokens.token(
                key,
                challenge: challenge,
                rejected: token,
                registry: url,
                patience: patience(budget)
            )
            fetched += 1
        }
    }

    /// Sends a request and follows its redirects. The token goes only to the server that the request is for, and not
    /// to it either once another one was in between.
    func follow(
        _ request: HTTPRequest,
        _ token: Token?,
        _ budget: RetryBudget
    ) async throws(AttemptFailure) -> Answer {
        let home = request.url
        var request = request
        var isElsewhere = false
        var redirects = 0
        while true {
            var sent = request
            if let token, !isElsewhere { sent.headers.append(("Authorization", token.authorization)) }
            let response = try await wire.send(
                sent,
                patience: patience(budget),
                fresh: budget.lastWasSilent && redirects == 0
            )
            guard [301, 302, 303, 307, 308].contains(response.status) else {
                return Answer(response: response, isElsewhere: isElsewhere)
            }
            guard let location = response.headers["location"], let next = request.url.resolving(location) else {
                throw violation("\(request.url.authority) redirects to nowhere")
            }
            if let objection = wire.objection(to: next, from: home) {
                throw violation("\(request.url.authority) redirects to \(next.origin), \(objection)")
            }
            redirects += 1
            guard redirects <= Exchange.redirectLimit else {
                throw violation("\(home.authority) redirects more than \(Exchange.redirectLimit) times")
            }
            wire.counters.redirects.add(1, ordering: .relaxed)
            if next.origin != home.origin { isElsewhere = true }
            request.url = next
        }
    }

    func patience(_ budget: RetryBudget) -> Double { budget.remaining(now: monotonicNanoseconds()) }

    private func checked(_ answer: consuming Answer) throws(AttemptFailure) -> Answer {
        if let refusal = StatusRule.refusal(answer.response) { throw refusal }
        return answer
    }

    private func violation(_ text: String) -> AttemptFailure { .final(RegistryError(.protocolViolation, text)) }
}
