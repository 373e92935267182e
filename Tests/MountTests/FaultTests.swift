import Glibc
import PosixIO
import TestSupport
import Testing

/// What happens when the registry or the way to it misbehaves.
@Suite(.needs(.mounting))
struct FaultTests {
    private let big = "usr/lib/big.bin"

    init() throws { try Requirement.mounting.orFail() }

    /// Mounts with a proxy in between; the image is `image("corpus/estargz")` of the result.
    private func stageBehindProxy(
        _ formats: [String] = ["estargz"],
        arguments: [String] = []
    ) throws -> (registry: RegistryServer, proxy: FaultProxy, mount: CrfsMount) {
        let registry = try RegistryServer()
        for format in formats { try registry.pushWithTOC(format) }
        let proxy = try FaultProxy(upstream: registry.host)
        return (registry, proxy, try CrfsMount(arguments: arguments))
    }

    private func expectedBig() throws -> Reader.Outcome {
        let stage = try Stage()
        return try fingerprint(stage.image("corpus/estargz/\(big)"))
    }

    // MARK: Faults that pass

    static let passing: [FaultProxy.Rule] = [
        .init("ignore-range", match: "/blobs/"),
        .init("cut", match: "/blobs/", times: 3),
        .init("truncate", match: "/blobs/", times: 2),
        .init("status", match: "", times: 3, code: 503),
        .init("status", match: "", times: 2, code: 429, after: 1),
        .init("status", match: "/blobs/", times: 2, code: 500),
        .init("refuse", match: "", times: 3),
        .init("corrupt", match: "/blobs/", times: 1),
        .init("slow", match: "/blobs/", bytes: 16384, everyMilliseconds: 10),
    ]

    @Test(arguments: passing.indices)
    func aFaultThatPassesIsNotSeenInTheTree(index: Int) throws {
        let stage = try stageBehindProxy()
        try stage.proxy.use(FaultTests.passing[index])
        try expectTree(
            stage.mount.path("images/\(stage.proxy.host)/corpus/estargz"),
            is: "merged",
            flags: ["--native"] + tocFlags
        )
        #expect(try stage.proxy.requests().contains { $0.mode == FaultTests.passing[index].mode })
    }

    @Test func aRedirectToAnotherHostIsRememberedAndCarriesNoAuthorization() throws {
        let stage = try stageBehindProxy()
        let storage = try FaultProxy(upstream: stage.registry.host)
        try stage.proxy.use(.init("redirect", match: "/blobs/", to: storage.host))
        try expectTree(
            stage.mount.path("images/\(stage.proxy.host)/corpus/estargz"),
            is: "merged",
            flags: ["--native"] + tocFlags
        )
        let answered = try storage.requests()
        #expect(!answered.isEmpty)
        #expect(answered.allSatisfy { !$0.authorization && $0.path.contains("signed=") })
        // One question to the registry for each blob, or a few where several were asked at once; not one per range.
        let redirected = try stage.proxy.requests().filter { $0.mode == "redirect" }
        #expect(redirected.count < answered.count || answered.count <= 8)
    }

    // MARK: Faults that stay for a while

    @Test func contentThatNeverFitsItsDigestIsEIOAndNamedInTheLogAndTheNextReadWorks() throws {
        let stage = try stageBehindProxy(arguments: ["--deadline", "3"])
        let file = stage.mount.path("images/\(stage.proxy.host)/corpus/estargz/\(big)")
        try look(file)
        try stage.proxy.use(.init("corrupt", match: "/blobs/"))
        #expect(try Reader(file).finish() == .failed("EIO"))
        #expect(!stage.mount.logLines(containing: big).isEmpty)
        try stage.proxy.use(.init("pass"))
        #expect(try Reader(file).finish() == expectedBig())
    }

    @Test func aWrong416IsAnErrorAndTheNextReadWorks() throws {
        let stage = try stageBehindProxy(arguments: ["--deadline", "3"])
        let file = stage.mount.path("images/\(stage.proxy.host)/corpus/estargz/\(big)")
        try look(file)
        try stage.proxy.use(.init("bad416", match: "/blobs/"))
        guard case .failed = try Reader(file).finish() else {
            Issue.record("a range that the server refuses was read")
            return
        }
        try stage.proxy.use(.init("pass"))
        #expect(try Reader(file).finish() == expectedBig())
    }

