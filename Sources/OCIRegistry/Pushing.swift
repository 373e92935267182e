internal import FoundationEssentials
internal import HTTPTransport
public import OCIModel
public import PosixIO

extension Ask {
    /// `repository:NAME:pull,push`.
    static func pushScope(_ repository: Repository) -> String { "repository:\(repository.apiName):pull,push" }
}

/// Writing to a registry (OCI distribution specification, "Push"). Only the registry itself is asked, never a mirror.
extension RegistryClient {
    /// Puts a blob into a repository, unless it is there already.
    ///
    /// - Parameters:
    ///   - digest: what `bytes` hash to; the registry checks it.
    ///   - bytes: the whole blob.
    public func push(_ bytes: SharedBytes, digest: Digest, to repository: Repository) async throws(RegistryError) {
        let what = "push the blob \(digest) to \(repository)"
        let head = pushAsk(repository, "blobs/\(digest)", .head)
        let begin = pushAsk(repository, "blobs/uploads/", .post)
        try await wire.retrying(what, deadline: nil) { (budget) async throws(AttemptFailure) in
            let known = try await exchange.perform(head, budget)
            if known.response.status == 200 { return }
            let session = try await exchange.perform(begin, budget)
            guard session.response.status == 202 else { throw .final(StatusRule.error(session.response)) }
            guard let location = session.response.headers["location"],
                let url = session.response.url.resolving(location), url.origin == session.response.url.origin
            else {
                throw .final(
                    RegistryError(
                        .protocolViolation,
                        "\(repository.host) wants the blob at another server, which crfs does not send it to"
                    )
                )
            }
            var put = pushAsk(repository, "", .put(bytes, type: "application/octet-stream"))
            put.target = url.target + (url.target.contains("?") ? "&" : "?") + "digest=\(digest)"
            let answer = try await exchange.perform(put, budget)
            guard answer.response.status == 201 else { throw .final(StatusRule.error(answer.response)) }
        }
    }

    /// Puts a manifest or index into a repository.
    ///
    /// - Returns: whether the registry keeps track of what the manifest refers to as its subject (referrers API).
    @discardableResult
    public func push(
        manifest bytes: [UInt8],
        mediaType: String,
        as name: ManifestName,
        to repository: Repository
    ) async throws(RegistryError) -> Bool {
        let ask = pushAsk(repository, "manifests/\(name)", .put(SharedBytes(bytes), type: mediaType))
        let what = "push the manifest \(name) to \(repository)"
        return try await wire.retrying(what, deadline: nil) { (budget) async throws(AttemptFailure) in
            let answer = try await exchange.perform(ask, budget)
            guard answer.response.status == 201 else { throw .final(StatusRule.error(answer.response)) }
            return answer.response.headers["oci-subject"] != nil
        }
    }

    /// What refers to a manifest: by the referrers API, and where the registry has none by the tag that stands in for it
    /// (distribution specification, "Referrers Tag Schema"). Empty where neither is there.
    ///
    /// - Parameter artifactType: only artifacts of this type.
    public func referrers(
        _ repository: Repository,
        of subject: Digest,
        artifactType: String
    ) async throws(RegistryError) -> [ContentDescriptor] {
        var ask = Ask(
            host: repository.host,
            target: "/v2/\(repository.apiName)/referrers/\(subject)",
            scope: Ask.pullScope(repository),
            accept: MediaType.ociIndex,
            bodyLimit: manifestLimit
        )
        ask.path = repository.path
        let request = ask
        let what = "list what refers to \(subject) in \(repository)"
        let listed = try await wire.retrying(what, deadline: nil) {
            (budget) async throws(AttemptFailure) -> [UInt8]? in
            let answer = try await exchange.perform(request, budget)
            return answer.response.status == 200 ? bytes(answer.response) : nil
        }
        if let listed { return RegistryClient.referrers(in: listed, artifactType) }
        do throws(RegistryError) {
            let index = try await manifest(repository, .tag(RegistryClient.referrersTag(subject)))
            return RegistryClient.referrers(in: index.bytes, artifactType)
        } catch {
            if error.kind == .notFound || error.kind == .denied { return [] }
            throw error
        }
    }

    /// The tag that stands in for the referrers API.
    public static func referrersTag(_ subject: Digest) -> String { subject.directoryName }

    private struct Wire: Decodable {
        struct Entry: Decodable {
            var mediaType: String?
            var digest: String
            var size: Int64
            var artifactType: String?
        }
        var manifests: [Entry]?
    }

    private static func referrers(in json: [UInt8], _ artifactType: String) -> [ContentDescriptor] {
        let document = try? JSONDecoder().decode(Wire.self, from: Data(json))
        return (document?.manifests ?? []).compactMap { entry in
            guard entry.artifactType == artifactType, entry.size >= 0, let digest = Digest(entry.digest) else {
                return nil
            }
            return ContentDescriptor(mediaType: entry.mediaType ?? "", digest: digest, size: UInt64(entry.size))
        }
    }

    private func pushAsk(_ repository: Repository, _ rest: String, _ method: HTTPRequest.Method) -> Ask {
        var ask = Ask(
            host: repository.host,
            target: "/v2/\(repository.apiName)/\(rest)",
            scope: Ask.pushScope(repository),
            method: method
        )
        ask.path = repository.path
        ask.order = .registryOnly
        return ask
    }
}
