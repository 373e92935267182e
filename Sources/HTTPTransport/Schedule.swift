internal import CShims
internal import PosixIO
internal import Synchronization

/// What the loop's thread knows: which transfers libcurl has and which wait. Only for that thread.
struct Schedule {
    private var hosts: [String: HostQueue] = [:]
    private var active: [UInt: Transfer] = [:]
    private var waiting = 0
    private var nextCheck: UInt64 = 0
    /// Servers whose places or lines changed.
    private var changed: Set<String> = []
    /// Transfers that were sent a second time, while both are under way.
    private var racing: [Transfer] = []
    /// When to look for slow ones again.
    private var nextHedge: UInt64 = 0
    private let counters: TransportCounters

    init(counters: TransportCounters) { self.counters = counters }

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
        for transfer in racing { transfer.abandon(on: multi) }
        for transfer in active.values { transfer.abandon(on: multi) }
        for host in hosts.values { host.forEachWaiting { $0.abandon(on: multi) } }
        for transfer in racing { end(race: transfer) }
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
                    nextCheck = min(nextCheck, transfer.stallDeadline, hedgeTime(transfer))
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
            finish(transfer, result, on: multi)
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
            earliest = min(earliest, transfer.stallDeadline, hedgeTime(transfer))
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
            let key = transfer.key
            if let key { active.removeValue(forKey: key) }
            end(transfer, multi)
            // One that waits for its rival alone has given its place back.
            if key != nil { release(transfer) }
            if let rival = transfer.rival { part(transfer, from: rival, on: multi) }
        }
    }

    private mutating func release(_ transfer: Transfer) {
        hosts[transfer.host]?.release(transfer)
        changed.insert(transfer.host)
    }

    // MARK: Requests that are sent a second time

    /// When a transfer may be sent a second time; never, where that cannot be said.
    private func hedgeTime(_ transfer: Transfer) -> UInt64 {
        guard transfer.mayBeHedged, let delay = hosts[transfer.host]?.hedgeDelay else { return .max }
        return transfer.hedgeTime(after: delay) ?? .max
    }

    /// Sends those demands again whose answers are later than nearly all before them.
    mutating func hedge(on multi: borrowing MultiHandle) {
        let now = monotonicNanoseconds()
        guard now >= nextHedge else { return }
        nextHedge = now + 5_000_000
        for transfer in Array(active.values) where hedgeTime(transfer) <= now {
            guard let host = hosts[transfer.host] else { continue }
            transfer.wasLate = true
            let hedge = transfer.makeHedge(isMultiplexed: host.isMultiplexed)
            guard hosts[transfer.host]?.takeHedge(hedge) == true else { continue }
            guard let key = hedge.start(on: multi, now: now) else {
                hosts[transfer.host]?.release(hedge)
                continue
            }
            active[key] = hedge
            transfer.rival = hedge
            hedge.rival = transfer
            racing.append(transfer)
            counters.hedges.add(1, ordering: .relaxed)
        }
    }

    /// Ends those whose rivals' answers have begun.
    mutating func settleRaces(on multi: borrowing MultiHandle) {
        for transfer in racing {
            guard let hedge = transfer.rival else { continue }
            if transfer.hasClaimed {
                part(transfer, from: hedge, on: multi)
            } else if hedge.hasClaimed {
                retire(transfer, on: multi)
            }
        }
    }

    /// libcurl is done with a transfer.
    private mutating func finish(_ transfer: Transfer, _ result: CURLcode, on multi: borrowing MultiHandle) {
        guard let rival = transfer.rival else {
            transfer.finish(result, on: multi)
            release(transfer)
            return
        }
        if !transfer.isHedge {
            if transfer.hasClaimed {
                part(transfer, from: rival, on: multi)
                transfer.finish(result, on: multi)
                release(transfer)
            } else {
                transfer.setAside(result, on: multi)
                release(transfer)
            }
            return
        }
        transfer.finish(result, on: multi)
        release(transfer)
        part(transfer, from: rival, on: multi)
    }

    /// A transfer goes on without libcurl: its rival has the answer.
    private mutating func retire(_ transfer: Transfer, on multi: borrowing MultiHandle) {
        guard let key = transfer.key else { return }
        active.removeValue(forKey: key)
        transfer.retire(on: multi)
        release(transfer)
    }

    /// Ends a race of which `transfer` is over, or is to go on alone.
    private mutating func part(_ transfer: Transfer, from rival: Transfer, on multi: borrowing MultiHandle) {
        let first = transfer.isHedge ? rival : transfer
        let hedge = transfer.isHedge ? transfer : rival
        if !transfer.isHedge {
            if let key = hedge.key {
                active.removeValue(forKey: key)
                hedge.abandon(on: multi)
                release(hedge)
            }
        } else if hedge.hasClaimed {
            counters.hedgesWon.add(1, ordering: .relaxed)
            retire(first, on: multi)
        }
        // Nothing else is left that could end the request: it ends as its hedge did.
        if first.phase == .active, first.key == nil { first.adopt(hedge, on: multi) }
        end(race: first)
    }

    private mutating func end(race transfer: Transfer) {
        transfer.rival?.rival = nil
        transfer.rival = nil
        racing.removeAll { $0 === transfer }
    }
}
