import Glibc
import PosixIO
import TestSupport
import Testing

/// What nodes are like (docs/semantics.md, "Nodes"), beyond what verify.py compares.
@Suite(.needs(.mounting))
struct NodeTests {
    init() throws { try Requirement.mounting.orFail() }

    @Test func writesOfAnyKindAreRefused() throws {
        let stage = try Stage()
        let root = stage.image("corpus/estargz")
        let file = "\(root)/etc/hosts"
        for place in [root, stage.layers("corpus/estargz/0"), stage.mount.path("images"), stage.mount.point] {
            expectError(EROFS) { () throws(SystemError) in
                if unsafe mkdir("\(place)/new", 0o755) != 0 { throw SystemError.last("mkdir") }
            }
        }
        expectError(EROFS) { () throws(SystemError) in _ = try Descriptor.open(file, O_WRONLY) }
        expectError(EROFS) { () throws(SystemError) in _ = try Descriptor.open("\(root)/new", O_WRONLY | O_CREAT) }
        expectError(EROFS) { () throws(SystemError) in
            if unsafe unlink(file) != 0 { throw SystemError.last("unlink") }
        }
        expectError(EROFS) { () throws(SystemError) in
            if unsafe chmod(file, 0o600) != 0 { throw SystemError.last("chmod") }
        }
        expectError(EROFS) { () throws(SystemError) in
            if unsafe rename(file, "\(root)/etc/other") != 0 { throw SystemError.last("rename") }
        }
    }

    @Test func overlayAttributesThatAreNotThereAreENODATA() throws {
        let stage = try Stage()
        for path in [
            stage.image("corpus/estargz/etc/hosts"), stage.image("corpus/estargz/etc"),
            stage.layers("corpus/estargz/0/etc/hosts"),
        ] {
            for name in ["trusted.overlay.opaque", "trusted.overlay.redirect", "security.capability", "user.none"] {
                expectError(ENODATA) { () throws(SystemError) in _ = try extendedAttribute(name, of: path) }
            }
        }
    }

    @Test func opaqueDirectoriesCarryTheUserAttributeOnlyWhenAskedTo() throws {
        let plain = try Stage()
        let opaque = plain.layers("corpus/estargz/1/var/opaque")
        #expect(try extendedAttribute("trusted.overlay.opaque", of: opaque) == Array("y".utf8))
        expectError(ENODATA) { () throws(SystemError) in _ = try extendedAttribute("user.overlay.opaque", of: opaque) }

        let user = try CrfsMount(arguments: ["--userxattr"])
        let same = user.path("layers/\(plain.registry.host)/corpus/estargz/1/var/opaque")
        #expect(try extendedAttribute("user.overlay.opaque", of: same) == Array("y".utf8))
        #expect(try extendedAttribute("trusted.overlay.opaque", of: same) == Array("y".utf8))
    }

    @Test func readsPastTheEndAreEmpty() throws {
        let stage = try Stage()
        let file = try Descriptor.open(stage.image("corpus/estargz/etc/hosts"))
        var buffer = [UInt8](repeating: 0, count: 64)
        func read(at offset: UInt64) throws -> Int {
            try unsafe buffer.withUnsafeMutableBytes { try unsafe file.read(into: $0, at: offset) }
        }
        #expect(try read(at: 0) == 20)
        #expect(try read(at: 20) == 0)
        #expect(try read(at: 1 << 40) == 0)
    }

    @Test func inodeNumbersAreTheSameAfterARemountOnTheSameCacheDirectory() throws {
        let cache = try TemporaryDirectory("cache")
        let registry = try RegistryServer()
        try registry.pushCorpus("estargz")
        try registry.pushCorpus("stargz-legacy")
        func numbers(_ order: [String]) throws -> [String: UInt64] {
            let mount = try CrfsMount(cache: cache.path)
            var result: [String: UInt64] = [:]
            for format in order {
                for view in ["images/\(registry.host)/corpus/\(format)", "layers/\(registry.host)/corpus/\(format)/0"] {
                    for path in ["", "/etc", "/etc/hosts", "/usr/bin/tool", "/usr/bin/tool-alias", "/dev/null"] {
                        result[view + path] = try FileStatus(mount.path(view + path + (path == "" ? "/." : ""))).inode
                    }
                }
            }
            return result
        }
        let first = try numbers(["estargz", "stargz-legacy"])
        // Another order of first use: what was numbered before keeps its number.
        #expect(try numbers(["stargz-legacy", "estargz"]) == first)
    }

