internal import Glibc
internal import LayerFormat
internal import OCIModel
public import PosixIO

/// An index of a plain layer that somebody else made, with its restart points. The image's digest does not cover it: it is
/// believed only for as long as nothing contradicts it, and every chunk is checked against the digest that it says.
public struct PlainHint: Sendable {
    /// The index file (docs/layer-index.md).
    public var index: SharedBytes
    /// The file of restart points (docs/restart-points.md); nil for a bare tar.
    public var restarts: SharedBytes?
    /// How messages name it.
    public var source: String

    /// Gathers the parts.
    public init(index: SharedBytes, restarts: SharedBytes?, source: String) {
        self.index = index
        self.restarts = restarts
        self.source = source
    }

    /// Opens both files for a layer; nil when they cannot be used for it.
    func open(_ layer: Digest, size: UInt64) -> (LayerIndex, RestartTable?)? {
        do throws(LayerFormatError) {
            let index = try LayerIndex(bytes: self.index, layer: layer)
            try index.verifyAllBlocks()
            guard index.format.isPlain, index.blobSize == size else { return nil }
            guard index.format != .tar else { return (index, nil) }
            guard let restarts else { return nil }
            let table = try RestartTable(bytes: restarts, layer: layer)
            return table.format == index.format ? (index, table) : nil
        } catch {
            return nil
        }
    }
}

/// Whether two runs of bytes are the same.
func isSameBytes(_ a: borrowing RawSpan, _ b: borrowing RawSpan) -> Bool {
    unsafe a.withUnsafeBytes { a in
        unsafe b.withUnsafeBytes { b in
            guard a.count == b.count else { return false }
            guard let left = a.baseAddress, let right = b.baseAddress else { return true }
            // SAFETY: both hold `a.count` bytes.
            return unsafe memcmp(left, right, a.count) == 0
        }
    }
}
