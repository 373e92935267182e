internal import PosixIO

/// Sends HTTP requests: any number at once, all driven by one thread with one libcurl multi handle, so that requests to
/// one server share its connections (HTTP/1.1) or streams (HTTP/2), in the order of their priorities.
///
/// The limits: 16 connections to a server, 100 streams of HTTP/2, 256 connections in all, 4 background transfers to a
/// server, and a quarter of a server's places only for what a reader waits for. The thread ends with the transport.
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
