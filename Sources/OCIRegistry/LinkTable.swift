internal import HTTPTransport
internal import OCIModel
internal import Synchronization

/// What a server's answers say about the way to it.
public struct LinkEstimate: Sendable, Equatable {
    /// From a request to the first byte of its answer, in nanoseconds, smoothed.
    public var roundTrip: UInt64
    /// Bytes of a body that come in a second; of one transfer, so less than the link has while others run.
    public var bytesPerSecond: UInt64

    /// What is assumed of a server that nothing is known of: together 256 KiB on the way.
    public static let unknown = LinkEstimate(roundTrip: 10_000_000, bytesPerSecond: 100 << 18)

    /// Makes an estimate from its parts.
    public init(roundTrip: UInt64, bytesPerSecond: UInt64) {
        self.roundTrip = roundTrip
        self.bytesPerSecond = bytesPerSecond
    }

    /// Shorter bodies say nothing about bandwidth.
    static let leastBody: UInt64 = 128 << 10

    /// Takes in one answer. Round trips are averaged. Of rates the high ones count more: a transfer that shares its link
    /// with others looks slower than the link is.
    ///
    /// - Parameters:
    ///   - answerTime: from the request to the answer's first byte, in nanoseconds.
    ///   - bytes: how long the body was.
    ///   - transferTime: from its first byte to its last, in nanoseconds.
    mutating func note(answerTime: UInt64, bytes: UInt64, transferTime: UInt64) {
        let answerTime = min(answerTime, 10_000_000_000)
        roundTrip = roundTrip - roundTrip / 4 + answerTime / 4
        guard bytes >= LinkEstimate.leastBody, bytes < 1 << 33 else { return }
        let rate = bytes * 1_000_000_000 / max(transferTime, 1000)
        let weight: UInt64 = rate > bytesPerSecond ? 2 : 8
        bytesPerSecond = bytesPerSecond - bytesPerSecond / weight + rate / weight
    }
}

/// What is known of the servers that blobs come from. A registry's blobs can come from another server: what counts is
/// the one that answered last.
///
/// LOCK ORDER: the lock is a leaf.
final class LinkTable: Sendable {
    private struct State {
        /// By the server's name and port.
        var links: [String: LinkEstimate] = [:]
        var servers: [RegistryHost: String] = [:]
    }

    private static let limit = 1024
    private let state = Mutex(State())

    func estimate(_ registry: RegistryHost) -> LinkEstimate {
        state.withLock { state in
            state.servers[registry].flatMap { state.links[$0] } ?? .unknown
        }
    }

    /// What is known, by the server's name and port.
    var all: [String: LinkEstimate] { state.withLock { $0.links } }

    /// Notes an answer of `registry`, or of the server that it redirected to.
    func note(_ registry: RegistryHost, _ response: borrowing HTTPResponse, bytes: UInt64) {
        let server = response.url.authority
        let (answerTime, transferTime) = (response.answerTime, response.transferTime)
        state.withLock { state in
            if state.links.count >= LinkTable.limit, state.links[server] == nil {
                state.links = [:]
                state.servers = [:]
            }
            var link =
                state.links[server]
                ?? LinkEstimate(roundTrip: answerTime, bytesPerSecond: LinkEstimate.unknown.bytesPerSecond)
            link.note(answerTime: answerTime, bytes: bytes, transferTime: transferTime)
            state.links[server] = link
            state.servers[registry] = server
        }
    }
}
