import Glibc
import PosixIO
import TestSupport
import Testing

/// The test support itself: what the mount tests conclude is worth as much as these helpers.
@Suite struct SupportTests {
    @Test func runReportsOutputErrorsAndExitCode() throws {
        let result = try run("sh", ["-c", "cat; echo out; echo err >&2; exit 3"], input: Array("in\n".utf8))
        #expect(result.text == "in\nout\n")
        #expect(result.errorText == "err\n")
        #expect(result.status == .exited(3))
    }

    @Test func runPassesEnvironmentAndDirectory() throws {
        let directory = try TemporaryDirectory()
        let result = try run(
            "sh",
            ["-c", "echo $CRFS_TEST_VALUE; pwd -P"],
            environment: ["CRFS_TEST_VALUE": "a b"],
            directory: directory.path
        )
        #expect(result.text == "a b\n\(directory.path)\n")
    }

    @Test func aProgramThatDoesNotExistIsAnError() throws {
        #expect(throws: SystemError.self) { try run("/no/such/program") }
    }

    @Test func runKillsWhatTakesTooLong() throws {
        let result = try run("sleep", ["1000"], seconds: 0.2)
        #expect(result.status == .timedOut)
    }

    @Test func aBackgroundProcessEndsBySignalAndKeepsItsLog() throws {
        let directory = try TemporaryDirectory()
        let log = directory.file("log")
        let process = try BackgroundProcess("sh", ["-c", "echo started; exec sleep 1000"], log: log)
        #expect(try waitUntil { try text(of: log) == "started\n" })
        #expect(process.isRunning)
        #expect(process.terminate() == .signalled(SIGTERM))
        #expect(!process.isRunning)
    }

    @Test func aTemporaryDirectoryGoesWithItsOwner() throws {
        var path = ""
        do {
            let directory = try TemporaryDirectory()
            path = directory.path
            try writeFile("\(directory.makeDirectory("a/b"))/file", "x")
            #expect(try names(in: path) == ["a"])
        }
        #expect(errorNumber { () throws(SystemError) in _ = try FileStatus(path) } == ENOENT)
    }

    @Test func everyCorpusLayoutIsReadable() throws {
        for format in ["estargz", "estargz-prefetch", "estargz-min64k", "stargz-legacy", "gzip"] {
            let layout = try ImageLayout(Corpus.layout(format))
            #expect(layout.layerHexes.count == 3)
            for (hex, size) in zip(layout.layerHexes, layout.layerSizes) {
                #expect(try FileStatus(layout.blob(hex)).size == UInt64(size))
            }
        }
    }

    @Test(.enabled(if: Requirement.root.runs, Comment(rawValue: Requirement.root.reason)))
    func theKernelsListShowsAMountByItsPath() throws {
        try Requirement.root.orFail()
        let directory = try TemporaryDirectory()
        let point = try directory.makeDirectory("with space")
        #expect(!isMounted(point))
        try runChecked("mount", ["-t", "tmpfs", "none", point])
        #expect(isMounted(point))
        try runChecked("umount", [point])
        #expect(!isMounted(point))
    }
}

/// The registry and the proxy in front of it, seen with curl.
@Suite(.enabled(if: Requirement.registry.runs, Comment(rawValue: Requirement.registry.reason)))
struct RegistrySupportTests {
    init() throws { try Requirement.registry.orFail() }

    private func get(_ url: String, _ options: [String] = []) throws -> ProcessResult {
        try run("curl", ["-sS", "--max-time", "20"] + options + [url])
    }

    @Test func aPushedImageIsServedByteForByte() throws {
        let registry = try RegistryServer()
        try registry.pushCorpus("estargz")
        let layout = try ImageLayout(Corpus.layout("estargz"))
        let manifest = try get(
            "http://\(registry.host)/v2/corpus/manifests/estargz",
            ["-H", "Accept: application/vnd.oci.image.manifest.v1+json"]
        )
        #expect(try manifest.output == contents(of: layout.blob(layout.manifestHex)))
        #expect(!registry.requests(containing: "GET", "/v2/corpus/manifests/estargz").isEmpty)

        registry.deleteTag("estargz", of: "corpus")
        let gone = try get("http://\(registry.host)/v2/corpus/manifests/estargz", ["-f"])
        #expect(!gone.isSuccess)
    }

