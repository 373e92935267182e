import Glibc
import PosixIO
import TestSupport
import Testing

/// `crfs convert` of whole images, from and to registries and image layouts.
@Suite(.needs(.mounting))
struct ConvertImageTests {
    init() throws { try Requirement.mounting.orFail() }

    private func convert(_ arguments: [String]) throws -> ProcessResult {
        try CrfsProgram.run(["convert", "--quiet"] + arguments, seconds: 120)
    }

    /// What skopeo says of a manifest or a configuration.
    private func inspect(_ arguments: [String]) throws -> String {
        try runChecked("skopeo", ["inspect", "--raw", "--tls-verify=false"] + arguments).text
    }

    @Test(arguments: ["estargz", "zstd-chunked"])
    func anImageOfARegistryIsLazyAndVerifiedAfterwards(_ format: String) throws {
        let stage = try Stage([], arguments: ["--verify", "require"])
        try stage.registry.pushCorpus("gzip")
        let target = "\(stage.registry.host)/made/deep/er:lazy"
        let result = try convert(["--format", format, "\(stage.registry.host)/corpus:gzip", target])
        #expect(result.isSuccess, "\(result)")
        #expect(result.text.contains("image: \(target)\n"))
        #expect(result.text.split(separator: "\n").filter { $0.hasPrefix("layer: ") }.count == 3)
        try expectBothViews(stage, "made/deep/er/lazy")
        let report = try CrfsProgram.run(["inspect", target])
        #expect(report.text.contains(format), "\(report)")
        #expect(try inspect(["docker://\(target)"]).contains("containerd.io/snapshot/stargz/toc.digest"))
        // Not one layer was streamed.
        #expect(stage.mount.logLines(containing: "streaming layer").isEmpty)
    }

    @Test func whatIsWrittenIntoALayoutIsWhatSkopeoTakesIt() throws {
        let directory = try TemporaryDirectory("layout")
        let layout = directory.file("made")
        let source = "oci:\(Corpus.layout("gzip")):gzip"
        for (format, tag) in [("estargz", "e"), ("zstd-chunked", "z")] {
            let result = try convert(["--format", format, source, "oci:\(layout):\(tag)"])
            #expect(result.isSuccess, "\(result)")
            // skopeo checks the digest of every blob.
            let plain = directory.file("plain-\(tag)")
            try runChecked(
                "skopeo",
                ["--insecure-policy", "copy", "--quiet", "oci:\(layout):\(tag)", "dir:\(plain)"]
            )
            let image = try ImageLayout(layout, tag: tag)
            let config = try text(of: image.blob(image.configHex))
            let read = ["gzip": "gunzip -c", "zstd": "zstd -dcq"][format == "estargz" ? "gzip" : "zstd"] ?? ""
            for hex in image.layerHexes {
                let script = "\(read) < \"$1\" | sha256sum"
                let digest = try runChecked("sh", ["-c", script, "sh", image.blob(hex)]).text.prefix(64)
                #expect(config.contains("sha256:\(digest)"))
            }
            // What the configuration said besides is still there.
            let old = try ImageLayout(Corpus.layout("gzip"))
            let names = ["architecture", "os", "history", "created"]
            let kept = "import json,sys; d = json.load(open(sys.argv[1])); print([d.get(n) for n in \(names)])"
            let before = try runChecked("python3", ["-c", kept, old.blob(old.configHex)]).text
            #expect(try runChecked("python3", ["-c", kept, image.blob(image.configHex)]).text == before)
        }
        // Both tags are there, and nothing that is in the way.
        #expect(try text(of: "\(layout)/index.json").contains("\"z\""))
        #expect(try names(in: "\(layout)/blobs/sha256").allSatisfy { $0.count == 64 })
        let stage = try Stage([], arguments: ["--verify", "require"])
        for tag in ["e", "z"] {
            try stage.registry.push(layout: layout, tag: tag, to: "made:\(tag)")
            try expectBothViews(stage, "made/\(tag)")
        }
        // From the layout into a registry, and the same bytes each time.
        let target = "\(stage.registry.host)/made:again"
        #expect(try convert([source, target]).isSuccess)
        #expect(try inspect(["docker://\(target)"]) == inspect(["oci:\(layout):e"]))
    }

    @Test func anImageOfDockersKindIsReplacedByItsUpgrade() throws {
        let stage = try Stage([])
        let reference = "\(stage.registry.host)/docker:v1"
        try runChecked(
            "skopeo",
            [
                "--insecure-policy", "copy", "--quiet", "--format", "v2s2", "--dest-tls-verify=false",
                "oci:\(Corpus.layout("gzip")):gzip", "docker://\(reference)",
            ]
        )
        #expect(try inspect(["docker://\(reference)"]).contains("docker.distribution.manifest.v2"))
        let result = try convert(["--upgrade", reference])
        #expect(result.isSuccess, "\(result)")
        let manifest = try inspect(["docker://\(reference)"])
        #expect(manifest.contains("vnd.oci.image.manifest.v1+json") && !manifest.contains("docker"))
        try expectBothViews(stage, "docker/v1")
    }

