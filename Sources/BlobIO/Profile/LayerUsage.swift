internal import LayerFormat
internal import OCIModel

/// What of a layer was used: which chunks were read, which files were opened, and which chunks came by a prefetch and
/// were not read since. A read of a chunk that was read before costs one load here.
final class LayerUsage: Sendable {
    /// By chunk number. Bits are taken off when a recording begins (see `Recorder`).
    let read: AtomicBits
    /// By inode record.
    let opened: AtomicBits
    /// The same of files whose reads the kernel does not show.
    let hidden: AtomicBits
    /// By kind of prefetch, then by chunk number.
    private let ahead: [AtomicBits]

    init(_ index: LayerIndex) {
        read = AtomicBits(count: index.chunkCount)
        opened = AtomicBits(count: index.recordCount)
        hidden = AtomicBits(count: index.recordCount)
        ahead = PrefetchKind.allCases.map { _ in AtomicBits(count: index.chunkCount) }
    }

    /// Notes that a chunk comes by a prefetch.
    func markAhead(_ chunk: UInt32, _ kind: PrefetchKind) { _ = ahead[kind.rawValue].insert(chunk) }

    /// Takes a chunk's mark off; by what it came, for one caller only.
    func takeAhead(_ chunk: UInt32) -> PrefetchKind? {
        PrefetchKind.allCases.first { ahead[$0.rawValue].contains(chunk) && ahead[$0.rawValue].remove(chunk) }
    }
}

extension Layer {
    /// Notes that a file was opened, so that a profile keeps its chunks even where the kernel has all of them.
    ///
    /// - Parameter record: of the file's inode, below `index.recordCount`.
    public func noteOpen(_ record: UInt32) {
        if !usage.opened.contains(record) { _ = usage.opened.insert(record) }
    }

    /// The same for a file that is read from a materialised one: its reads do not come by. A profile that has nothing of
    /// it takes all of it.
    public func noteHiddenReads(_ record: UInt32) {
        noteOpen(record)
        if !usage.hidden.contains(record) { _ = usage.hidden.insert(record) }
    }
}

extension BlobIO {
    /// A read has come to a chunk whose bit in `usage.read` was not set.
    func noteFirstRead(_ layer: Layer, record: UInt32, _ number: UInt32) {
        guard layer.usage.read.insert(number) else { return }
        layer.noteOpen(record)
        layer.noteCompanion(record)
        if let kind = layer.usage.takeAhead(number) {
            let member = layer.index.chunk(number).member
            let map = IndexMembers(index: layer.index)
            map.forEachChunk(of: member, from: map.position(atOrAfter: member.offset)) {
                _ = layer.usage.takeAhead($0)
            }
            prefetcher.noteRead(kind, member.count)
        }
        recorder.append(layer, number)
    }
}
