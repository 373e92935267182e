/// The value of a Content-Range header of 206 (RFC 9110, 14.4): `bytes first-last/complete`.
struct ContentRange: Equatable {
    /// The first byte's position.
    var first: UInt64
    /// The last byte's position.
    var last: UInt64
    /// The size of the whole; nil for `*`.
    var complete: UInt64?

    /// Parses the value; nil for anything else, also for a range that ends before it begins.
    init?(_ text: String) {
        let parts = text.split(separator: " ")
        guard parts.count == 2, parts[0].lowercased() == "bytes" else { return nil }
        let halves = parts[1].split(separator: "/", omittingEmptySubsequences: false)
        guard halves.count == 2 else { return nil }
        let ends = halves[0].split(separator: "-", omittingEmptySubsequences: false)
        guard ends.count == 2, let first = UInt64(ends[0]), let last = UInt64(ends[1]), first <= last else {
            return nil
        }
        self.first = first
        self.last = last
        if halves[1] == "*" {
            complete = nil
        } else {
            guard let total = UInt64(halves[1]), last < total else { return nil }
            complete = total
        }
    }
}
