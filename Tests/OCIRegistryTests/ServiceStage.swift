import BlockCodec
import HTTPTransport
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport

extension Requirement {
    /// What the tests with several servers need.
    static let services = all([registry, program("nginx"), program("htpasswd")])
}

/// The image `corpus:estargz` as its layout has it, and how to read it through a registry.
struct ServiceImage: Sendable {
    let repository: Repository
    let layer: ContentDescriptor
    /// The layer's bytes.
    let bytes: [UInt8]

    /// - Parameter registry: `host:port` that clients are told.
    init(_ registry: String) throws {
        guard let host = RegistryHost(registry), let repository = Repository(host: host, path: "corpus") else {
            throw CommandFailure(description: "\(registry) is no host")
        }
        self.repository = repository
        let blobs = "\(Corpus.layout("estargz"))/blobs/sha256"
        // The biggest blob of the layout is the biggest layer.
        let sizes = try names(in: blobs).map { ($0, try FileStatus("\(blobs)/\($0)").size) }
        guard let biggest = sizes.max(by: { $0.1 < $1.1 }), let digest = Digest("sha256:\(biggest.0)") else {
            throw CommandFailure(description: "\(blobs) is empty")
        }
        bytes = try contents(of: "\(blobs)/\(biggest.0)")
        layer = ContentDescriptor(mediaType: "", digest: digest, size: UInt64(bytes.count))
    }

    var address: BlobAddress { BlobAddress(repository: repository, digest: layer.digest, size: layer.size) }

    /// Reads a range; whether it is what it should be.
    func read(_ client: RegistryClient, _ offset: Int, _ count: Int) async throws(RegistryError) -> Bool {
        let range = ByteRange(offset: UInt64(offset), count: UInt64(count))
        let body = try await client.read(address, range, priority: .demand).share().array
        return body == Array(bytes[offset..<offset + count])
    }

    /// Reads ranges spread over the layer, many at once; the errors and wrong contents.
    func readMany(_ client: RegistryClient, _ count: Int, seed: Int = 0) async -> [String] {
        await withTaskGroup(of: String?.self) { group in
            for index in 0..<count {
                let size = 1000 + (index * 37) % 4000
                let offset = ((index + seed) * 7919) % (bytes.count - size)
                group.addTask {
                    do throws(RegistryError) {
                        return try await read(client, offset, size) ? nil : "wrong bytes at \(offset)"
                    } catch {
                        return error.reason
                    }
                }
            }
            return await group.reduce(into: []) { if let text = $1 { $0.append(text) } }
        }
    }
}

/// A docker configuration in a directory of its own.
final class DockerConfiguration: Sendable {
    private let directory: TemporaryDirectory

    init(_ json: String) throws(SystemError) {
        directory = try TemporaryDirectory("docker")
        try write(json)
    }

    /// Makes this its content.
    func write(_ json: String) throws(SystemError) {
        try replaceFile(directory.file("config.json"), with: unsafe Array(json.utf8).span.bytes)
    }

    var sources: CredentialSources {
        var sources = CredentialSources()
        sources.files = [directory.file("config.json")]
        return sources
    }
}

/// Writes a program `docker-credential-<name>` that answers what a file holds (`user` and `secret` in two lines), and writes
/// down that it was asked. The directory has the file `answer`.
func makeCountingHelper(_ name: String, _ directory: String, user: String, secret: String) throws {
    try writeFile("\(directory)/answer", "{\"Username\": \"\(user)\", \"Secret\": \"\(secret)\"}")
    try writeFile(
        "\(HelperPath.directory)/docker-credential-\(name)",
        "#!/bin/sh\nread url; echo \"$url\" >> \(directory)/asked; cat \(directory)/answer\n",
        mode: 0o755
    )
}