    @Test func aRegistryThatForbidsIsEACCES() throws {
        let stage = try stageBehindProxy()
        let file = stage.mount.path("images/\(stage.proxy.host)/corpus/estargz/\(big)")
        try look(file)
        try stage.proxy.use(.init("status", match: "/blobs/", code: 403))
        #expect(try Reader(file).finish() == .failed("EACCES"))
        try stage.proxy.use(.init("pass"))
        #expect(try Reader(file).finish() == expectedBig())
    }

    @Test func aSilentRegistryIsETIMEDOUTAfterTheDeadlineAndTheNextReadWorks() throws {
        let stage = try Stage(arguments: ["--deadline", "2"])
        let file = stage.image("corpus/estargz/\(big)")
        try look(file)
        stage.registry.suspend()
        #expect(try Reader(file).finish() == .failed("ETIMEDOUT"))
        stage.registry.resume()
        #expect(try Reader(file).finish() == expectedBig())
    }

    @Test func aReaderWaitsThroughARestartOfTheRegistry() throws {
        let stage = try Stage()
        let file = stage.image("corpus/estargz/\(big)")
        try look(file)
        stage.registry.stop()
        let reader = try Reader(file)
        #expect(reader.waitUntilReading())
        // It cannot end well before the registry is back; that it does not end badly either takes a moment to see.
        #expect(reader.process.wait(seconds: 1) == nil)
        try stage.registry.start()
        #expect(try reader.finish() == expectedBig())
    }

    @Test func anUnreachableHostIsAnErrorAndDisturbsNothing() throws {
        let stage = try Stage(arguments: ["--deadline", "2"])
        let nobody = stage.mount.path("images/127.0.0.1:\(freePort())/some/image/tag/etc")
        let result = try run("stat", [nobody], seconds: 60)
        #expect(result.status == .exited(1))
        #expect(try text(of: stage.image("corpus/estargz/etc/hosts")) == "127.0.0.1 localhost\n")
    }

    // MARK: Parked readers

    @Test func readersOfADeadRegistryDoNotHoldUpAnythingElse() throws {
        let dead = try Stage()
        let alive = try RegistryServer()
        try alive.pushCorpus("stargz-legacy")
        let root = dead.image("corpus/estargz")
        // Of another layer, whose chunks are kept under its own name: reading it brings none of what is read below.
        try dead.registry.pushCorpus("stargz-legacy")
        let cached = dead.image("corpus/stargz-legacy/etc/hosts")
        let hosts = try text(of: cached)
        #expect(try run("ls", ["-lR", "\(root)/usr"], seconds: 60).isSuccess)
        dead.registry.suspend()
        defer { dead.registry.resume() }

        var readers: [BackgroundProcess] = []
        let output = try TemporaryDirectory("readers")
        for page in 0..<10 {
            for file in 0..<9 {
                for _ in 0..<2 {
                    readers.append(
                        try BackgroundProcess(
                            "cat",
                            ["\(root)/usr/share/doc/p\(page)/file\(file).txt"],
                            log: output.file("log")
                        )
                    )
                }
            }
        }
        for _ in readers.count..<200 {
            readers.append(try BackgroundProcess("cat", ["\(root)/\(big)"], log: output.file("log")))
        }

        // What is in memory, and what another registry has, is there all the same.
        #expect(try run("cat", [cached], seconds: 30).text == hosts)
        try expectTree(
            dead.mount.path("images/\(alive.host)/corpus/stargz-legacy"),
            is: "merged",
            flags: ["--native"] + tocFlags
        )
        #expect(try run("ls", ["-lR", "\(root)/usr"], seconds: 60).isSuccess)
        let parked = readers.filter(\.isRunning).count
        #expect(parked >= 100, "only \(parked) of 200 readers waited")

        // And those who wait can be killed at once.
        for reader in readers where reader.isRunning {
            reader.signal(SIGKILL)
        }
        for reader in readers {
            #expect(reader.wait(seconds: 20) != nil)
        }
    }

