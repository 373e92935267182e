internal import PosixIO
internal import Synchronization

/// Figures of a transport since its start.
public struct TransportStatistics: Sendable, Equatable {
    /// Requests that were sent a second time, because they were slower than nearly all before them.
    public var hedges: UInt64 = 0
    /// Of these, those whose second answer came first.
    public var hedgesWon: UInt64 = 0

    /// All zero.
    public init() {}
}

/// Counts for `TransportStatistics`.
final class TransportCounters: Sendable {
    let hedges = Atomic<UInt64>(0)
    let hedgesWon = Atomic<UInt64>(0)
}

/// Sends HTTP requests: any number at once, all driven by one thread with one libcurl multi handle, so that requests to
/// one server share its connections (HTTP/1.1) or streams (HTTP/2), in the order of their priorities.
///
/// The limits: 16 connections to a server, 100 streams of HTTP/2, 256 connections in all, 4 background transfers to a
/// server, a quarter of a server's places only for what a reader waits for, and 24 MiB on their way that nobody waits for
/// (8 MiB beside a reader). A range that a reader waits for and whose answer is later than nearly all before it is asked for
/// on another connection too; the first answer counts. The thread ends with the transport.
public final class HTTPTransport: Sendable {
    private let loop: TransferLoop

    /// Starts the transport's thread.
    public init() {
        let loop = TransferLoop()
        self.loop = loop
        startThread(named: "crfs-http") { loop.run() }
    }

    deinit {
        loop.stop()
    }

    /// Figures since the start.
    public var statistics: TransportStatistics {
        var result = TransportStatistics()
        result.hedges = loop.counters.hedges.load(ordering: .relaxed)
        result.hedgesWon = loop.counters.hedgesWon.load(ordering: .relaxed)
        return result
    }

    /// Sends a request and waits for its whole answer, whatever its status. Cancelling the task ends the transfer.
    public func send(_ request: HTTPRequest) async throws(TransportError) -> HTTPResponse {
        let transfer = Transfer(request)
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                transfer.continuation = continuation
                loop.submit(transfer)
            }
        } onCancel: {
            loop.cancel(transfer)
        }
        switch transfer.takeOutcome() {
        case .response(let response): return response
        case .failure(let error): throw error
        }
    }
}