    @Test func ofAnIndexOneImageOrAllAreConverted() throws {
        let directory = try TemporaryDirectory("index")
        let gzip = try ImageLayout(Corpus.layout("gzip"))
        let layout = directory.file("layout")
        let layers = gzip.layerHexes.enumerated().map { directory.file("L\($0.offset).tar.gz") }
        for (hex, path) in zip(gzip.layerHexes, layers) { try runChecked("cp", [gzip.blob(hex), path]) }
        try ImageLayout.make(layout, tag: "amd64", layers: layers)
        try ImageLayout.make(layout, tag: "arm64", layers: [layers[0]], options: ["--platform", "linux/arm64"])
        try ImageLayout.make(layout, tag: "all", layers: ["amd64", "arm64"], options: ["--index"])
        let source = "oci:\(layout):all"
        let all = try convert(["--all-platforms", source, "oci:\(directory.file("all"))"])
        #expect(all.isSuccess, "\(all)")
        #expect(all.text.contains("manifests: 2"))
        // The layer that both have was converted once.
        #expect(all.text.split(separator: "\n").filter { $0.hasPrefix("layer: ") }.count == 3)
        let one = try convert(["--platform", "linux/arm64", source, "oci:\(directory.file("one")):arm"])
        #expect(one.isSuccess && one.text.contains("manifests: 1"), "\(one)")
        #expect(try ImageLayout(directory.file("one"), tag: "arm").layerHexes.count == 1)
        let none = try convert(["--platform", "linux/riscv64", source, "oci:\(directory.file("none"))"])
        #expect(none.status == .exited(1))
        #expect(none.errorText.contains("linux/amd64, linux/arm64"), "\(none)")

        let registry = try RegistryServer()
        try registry.push(layout: directory.file("all"), tag: "latest", to: "made:all", all: true)
        for (platform, image) in [("linux/amd64", "merged"), ("linux/arm64", "layer1")] {
            let mount = try CrfsMount(arguments: ["--platform", platform, "--verify", "require"])
            let flags = ["--native"] + tocFlags
            if image == "merged" {
                try expectTree(mount.path("images/\(registry.host)/made/all"), is: "merged", flags: flags)
            }
            #expect(try names(in: mount.path("images/\(registry.host)/made/all/")).contains("usr"))
        }
    }

    @Test func prioritizedFilesAreFirstInTheLayersThatHaveThem() throws {
        let directory = try TemporaryDirectory("first")
        let layout = directory.file("made")
        try writeFile(directory.file("list"), "var/modify\nno/such/file\n")
        let result = try convert([
            "--prioritize", directory.file("list"), "oci:\(Corpus.layout("gzip")):gzip", "oci:\(layout):first",
        ])
        #expect(result.isSuccess, "\(result)")
        #expect(result.errorText.contains("no/such/file is in no layer once"))
        #expect(!result.errorText.contains("var/modify"))
        let image = try ImageLayout(layout)
        let first = try runChecked(
            "sh",
            ["-c", "gunzip -c < \"$1\" | tar -t | head -3", "sh", image.blob(image.layerHexes[0])]
        )
        #expect(first.text.contains("var/modify"), "\(first)")
    }

