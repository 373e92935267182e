internal import PosixIO

/// The transfers of one server: those that libcurl has, by number, and those that wait for their turn. The order is
/// ours: libcurl never gets more than the server's connections or streams can carry at once.
struct HostQueue {
    /// Requests at once over HTTP/1.1, and as long as the server's version is not known: one for each connection.
    static let connections = 16
    /// Requests at once over HTTP/2: what servers allow on a connection.
    static let streams = 100
    /// Background transfers at once.
    static let backgroundLimit = 4
    /// Bytes that may be on their way without a reader waiting for them: with them a demand shares the link.
    static let mostAhead: UInt64 = 24 << 20
    /// The same while a reader waits for something.
    static let mostBesideDemand: UInt64 = 8 << 20
    /// Of the requests that readers wait for, one in so many may be sent a second time.
    private static let hedgeShare = 32

    private var lines = [Line<Transfer>](repeating: Line(), count: TransferPriority.demand.rawValue + 1)
    private var activeBackground = 0
    private var activeOthers = 0
    private var activeDemand = 0
    /// Of the transfers that nobody waits for.
    private var bytesAhead: UInt64 = 0
    private var limit = HostQueue.connections
    private var latency = LatencyHistogram()
    /// In requests; see `hedgeShare`.
    private var hedgeCredit = 0
    /// Whether a connection carries many requests at once; false while that is not known.
    private(set) var isMultiplexed = false

    mutating func append(_ transfer: Transfer) {
        transfer.phase = .waiting
        lines[transfer.request.priority.rawValue].append(transfer)
    }

    /// Takes the next one whose turn it is. Of the places, a quarter stays free for demand.
    mutating func next() -> Transfer? {
        for priority in lines.indices.reversed() {
            // Those that were cancelled meanwhile.
            while let first = lines[priority].first, first.phase != .waiting { lines[priority].popFirst() }
            guard let transfer = lines[priority].first else { continue }
            let kind = transfer.request.priority
            let active = activeBackground + activeOthers + activeDemand
            let hasRoom =
                switch kind {
                case .demand: active < limit
                case .landmark, .profile: active < limit - limit / 4
                case .background: active < limit - limit / 4 && activeBackground < HostQueue.backgroundLimit
                }
            guard hasRoom, kind == .demand || mayBring(transfer.expectedBytes) else { return nil }
            lines[priority].popFirst()
            count(transfer, 1)
            if kind == .demand { hedgeCredit = min(hedgeCredit + 1, 4 * HostQueue.hedgeShare) }
            return transfer
        }
        return nil
    }

    /// Notes that a transfer that `next` gave is done, and what its connection turned out to be.
    mutating func release(_ transfer: Transfer) {
        count(transfer, -1)
        if let multiplexed = transfer.multiplexed {
            isMultiplexed = multiplexed
            limit = multiplexed ? HostQueue.streams : HostQueue.connections
        }
        if transfer.mayBeHedged, let time = transfer.answerBegan { latency.note(time) }
    }

    /// After how many nanoseconds without an answer a demand counts as slower than nearly all before it; nil while there
    /// are too few to compare with.
    var hedgeDelay: UInt64? {
        latency.bound(allButOneIn: 20).map { max(2 * $0, HostQueue.leastHedgeDelay) }
    }
    private static let leastHedgeDelay: UInt64 = 20_000_000

    /// Takes a place for a second request beside one that is slow; false where there is none, or where there were too many.
    mutating func takeHedge(_ transfer: Transfer) -> Bool {
        guard hedgeCredit >= HostQueue.hedgeShare, activeBackground + activeOthers + activeDemand < limit else {
            return false
        }
        hedgeCredit -= HostQueue.hedgeShare
        count(transfer, 1)
        return true
    }

    /// Whether a transfer that nobody waits for may bring so many bytes; one always may.
    private func mayBring(_ bytes: UInt64) -> Bool {
        let most = activeDemand > 0 ? HostQueue.mostBesideDemand : HostQueue.mostAhead
        return bytesAhead == 0 || bytes <= most - min(most, bytesAhead)
    }

    /// Calls `body` for every transfer that waits.
    func forEachWaiting(_ body: (Transfer) -> Void) {
        for line in lines { line.forEach { if $0.phase == .waiting { body($0) } } }
    }

    private mutating func count(_ transfer: Transfer, _ change: Int) {
        switch transfer.request.priority {
        case .demand:
            activeDemand += change
            return
        case .landmark, .profile: activeOthers += change
        case .background: activeBackground += change
        }
        if change > 0 { bytesAhead += transfer.expectedBytes } else { bytesAhead -= transfer.expectedBytes }
    }
}
