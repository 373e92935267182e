internal import OCIModel
internal import PosixIO
internal import Synchronization

/// Cuts the bytes of a request into what its flights fetch as they come, and hands over each as soon as it is complete.
/// Bytes that no flight fetches are dropped; those that several do (plain layers) go to each.
///
/// LOCK ORDER: the lock is a leaf; members are handed over without it. Bytes come from one thread at a time.
final class SpanAssembler: Sendable {
    /// A flight whose bytes are coming.
    private final class Filling: @unchecked Sendable {
        // SAFETY: used with the assembler's lock held only.
        let flight: Flight
        var bytes: UniqueBytes?
        var filled = 0

        init?(_ flight: Flight) {
            guard let bytes = UniqueBytes(trying: Int(flight.range.count)) else { return nil }
            self.flight = flight
            self.bytes = consume bytes
        }

        /// Takes what a piece at `position` of the blob has for it; true when it is complete.
        func take(_ piece: borrowing RawSpan, at position: UInt64) -> Bool {
            let skip = Int(flight.range.offset + UInt64(filled) - position)
            let start = filled
            let count = min(piece.byteCount - skip, Int(flight.range.count) - start)
            // SAFETY: the block has as many bytes as the flight fetches, of which `count` from `start` on are written.
            unsafe bytes?.withUnsafeMutableBytes { target in
                unsafe piece.extracting(skip..<skip + count).withUnsafeBytes { source in
                    unsafe UnsafeMutableRawBufferPointer(rebasing: target[start..<start + count])
                        .copyMemory(from: source)
                }
            }
            filled += count
            return filled == Int(flight.range.count)
        }
    }

    private struct State {
        /// How many bytes of the request have come.
        var taken: UInt64 = 0
        /// The flights of which nothing has come, the next one last.
        var ahead: [Flight]
        var filling: [Filling] = []
    }

    /// What is asked for.
    let range: ByteRange
    private let arrive: @Sendable (Flight, SharedBytes) -> Void
    /// A flight that was handed over is not held: what it inflated to goes when it is packed, not when the request ends.
    private let state: Mutex<State>

    /// - Parameters:
    ///   - flights: inside of `range`, sorted by offset.
    ///   - arrive: gets each flight's bytes, on the thread that brings them; must not wait.
    init(_ range: ByteRange, _ flights: [Flight], arrive: @escaping @Sendable (Flight, SharedBytes) -> Void) {
        self.range = range
        state = Mutex(State(ahead: flights.reversed()))
        self.arrive = arrive
    }

    /// What has not come yet; empty when all has.
    var rest: ByteRange {
        let taken = state.withLock { $0.taken }
        return ByteRange(offset: range.offset + taken, count: range.count - taken)
    }

    /// The flights that have not got their bytes.
    var unfinished: [Flight] { state.withLock { $0.filling.map(\.flight) + $0.ahead.reversed() } }

    /// Takes the next bytes; false when they are more than were asked for, or memory is out.
    func take(_ bytes: borrowing RawSpan) -> Bool {
        let piece = bytes.extracting(0..<bytes.byteCount)
        guard let complete = state.withLock({ take(piece, &$0) }) else { return false }
        for filling in complete {
            if let bytes = filling.bytes.take() { arrive(filling.flight, bytes.share()) }
        }
        return true
    }

    /// The flights that a piece completes; nil when it cannot be taken.
    private func take(_ bytes: borrowing RawSpan, _ state: inout State) -> [Filling]? {
        let count = UInt64(bytes.byteCount)
        guard count <= range.count - state.taken else { return nil }
        let position = range.offset + state.taken
        while let flight = state.ahead.last, flight.range.offset < position + count {
            guard let filling = Filling(flight) else { return nil }
            state.filling.append(filling)
            state.ahead.removeLast()
        }
        state.taken += count
        var complete: [Filling] = []
        var left: [Filling] = []
        for filling in state.filling {
            if filling.take(bytes, at: position) { complete.append(filling) } else { left.append(filling) }
        }
        state.filling = left
        return complete
    }
}
