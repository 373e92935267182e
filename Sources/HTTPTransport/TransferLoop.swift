internal import CShims
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

    func submit(_ transfer: Transfer) {
        if transfer.request.sink?.gate != nil {
            transfer.wake = { [weak self, weak transfer] in
                guard let self, let transfer else { return }
                self.inbox.withLock { $0.released.append(transfer) }
                self.multi.wakeUp()
            }
        }
        inbox.withLock { $0.submitted.append(transfer) }
        multi.wakeUp()
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
        var schedule = Schedule()
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
            schedule.collectFinished(on: multi)
            schedule.expire(on: multi)
            if schedule.startWaiting(on: multi) { continue }
            multi.poll(milliseconds: schedule.patience)
        }
    }
}

/// What the loop's thread knows: which transfers libcurl has and which wait. Only for that thread.
private struct Schedule {
    private var hosts: [String: HostQueue] = [:]
    private var active: [UInt: Transfer] = [:]
    private var waiting = 0
    private var nextCheck: UInt64 = 0
    /// Servers whose places or lines changed.
    private var changed: Set<String> = []

    /// How long the thread may wait for something to happen, in milliseconds.
    var patience: CInt {
        guard !active.isEmpty || waiting > 0 else { return 60_000 }
        let now = monotonicNanoseconds()
        return nextCheck <= now ? 1 : CInt(min((nextCheck - now) / 1_000_000 + 1, 1000))
    }

    mutating func accept(_ transfers: [Transfer]) {
        for transfer in transfers {
            if let queueTimeout = transfer.request.queueTimeout {
                transfer.queueDeadline = monotonicNanoseconds() + nanoseconds(queueTimeout)
                nextCheck = min(nextCheck, transfer.queueDeadline)
            }
            hosts[transfer.host, default: HostQueue()].append(transfer)
            changed.insert(transfer.host)
            waiting += 1
        }
    }

    mutating func cancel(_ transfers: [Transfer], on multi: borrowing MultiHandle) {
        for transfer in transfers { drop(transfer, on: multi) { $0.abandon(on: $1) } }
    }

    mutating func abandonAll(on multi: borrowing MultiHandle) {
        for transfer in active.values { transfer.abandon(on: multi) }
        for host in hosts.values { host.forEachWaiting { $0.abandon(on: multi) } }
        active = [:]
        hosts = [:]
        waiting = 0
    }

    /// Starts what has its turn; true when anything was started.
    @discardableResult
    mutating func startWaiting(on multi: borrowing MultiHandle) -> Bool {
        var started = false
        for host in changed {
            while let transfer = hosts[host]?.next() {
                waiting -= 1
                if transfer.cancelled.load(ordering: .acquiring) {
                    transfer.abandon(on: multi)
                    hosts[host]?.release(transfer)
                } else if let key = transfer.start(on: multi, now: monotonicNanoseconds()) {
                    active[key] = transfer
                    nextCheck = min(nextCheck, transfer.stallDeadline)
                    started = true
                } else {
                    hosts[host]?.release(transfer)
                }
            }
        }
        changed.removeAll(keepingCapacity: true)
        return started
    }

    mutating func collectFinished(on multi: borrowing MultiHandle) {
        while let (key, result) = multi.nextFinished() {
            guard let transfer = active.removeValue(forKey: key) else { continue }
            transfer.finish(result, on: multi)
            release(transfer)
        }
    }

    /// Ends what has waited too long. Looks at all transfers, so not more often than needed.
    mutating func expire(on multi: borrowing MultiHandle) {
        let now = monotonicNanoseconds()
        guard now >= nextCheck else { return }
        // A byte that comes moves a deadline back, so the earliest one is looked for anew each time.
        var earliest = now + 500_000_000
        var late: [Transfer] = []
        for transfer in active.values {
            if transfer.stallDeadline <= now, !transfer.hasSentMore(now: now) { late.append(transfer) }
            earliest = min(earliest, transfer.stallDeadline)
        }
        for host in hosts.values {
            host.forEachWaiting { transfer in
                if transfer.queueDeadline <= now { late.append(transfer) }
                earliest = min(earliest, transfer.queueDeadline)
            }
        }
        for transfer in late {
            drop(transfer, on: multi) { transfer, multi in
                if transfer.phase == .active { transfer.stall(on: multi) } else { transfer.expireInQueue() }
            }
        }
        nextCheck = max(earliest, now + 5_000_000)
    }

    /// Ends a transfer before libcurl is done with it, or before it began; one that is finished is left alone.
    private mutating func drop(
        _ transfer: Transfer,
        on multi: borrowing MultiHandle,
        _ end: (Transfer, borrowing MultiHandle) -> Void
    ) {
        switch transfer.phase {
        case .new, .finished:
            return
        case .waiting:
            waiting -= 1
            changed.insert(transfer.host)
            end(transfer, multi)
        case .active:
            if let key = transfer.key { active.removeValue(forKey: key) }
            end(transfer, multi)
            release(transfer)
        }
    }

    private mutating func release(_ transfer: Transfer) {
        hosts[transfer.host]?.release(transfer)
        changed.insert(transfer.host)
    }
}
