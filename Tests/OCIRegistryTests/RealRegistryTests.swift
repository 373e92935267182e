import HTTPTransport
import OCIModel
import OCIRegistry
import TestSupport
import Testing

/// Debian's docker-registry, over plain HTTP and over TLS with HTTP/2.
@Suite(.serialized, .enabled(if: Requirement.registry.runs, Comment(rawValue: Requirement.registry.reason)))
struct RealRegistryTests {
    init() throws { try Requirement.registry.orFail() }

    /// A registry with the image `corpus:estargz`.
    private func stocked(_ transport: RegistryServer.Transport) async throws -> RegistryServer {
        try await offPool {
            let server = try RegistryServer(transport)
            try server.pushCorpus("estargz")
            return server
        }
    }

    private func client(of server: RegistryServer) -> RegistryClient {
        makeClient { options in
            if server.transport == .tls { options.caFile = server.certificateAuthority }
        }
    }

    @Test(arguments: [RegistryServer.Transport.plain, .tls])
    func anImageIsReadWhole(_ transport: RegistryServer.Transport) async throws {
        let server = try await stocked(transport)
        let client = client(of: server)
        let host = try #require(RegistryHost(server.host))
        let repository = try #require(Repository(host: host, path: "corpus"))
        try await client.ping(host)
        #expect(try await client.catalog(host) == ["corpus"])
        #expect(try await client.tags(repository) == TagList(tags: ["estargz"], children: []))

        let digest = try #require(try await client.resolve(repository, tag: "estargz"))
        let manifest = try await client.manifest(repository, .digest(digest))
        #expect(manifest.digest == digest)
        #expect(try await client.manifest(repository, .tag("estargz")).digest == digest)
        guard case .image(let image) = try ManifestDocument(json: manifest.bytes, mediaType: manifest.mediaType) else {
            Issue.record("an index instead of a manifest")
            return
        }
        let config = try #require(image.config)
        let address = BlobAddress(repository: repository, digest: config.digest, size: config.size)
        let configuration = try await client.blob(address, limit: 1 << 20)
        #expect(try ImageConfiguration(json: configuration).diffIDs.count == 3)

        for layer in image.layers {
            let blob = BlobAddress(repository: repository, digest: layer.digest, size: layer.size)
            let whole = try await client.readArray(blob, 0, Int(layer.size))
            #expect(sha256(whole) == layer.digest)
            let footer = try await client.readArray(blob, Int(layer.size) - 51, 51)
            #expect(footer == Array(whole.suffix(51)))
        }
    }

    @Test(arguments: [RegistryServer.Transport.plain, .tls])
    func whatIsNotThereIsNil(_ transport: RegistryServer.Transport) async throws {
        let server = try await offPool { try RegistryServer(transport) }
        let client = client(of: server)
        let host = try #require(RegistryHost(server.host))
        let repository = try #require(Repository(host: host, path: "no/such"))
        #expect(try await client.resolve(repository, tag: "latest") == nil)
        #expect(try await client.tags(repository) == nil)
        #expect(try await client.catalog(host) == [])
        let error = await registryError { () async throws(RegistryError) in
            try await client.manifest(repository, .tag("latest"))
        }
        #expect(error?.kind == .notFound)
        #expect(error?.reason.contains("\(server.host)/no/such") == true)
    }

    @Test(arguments: [RegistryServer.Transport.plain, .tls])
    func manyRangesAtOnceAllArrive(_ transport: RegistryServer.Transport) async throws {
        let server = try await stocked(transport)
        let client = client(of: server)
        let host = try #require(RegistryHost(server.host))
        let repository = try #require(Repository(host: host, path: "corpus"))
        let manifest = try await client.manifest(repository, .tag("estargz"))
        guard case .image(let image) = try ManifestDocument(json: manifest.bytes, mediaType: nil) else { return }
        let layer = try #require(image.layers.max { $0.size < $1.size })
        let blob = BlobAddress(repository: repository, digest: layer.digest, size: layer.size)
        let whole = try await client.readArray(blob, 0, Int(layer.size))
        let step = 500
        let parts = try await withThrowingTaskGroup(of: (Int, [UInt8]).self) { group in
            for index in 0..<300 {
                let offset = index * step
                group.addTask {
                    let priority: TransferPriority = index % 2 == 0 ? .demand : .background
                    return (offset, try await client.readArray(blob, offset, step, priority: priority))
                }
            }
            var parts: [(Int, [UInt8])] = []
            for try await part in group { parts.append(part) }
            return parts
        }
        #expect(parts.count == 300)
        for (offset, bytes) in parts { #expect(bytes == Array(whole[offset..<offset + step])) }
    }

    @Test(arguments: [RegistryServer.Transport.plain, .tls])
    func aReaderWaitsThroughARestart(_ transport: RegistryServer.Transport) async throws {
        let server = try await stocked(transport)
        let client = client(of: server)
        let repository = try #require(RegistryHost(server.host).flatMap { Repository(host: $0, path: "corpus") })
        let digest = try await client.resolve(repository, tag: "estargz")
        await offPool { server.stop() }
        async let later = client.resolve(repository, tag: "estargz")
        // The reader has been refused at least once before the registry is back.
        try await mustHold { client.counters.retries > 0 }
        try await offPool { try server.start() }
        #expect(try await later == digest)
    }

    @Test(arguments: [RegistryServer.Transport.plain, .tls])
    func aRegistryThatHangsIsReadAgainWhenItGoesOn(_ transport: RegistryServer.Transport) async throws {
        let server = try await stocked(transport)
        var options = RegistryOptions()
        if transport == .tls { options.caFile = server.certificateAuthority }
        options.stallSeconds = 0.5
        let client = RegistryClient(transport: HTTPTransport(), options: options)
        let repository = try #require(RegistryHost(server.host).flatMap { Repository(host: $0, path: "corpus") })
        let digest = try await client.resolve(repository, tag: "estargz")
        server.suspend()
        // The signal takes a moment to stop all of the server's threads. After that nothing is answered any more.
        try await mustHold {
            let error = await registryError { () async throws(RegistryError) in
                try await client.resolve(repository, tag: "estargz", deadline: 0.7)
            }
            return error?.kind == .timedOut
        }
        async let later = withThrowingTaskGroup(of: Digest?.self) { group in
            for _ in 0..<30 { group.addTask { try await client.resolve(repository, tag: "estargz") } }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        let before = client.counters.retries
        try await mustHold { client.counters.retries > before }
        server.resume()
        #expect(try await later.allSatisfy { $0 == digest })
    }

    @Test func aServerWithAnUnknownAuthorityIsRefusedAtOnce() async throws {
        let server = try await offPool { try RegistryServer(.tls) }
        let client = makeClient()
        let host = try #require(RegistryHost(server.host))
        let error = await registryError { () async throws(RegistryError) in try await client.ping(host) }
        #expect(error?.kind == .unavailable)
        #expect(error?.reason.contains("certificate") == true)
        // Plain HTTP was not tried instead.
        #expect(client.counters.requests == 1)
    }
}
