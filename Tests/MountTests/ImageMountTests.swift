import Glibc
import PosixIO
import TestSupport
import Testing

/// `crfs mount --image`: the mount point is the root of one image (docs/semantics.md, "One image").
@Suite(.needs(.mounting))
struct ImageMountTests {
    init() throws { try Requirement.mounting.orFail() }

    private func reference(_ registry: RegistryServer, _ name: String = "corpus:estargz") -> String {
        "\(registry.host)/\(name)"
    }

    private func server(_ formats: String...) throws -> RegistryServer {
        let registry = try RegistryServer()
        for format in formats { try registry.pushWithTOC(format) }
        return registry
    }

    // MARK: What it shows

    @Test(arguments: mountableFormats + ["gzip", "zstd"])
    func theMountPointIsTheRootOfTheImage(format: String) throws {
        let registry = try server(format)
        let mount = try CrfsMount(arguments: ["--image", reference(registry, "corpus:\(format)")])
        let flags = mountableFormats.contains(format) ? tocFlags(format) : []
        try expectTree(mount.point, is: "merged", flags: ["--native"] + flags)
        // Neither the namespace nor its README.
        for name in ["images", "layers", "README-crfs.txt"] {
            expectError(ENOENT) { () throws(SystemError) in try look(mount.path(name)) }
        }
    }

    @Test func anOverlayOverItIsTheImage() throws {
        let registry = try server("estargz")
        let mount = try CrfsMount(arguments: ["--image", reference(registry)])
        let directory = try TemporaryDirectory("nothing")
        let overlay = try LayerOverlay([directory.path, mount.point])
        try expectTree(overlay.path, is: "merged", flags: tocFlags)
    }

    @Test func itIsTheImageOfThePlatform() throws {
        let registry = try RegistryServer()
        let directory = try TemporaryDirectory("platforms")
        let layout = directory.file("layout")
        for (tag, architecture) in [("one", "amd64"), ("two", "arm64")] {
            let root = try directory.makeDirectory(tag)
            try writeFile("\(root)/name", architecture)
            try runChecked("tar", ["-C", root, "-cf", directory.file("\(tag).tar"), "."])
            let options = ["--platform", "linux/\(architecture)"]
            try ImageLayout.make(layout, tag: tag, layers: [directory.file("\(tag).tar")], options: options)
        }
        try ImageLayout.make(layout, tag: "both", layers: [], options: ["--index", "one", "two"])
        try registry.push(layout: layout, tag: "both", to: "test:both", all: true)
        let image = reference(registry, "test:both")
        for architecture in ["amd64", "arm64"] {
            let mount = try CrfsMount(arguments: ["--image", image, "--platform", "linux/\(architecture)"])
            #expect(try text(of: mount.path("name")) == architecture)
        }
        let other = try refuse(["--image", image, "--platform", "linux/s390x"])
        #expect(other.errorText.contains("linux/s390x") && other.errorText.contains("linux/arm64"), "\(other)")
    }

    @Test func inodeNumbersAreThoseOfTheTreeAndOfTheNextMount() throws {
        let stage = try Stage()
        let paths = ["", "/etc", "/etc/hosts", "/usr/bin/tool", "/usr/bin/tool-alias", "/dev/null"]
        func nodes(_ root: String) throws -> [UInt64] {
            try paths.map { try FileStatus($0 == "" ? "\(root)/." : root + $0).inode }
        }
        let tree = try nodes(stage.image("corpus/estargz"))
        for _ in 0..<2 {
            let mount = try CrfsMount(cache: stage.mount.cache, arguments: ["--image", reference(stage.registry)])
            #expect(try nodes(mount.point) == tree)
            let listed = try listDirectory(mount.point)
            #expect(listed.first { $0.name == "etc" }.map(\.inode) == tree[1])
        }
    }

