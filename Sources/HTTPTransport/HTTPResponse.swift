public import PosixIO

/// A version of HTTP that an answer came by.
public enum HTTPVersion: Sendable {
    /// HTTP/1.0.
    case http10
    /// HTTP/1.1.
    case http11
    /// HTTP/2.
    case http2
    /// One that crfs does not ask for.
    case other
}

/// An answer of any status.
public struct HTTPResponse: ~Copyable, Sendable {
    /// The status code, of the final answer: 200 to 999.
    public let status: Int
    /// The header fields of the final answer.
    public let headers: HTTPHeaders
    /// The body; empty where the request's sink took it. For a range that was answered with 200: the bytes that were asked for. Of statuses from 300 on: an
    /// excerpt of at most 16 KiB, for messages; nothing for 416, whose announced length is often wrong.
    public var body: UniqueBytes
    /// Whether a range was asked for and the server answered with the whole content (200).
    public let rangeIgnored: Bool
    /// Bytes that the request's sink took.
    public let delivered: UInt64
    /// The URL that answered: the request's own.
    public let url: HTTPURL
    /// By which version.
    public let version: HTTPVersion
    /// From the start of the transfer (not from its wait for a turn) to the first byte of the answer, in nanoseconds.
    public let timeToFirstByte: UInt64
    /// From the request's last byte to the answer's first, in nanoseconds: without what a new connection took.
    public let answerTime: UInt64
    /// From the answer's first byte to its last, in nanoseconds.
    public let transferTime: UInt64
    /// How many connections had to be made for it; 0 when one was there.
    public let newConnections: Int

    /// Takes the body out; the answer is consumed.
    public consuming func takeBody() -> UniqueBytes { body }
}

/// A request without an answer.
public struct TransportError: Error, Sendable, CustomStringConvertible {
    /// What went wrong, as far as retries care.
    public enum Kind: Sendable, Equatable {
        /// No address for the host's name.
        case cannotResolve
        /// Nobody took the connection.
        case cannotConnect
        /// TLS could not be spoken: often the server does not speak it.
        case tlsHandshake
        /// The server's certificate is not trusted, or the file of authorities is unusable.
        case certificate
        /// Nothing came for too long.
        case timedOut
        /// The body ended before its announced length.
        case shortBody
        /// The connection broke, or the server withdrew it (HTTP/2 GOAWAY, stream reset).
        case connectionLost
        /// What came is no HTTP, or the request cannot be expressed in it.
        case protocolError
        /// The body is longer than the request allows.
        case tooLarge
        /// No memory for the body.
        case outOfMemory
        /// The caller's task was cancelled, or the transport ended.
        case cancelled
    }

    /// What went wrong.
    public let kind: Kind
    /// Why, in libcurl's words where it has any; without query strings.
    public let message: String
    /// How many bytes of the content had come.
    public let bytesReceived: UInt64
    /// When the last byte of an answer came (CLOCK_MONOTONIC, nanoseconds); 0 when none did.
    public let lastByteAt: UInt64

    /// Makes an error from its parts.
    public init(_ kind: Kind, _ message: String, bytesReceived: UInt64 = 0, lastByteAt: UInt64 = 0) {
        self.kind = kind
        self.message = message
        self.bytesReceived = bytesReceived
        self.lastByteAt = lastByteAt
    }

    /// The message.
    public var description: String { message }
}
