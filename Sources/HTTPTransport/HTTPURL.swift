internal import CShims

/// An `http` or `https` URL in its parts (RFC 3986), parsed and resolved by libcurl, so that what is checked here is what
/// is connected to. Fragments are dropped; user names and passwords are refused.
public struct HTTPURL: Hashable, Sendable, CustomStringConvertible {
    /// `http` or `https`.
    public let scheme: String
    /// The host in lower case; an IPv6 address in brackets.
    public let host: String
    /// The port, also where the text has none.
    public let port: UInt16
    /// Path and query, as a request line has them; begins with `/`.
    public let target: String

    /// Parses an absolute URL; nil for anything else.
    public init?(_ text: String) {
        self.init(text, relativeTo: nil)
    }

    /// What `reference`, an absolute or relative one, means on a page with this URL; nil for what is no HTTP URL.
    public func resolving(_ reference: String) -> HTTPURL? {
        HTTPURL(reference, relativeTo: string)
    }

    /// The same place with another path and query; nil when `target` does not begin with `/` or holds control bytes.
    public func replacingTarget(_ target: String) -> HTTPURL? {
        guard target.hasPrefix("/") else { return nil }
        return HTTPURL(origin + target)
    }

    private init?(_ text: String, relativeTo base: String?) {
        guard !text.isEmpty, text.utf8.count <= 16384 else { return nil }
        guard text.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7f }) else { return nil }
        guard let handle = unsafe curl_url() else { return nil }
        defer { unsafe curl_url_cleanup(handle) }
        let flags = UInt32(CURLU_DISALLOW_USER | CURLU_URLENCODE)
        if let base, unsafe curl_url_set(handle, CURLUPART_URL, base, flags) != CURLUE_OK { return nil }
        guard unsafe curl_url_set(handle, CURLUPART_URL, text, flags) == CURLUE_OK else { return nil }
        guard let scheme = unsafe HTTPURL.part(handle, CURLUPART_SCHEME), scheme == "http" || scheme == "https",
            let host = unsafe HTTPURL.part(handle, CURLUPART_HOST), !host.isEmpty,
            let port = unsafe HTTPURL.part(handle, CURLUPART_PORT, UInt32(CURLU_DEFAULT_PORT)).flatMap({ UInt16($0) })
        else { return nil }
        let path = unsafe HTTPURL.part(handle, CURLUPART_PATH) ?? "/"
        let query = unsafe HTTPURL.part(handle, CURLUPART_QUERY)
        self.scheme = scheme
        self.host = host.lowercased()
        self.port = port
        self.target = (path.hasPrefix("/") ? path : "/" + path) + (query.map { "?" + $0 } ?? "")
    }

    private static func part(_ handle: OpaquePointer, _ part: CURLUPart, _ flags: UInt32 = 0) -> String? {
        var text: UnsafeMutablePointer<CChar>?
        // SAFETY: libcurl gives a terminated string, which is ours to free, or leaves the pointer nil.
        guard unsafe curl_url_get(handle, part, &text, flags) == CURLUE_OK, let text = unsafe text else { return nil }
        defer { unsafe curl_free(text) }
        return unsafe String(cString: text)
    }

    /// Host and port, the port only where it is not the scheme's own: what a Host header says.
    public var authority: String {
        port == (scheme == "https" ? 443 : 80) ? host : "\(host):\(port)"
    }

    /// `scheme://authority`: what decides whether two URLs are of one server.
    public var origin: String { "\(scheme)://\(authority)" }

    /// The URL in full. It can hold a signature: not for logs.
    public var string: String { origin + target }

    /// The URL without its query, which is where signed URLs keep their signature.
    public var description: String {
        origin + (target.firstIndex(of: "?").map { String(target[..<$0]) } ?? target)
    }

    /// The value of a query parameter, percent-encoding left as it is; names compare without regard to case.
    public func queryValue(_ name: String) -> String? {
        guard let mark = target.firstIndex(of: "?") else { return nil }
        let wanted = name.lowercased()
        for pair in target[target.index(after: mark)...].split(separator: "&") {
            guard let equals = pair.firstIndex(of: "="), pair[..<equals].lowercased() == wanted else { continue }
            return String(pair[pair.index(after: equals)...])
        }
        return nil
    }

    /// Whether the host is this machine: `localhost`, `*.localhost`, 127.0.0.0/8 or `::1`.
    public var isLoopback: Bool {
        if host == "localhost" || host.hasSuffix(".localhost") || host == "[::1]" { return true }
        let parts = host.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts[0] == "127" && parts.allSatisfy { UInt8($0) != nil }
    }
}
