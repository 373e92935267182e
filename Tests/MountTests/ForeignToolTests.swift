import PosixIO
import TestSupport
import Testing

/// Images that other tools make with an index: skopeo, stargz-snapshotter's ctr-remote, Buildah.
@Suite(.needs(.mounting))
struct ForeignToolTests {
    init() throws { try Requirement.mounting.orFail() }

    @Test func zstdChunkedOfSkopeo() throws {
        let directory = try TemporaryDirectory("skopeo")
        let layout = directory.file("layout")
        try runChecked(
            "skopeo",
            [
                "--insecure-policy", "copy", "--quiet", "--dest-compress-format", "zstd:chunked",
                "oci:\(Corpus.layout("gzip")):gzip", "oci:\(layout):chunked",
            ]
        )
        let stage = try Stage([], arguments: ["--verify", "require"])
        try stage.registry.push(layout: layout, tag: "chunked", to: "made:chunked")
        try expectAllViews(stage, "made/chunked", ["--toc"])
        // The manifest says where the TOC is: the end of the blob is not asked for, and nothing is but by range.
        let hexes = try ImageLayout(layout).layerHexes
        for hex in hexes { #expect(stage.registry.requests(containing: "GET", "blobs/sha256:\(hex)", " 200 ").isEmpty) }
    }

    private static let conversions: [[String]] = [
        ["--zstdchunked"], ["--zstdchunked", "--estargz-chunk-size", "65536"],
    ]

    @Test(.needs(.all([.program("containerd"), .program("ctr-remote")])), arguments: conversions.indices)
    func conversionsOfCtrRemote(_ conversion: Int) throws {
        try Requirement.all([.program("containerd"), .program("ctr-remote")]).orFail()
        let options = ForeignToolTests.conversions[conversion]
        let directory = try TemporaryDirectory("ctr")
        let daemon = try PrivateContainerd(directory.path)
        let layout = try daemon.converted(options, as: "made", in: directory)
        let stage = try Stage([])
        try stage.registry.push(layout: layout, tag: "made", to: "made:made")
        try expectAllViews(stage, "made/made", tocFlags)
    }

    /// Three layers with deletions, replacements, a sparse file and hard links, as zstd:chunked.
    private static let build = """
        set -eu
        cd "$1"
        b() { buildah --root "$1/root" --runroot "$1/run" --storage-driver vfs "${@:2}"; }
        step() { # NAME FROM SCRIPT: a layer on top of FROM
            c=$(b "$PWD" from --pull-never "$2")
            m=$(b "$PWD" mount "$c")
            (cd "$m" && eval "$3")
            rm -rf "$PWD/expected" && cp -a "$m" "$PWD/expected"
            b "$PWD" umount "$c" >/dev/null
            b "$PWD" commit --quiet "$c" "$1" >/dev/null
            b "$PWD" rm "$c" >/dev/null
        }
        step one scratch 'mkdir -p d/e gone keep; echo one >d/one; ln d/one link; echo two >gone/two
            seq 100000 >keep/numbers; truncate -s 5M holes; echo end >>holes; truncate -s 9M keep/zeros
            ln -s ../d/one keep/symlink; chmod 4711 d/one; mkfifo keep/fifo; touch -d @1.5 keep/numbers'
        step two one 'rm -r gone; rm d/one; rm -r d/e; mkdir d/e; echo f >d/e/f; echo new >d/new; chown 12:34 keep'
        step three two 'rm -r d; echo file >d; mkdir gone; echo back >gone/three; truncate -s 1000000 keep/numbers'
        b "$PWD" push --quiet --compression-format zstd:chunked three "oci:$PWD/layout:three"
        """

    @Test(.needs(.all([.program("buildah"), .program("bash")])))
    func layersOfBuildah() throws {
        try Requirement.program("buildah").orFail()
        let directory = try TemporaryDirectory("buildah")
        try runChecked("bash", ["-c", ForeignToolTests.build, "bash", directory.path])
        let stage = try Stage([], arguments: ["--verify", "require"])
        try stage.registry.push(layout: directory.file("layout"), tag: "three", to: "made:three")
        #expect(try ImageLayout(directory.file("layout")).layerHexes.count == 3)
        let overlay = try LayerOverlay((0..<3).map { stage.layers("made/three/\($0)") })
        let views = [stage.image("made/three/"), overlay.path + "/"]
        for view in views {
            // diff calls any two fifos different.
            try runChecked("diff", ["-r", "--no-dereference", "-x", "fifo", directory.file("expected/"), view])
        }
        let listing = "cd \"$1\" && find . -mindepth 1 -printf '%P %y %m %U %G %s %l %n\\n' | sort"
        func list(_ path: String) throws -> [Substring] {
            // A directory's size is its file system's own.
            try runChecked("sh", ["-c", listing, "sh", path]).text.split(separator: "\n").map { line in
                let fields = line.split(separator: " ", omittingEmptySubsequences: false)
                return fields[1] == "d" ? fields[..<5].joined(separator: " ")[...] : line
            }
        }
        let expected = try list(directory.file("expected"))
        #expect(try list(views[0]) == expected)
        // An overlayfs says how many links a file has in its layer.
        func withoutLinks(_ lines: [Substring]) -> [[Substring]] {
            lines.map { Array($0.split(separator: " ", omittingEmptySubsequences: false).prefix(7)) }
        }
        #expect(try withoutLinks(list(views[1])) == withoutLinks(expected))
    }

    /// The other way round: Buildah unpacks what `crfs convert` writes to the same tree.
    @Test(.needs(.program("buildah")))
    func buildahUnpacksZstdChunkedOfTheOwnWriter() throws {
        try Requirement.program("buildah").orFail()
        let directory = try TemporaryDirectory("buildah")
        try runChecked("python3", ["\(Corpus.directory)/mkbasic.py", directory.path])
        var layers: [String] = []
        for number in 1...3 {
            layers.append(directory.file("L\(number).tar.zst"))
            let options = ["convert", "--format", "zstd-chunked", "--quiet"]
            try runChecked(CrfsProgram.path, options + [directory.file("L\(number).tar"), layers[number - 1]])
        }
        let layout = directory.file("layout")
        try ImageLayout.make(layout, tag: "made", layers: layers)
        let buildah = [
            "--root", directory.file("root"), "--runroot", directory.file("run"), "--storage-driver", "vfs",
        ]
        // A relative path: it becomes the image's name, which has no capital letters.
        let script = "cd \"$1\"; shift; exec buildah \"$@\" from --quiet oci:layout:made"
        let container = try runChecked("sh", ["-ec", script, "sh", directory.path] + buildah).text
        let name = String(container.split(separator: "\n").last ?? "")
        let tree = try runChecked("buildah", buildah + ["mount", name]).text
        let root = String(tree.split(separator: "\n").last ?? "")
        defer { _ = try? run("buildah", buildah + ["umount", name]) }
        let result = try Corpus.verify(root, is: "merged", flags: [])
        // containers/storage keeps no trusted.* xattrs.
        let differences = result.text.split(separator: "\n").filter { $0.hasPrefix("DIFF") }
        #expect(differences.allSatisfy { $0.contains("trusted.test") }, "\(result)")
    }
}
