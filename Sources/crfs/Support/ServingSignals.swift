internal import FuseBridge
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

    /// Returns when the mount is gone: unmounted from outside, or by the first signal; a second signal forces it.
    func wait(for session: FuseSession, _ logger: Logger) {
        let over = Completion()
        let main = getpid()
        startThread(named: "unmounted") {
            session.waitUntilUnmounted()
            over.finish()
            // Wakes the thread in sigwait below.
            kill(main, SIGHUP)
        }
        var asked = 0
        while !over.isFinished {
            var number: CInt = 0
            var set = set
            guard unsafe sigwait(&set, &number) == 0 else { continue }
            if over.isFinished { break }
            // A terminal that went away is no reason to unmount.
            if number == SIGHUP { continue }
            asked += 1
            logger.notice("signal \(number): unmounting\(asked > 1 ? " by force" : "")")
            if asked > 1 { session.abort() } else { unmount(session, logger) }
        }
    }

    /// Takes the mount away. One that is in use is taken out of the tree at once and served until its last user goes.
    private func unmount(_ session: FuseSession, _ logger: Logger) {
        do throws(FuseError) {
            try session.requestUnmount(.plain)
        } catch {
            logger.warning("\(error); detached it: crfs ends with its last user, or by a second signal")
            do throws(FuseError) {
                try session.requestUnmount(.lazy)
            } catch {
                logger.error("\(error)")
            }
        }
    }
}
