internal import FoundationEssentials
internal import HTTPTransport

/// What the query of a signed URL says about how long it holds.
enum SignedURL {
    /// Parameters that hold the second at which the URL ends: CloudFront and older S3 and Google (`Expires`), nginx's
    /// secure_link (`expires`, `e`), OSS, tokens (`exp`).
    private static let ends = ["Expires", "e", "exp", "x-oss-expires", "expiry"]

    /// How many seconds a URL that was made at `signedAt` (seconds since 1970, by its maker's clock) holds from then on; nil
    /// where it does not say, 0 where it has ended.
    static func life(of url: HTTPURL, at signedAt: Int64) -> Double? {
        // S3 and Google sign with a date and a life from it on. A registry may hand out one that it made earlier.
        for vendor in ["X-Amz", "X-Goog"] {
            guard let life = url.queryValue("\(vendor)-Expires").flatMap({ Int64($0) }), life >= 0 else { continue }
            let date = url.queryValue("\(vendor)-Date").flatMap { compactDate($0) } ?? signedAt
            return Double(max(0, min(life, life.subtractingReportingOverflow(max(0, signedAt - date)).partialValue)))
        }
        // Azure's shared access signatures end at a date of ISO 8601.
        if let end = url.queryValue("se").flatMap({ isoDate($0.replacingEscapedColons) }) {
            return Double(max(0, end - signedAt))
        }
        for name in ends {
            if let end = url.queryValue(name).flatMap({ second($0) }) { return Double(max(0, end - signedAt)) }
        }
        // Akamai packs several fields into one value: `hdnts=exp=1700000000~acl=…`.
        for name in ["hdnts", "hdnea", "__token__"] {
            guard let fields = url.queryValue(name)?.split(separator: "~") else { continue }
            for field in fields where field.hasPrefix("exp=") {
                if let end = second(String(field.dropFirst(4))) { return Double(max(0, end - signedAt)) }
            }
        }
        return nil
    }

    /// A time since 1970 in seconds, or in milliseconds; nil for numbers that are neither nowadays.
    private static func second(_ text: String) -> Int64? {
        guard let number = Int64(text) else { return nil }
        switch number {
        case 1_000_000_000..<100_000_000_000: return number
        case 1_000_000_000_000..<100_000_000_000_000: return number / 1000
        default: return nil
        }
    }

    /// `20240131T120000Z`.
    private static func compactDate(_ text: String) -> Int64? {
        let bytes = Array(text)
        guard bytes.count == 16, bytes[8] == "T", bytes[15] == "Z" else { return nil }
        let day = "\(String(bytes[0..<4]))-\(String(bytes[4..<6]))-\(String(bytes[6..<8]))"
        let time = "\(String(bytes[9..<11])):\(String(bytes[11..<13])):\(String(bytes[13..<15]))"
        return isoDate("\(day)T\(time)Z")
    }

    private static func isoDate(_ text: String) -> Int64? {
        // A day alone means its beginning.
        let full = text.contains("T") ? text : text + "T00:00:00Z"
        guard let date = try? Date(full, strategy: .iso8601) else { return nil }
        return Int64(date.timeIntervalSince1970)
    }
}

extension String {
    /// The text with `%3A` as colons.
    fileprivate var replacingEscapedColons: String {
        split(separator: "%3A", omittingEmptySubsequences: false).joined(separator: ":")
            .split(separator: "%3a", omittingEmptySubsequences: false).joined(separator: ":")
    }
}