    @Test(arguments: ["gzip", "estargz"])
    func whatAProfileReadFirstComesFirst(_ format: String) throws {
        let registry = try RegistryServer()
        try registry.pushCorpus(format)
        let cache = try TemporaryDirectory("cache")
        let first = try CrfsMount(cache: cache.path)
        let files = ["usr/share/doc/p3/file7.txt", "usr/share/doc/p0/file0.txt"]
        for file in files { _ = try fingerprint(first.path("images/\(registry.host)/corpus/\(format)/\(file)")) }
        first.stop()
        let source = "\(registry.host)/corpus:\(format)"
        let target = "\(registry.host)/made:fast"
        let result = try CrfsProgram.run(["optimize", "--quiet", "--cache-dir", cache.path, source, target])
        #expect(result.isSuccess, "\(result)")
        let layout = cache.path + ".layout"
        defer { _ = try? run("rm", ["-r", layout]) }
        let from = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "docker://\(target)"]
        try runChecked("skopeo", from + ["oci:\(layout):fast"])
        let image = try ImageLayout(layout)
        var early: [String] = []
        for hex in image.layerHexes {
            let listing = try runChecked("sh", ["-c", "gunzip -c < \"$1\" | tar -t", "sh", image.blob(hex)]).text
            let names: [Substring] = listing.split(separator: "\n")
            early += names.prefix { !$0.hasSuffix("prefetch.landmark") }.map {
                String($0.drop { $0 == "." || $0 == "/" })
            }
        }
        // A profile keeps the order of first use for 64 chunks at a time.
        #expect(early.filter { files.contains($0) }.sorted() == files.sorted())
        #expect(early.count < 20)
        let mount = try CrfsMount(arguments: ["--verify", "require"])
        try expectTree(mount.path("images/\(registry.host)/made/fast"), is: "merged", flags: ["--native"] + tocFlags)
        // Without a profile there is nothing to go by.
        let none = try CrfsProgram.run(["optimize", "--cache-dir", cache.path, target, target + "er"])
        #expect(none.status == .exited(1), "\(none)")
        #expect(none.errorText.contains("profile"))
    }

    static let refused: [(arguments: [String], complaint: String)] = [
        (["oci:CORPUS:gzip"], "--upgrade"), (["--upgrade", "oci:CORPUS:gzip", "oci:OUT"], "--upgrade"),
        (["oci:CORPUS:missing", "oci:OUT"], "no image with the tag missing"),
        (["oci:OUT/nothing:x", "oci:OUT"], "image layout"),
        (["oci:CORPUS:gzip", "r.example/a@sha256:\(String(repeating: "0", count: 64))"], "name a tag"),
        (["oci:CORPUS:gzip", "NOT A NAME"], "NOT A NAME"), (["--upgrade", "file:OUT/x.tar"], "layer file"),
    ]

    @Test(arguments: refused)
    func whatCannotBeMeantIsRefused(_ refused: (arguments: [String], complaint: String)) throws {
        let directory = try TemporaryDirectory("refused")
        let arguments = refused.arguments.map { argument in
            argument.split(separator: "CORPUS", omittingEmptySubsequences: false).joined(
                separator: Corpus.layout("gzip")
            )
            .split(separator: "OUT", omittingEmptySubsequences: false).joined(separator: directory.file("out"))
        }
        let result = try convert(arguments)
        #expect(result.status == .exited(1), "\(result)")
        #expect(result.errorText.contains(refused.complaint), "\(result)")
        #expect(result.errorText.split(separator: "\n").count == 1)
    }

    @Test func aDamagedOrMissingLayerLeavesNoImage() throws {
        let directory = try TemporaryDirectory("damaged")
        let layout = directory.file("source")
        try runChecked("cp", ["-r", Corpus.layout("gzip"), layout])
        let source = try ImageLayout(layout)
        let blob = source.blob(source.layerHexes[2])
        try runChecked("sh", ["-c", "printf X | dd of=\"$1\" bs=1 seek=100 conv=notrunc status=none", "sh", blob])
        let target = directory.file("target")
        let damaged = try convert(["oci:\(layout):gzip", "oci:\(target):x"])
        #expect(damaged.errorText.contains("damaged"), "\(damaged)")
        #expect(damaged.status == .exited(1))
        #expect(errorNumber { () throws(SystemError) in try look("\(target)/index.json") } == ENOENT)

        let registry = try RegistryServer()
        try registry.pushCorpus("gzip")
        registry.deleteBlob(hex: source.layerHexes[1])
        let missing = try convert(["\(registry.host)/corpus:gzip", "\(registry.host)/made:x"])
        #expect(missing.status == .exited(1), "\(missing)")
        #expect(missing.errorText.contains(source.layerHexes[1]))
        let tags = try run("curl", ["-s", "http://\(registry.host)/v2/made/tags/list"]).text
        #expect(!tags.contains("\"x\""))
    }

    @Test func aSignalEndsItWithoutATraceOfIt() throws {
        let registry = try RegistryServer()
        try registry.pushCorpus("gzip")
        let proxy = try FaultProxy(upstream: registry.host)
        try proxy.use(FaultProxy.Rule("slow", match: "/blobs/sha256:87b9f535", bytes: 2048, everyMilliseconds: 300))
        let directory = try TemporaryDirectory("signal")
        let work = try directory.makeDirectory("tmp")
        let log = directory.file("log")
        let child = try BackgroundProcess(
            CrfsProgram.path,
            ["convert", "\(proxy.host)/corpus:gzip", "oci:\(directory.file("out"))"],
            environment: ["TMPDIR": work],
            log: log
        )
        #expect(waitUntil(seconds: 60) { ((try? names(in: work)) ?? []).count == 1 })
        #expect(
            waitUntil(seconds: 60) { (try? runChecked("find", [work, "-type", "f", "-size", "+0"]).text) ?? "" != "" }
        )
        #expect(child.terminate(seconds: 20) == .exited(1))
        #expect(try text(of: log).contains("interrupted"))
        #expect(try names(in: work) == [])
        #expect(try names(in: directory.file("out") + "/blobs/sha256").allSatisfy { $0.count == 64 })
    }
}