    @Test func aStoppedRegistryRefusesAndStartsAgain() throws {
        let registry = try RegistryServer()
        registry.stop()
        #expect(try !get("http://\(registry.host)/v2/").isSuccess)
        try registry.start()
        #expect(try get("http://\(registry.host)/v2/").text == "{}")
    }

    @Test func aSuspendedRegistryAcceptsAndNeverAnswers() throws {
        let registry = try RegistryServer()
        registry.suspend()
        let result = try run("curl", ["-sS", "--max-time", "0.5", "http://\(registry.host)/v2/"])
        #expect(result.status == .exited(28))
        registry.resume()
        #expect(try get("http://\(registry.host)/v2/").text == "{}")
    }

    @Test func tlsComesWithHTTP2AndItsOwnAuthority() throws {
        let registry = try RegistryServer(.tls)
        try registry.pushCorpus("stargz-legacy")
        let url = "https://\(registry.host)/v2/"
        #expect(try !get(url).isSuccess)
        let result = try get(
            url,
            ["--cacert", registry.certificateAuthority, "-o", "/dev/null", "-w", "%{http_version} %{http_code}"]
        )
        #expect(result.text == "2 200")
    }

    @Test func theProxyPassesRangesOnAndLogsThem() throws {
        let registry = try RegistryServer()
        try registry.pushCorpus("estargz")
        let layout = try ImageLayout(Corpus.layout("estargz"))
        let proxy = try FaultProxy(upstream: registry.host)
        let url = "http://\(proxy.host)/v2/corpus/blobs/sha256:\(layout.layerHexes[0])"
        let part = try get(url, ["-r", "100-199"])
        #expect(try part.output == Array(contents(of: layout.blob(layout.layerHexes[0]))[100..<200]))
        let request = try #require(try proxy.requests().last)
        #expect(request.range == "bytes=100-199")
        #expect(request.status == 206)
        #expect(request.bytes == 100)
    }

    @Test func theProxyDoesWhatItsRulesSay() throws {
        let registry = try RegistryServer()
        try registry.pushCorpus("estargz")
        let layout = try ImageLayout(Corpus.layout("estargz"))
        let proxy = try FaultProxy(upstream: registry.host)
        let url = "http://\(proxy.host)/v2/corpus/blobs/sha256:\(layout.layerHexes[0])"
        func codeAndSize(_ options: [String] = []) throws -> String {
            try get(url, ["-r", "0-999", "-o", "/dev/null", "-w", "%{http_code} %{size_download}"] + options).text
        }

        #expect(try codeAndSize() == "206 1000")
        try proxy.use(.init("ignore-range", match: "/blobs/"))
        #expect(try codeAndSize() == "200 \(layout.layerSizes[0])")
        try proxy.use(.init("cut", match: "/blobs/", keep: 10))
        #expect(try codeAndSize() == "206 10")
        try proxy.use(.init("status", match: "/blobs/", times: 2, code: 503, after: 1))
        #expect(try codeAndSize().hasPrefix("503"))
        #expect(try codeAndSize().hasPrefix("503"))
        #expect(try codeAndSize() == "206 1000")
        try proxy.use(.init("bad416", match: "/blobs/"))
        #expect(try codeAndSize().hasPrefix("416"))
        try proxy.use(.init("refuse"))
        #expect(try codeAndSize() == "000 0")
        try proxy.use(.init("truncate", match: "/blobs/"))
        #expect(try codeAndSize() == "206 500")
        try proxy.use(.init("corrupt", match: "/blobs/"))
        #expect(try get(url).output != contents(of: layout.blob(layout.layerHexes[0])))
        try proxy.use(.init("hang", match: "/blobs/"))
        #expect(try codeAndSize(["--max-time", "0.5"]) == "000 0")
        try proxy.use(.init("redirect", match: "/blobs/", times: 1, to: registry.host))
        #expect(try codeAndSize(["-L"]) == "206 1000")
    }
}
