import Glibc
import PosixIO
import TestSupport
import Testing

/// Every place where a login can stand opens the registry, and what stands there is found nowhere else: not in the log, what
/// `crfs status` says, the cache directory, the arguments and the environment of any child, or what other hosts are sent.
@Suite(.needs(.all([.mounting, .program("nginx"), .program("htpasswd")])))
struct CredentialSourceTests {
    init() throws { try Requirement.all([.mounting, .program("nginx"), .program("htpasswd")]).orFail() }

    private static let password = "pw-LEAK-4-x"
    private static let refresh = "refresh-LEAK-5-x"

    /// A login: where it stands and how.
    enum Source: String, CaseIterable {
        case password, auth, identityToken, registryToken, helper, helperToken
        case home, registryAuthFile, runtimeDirectory
        /// The registry itself asks for the password, not for a token.
        case basic
    }

    /// The entry of the registry in `auths`; nil where a helper has it.
    private func entry(_ source: Source, token: String) -> String? {
        switch source {
        case .auth:
            // "robot:pw-LEAK-4-x"
            #"{"auth": "cm9ib3Q6cHctTEVBSy00LXg="}"#
        case .identityToken: #"{"identitytoken": "\#(Self.refresh)"}"#
        case .registryToken: #"{"registrytoken": "\#(token)"}"#
        case .helper, .helperToken: nil
        default: #"{"username": "robot", "password": "\#(Self.password)"}"#
        }
    }

    @Test(arguments: Source.allCases)
    func aLoginOpensTheRegistryAndIsFoundNowhereElse(_ source: Source) throws {
        let directory = try TemporaryDirectory("source")
        let storage = try directory.makeDirectory("storage")
        let certificates = try directory.makeDirectory("certificates")
        try RegistryService.fill(storage)
        try makeCertificates(in: certificates)
        var rules = TokenServer.Rules()
        rules.life = 600
        rules.users = ["robot": Self.password]
        rules.refresh = [Self.refresh]
        let tokens = try TokenServer(rules)
        let registry = try RegistryService.start(
            storage: storage,
            login: source == .basic ? .password(user: "robot", password: Self.password) : tokens.login
        )
        let signed = try SignedStorage(
            directory: storage,
            registry: registry.host,
            certificates: certificates,
            life: 3
        )
        let own = signed.front.host
        // A mirror that has nothing: everything is asked of it first.
        let empty = try RegistryService.start(storage: directory.makeDirectory("empty"))
        let mirror = try SigningFront.start(registry: empty.host)
        let certs = try directory.makeDirectory("certs.d/\(own)")
        try writeFile("\(certs)/hosts.toml", "server = \"http://\(own)\"\n[host.\"http://\(mirror.host)\"]\n")

        // A token as somebody may have stored one.
        let query = "service=test-registry&scope=repository:corpus:pull"
        let answer = try runChecked("curl", ["-sS", "-u", "robot:\(Self.password)", "\(tokens.realm)?\(query)"]).text
        let words: [Substring] = answer.split(separator: "\"")
        let token = words.map(String.init).max { $0.count < $1.count } ?? ""
        try #require(token.hasPrefix("eyJ"))
        let environment = try logIn(source, own, token, directory)

        let mount = try CrfsMount(
            arguments: [
                "--ca-file", "\(certificates)/ca.crt", "--hosts-dir", directory.file("certs.d"), "--log-level", "trace",
            ],
            environment: environment
        )
        try expectTree(mount.path("images/\(own)/corpus/estargz"), is: "merged", flags: ["--native"] + tocFlags)

        // All tokens of this token server begin with its certificate.
        let secrets = [Self.password, Self.refresh, "cm9ib3Q6cHct", "PHRva2VuPj", String(token.prefix(120))]
        var told = try files(below: mount.cache) + [mount.log]
        for options in [[], ["--json"]] {
            let status = try CrfsProgram.run(["status", "--cache-dir", mount.cache] + options)
            #expect(status.isSuccess && status.text.contains(mount.point))
            told.append(directory.file("status\(options.count)"))
            try writeFile(told[told.count - 1], status.description)
        }
        for name in ["cmdline", "environ"] {
            told.append(directory.file(name))
            let content = try readFile("/proc/\(mount.process.pid)/\(name)", limit: 1 << 20).array
            try writeFile(told[told.count - 1], String(decoding: content, as: UTF8.self))
        }
        // What the helper was started with: every configuration of docker's has one.
        if environment["DOCKER_CONFIG"] != "" || environment["HOME"] != nil {
            told += [directory.file("arguments"), directory.file("environment")]
            #expect(try text(of: directory.file("arguments")).contains("docker-credential-leaks get"))
        }
        #expect(told.count > 8)
        for secret in secrets {
            for file in told {
                #expect(try !run("grep", ["-qaF", "-e", secret, file]).isSuccess, "\(secret): \(file)")
            }
        }

        // The registry was shown it, or what the token server gave for it; the others were shown nothing.
        let scheme = source == .basic ? "Basic " : "Bearer "
        #expect(try signed.front.requests().contains { $0.headers["authorization"]?.hasPrefix(scheme) == true })
        let mirrored = try mirror.requests()
        #expect(mirrored.contains { $0.path.contains("/blobs/") })
        #expect(mirrored.allSatisfy { $0.headers["authorization"] == nil })
        #expect(try !signed.accesses().isEmpty)
        #expect(try signed.accesses().allSatisfy { $0.contains("auth=\"-\"") })
        let others = try [signed.storage.directory, mirror.directory, empty.directory].flatMap { try files(below: $0) }
        for secret in secrets {
            for file in others {
                #expect(try !run("grep", ["-qaF", "-e", secret, file]).isSuccess, "\(secret): \(file)")
            }
        }
    }

