import Glibc
import PosixIO
import TestSupport
import Testing

/// Plain layers: tar, tar+gzip and tar+zstd without an index.
@Suite(.needs(.mounting))
struct PlainLayerTests {
    init() throws { try Requirement.mounting.orFail() }

    /// Pushes the corpus image in a plain format; `tar` is made from `gzip`.
    private func push(_ format: String, _ registry: RegistryServer) throws {
        guard format == "tar" else { return try registry.pushCorpus(format) }
        let directory = try TemporaryDirectory("tar")
        let gzip = try ImageLayout(Corpus.layout("gzip"))
        var layers: [String] = []
        for (number, hex) in gzip.layerHexes.enumerated() {
            let path = directory.file("L\(number).tar")
            try runChecked("sh", ["-c", "gunzip -c < \"$1\" > \"$2\"", "sh", gzip.blob(hex), path])
            layers.append(path)
        }
        try ImageLayout.make(directory.file("layout"), tag: "tar", layers: layers)
        try registry.push(layout: directory.file("layout"), tag: "tar", to: "corpus:tar")
    }

    private func stage(_ format: String, arguments: [String] = []) throws -> Stage {
        let stage = try Stage([], arguments: arguments)
        try push(format, stage.registry)
        return stage
    }

    @Test(arguments: ["gzip", "zstd", "tar"])
    func everyViewIsTheExpectedTree(_ format: String) throws {
        let stage = try stage(format)
        try expectAllViews(stage, "corpus/\(format)", [])
    }

    /// A second mount on the same cache directory: with what the first one kept, and with nothing but its indexes.
    @Test(arguments: ["gzip", "zstd", "tar"])
    func anIndexedLayerIsNotDownloadedAgain(_ format: String) throws {
        let registry = try RegistryServer()
        try push(format, registry)
        let cache = try TemporaryDirectory("cache")
        let path = "images/\(registry.host)/corpus/\(format)"
        let first = try CrfsMount(cache: cache.path)
        try expectTree(first.path(path), is: "merged", flags: ["--native"])
        first.stop()
        let streamed = registry.requests(containing: "GET", "/blobs/").count
        let second = try CrfsMount(cache: cache.path)
        try expectTree(second.path(path), is: "merged", flags: ["--native"])
        second.stop()
        #expect(registry.requests(containing: "GET", "/blobs/").count == streamed)
        let third = try CrfsMount(cache: cache.path, arguments: ["--cache-size", "0", "--memory-cache", "300KiB"])
        try expectTree(third.path(path), is: "merged", flags: ["--native"])
        #expect(registry.requests(containing: "GET", "/blobs/").count > streamed)
    }

    @Test(.needs(.program("bsdtar")))
    func tarsOfEveryWriterAndFormatShowWhatTarExtracts() throws {
        try Requirement.program("bsdtar").orFail()
        let directory = try TemporaryDirectory("tars")
        let local = try directory.makeDirectory("out")
        let names = try runChecked("python3", [SourceTree.testSupport("mktars.py"), local]).text.split(separator: "\n")
        #expect(names.count >= 20)
        let mount = try CrfsMount(local: local)
        for name in names {
            let expected = try runChecked("python3", [SourceTree.testSupport("treelist.py"), "\(local)/x/\(name)"])
            let shown = try run(
                "python3",
                [SourceTree.testSupport("treelist.py"), mount.path("layers/local/\(name).tar")]
            )
            #expect(shown.text == expected.text, "\(name)")
        }
    }

    @Test func aLayerThatIsNotWhatTheConfigurationSaysIsRefused() throws {
        let stage = try Stage([])
        let directory = try TemporaryDirectory("diffid")
        try writeFile(directory.file("file"), "content\n")
        try runChecked("tar", ["-czf", directory.file("a.tar.gz"), "-C", directory.path, "file"])
        try ImageLayout.make(
            directory.file("layout"),
            tag: "wrong",
            layers: [directory.file("a.tar.gz")],
            options: ["--diff-id", "sha256:\(String(repeating: "0", count: 64))"]
        )
        try stage.registry.push(layout: directory.file("layout"), tag: "wrong", to: "app:wrong")
        expectError(EIO) { () throws(SystemError) in try look(stage.image("app/wrong/file")) }
        #expect(stage.mount.logLines(containing: "is not what the image's configuration says").count == 1)
    }

    @Test func aTransferThatIsCutIsNotSeenInTheTree() throws {
        let registry = try RegistryServer()
        try push("gzip", registry)
        let proxy = try FaultProxy(upstream: registry.host)
        try proxy.use(FaultProxy.Rule("cut", match: "/blobs/sha256:87b9f535", times: 6))
        let mount = try CrfsMount()
        try expectTree(mount.path("images/\(proxy.host)/corpus/gzip"), is: "merged", flags: ["--native"])
    }

