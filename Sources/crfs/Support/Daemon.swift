internal import CShims
internal import Glibc
internal import PosixIO

/// Puts the serving process into the background and waits until it serves or fails.
///
/// fork(2) is called before anything of crfs or of its libraries has started a thread, so the child lacks none. It
/// writes one line to a pipe: an empty one when it serves (or another process does), else the reason why it does not.
enum Daemon {
    /// The child's end of the pipe.
    struct Report: ~Copyable {
        private let pipe: Descriptor

        init(_ pipe: consuming Descriptor) {
            self.pipe = pipe
        }

        /// Tells the starting process that the mount serves (an empty reason) or why it does not.
        consuming func send(_ reason: String) {
            try? unsafe pipe.writeNext(Array((reason + "\n").utf8).span.bytes)
        }
    }

    /// Returns only in the child, which goes on to serve; the parent ends with the child's report.
    static func start(logFile: String) throws -> Report {
        var ends: [CInt] = [0, 0]
        guard unsafe pipe(&ends) == 0 else { throw CommandError("\(SystemError.last("pipe"))") }
        let reading = Descriptor(owning: ends[0])
        let writing = Descriptor(owning: ends[1])
        for end in ends { _ = crfs_fcntl_int(end, F_SETFD, FD_CLOEXEC) }
        let child = crfs_fork()
        guard child >= 0 else { throw CommandError("cannot start in the background: \(describeErrno(errno))") }
        if child > 0 {
            drop(writing)
            try waitForReport(reading, logFile)
            Glibc.exit(0)
        }
        setsid()
        if let null = try? Descriptor.open("/dev/null") { dup2(null.raw, STDIN_FILENO) }
        if let null = try? Descriptor.open("/dev/null", O_WRONLY) {
            dup2(null.raw, STDOUT_FILENO)
            dup2(null.raw, STDERR_FILENO)
        }
        return Report(writing)
    }

    /// Whether SIGTERM comes when the process that started this one ends. Not for ever: that one ends with the report.
    static func endWithStarter(_ isOn: Bool) {
        crfs_signal_at_parents_end(isOn ? SIGTERM : 0)
    }

    /// Sends standard output and error to the log; for the owner of the cache directory, which alone writes there.
    static func useLog(_ path: String) throws {
        let log = try openLog(path)
        dup2(log.raw, STDOUT_FILENO)
        dup2(log.raw, STDERR_FILENO)
    }

    private static func openLog(_ path: String) throws -> Descriptor {
        do {
            if let slash = path.lastIndex(of: "/"), slash != path.startIndex {
                try makeDirectories(String(path[..<slash]), mode: 0o700)
            }
            let log = try Descriptor.open(path, O_WRONLY | O_CREAT | O_APPEND, mode: 0o600)
            guard try log.status().st_size > 8 << 20 else { return log }
            // One old log is kept; together they stay small.
            _ = unsafe rename(path, path + ".1")
            return try Descriptor.open(path, O_WRONLY | O_CREAT | O_APPEND, mode: 0o600)
        } catch {
            throw CommandError("cannot open the log file: \(error); choose another with --log-file")
        }
    }

    private static func waitForReport(_ reading: borrowing Descriptor, _ logFile: String) throws {
        var text: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while text.last != UInt8(ascii: "\n") {
            let count = try unsafe buffer.withUnsafeMutableBytes { try unsafe reading.readNext(into: $0) }
            guard count > 0 else {
                throw CommandError("the background process ended before it served; its log is \(logFile)")
            }
            text += buffer[..<count]
        }
        let reason = String(decoding: text.dropLast(), as: UTF8.self)
        if !reason.isEmpty { throw CommandError(reason) }
    }

    private static func drop(_ descriptor: consuming Descriptor) {}
}
