/// What a mount fetches ahead of its readers, and what it takes down of them.
public struct PrefetchPolicy: Sendable {
    /// The job key that profiles are kept under; empty without one.
    public var job = ""
    /// Fetch the rest of an image in the background, once a file of it was read.
    public var background = true
    /// The most compressed bytes that the background may fetch in all.
    public var backgroundLimit: UInt64

    /// The defaults.
    ///
    /// - Parameter cacheBytes: the bound of the chunk store. A quarter of it is for the background; a compressed byte takes
    ///   up to 1.6 there.
    public init(cacheBytes: UInt64) {
        backgroundLimit = cacheBytes / 4 / 8 * 5
    }
}