    @Test func theRootHasTheImagesModeUnlessTheMountIsToHaveAnother() throws {
        let registry = try server("estargz")
        let stage = try CrfsMount()
        let image = try FileStatus(stage.path("images/\(registry.host)/corpus/estargz/."))
        let plain = try CrfsMount(arguments: ["--image", reference(registry)])
        let root = try FileStatus(plain.point)
        #expect(root.mode == image.mode && root.gid == image.gid && root.uid == image.uid)
        let closed = try CrfsMount(
            arguments: ["--image", reference(registry), "--mount-mode", "0750", "--mount-gid", "4242"]
        )
        #expect(try FileStatus(closed.point).mode == 0o750)
        #expect(try FileStatus(closed.point).gid == 4242)
        #expect(try FileStatus(closed.path("etc")).mode == FileStatus(plain.path("etc")).mode)
    }

    @Test func writesAreRefused() throws {
        let registry = try server("estargz")
        let mount = try CrfsMount(arguments: ["--image", reference(registry)])
        expectError(EROFS) { () throws(SystemError) in
            if unsafe mkdir(mount.path("new"), 0o755) != 0 { throw SystemError.last("mkdir") }
        }
        expectError(EROFS) { () throws(SystemError) in _ = try Descriptor.open(mount.path("etc/hosts"), O_WRONLY) }
    }

    @Test func aTagThatMovesDoesNotMoveTheMount() throws {
        let registry = try server("estargz")
        let arguments = ["--tag-ttl", "0", "--image", reference(registry, "corpus:moving")]
        try registry.pushCorpus("estargz", to: "corpus:moving")
        let mount = try CrfsMount(arguments: arguments)
        let before = try status(mount.cache, "d['mounts'][0]['manifest']")
        let layout = try ImageLayout(Corpus.layout("estargz"), tag: "estargz")
        #expect(before == "sha256:\(layout.manifestHex)")
        try registry.pushCorpus("stargz-legacy", to: "corpus:moving")
        let later = try CrfsMount(cache: mount.cache, arguments: arguments)
        let second = try ImageLayout(Corpus.layout("stargz-legacy"), tag: "stargz-legacy")
        #expect(try status(mount.cache, "[m['manifest'] for m in d['mounts']][1]") == "sha256:\(second.manifestHex)")
        #expect(try status(mount.cache, "d['mounts'][0]['manifest']") == before)
        try expectTree(mount.point, is: "merged", flags: ["--native"] + tocFlags)
        try expectTree(later.point, is: "merged", flags: ["--native"] + tocFlags)
    }

    // MARK: What cannot be mounted

