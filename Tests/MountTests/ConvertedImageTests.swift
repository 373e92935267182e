import PosixIO
import TestSupport
import Testing

/// Images that are made here, by crfs's own writer and by ctr-remote, show the same tree as the corpus.
@Suite(.needs(.mounting))
struct ConvertedImageTests {
    init() throws { try Requirement.mounting.orFail() }

    static let conversions: [[String]] = [
        [], ["--format", "stargz"], ["--chunk-size", "65536"], ["--level", "1"],
        ["--level", "12", "--chunk-size", "4096"], ["--format", "zstd-chunked"],
        ["--format", "zstd-chunked", "--level", "19", "--chunk-size", "16384"],
    ]

    @Test(arguments: conversions)
    func layersOfTheOwnWriter(options: [String]) throws {
        let directory = try TemporaryDirectory("convert")
        try runChecked("python3", ["\(Corpus.directory)/mkbasic.py", directory.path])
        var layers: [String] = []
        for number in 1...3 {
            let output = directory.file("L\(number).tar.gz")
            let result = try CrfsProgram.run(
                ["convert", "file:" + directory.file("L\(number).tar"), "file:" + output] + options
            )
            #expect(result.isSuccess, "\(result)")
            #expect(result.text.contains("sha256:"))
            layers.append(output)
        }
        try expectImage(layers, in: directory.path)
    }

    @Test(arguments: ["gzip", "zstd"])
    func theOwnWriterTakesCompressedTar(compressor: String) throws {
        try Requirement.program(compressor).orFail()
        let directory = try TemporaryDirectory("convert")
        try runChecked("python3", ["\(Corpus.directory)/mkbasic.py", directory.path])
        var layers: [String] = []
        for number in 1...3 {
            let tar = directory.file("L\(number).tar")
            let suffix = compressor == "gzip" ? "gz" : "zst"
            try runChecked(compressor, ["-q", tar])
            let output = directory.file("L\(number).esgz.tar.gz")
            let result = try CrfsProgram.run(["stargzify", "file:\(tar).\(suffix)", "file:\(output)"])
            #expect(result.isSuccess, "\(result)")
            layers.append(output)
        }
        try expectImage(layers, in: directory.path)
    }

    static let remoteOptions: [[String]] = [[], ["--estargz-chunk-size", "65536", "--estargz-compression-level", "1"]]

    @Test(
        .needs(.all([.program("containerd"), .program("ctr-remote")])),
        arguments: remoteOptions
    )
    func layersOfCtrRemote(options: [String]) throws {
        try Requirement.all([.program("containerd"), .program("ctr-remote")]).orFail()
        let directory = try TemporaryDirectory("ctr")
        let daemon = try PrivateContainerd(directory.path)
        let layout = try daemon.converted(["--estargz"] + options, as: "esgz", in: directory)

        let stage = try Stage([])
        try stage.registry.push(layout: layout, tag: "esgz", to: "made:esgz")
        try expectBothViews(stage, "made/esgz")
    }

    /// Regression: the name that follows the last one of an upper layer's directory was lost in the merged view.
    @Test func aNameBehindTheLastOneOfAnUpperLayerIsShown() throws {
        let directory = try TemporaryDirectory("behind")
        var layers: [String] = []
        for (number, content) in [["a", "m", "z"], ["b"], ["n"]].enumerated() {
            let tree = try directory.makeDirectory("tree\(number)")
            for name in content { try writeFile("\(tree)/\(name)", "\(number)\n") }
            let tar = directory.file("\(number).tar")
            try runChecked("tar", ["-C", tree, "-cf", tar, "."])
            layers.append(directory.file("\(number).tar.gz"))
            try runChecked(CrfsProgram.path, ["convert", tar, layers[number]])
        }
        let layout = directory.file("layout")
        try ImageLayout.make(layout, tag: "behind", layers: layers)
        let stage = try Stage([])
        try stage.registry.push(layout: layout, tag: "behind", to: "made:behind")
        #expect(try names(in: stage.image("made/behind/")) == ["a", "b", "m", "n", "z"])
    }

    @Test func aLayerThatAnImageRepeatsCountsOnceTopmost() throws {
        // Layer 2 replaces, deletes and hides things of layer 1; layer 1 on top of it brings them back.
        let source = try ImageLayout(Corpus.layout("estargz"))
        let directory = try TemporaryDirectory("repeat")
        let layers = [0, 1].map { directory.file("\($0).tar.gz") }
        for (layer, hex) in zip(layers, source.layerHexes) { try runChecked("cp", [source.blob(hex), layer]) }
        let layout = directory.file("layout")
        try ImageLayout.make(layout, tag: "repeat", layers: [layers[0], layers[1], layers[0]])
        let stage = try Stage([])
        try stage.registry.push(layout: layout, tag: "repeat", to: "made:repeat")
        #expect(try text(of: stage.image("made/repeat/var/del-file")) == "layer 1 del-file\n")
        #expect(try text(of: stage.image("made/repeat/srv/hl1")) == "hard link in layer 2\n")
        #expect(try text(of: stage.image("made/repeat/var/modify")) == "layer 1 modify\n")
    }

    private func expectImage(_ layers: [String], in directory: String) throws {
        let layout = "\(directory)/layout"
        try ImageLayout.make(layout, tag: "made", layers: layers)
        let stage = try Stage([])
        try stage.registry.push(layout: layout, tag: "made", to: "made:made")
        try expectBothViews(stage, "made/made")
    }
}
