internal import PosixIO
internal import Synchronization

/// The thread that drives libcurl, and the inbox that feeds it.
///
/// LOCK ORDER: the inbox's lock is a leaf, held only to move arrays. The thread is woken without it.
final class TransferLoop: Sendable {
    private struct Inbox: Sendable {
        var submitted: [Transfer] = []
        var cancelled: [Transfer] = []
        var released: [Transfer] = []
        var stopped = false
    }

    private let multi = MultiHandle(hostConnections: HostQueue.connections, totalConnections: 256)
    private let inbox = Mutex(Inbox())
    let counters = TransportCounters()

    func submit(_ transfer: Transfer) {
        if transfer.request.sink?.gate != nil {
            transfer.wake = { [weak self, weak transfer] in
                guard let self, let transfer else { return }
                self.inbox.withLock { $0.released.append(transfer) }
                self.multi.wakeUp()
            }
        }
        let isOpen = inbox.withLock { inbox in
            if !inbox.stopped { inbox.submitted.append(transfer) }
            return !inbox.stopped
        }
        // Nobody looks into the inbox of a loop that has ended.
        if isOpen { multi.wakeUp() } else { transfer.refuse() }
    }

    /// Ends a transfer wherever it is; also one that has not been submitted yet.
    func cancel(_ transfer: Transfer) {
        transfer.cancelled.store(true, ordering: .releasing)
        inbox.withLock { $0.cancelled.append(transfer) }
        multi.wakeUp()
    }

    /// Ends the thread; what is under way fails as cancelled.
    func stop() {
        inbox.withLock { $0.stopped = true }
        multi.wakeUp()
    }

    /// The thread's body.
    func run() {
        var schedule = Schedule(counters: counters)
        while true {
            let work = inbox.withLock { inbox in
                let work = inbox
                inbox.submitted = []
                inbox.cancelled = []
                inbox.released = []
                return work
            }
            schedule.accept(work.submitted)
            schedule.cancel(work.cancelled, on: multi)
            for transfer in work.released { transfer.release() }
            if work.stopped {
                schedule.abandonAll(on: multi)
                return
            }
            schedule.startWaiting(on: multi)
            multi.perform()
            schedule.settleRaces(on: multi)
            schedule.collectFinished(on: multi)
            schedule.expire(on: multi)
            schedule.hedge(on: multi)
            if schedule.startWaiting(on: multi) { continue }
            multi.poll(milliseconds: schedule.patience)
        }
    }
}
