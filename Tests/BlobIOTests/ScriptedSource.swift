import HTTPTransport
import OCIModel
import PosixIO
import Synchronization

@testable import BlobIO

/// A place to read a layer from that counts what it is asked for, and fails as it is told.
final class ScriptedSource: Sendable {
    enum Fault: Sendable {
        case fails(BlobError.Kind)
        /// Flips a bit of this byte of the blob, where the range has it.
        case flips(Int)
        /// Fewer bytes than were asked for.
        case short
    }

    private struct State {
        var ranges: [ByteRange] = []
        var freshRequests = 0
        /// For the requests to come, one each.
        var faults: [Fault] = []
        /// For all requests, once `faults` is used up.
        var standing: Fault?
        var gate: Completion?
    }

    private let blob: [UInt8]
    private let name: String
    private let state = Mutex(State())

    init(_ blob: [UInt8], name: String = "test/source") {
        self.blob = blob
        self.name = name
    }

    var ranges: [ByteRange] { state.withLock { $0.ranges } }
    var requestCount: Int { ranges.count }
    var freshRequests: Int { state.withLock { $0.freshRequests } }

    func forgetRequests() { state.withLock { $0.ranges = [] } }
    func script(_ faults: Fault...) { script(faults) }
    func script(_ faults: [Fault]) { state.withLock { $0.faults = faults } }
    func failAlways(_ fault: Fault?) { state.withLock { $0.standing = fault } }

    /// Requests that come from now on wait for `release`.
    func hold() { state.withLock { $0.gate = Completion() } }

    func release() {
        let gate = state.withLock { state in
            let gate = state.gate
            state.gate = nil
            return gate
        }
        gate?.finish()
    }

    var place: Place {
        Place(name: name) { (range, _, fresh) throws(BlobError) in
            let (fault, gate) = self.note(range, fresh)
            if let gate { await wait(for: gate) }
            return try self.serve(range, fault)
        }
    }

    private func note(_ range: ByteRange, _ fresh: Bool) -> (Fault?, Completion?) {
        state.withLock { state in
            state.ranges.append(range)
            if fresh { state.freshRequests += 1 }
            let fault = state.faults.isEmpty ? state.standing : state.faults.removeFirst()
            return (fault, state.gate)
        }
    }

    private func serve(_ range: ByteRange, _ fault: Fault?) throws(BlobError) -> SharedBytes {
        guard range.count > 0, range.end <= UInt64(blob.count) else {
            throw BlobError(.unavailable, "range \(range) of \(blob.count) bytes")
        }
        var bytes = Array(blob[Int(range.offset)..<Int(range.end)])
        switch fault {
        case .fails(let kind): throw BlobError(kind, "scripted failure")
        case .flips(let position):
            let index = position - Int(range.offset)
            if bytes.indices.contains(index) { bytes[index] ^= 1 }
        case .short: bytes.removeLast()
        case nil: break
        }
        return SharedBytes(bytes)
    }
}

/// Waits for a completion without a thread.
func wait(for completion: Completion) async {
    await withCheckedContinuation { continuation in
        completion.whenFinished { continuation.resume() }
    }
}
