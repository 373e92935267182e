import Glibc
import PosixIO
import TestSupport
import Testing

/// Prefetch on mount, profiles and `crfs warm`, by the real program.
@Suite(.needs(.mounting))
struct ProfileTests {
    init() throws { try Requirement.mounting.orFail() }

    private let files = ["usr/lib/big.bin", "etc/hosts", "usr/share/doc/p3/file7.txt", "usr/share/doc/p0/file0.txt"]

    private func server(_ format: String = "estargz") throws -> RegistryServer {
        let registry = try RegistryServer()
        try registry.pushCorpus(format)
        return registry
    }

    private func reference(_ registry: RegistryServer, _ format: String = "estargz") -> String {
        "\(registry.host)/corpus:\(format)"
    }

    /// The image by its digest, relative to a mount.
    private func byDigest(_ registry: RegistryServer, _ mount: CrfsMount, _ format: String = "estargz") throws -> String
    {
        let digest = try linkTarget(mount.path("images/\(registry.host)/corpus/\(format)"))
        return "images/\(registry.host)/corpus/\(digest)"
    }

    private func profile(_ cache: String, _ arguments: String...) throws -> ProcessResult {
        try CrfsProgram.run(["profile", arguments[0], "--cache-dir", cache] + arguments.dropFirst())
    }

    /// Says what it prefetched.
    private let quiet = ["--log-level", "info", "--deadline", "5"]

    private func hasPrefetched(_ mount: CrfsMount, _ kind: String) -> Bool {
        waitUntil { mount.logLines(containing: "(\(kind))").contains { $0.contains("prefetched") } }
    }

    /// Mounts, reads the files, unmounts; their fingerprints.
    @discardableResult
    private func record(_ registry: RegistryServer, cache: String, _ arguments: [String] = []) throws -> [Reader
        .Outcome]
    {
        let mount = try CrfsMount(cache: cache, arguments: quiet + arguments)
        let image = try byDigest(registry, mount)
        let result = try files.map { try fingerprint(mount.path("\(image)/\($0)")) }
        #expect(mount.stop() == .exited(0))
        return result
    }

    @Test func aProfileOfOneMachineServesAnother() throws {
        let registry = try server()
        let first = try TemporaryDirectory("first")
        let expected = try record(registry, cache: first.path)
        let list = try profile(first.path, "list")
        #expect(list.isSuccess && list.text.contains("1 runs"), "\(list)")
        let file = first.file("exported")
        let exported = try profile(first.path, "export", reference(registry), file)
        #expect(exported.isSuccess, "\(exported)")
        #expect(try FileStatus(file).size < 1024)

        let second = try TemporaryDirectory("second")
        let cache = try second.makeDirectory("cache", mode: 0o700)
        let imported = try profile(cache, "import", file)
        #expect(imported.isSuccess, "\(imported)")
        let mount = try CrfsMount(cache: cache, arguments: quiet)
        let image = try byDigest(registry, mount)
        // The first look-up inside begins it. Then nothing of the network is needed any more.
        try look(mount.path("\(image)/etc"))
        #expect(hasPrefetched(mount, "profile"))
        registry.stop()
        for (name, outcome) in zip(files, expected) {
            #expect(try fingerprint(mount.path("\(image)/\(name)")) == outcome)
        }
        // What is not in the profile is not there.
        expectError(EIO, ETIMEDOUT) { () throws(SystemError) in
            _ = try readFile(mount.path("\(image)/usr/share/doc/p5/file5.txt"), limit: 1 << 20)
        }
        #expect(mount.stop() == .exited(0))
        let line = try #require(mount.logLines(containing: "prefetched by profile").first)
        #expect(line.contains(", 0.0 MiB unread"), "\(line)")
    }