    private func files(below directory: String) throws -> [String] {
        try runChecked("find", [directory, "-type", "f"]).text.split(separator: "\n").map(String.init)
    }

    /// Writes the login to where the source says; the environment that leads there.
    private func logIn(
        _ source: Source,
        _ host: String,
        _ token: String,
        _ directory: borrowing TemporaryDirectory
    ) throws -> [String: String] {
        let helpers = try directory.makeDirectory("helpers")
        var environment = [
            "DOCKER_CONFIG": "", "REGISTRY_AUTH_FILE": "", "XDG_RUNTIME_DIR": "",
            "PATH": "\(helpers):\(environmentValue("PATH") ?? "/usr/bin:/bin")",
        ]
        let reply =
            switch source {
            case .helper: #"{"Username": "robot", "Secret": "\#(Self.password)"}"#
            case .helperToken: #"{"Username": "<token>", "Secret": "\#(Self.refresh)"}"#
            default: ""
            }
        // A helper that knows nothing says so and fails.
        let end = reply.isEmpty ? "echo 'credentials not found in native keychain'; exit 1" : "echo '\(reply)'"
        try writeFile(
            "\(helpers)/docker-credential-leaks",
            """
            #!/bin/sh
            read url; tr '\\0' ' ' < /proc/$$/cmdline > \(directory.path)/arguments; env > \(directory.path)/environment
            \(end)

            """,
            mode: 0o755
        )
        let auths = entry(source, token: token).map { "\"auths\": {\"\(host)\": \($0)}" }
        let docker = "{\((auths.map { [$0] } ?? []).joined()) \(auths == nil ? "" : ",") \"credsStore\": \"leaks\"}"
        switch source {
        case .registryAuthFile:
            try writeFile(directory.file("auth.json"), "{\(auths ?? "")}")
            environment["REGISTRY_AUTH_FILE"] = directory.file("auth.json")
        case .runtimeDirectory:
            try writeFile(directory.makeDirectory("run/containers") + "/auth.json", "{\(auths ?? "")}")
            environment["XDG_RUNTIME_DIR"] = directory.file("run")
        case .home:
            try writeFile(directory.makeDirectory("home/.docker") + "/config.json", docker)
            environment["HOME"] = directory.file("home")
        default:
            try writeFile(directory.makeDirectory("docker") + "/config.json", docker)
            environment["DOCKER_CONFIG"] = directory.file("docker")
        }
        return environment
    }
}
