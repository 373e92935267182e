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
        ledger.begin()
        threads.submit { [self] in
            let digest = SHA256.digest(of: chunk.span)
            store.insert(ChunkKey(content: digest, length: UInt32(chunk.count)), chunk.span)
            giveBack(chunk.count)
            ledger.end(number, digest)
        }
    }
}

/// The digests of one layer's chunks as they become known.
///
/// LOCK ORDER: the lock is a leaf.
final class ChunkLedger: Sendable {
    private struct State {
        var pending = 0
        var digests: [(number: Int, digest: Digest)] = []
    }

    private let state = Monitor(State())

    func begin() { state.withLock { $0.pending += 1 } }

    func end(_ number: Int, _ digest: Digest) {
        state.withLock { state in
            state.pending -= 1
            state.digests.append((number, digest))
        }
    }

    /// Waits until all that began has ended.
    func settled() -> [(number: Int, digest: Digest)] {
        state.wait { state in state.pending == 0 ? state.digests : nil }
    }
}
