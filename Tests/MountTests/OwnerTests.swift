import Glibc
import PosixIO
import TestSupport
import Testing

/// Several mounts of one cache directory: one process serves them all (docs/control-socket.md).
@Suite(.needs(.mounting))
struct OwnerTests {
    private let big = "usr/lib/big.bin"

    init() throws { try Requirement.mounting.orFail() }

    private func blobRequests(_ registry: RegistryServer) -> Int {
        registry.requests(containing: "GET", "/blobs/").count
    }

    // MARK: Mounting

    @Test func twoMountPointsShareOneProcessAndWhatItFetched() throws {
        let stage = try Stage()
        let first = try fingerprint(stage.image("corpus/estargz/\(big)"))
        let fetched = blobRequests(stage.registry)
        let second = try CrfsMount(cache: stage.mount.cache)
        #expect(try status(second.cache, "len(d['mounts'])") == "2")
        #expect(try status(second.cache, "d['process']") == "\(stage.mount.process.pid)")
        let host = stage.registry.host
        #expect(try fingerprint(second.path("images/\(host)/corpus/estargz/\(big)")) == first)
        #expect(blobRequests(stage.registry) == fetched)
        try expectTree(
            second.path("images/\(host)/corpus/estargz"),
            is: "merged",
            flags: ["--native"] + tocFlags
        )
        // The one that came second goes first.
        #expect(second.stop() == .exited(0))
        #expect(!isMounted(second.point))
        #expect(try names(in: stage.mount.point).contains("images"))
        #expect(try status(stage.mount.cache, "len(d['mounts'])") == "1")
    }

    @Test func theProcessEndsWithItsLastMount() throws {
        let stage = try Stage()
        let second = try CrfsMount(cache: stage.mount.cache)
        let end = try CrfsProgram.run(["umount", stage.mount.point])
        #expect(end.isSuccess, "\(end)")
        #expect(waitUntil { !isMounted(stage.mount.point) })
        // It goes on for the other one.
        let image = second.path("images/\(stage.registry.host)/corpus/estargz/etc/hosts")
        #expect(try text(of: image) == "127.0.0.1 localhost\n")
        #expect(stage.mount.process.isRunning)
        #expect(try CrfsProgram.run(["umount", second.point]).isSuccess)
        #expect(second.process.wait() == .exited(0))
        #expect(stage.mount.process.wait() == .exited(0))
    }

    @Test func aSignalToTheOwnerEndsAllItsMounts() throws {
        let first = try CrfsMount()
        let second = try CrfsMount(cache: first.cache)
        first.process.signal(SIGTERM)
        #expect(first.process.wait() == .exited(0))
        #expect(second.process.wait() == .exited(0))
        #expect(!isMounted(first.point) && !isMounted(second.point))
    }

    @Test func aForegroundProcessThatIsKilledTakesItsMountAlong() throws {
        let first = try CrfsMount()
        let second = try CrfsMount(cache: first.cache)
        // Served from here on; perhaps its process does not know it yet.
        #expect(try names(in: second.point).contains("images"))
        second.process.kill()
        #expect(waitUntil { !isMounted(second.point) })
        #expect(try names(in: first.point).contains("images"))
        #expect(try status(first.cache, "len(d['mounts'])") == "1")
    }

