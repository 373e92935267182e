/// Names in a layer's root that belong to the format, not to the layer.
enum ReservedName {
    static let toc = "stargz.index.json"
    static let prefetchLandmark = ".prefetch.landmark"
    static let noPrefetchLandmark = ".no.prefetch.landmark"

    /// What a landmark holds.
    static let landmarkContent: [UInt8] = [0x0f]

    static func contains(_ cleaned: [UInt8]) -> Bool {
        [toc, prefetchLandmark, noPrefetchLandmark].contains { cleaned.elementsEqual($0.utf8) }
    }
}

/// A path without `.` and empty components, so that all spellings of it are equal; the root is empty. Nil when it has a
/// `..` component, which no reader of a TOC accepts.
func cleanedPath(_ path: [UInt8]) -> [UInt8]? {
    var result: [UInt8] = []
    result.reserveCapacity(path.count)
    for component in path.split(separator: UInt8(ascii: "/")) where !component.elementsEqual(".".utf8) {
        if component.elementsEqual("..".utf8) { return nil }
        if !result.isEmpty { result.append(UInt8(ascii: "/")) }
        result += component
    }
    return result
}
