import OCIModel
import Testing

@testable import HTTPTransport

/// Whose turn it is.
@Suite struct HostQueueTests {
    private func transfer(_ priority: TransferPriority) throws -> Transfer {
        var request = HTTPRequest(try #require(HTTPURL("https://h.example/")))
        request.priority = priority
        return Transfer(request)
    }

    private func fill(_ queue: inout HostQueue, _ priority: TransferPriority, _ count: Int) throws {
        for _ in 0..<count { queue.append(try transfer(priority)) }
    }

    private func drain(_ queue: inout HostQueue) -> [Transfer] {
        var taken: [Transfer] = []
        while let transfer = queue.next() {
            transfer.phase = .active
            taken.append(transfer)
        }
        return taken
    }

    /// Regression: up to 63 transfers that had ended were held while others waited, and with each what its sink held.
    @Test func aTransferThatHadItsTurnIsNotHeld() throws {
        var queue = HostQueue()
        weak var first: Transfer?
        do {
            let transfer = try transfer(.demand)
            first = transfer
            queue.append(transfer)
        }
        try fill(&queue, .demand, 1)
        #expect(first != nil)
        do { #expect(queue.next() === first) }
        #expect(first == nil)
    }

    @Test func demandGoesFirstAndFillsAllPlaces() throws {
        var queue = HostQueue()
        try fill(&queue, .background, 5)
        try fill(&queue, .profile, 5)
        try fill(&queue, .demand, 20)
        let taken = drain(&queue)
        #expect(taken.map(\.request.priority) == Array(repeating: .demand, count: 16))
    }

    @Test func aQuarterOfThePlacesIsForDemand() throws {
        var queue = HostQueue()
        try fill(&queue, .landmark, 20)
        #expect(drain(&queue).count == 12)
        try fill(&queue, .demand, 20)
        #expect(drain(&queue).count == 4)
    }

    @Test func theBackgroundGetsFewPlaces() throws {
        var queue = HostQueue()
        try fill(&queue, .background, 20)
        let taken = drain(&queue)
        #expect(taken.count == 4)
        queue.release(taken[0])
        #expect(drain(&queue).count == 1)
        try fill(&queue, .profile, 1)
        #expect(drain(&queue).map(\.request.priority) == [.profile])
    }

    @Test func orderIsKeptWithinAPriorityAndTheFinishedAreSkipped() throws {
        var queue = HostQueue()
        let transfers = try (0..<500).map { _ in try transfer(.demand) }
        for transfer in transfers { queue.append(transfer) }
        for index in stride(from: 0, to: 500, by: 3) { transfers[index].phase = .finished }
        var taken: [ObjectIdentifier] = []
        while true {
            let some = drain(&queue)
            if some.isEmpty { break }
            taken += some.map { ObjectIdentifier($0) }
            for transfer in some { queue.release(transfer) }
        }
        let expected = transfers.indices.filter { $0 % 3 != 0 }.map { ObjectIdentifier(transfers[$0]) }
        #expect(taken == expected)
    }

    /// However much is prefetched, a demand goes at once and shares the link with little.
    @Test func bytesThatNobodyWaitsForAreBounded() throws {
        func large(_ priority: TransferPriority) throws -> Transfer {
            var request = HTTPRequest(try #require(HTTPURL("https://h.example/")))
            request.priority = priority
            request.range = ByteRange(offset: 0, count: 5 << 20)
            return Transfer(request)
        }
        var queue = HostQueue()
        for _ in 0..<10 { queue.append(try large(.profile)) }
        for _ in 0..<10 { queue.append(try large(.background)) }
        var taken = drain(&queue)
        #expect(taken.map(\.request.priority) == Array(repeating: .profile, count: 4))
        queue.append(try large(.demand))
        let demand = drain(&queue)
        #expect(demand.map(\.request.priority) == [.demand])
        // As long as somebody waits, one more begins only when nearly nothing else is on its way.
        for _ in 0..<3 {
            queue.release(taken.removeLast())
            #expect(drain(&queue).isEmpty)
        }
        queue.release(taken.removeLast())
        taken = drain(&queue)
        #expect(taken.count == 1)
        queue.release(demand[0])
        #expect(drain(&queue).count == 3)
    }

    @Test func aTransferThatIsLargerThanAllBoundsStillGoes() throws {
        var request = HTTPRequest(try #require(HTTPURL("https://h.example/")))
        request.priority = .background
        request.range = ByteRange(offset: 0, count: 1 << 40)
        var queue = HostQueue()
        queue.append(Transfer(request))
        queue.append(Transfer(request))
        #expect(drain(&queue).count == 1)
    }
}
