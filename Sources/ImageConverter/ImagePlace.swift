public import OCIModel

/// Where an image is, or goes.
public enum ImagePlace: Sendable, Hashable, CustomStringConvertible {
    /// In a registry.
    case registry(ImageReference)
    /// In an OCI image layout on disk: `oci:DIRECTORY[:TAG]`, as the containers tools write it.
    case layout(directory: String, tag: String?)

    /// Parses `oci:DIRECTORY[:TAG]`, or an image reference. Nil for anything that is neither.
    public init?(_ text: String) {
        if text.hasPrefix("oci:"), !text.hasPrefix("oci://") {
            var directory = text.dropFirst(4)
            var tag: String?
            if let colon = directory.lastIndex(of: ":"), Repository.isTag(directory[directory.index(after: colon)...]) {
                tag = String(directory[directory.index(after: colon)...])
                directory = directory[..<colon]
            }
            guard !directory.isEmpty else { return nil }
            self = .layout(directory: String(directory), tag: tag)
            return
        }
        guard let reference = ImageReference(text) else { return nil }
        self = .registry(reference)
    }

    /// The reference in full, or `oci:DIRECTORY[:TAG]`.
    public var description: String {
        switch self {
        case .registry(let reference): reference.description
        case .layout(let directory, let tag): "oci:" + directory + (tag.map { ":" + $0 } ?? "")
        }
    }
}