    @Test func aJobHasAProfileOfItsOwn() throws {
        let registry = try server()
        let cache = try TemporaryDirectory("cache")
        try record(registry, cache: cache.path, ["--job", "ci/build:1"])
        let list = try profile(cache.path, "list")
        #expect(list.text.contains(" ci/build:1 1 runs"), "\(list)")
        let shown = try profile(cache.path, "show", "--job", "ci/build:1", reference(registry))
        #expect(shown.isSuccess && shown.text.contains("job ci/build:1"), "\(shown)")
        #expect(try profile(cache.path, "show", reference(registry)).status == .exited(1))
        let paths = try profile(cache.path, "show", "--files", "--job", "ci/build:1", reference(registry))
        #expect(Set(paths.text.split(separator: "\n").map(String.init)) == Set(files), "\(paths)")
        #expect(try profile(cache.path, "remove", "--job", "ci/build:1", reference(registry)).isSuccess)
        #expect(try profile(cache.path, "remove", "--job", "ci/build:1", reference(registry)).status == .exited(1))
        #expect(try profile(cache.path, "list").text == "")
        #expect(try CrfsProgram.run(["mount", "--job", "two words", "/nowhere"]).status == .exited(2))
    }

    @Test func aFileThatOnlyOneRunNeededGoesAfterAFewOthers() throws {
        let registry = try server()
        let cache = try TemporaryDirectory("cache")
        try record(registry, cache: cache.path)
        func chunks() throws -> Int {
            try profile(cache.path, "show", reference(registry)).text.split(separator: "\n").filter {
                $0.first?.isNumber == true
            }.count
        }
        let all = try chunks()
        #expect(all >= files.count)
        for run in 1...3 {
            let mount = try CrfsMount(cache: cache.path, arguments: quiet)
            let image = try byDigest(registry, mount)
            _ = try fingerprint(mount.path("\(image)/etc/hosts"))
            #expect(mount.stop() == .exited(0))
            #expect(try run == 3 ? chunks() == 1 : chunks() == all)
        }
        // A mount that nobody read of is no run.
        for _ in 0..<3 {
            let mount = try CrfsMount(cache: cache.path, arguments: quiet)
            try look(mount.path("\(try byDigest(registry, mount))/etc/hosts"))
            mount.stop()
        }
        #expect(try chunks() == 1)
    }

