internal import Glibc
internal import PosixIO
internal import Synchronization

/// How far long work is: one line that is written over on a terminal, a plain line every ten seconds elsewhere.
final class ProgressLine {
    private let isQuiet: Bool
    private let verb: String
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private let startedAt = monotonicNanoseconds()
    private var shownAt: UInt64
    private var hasLine = false

    init(isQuiet: Bool, verb: String) {
        self.isQuiet = isQuiet
        self.verb = verb
        shownAt = monotonicNanoseconds()
    }

    /// Shows how many chunks are done, if it is time to.
    func update(chunks done: Int, of total: Int) {
        guard isDue(monotonicNanoseconds()) else { return }
        show("\(verb): \(total == 0 ? 100 : done * 100 / total) %, \(done) of \(total) chunks")
    }

    private func isDue(_ now: UInt64) -> Bool {
        guard !isQuiet, now - shownAt >= (isTerminal ? 100_000_000 : 10_000_000_000) else { return false }
        shownAt = now
        return true
    }

    /// Shows bytes done, rate and time left, if it is time to.
    func update(done: UInt64, total: UInt64) {
        let now = monotonicNanoseconds()
        guard isDue(now) else { return }
        let seconds = Double(now - startedAt) / 1e9
        let rate = Double(done) / max(seconds, 0.001)
        let percent = total == 0 ? 100 : min(100, Int(Double(done) / Double(total) * 100))
        let left = rate > 0 && total > done ? Int(Double(total - done) / rate) + 1 : 0
        let text =
            "\(verb): \(percent) %, \(done >> 20) of \(total >> 20) MiB, \(Int(rate) >> 20) MiB/s, \(left) s left"
        show(text)
    }

    private func show(_ text: String) {
        if isTerminal {
            hasLine = true
            write("\r\u{1b}[K" + text)
        } else {
            write(text + "\n")
        }
    }

    /// Clears the line.
    func end() {
        if hasLine { write("\r\u{1b}[K") }
        hasLine = false
    }

    private func write(_ text: String) {
        let bytes = Array(text.utf8)
        _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}

/// SIGINT and SIGTERM as a question instead of the end, so that work can take its temporary files with it.
final class Interrupt: Sendable {
    /// Finished when somebody wants this to end.
    let requested = Completion()
    private let isFirst = Atomic(true)

    init() {
        var set = sigset_t()
        _ = unsafe sigemptyset(&set)
        for number in [SIGINT, SIGTERM] { _ = unsafe sigaddset(&set, number) }
        _ = unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
        let signals = set
        startThread(named: "interrupt") { [self] in
            while true {
                var set = signals
                var number: CInt = 0
                guard unsafe sigwait(&set, &number) == 0 else { continue }
                // The second one ends the process as it would have without us.
                guard isFirst.exchange(false, ordering: .relaxed) else { _exit(128 + number) }
                requested.finish()
            }
        }
    }

    /// Whether somebody wants this to end.
    var isRequested: Bool { requested.isFinished }
}