    @Test func eachMountHasItsOwnOptions() throws {
        let stage = try Stage()
        let second = try CrfsMount(
            cache: stage.mount.cache,
            arguments: ["--allow-host", "nowhere.example", "--mount-mode", "0700"]
        )
        #expect(
            errorNumber { () throws(SystemError) in try look(second.path("images/\(stage.registry.host)")) } == ENOENT
        )
        #expect(try FileStatus(second.point).mode == 0o700)
        #expect(try FileStatus(stage.mount.point).mode == 0o755)
        #expect(try names(in: stage.image("corpus/estargz")).contains("etc"))
    }

    @Test func otherOptionsForTheProcessAreRefusedWithBothValues() throws {
        let first = try CrfsMount(arguments: ["--tag-ttl", "7"])
        let directory = try TemporaryDirectory("second")
        let point = try directory.makeDirectory("mnt")
        let result = try CrfsProgram.run(["mount", "--cache-dir", first.cache, "--tag-ttl", "8", point])
        #expect(result.status == .exited(1), "\(result)")
        for word in ["--tag-ttl", "7", "8", first.cache] { #expect(result.errorText.contains(word), "\(result)") }
        #expect(!isMounted(point))
        // The same value, and one that is left out, are fine.
        let same = try CrfsProgram.run(["mount", "--cache-dir", first.cache, "--tag-ttl", "7", point])
        #expect(same.isSuccess, "\(same)")
        #expect(try CrfsProgram.run(["umount", point]).isSuccess)
    }

    @Test func ofAListOptionSomeMayBeNamed() throws {
        let first = try CrfsMount(arguments: ["--index-from", "one.example", "--index-from", "two.example"])
        let directory = try TemporaryDirectory("second")
        let point = try directory.makeDirectory("mnt")
        func mount(_ options: String...) throws -> ProcessResult {
            try CrfsProgram.run(["mount", "--cache-dir", first.cache] + options + [point])
        }
        for options in [["--index-from", "three.example"], ["--index=off"]] {
            let refused = try CrfsProgram.run(["mount", "--cache-dir", first.cache] + options + [point])
            #expect(refused.status == .exited(1) && refused.errorText.contains("--index"), "\(refused)")
        }
        #expect(try mount("--index-from", "two.example", "--index", "auto").isSuccess)
        #expect(try CrfsProgram.run(["umount", point]).isSuccess)
    }

    @Test func mountsAtTheSameInstantOnANewDirectoryFindTogether() throws {
        let directory = try TemporaryDirectory("race")
        let cache = directory.file("cache")
        let points = try (0..<5).map { try directory.makeDirectory("mnt\($0)") }
        let processes = try points.map { point in
            try BackgroundProcess(CrfsProgram.path, ["mount", "--cache-dir", cache, point], log: directory.file("log"))
        }
        for process in processes {
            #expect(process.wait(seconds: 60) == .exited(0), "\((try? text(of: directory.file("log"))) ?? "")")
        }
        for point in points { #expect(isMounted(point)) }
        #expect(try status(cache, "len(d['mounts'])") == "5")
        for point in points { #expect(try CrfsProgram.run(["umount", point]).isSuccess) }
    }

    @Test func oneMountsWhileTheLastOneGoes() throws {
        let directory = try TemporaryDirectory("end")
        let cache = directory.file("cache")
        let points = try (0..<2).map { try directory.makeDirectory("mnt\($0)") }
        let first = try CrfsProgram.run(["mount", "--cache-dir", cache, points[0]])
        #expect(first.isSuccess, "\(first)")
        for round in 1...12 {
            let leaving = points[(round + 1) % 2]
            let coming = points[round % 2]
            let end = try BackgroundProcess(CrfsProgram.path, ["umount", leaving], log: directory.file("log"))
            let result = try CrfsProgram.run(["mount", "--cache-dir", cache, coming])
            #expect(result.isSuccess, "round \(round): \(result)")
            #expect(end.wait() == .exited(0))
            #expect(isMounted(coming) && !isMounted(leaving), "round \(round)")
            #expect(try names(in: coming).contains("images"))
        }
        #expect(try CrfsProgram.run(["umount", points[0]]).isSuccess)
    }

    @Test func afterAKilledOwnerTheNextOneTakesItsPlace() throws {
        let first = try CrfsMount()
        let second = try CrfsMount(cache: first.cache)
        first.process.kill()
        // The other one says what happened, and leaves no dead mount behind.
        #expect(second.process.wait() == .exited(1))
        #expect(!isMounted(second.point))
        #expect(second.logLines(containing: second.point).count >= 1)
        #expect(try FileStatus("\(first.cache)/control").kind == .other)
        let third = try CrfsMount(cache: first.cache)
        #expect(try names(in: third.point).contains("images"))
        #expect(try status(first.cache, "len(d['mounts'])") == "1")
    }

    @Test func aMountOfAnotherMountNameSpaceIsServedAndEndedFromOutside() throws {
        let first = try CrfsMount()
        let directory = try TemporaryDirectory("namespace")
        let point = try directory.makeDirectory("mnt")
        let output = directory.file("output")
        let inside = try BackgroundProcess(
            "unshare",
            [
                "-m", "sh", "-c",
                "\"$0\" mount --foreground --cache-dir \"$1\" \"$2\" & for i in $(seq 200); do "
                    + "test -e \"$2/README-crfs.txt\" && break; sleep 0.05; done; ls \"$2\" > \"$3\"; wait",
                CrfsProgram.path, first.cache, point, output,
            ],
            log: directory.file("log")
        )
        #expect(waitUntil(seconds: 60) { ((try? text(of: output)) ?? "").contains("layers") })
        #expect(!isMounted(point))
        #expect(try status(first.cache, "len(d['mounts'])") == "2")
        let end = try CrfsProgram.run(["umount", "--cache-dir", first.cache, point])
        #expect(end.isSuccess, "\(end)")
        #expect(inside.wait() != nil)
        #expect(try status(first.cache, "len(d['mounts'])") == "1")
        #expect(try names(in: first.point).contains("images"))
    }

    // MARK: Commands beside an owner

    @Test func lsCatAndInspectUseTheOwnersCache() throws {
        let stage = try Stage()
        let image = "\(stage.registry.host)/corpus:estargz"
        let expected = try fingerprint(stage.image("corpus/estargz/\(big)"))
        let fetched = blobRequests(stage.registry)
        let options = ["--cache-dir", stage.mount.cache]
        let listed = try CrfsProgram.run(["ls"] + options + [image, "/etc"])
        #expect(listed.text.split(separator: "\n") == ["empty", "hosts", "passwd", "shadow"], "\(listed)")
        let directory = try TemporaryDirectory("cat")
        let copy = directory.file("big")
        try runChecked(
            "sh",
            [
                "-c", "\"$0\" cat --cache-dir \"$1\" \"$2\" \"$3\" > \"$4\"",
                CrfsProgram.path, stage.mount.cache, image, big, copy,
            ]
        )
        #expect(try fingerprint(copy) == expected)
        let inspected = try CrfsProgram.run(["inspect", "--json"] + options + [image])
        #expect(try json(inspected, "len(d['layers'])") == "3")
        #expect(blobRequests(stage.registry) == fetched)
        // Errors come over as if they had happened here.
        let missing = try CrfsProgram.run(["cat"] + options + [image, "/no/such/file"])
        #expect(missing.status == .exited(1))
        #expect(missing.errorText == "crfs: /no/such/file: No such file or directory\n", "\(missing)")
    }

    @Test func aReaderThatGoesAwayEndsItsRequest() throws {
        let stage = try Stage()
        try look(stage.image("corpus/estargz/\(big)"))
        stage.registry.suspend()
        let directory = try TemporaryDirectory("cat")
        let reader = try BackgroundProcess(
            CrfsProgram.path,
            ["cat", "--cache-dir", stage.mount.cache, "\(stage.registry.host)/corpus:estargz", big],
            log: directory.file("log")
        )
        #expect(reader.wait(seconds: 0.5) == nil)
        reader.kill()
        stage.registry.resume()
        #expect(stage.mount.stop() == .exited(0))
    }

    @Test func statusHasItsFieldsAndNoCredential() throws {
        let stage = try Stage()
        _ = try fingerprint(stage.image("corpus/estargz/\(big)"))
        let cache = stage.mount.cache
        let keys = [
            "cache_directory", "hosts", "images_open", "layers_open", "materialised_files", "mounts", "network",
            "options",
            "prefetch", "process", "protocol", "reads", "store", "streaming_layers", "uptime_seconds", "version",
            "waits",
        ]
        #expect(try status(cache, "' '.join(sorted(d))") == keys.joined(separator: " "))
        #expect(try status(cache, "d['images_open'], d['layers_open'], d['protocol']") == "1 3 1")
        #expect(try status(cache, "d['mounts'][0]['point']") == stage.mount.point)
        #expect(try status(cache, "d['reads']['from_store'] + d['reads']['from_flights'] > 0") == "True")
        #expect(try status(cache, "d['network']['content_bytes'] > 0 < d['network']['requests']") == "True")
        #expect(try status(cache, "d['store']['disk_bytes'] > 0 < d['store']['chunks']") == "True")
        #expect(try status(cache, "d['hosts'][0]['name']") == stage.registry.host)
        #expect(
            try status(cache, "sum(c['count'] for c in d['waits']['histogram']) == d['waits']['total'] > 0") == "True"
        )
        #expect(
            try status(cache, "d['prefetch']['used_bytes'] + d['prefetch']['unused_bytes'] == d['prefetch']['bytes']")
                == "True"
        )
        #expect(
            try status(cache, "' '.join(k['name'] for k in d['prefetch']['kinds'])")
                == "profile landmark warm background"
        )
        #expect(try status(cache, "d['network']['hedges'] >= d['network']['hedges_won'] >= 0") == "True")
        #expect(try status(cache, "d['mounts'][0]['open'], d['mounts'][0]['passthrough']") == "auto False")
        #expect(try status(cache, "d['materialised_files']['limit_bytes'] * 4 == d['store']['limit_bytes']") == "True")
        #expect(try status(cache, "d['streaming_layers']") == "[]")
        let names = "' '.join(sorted(d['options']))"
        #expect(
            try status(cache, names)
                == "ca-file cache-size deadline hosts-dir index index-digest index-from insecure-registry memory-cache "
                + "metrics tag-ttl verify"
        )
        let text = try CrfsProgram.run(["status", "--cache-dir", cache])
        #expect(text.isSuccess && text.text.contains(stage.mount.point), "\(text)")
        let nobody = try TemporaryDirectory("nobody")
        let none = try CrfsProgram.run(["status", "--cache-dir", nobody.path])
        #expect(none.status == .exited(1))
        #expect(none.errorText.contains("--cache-dir"), "\(none)")
    }

    // MARK: Clients that misbehave

    /// Runs a Python program with the socket's path in `p`.
    private func python(_ program: String, _ cache: String, user: String? = nil) throws -> ProcessResult {
        let command = [
            "/usr/bin/python3", "-c", "import socket,struct,sys\np=sys.argv[1]\n" + program, "\(cache)/control",
        ]
        guard let user else { return try run(command[0], Array(command.dropFirst())) }
        return try run("setpriv", ["--reuid", user, "--clear-groups"] + command)
    }

    @Test func anotherUserIsRefused() throws {
        let directory = try TemporaryDirectory("peer")
        let cache = try directory.makeDirectory("cache", mode: 0o700)
        let mount = try CrfsMount(cache: cache)
        // As after a copy with the wrong modes.
        try runChecked("chmod", ["0711", directory.path, cache])
        try runChecked("chmod", ["0666", "\(cache)/control"])
        let program = """
            s=socket.socket(socket.AF_UNIX); s.connect(p)
            b=b'{"crfs":1,"request":"status"}'
            try: s.sendall(struct.pack('<I',len(b))+b)
            except OSError: pass
            r=b''
            while True:
                try: d=s.recv(65536)
                except OSError: break
                if not d: break
                r+=d
            print(r[4:].decode())
            """
        let refused = try python(program, cache, user: "65534")
        #expect(refused.text.contains("answers nobody else"), "\(refused)")
        #expect(!refused.text.contains("mounts"), "\(refused)")
        let answered = try python(program, cache)
        #expect(answered.text.contains("mounts"), "\(answered)")
        #expect(try names(in: mount.point).contains("images"))
    }

    @Test func garbageAndSilenceDisturbNobody() throws {
        let mount = try CrfsMount()
        let program = """
            import os
            silent=[]
            for i in range(200):
                s=socket.socket(socket.AF_UNIX); s.connect(p); silent.append(s)
            for b in [b'\\xff'*4, b'\\0'*4, os.urandom(70000), struct.pack('<I',1<<20)+b'{'*(1<<20), b'{}']:
                s=socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(p)
                try:
                    s.sendall(b)
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(65536): pass
                except ConnectionError: pass
            s=socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(p)
            b=b'{"crfs":1,"request":"owner"}'
            s.sendall(struct.pack('<I',len(b))+b)
            print(s.recv(65536)[4:].decode())
            """
        let result = try python(program, mount.cache)
        #expect(result.text.contains("\"ok\""), "\(result)")
        #expect(try status(mount.cache, "len(d['mounts'])") == "1")
        #expect(try names(in: mount.point).contains("images"))
    }

    @Test func aDescriptorThatIsNoMountIsRefused() throws {
        let mount = try CrfsMount()
        let program = """
            import array
            s=socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(p)
            b=b'{"crfs":1,"request":"mount","point":"/x","device":"0:1","debug":false,"openMode":"none","passthrough":"off","isForeground":false,"settings":{"platform":"linux/amd64","localDirectory":"/","listedHosts":[],"allowedHosts":[],"rootMode":493,"rootGroup":0,"userXattr":false,"job":"","background":false,"prefetch":[]}}'
            f=open('/dev/null')
            s.sendmsg([struct.pack('<I',len(b))+b],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array('i',[f.fileno()]))])
            print(s.recv(65536)[4:].decode())
            """
        let result = try python(program, mount.cache)
        #expect(result.text.contains("no FUSE mount"), "\(result)")
        #expect(try status(mount.cache, "len(d['mounts'])") == "1")
    }

    // MARK: The cache

    @Test func cacheCommandsWorkWithAndWithoutAnOwner() throws {
        let stage = try Stage()
        let expected = try fingerprint(stage.image("corpus/estargz/\(big)"))
        let cache = stage.mount.cache
        func cacheCommand(_ arguments: String...) throws -> ProcessResult {
            try CrfsProgram.run(["cache"] + arguments + ["--cache-dir", cache])
        }
        #expect(
            try json(cacheCommand("stat", "--json"), "d['content_chunks'] > 0 and d['layer_indexes']['files']") == "3"
        )
        #expect(
            try json(
                cacheCommand("verify", "--json"),
                "d['verified']['chunks'] > 0 and d['verified']['damaged_chunks']"
            ) == "0"
        )
        #expect(
            try json(cacheCommand("prune", "--keep", "1", "--json"), "d['content_chunks'], d['removed']['bytes'] > 0")
                == "0 True"
        )
        // What was pruned is fetched again.
        try runChecked("sh", ["-c", "echo 1 > /proc/sys/vm/drop_caches"])
        let second = try CrfsMount(cache: cache)
        #expect(try fingerprint(second.path("images/\(stage.registry.host)/corpus/estargz/\(big)")) == expected)
        #expect(second.stop() == .exited(0))
        #expect(stage.mount.stop() == .exited(0))

        #expect(
            try json(cacheCommand("stat", "--json"), "d['content_chunks'] > 0, d['limit_bytes'] >> 30") == "True 10"
        )
        #expect(
            try json(
                cacheCommand("verify", "--json"),
                "d['verified']['damaged_chunks'] + d['verified']['damaged_files']"
            ) == "0"
        )
        #expect(
            try json(cacheCommand("stat", "--json"), "d['profiles']['files'], d['profiles']['bytes'] > 0") == "1 True"
        )
        let segment = try #require(try names(in: "\(cache)/chunks").first)
        let program = """
            import sys
            f=open(sys.argv[1],'r+b'); f.seek(4000); b=f.read(64); f.seek(4000); f.write(bytes(255-x for x in b))
            """
        try runChecked("python3", ["-c", program, "\(cache)/chunks/\(segment)"])
        let damaged = try cacheCommand("verify")
        #expect(damaged.status == .exited(1), "\(damaged)")
        #expect(damaged.errorText.contains("dropped"), "\(damaged)")
        #expect(try cacheCommand("prune", "--all").isSuccess)
        #expect(
            try json(
                cacheCommand("stat", "--json"),
                "d['content_bytes'], d['layer_indexes']['files'], d['manifests']['files'], d['profiles']['files']"
            ) == "0 0 0 1"
        )
        try writeFile("\(cache)/profiles/\(try names(in: "\(cache)/profiles")[0])", "no profile")
        #expect(try cacheCommand("verify").status == .exited(1))
        #expect(try json(cacheCommand("stat", "--json"), "d['profiles']['files']") == "0")
    }

    @Test(arguments: [true, false])
    func cacheCommandsKnowMaterialisedFiles(_ hasOwner: Bool) throws {
        let stage = try Stage(arguments: ["--open=daemon"])
        let cache = stage.mount.cache
        let file = stage.image("corpus/estargz/\(big)")
        let expected = try fingerprint(file)
        func materialised() -> [String] {
            ((try? names(in: "\(cache)/files")) ?? []).filter { $0.hasSuffix(".note") }.map { String($0.dropLast(5)) }
        }
        func heat() {
            #expect(
                waitUntil {
                    _ = try? runChecked("dd", ["if=\(file)", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"])
                    return !materialised().isEmpty
                }
            )
        }
        func cacheCommand(_ arguments: String...) throws -> ProcessResult {
            try CrfsProgram.run(["cache"] + arguments + ["--cache-dir", cache])
        }
        heat()
        #expect(try status(cache, "d['materialised_files']['files']") == "1")
        if !hasOwner { #expect(stage.mount.stop() == .exited(0)) }
        let bytes = try FileStatus("\(cache)/files/\(materialised()[0])").size
        let size = "d['materialised_files']['files'], d['materialised_files']['bytes'] >= \(bytes)"
        #expect(try json(cacheCommand("stat", "--json"), size) == "1 True")
        let counts =
            "d['verified']['materialised_files'], d['verified']['damaged_materialised_files'], d['materialised_files']['files']"
        #expect(try json(cacheCommand("verify", "--json"), counts) == "1 0 1")
        // Files go before chunks.
        let chunks = try json(cacheCommand("stat", "--json"), "d['content_bytes']")
        #expect(
            try json(
                cacheCommand("prune", "--keep", chunks, "--json"),
                "d['materialised_files']['files'], d['content_bytes'] == \(chunks), d['removed']['bytes'] > 0"
            ) == "0 True True"
        )
        #expect(materialised().isEmpty)
        guard hasOwner else { return }
        heat()
        try unsafe Descriptor.open("\(cache)/files/\(materialised()[0])", O_RDWR).write(
            [0x55, 0xaa].span.bytes,
            at: 70_000
        )
        let damaged = try cacheCommand("verify")
        #expect(damaged.status == .exited(1) && damaged.text.contains("1 whole files, 1 damaged"), "\(damaged)")
        try runChecked("sh", ["-c", "echo 1 > /proc/sys/vm/drop_caches"])
        #expect(try fingerprint(file) == expected)
    }

    @Test func aCommandThatReadsLeavesALargerCacheAsItIs() throws {
        let registry = try RegistryServer()
        try registry.pushCorpus("estargz")
        let cache = try TemporaryDirectory("cache")
        let image = "\(registry.host)/corpus:estargz"
        let warm = try CrfsProgram.run(["warm", "--cache-dir", cache.path, "--cache-size", "20GiB", image])
        #expect(warm.isSuccess, "\(warm)")
        let limit = "d['limit_bytes'] >> 20, d['content_chunks']"
        func stat() throws -> String {
            try json(CrfsProgram.run(["cache", "stat", "--json", "--cache-dir", cache.path]), limit)
        }
        let before = try stat()
        #expect(before.hasPrefix("20480 "))
        // More than the size that is asked for below, with all that is set aside for the present segment.
        let segments = try names(in: "\(cache.path)/chunks")
        let allocated = try segments.map { try FileStatus("\(cache.path)/chunks/\($0)").size }.reduce(0, +)
        #expect(allocated > 16 << 20)
        let sizes = ["--cache-size", "16MiB"]
        let read = try CrfsProgram.run(["cat", "--cache-dir", cache.path] + sizes + [image, "/etc/hosts"])
        #expect(read.text == "127.0.0.1 localhost\n", "\(read)")
        #expect(try stat() == before)
        #expect(try names(in: "\(cache.path)/chunks") == segments)
    }
}
