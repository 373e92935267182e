internal import HTTPTransport
internal import PosixIO

/// Bytes of a blob on their way from the transport, which must not wait, to a thread that decodes them. When it holds
/// too much, the transport reads no further.
///
/// LOCK ORDER: the queue's lock, then the gate's.
final class ByteQueue: Sendable {
    private struct State {
        var pieces = Line<SharedBytes>()
        var byteCount = 0
        /// Nothing follows.
        var isEnded = false
        var failure: BlobError?
        /// Nobody reads on.
        var isClosed = false
    }

    /// Above it the gate is closed, and opened again below a quarter of it.
    private static let mostBytes = 2 << 20

    /// For whoever brings the bytes.
    let gate = FlowGate()
    private let state = Monitor(State())

    /// Adds a copy of bytes; false when nobody wants them, or memory is out.
    func append(_ bytes: borrowing RawSpan) -> Bool {
        guard bytes.byteCount > 0 else { return true }
        guard var block = UniqueBytes(trying: bytes.byteCount) else { return false }
        unsafe block.withUnsafeMutableBytes { target in
            unsafe bytes.withUnsafeBytes { source in unsafe target.copyMemory(from: source) }
        }
        let piece = block.share()
        return state.withLock { state in
            guard !state.isClosed else { return false }
            state.pieces.append(piece)
            state.byteCount += piece.count
            if state.byteCount >= ByteQueue.mostBytes { gate.close() }
            return true
        }
    }

    /// No further bytes come; with a failure, since they cannot be had.
    func end(_ failure: BlobError? = nil) {
        state.withLock { state in
            state.isEnded = true
            if state.failure == nil { state.failure = failure }
        }
    }

    /// Waits for the next bytes; nil at the end.
    func next() throws(BlobError) -> SharedBytes? {
        enum Step {
            case piece(SharedBytes, opens: Bool)
            case end
            case failed(BlobError)
        }
        let step = state.wait { state -> Step? in
            if let piece = state.pieces.popFirst() {
                state.byteCount -= piece.count
                return .piece(piece, opens: state.byteCount <= ByteQueue.mostBytes / 4)
            }
            if let failure = state.failure { return .failed(failure) }
            return state.isEnded ? .end : nil
        }
        switch step {
        case .piece(let piece, let opens):
            if opens { gate.open() }
            return piece
        case .end: return nil
        case .failed(let error): throw error
        }
    }

    /// Nobody reads on: whoever brings bytes is told at the next ones.
    func close() {
        state.withLock { state in
            state.isClosed = true
            state.pieces = Line()
            state.byteCount = 0
        }
        gate.open()
    }
}
