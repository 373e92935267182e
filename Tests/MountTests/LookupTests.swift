import Glibc
import PosixIO
import TestSupport
import Testing

/// The look-up and listing rules of the tree (docs/semantics.md, "The tree").
@Suite(.needs(.mounting))
struct LookupTests {
    init() throws { try Requirement.mounting.orFail() }

    // MARK: The top

    @Test func theTopHoldsTheReadmeAndTheTwoViews() throws {
        let mount = try CrfsMount()
        #expect(try names(in: mount.point) == ["README-crfs.txt", "images", "layers"])
        #expect(try text(of: mount.path("README-crfs.txt")).contains("crfs"))
        #expect(try FileStatus(mount.path("README-crfs.txt")).mode == 0o444)
        #expect(try FileStatus(mount.path("images")).mode == 0o755)
        #expect(try names(in: mount.path("layers/local")) == [])
    }

    @Test func wellKnownHostsAreListedAndOthersOnceTheyAnswered() throws {
        let stage = try Stage()
        let known = [
            "asia.gcr.io", "eu.gcr.io", "gcr.io", "ghcr.io", "index.docker.io", "public.ecr.aws", "quay.io",
            "registry.k8s.io", "us.gcr.io",
        ]
        #expect(try names(in: stage.mount.path("images")) == known)
        #expect(try names(in: stage.mount.path("layers")) == (known + ["local"]).sorted())
        try look(stage.image("corpus/estargz"))
        #expect(try names(in: stage.mount.path("images")) == ([stage.registry.host] + known).sorted())
    }

    @Test(arguments: [".git", ".Trash", "a b", "-host", "host_name:x", "http:", "ä.example", "127.0.0.1:99999"])
    func aNameThatCannotBeAHostIsNotThere(name: String) throws {
        let mount = try CrfsMount()
        expectError(ENOENT) { () throws(SystemError) in try look(mount.path("images/\(name)")) }
        expectError(ENOENT) { () throws(SystemError) in try look(mount.path("layers/\(name)")) }
    }

    @Test func onAMachineOfGoogleItsOwnProjectIsListedUnderTheGCRHosts() throws {
        let directory = try TemporaryDirectory("metadata")
        let port = freePort()
        let server = """
            import http.server
            class Metadata(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    known = self.path == "/computeMetadata/v1/project/project-id"
                    known = known and self.headers["Metadata-Flavor"] == "Google"
                    self.send_response(200 if known else 404)
                    self.send_header("Metadata-Flavor", "Google")
                    self.end_headers()
                    if known: self.wfile.write(b"own-project-1")
            http.server.HTTPServer(("127.0.0.1", \(port)), Metadata).serve_forever()
            """
        let process = try BackgroundProcess("python3", ["-c", server], log: directory.file("log"))
        defer { process.kill() }
        #expect(waitUntil { isListening(port: port) })
        let mount = try CrfsMount(environment: ["GCE_METADATA_HOST": "127.0.0.1:\(port)"])
        for host in ["gcr.io", "eu.gcr.io"] {
            #expect(try names(in: mount.path("images/\(host)")) == ["own-project-1"])
        }
        let without = try CrfsMount()
        #expect(try names(in: without.path("images/gcr.io")) == [])
    }

    @Test(arguments: ["short", "UPPERCASE", "1digit", "ends-with-"])
    func aNameThatCannotBeAGoogleProjectIsNotThere(name: String) throws {
        let mount = try CrfsMount()
        expectError(ENOENT) { () throws(SystemError) in try look(mount.path("images/gcr.io/\(name)")) }
        try look(mount.path("images/gcr.io/valid-project"))
    }

    // MARK: One name, one directory

    @Test func otherSpellingsAreSymlinksToTheCanonicalName() throws {
        let stage = try Stage()
        let layout = try ImageLayout(Corpus.layout("estargz"))
        for view in ["images", "layers"] {
            #expect(try linkTarget(stage.mount.path("\(view)/docker.io")) == "index.docker.io")
            let escaped = "127.0.0.1%3A\(stage.registry.port)"
            #expect(try linkTarget(stage.mount.path("\(view)/\(escaped)")) == stage.registry.host)
            let repository = stage.mount.path("\(view)/\(stage.registry.host)/corpus")
            #expect(try linkTarget("\(repository)/sha256:\(layout.manifestHex)") == "sha256-\(layout.manifestHex)")
        }
    }

    @Test func aTagIsASymlinkToItsDigest() throws {
        let stage = try Stage()
        let layout = try ImageLayout(Corpus.layout("estargz"))
        for path in [stage.image("corpus/estargz"), stage.layers("corpus/estargz")] {
            #expect(try FileStatus(path).kind == .symlink)
            #expect(try linkTarget(path) == "sha256-\(layout.manifestHex)")
        }
    }

