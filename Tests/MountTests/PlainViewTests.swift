import PosixIO
import TestSupport
import Testing

/// Plain layers as tars of every writer, in every view; and what is seen of one while it streams.
@Suite(.needs(.mounting))
struct PlainViewTests {
    init() throws { try Requirement.mounting.orFail() }

    /// One image for each tar of GNU tar, bsdtar and Python's tarfile (mktars.py), in each of their formats: the image view, the
    /// layer view and a kernel overlayfs over the layer show what tar extracts.
    @Test(.needs(.program("bsdtar")))
    func imagesOfTarsOfEveryWriterShowWhatTarExtracts() throws {
        try Requirement.program("bsdtar").orFail()
        let directory = try TemporaryDirectory("tars")
        let made = try directory.makeDirectory("out")
        let names = try runChecked("python3", [SourceTree.testSupport("mktars.py"), made]).text.split(separator: "\n")
        #expect(names.count >= 20)
        let layout = directory.file("layout")
        let nothing = try directory.makeDirectory("nothing")
        let stage = try Stage([])
        func list(_ root: String) throws -> String {
            try runChecked("python3", [SourceTree.testSupport("treelist.py"), root]).text
        }
        for name in names {
            try ImageLayout.make(layout, tag: "\(name)", layers: ["\(made)/\(name).tar"])
            try stage.registry.push(layout: layout, tag: "\(name)", to: "tars:\(name)")
            let expected = try list("\(made)/x/\(name)")
            #expect(try list(stage.image("tars/\(name)/")) == expected, "image view of \(name)")
            #expect(try list(stage.layers("tars/\(name)/0/")) == expected, "layer view of \(name)")
            // overlayfs without an upper directory wants two lower ones.
            let overlay = try LayerOverlay([nothing, stage.layers("tars/\(name)/0")])
            #expect(try list(overlay.path) == expected, "overlayfs over \(name)")
        }
    }

    @Test func aLayerThatStreamsIsARowOfStatusAndALineInTheLog() throws {
        let registry = try RegistryServer()
        try registry.pushCorpus("gzip")
        let proxy = try FaultProxy(upstream: registry.host)
        try proxy.use(FaultProxy.Rule("slow", match: "/blobs/sha256:87b9f535", bytes: 2048, everyMilliseconds: 300))
        let mount = try CrfsMount()
        let directory = try TemporaryDirectory("lister")
        let path = mount.path("images/\(proxy.host)/corpus/gzip/etc/")
        let lister = try BackgroundProcess("ls", [path], log: directory.file("log"))
        func status() throws -> String { try CrfsProgram.run(["status", "--cache-dir", mount.cache]).text }
        #expect(waitUntil(seconds: 60) { ((try? status()) ?? "").contains("87b9f535") })
        let row = try status().split(separator: "\n").first { $0.contains("87b9f535") }
        #expect(row?.hasPrefix("stream") == true)
        #expect(row?.contains("\(proxy.host)/corpus") == true)
        // Every ten seconds.
        #expect(waitUntil(seconds: 60) { mount.logLines(containing: "streaming layer sha256:87b9f535").count >= 2 })
        #expect(lister.isRunning)
        try proxy.use()
        #expect(lister.wait(seconds: 120)?.isSuccess == true)
        #expect(waitUntil(seconds: 20) { !((try? status()) ?? "87b9f535").contains("87b9f535") })
    }
}
