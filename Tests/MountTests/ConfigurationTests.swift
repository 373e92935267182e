import PosixIO
import TestSupport
import Testing

/// The configuration file and the environment: command line beats environment beats file.
@Suite final class ConfigurationTests {
    private let directory: TemporaryDirectory
    private var file: String { directory.file("config.toml") }

    init() throws { directory = try TemporaryDirectory("configuration") }

    /// Where a command that names its cache directory in an error looked for it.
    private func status(_ arguments: [String], environment: [String: String] = [:]) throws -> ProcessResult {
        try run(CrfsProgram.path, ["status"] + arguments, environment: environment)
    }

    private func write(_ text: String) throws { try writeFile(file, text) }

    @Test func theCommandLineBeatsTheEnvironmentAndThatTheFile() throws {
        try write(
            "cache-dir = \"/nowhere/top\"\n[status]\ncache-dir = \"/nowhere/status\"\n[cat]\ncache-dir = \"/nowhere/cat\"\n"
        )
        #expect(try status(["--config", file]).errorText.contains("/nowhere/status"))
        #expect(try status(["--config=\(file)"]).errorText.contains("/nowhere/status"))
        #expect(try status([], environment: ["CRFS_CONFIG": file]).errorText.contains("/nowhere/status"))
        let environment = ["CRFS_CONFIG": file, "CRFS_CACHE_DIR": "/nowhere/environment"]
        #expect(try status([], environment: environment).errorText.contains("/nowhere/environment"))
        let typed = try status(["--cache-dir", "/nowhere/typed"], environment: environment)
        #expect(typed.errorText.contains("/nowhere/typed"))
        try write("cache-dir = \"/nowhere/top\"\n")
        #expect(try status(["--config", file]).errorText.contains("/nowhere/top"))
    }

    static let wrong: [(text: String, complaint: String)] = [
        ("cache-dri = \"/x\"\n", "line 1: no command has an option --cache-dri"),
        ("\n[mnt]\ncache-dir = \"/x\"\n", "line 2: there is no command mnt"),
        ("[status]\nchunk-size = 5\n", "line 2: no command has an option --chunk-size"),
        ("cache-dir = \n", "line 1"), ("cache-dir = [1]\n", "cache-dir must be a string or a number"),
        ("[status]\njson = 1\n", "json must be true or false"),
    ]

    @Test(arguments: wrong)
    func whatCannotBeMeantIsRefusedWithItsPlace(_ wrong: (text: String, complaint: String)) throws {
        try write(wrong.text)
        let result = try status(["--config", file])
        #expect(result.status == .exited(1), "\(result)")
        #expect(result.errorText.contains(wrong.complaint), "\(result)")
    }

    @Test func aNamedFileMustBeThereAndQuestionsNeedNone() throws {
        let missing = try status(["--config", directory.file("missing.toml")])
        #expect(missing.errorText.contains("missing.toml"))
        #expect(!missing.isSuccess)
        try write("nonsense = 1\n")
        for question in [["--version"], ["--help"], ["mount", "--help"], ["help", "mount"]] {
            let result = try run(CrfsProgram.path, question, environment: ["CRFS_CONFIG": file])
            // The file is TOML: it was read, and nothing of it was used.
            #expect(result.isSuccess, "\(result)")
        }
    }

    @Test(.needs(.mounting)) func aMountIsAsTheFileAndTheEnvironmentSay() throws {
        try Requirement.mounting.orFail()
        let registry = try RegistryServer()
        try registry.pushCorpus("estargz")
        try write(
            """
            tag-ttl = 7.5
            cache-size = "64MiB"
            [mount]
            mount-mode = "0750"
            list-host = ["one.example", "two.example"]
            userxattr = true
            suid = false
            allow-other = false
            """
        )
        let mount = try CrfsMount(
            arguments: ["--config", file],
            environment: ["CRFS_ALLOW_HOST": "one.example,127.0.0.1:*", "CRFS_SUID": "yes"]
        )
        #expect(try FileStatus(mount.point).mode & 0o777 == 0o750)
        // Two hosts by the file, of which the environment allows one.
        #expect(try names(in: mount.path("images")).contains("one.example"))
        #expect(try !names(in: mount.path("images")).contains("two.example"))
        let options = try #require(mountOptions(of: mount.point))
        #expect(!options.contains("nosuid"))
        try expectTree(
            mount.path("images/\(registry.host)/corpus/estargz"),
            is: "merged",
            flags: ["--native"] + tocFlags
        )
        let status = try CrfsProgram.run(["status", "--json", "--cache-dir", mount.cache])
        #expect(status.text.contains("67108864"), "\(status)")
    }
}