    // MARK: An image under layers/

    @Test func anImagesDirectoryHoldsItsLayersByNumberAndDigest() throws {
        let stage = try Stage()
        let layout = try ImageLayout(Corpus.layout("estargz"))
        let image = stage.layers("corpus/estargz")
        let digests = layout.layerHexes.map { "sha256-\($0)" }
        #expect(
            try names(in: image + "/")
                == (["0", "1", "2", "bottom", "config", "manifest", "top"] + digests).sorted()
        )
        for (number, digest) in digests.enumerated() {
            #expect(try linkTarget("\(image)/\(number)") == digest)
            #expect(try FileStatus("\(image)/\(digest)").kind == .directory)
        }
        #expect(try linkTarget("\(image)/bottom") == "0")
        #expect(try linkTarget("\(image)/top") == "2")
        expectError(ENOENT) { () throws(SystemError) in try look("\(image)/3") }
    }

    @Test func configAndManifestAreTheRegistrysBytes() throws {
        let stage = try Stage()
        let layout = try ImageLayout(Corpus.layout("estargz"))
        let image = stage.layers("corpus/estargz")
        #expect(try contents(of: "\(image)/manifest") == contents(of: layout.blob(layout.manifestHex)))
        #expect(try contents(of: "\(image)/config") == contents(of: layout.blob(layout.configHex)))
        #expect(try FileStatus("\(image)/manifest").mode == 0o444)
    }

    // MARK: Repositories and tags

    @Test func aMissingTagOfAKnownRepositoryIsNotThere() throws {
        let stage = try Stage()
        try look(stage.image("corpus/estargz"))
        expectError(ENOENT) { () throws(SystemError) in try look(stage.image("corpus/no-such-tag")) }
        expectError(ENOENT) { () throws(SystemError) in try look(stage.layers("corpus/no-such-tag")) }
    }

    @Test func aMissingDigestIsNotThere() throws {
        let stage = try Stage()
        let digest = "sha256-" + String(repeating: "0", count: 64)
        expectError(ENOENT) { () throws(SystemError) in _ = try names(in: stage.image("corpus/\(digest)/")) }
    }

    @Test func repositoriesNestToAnyDepth() throws {
        let stage = try Stage([])
        try stage.registry.pushCorpus("estargz", to: "a/b/c/d:v1")
        let layout = try ImageLayout(Corpus.layout("estargz"))
        #expect(try linkTarget(stage.image("a/b/c/d/v1")) == "sha256-\(layout.manifestHex)")
        #expect(try text(of: stage.image("a/b/c/d/v1/etc/hosts")) == "127.0.0.1 localhost\n")
        #expect(try names(in: stage.image("a")) == ["b"])
    }

    @Test func aTagWinsOverANestedRepositoryOfTheSameName() throws {
        let stage = try Stage(["estargz"])
        try stage.registry.pushCorpus("stargz-legacy", to: "corpus/estargz:nested")
        let tag = try ImageLayout(Corpus.layout("estargz"))
        let nested = try ImageLayout(Corpus.layout("stargz-legacy"))
        #expect(try linkTarget(stage.image("corpus/estargz")) == "sha256-\(tag.manifestHex)")
        #expect(try linkTarget(stage.image("corpus%2Festargz/nested")) == "sha256-\(nested.manifestHex)")
    }

    @Test func listingsComeFromTheRegistryAndOpenNothing() throws {
        let stage = try Stage(["estargz", "stargz-legacy"])
        try look(stage.image("corpus/estargz"))
        let before = stage.registry.requests(containing: "/blobs/").count
        #expect(try names(in: stage.mount.path("images/\(stage.registry.host)")) == ["corpus"])
        let listed = try names(in: stage.image("corpus"))
        #expect(listed.filter { !$0.hasPrefix("sha256-") } == ["estargz", "stargz-legacy"])
        #expect(stage.registry.requests(containing: "/blobs/").count == before)
        let asked = stage.registry.requests(containing: "/manifests/stargz-legacy").filter { !$0.contains("skopeo") }
        #expect(asked == [])
    }

    @Test func aTagThatMovesIsFollowedOnceItIsNoLongerFresh() throws {
        let stage = try Stage(["estargz"], arguments: ["--tag-ttl", "1"])
        let other = try ImageLayout(Corpus.layout("stargz-legacy"))
        let tag = stage.image("corpus/estargz")
        #expect(try linkTarget(tag) != "sha256-\(other.manifestHex)")
        try stage.registry.pushCorpus("stargz-legacy", to: "corpus:estargz")
        #expect(try waitUntil { try linkTarget(tag) == "sha256-\(other.manifestHex)" })
    }

    @Test func aTagKeepsItsTargetWhileTheRegistryDoesNotAnswer() throws {
        let stage = try Stage(["estargz"], arguments: ["--tag-ttl", "1"])
        let tag = stage.image("corpus/estargz")
        let target = try linkTarget(tag)
        stage.registry.suspend()
        defer { stage.registry.resume() }
        // Asked for as long as the tag is surely stale; each answer has to be the known one.
        let deadline = monotonicNanoseconds() + 5_000_000_000
        while monotonicNanoseconds() < deadline {
            let answer = try run("readlink", [tag], seconds: 60)
            #expect(answer.text == "\(target)\n")
        }
    }

    // MARK: Indexes and platforms

    @Test(arguments: [([], "amd64"), (["--platform", "linux/arm64"], "arm64")] as [([String], String)])
    func anIndexLeadsToTheManifestOfThePlatform(arguments: [String], architecture: String) throws {
        #if arch(arm64)
        let expected = "arm64"
        #else
        let expected = architecture
        #endif
        let source = try ImageLayout(Corpus.layout("estargz"))
        let directory = try TemporaryDirectory("index")
        let layout = directory.file("layout")
        let layer = directory.file("layer.tar.gz")
        try runChecked("cp", [source.blob(source.layerHexes[0]), layer])
        let upper = directory.file("upper.tar.gz")
        try runChecked("cp", [source.blob(source.layerHexes[1]), upper])
        try ImageLayout.make(layout, tag: "amd64", layers: [layer], options: ["--platform", "linux/amd64"])
        try ImageLayout.make(layout, tag: "arm64", layers: [layer, upper], options: ["--platform", "linux/arm64"])
        let index = try runChecked(
            "python3",
            [SourceTree.testSupport("mklayout.py"), layout, "both", "--index", "amd64", "arm64"]
        ).text.dropFirst("sha256:".count).prefix(64)

        let stage = try Stage([], arguments: arguments)
        try stage.registry.push(layout: layout, tag: "both", to: "multi:latest", all: true)
        let image = try ImageLayout(layout, tag: expected)
        #expect(try linkTarget(stage.image("multi/latest")) == "sha256-\(index)")
        #expect(try linkTarget(stage.image("multi/sha256-\(index)")) == "sha256-\(image.manifestHex)")
        for tag in ["amd64", "arm64"] {
            let platform = try ImageLayout(layout, tag: tag)
            #expect(try FileStatus(stage.image("multi/sha256-\(platform.manifestHex)/etc")).kind == .directory)
        }
    }

    // MARK: What is not mounted

    @Test func anImageWhoseLayerIsNoTarIsAnErrorThatTheLogExplainsAndOthersGoOn() throws {
        let stage = try Stage(["estargz"])
        let directory = try TemporaryDirectory("no-tar")
        try writeFile(directory.file("text"), String(repeating: "no tar\n", count: 1000))
        try ImageLayout.make(directory.file("layout"), tag: "no-tar", layers: [directory.file("text")])
        let layout = try ImageLayout(directory.file("layout"))
        try stage.registry.push(layout: directory.file("layout"), tag: "no-tar", to: "corpus:no-tar")
        #expect(errorNumber { () throws(SystemError) in _ = try names(in: stage.image("corpus/no-tar/")) } != nil)
        let explained = layout.layerHexes.contains { !stage.mount.logLines(containing: $0).isEmpty }
        #expect(explained, "no log line names a layer:\n\((try? text(of: stage.mount.log)) ?? "")")
        // Configuration and manifest are there all the same.
        #expect(
            try contents(of: stage.layers("corpus/no-tar/manifest")) == contents(of: layout.blob(layout.manifestHex))
        )
        #expect(try text(of: stage.image("corpus/estargz/etc/hosts")) == "127.0.0.1 localhost\n")
    }

    @Test func aHostThatIsNotAllowedCannotBeEnteredAndIsNeverAsked() throws {
        let stage = try Stage(arguments: ["--allow-host", "registry.example"])
        expectError(ENOENT, EACCES) { () throws(SystemError) in try look(stage.image("corpus/estargz")) }
        #expect(stage.registry.requests().filter { !$0.contains("skopeo") } == [])
        let allowed = try CrfsMount(arguments: ["--allow-host", "127.0.0.1:*"])
        try look(allowed.path("images/\(stage.registry.host)/corpus/estargz"))
    }
}