    /// Mounts in the background, which must fail with one line, exit code 1 and nothing mounted.
    @discardableResult
    private func refuse(
        _ arguments: [String],
        cache: String? = nil,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> ProcessResult {
        let directory = try TemporaryDirectory("refused")
        let point = try directory.makeDirectory("mnt")
        let cache = cache ?? directory.file("cache")
        let result = try CrfsProgram.run(["mount", "--cache-dir", cache] + arguments + [point])
        #expect(result.status == .exited(1), "\(result)", sourceLocation: sourceLocation)
        #expect(result.errorText.split(separator: "\n").count == 1, "\(result)", sourceLocation: sourceLocation)
        #expect(!isMounted(point), sourceLocation: sourceLocation)
        return result
    }

    @Test func anImageThatIsNotThereIsAnErrorAndNothingIsMounted() throws {
        let registry = try server("estargz")
        let missing = [
            reference(registry, "corpus:nothing"), reference(registry, "nothing:estargz"),
            "\(registry.host)/corpus@sha256:" + String(repeating: "0", count: 64),
        ]
        for image in missing {
            let result = try refuse(["--image", image])
            #expect(result.errorText.contains(image), "\(result)")
            #expect(result.errorText.contains("the registry does not have it"), "\(result)")
        }
        // Beside an owner, which goes on.
        let owner = try CrfsMount()
        for image in missing {
            let result = try refuse(["--image", image], cache: owner.cache)
            #expect(result.errorText.contains("the registry does not have it"), "\(result)")
        }
        #expect(try names(in: owner.point).contains("images"))
        #expect(try status(owner.cache, "len(d['mounts'])") == "1")
    }

    @Test func anImageWhoseRegistryIsAwayOrWhoseLayerIsDamagedIsAnError() throws {
        let registry = try server("estargz")
        let layout = try ImageLayout(Corpus.layout("estargz"))
        registry.deleteBlob(hex: layout.layerHexes[1])
        let damaged = try refuse(["--deadline", "2", "--image", reference(registry)])
        #expect(damaged.errorText.contains(reference(registry)), "\(damaged)")
        registry.stop()
        let away = try refuse(["--deadline", "2", "--image", reference(registry)])
        #expect(away.errorText.contains(reference(registry)), "\(away)")
    }

    @Test(arguments: [
        ["--image", "not a reference"],
        ["--image", "registry.example/app", "--allow-host", "*.other.example", "--allow-host", "third.example"],
    ])
    func whatCannotBeMeantIsExitCodeTwo(arguments: [String]) throws {
        let result = try CrfsProgram.run(["mount"] + arguments + ["/nowhere"])
        #expect(result.status == .exited(2), "\(result)")
        #expect(result.errorText.contains("--image"), "\(result)")
    }

    @Test(arguments: [false, true])
    func aSignalEndsTheWaitForARegistryThatIsSilent(joins: Bool) throws {
        let registry = try server("estargz")
        let directory = try TemporaryDirectory("silent")
        let point = try directory.makeDirectory("mnt")
        let owner = joins ? try CrfsMount() : nil
        let cache = owner?.cache ?? directory.file("cache")
        registry.suspend()
        defer { registry.resume() }
        let waiting = try BackgroundProcess(
            CrfsProgram.path,
            ["mount", "--foreground", "--cache-dir", cache, "--image", reference(registry), point],
            log: directory.file("log")
        )
        // It has the lock or an owner, and has asked: nothing says that from outside but the connection.
        try #require(waitUntil { hasConnection(toPort: registry.port) })
        waiting.signal(SIGTERM)
        #expect(waiting.wait() == .exited(1))
        #expect(try text(of: directory.file("log")).contains("interrupted"))
        #expect(!isMounted(point))
        if let owner { #expect(owner.process.isRunning) }
    }

    @Test func whenTheStartingProcessIsKilledTheOneInTheBackgroundMountsNothing() throws {
        let registry = try server("estargz")
        let directory = try TemporaryDirectory("killed")
        let point = try directory.makeDirectory("mnt")
        let cache = directory.file("cache")
        registry.suspend()
        defer { registry.resume() }
        let starter = try BackgroundProcess(
            CrfsProgram.path,
            ["mount", "--cache-dir", cache, "--image", reference(registry), point],
            log: directory.file("log")
        )
        try #require(waitUntil { hasConnection(toPort: registry.port) })
        starter.kill()
        // The directory is free again once the other one has ended.
        let isFree = waitUntil {
            (try? CrfsProgram.run(["cache", "stat", "--cache-dir", cache]).isSuccess) == true
        }
        #expect(isFree)
        #expect(!isMounted(point))
    }

    /// Whether somebody has a connection to a port of this machine, by /proc/net/tcp: state 01 is ESTABLISHED.
    private func hasConnection(toPort port: UInt16) -> Bool {
        let hex = String(port, radix: 16, uppercase: true)
        let end = ":" + String(repeating: "0", count: 4 - hex.count) + hex
        let table = (try? run("cat", ["/proc/net/tcp"]).text) ?? ""
        return table.split(separator: "\n").contains { line in
            let fields = line.split(separator: " ")
            return fields.count > 3 && fields[2].hasSuffix(end) && fields[3] == "01"
        }
    }

    // MARK: Beside other mounts

    @Test func oneProcessServesItBesideATree() throws {
        let stage = try Stage()
        let image = reference(stage.registry)
        let mount = try CrfsMount(cache: stage.mount.cache, arguments: ["--image", image, "--job", "j"])
        try expectTree(mount.point, is: "merged", flags: ["--native"] + tocFlags)
        try expectTree(stage.image("corpus/estargz"), is: "merged", flags: ["--native"] + tocFlags)
        let cache = stage.mount.cache
        #expect(try status(cache, "d['process']") == "\(stage.mount.process.pid)")
        #expect(try status(cache, "[m.get('image') for m in d['mounts']]") == "[None, '\(image)']")
        let lines = try CrfsProgram.run(["status", "--cache-dir", cache])
        #expect(lines.text.contains("\(mount.point) of \(image), since"), "\(lines)")
        #expect(mount.stop() == .exited(0))
        #expect(!isMounted(mount.point))
        #expect(try names(in: stage.image("corpus/estargz")).contains("etc"))
        #expect(try CrfsProgram.run(["profile", "show", "--job", "j", "--cache-dir", cache, image]).isSuccess)
    }

    @Test func aTreeIsServedBesideIt() throws {
        let registry = try server("estargz")
        let mount = try CrfsMount(arguments: ["--image", reference(registry)])
        let tree = try CrfsMount(cache: mount.cache)
        let second = try CrfsMount(cache: mount.cache, arguments: ["--image", reference(registry)])
        #expect(try names(in: tree.point).contains("images"))
        let end = try CrfsProgram.run(["umount", mount.point])
        #expect(end.isSuccess, "\(end)")
        #expect(waitUntil { !isMounted(mount.point) })
        try expectTree(second.point, is: "merged", flags: ["--native"] + tocFlags)
        #expect(try text(of: tree.path("images/\(registry.host)/corpus/estargz/etc/hosts")) == "127.0.0.1 localhost\n")
    }

    @Test func inTheBackgroundItReturnsWhenItServes() throws {
        let registry = try server("estargz")
        let directory = try TemporaryDirectory("background")
        let point = try directory.makeDirectory("mnt")
        let cache = directory.file("cache")
        let start = try CrfsProgram.run(["mount", "--cache-dir", cache, "--image", reference(registry), point])
        #expect(start.isSuccess, "\(start)")
        #expect(try text(of: "\(point)/etc/hosts") == "127.0.0.1 localhost\n")
        #expect(try CrfsProgram.run(["umount", point]).isSuccess)
        #expect(waitUntil { !isMounted(point) })
    }

    @Test func configurationAndEnvironmentCanNameIt() throws {
        let registry = try server("estargz")
        let directory = try TemporaryDirectory("configured")
        try writeFile(
            directory.file("config.toml"),
            "[mount]\nimage = \"\(reference(registry))\"\nallow-host = [\"*\"]\n"
        )
        let byFile = try CrfsMount(arguments: ["--config", directory.file("config.toml")])
        #expect(try names(in: byFile.point).contains("etc"))
        let byVariable = try CrfsMount(environment: ["CRFS_IMAGE": reference(registry)])
        #expect(try names(in: byVariable.point).contains("etc"))
    }

    // MARK: The cache

    /// A cache directory in which a mount has left all of its image.
    private func cacheOfAMount(_ arguments: [String]) throws -> TemporaryDirectory {
        let cache = try TemporaryDirectory("cache")
        let mount = try CrfsMount(cache: cache.path, arguments: arguments)
        try expectTree(mount.point, is: "merged", flags: ["--native"] + tocFlags)
        #expect(mount.stop() == .exited(0))
        return cache
    }

    @Test(arguments: OfflineTests.Away.allCases)
    func aKnownImageMountsWithoutItsRegistry(away: OfflineTests.Away) throws {
        let registry = try server("estargz")
        let arguments = ["--image", reference(registry), "--tag-ttl", "0"]
        let cache = try cacheOfAMount(arguments)
        if away == .stopped { registry.stop() } else { registry.suspend() }
        defer { if away == .silent { registry.resume() } }
        let mount = try CrfsMount(cache: cache.path, arguments: arguments)
        try expectTree(mount.point, is: "merged", flags: ["--native"] + tocFlags)
        #expect(mount.logLines(containing: "using the last known digest").count == 1)
    }

    @Test func aKnownImageMountsWithoutARequestWhileItsTagIsFresh() throws {
        let registry = try server("estargz")
        let arguments = ["--image", reference(registry), "--tag-ttl", "600"]
        let cache = try cacheOfAMount(arguments)
        let before = registry.requests(containing: "/v2/").count
        let mount = try CrfsMount(cache: cache.path, arguments: arguments)
        try expectTree(mount.point, is: "merged", flags: ["--native"] + tocFlags)
        #expect(before > 0 && registry.requests(containing: "/v2/").count == before)
    }

    @Test func itsProfileIsFetchedBeforeAnybodyLooks() throws {
        let registry = try server("estargz")
        let directory = try TemporaryDirectory("profile")
        let cache = try directory.makeDirectory("cache", mode: 0o700)
        let arguments = ["--image", reference(registry), "--log-level", "info"]
        let first = try CrfsMount(cache: cache, arguments: arguments)
        let big = try fingerprint(first.path("usr/lib/big.bin"))
        #expect(first.stop() == .exited(0))
        let pruned = try CrfsProgram.run(["cache", "prune", "--keep", "0", "--cache-dir", cache])
        #expect(pruned.isSuccess, "\(pruned)")
        let mount = try CrfsMount(cache: cache, arguments: arguments)
        #expect(waitUntil { mount.logLines(containing: "(profile)").contains { $0.contains("prefetched") } })
        registry.stop()
        #expect(try fingerprint(mount.path("usr/lib/big.bin")) == big)
    }

    // MARK: Extended attributes

    /// Two layers without any extended attribute: `name`:`tag` of the registry. The upper one deletes a file, replaces a
    /// directory, and adds to one.
    private func pushPlainImage(_ registry: RegistryServer, to destination: String) throws {
        let directory = try TemporaryDirectory("noxattrs")
        let script = """
            cd "$1"
            mkdir -p lower/kept lower/replaced upper/kept upper/replaced
            echo one > lower/kept/file; echo two > lower/kept/gone; echo three > lower/replaced/old
            ln lower/kept/file lower/kept/link; ln -s kept/file lower/symlink
            : > upper/kept/.wh.gone; : > upper/replaced/.wh..wh..opq; echo four > upper/replaced/new
            for layer in lower upper; do tar -C $layer -cf $layer.tar .; done
            """
        try runChecked("sh", ["-ec", script, "sh", directory.path])
        let tars = ["lower", "upper"].map { directory.file("\($0).tar") }
        for tar in tars {
            let converted = try CrfsProgram.run(["convert", "file:\(tar)", "file:\(tar).gz"])
            try #require(converted.isSuccess, "\(converted)")
        }
        try ImageLayout.make(directory.file("layout"), tag: "plain", layers: tars.map { $0 + ".gz" })
        try registry.push(layout: directory.file("layout"), tag: "plain", to: destination)
    }

    /// Requests of a kind that the log of a mount with `-fuse_debug` has.
    private func count(_ kind: String, _ mount: CrfsMount) -> Int {
        mount.logLines(containing: "opcode: \(kind)").count
    }

    @Test func theKernelAsksOnceWhereNoLayerHasAnyAttribute() throws {
        let registry = try RegistryServer()
        try pushPlainImage(registry, to: "plain:xattrs")
        let mount = try CrfsMount(arguments: ["-fuse_debug", "--image", reference(registry, "plain:xattrs")])
        for path in [mount.point, mount.path("kept"), mount.path("kept/file"), mount.path("symlink")] {
            for name in ["trusted.overlay.opaque", "security.capability", "security.selinux"] {
                expectError(EOPNOTSUPP) { () throws(SystemError) in _ = try extendedAttribute(name, of: path) }
            }
            // An ACL is what the mode says.
            expectError(ENODATA, EOPNOTSUPP) { () throws(SystemError) in
                _ = try extendedAttribute("system.posix_acl_access", of: path)
            }
        }
        let list = "import os,sys\ntry: os.listxattr(sys.argv[1])\nexcept OSError as error: print(error.errno)"
        for name in ["kept", "kept/file"] {
            #expect(try runChecked("python3", ["-c", list, mount.path(name)]).text == "\(EOPNOTSUPP)\n")
        }
        try runChecked("ls", ["-lR", mount.point])
        #expect(count("GETXATTR", mount) == 1, "\(mount.logLines(containing: "GETXATTR"))")
        #expect(count("LISTXATTR", mount) == 1, "\(mount.logLines(containing: "LISTXATTR"))")

        // In the tree it is as ever: another image may have some.
        let tree = try CrfsMount(cache: mount.cache)
        expectError(ENODATA) { () throws(SystemError) in
            _ = try extendedAttribute(
                "security.capability",
                of: tree.path("images/\(registry.host)/plain/xattrs/kept/file")
            )
        }
    }

    @Test func anImageThatHasSomeShowsThemAndNoOthers() throws {
        let registry = try server("estargz")
        let mount = try CrfsMount(arguments: ["--image", reference(registry)])
        for name in ["trusted.overlay.opaque", "security.capability", "user.none"] {
            expectError(ENODATA) { () throws(SystemError) in
                _ = try extendedAttribute(name, of: mount.path("etc/hosts"))
            }
        }
    }

    @Test func overlaysAndCopiesOfAnImageWithoutAttributesAreWhole() throws {
        let registry = try RegistryServer()
        try pushPlainImage(registry, to: "plain:xattrs")
        let mount = try CrfsMount(arguments: ["--image", reference(registry, "plain:xattrs")])
        let expected = "./kept/file one\n./kept/link one\n./replaced/new four\n./symlink one\n"
        let list = "cd \"$1\"; for f in $(find . ! -type d | LC_ALL=C sort); do echo \"$f $(cat $f)\"; done"
        func contents(_ root: String) throws -> String { try runChecked("sh", ["-ec", list, "sh", root]).text }
        #expect(try contents(mount.point) == expected)

        // A container's root: an overlay with an upper directory, which files are copied up to.
        let directory = try TemporaryDirectory("upper")
        let script = """
            cd "$1"; mkdir scratch; mount -t tmpfs tmpfs scratch; mkdir scratch/upper scratch/work scratch/root
            mount -t overlay overlay -o "lowerdir=$2,upperdir=scratch/upper,workdir=scratch/work" scratch/root
            """
        try runChecked("sh", ["-ec", script, "sh", directory.path, mount.point])
        let root = directory.file("scratch/root")
        defer { _ = try? run("sh", ["-c", "umount -l '\(root)'; umount -l '\(directory.file("scratch"))'"]) }
        #expect(try contents(root) == expected)
        try runChecked("sh", ["-ec", "echo more >> kept/file; chmod 700 replaced/new; rm symlink"], directory: root)
        #expect(try text(of: "\(root)/kept/file") == "one\nmore\n")
        #expect(try FileStatus("\(root)/replaced/new").mode == 0o700)
        expectError(ENOENT) { () throws(SystemError) in try look("\(root)/symlink") }

        // Copies by programs that ask for attributes.
        let copy = directory.file("copy")
        let copied = try runChecked("cp", ["-a", mount.point, copy])
        #expect(copied.errorText == "")
        #expect(try contents(copy) == expected)
        let packed = directory.file("packed.tar")
        try runChecked("tar", ["--xattrs", "--xattrs-include=*", "--acls", "-C", mount.point, "-cf", packed, "."])
        let unpacked = try directory.makeDirectory("unpacked")
        try runChecked("tar", ["-C", unpacked, "-xf", packed])
        #expect(try contents(unpacked) == expected)
    }
}