    @Test func killMinus9LeavesTheProfile() throws {
        let registry = try server()
        let cache = try TemporaryDirectory("cache")
        let mount = try CrfsMount(cache: cache.path, arguments: quiet)
        let image = try byDigest(registry, mount)
        for name in files { _ = try fingerprint(mount.path("\(image)/\(name)")) }
        // It is saved while the mount goes on.
        #expect(
            waitUntil {
                (try? profile(cache.path, "list").text.contains("0 runs")) == true
            }
        )
        mount.process.kill()
        mount.stop()
        let shown = try profile(cache.path, "show", reference(registry))
        #expect(
            shown.text.split(separator: "\n").filter { $0.first?.isNumber == true }.count >= files.count,
            "\(shown)"
        )
    }

    @Test func whatIsReadThroughLayerViewsIsTheImagesProfile() throws {
        let registry = try server()
        let cache = try TemporaryDirectory("cache")
        let mount = try CrfsMount(cache: cache.path, arguments: quiet)
        let layers = mount.path("layers/\(registry.host)/corpus/estargz")
        for name in files { _ = try fingerprint("\(layers)/bottom/\(name)") }
        #expect(mount.stop() == .exited(0))

        let second = try TemporaryDirectory("second")
        let file = second.file("exported")
        #expect(try profile(cache.path, "export", reference(registry), file).isSuccess)
        let empty = try second.makeDirectory("cache", mode: 0o700)
        #expect(try profile(empty, "import", file).isSuccess)
        let again = try CrfsMount(cache: empty, arguments: quiet)
        let bottom = "layers/\(registry.host)/corpus/estargz/bottom"
        try look(again.path("\(bottom)/etc"))
        #expect(hasPrefetched(again, "profile"))
        registry.stop()
        for name in files { _ = try fingerprint(again.path("\(bottom)/\(name)")) }
    }

    @Test func whatIsBeforeTheLandmarkComesFirst() throws {
        let registry = try server("estargz-prefetch")
        let mount = try CrfsMount(arguments: quiet)
        let image = try byDigest(registry, mount, "estargz-prefetch")
        try look(mount.path("\(image)/etc"))
        #expect(hasPrefetched(mount, "landmark"))
        registry.stop()
        _ = try fingerprint(mount.path("\(image)/etc/hosts"))
        _ = try fingerprint(mount.path("\(image)/usr/bin/tool"))
        // The upper layers' landmarks stand first: nothing of them is needed early.
        expectError(EIO, ETIMEDOUT) { () throws(SystemError) in
            _ = try readFile(mount.path("\(image)/top"), limit: 1 << 20)
        }
    }

    @Test func theRestComesWithTheFirstReadAndNotBefore() throws {
        let registry = try server()
        let mount = try CrfsMount(arguments: quiet + ["--background"])
        let image = try byDigest(registry, mount)
        _ = try runChecked("find", [mount.path("\(image)/")])
        let before = registry.requests(containing: "/blobs/", "crfs/").count
        // Looking around has cost the layers' TOCs and nothing else.
        #expect(before == 3)
        _ = try fingerprint(mount.path("\(image)/etc/hosts"))
        #expect(hasPrefetched(mount, "background"))
        registry.stop()
        try expectTree(mount.path(image), is: "merged", flags: ["--native"] + tocFlags)
    }

    @Test func imagesCanBeNamedWithTheMount() throws {
        let registry = try server()
        let mount = try CrfsMount(arguments: quiet + ["--background", "--prefetch", reference(registry)])
        #expect(hasPrefetched(mount, "background"))
        registry.stop()
        try expectTree(
            mount.path("images/\(registry.host)/corpus/estargz"),
            is: "merged",
            flags: ["--native"] + tocFlags
        )
    }

    @Test func warmingAnImageNeedsTheRegistryOnce() throws {
        let registry = try server()
        let cache = try TemporaryDirectory("cache")
        func warm(_ arguments: String...) throws -> ProcessResult {
            try CrfsProgram.run(["warm", "--cache-dir", cache.path] + arguments + [reference(registry)])
        }
        let hot = try warm("--hot")
        #expect(hot.status == .exited(1) && hot.errorText.contains("profile"), "\(hot)")
        let first = try warm()
        #expect(first.isSuccess && !first.text.contains(" 0 bytes fetched"), "\(first)")
        let second = try warm()
        #expect(second.isSuccess && second.text.contains(" 0 bytes fetched, 0 were missing"), "\(second)")
        let mount = try CrfsMount(cache: cache.path, arguments: quiet)
        // Its owner is asked now.
        let beside = try warm()
        #expect(beside.isSuccess && beside.text.contains(" 0 bytes fetched, 0 were missing"), "\(beside)")
        let image = try byDigest(registry, mount)
        registry.stop()
        try expectTree(mount.path(image), is: "merged", flags: ["--native"] + tocFlags)
    }

    @Test func warmingHotFilesFetchesThoseOfTheProfile() throws {
        let registry = try server()
        let first = try TemporaryDirectory("first")
        try record(registry, cache: first.path)
        let file = first.file("exported")
        #expect(try profile(first.path, "export", reference(registry), file).isSuccess)
        let second = try TemporaryDirectory("second")
        let cache = try second.makeDirectory("cache", mode: 0o700)
        #expect(try profile(cache, "import", file).isSuccess)
        let warmed = try CrfsProgram.run(["warm", "--hot", "--cache-dir", cache, reference(registry)])
        #expect(warmed.isSuccess, "\(warmed)")
        let mount = try CrfsMount(cache: cache, arguments: quiet)
        let image = try byDigest(registry, mount)
        registry.stop()
        for name in files { _ = try fingerprint(mount.path("\(image)/\(name)")) }
    }

    @Test func warmingBesideAMountIsDoneByItsProcess() throws {
        let registry = try server()
        let mount = try CrfsMount(arguments: quiet)
        func warm(_ arguments: String...) throws -> ProcessResult {
            try CrfsProgram.run(["warm", "--cache-dir", mount.cache] + arguments + [reference(registry)])
        }
        let other = try warm("--tag-ttl", "99")
        #expect(other.status == .exited(1) && other.errorText.contains("--tag-ttl is"), "\(other)")
        let hot = try warm("--hot")
        #expect(hot.status == .exited(1) && hot.errorText.contains("profile"), "\(hot)")
        let nothing = try CrfsProgram.run(
            ["warm", "--cache-dir", mount.cache, "\(registry.host)/corpus:none", reference(registry)]
        )
        #expect(nothing.status == .exited(1) && nothing.errorText.contains("1 of 2 images"), "\(nothing)")
        #expect(nothing.text.contains(reference(registry)) && !nothing.text.contains(" 0 bytes fetched"), "\(nothing)")
        let again = try warm()
        #expect(again.isSuccess && again.text.contains(" 0 bytes fetched, 0 were missing"), "\(again)")
        let image = try byDigest(registry, mount)
        registry.stop()
        try expectTree(mount.path(image), is: "merged", flags: ["--native"] + tocFlags)
        #expect(mount.stop() == .exited(0))
        #expect(mount.logLines(containing: "prefetched by warm").count == 1)
    }

    @Test func whoGoesAwayEndsWarmingInTheOwner() throws {
        let registry = try server()
        let mount = try CrfsMount(arguments: quiet)
        try look(mount.path("\(try byDigest(registry, mount))/etc"))
        registry.suspend()
        let directory = try TemporaryDirectory("warm")
        let log = directory.file("log")
        for signal in [SIGINT, SIGKILL] {
            let client = try BackgroundProcess(
                CrfsProgram.path,
                ["warm", "--cache-dir", mount.cache, reference(registry)],
                log: log
            )
            #expect(client.wait(seconds: 0.5) == nil)
            client.signal(signal)
            #expect(client.wait() == (signal == SIGINT ? .exited(1) : .signalled(SIGKILL)))
        }
        #expect(try text(of: log).contains("interrupted"))
        // Nothing of it keeps the owner.
        registry.resume()
        #expect(mount.stop() == .exited(0))
    }

    @Test func aRunningMountWritesDownItsProfileForWhoAsks() throws {
        let registry = try server()
        let mount = try CrfsMount(arguments: quiet)
        let image = try byDigest(registry, mount)
        for name in files { _ = try fingerprint(mount.path("\(image)/\(name)")) }
        let shown = try profile(mount.cache, "show", "--files", reference(registry))
        #expect(Set(shown.text.split(separator: "\n").map(String.init)) == Set(files), "\(shown)")
        _ = try fingerprint(mount.path("\(image)/usr/share/doc/p5/file5.txt"))
        let later = try profile(mount.cache, "show", "--files", reference(registry))
        #expect(later.text.contains("usr/share/doc/p5/file5.txt"), "\(later)")
    }

    @Test func aRegistryThatDoesNotAnswerIsAFailureOfWarming() throws {
        let registry = try server()
        let cache = try TemporaryDirectory("cache")
        registry.stop()
        let result = try CrfsProgram.run(["warm", "--cache-dir", cache.path, "--deadline", "3", reference(registry)])
        #expect(result.status == .exited(1))
        #expect(result.errorText.contains(reference(registry)), "\(result)")
        #expect(try CrfsProgram.run(["warm"]).status == .exited(2))
        #expect(try profile(cache.path, "import", "/dev/null").status == .exited(1))
    }
}