    @Test func aFileHasOneInodeInAllViewsAndADirectoryOneForEachPlace() throws {
        let stage = try Stage()
        let image = stage.image("corpus/estargz")
        let layer = stage.layers("corpus/estargz/0")
        // Layer 1 alone supplies etc/hosts, and no upper layer changes it.
        #expect(try FileStatus("\(image)/etc/hosts").inode == FileStatus("\(layer)/etc/hosts").inode)
        #expect(try FileStatus("\(image)/etc").inode != FileStatus("\(layer)/etc").inode)
        #expect(try FileStatus("\(image)/etc/hosts").inode >> 56 == 0)
    }

    @Test func listedInodeNumbersAreThoseOfStat() throws {
        let stage = try Stage()
        try look(stage.image("corpus/estargz/etc"))
        try look(stage.layers("corpus/estargz/0/etc"))
        for directory in [
            stage.mount.point, stage.mount.path("images"), stage.mount.path("layers"),
            stage.mount.path("images/\(stage.registry.host)"), stage.image("corpus"), stage.layers("corpus"),
            stage.layers("corpus/estargz/"),
        ] {
            for entry in try listDirectory(directory) {
                let status = try FileStatus("\(directory)/\(entry.name)")
                #expect(entry.inode == status.inode, "\(directory)/\(entry.name)")
                #expect(entry.kind == status.kind, "\(directory)/\(entry.name)")
            }
        }
    }

    @Test func whiteoutsAreListedAsCharacterDevices() throws {
        let stage = try Stage()
        let listed = try listDirectory(stage.layers("corpus/estargz/1/var"))
        let whiteout = try #require(listed.first { $0.name == "del-file" })
        #expect(whiteout.kind == .characterDevice)
    }

    @Test func statfsIsPlausible() throws {
        let stage = try Stage()
        let result = try runChecked("stat", ["-f", "-c", "%s %b %l", stage.image("corpus/estargz/etc")])
        let words = result.text.split(whereSeparator: \.isWhitespace).compactMap { Int($0) }
        #expect(words.count == 3)
        #expect(words[0] > 0 && words[1] > 0)
        #expect(words[2] == 255)
    }

    // MARK: Who may do what

    @Test func theMountIsReadOnlyWithoutSetuidAndDevicesUnlessAskedFor() throws {
        let plain = try CrfsMount()
        let options = try #require(mountOptions(of: plain.point))
        #expect(options.contains("ro") && options.contains("nosuid") && options.contains("nodev"))
        let open = try CrfsMount(arguments: ["--suid", "--dev"])
        let wider = try #require(mountOptions(of: open.point))
        #expect(wider.contains("ro") && !wider.contains("nosuid") && !wider.contains("nodev"))
    }

    @Test func mountModeAndGroupDecideWhoMayEnter() throws {
        func list(_ mount: CrfsMount, group: Int) throws -> Bool {
            // The parent directory is private to the test: entered by a descriptor that root has opened.
            try run(
                "setpriv",
                ["--reuid=65534", "--regid=\(group)", "--clear-groups", "ls", "."],
                directory: mount.point
            ).isSuccess
        }
        let everyone = try CrfsMount()
        #expect(try list(everyone, group: 65534))
        let group = try CrfsMount(arguments: ["--mount-mode", "0750", "--mount-gid", "4242"])
        #expect(try FileStatus(group.point).mode == 0o750)
        #expect(try FileStatus(group.point).gid == 4242)
        #expect(try list(group, group: 4242))
        #expect(try !list(group, group: 65534))
        let root = try CrfsMount(arguments: ["--mount-mode", "0700"])
        #expect(try !list(root, group: 65534))
    }

    @Test func permissionsOfTheImageHoldForOtherUsers() throws {
        let stage = try Stage()
        let result = try run(
            "setpriv",
            ["--reuid=65534", "--regid=65534", "--clear-groups", "cat", "etc/shadow"],
            directory: stage.image("corpus/estargz")
        )
        #expect(!result.isSuccess)
        let readable = try run(
            "setpriv",
            ["--reuid=65534", "--regid=65534", "--clear-groups", "cat", "etc/hosts"],
            directory: stage.image("corpus/estargz")
        )
        #expect(readable.text == "127.0.0.1 localhost\n")
    }
}
