import Glibc
import PosixIO
import TestSupport
import Testing

@testable import OCIRegistry

/// Configuration files, helpers, and that nothing shows a secret.
struct CredentialTests {
    private func file(_ json: String) throws -> CredentialFile {
        try #require(CredentialFile(json: Array(json.utf8), source: "test.json"))
    }

    private func proof(_ file: CredentialFile, _ authority: String, _ path: String? = nil) -> Credential.Proof? {
        guard case .credential(let credential) = file.answer(CredentialPlace(authority: authority, path: path)) else {
            return nil
        }
        return credential.proof
    }

    private func password(_ user: String, _ secret: String) -> Credential.Proof {
        .password(user: user, Secret(secret))
    }

    @Test func aSecretIsInNoDescriptionAndNoMirror() throws {
        let secret = Secret("hunter2")
        let credential = Credential(proof: .password(user: "u", secret), source: "f")
        var dumped = ""
        dump(credential, to: &dumped)
        dump(Optional([secret]), to: &dumped)
        for text in ["\(secret)", String(reflecting: secret), "\(credential)", String(reflecting: credential), dumped] {
            #expect(!text.contains("hunter2"))
            #expect(!text.contains("104"), "the bytes are shown: \(text)")
        }
        #expect(secret.headerText(after: "Bearer ") == "Bearer hunter2")
        #expect(Secret("a\r\nX: y").headerText() == nil)
    }

    @Test func everySpellingOfAHostIsFound() throws {
        // "user:pass" in base64.
        for key in [
            "https://index.docker.io/v1/", "https://index.docker.io/v1", "index.docker.io", "docker.io",
            "registry-1.docker.io",
        ] {
            let file = try file(#"{"auths": {"\#(key)": {"auth": "dXNlcjpwYXNz"}}}"#)
            #expect(proof(file, "registry-1.docker.io", "library/debian") == password("user", "pass"), "\(key)")
            #expect(proof(file, "ghcr.io") == nil)
        }
        for key in ["r.example:5000", "https://r.example:5000", "http://r.example:5000/v2/", "R.example:5000/"] {
            let file = try file(#"{"auths": {"\#(key)": {"username": "user", "password": "pass"}}}"#)
            #expect(proof(file, "r.example:5000", "a/b") == password("user", "pass"), "\(key)")
            #expect(proof(file, "r.example", "a/b") == nil)
        }
    }

    @Test func theMostSpecificPathWins() throws {
        let file = try file(
            """
            {"auths": {
              "r.example": {"username": "host", "password": "1"},
              "r.example/team": {"username": "team", "password": "2"},
              "r.example/team/app": {"username": "app", "password": "3"},
              "r.example/empty": {}
            }}
            """
        )
        #expect(proof(file, "r.example", "team/app") == password("app", "3"))
        #expect(proof(file, "r.example", "team/app/sub") == password("app", "3"))
        #expect(proof(file, "r.example", "team/apple") == password("team", "2"))
        #expect(proof(file, "r.example", "other") == password("host", "1"))
        #expect(proof(file, "r.example", "empty/x") == password("host", "1"))
        #expect(proof(file, "r.example") == password("host", "1"))
    }

    @Test func tokensAndHelpersAreToldApart() throws {
        let file = try file(
            """
            {"auths": {
              "i.example": {"auth": "dXNlcjo=", "identitytoken": "refresh"},
              "b.example": {"registrytoken": "bearer"},
              "h.example": {"auth": "dXNlcjpwYXNzOndvcmQA"}
             }, "credHelpers": {"gcr.io": "gcloud"}, "credsStore": "secretservice"}
            """
        )
        func helper(_ host: String) -> String? {
            let answer = file.answer(CredentialPlace(authority: host, path: "a"))
            guard case .helper(let name, _) = answer else { return nil }
            return name
        }
        #expect(helper("gcr.io") == "gcloud")
        #expect(helper("any.example") == "secretservice")
        guard case .helper("secretservice", let own?) = file.answer(CredentialPlace(authority: "i.example", path: nil)),
            case .helper(_, let other?) = file.answer(CredentialPlace(authority: "h.example", path: nil))
        else {
            Issue.record("what the file holds itself is lost")
            return
        }
        #expect(own.proof == .identity(user: "user", Secret("refresh")))
        #expect(other.proof == password("user", "pass:word"))
    }

    @Test func whatIsNoConfigurationIsRefused() {
        for text in ["", "[]", "{\"auths\": 5}", "{\"auths\": {\"a\": {\"auth\": 7}}}", "nonsense"] {
            #expect(CredentialFile(json: Array(text.utf8), source: "x") == nil)
        }
        #expect(CredentialFile(json: Array("{}".utf8), source: "x") != nil)
    }

    @Test func theUsersToolsDecideWhereToLook() {
        let all = ["REGISTRY_AUTH_FILE": "/r", "DOCKER_CONFIG": "/d", "HOME": "/h", "XDG_RUNTIME_DIR": "/x"]
        #expect(
            CredentialSources(variable: { all[$0] }, user: 7).files
                == ["/r", "/d/config.json", "/x/containers/auth.json"]
        )
        let home = ["HOME": "/h"]
        #expect(
            CredentialSources(variable: { home[$0] }, user: 7).files
                == ["/h/.docker/config.json", "/run/containers/7/auth.json"]
        )
    }

