internal import Glibc
internal import ImageFS
internal import PosixIO
internal import Synchronization

/// What a parked request asks for, with its own copy of the arguments.
enum ParkedOperation: Sendable {
    case lookup(NodeID, name: [UInt8])
    case attributes(NodeID)
    case readLink(NodeID)
    case open(NodeID)
    case read(FileReadJob)
    case list(NodeID, offset: UInt64, size: Int, plus: Bool)
    case xattr(NodeID, name: [UInt8], size: Int)
    case xattrNames(NodeID, size: Int)
}

/// A request that waits for a completion. It holds its arguments and the duty to answer, and no buffer.
///
/// LOCK ORDER: the lock is a leaf. Whoever answers takes the duty out first and answers without the lock.
final class ParkedRequest: Sendable {
    private struct Slot: ~Copyable {
        var reply: Reply?
        var operation: ParkedOperation
        /// Counts the times it was parked, so that what is known of an earlier time is not taken for a later one.
        var round = 0
        var completion: Completion?
        var token: UInt64 = 0
    }

    /// Names it where a pointer could be out of date.
    let id: UInt64
    /// The thread that asks, for its pending signals; 0 when it cannot be seen.
    let callerThread: pid_t
    /// When it came, by the monotonic clock.
    let since = monotonicNanoseconds()
    private let slot: Mutex<Slot>

    init(id: UInt64, callerThread: pid_t, operation: ParkedOperation) {
        self.id = id
        self.callerThread = callerThread
        slot = Mutex(Slot(reply: nil, operation: operation))
    }

    /// How many times it was parked.
    var round: Int { slot.withLock { $0.round } }

    /// Puts the duty down, and has `ready` called when `completion` is finished: at once if it is already.
    func park(
        _ reply: consuming Reply,
        _ operation: ParkedOperation,
        on completion: Completion,
        _ ready: @escaping @Sendable () -> Void
    ) {
        var duty: Reply? = consume reply
        let round = slot.withLock { slot in
            slot.reply = duty.take()
            slot.operation = operation
            slot.completion = nil
            slot.round += 1
            return slot.round
        }
        // From here on another thread may answer it.
        let token = completion.whenFinished(ready)
        let isCurrent = slot.withLock { slot in
            guard slot.round == round, slot.reply != nil else { return false }
            slot.completion = completion
            slot.token = token
            return true
        }
        if !isCurrent { completion.remove(token) }
    }

    /// Takes the duty to answer, and what to do for it; nil when somebody else has it. The callback is withdrawn: what
    /// others wait for as well goes on without this request.
    func take() -> TakenRequest? {
        var completion: Completion?
        var token: UInt64 = 0
        let taken: TakenRequest? = slot.withLock { slot in
            guard let reply = slot.reply.take() else { return nil }
            completion = slot.completion
            token = slot.token
            slot.completion = nil
            return TakenRequest(reply: reply, operation: slot.operation)
        }
        completion?.remove(token)
        return taken
    }
}

/// A duty to answer that was taken out of its parked request.
struct TakenRequest: ~Copyable, Sendable {
    var reply: Reply?
    let operation: ParkedOperation
}