    /// The deadline counts time without progress; the log says how far it is; what is not complete is never shown as if.
    @Test func aSlowLineIsNoErrorAndAKilledDaemonStartsAgain() throws {
        let registry = try RegistryServer()
        try push("gzip", registry)
        let proxy = try FaultProxy(upstream: registry.host)
        try proxy.use(FaultProxy.Rule("slow", match: "/blobs/sha256:87b9f535", bytes: 2048, everyMilliseconds: 300))
        let cache = try TemporaryDirectory("cache")
        let path = "images/\(proxy.host)/corpus/gzip"
        let first = try CrfsMount(cache: cache.path, arguments: ["--deadline", "4"])
        let lister = try BackgroundProcess("ls", [first.path("\(path)/etc/")], log: cache.path + ".ls")
        #expect(waitUntil(seconds: 60) { !first.logLines(containing: "streaming layer sha256:87b9f535").isEmpty })
        #expect(lister.isRunning)
        first.process.kill()
        first.stop()
        _ = lister.wait()
        let indexes = namesInDirectory("\(cache.path)/layers").filter { $0.hasSuffix(".idx") }
        #expect(!indexes.contains { $0.contains("87b9f535") })

        let second = try CrfsMount(cache: cache.path, arguments: ["--deadline", "4"])
        let again = try BackgroundProcess("ls", [second.path("\(path)/etc/")], log: cache.path + ".ls2")
        #expect(waitUntil(seconds: 60) { !second.logLines(containing: "streaming layer sha256:87b9f535").isEmpty })
        try proxy.use()
        #expect(again.wait(seconds: 120)?.isSuccess == true)
        try expectTree(second.path(path), is: "merged", flags: ["--native"])
    }

    @Test func aPublishedIndexMakesAPlainImageLazyElsewhere() throws {
        let registry = try RegistryServer()
        try push("gzip", registry)
        let image = "\(registry.host)/corpus:gzip"
        let cache = try TemporaryDirectory("cache")
        let written = try CrfsProgram.run(["index", "--bind", "bound", "--cache-dir", cache.path, image])
        #expect(written.isSuccess, "\(written)")
        #expect(written.text.contains("layers: 3"))
        let artifact = written.text.split(separator: "\n").first { $0.hasPrefix("index: ") }?.dropFirst(7) ?? ""
        let ways: [(tag: String, arguments: [String], isLazy: Bool)] = [
            ("gzip", ["--index-from", registry.host], true),
            ("gzip", ["--index-from", "127.0.0.1:*/corp*"], true),
            ("gzip", ["--index-digest", String(artifact)], true),
            ("bound", [], true),
            ("gzip", [], false),
            ("bound", ["--index", "off"], false),
            ("gzip", ["--index-from", "elsewhere.example"], false),
        ]
        for way in ways {
            let before = registry.requests(containing: "GET", "/blobs/sha256:87b9f535").count
            let mount = try CrfsMount(arguments: way.arguments)
            let root = mount.path("images/\(registry.host)/corpus/\(way.tag)")
            #expect(try names(in: root).contains("usr"))
            let streams = registry.requests(containing: "GET", "/blobs/sha256:87b9f535").count - before
            // The footer is looked for either way.
            #expect((streams < 2) == way.isLazy, "\(way)")
            try expectTree(root, is: "merged", flags: ["--native"])
        }
    }

    @Test func aLargeLayerStaysWithinItsBoundOfMemory() throws {
        let registry = try RegistryServer()
        let directory = try TemporaryDirectory("large")
        let root = try directory.makeDirectory("root")
        for number in 0..<20 {
            let script = "head -c 16000000 /dev/urandom | base64 -w 0 > \"$1\""
            try runChecked("sh", ["-c", script, "sh", "\(root)/\(number)"])
        }
        let script = "tar -c -C \"$1\" . | gzip -1 -n > \"$2\""
        try runChecked("sh", ["-c", script, "sh", root, directory.file("l.tar.gz")])
        try ImageLayout.make(directory.file("layout"), tag: "large", layers: [directory.file("l.tar.gz")])
        try registry.push(layout: directory.file("layout"), tag: "large", to: "app:large")
        let mount = try CrfsMount()
        let path = mount.path("images/\(registry.host)/app/large/7")
        #expect(try fingerprint(path) == fingerprint("\(root)/7"))
        let bytes = try readFile("/proc/\(mount.process.pid)/status", limit: 65536).array
        let status = String(decoding: bytes, as: UTF8.self)
        let peak = status.split(separator: "\n").first { $0.hasPrefix("VmHWM") }
        let kilobytes = peak?.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? .max
        // 96 MiB, and what a debug build with its libraries takes more than a release build.
        #expect(kilobytes < 128 << 10, "\(kilobytes) KiB")
    }
}
