internal import OCIModel
internal import PosixIO
internal import Synchronization

/// Cuts the bytes of a request into its members as they come, and hands over each as soon as it is complete. Bytes
/// between members are dropped.
///
/// LOCK ORDER: the lock is a leaf; members are handed over without it. Bytes come from one thread at a time.
final class SpanAssembler: Sendable {
    private struct State: ~Copyable {
        /// How many bytes of the request have come.
        var taken: UInt64 = 0
        /// The first flight that is not complete.
        var current = 0
        /// What has come of it.
        var bytes: UniqueBytes?
        var filled = 0
    }

    private enum Step {
        case more
        case complete(Flight, SharedBytes)
        case noMemory
    }

    /// What is asked for.
    let range: ByteRange
    /// Sorted by offset.
    private let flights: [Flight]
    private let arrive: @Sendable (Flight, SharedBytes) -> Void
    private let state = Mutex(State())

    /// - Parameters:
    ///   - flights: inside of `range`, sorted by offset, apart from each other.
    ///   - arrive: gets each flight's bytes, on the thread that brings them; must not wait.
    init(_ range: ByteRange, _ flights: [Flight], arrive: @escaping @Sendable (Flight, SharedBytes) -> Void) {
        self.range = range
        self.flights = flights
        self.arrive = arrive
    }

    /// What has not come yet; empty when all has.
    var rest: ByteRange {
        let taken = state.withLock { $0.taken }
        return ByteRange(offset: range.offset + taken, count: range.count - taken)
    }

    /// The flights that have not got their bytes.
    var unfinished: ArraySlice<Flight> { flights[state.withLock { $0.current }...] }

    /// Takes the next bytes; false when they are more than were asked for, or memory is out.
    func take(_ bytes: borrowing RawSpan) -> Bool {
        var position = 0
        while position < bytes.byteCount {
            let left = bytes.extracting(position...)
            var used = 0
            let step = state.withLock { state in self.step(&state, left, &used) }
            position += used
            switch step {
            case .more: if used == 0 { return false }
            case .complete(let flight, let bytes): arrive(flight, bytes)
            case .noMemory: return false
            }
        }
        return true
    }

    /// Takes bytes up to the end of a hole or a member.
    private func step(_ state: inout State, _ bytes: borrowing RawSpan, _ used: inout Int) -> Step {
        let position = range.offset + state.taken
        guard state.current < flights.count else {
            // What follows the last member, if anything.
            used = Int(min(UInt64(bytes.byteCount), range.end - position))
            state.taken += UInt64(used)
            return .more
        }
        let flight = flights[state.current]
        if position < flight.range.offset {
            used = Int(min(UInt64(bytes.byteCount), flight.range.offset - position))
            state.taken += UInt64(used)
            return .more
        }
        let size = Int(flight.range.count)
        if state.bytes == nil {
            guard let block = UniqueBytes(trying: size) else { return .noMemory }
            state.bytes = consume block
            state.filled = 0
        }
        let start = state.filled
        let count = min(bytes.byteCount, size - start)
        // SAFETY: the block has `size` bytes, of which `count` from `start` on are written.
        unsafe state.bytes?.withUnsafeMutableBytes { target in
            unsafe bytes.extracting(..<count).withUnsafeBytes { source in
                unsafe UnsafeMutableRawBufferPointer(rebasing: target[start..<start + count]).copyMemory(from: source)
            }
        }
        used = count
        state.filled += count
        state.taken += UInt64(count)
        guard state.filled == size, let block = state.bytes.take() else { return .more }
        state.current += 1
        return .complete(flight, block.share())
    }
}
