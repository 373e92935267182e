import Glibc
import PosixIO
import TestSupport
import Testing

/// What is in the cache is there without its registry (spec sections 1 and 5).
@Suite(.needs(.mounting))
struct OfflineTests {
    init() throws { try Requirement.mounting.orFail() }

    /// How a registry can be away.
    enum Away: String, CaseIterable {
        case stopped, silent
    }

    /// An image below three path components, read once and left: its registry, and the cache directory.
    private func cached(_ directory: borrowing TemporaryDirectory) throws -> (registry: RegistryServer, cache: String) {
        let registry = try RegistryServer()
        try registry.pushCorpus("estargz", to: "some/nested/corpus:estargz")
        let cache = try directory.makeDirectory("cache", mode: 0o700)
        let mount = try CrfsMount(cache: cache)
        let root = mount.path("images/\(registry.host)/some/nested/corpus/estargz")
        try expectTree(root, is: "merged", flags: ["--native"] + tocFlags)
        let configuration = mount.path("layers/\(registry.host)/some/nested/corpus/estargz/config")
        #expect(try !contents(of: configuration).isEmpty)
        #expect(mount.stop() == .exited(0))
        return (registry, cache)
    }

    @Test(arguments: Away.allCases)
    func aCachedImageMountsAndReadsAfterARestart(away: Away) throws {
        let directory = try TemporaryDirectory("offline")
        let (registry, cache) = try cached(directory)
        if away == .stopped { registry.stop() } else { registry.suspend() }
        defer { if away == .silent { registry.resume() } }

        // A fresh time of 0: each look-up has to ask.
        let mount = try CrfsMount(cache: cache, arguments: ["--tag-ttl", "0", "--deadline", "900"])
        let repository = mount.path("images/\(registry.host)/some/nested/corpus")
        let started = monotonicNanoseconds()
        #expect(try run("ls", ["\(repository)/estargz/etc"], seconds: 100).isSuccess)
        // One wait of 3 s for the registry, not one for each name of the path, and not the deadline of 120 s.
        #expect(monotonicNanoseconds() - started < 60_000_000_000)
        try expectTree("\(repository)/estargz", is: "merged", flags: ["--native"] + tocFlags)
        let listed = try run("ls", [repository], seconds: 100)
        #expect(listed.text.contains("estargz"), "\(listed)")
        let configuration = try run("cat", [mount.path("layers/\(registry.host)/some/nested/corpus/estargz/config")])
        #expect(configuration.isSuccess && configuration.text.contains("rootfs"), "\(configuration)")
        #expect(mount.logLines(containing: "using the last known digest").count == 1)
        #expect(mount.logLines(containing: "does not answer: going on").count == 1)

        // Commands beside the owner.
        let image = "\(registry.host)/some/nested/corpus:estargz"
        let read = try CrfsProgram.run(["cat", "--cache-dir", cache, image, "/etc/hosts"])
        #expect(read.text == "127.0.0.1 localhost\n", "\(read)")
        #expect(mount.stop() == .exited(0))

        // And without one.
        for command in [["cat", image, "/etc/hosts"], ["ls", image, "/etc"], ["inspect", image]] {
            let result = try CrfsProgram.run(command + ["--cache-dir", cache], seconds: 100)
            #expect(result.isSuccess, "\(result)")
        }
    }

    @Test func aKnownImageMountsWithoutARequestWhileItsTagIsFresh() throws {
        let directory = try TemporaryDirectory("known")
        let (registry, cache) = try cached(directory)
        let before = registry.requests(containing: "/v2/").count
        let mount = try CrfsMount(cache: cache, arguments: ["--tag-ttl", "600", "--no-background"])
        let root = mount.path("images/\(registry.host)/some/nested/corpus/estargz")
        #expect(try run("ls", ["\(root)/etc"]).isSuccess)
        #expect(mount.stop() == .exited(0))
        // Neither for the tag nor for the names on the way to it, each of which could be one.
        #expect(before > 0 && registry.requests(containing: "/v2/").count == before)
    }

    @Test func aRegistryThatComesBackIsAskedAgain() throws {
        let directory = try TemporaryDirectory("offline")
        let (registry, cache) = try cached(directory)
        registry.stop()
        let mount = try CrfsMount(cache: cache, arguments: ["--tag-ttl", "0"])
        let repository = mount.path("images/\(registry.host)/some/nested/corpus")
        #expect(try run("ls", ["\(repository)/estargz/"], seconds: 100).isSuccess)
        let former = try linkTarget("\(repository)/estargz")
        try registry.start()
        try registry.pushCorpus("stargz-legacy", to: "some/nested/corpus:estargz")
        #expect(try waitUntil(seconds: 60) { try linkTarget("\(repository)/estargz") != former })
    }

    @Test func aNameThatCannotBeResolvedIsNotNeeded() throws {
        let directory = try TemporaryDirectory("dns")
        let registry = try RegistryServer()
        try registry.pushCorpus("estargz")
        let host = "registry.crfs-test.invalid:\(registry.port)"
        try writeFile(directory.file("known"), "127.0.0.1 localhost registry.crfs-test.invalid\n")
        try writeFile(directory.file("unknown"), "127.0.0.1 localhost\n")
        let script = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\""
        func read(_ hosts: String) throws -> ProcessResult {
            try run(
                "unshare",
                [
                    "-m", "sh", "-c", script, "sh", directory.file(hosts), CrfsProgram.path, "cat",
                    "--cache-dir", directory.file("cache"), "--insecure-registry", host, "--tag-ttl", "0",
                    "\(host)/corpus:estargz", "/etc/hosts",
                ],
                seconds: 100
            )
        }
        let first = try read("known")
        #expect(first.text == "127.0.0.1 localhost\n", "\(first)")
        let second = try read("unknown")
        #expect(second.text == "127.0.0.1 localhost\n", "\(second)")
        #expect(second.errorText.contains("using the last known digest"), "\(second)")
    }
}
