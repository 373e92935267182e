internal import Glibc
internal import Logging
internal import PosixIO

/// SIGTERM, SIGINT and SIGHUP for a serving process. Made first thing, so that every thread inherits the mask and the
/// signals wait for `wait`.
struct ServingSignals {
    private let set: sigset_t

    init() {
        var set = sigset_t()
        _ = unsafe sigemptyset(&set)
        for number in [SIGTERM, SIGINT, SIGHUP] { _ = unsafe sigaddset(&set, number) }
        _ = unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
        self.set = set
    }

    /// Returns when `over` has come to its end: by itself, or by what the first signal asks for, or a second one.
    ///
    /// - Parameters:
    ///   - over: waits for the end; on a thread of its own.
    ///   - unmount: for the first signal.
    ///   - abort: for each further one.
    func wait(
        _ logger: Logger?,
        for over: @escaping @Sendable () -> Void,
        unmount: () -> Void,
        abort: () -> Void
    ) {
        let end = Completion()
        let main = getpid()
        startThread(named: "unmounted") {
            over()
            end.finish()
            // Wakes the thread in sigwait below.
            kill(main, SIGHUP)
        }
        var asked = 0
        while !end.isFinished {
            var number: CInt = 0
            var set = set
            guard unsafe sigwait(&set, &number) == 0 else { continue }
            if end.isFinished { break }
            // A terminal that went away is no reason to unmount.
            if number == SIGHUP { continue }
            asked += 1
            logger?.notice("signal \(number): unmounting\(asked > 1 ? " by force" : "")")
            if asked > 1 { abort() } else { unmount() }
        }
    }
}
