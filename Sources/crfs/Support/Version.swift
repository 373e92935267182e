/// What this build calls itself.
enum Version {
    /// The version.
    static let text = "0.1.0"
    /// The User-Agent of requests.
    static let userAgent = "crfs/" + text
}
