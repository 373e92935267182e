import Glibc
import PosixIO
import TestSupport
import Testing

/// Files that were opened before are read from a file of their own by the kernel; and by crfs where the store has lost them.
@Suite(.needs(.mounting))
struct MaterialisedFileTests {
    private let big = "usr/lib/big.bin"

    init() throws { try Requirement.mounting.orFail() }

    /// The ways to serve one.
    static let passthrough = ["--open=daemon"]
    static let auto = ["--open=auto"]
    static let ways: [[String]] = [passthrough, auto, ["--open=daemon", "--passthrough=off"], ["--open=none"]]

    private func materialised(_ cache: String) -> [String] {
        namesInDirectory("\(cache)/files").filter { $0.hasSuffix(".note") }.map {
            "\(cache)/files/\($0.dropLast(5))"
        }
    }

    /// Opens the file until it is materialised: the second time asks for it, once its chunks are in the store. Only opens
    /// that may become passthrough do so; in the other ways it is only read.
    private func heat(_ file: String, _ mount: CrfsMount, _ way: [String]) throws -> Reader.Outcome {
        let expected = try fingerprint(file)
        if way != Self.passthrough {
            #expect(try fingerprint(file) == expected)
            #expect(materialised(mount.cache).isEmpty)
            return expected
        }
        let isThere = waitUntil {
            _ = try? runChecked("dd", ["if=\(file)", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"])
            return !materialised(mount.cache).isEmpty
        }
        #expect(isThere)
        return expected
    }

    private func heatedSum(_ file: String, _ mount: CrfsMount, _ way: [String]) throws -> String {
        guard case .read(_, let sum) = try heat(file, mount, way) else { throw CommandFailure(description: "no sum") }
        return sum
    }

    /// SHA-256 by read, mmap, sendfile and O_DIRECT, one to a line.
    private func everyWay(_ file: String) throws -> [String] {
        let program = """
            import hashlib, mmap, os, sys
            path = sys.argv[1]
            size = os.stat(path).st_size
            def plain():
                with open(path, 'rb') as f: return f.read()
            def mapped():
                with open(path, 'rb') as f: m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
                return bytes(m)
            def sent():
                f = os.open(path, os.O_RDONLY); out = os.memfd_create('x'); done = 0
                while done < size: done += os.sendfile(out, f, done, size - done)
                return os.pread(out, size + 1, 0)
            def direct():
                f = os.open(path, os.O_RDONLY | os.O_DIRECT); buffer = mmap.mmap(-1, 1 << 20); data = b''
                while True:
                    count = os.preadv(f, [buffer], len(data))
                    data += buffer[:count]
                    if count < len(buffer): return data
            for way in plain, mapped, sent, direct: print(hashlib.sha256(way()).hexdigest())
            """
        return try runChecked("python3", ["-c", program, file]).text.split(separator: "\n").map(String.init)
    }

    @Test(arguments: ways)
    func contentIsTheSameInEveryWay(_ way: [String]) throws {
        let stage = try Stage(arguments: way)
        let file = stage.image("corpus/estargz/\(big)")
        let sum = try heatedSum(file, stage.mount, way)
        for _ in 0..<2 { #expect(try everyWay(file) == [sum, sum, sum, sum]) }
        #expect(stage.mount.logLines(containing: "error").isEmpty)
    }

    @Test(arguments: ways)
    func theNextDaemonServesItWithoutRegistryAndChunks(_ way: [String]) throws {
        let registry = try RegistryServer()
        try registry.pushCorpus("estargz")
        let cache = try TemporaryDirectory("cache")
        let first = try CrfsMount(cache: cache.path, arguments: Self.passthrough)
        let digest = try linkTarget(first.path("images/\(registry.host)/corpus/estargz"))
        let name = "images/\(registry.host)/corpus/\(digest)/\(big)"
        let expected = try heat(first.path(name), first, Self.passthrough)
        first.stop()
        registry.stop()
        for segment in namesInDirectory("\(cache.path)/chunks") { _ = unsafe unlink("\(cache.path)/chunks/\(segment)") }
        let second = try CrfsMount(cache: cache.path, arguments: way + ["--deadline", "3"])
        #expect(try Reader(second.path(name)).finish() == expected)
    }

    // MARK: --open=auto

    /// Whether opens are answered with files for the kernel.
    private func isPassing(_ mount: CrfsMount) throws -> Bool {
        try status(mount.cache, "d['mounts'][0]['passthrough']") == "True"
    }

    /// A cache directory of which two mounts, each with the default options, used the big file.
    private func usedTwice(_ registry: RegistryServer) throws -> TemporaryDirectory {
        try registry.pushCorpus("estargz")
        let cache = try TemporaryDirectory("cache")
        for round in 1...2 {
            let mount = try CrfsMount(cache: cache.path)
            let file = mount.path("images/\(registry.host)/corpus/estargz/\(big)")
            #expect(try fingerprint(file) == fingerprint(file))
            // Nothing to give: the first open had no answer, and so none has.
            #expect(try !isPassing(mount))
            #expect(materialised(cache.path).isEmpty)
            #expect(mount.stop() == .exited(0))
            #expect(materialised(cache.path).count == round - 1)
        }
        return cache
    }

    @Test func theThirdMountThatUsesAFileHasItReadByTheKernel() throws {
        let registry = try RegistryServer()
        let cache = try usedTwice(registry)
        let mount = try CrfsMount(cache: cache.path)
        let file = mount.path("images/\(registry.host)/corpus/estargz/\(big)")
        let sum = try runChecked("sha256sum", [materialised(cache.path)[0]]).text.prefix(64)
        #expect(try everyWay(file) == Array(repeating: String(sum), count: 4))
        try #require(mount.logLines(containing: "passthrough").isEmpty, "this machine has no passthrough")
        #expect(try isPassing(mount))
        #expect(try status(cache.path, "d['reads']['from_store'] + d['reads']['from_flights']") == "0")
    }

    @Test func opensAreAnsweredUntilThatGivesNothingMoreAndNoFileIsReadByTheKernel() throws {
        let registry = try RegistryServer()
        let cache = try usedTwice(registry)
        let mount = try CrfsMount(cache: cache.path)
        let root = mount.path("images/\(registry.host)/corpus/estargz")
        let directory = try TemporaryDirectory("held")
        let holder = try BackgroundProcess(
            "python3",
            ["-c", mappedProgram, "\(root)/\(big)", directory.path],
            log: directory.file("output")
        )
        #expect(waitUntil { (try? FileStatus(directory.file("ready"))) != nil })
        try #require(mount.logLines(containing: "passthrough").isEmpty, "this machine has no passthrough")
        let opens = "import sys\nfor _ in range(1100): open(sys.argv[1], 'rb').close()"
        try runChecked("python3", ["-c", opens, "\(root)/etc/hosts"])
        // Whoever opens the file now without an answer could not map it.
        #expect(try isPassing(mount))
        let sum = try runChecked("sha256sum", [materialised(cache.path)[0]]).text.prefix(64)
        #expect(try everyWay("\(root)/\(big)") == Array(repeating: String(sum), count: 4))
        try writeFile(directory.file("go"), "")
        #expect(holder.wait(seconds: 60) == .exited(0))
        // RELEASE comes some time after the last close.
        let isOver = waitUntil {
            _ = try? runChecked("python3", ["-c", opens, "\(root)/etc/hosts"])
            return (try? isPassing(mount)) == false
        }
        #expect(isOver)
        #expect(try everyWay("\(root)/\(big)") == Array(repeating: String(sum), count: 4))
        #expect(mount.logLines(containing: "error").isEmpty)
    }

    @Test(arguments: ways)
    func aFileThatIsMaterialisedWhileOpenGoesOnAndIsTheSameForOthers(_ way: [String]) throws {
        let stage = try Stage(arguments: way)
        let file = stage.image("corpus/estargz/\(big)")
        let directory = try TemporaryDirectory("held")
        // Holds a mapping and an open file through it all, and reads both again in the end.
        let program = """
            import hashlib, mmap, os, sys, time
            f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.read(1)
            open(sys.argv[2] + '/ready', 'x').close()
            while not os.path.exists(sys.argv[2] + '/go'): time.sleep(0.01)
            f.seek(0)
            print(hashlib.sha256(f.read()).hexdigest(), hashlib.sha256(m).hexdigest())
            """
        let holder = try BackgroundProcess(
            "python3",
            ["-c", program, file, directory.path],
            log: directory.file("output")
        )
        #expect(waitUntil { (try? FileStatus(directory.file("ready"))) != nil })
        let sum = try heatedSum(file, stage.mount, way)
        #expect(try everyWay(file) == [sum, sum, sum, sum])
        try writeFile(directory.file("go"), "")
        #expect(holder.wait(seconds: 60) == .exited(0))
        #expect(try text(of: directory.file("output")) == "\(sum) \(sum)\n")
        #expect(try everyWay(file) == [sum, sum, sum, sum])
    }

    /// A mapping that may be executed, as a running program has: what happens to it happens to that.
    private let mappedProgram = """
        import hashlib, mmap, os, sys, time
        f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_EXEC); m[0]
        open(sys.argv[2] + '/ready', 'x').close()
        while not os.path.exists(sys.argv[2] + '/go'): time.sleep(0.01)
        print(hashlib.sha256(m).hexdigest(), hashlib.sha256(f.read()).hexdigest())
        """

    @Test func whoReadsByPassthroughGoesOnWithoutTheDaemon() throws {
        let stage = try Stage(arguments: Self.passthrough)
        let file = stage.image("corpus/estargz/\(big)")
        let sum = try heatedSum(file, stage.mount, Self.passthrough)
        try #require(stage.mount.logLines(containing: "passthrough").isEmpty, "this machine has no passthrough")
        let directory = try TemporaryDirectory("held")
        let holder = try BackgroundProcess(
            "python3",
            ["-c", mappedProgram, file, directory.path],
            log: directory.file("output")
        )
        #expect(waitUntil { (try? FileStatus(directory.file("ready"))) != nil })
        stage.mount.process.kill()
        #expect(errorNumber { () throws(SystemError) in _ = try Descriptor.open(file) } == ENOTCONN)
        try writeFile(directory.file("go"), "")
        #expect(holder.wait(seconds: 60) == .exited(0))
        #expect(try text(of: directory.file("output")) == "\(sum) \(sum)\n")
    }

    @Test(arguments: ways)
    func aFileThatIsRemovedWhileItIsMappedStaysForItsReaders(_ way: [String]) throws {
        let stage = try Stage(arguments: way)
        let file = stage.image("corpus/estargz/\(big)")
        let sum = try heatedSum(file, stage.mount, way)
        let directory = try TemporaryDirectory("held")
        let holder = try BackgroundProcess(
            "python3",
            ["-c", mappedProgram, file, directory.path],
            log: directory.file("output")
        )
        #expect(waitUntil { (try? FileStatus(directory.file("ready"))) != nil })
        for path in materialised(stage.mount.cache) { #expect(unsafe unlink(path) == 0) }
        #expect(try everyWay(file) == [sum, sum, sum, sum])
        try writeFile(directory.file("go"), "")
        #expect(holder.wait(seconds: 60) == .exited(0))
        #expect(try text(of: directory.file("output")) == "\(sum) \(sum)\n")
    }

    @Test(arguments: ways)
    func aFileThatWasChangedBetweenTwoDaemonsIsNotServed(_ way: [String]) throws {
        let stage = try Stage(arguments: Self.passthrough)
        let link = try linkTarget(stage.image("corpus/estargz"))
        let name = "images/\(stage.registry.host)/corpus/\(link)/\(big)"
        let expected = try heat(stage.mount.path(name), stage.mount, Self.passthrough)
        let cache = try TemporaryDirectory("cache")
        stage.mount.stop()
        try runChecked("cp", ["-a", stage.mount.cache + "/.", cache.path])
        for segment in namesInDirectory("\(cache.path)/chunks") { _ = unsafe unlink("\(cache.path)/chunks/\(segment)") }
        // A copy is another inode: hashed before it is used. One of its bytes is another one now.
        for path in materialised(cache.path) {
            try unsafe Descriptor.open(path, O_RDWR).write([0x55, 0xaa].span.bytes, at: 70_000)
        }
        let second = try CrfsMount(cache: cache.path, arguments: way)
        for _ in 0..<3 { #expect(try Reader(second.path(name)).finish() == expected) }
    }
}
