public import HTTPTransport
public import OCIModel

/// Talks to registries: tokens, manifests, tags, blobs by range (OCI distribution specification). One per process;
/// knows nothing of mounts.
///
/// Every call retries as spec section 5 says and gives up only when its deadline passed without progress. `deadline`
/// is in seconds; nil stands for `RegistryOptions.deadlineSeconds`. Cancelling the calling task ends its requests.
public final class RegistryClient: Sendable {
    let exchange: Exchange
    let locations = BlobLocations()
    let links = LinkTable()
    let servedBy = ServerTable()
    var wire: Wire { exchange.wire }

    /// Makes a client that sends through `transport`.
    public init(transport: HTTPTransport, options: RegistryOptions) {
        exchange = Exchange(wire: Wire(transport: transport, options: options))
    }

    /// What the client has done so far, and its transport.
    public var counters: RegistryCounters {
        var counters = wire.counters.snapshot
        let transport = wire.transport.statistics
        counters.hedges = transport.hedges
        counters.hedgesWon = transport.hedgesWon
        return counters
    }

    /// The Google Cloud project of this machine; nil elsewhere (`CredentialSources.metadataHost`).
    public func ownProject() async -> String? {
        guard let host = wire.options.credentials?.metadataHost else { return nil }
        return await MetadataServer(host: host, transport: wire.transport).projectName()
    }

    /// What is known of the way to the server that blobs of this registry come from.
    public func link(_ host: RegistryHost) -> LinkEstimate { links.estimate(host) }

    /// What is known of the ways to all servers that blobs came from, by the server's name and port.
    public var knownLinks: [String: LinkEstimate] { links.all }

    /// Whether the host answers `/v2/` as a registry does (200 or 401); throws when it does not.
    public func ping(_ host: RegistryHost, deadline: Double? = nil) async throws(RegistryError) {
        let ask = Ask(host: host, target: "/v2/", scope: "", acceptsUnauthorized: true, order: .registryFirst)
        try await wire.retrying("reach \(host)", deadline: deadline) { (budget) async throws(AttemptFailure) in
            let answer = try await exchange.perform(ask, budget)
            guard answer.response.status == 200 || answer.response.status == 401 else {
                throw .final(
                    RegistryError(
                        answer.response.status == 404 ? .notFound : StatusRule.error(answer.response).kind,
                        "\(answer.response.url.authority) answered \(answer.response.status) to /v2/: it is no registry"
                    )
                )
            }
        }
    }
}
