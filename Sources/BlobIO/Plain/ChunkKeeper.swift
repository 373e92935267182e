internal import BlockCodec
internal import ChunkStore
internal import OCIModel
internal import PosixIO

/// Hashes chunks of plain layers and puts them into the store, on threads of its own, and bounds what waits for that.
final class ChunkKeeper: Sendable {
    /// Payload bytes that may be under way in the process: four layers that fill a chunk each, and as much to be kept.
    private static let mostBytes = 16 << 20

    private let store: ChunkStore
    private let threads = WorkerPool(named: "crfs-keep", threads: 2)
    private let used = Monitor(0)

    init(store: ChunkStore) { self.store = store }

    /// Waits until there is room for a chunk of so many bytes.
    func reserve(_ count: Int) {
        used.wait { used -> Void? in
            guard used == 0 || used + count <= ChunkKeeper.mostBytes else { return nil }
            used += count
            return ()
        }
    }

    /// Gives back room that `reserve` gave.
    func giveBack(_ count: Int) { used.withLock { $0 -= count } }

    /// Keeps a chunk for which there is room, and notes its digest.
    func keep(_ chunk: SharedBytes, number: Int, of ledger: ChunkLedger) {
        let entry = ledger.begin(number)
        threads.submit { [self] in
            let digest = SHA256.digest(of: chunk.span)
            store.insert(ChunkKey(content: digest, length: UInt32(chunk.count)), chunk.span)
            giveBack(chunk.count)
            ledger.end(entry, digest)
        }
    }
}

/// The digests of one layer's chunks as they become known, in the order of the chunks.
///
/// LOCK ORDER: the lock is a leaf.
final class ChunkLedger: Sendable {
    private struct State {
        var numbers: [Int] = []
        var digests: [Digest?] = []
        /// So many from the first on are known.
        var known = 0
    }

    private let state = Monitor(State())

    /// Adds a chunk of this number; gives the entry that its digest belongs to.
    func begin(_ number: Int) -> Int {
        state.withLock { state in
            state.numbers.append(number)
            state.digests.append(nil)
            return state.digests.count - 1
        }
    }

    func end(_ entry: Int, _ digest: Digest) {
        state.withLock { state in
            state.digests[entry] = digest
            while state.known < state.digests.count, state.digests[state.known] != nil { state.known += 1 }
        }
    }

    /// Adds a chunk whose digest is known.
    func add(_ number: Int, _ digest: Digest) { end(begin(number), digest) }

    /// How many chunks were added.
    var count: Int { state.withLock { $0.digests.count } }

    /// The digests of some entries; nil when one is not known yet.
    func digests(_ entries: Range<Int>) -> [Digest]? {
        state.withLock { state in
            entries.upperBound <= state.known ? state.digests[entries].compactMap { $0 } : nil
        }
    }

    /// Waits until all that began has ended.
    func settled() -> [(number: Int, digest: Digest)] {
        state.wait { state in
            guard state.known == state.digests.count else { return nil }
            return zip(state.numbers, state.digests).compactMap { number, digest in digest.map { (number, $0) } }
        }
    }
}
