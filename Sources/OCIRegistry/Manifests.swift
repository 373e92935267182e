internal import BlockCodec
internal import HTTPTransport
internal import Logging
public import OCIModel
internal import PosixIO

/// The most that a manifest may have, in bytes (registries allow 4 MiB).
let manifestLimit = 8 << 20

extension RegistryClient {
    /// GET of a manifest or index, checked against the digest that was asked for; a tag's digest is what the content
    /// hashes to. At most 8 MiB.
    public func manifest(
        _ repository: Repository,
        _ name: ManifestName,
        deadline: Double? = nil
    ) async throws(RegistryError) -> FetchedManifest {
        let ask = manifestAsk(repository, name, method: .get)
        let what = "read the manifest \(name) of \(repository)"
        let servers = exchange.serverCount(repository.host)
        return try await wire.retrying(what, deadline: deadline, servers: servers) {
            (budget) async throws(AttemptFailure) in
            let answer = try await exchange.perform(ask, budget)
            guard answer.response.status == 200 else { throw .final(StatusRule.error(answer.response)) }
            return try await fetched(answer, name)
        }
    }

    /// The digest that a tag leads to: HEAD, or GET where the registry gives no Docker-Content-Digest. Nil for 401, 403
    /// and 404, which registries do not tell apart for what is not there.
    public func resolve(
        _ repository: Repository,
        tag: String,
        deadline: Double? = nil
    ) async throws(RegistryError) -> Digest? {
        let head = manifestAsk(repository, .tag(tag), method: .head)
        let get = manifestAsk(repository, .tag(tag), method: .get)
        let what = "resolve the tag \(tag) of \(repository)"
        do throws(RegistryError) {
            return try await wire.retrying(what, deadline: deadline) {
                (budget) async throws(AttemptFailure) -> Digest? in
                let short = try await exchange.perform(head, budget)
                if isAbsent(short.response.status) { return nil }
                if short.response.status == 200,
                    let digest = short.response.headers["docker-content-digest"].flatMap({ Digest($0) })
                {
                    return digest
                }
                // No digest, or no HEAD at all (405 and the like).
                let full = try await exchange.perform(get, budget)
                if isAbsent(full.response.status) { return nil }
                guard full.response.status == 200 else { throw .final(StatusRule.error(full.response)) }
                return try await fetched(full, .tag(tag)).digest
            }
        } catch where error.kind == .denied {
            // Token servers refuse what does not exist as they refuse what is not for us.
            wire.log.info("\(error)")
            return nil
        }
    }

    /// The manifest that a tag leads to, in one request; nil as `resolve` has it. For who wants the manifest next:
    /// registries count manifests that are read, and not those whose digest is asked for.
    public func manifest(
        _ repository: Repository,
        tag: String,
        deadline: Double? = nil
    ) async throws(RegistryError) -> FetchedManifest? {
        let ask = manifestAsk(repository, .tag(tag), method: .get)
        let what = "read the manifest \(tag) of \(repository)"
        do throws(RegistryError) {
            return try await wire.retrying(what, deadline: deadline) {
                (budget) async throws(AttemptFailure) -> FetchedManifest? in
                let answer = try await exchange.perform(ask, budget)
                if isAbsent(answer.response.status) { return nil }
                guard answer.response.status == 200 else { throw .final(StatusRule.error(answer.response)) }
                return try await fetched(answer, .tag(tag))
            }
        } catch where error.kind == .denied {
            // As `resolve` has it.
            wire.log.info("\(error)")
            return nil
        }
    }

    private func manifestAsk(_ repository: Repository, _ name: ManifestName, method: HTTPRequest.Method) -> Ask {
        var ask = Ask(
            host: repository.host,
            target: "/v2/\(repository.apiName)/manifests/\(name)",
            scope: Ask.pullScope(repository),
            method: method,
            accept: MediaType.acceptedManifests.joined(separator: ", "),
            bodyLimit: manifestLimit,
            path: repository.path
        )
        switch name {
        case .digest(let digest): ask.content = digest
        case .tag: ask.capability = .resolve
        }
        return ask
    }

    private func fetched(
        _ answer: borrowing Exchange.Answer,
        _ name: ManifestName
    ) async throws(AttemptFailure) -> FetchedManifest {
        let content = bytes(answer.response)
        let url = answer.response.url
        let type = answer.response.headers["content-type"]?.split(separator: ";").first.map { trimmed($0) }
        let digest = await contentDigest(content)
        if case .digest(let wanted) = name, wanted != digest {
            exchange.distrust(answer.endpoint.name, wanted)
            throw .once(
                RegistryError(.protocolViolation, "\(url.authority) served other content (\(digest))")
            )
        }
        return FetchedManifest(digest: digest, mediaType: type, bytes: content)
    }
}

/// Whether a status says that there is nothing, or nothing for us.
func isAbsent(_ status: Int) -> Bool { status == 401 || status == 403 || status == 404 }

/// Hashing and decoding of more than a moment runs here, not on the cooperative pool.
private let heavyWork = WorkerPool(named: "crfs-registry", threads: 1)
private let heavySize = 256 << 10

func contentDigest(_ content: [UInt8]) async -> Digest {
    // SAFETY: the span borrows the array for the call.
    if content.count < heavySize { return unsafe SHA256.digest(of: content.span.bytes) }
    return await heavyWork.run { unsafe SHA256.digest(of: content.span.bytes) }
}

func runBySize<T: Sendable>(_ size: Int, _ job: @escaping @Sendable () -> T) async -> T {
    if size < heavySize / 8 { return job() }
    return await heavyWork.run(job)
}

private func trimmed(_ text: Substring) -> String {
    String(text.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
}
