import PosixIO
import TestSupport
import Testing

/// Every format that is mounted shows exactly its expected tree, wherever the mount shows it.
@Suite(.needs(.mounting))
struct CorpusTreeTests {
    init() throws { try Requirement.mounting.orFail() }

    @Test(arguments: mountableFormats)
    func theImageViewIsTheMergedTree(format: String) throws {
        let stage = try Stage([format])
        try expectTree(stage.image("corpus/\(format)"), is: "merged", flags: ["--native"] + tocFlags(format))
    }

    @Test(arguments: mountableFormats)
    func eachLayerViewIsItsLayer(format: String) throws {
        let stage = try Stage([format])
        for number in 0..<3 {
            try expectTree(
                stage.layers("corpus/\(format)/\(number)"),
                is: "layer\(number + 1)",
                flags: ["--layer", "--native"] + tocFlags(format)
            )
        }
    }

    @Test(arguments: mountableFormats)
    func kernelOverlayfsOverTheLayersIsTheMergedTree(format: String) throws {
        let stage = try Stage([format])
        let overlay = try LayerOverlay((0..<3).map { stage.layers("corpus/\(format)/\($0)") })
        try expectTree(overlay.path, is: "merged", flags: tocFlags(format))
    }

    /// Reached by its digest, nothing says which tag's TOC image is the one.
    @Test func aTOCOfASecondImageIsFoundByTheDigestAlone() throws {
        let stage = try Stage(["estargz", "estargz-exttoc"], arguments: ["--verify", "require"])
        let hex = try ImageLayout(Corpus.layout("estargz-exttoc"), tag: "estargz-exttoc").manifestHex
        let image = stage.image("corpus/sha256-\(hex)")
        try expectTree(image, is: "merged", flags: ["--native"] + tocFlags)
    }

    @Test func theSameOverTLSWithItsOwnAuthority() throws {
        let stage = try Stage(["estargz"], transport: .tls)
        try expectTree(stage.image("corpus/estargz"), is: "merged", flags: ["--native"] + tocFlags)
        #expect(!stage.registry.requests(containing: "HTTP/2.0", "/blobs/").isEmpty)
    }

    @Test func aLocalLayerFileIsALayerView() throws {
        let local = try TemporaryDirectory("local")
        let estargz = try ImageLayout(Corpus.layout("estargz"))
        let stargz = try ImageLayout(Corpus.layout("stargz-legacy"))
        try runChecked("cp", [estargz.blob(estargz.layerHexes[0]), local.file("one.esgz")])
        try runChecked("cp", [stargz.blob(stargz.layerHexes[1]), local.file("two.stargz")])
        try runChecked("cp", [estargz.blob(estargz.layerHexes[2]), local.file("three.tar.gz")])
        let chunked = try ImageLayout(Corpus.layout("zstdchunked-ctr"))
        try runChecked("cp", [chunked.blob(chunked.layerHexes[0]), local.file("four.tar.zst")])
        try writeFile(local.file("unrelated.txt"), "not a layer\n")
        let mount = try CrfsMount(local: local.path)
        let all = ["four.tar.zst", "one.esgz", "three.tar.gz", "two.stargz"]
        #expect(try names(in: mount.path("layers/local")) == all)
        for (name, manifest) in [
            ("one.esgz", "layer1"), ("two.stargz", "layer2"), ("three.tar.gz", "layer3"), ("four.tar.zst", "layer1"),
        ] {
            try expectTree(
                mount.path("layers/local/\(name)"),
                is: manifest,
                flags: ["--layer", "--native"] + tocFlags
            )
        }
    }

    @Test func severalFormatsOfOneImageLiveInOneMount() throws {
        let stage = try Stage(mountableFormats)
        for format in mountableFormats {
            try expectTree(stage.image("corpus/\(format)"), is: "merged", flags: ["--native"] + tocFlags(format))
        }
    }
}

/// A read-only overlayfs over layer directories, which are bind-mounted first because `lowerdir` cannot hold a `:`.
final class LayerOverlay {
    /// Where the merged tree is.
    let path: String
    private let directory: TemporaryDirectory
    private var mounted: [String] = []

    /// - Parameter layers: bottom layer first.
    init(_ layers: [String]) throws {
        directory = try TemporaryDirectory("overlay")
        path = try directory.makeDirectory("merged")
        var lower: [String] = []
        do {
            for (number, layer) in layers.enumerated() {
                let point = try directory.makeDirectory("layer\(number)")
                try runChecked("mount", ["--bind", layer, point])
                mounted.append(point)
                lower.insert(point, at: 0)
            }
            try runChecked(
                "mount",
                ["-t", "overlay", "overlay", "-o", "ro,lowerdir=\(lower.joined(separator: ":"))", path]
            )
            mounted.append(path)
        } catch {
            unmount()
            throw error
        }
    }

    deinit { unmount() }

    private func unmount() {
        for point in mounted.reversed() { _ = try? run("umount", ["-l", point]) }
        mounted = []
    }
}
