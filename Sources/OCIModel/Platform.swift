/// What an image manifest of an index is for (OCI image specification, "image-index").
public struct Platform: Hashable, Sendable, CustomStringConvertible {
    /// `linux`, …
    public var os: String
    /// `amd64`, `arm64`, …
    public var architecture: String
    /// `v7`, `v8`, …; nil where there is none.
    public var variant: String?

    /// Makes a platform from its parts.
    public init(os: String, architecture: String, variant: String? = nil) {
        self.os = os
        self.architecture = architecture
        self.variant = variant
    }

    /// Parses `os/arch[/variant]`; nil for anything else.
    public init?(_ text: String) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2 || parts.count == 3, parts.allSatisfy({ !$0.isEmpty }) else { return nil }
        self.init(
            os: String(parts[0]),
            architecture: String(parts[1]),
            variant: parts.count == 3 ? String(parts[2]) : nil
        )
    }

    /// The platform that this program was built for.
    public static var host: Platform {
        #if arch(arm64)
        Platform(os: "linux", architecture: "arm64", variant: "v8")
        #else
        Platform(os: "linux", architecture: "amd64")
        #endif
    }

    /// How well `offered` serves a host of this platform: nil not at all, else the higher the better. An absent
    /// variant means v8 on arm64 and v7 on arm, as container runtimes take it.
    public func match(_ offered: Platform) -> Int? {
        guard os == offered.os, architecture == offered.architecture else { return nil }
        let wanted = normalizedVariant
        let given = offered.normalizedVariant
        if wanted == given { return 1000 }
        // An older variant of the same architecture runs too: v6 on a v7 host.
        guard let wanted = wanted.flatMap(Platform.level), let given = given.map(Platform.level) ?? 0 else {
            return nil
        }
        return given <= wanted ? given : nil
    }

    private var normalizedVariant: String? {
        if let variant { return variant }
        switch architecture {
        case "arm64": return "v8"
        case "arm": return "v7"
        default: return nil
        }
    }

    private static func level(_ variant: String) -> Int? {
        variant.hasPrefix("v") ? Int(variant.dropFirst()) : nil
    }

    /// `os/arch[/variant]`.
    public var description: String {
        variant.map { "\(os)/\(architecture)/\($0)" } ?? "\(os)/\(architecture)"
    }
}
