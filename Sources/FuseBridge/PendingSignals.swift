internal import Glibc
internal import PosixIO

/// What is known of the signals of a thread, from `/proc/<tid>/status` (proc(5)).
struct PendingSignals: Equatable {
    /// SigPnd and ShdPnd together: signal n is bit n - 1.
    var pending: UInt64 = 0
    /// SigBlk, SigIgn and SigCgt together: what will not end the process by default.
    var handled: UInt64 = 0
    /// Whether a debugger decides about signals.
    var isTraced = false
    /// Whether the thread has ended.
    var isGone = false

    /// Signals that end a process by a core dump. The kernel turns the other deadly ones into SIGKILL when they are
    /// sent.
    private static let dumping: UInt64 =
        [SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS]
        .reduce(0) { $0 | 1 << UInt64($1 - 1) }

    /// Whether the thread will not live to see an answer.
    var isDying: Bool {
        if isGone || pending & (1 << UInt64(SIGKILL - 1)) != 0 { return true }
        return !isTraced && pending & ~handled & Self.dumping != 0
    }

    /// Reads the text of a status file. Lines that are missing or malformed count as "no signal".
    init(status: String) {
        for line in status.split(separator: "\n") {
            guard let colon = line.firstIndex(of: ":") else { continue }
            let value = line[line.index(after: colon)...].drop { $0 == "\t" || $0 == " " }
            switch line[..<colon] {
            case "State": isGone = value.first == "Z" || value.first == "X"
            case "TracerPid": isTraced = value != "0"
            case "SigPnd", "ShdPnd": pending |= UInt64(value, radix: 16) ?? 0
            case "SigBlk", "SigIgn", "SigCgt": handled |= UInt64(value, radix: 16) ?? 0
            default: break
            }
        }
    }

    /// Looks at a thread. One that is not there is gone; one that may not be looked at (hidepid in proc(5)) counts as
    /// alive.
    init(thread: pid_t) {
        let text = try? readProcFile("/proc/\(thread)/status")
        self.init(status: text ?? "")
        if text == nil { isGone = kill(thread, 0) != 0 && errno == ESRCH }
    }
}