    @Test func aKilledReaderGoesAtOnceAndTheOthersGoOn() throws {
        let stage = try Stage()
        let file = stage.image("corpus/estargz/\(big)")
        try look(file)
        stage.registry.suspend()
        let killed = try Reader(file)
        let other = try Reader(file)
        #expect(killed.waitUntilReading() && other.waitUntilReading())
        killed.process.signal(SIGKILL)
        #expect(killed.process.wait(seconds: 20) == .signalled(SIGKILL))
        #expect(other.process.isRunning)
        stage.registry.resume()
        #expect(try other.finish() == expectedBig())
    }

    @Test func aHarmlessSignalDisturbsNoParkedReader() throws {
        let stage = try Stage()
        let file = stage.image("corpus/estargz/\(big)")
        try look(file)
        stage.registry.suspend()
        let reader = try Reader(file)
        #expect(reader.waitUntilReading())
        for _ in 0..<5 {
            reader.process.signal(SIGUSR1)
            #expect(reader.process.wait(seconds: 0.2) == nil)
        }
        stage.registry.resume()
        #expect(try reader.finish() == expectedBig())
    }

    /// Wrong bytes of a manifest, a configuration or a TOC, for as long as they last, are a failed look-up or read with a
    /// line in the log; the right ones are taken when they come again.
    @Test(arguments: ["estargz", "estargz-exttoc", "zstdchunked-ctr", "zstdchunked-skopeo"])
    func wrongBytesOfWhatDigestsCoverFailAndHeal(format: String) throws {
        let registry = try RegistryServer()
        try registry.pushWithTOC(format)
        let proxy = try FaultProxy(upstream: registry.host)
        let layout = try ImageLayout(Corpus.layout(format), tag: format)
        let place = "\(proxy.host)/corpus/sha256-\(layout.manifestHex)"
        for (match, path) in [
            ("/manifests/", "images/\(place)/etc/hosts"),
            ("/blobs/sha256:\(layout.configHex)", "layers/\(place)/config"),
            ("/blobs/", "images/\(place)/etc/hosts"),
        ] {
            try proxy.use(.init("pass"))
            let mount = try CrfsMount(arguments: ["--deadline", "3"])
            try proxy.use(.init("corrupt", match: match))
            let failed = try run("cat", [mount.path(path)], seconds: 60)
            #expect(!failed.isSuccess, "\(match)")
            #expect(!mount.logLines(containing: "sha256:").isEmpty, "\(match)")
            try proxy.use(.init("pass"))
            // What was found wrong is remembered for some seconds.
            #expect(waitUntil { (try? run("cat", [mount.path(path)], seconds: 60))?.isSuccess == true }, "\(match)")
        }
    }

    // MARK: Bad layers

    @Test func aLayerThatIsNoneIsOneErrorAndOthersGoOn() throws {
        let directory = try TemporaryDirectory("bad")
        let source = try ImageLayout(Corpus.layout("estargz"))
        let good = try contents(of: source.blob(source.layerHexes[0]))
        // The same size with another footer; a footer that points behind the end; a TOC that is no gzip.
        var flipped = good
        for index in flipped.count - 51..<flipped.count { flipped[index] ^= 0xFF }
        var beyond = good
        let offset = good.count - 51 + 16
        for index in offset..<offset + 16 { beyond[index] = UInt8(ascii: "f") }
        var noTOC = good
        let text = String(decoding: good[offset..<offset + 16], as: UTF8.self)
        let toc = try #require(Int(text, radix: 16))
        for index in toc..<toc + 64 { noTOC[index] = 0 }

        let stage = try Stage()
        for (name, bytes) in [("flipped", flipped), ("beyond", beyond), ("no-toc", noTOC)] {
            let layer = directory.file("\(name).tar.gz")
            try unsafe replaceFile(layer, with: bytes.span.bytes)
            let layout = directory.file("\(name).oci")
            try ImageLayout.make(layout, tag: name, layers: [layer])
            try stage.registry.push(layout: layout, tag: name, to: "bad:\(name)")
            let image = stage.image("bad/\(name)")
            let result = try run("ls", ["\(image)/"], seconds: 60)
            #expect(!result.isSuccess)
            let hex = try ImageLayout(layout).layerHexes[0]
            #expect(!stage.mount.logLines(containing: hex).isEmpty, "the log does not name the layer of \(name)")
        }
        try expectTree(stage.image("corpus/estargz"), is: "merged", flags: ["--native"] + tocFlags)
    }
}
