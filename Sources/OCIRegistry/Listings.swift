internal import FoundationEssentials
internal import HTTPTransport
public import OCIModel

extension RegistryClient {
    /// The most that a page may have, in bytes.
    private static let pageLimit = 32 << 20
    /// The most that all pages of a list may have, in bytes.
    private static let listLimit = 128 << 20
    /// The most pages of a list.
    private static let pageCountLimit = 20_000
    /// How many names are asked for in a page. Registries give fewer as they like; some refuse to give more.
    private static let pageSize = 1000

    private struct TagPage: Decodable, Sendable {
        var tags: [String]?
        var child: [String]?
    }

    private struct CatalogPage: Decodable, Sendable {
        var repositories: [String]?
    }

    /// All pages of `tags/list`; nil for 401, 403 and 404. Lists without end are refused: pages that come again, more
    /// than 20,000 of them, more than 128 MiB.
    public func tags(_ repository: Repository, deadline: Double? = nil) async throws(RegistryError) -> TagList? {
        var list = TagList(tags: [], children: [])
        let base = Ask(
            host: repository.host,
            target: "/v2/\(repository.apiName)/tags/list",
            scope: Ask.pullScope(repository),
            bodyLimit: RegistryClient.pageLimit,
            path: repository.path,
            capability: .resolve,
            order: .registryFirst
        )
        do throws(RegistryError) {
            let complete = try await pages(base, "list the tags of \(repository)", deadline) { (page: TagPage) in
                list.tags += page.tags ?? []
                list.children += page.child ?? []
            }
            return complete ? list : nil
        } catch where error.kind == .denied || error.kind == .notFound {
            // The token server refused the scope.
            return nil
        }
    }

    /// All pages of `_catalog`; nil where the registry does not offer it (any status of 4xx).
    public func catalog(_ host: RegistryHost, deadline: Double? = nil) async throws(RegistryError) -> [String]? {
        var names: [String] = []
        let base = Ask(
            host: host,
            target: "/v2/_catalog",
            scope: "registry:catalog:*",
            bodyLimit: RegistryClient.pageLimit,
            capability: .resolve,
            order: .registryOnly
        )
        do throws(RegistryError) {
            let complete = try await pages(base, "list the repositories of \(host)", deadline) { (page: CatalogPage) in
                names += page.repositories ?? []
            }
            return complete ? names : nil
        } catch where error.kind == .denied || error.kind == .notFound {
            // The token server refused the scope.
            return nil
        }
    }

    /// Reads page after page; false when the first one is not there.
    private func pages<Page: Decodable & Sendable>(
        _ base: Ask,
        _ what: String,
        _ deadline: Double?,
        _ use: (Page) -> Void
    ) async throws(RegistryError) -> Bool {
        var ask = base
        ask.target = base.target + "?n=\(RegistryClient.pageSize)"
        var seen: Set<String> = [ask.target]
        var total = 0
        var isFirst = true
        while true {
            let current = ask
            let answer = try await wire.retrying(what, deadline: deadline) { (budget) async throws(AttemptFailure) in
                try await exchange.perform(current, budget)
            }
            if answer.response.status != 200 {
                if isFirst, answer.response.status == 400, ask.target != base.target {
                    ask.target = base.target
                    continue
                }
                if isFirst, isAbsent(answer.response.status) || base.scope.hasPrefix("registry:") { return false }
                let error = StatusRule.error(answer.response)
                throw RegistryError(error.kind, "cannot \(what): \(error.reason)")
            }
            isFirst = false
            let content = bytes(answer.response)
            total += content.count
            use(try await decode(content, what))
            guard let link = LinkHeader.next(answer.response.headers.all("link")) else { return true }
            // Registries behind proxies name themselves wrongly: the path counts, the host stays.
            guard let url = answer.response.url.resolving(link), let next = answer.endpoint.target(url.target) else {
                throw RegistryError(.protocolViolation, "cannot \(what): the link to the next page is no registry URL")
            }
            guard seen.insert(next).inserted, seen.count <= RegistryClient.pageCountLimit,
                total <= RegistryClient.listLimit
            else {
                throw RegistryError(
                    .protocolViolation,
                    "cannot \(what): \(base.host) gives pages without end (\(seen.count) so far)"
                )
            }
            ask.target = next
        }
    }

    private func decode<Page: Decodable & Sendable>(
        _ content: [UInt8],
        _ what: String
    ) async throws(RegistryError) -> Page {
        let page = await runBySize(content.count) { try? JSONDecoder().decode(Page.self, from: Data(content)) }
        guard let page else {
            throw RegistryError(.protocolViolation, "cannot \(what): the answer is not the JSON of a list")
        }
        return page
    }
}
