import Glibc
import PosixIO
import TestSupport
import Testing

/// Programs that run out of a mount, while what they run from goes.
@Suite(.needs(.mounting))
struct ExecutionTests {
    init() throws { try Requirement.mounting.orFail() }

    /// What the program is given, which is a shell: it waits until its file is evicted, and then does what it has code for.
    private let script = """
        : > "$1/ready"
        until [ -e "$1/go" ]; do sleep 0.01; done
        declare -A squares
        for number in {1..200}; do squares[k$number]=$((number * number)); done
        [[ aabaa =~ (a+)b ]]
        TZ=UTC printf -v year '%(%Y)T' 0
        sum=$(sha256sum < /proc/$$/exe)
        echo "${squares[k20]} ${BASH_REMATCH[1]} $year ${sum%% *}"
        """

    /// Has the kernel drop the pages that a process runs from, so that its next instruction is read again.
    private let dropPages = """
        import ctypes, os, struct, sys
        libc = ctypes.CDLL(None, use_errno=True)
        pid, own = int(sys.argv[1]), os.readlink(f'/proc/{sys.argv[1]}/exe')
        ranges = []
        for line in open(f'/proc/{pid}/maps'):
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[5].rstrip() == own and 'w' not in fields[1]:
                start, end = (int(text, 16) for text in fields[0].split('-'))
                ranges.append(struct.pack('NN', start, end - start))
        process_madvise, MADV_PAGEOUT = 440, 21
        done = libc.syscall(process_madvise, os.pidfd_open(pid), b''.join(ranges), ctypes.c_size_t(len(ranges)), MADV_PAGEOUT, 0)
        if done <= 0: raise OSError(ctypes.get_errno(), 'process_madvise')
        print(own)
        """

    @Test(arguments: MaterialisedFileTests.ways)
    func aProgramGoesOnWhenItsFileIsEvicted(_ way: [String]) throws {
        let directory = try TemporaryDirectory("program")
        // The program is one of this machine's, above the least size of a materialised file.
        try runChecked("mkdir", ["-p", directory.file("root/bin")])
        try runChecked("sh", ["-c", "cp -L \"$(command -v bash)\" \"$1\"", "sh", directory.file("root/bin/program")])
        try #require(FileStatus(directory.file("root/bin/program")).size >= 128 << 10)
        try runChecked("tar", ["-C", directory.file("root"), "-cf", directory.file("layer.tar"), "bin"])
        let files = ["file:" + directory.file("layer.tar"), "file:" + directory.file("layer.tar.gz")]
        let converted = try CrfsProgram.run(["convert"] + files)
        try #require(converted.isSuccess, "\(converted)")
        try ImageLayout.make(directory.file("layout"), tag: "program", layers: [directory.file("layer.tar.gz")])
        let registry = try RegistryServer()
        try registry.push(layout: directory.file("layout"), tag: "program", to: "test:program")

        let mount = try CrfsMount(arguments: way)
        let digest = try linkTarget(mount.path("images/\(registry.host)/test/program"))
        let file = mount.path("images/\(registry.host)/test/\(digest)/bin/program")
        guard case .read(_, let sum) = try fingerprint(file) else { throw CommandFailure(description: "no sum") }
        func kept() -> [String] { namesInDirectory("\(mount.cache)/files").filter { $0.hasSuffix(".note") } }
        if way == MaterialisedFileTests.passthrough {
            let isThere = waitUntil {
                _ = try? runChecked("dd", ["if=\(file)", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"])
                return !kept().isEmpty
            }
            try #require(isThere)
        }
        let running = try BackgroundProcess(
            file,
            ["-c", script, "program", directory.path],
            log: directory.file("output")
        )
        try #require(waitUntil { (try? FileStatus(directory.file("ready"))) != nil || !running.isRunning })
        let pruned = try CrfsProgram.run(["cache", "prune", "--keep", "0", "--cache-dir", mount.cache])
        #expect(pruned.isSuccess, "\(pruned)")
        #expect(kept().isEmpty)
        #expect(try runChecked("python3", ["-c", dropPages, "\(running.pid)"]).text == "\(file)\n")
        try writeFile(directory.file("go"), "")
        #expect(running.wait(seconds: 60) == .exited(0))
        #expect(try text(of: directory.file("output")) == "400 aa 1970 \(sum)\n")
        #expect(mount.logLines(containing: "passthrough").isEmpty)
    }
}