    // MARK: Helpers

    /// Puts a program in front of PATH for as long as the tests run.
    private func makeHelper(_ name: String, _ script: String) throws {
        try writeFile("\(HelperPath.directory)/docker-credential-\(name)", "#!/bin/sh\n\(script)\n", mode: 0o755)
    }

    private func failure(_ helper: CredentialHelper, _ host: String = "r.example") async -> CredentialHelper.Failure? {
        await offPool {
            do throws(CredentialHelper.Failure) {
                _ = try helper.get(host)
                return nil
            } catch {
                return error
            }
        }
    }

    @Test func aHelperIsAskedOnItsStandardInput() async throws {
        let directory = try TemporaryDirectory("helper")
        try makeHelper(
            "plain",
            """
            read url; echo "$1 $url $#" >> \(directory.path)/asked; env > \(directory.path)/env; pwd > \(directory.path)/cwd
            echo '{"ServerURL": "x", "Username": "u", "Secret": "s"}'
            """
        )
        let credential = try await offPool { try CredentialHelper("plain").get("r.example:5000") }
        #expect(credential.proof == password("u", "s"))
        #expect(credential.source == "docker-credential-plain")
        #expect(try text(of: directory.file("asked")) == "get r.example:5000 1\n")
        #expect(try text(of: directory.file("cwd")) == "/\n")
        _ = try await offPool { try CredentialHelper("plain").get("docker.io") }
        #expect(try text(of: directory.file("asked")).hasSuffix("get https://index.docker.io/v1/ 1\n"))
    }

    @Test func aHelperMayKnowTheHostByItsURLAndGiveATokenInstead() async throws {
        try makeHelper(
            "urls",
            """
            read url
            case "$url" in
            https://*) echo '{"Username": "<token>", "Secret": "refresh"}';;
            *) echo "credentials not found in native keychain"; exit 1;;
            esac
            """
        )
        let credential = try await offPool { try CredentialHelper("urls").get("r.example") }
        #expect(credential.proof == .identity(user: "<token>", Secret("refresh")))
    }

    @Test func helpersThatHaveNothingAndBrokenOnesAreToldApart() async throws {
        try makeHelper("nothing", "echo credentials not found in native keychain; exit 1")
        try makeHelper("broken", "echo my secret is hunter2; exit 3")
        try makeHelper("empty", "echo '{}'")
        guard case .nothing = await failure(CredentialHelper("nothing")) else {
            Issue.record("'not found' is no failure of the helper")
            return
        }
        for name in ["broken", "empty", "no-such-helper", "../evil", ""] {
            guard case .broken(let reason) = await failure(CredentialHelper(name)) else {
                Issue.record("\(name) gave something")
                continue
            }
            #expect(reason.contains("docker-credential-\(name)"))
            #expect(!reason.contains("hunter2"))
        }
    }

    @Test func aHelperThatHangsIsKilledWithAllItsChildren() async throws {
        let directory = try TemporaryDirectory("helper")
        try makeHelper("hangs", "sleep 1000 & echo $! > \(directory.path)/child; echo $$ > \(directory.path)/own; wait")
        guard case .broken(let reason) = await failure(CredentialHelper("hangs", patience: 0.5)) else {
            Issue.record("it gave something")
            return
        }
        #expect(reason.contains("did not answer"))
        for name in ["child", "own"] {
            let pid = try #require(pid_t(try text(of: directory.file(name)).split(separator: "\n").first ?? ""))
            try await mustHold { kill(pid, 0) != 0 || isZombie(pid) }
        }
    }

    @Test func aDaemonThatAHelperLeavesBehindDoesNotHoldItUp() async throws {
        let directory = try TemporaryDirectory("helper")
        try makeHelper(
            "daemon",
            "sleep 20 & echo $! > \(directory.path)/child; echo '{\"Username\": \"u\", \"Secret\": \"s\"}'"
        )
        let credential = try await offPool { try CredentialHelper("daemon", patience: 10).get("r.example") }
        #expect(credential.proof == password("u", "s"))
        let pid = try #require(pid_t(try text(of: directory.file("child")).split(separator: "\n").first ?? ""))
        kill(pid, SIGKILL)
    }
}

/// Orphans in a container may have nobody who reaps them.
private func isZombie(_ pid: pid_t) -> Bool {
    guard let status = try? readFile("/proc/\(pid)/stat", limit: 4096) else { return true }
    return String(decoding: status.array, as: UTF8.self).contains(") Z ")
}

/// A directory in front of PATH of the test process.
enum HelperPath {
    static let directory: String = {
        let path = "\(environmentValue("TMPDIR") ?? "/tmp")/crfs-test-helpers-\(getpid())"
        try? makeDirectories(path)
        unsafe setenv("PATH", "\(path):\(environmentValue("PATH") ?? "/usr/bin:/bin")", 1)
        atexit { removeTree("\(environmentValue("TMPDIR") ?? "/tmp")/crfs-test-helpers-\(getpid())") }
        return path
    }()
}
