import Glibc
import PosixIO
import TestSupport
import Testing

/// The commands as a user calls them: exit codes, one-line errors, life and death of a mount.
@Suite(.needs(.mounting))
struct CommandTests {
    init() throws { try Requirement.mounting.orFail() }

    /// One line on standard error that says something, and this exit code.
    private func expectFailure(
        _ arguments: [String],
        code: Int32 = 1,
        mentions words: [String] = [],
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let result = try CrfsProgram.run(arguments)
        #expect(result.status == .exited(code), "\(result)", sourceLocation: sourceLocation)
        if code == 1 {
            let lines = result.errorText.split(separator: "\n")
            #expect(lines.count == 1, "\(result)", sourceLocation: sourceLocation)
        }
        for word in words {
            #expect(result.errorText.contains(word), "\(result)", sourceLocation: sourceLocation)
        }
    }

    // MARK: Help and usage

    @Test(arguments: [
        [], ["mount"], ["umount"], ["convert"], ["stargzify"], ["inspect"], ["ls"], ["cat"], ["version"],
        ["optimize"], ["status"], ["cache"], ["cache", "stat"], ["cache", "prune"], ["cache", "verify"],
    ])
    func everyCommandHasHelp(command: [String]) throws {
        let result = try CrfsProgram.run(command + ["--help"])
        #expect(result.isSuccess, "\(result)")
        #expect(result.text.contains("USAGE"))
    }

    @Test(arguments: [
        ["--no-such-option"], ["mount", "--mount-mode", "0123"], ["umount", "a", "b"], ["cat"], ["ls", "--what"],
        ["cache", "prune", "--all", "--keep", "1GiB"], ["cache", "prune", "--keep", "much"], ["status", "x"],
    ])
    func wrongUsageIsExitCodeTwo(arguments: [String]) throws {
        try expectFailure(arguments, code: 2)
    }

    @Test func versionSaysWhatItIs() throws {
        let result = try CrfsProgram.run(["version"])
        #expect(result.isSuccess)
        #expect(result.text.hasPrefix("crfs "))
    }

    // MARK: mount and umount

    @Test func withoutForegroundItReturnsOnceTheMountServesAndUmountEndsIt() throws {
        let directory = try TemporaryDirectory("daemon")
        let point = try directory.makeDirectory("mnt")
        let cache = try directory.makeDirectory("cache", mode: 0o700)
        let result = try CrfsProgram.run(["mount", "--cache-dir", cache, "--local-dir", directory.path, point])
        defer { _ = try? run("umount", ["-l", point]) }
        #expect(result.isSuccess, "\(result)")
        #expect(isMounted(point))
        #expect(try names(in: point).contains("images"))
        let end = try CrfsProgram.run(["umount", point])
        #expect(end.isSuccess, "\(end)")
        #expect(waitUntil { !isMounted(point) })
        // The daemon is gone once the cache directory can be used by another one.
        #expect(
            try waitUntil {
                try CrfsProgram.run(["mount", "--cache-dir", cache, point]).isSuccess
            }
        )
        #expect(try CrfsProgram.run(["umount", point]).isSuccess)
    }

    @Test func theSeedsCommandLineWorks() throws {
        let directory = try TemporaryDirectory("seed")
        let point = try directory.makeDirectory("mnt")
        let process = try BackgroundProcess(
            CrfsProgram.path,
            ["--foreground", "--cache-dir", directory.makeDirectory("cache", mode: 0o700), "-fuse_debug", point],
            directory: directory.path,
            log: directory.file("log")
        )
        #expect(waitUntil { isMounted(point) || !process.isRunning })
        #expect(try names(in: point).contains("images"))
        #expect(try text(of: directory.file("log")).contains("READDIR"))
        process.terminate()
        #expect(!isMounted(point))
    }

    @Test(arguments: [SIGTERM, SIGINT])
    func aSignalUnmounts(signal: CInt) throws {
        let mount = try CrfsMount()
        #expect(try names(in: mount.point).contains("images"))
        mount.process.signal(signal)
        #expect(mount.process.wait() == .exited(0))
        #expect(!isMounted(mount.point))
    }

    @Test func aMountPointThatDoesNotExistIsAnError() throws {
        let directory = try TemporaryDirectory("missing")
        let point = directory.file("no/such/directory")
        try expectFailure(
            ["mount", "--foreground", "--cache-dir", directory.makeDirectory("cache", mode: 0o700), point],
            mentions: [point]
        )
        try expectFailure(
            ["mount", "--cache-dir", directory.makeDirectory("cache", mode: 0o700), point],
            mentions: [point]
        )
    }

    @Test func aCacheDirectoryThatOthersMayWriteIsRefused() throws {
        let directory = try TemporaryDirectory("open")
        let cache = try directory.makeDirectory("cache", mode: 0o777)
        try runChecked("chmod", ["0777", cache])
        let point = try directory.makeDirectory("mnt")
        try expectFailure(["mount", "--foreground", "--cache-dir", cache, point], mentions: [cache])
    }

    @Test func umountOfWhatIsNotMountedIsAnError() throws {
        let directory = try TemporaryDirectory("unmounted")
        try expectFailure(["umount", directory.path], mentions: [directory.path])
    }

    // MARK: Images without a mount

    @Test func lsCatAndInspectReadAnImageFromTheRegistry() throws {
        let registry = try RegistryServer()
        try registry.pushCorpus("estargz")
        let image = "\(registry.host)/corpus:estargz"
        let listed = try CrfsProgram.run(["ls", image, "/etc"])
        #expect(listed.isSuccess, "\(listed)")
        #expect(listed.text.split(separator: "\n") == ["empty", "hosts", "passwd", "shadow"])
        let hosts = try CrfsProgram.run(["cat", image, "/etc/hosts"])
        #expect(hosts.text == "127.0.0.1 localhost\n", "\(hosts)")
        let inspected = try CrfsProgram.run(["inspect", image])
        #expect(inspected.isSuccess, "\(inspected)")
        for hex in try ImageLayout(Corpus.layout("estargz")).layerHexes { #expect(inspected.text.contains(hex)) }
        let document = try CrfsProgram.run(["inspect", "--json", image])
        #expect(try run("python3", ["-m", "json.tool"], input: document.output).isSuccess, "\(document)")
        try expectFailure(["cat", image, "/no/such/file"], mentions: ["/no/such/file"])
        try expectFailure(["ls", "\(registry.host)/corpus:none"], mentions: ["corpus:none"])
        // In a process that does not know the repository yet, too, where the name would be a directory on faith.
        let cache = try TemporaryDirectory("cache")
        try expectFailure(
            ["ls", "--cache-dir", cache.file("new"), "\(registry.host)/corpus:none"],
            mentions: ["corpus:none"]
        )
    }

    @Test func lsAndInspectReadALayerFile() throws {
        let layout = try ImageLayout(Corpus.layout("estargz"))
        let directory = try TemporaryDirectory("file")
        let file = directory.file("layer.esgz")
        try runChecked("cp", [layout.blob(layout.layerHexes[0]), file])
        let listed = try CrfsProgram.run(["ls", "-R", file])
        #expect(listed.isSuccess && listed.text.contains("big.bin"), "\(listed)")
        let inspected = try CrfsProgram.run(["inspect", file])
        #expect(inspected.isSuccess, "\(inspected)")
        try expectFailure(["inspect", directory.file("none.esgz")], mentions: ["none.esgz"])
    }
}
