import HTTPTransport
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport
import Testing

/// Registries that want to see a client certificate, as `hosts.toml` (or docker's directory) has it.
@Suite(.serialized, .enabled(if: Requirement.services.runs, Comment(rawValue: Requirement.services.reason)))
struct ClientCertificateTests {
    init() throws { try Requirement.services.orFail() }

    /// A registry behind nginx that turns away whoever shows no certificate, and one that only looks.
    private struct Stage: Sendable {
        let registry: Service
        let front: CertificateFront
        let onlooker: CertificateFront
        let image: ServiceImage
    }

    private func stage(_ directory: borrowing TemporaryDirectory) async throws -> Stage {
        let storage = try directory.makeDirectory("storage")
        let certificates = try directory.makeDirectory("certificates")
        return try await offPool {
            try RegistryService.fill(storage)
            try makeCertificates(in: certificates)
            let both = try contents(of: "\(certificates)/client.pem") + contents(of: "\(certificates)/client-key.pem")
            try writeFile("\(certificates)/both.pem", String(decoding: both, as: UTF8.self))
            let registry = try RegistryService.start(storage: storage)
            let front = try CertificateFront(registry: registry.host, certificates: certificates, isRequired: true)
            return Stage(
                registry: registry,
                front: front,
                onlooker: try CertificateFront(registry: registry.host, certificates: certificates, isRequired: false),
                image: try ServiceImage(front.host)
            )
        }
    }

    /// Every way to say which certificate, with `DIR` for where it is.
    static let ways = [
        #"client = [["DIR/client.pem", "DIR/client-key.pem"]]"#, #"client = "DIR/both.pem""#,
        #"client = ["DIR/both.pem"]"#, #"client = [["DIR/both.pem", ""]]"#,
    ]

    @Test(arguments: ways)
    func theCertificateOpensTheRegistry(_ way: String) async throws {
        let directory = try TemporaryDirectory("client")
        let stage = try await stage(directory)
        let certificates = directory.file("certificates")
        let hosts = try directory.makeDirectory("certs.d/\(stage.front.host)")
        let server = "server = \"https://\(stage.front.host)\"\nca = \"\(certificates)/ca.crt\"\n"
        try writeFile("\(hosts)/hosts.toml", server)
        let client = makeClient { $0.hostsDirectory = directory.file("certs.d") }
        let image = stage.image
        let refused = await registryError { () async throws(RegistryError) in try await image.read(client, 0, 100) }
        #expect(refused != nil)
        #expect(try stage.front.accesses().allSatisfy { $0.hasPrefix("400") })

        // The file says which one from now on; nothing is restarted.
        let line = way.split(separator: "DIR", omittingEmptySubsequences: false).joined(separator: certificates)
        try writeFile("\(hosts)/hosts.toml", server + line + "\n")
        try await mustHold { (try? await image.read(client, 0, 100)) == true }
        #expect(await image.readMany(client, 20) == [])
        #expect(try await client.tags(image.repository)?.tags == ["estargz"])
        #expect(try stage.front.accesses().contains { $0.hasPrefix("206") && $0.contains("CN=crfs test client") })
    }

    @Test func certificatesLieInTheDirectoryAsDockerHasThem() async throws {
        let directory = try TemporaryDirectory("client")
        let stage = try await stage(directory)
        let hosts = try directory.makeDirectory("certs.d/127.0.0.1_\(stage.front.service.port)_")
        for (file, name) in [
            ("ca.crt", "ca.crt"), ("client.pem", "mine.cert"), ("client-key.pem", "mine.key"),
        ] {
            try runChecked("cp", ["\(directory.file("certificates"))/\(file)", "\(hosts)/\(name)"])
        }
        let client = makeClient { $0.hostsDirectory = directory.file("certs.d") }
        #expect(await stage.image.readMany(client, 20) == [])
        #expect(try stage.front.accesses().allSatisfy { $0.contains("CN=crfs test client") })
    }

    @Test func withoutAnAuthorityOnlySkipVerifyReadsAndTheCertificateIsShownAllTheSame() async throws {
        let directory = try TemporaryDirectory("client")
        let stage = try await stage(directory)
        let certificates = directory.file("certificates")
        let hosts = try directory.makeDirectory("certs.d/\(stage.front.host)")
        let text = """
            server = "https://\(stage.front.host)"
            client = [["\(certificates)/client.pem", "\(certificates)/client-key.pem"]]

            """
        try writeFile("\(hosts)/hosts.toml", text)
        let image = stage.image
        let careful = makeClient { $0.hostsDirectory = directory.file("certs.d") }
        let error = await registryError { () async throws(RegistryError) in try await image.read(careful, 0, 100) }
        #expect(error?.reason.contains("certificate") == true)
        #expect(try stage.front.accesses() == [])
        try writeFile("\(hosts)/hosts.toml", text + "skip_verify = true\n")
        let trusting = makeClient { $0.hostsDirectory = directory.file("certs.d") }
        #expect(await image.readMany(trusting, 10) == [])
        #expect(try stage.front.accesses().allSatisfy { $0.contains("CN=crfs test client") })
    }

    @Test func aMirrorIsShownItsOwnCertificateOnly() async throws {
        let directory = try TemporaryDirectory("client")
        let stage = try await stage(directory)
        let certificates = directory.file("certificates")
        let hosts = try directory.makeDirectory("certs.d/\(stage.front.host)")
        try writeFile(
            "\(hosts)/hosts.toml",
            """
            server = "https://\(stage.front.host)"
            ca = "\(certificates)/ca.crt"
            client = "\(certificates)/both.pem"
            [host."https://\(stage.onlooker.host)"]
            ca = "\(certificates)/ca.crt"

            """
        )
        let client = makeClient { $0.hostsDirectory = directory.file("certs.d") }
        #expect(await stage.image.readMany(client, 20) == [])
        let seen = try stage.onlooker.accesses()
        #expect(seen.contains { $0.contains("/blobs/") })
        #expect(seen.allSatisfy { $0.hasSuffix("client=\"-\"") })
        // The mirror goes; the registry gets what is its own.
        await offPool { stage.onlooker.service.stop() }
        #expect(await stage.image.readMany(client, 20, seed: 50) == [])
        #expect(try stage.front.accesses().contains { $0.contains("/blobs/") && $0.contains("CN=crfs test client") })
    }
}
