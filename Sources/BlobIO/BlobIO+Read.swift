internal import ChunkStore
internal import LayerFormat
internal import OCIModel
internal import PosixIO
internal import Synchronization

extension BlobIO {
    /// The most chunks that one read may wait for: at 1 MiB, chunks of 32 bytes each.
    private static let mostMissing = 32768

    /// Serves a read of a regular file's inode record, or says what it waits for. Never waits itself.
    ///
    /// - Parameters:
    ///   - record: below `layer.index.recordCount`; what is no regular file reads as empty.
    ///   - offset: from the start of the file, in bytes; past the end reads as empty.
    ///   - count: bytes that are wanted. Up to 1 MiB is the usual; scratch memory of the buffer grows with it.
    public func read(
        _ layer: Layer,
        record: UInt32,
        offset: UInt64,
        count: Int,
        into buffer: inout ReadBuffer
    ) -> ReadOutcome {
        serve(
            ReadRequest(layer: layer, record: record, offset: offset, count: count),
            held: [],
            round: 0,
            into: &buffer
        )
    }

    /// Serves a read from flights that it holds, then from the store; parks it for what is still missing.
    ///
    /// - Parameters:
    ///   - held: flights that were started or joined for this read, sorted by offset.
    ///   - round: how often the read has looked for missing chunks before.
    func serve(
        _ request: ReadRequest,
        held: [Flight],
        round: Int,
        into buffer: inout ReadBuffer
    ) -> ReadOutcome {
        var held = held
        var round = round
        while true {
            var missing: [UInt32] = []
            do throws(BlobError) {
                try fill(request, held, &missing, &buffer)
            } catch {
                buffer.reset()
                counters.readsFailed.add(1, ordering: .relaxed)
                return .failed(error)
            }
            if missing.isEmpty {
                countReady(round)
                return .ready
            }
            if round == 0, readFile(request, into: &buffer) {
                countReady(round)
                return .ready
            }
            let started = start(request, missing, trustingStore: round == 0)
            held = held.isEmpty ? started : (held + started).sorted { $0.range.offset < $1.range.offset }
            round += 1
            // They can be there already: landed, and still being packed for the store.
            if !held.allSatisfy({ $0.completion.isFinished }) { break }
        }
        buffer.reset()
        counters.readsParked.add(1, ordering: .relaxed)
        return .parked(ReadJob(self, request, held, round: round))
    }

    /// Serves a read of which the store does not have all from a materialised file, where there is one. Where the store
    /// has all it is the faster of the two (docs/decisions/0011-opens-and-passthrough.md).
    private func readFile(_ request: ReadRequest, into buffer: inout ReadBuffer) -> Bool {
        let size = request.layer.index.attributes(request.record).size
        guard request.offset < size,
            let file = materialised(request.layer, record: request.record, isUse: false)
        else { return false }
        buffer.reset()
        let count = Int(min(UInt64(max(request.count, 0)), size - request.offset))
        return buffer.append(file, offset: request.offset, count: count)
    }

    private func countReady(_ round: Int) {
        if round == 0 {
            counters.readsFromStore.add(1, ordering: .relaxed)
        } else {
            counters.readsFromFlights.add(1, ordering: .relaxed)
        }
    }

    /// Goes through the file's chunks that the read touches; once one is missing, only looks for further ones.
    private func fill(
        _ request: ReadRequest,
        _ held: [Flight],
        _ missing: inout [UInt32],
        _ buffer: inout ReadBuffer
    ) throws(BlobError) {
        buffer.reset()
        let layer = request.layer
        let index = layer.index
        if let local = layer.local, !local.isUnchanged { throw local.staleError }
        if layer.isRefuted, let error = layer.refutation.withLock({ $0 }) { throw error }
        let chunks = index.chunks(request.record)
        let size = index.attributes(request.record).size
        guard !chunks.isEmpty, request.count > 0, request.offset < size else {
            // A damaged index has empty files for what it does not know.
            if index.isDamaged { throw contradiction(request) }
            return
        }
        let count = Int(min(UInt64(request.count), size - request.offset))
        buffer.prepare(count)
        var position = request.offset
        let end = request.offset + UInt64(count)
        var number = index.chunkIndex(request.record, at: position)
        while position < end {
            guard chunks.contains(number) else { throw contradiction(request) }
            let chunk = index.chunk(number)
            guard chunk.fileOffset <= position, position - chunk.fileOffset < UInt64(chunk.length) else {
                throw contradiction(request)
            }
            guard chunk.isZeros || chunk.member.count > 0 else { throw contradiction(request) }
            if !layer.usage.read.contains(number) { noteFirstRead(layer, record: request.record, number) }
            let within = Int(position - chunk.fileOffset)
            let take = min(Int(end - position), Int(chunk.length) - within)
            if try append(layer, chunk, within, take, held, missing.isEmpty, &buffer) {
                if layer.ahead.contains(number) { touch(layer, number, isThere: true) }
            } else {
                guard missing.count < BlobIO.mostMissing else { throw tooMany(request) }
                missing.append(number)
            }
            position += UInt64(take)
            number += 1
        }
    }

    /// Appends a piece of a chunk, or only looks whether it is there.
    ///
    /// - Returns: false when it is neither held nor in the store.
    private func append(
        _ layer: Layer,
        _ chunk: Chunk,
        _ within: Int,
        _ count: Int,
        _ held: [Flight],
        _ isWanted: Bool,
        _ buffer: inout ReadBuffer
    ) throws(BlobError) -> Bool {
        if chunk.isZeros {
            if isWanted { buffer.appendZeros(count) }
            return true
        }
        if let flight = BlobIO.flight(in: held, at: chunk.member.offset) {
            switch flight.state {
            case .failed(let error): throw error
            case .landed(let member):
                guard let payload = member.payload(of: chunk) else { throw corrupt(layer, chunk) }
                if isWanted {
                    let start = payload.lowerBound + within
                    buffer.append(member.bytes, start..<start + count)
                }
                return true
            case .flying: return false
            }
        }
        let key = layer.key(chunk)
        guard isWanted else { return store.contains(key) }
        guard let record = store.find(key) else { return false }
        if buffer.append(record, from: within, count: count) { return true }
        store.remove(key)
        return false
    }

    /// The flight of a member among those that a job holds (sorted by offset).
    private static func flight(in held: [Flight], at offset: UInt64) -> Flight? {
        var low = 0
        var high = held.count
        while low < high {
            let middle = (low + high) / 2
            if held[middle].range.offset < offset { low = middle + 1 } else { high = middle }
        }
        return low < held.count && held[low].range.offset == offset ? held[low] : nil
    }

    private func contradiction(_ request: ReadRequest) -> BlobError {
        BlobError(
            .corrupt,
            "the index of \(request.layer.name) is damaged where it is about"
                + " \(request.layer.index.path(request.record)); it is built anew when the layer is opened again"
        )
    }

    private func tooMany(_ request: ReadRequest) -> BlobError {
        BlobError(
            .unsupported,
            "\(request.layer.name): \(request.layer.index.path(request.record)) has more than \(BlobIO.mostMissing)"
                + " chunks in one read of \(request.count) bytes"
        )
    }

    /// What a reader of a damaged chunk is told.
    func corrupt(_ layer: Layer, _ chunk: Chunk) -> BlobError {
        BlobError(
            .corrupt,
            "\(layer.name): the chunk of \(layer.index.path(chunk.record)) at \(chunk.fileOffset) is damaged:"
                + " the member at \(chunk.member.offset) does not hold"
                + " \(chunk.digest.map { "what has digest \($0)" } ?? "\(chunk.length) bytes for it")"
        )
    }
}
