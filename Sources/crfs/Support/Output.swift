internal import CShims
internal import Glibc
internal import PosixIO

/// Where the bytes of a command's output go.
typealias OutputSink = (borrowing RawSpan) throws -> Void

/// Lines for an output, written in larger pieces.
struct OutputLines {
    private let sink: OutputSink
    private var pending: [UInt8] = []

    init(_ sink: @escaping OutputSink = { try writeToStandardOutput($0) }) {
        self.sink = sink
    }

    mutating func write(_ line: [UInt8]) throws {
        pending += line
        pending.append(UInt8(ascii: "\n"))
        if pending.count >= 64 * 1024 { try flush() }
    }

    mutating func write(_ line: String) throws {
        try write(Array(line.utf8))
    }

    mutating func flush() throws {
        // SAFETY: a UInt8 is one byte without padding.
        if !pending.isEmpty { try unsafe sink(pending.span.bytes) }
        pending.removeAll(keepingCapacity: true)
    }
}

/// Writes all bytes to standard output.
func writeToStandardOutput(_ bytes: borrowing RawSpan) throws {
    try unsafe bytes.withUnsafeBytes { buffer in
        guard let base = buffer.baseAddress else { return }
        var done = 0
        while done < buffer.count {
            // SAFETY: `done < buffer.count`, so the range stays inside.
            let count = unsafe write(STDOUT_FILENO, base + done, buffer.count - done)
            if count < 0 {
                if errno == EINTR { continue }
                throw CommandError("cannot write to standard output: \(describeErrno(errno))")
            }
            done += count
        }
    }
}

/// `drwxr-xr-x` and the like, with s, S, t, T as ls(1) writes them.
func modeText(_ mode: UInt32) -> String {
    let type =
        switch mode & S_IFMT {
        case S_IFDIR: "d"
        case S_IFLNK: "l"
        case S_IFCHR: "c"
        case S_IFBLK: "b"
        case S_IFIFO: "p"
        case S_IFSOCK: "s"
        default: "-"
        }
    func triple(_ shift: UInt32, special: Bool, _ letters: (set: String, plain: String)) -> String {
        let bits = mode >> shift
        let execute = bits & 1 != 0
        let last = special ? (execute ? letters.set : letters.plain) : (execute ? "x" : "-")
        return (bits & 4 != 0 ? "r" : "-") + (bits & 2 != 0 ? "w" : "-") + last
    }
    return type + triple(6, special: mode & 0o4000 != 0, ("s", "S"))
        + triple(3, special: mode & 0o2000 != 0, ("s", "S"))
        + triple(0, special: mode & 0o1000 != 0, ("t", "T"))
}

/// `2024-01-31 12:00:00`, UTC, with other separators where they are given.
func utcText(_ seconds: Int64, _ separator: String = " ", _ end: String = "") -> String {
    var time = time_t(seconds)
    var parts = unsafe tm()
    _ = unsafe gmtime_r(&time, &parts)
    func two(_ value: CInt) -> String { value < 10 ? "0\(value)" : "\(value)" }
    let date = unsafe "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
    let clock = unsafe "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))"
    return date + separator + clock + end
}

/// major(3).
func deviceMajor(_ device: UInt64) -> UInt32 { crfs_major(device) }

/// minor(3).
func deviceMinor(_ device: UInt64) -> UInt32 { crfs_minor(device) }

/// Bounds what malloc keeps, and how many descriptors may be open.
func crfsConfigureProcess() {
    crfs_configure_malloc()
    signal(SIGPIPE, SIG_IGN)
    var limit = rlimit()
    if unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0, limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max
        _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
}
