/// The transfers of one server: those that libcurl has, by number, and those that wait for their turn. The order is
/// ours: libcurl never gets more than the server's connections or streams can carry at once.
struct HostQueue {
    private struct Line {
        private var items: [Transfer] = []
        private var head = 0

        mutating func append(_ transfer: Transfer) { items.append(transfer) }

        /// The first that still waits. Those that were cancelled meanwhile are dropped.
        mutating func first() -> Transfer? {
            while head < items.count, items[head].phase != .waiting { head += 1 }
            if head == items.count {
                items.removeAll(keepingCapacity: items.count <= 64)
                head = 0
                return nil
            }
            if head >= 64, head * 2 >= items.count {
                items.removeFirst(head)
                head = 0
            }
            return items[head]
        }

        mutating func removeFirst() { head += 1 }

        func forEach(_ body: (Transfer) -> Void) {
            for transfer in items[head...] where transfer.phase == .waiting { body(transfer) }
        }
    }

    /// Requests at once over HTTP/1.1, and as long as the server's version is not known: one for each connection.
    static let connections = 16
    /// Requests at once over HTTP/2: what servers allow on a connection.
    static let streams = 100
    /// Background transfers at once.
    static let backgroundLimit = 4

    private var lines = [Line](repeating: Line(), count: TransferPriority.demand.rawValue + 1)
    private var activeBackground = 0
    private var activeOthers = 0
    private var activeDemand = 0
    private var limit = HostQueue.connections

    mutating func append(_ transfer: Transfer) {
        transfer.phase = .waiting
        lines[transfer.request.priority.rawValue].append(transfer)
    }

    /// Takes the next one whose turn it is. Of the places, a quarter stays free for demand.
    mutating func next() -> Transfer? {
        for priority in lines.indices.reversed() {
            guard let transfer = lines[priority].first() else { continue }
            let kind = transfer.request.priority
            let active = activeBackground + activeOthers + activeDemand
            let hasRoom =
                switch kind {
                case .demand: active < limit
                case .landmark, .profile: active < limit - limit / 4
                case .background: active < limit - limit / 4 && activeBackground < HostQueue.backgroundLimit
                }
            guard hasRoom else { return nil }
            lines[priority].removeFirst()
            count(kind, 1)
            return transfer
        }
        return nil
    }

    /// Notes that a transfer that `next` gave is done, and what its connection turned out to be.
    mutating func release(_ transfer: Transfer) {
        count(transfer.request.priority, -1)
        if let multiplexed = transfer.multiplexed {
            limit = multiplexed ? HostQueue.streams : HostQueue.connections
        }
    }

    /// Calls `body` for every transfer that waits.
    func forEachWaiting(_ body: (Transfer) -> Void) {
        for line in lines { line.forEach(body) }
    }

    private mutating func count(_ priority: TransferPriority, _ change: Int) {
        switch priority {
        case .demand: activeDemand += change
        case .landmark, .profile: activeOthers += change
        case .background: activeBackground += change
        }
    }
}
