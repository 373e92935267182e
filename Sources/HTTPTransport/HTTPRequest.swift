public import OCIModel

/// Which transfer goes first when not all can.
public enum TransferPriority: Int, Sendable, Comparable {
    /// Nobody waits for it.
    case background
    /// What a layer's author marked as needed early.
    case landmark
    /// What a recorded profile says is needed early.
    case profile
    /// A reader waits for it.
    case demand

    /// The later a case, the sooner it goes.
    public static func < (a: TransferPriority, b: TransferPriority) -> Bool { a.rawValue < b.rawValue }
}

/// What makes TLS with one server different from the rule.
public struct TLSSettings: Sendable, Hashable {
    /// Certificate authorities in PEM that are trusted beside the system's; empty for none.
    public var authorities: [UInt8] = []
    /// A PEM file of the certificate that we show, and perhaps its key.
    public var clientCertificate: String?
    /// A PEM file of the certificate's key; nil where `clientCertificate` holds it.
    public var clientKey: String?
    /// Whether the server's certificate is taken without looking at it.
    public var skipsVerification = false

    /// The rule: the system's authorities, no certificate of ours.
    public init() {}
}

/// One request. Redirects are not followed: the answer says where to, and the caller decides what goes along.
public struct HTTPRequest: Sendable {
    /// What is asked.
    public enum Method: Sendable, Equatable {
        /// Headers and body.
        case get
        /// Headers alone.
        case head
        /// POST of a form: `name=value&…`, percent-encoded. Is never sent a second time by the transport.
        case form(String)
    }

    /// GET, HEAD or POST.
    public var method = Method.get
    /// Where to.
    public var url: HTTPURL
    /// Further header fields. Names and values with control bytes make the request fail.
    public var headers: [(name: String, value: String)] = []
    /// The bytes of the content that are wanted; nil for all. Goes out as one explicit range.
    public var range: ByteRange?
    /// Which transfer goes first.
    public var priority = TransferPriority.demand
    /// The most bytes that a body may have, where no range is asked for.
    public var bodyLimit = 1 << 20
    /// How long a connection may take to be made, TLS included, in seconds.
    public var connectTimeout = 10.0
    /// How long the transfer may go on without a byte of an answer, in seconds.
    public var stallTimeout = 30.0
    /// How long the request may wait for its turn, in seconds; nil for as long as it takes.
    public var queueTimeout: Double?
    /// How long all of it may take once it began, in seconds; nil for as long as bytes come.
    public var totalTimeout: Double?
    /// A PEM file of certificate authorities that are trusted beside the system's.
    public var caFile: String?
    /// How this server is trusted and who we are to it; `caFile` counts only where this names no authorities.
    public var tls = TLSSettings()
    /// Whether a proxy of the environment is passed by. Those for this machine always are.
    public var passesProxy = false
    /// Takes a new connection: for when the last one on this host fell silent.
    public var freshConnection = false
    /// Takes the bytes of `range` as they come; nil for an answer that holds them. Without a range it is not used.
    public var sink: BodySink?

    /// A GET of a URL.
    public init(_ url: HTTPURL) {
        self.url = url
    }
}
