import Glibc
import PosixIO
import TestSupport
import Testing

/// Logins, mirrors and lists as a user of a mount meets them; and that no secret gets anywhere else.
@Suite(.needs(.all([.mounting, .program("nginx"), .program("htpasswd")])))
struct RegistryAccessTests {
    init() throws { try Requirement.all([.mounting, .program("nginx"), .program("htpasswd")]).orFail() }

    private func files(below directory: String) throws -> [String] {
        let found = try runChecked("find", [directory, "-type", "f"])
        return found.text.split(separator: "\n").map(String.init)
    }

    /// Where any of the secrets is found, among files.
    private func leaks(_ secrets: [String], in files: [String]) throws -> [String] {
        var found: [String] = []
        for secret in secrets {
            for file in files {
                let result = try run("grep", ["-lF", "-e", secret, file])
                if result.isSuccess { found.append("\(secret) in \(file)") }
            }
        }
        return found
    }

    @Test func noSecretGetsAnywhereButToItsOwnServer() throws {
        let directory = try TemporaryDirectory("secrets")
        let storage = try directory.makeDirectory("storage")
        let certificates = try directory.makeDirectory("certificates")
        try RegistryService.fill(storage, ["estargz", "estargz-prefetch"])
        try makeCertificates(in: certificates)
        let (password, header) = ("pw-LEAK-1-x", "hdr-LEAK-2-x")
        var rules = TokenServer.Rules()
        rules.users = ["robot": password]
        rules.access = "ya29-LEAK-3-x"
        let tokens = try TokenServer(rules)
        let registry = try RegistryService.start(storage: storage, login: tokens.login)
        let signed = try SignedStorage(
            directory: storage,
            registry: registry.host,
            certificates: certificates,
            life: 3
        )
        let open = try RegistryService.start(storage: storage)
        let mirror = try SigningFront.start(
            registry: open.host,
            storage: "https://\(signed.storage.host)/blobs",
            life: 3
        )
        let own = signed.front.host
        let certs = try directory.makeDirectory("certs.d/127.0.0.1_\(signed.front.port)_")
        try writeFile(
            "\(certs)/hosts.toml",
            """
            server = "http://\(own)"
            [host."http://\(mirror.host)"]
            capabilities = ["pull"]
            [host."http://\(mirror.host)".header]
            X-Test = "\(header)"
            """
        )
        let helpers = try directory.makeDirectory("helpers")
        try writeFile(
            "\(helpers)/docker-credential-leaktest",
            """
            #!/bin/sh
            read url; tr '\\0' ' ' < /proc/$$/cmdline > \(directory.path)/arguments; env > \(directory.path)/environment
            echo '{"Username": "robot", "Secret": "\(password)"}'

            """,
            mode: 0o755
        )
        try writeFile(directory.file("config.json"), #"{"credHelpers": {"\#(own)": "leaktest"}}"#)
        let mount = try CrfsMount(
            arguments: [
                "--ca-file", "\(certificates)/ca.crt", "--hosts-dir", directory.file("certs.d"), "--log-level", "trace",
            ],
            environment: [
                "DOCKER_CONFIG": directory.path, "GCE_METADATA_HOST": tokens.service.host,
                "PATH": "\(helpers):\(environmentValue("PATH") ?? "/usr/bin:/bin")",
            ]
        )
        try expectTree(mount.path("images/\(own)/corpus/estargz"), is: "merged", flags: ["--native"] + tocFlags)
        // Without the mirror everything comes from the registry itself and its storage server.
        mirror.stop()
        let second = mount.path("images/\(own)/corpus/estargz-prefetch")
        try expectTree(second, is: "merged", flags: ["--native"] + tocFlags)

        let secrets = [password, header, rules.access, "cm9ib3Q6cHct", "Bearer ", "eyJ"]
        let arguments = try readFile("/proc/\(mount.process.pid)/cmdline", limit: 65536).array
        #expect(!String(decoding: arguments, as: UTF8.self).contains("LEAK"))
        #expect(try text(of: directory.file("arguments")).contains("docker-credential-leaktest get"))
        let told = [mount.log, directory.file("arguments"), directory.file("environment")]
        let kept = try told + files(below: mount.cache)
        #expect(kept.count > 5)
        #expect(try leaks(secrets, in: kept) == [])

        // Each server has seen its own secret and no other's.
        let upstream = try signed.front.requests()
        #expect(upstream.contains { $0.headers["authorization"]?.hasPrefix("Bearer ") == true })
        #expect(upstream.allSatisfy { $0.headers["x-test"] == nil })
        #expect(upstream.allSatisfy { $0.headers["authorization"]?.hasPrefix("Basic ") != true })
        let mirrored = try mirror.requests()
        #expect(mirrored.contains { $0.path.contains("/blobs/") && $0.path.contains("ns=127.0.0.1:") })
        #expect(mirrored.allSatisfy { $0.headers["authorization"] == nil && $0.headers["x-test"] == header })
        let asked = try tokens.service.requests().filter { !$0.path.hasPrefix("/computeMetadata/") }
        #expect(!asked.isEmpty)
        #expect(asked.allSatisfy { $0.headers["x-test"] == nil })
        #expect(try !signed.accesses().isEmpty)
        #expect(try signed.accesses().allSatisfy { $0.contains("auth=\"-\" test=\"-\"") })
        #expect(try leaks([password, header, rules.access], in: files(below: signed.storage.directory)) == [])
    }

    @Test func aGoogleMachineListsItsProjectAndReadsWithItsToken() throws {
        let directory = try TemporaryDirectory("google")
        let storage = try directory.makeDirectory("storage")
        try RegistryService.fill(storage)
        var rules = TokenServer.Rules()
        rules.access = "ya29-LEAK-3-x"
        let metadata = try TokenServer(rules)
        let registry = try RegistryService.start(
            storage: storage,
            login: .password(user: "oauth2accesstoken", password: rules.access)
        )
        // gcr.io is what this proxy takes for it.
        let proxy = try SigningFront.start(registry: registry.host)
        let mount = try CrfsMount(
            arguments: ["--insecure-registry", "gcr.io", "--hosts-dir", directory.path, "--log-level", "trace"],
            environment: [
                "GCE_METADATA_HOST": metadata.service.host, "http_proxy": "http://\(proxy.host)",
                "DOCKER_CONFIG": directory.path,
            ]
        )
        #expect(try names(in: mount.path("images/gcr.io")) == ["test-project-1"])
        try expectTree(mount.path("images/gcr.io/corpus/estargz"), is: "merged", flags: ["--native"] + tocFlags)
        let seen = try proxy.requests()
        #expect(seen.contains { $0.path.hasPrefix("http://gcr.io/v2/corpus/blobs/") })
        #expect(seen.allSatisfy { !$0.path.contains("computeMetadata") }, "a token went by the proxy")
        let asked = try metadata.service.requests().filter { $0.path.hasSuffix("/token") }
        #expect(asked.count == 1)
        #expect(asked.allSatisfy { $0.headers["metadata-flavor"] == "Google" })
        #expect(try leaks([rules.access], in: [mount.log] + files(below: mount.cache)) == [])
    }

    @Test func aRegistryThatWantsAClientCertificateIsMounted() throws {
        let directory = try TemporaryDirectory("client")
        let storage = try directory.makeDirectory("storage")
        let certificates = try directory.makeDirectory("certificates")
        try RegistryService.fill(storage)
        try makeCertificates(in: certificates)
        let registry = try RegistryService.start(storage: storage)
        let front = try CertificateFront(registry: registry.host, certificates: certificates, isRequired: true)
        let certs = try directory.makeDirectory("certs.d/\(front.host)")
        try writeFile(
            "\(certs)/hosts.toml",
            """
            server = "https://\(front.host)"
            ca = "\(certificates)/ca.crt"
            client = [["\(certificates)/client.pem", "\(certificates)/client-key.pem"]]

            """
        )
        let mount = try CrfsMount(arguments: ["--hosts-dir", directory.file("certs.d")])
        try expectTree(mount.path("images/\(front.host)/corpus/estargz"), is: "merged", flags: ["--native"] + tocFlags)
        #expect(try front.accesses().allSatisfy { $0.contains("CN=crfs test client") })
    }

    @Test func aRepositoryOfFiftyThousandTagsIsListedInBoundedMemory() throws {
        let directory = try TemporaryDirectory("tags")
        let storage = try directory.makeDirectory("storage")
        try RegistryService.fill(storage)
        let registry = try RegistryService.start(storage: storage)
        let tags = "\(storage)/docker/registry/v2/repositories/corpus/_manifests/tags"
        // Tags are directories with a link in them; one link serves all.
        try runChecked(
            "python3",
            [
                "-c",
                """
                import os, sys
                tags = sys.argv[1]
                for number in range(50000):
                    os.symlink("estargz", f"{tags}/v{number}")
                """,
                tags,
            ]
        )
        let mount = try CrfsMount(arguments: ["--hosts-dir", directory.path])
        let repository = mount.path("images/\(registry.host)/corpus")
        let listed = try runChecked("find", [repository, "-mindepth", "1", "-maxdepth", "1", "-type", "l"])
        #expect(listed.text.split(separator: "\n").count == 50_001)
        #expect(try linkTarget("\(repository)/v49999") == linkTarget("\(repository)/estargz"))
        // One request for the list, and none for its entries.
        let log = try text(of: registry.log)
        #expect(log.split(separator: "\n").filter { $0.contains("/tags/list") && $0.contains(" HTTP/") }.count == 1)
        let status = try readFile("/proc/\(mount.process.pid)/status", limit: 65536).array
        let lines = String(decoding: status, as: UTF8.self).split(separator: "\n")
        let peak = lines.first { $0.hasPrefix("RssAnon:") }?.split(whereSeparator: \.isWhitespace)[1]
        let kilobytes = try #require(peak.flatMap { Int($0) })
        #expect(kilobytes < 128 << 10, "\(kilobytes) KiB")
    }
}
