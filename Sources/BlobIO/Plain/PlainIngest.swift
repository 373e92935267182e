internal import BlockCodec
internal import Glibc
internal import LayerFormat
internal import OCIModel
internal import PosixIO

/// What streaming a plain layer gave.
struct PlainResult: Sendable {
    var index: SharedBytes
    var restarts: RestartTable?
    var notes: [String]
}

/// Streams a plain layer: its tar is parsed, its files' chunks go into the store as they come, and its index is made at
/// the end, if the digest held. Runs on a thread that may wait for the network.
struct PlainIngest {
    let subject: PlainSubject
    let queue: ByteQueue
    let keeper: ChunkKeeper
    let progress: StreamProgress
    /// Where restart points go; nil for memory.
    let restartPath: String?
    /// After how many bytes of the tar the state is saved.
    let saveSpacing: UInt64

    /// Reads the queue, which begins where the journal ends, to its end.
    func run(_ journal: StreamJournal?) throws(BlobError) -> PlainResult {
        defer { queue.close() }
        let stream = try open(journal)
        var builder = PlainIndexBuilder()
        let ledger = ChunkLedger()
        var fault: BlobError?
        do throws(BlobError) {
            try read(stream, &builder, ledger, journal)
        } catch {
            fault = error
        }
        let digests = ledger.settled()
        if let failure = stream.failure { throw failure }
        if fault != nil { stream.drain() }
        if let failure = stream.failure { throw failure }
        let hashes = stream.digests()
        try check(stream, hashes.blob)
        // All of the blob came as it is: what is wrong with it will be so each time.
        if let fault { throw fault }
        for (number, digest) in digests { builder.setDigest(digest, ofChunk: number) }
        return try finish(stream, &builder, diffID: hashes.tar)
    }

    private func open(_ journal: StreamJournal?) throws(BlobError) -> PlainStream {
        let writer = RestartWriter(path: restartPath)
        guard let journal, let saved = journal.saved else { return PlainStream(queue, writer) }
        guard let stream = PlainStream(queue, writer, journal, saved) else { throw contradiction }
        return stream
    }

    /// What a journal says that cannot be; the stream begins anew then.
    private var contradiction: BlobError {
        BlobError(.corrupt, "what was saved of the stream of \(subject.name) is damaged")
    }

    private func check(_ stream: PlainStream, _ digest: Digest) throws(BlobError) {
        guard stream.blobBytes == subject.size else {
            throw BlobError(
                .corrupt,
                "\(subject.name): \(stream.blobBytes) bytes came where \(subject.size) were announced"
            )
        }
        guard subject.isLocal || digest == subject.digest else {
            throw BlobError(
                .corrupt,
                "\(subject.name) came from \(subject.places.first.name) with other content: its digest is \(digest)"
            )
        }
    }

    // MARK: Entries

    private func read(
        _ stream: PlainStream,
        _ builder: inout PlainIndexBuilder,
        _ ledger: ChunkLedger,
        _ journal: StreamJournal?
    ) throws(BlobError) {
        var reader = TarReader(PlainSource(stream, journal))
        var saver = StreamSaver(journal, spacing: saveSpacing)
        if saver.isActive { reader.keepStructure(from: saver.start) }
        do throws(BlobError) {
            try readEntries(&reader, stream, &builder, ledger, &saver)
        } catch {
            saver.finish(stream, ledger)
            throw error
        }
    }

    private func readEntries(
        _ reader: inout TarReader<PlainSource>,
        _ stream: PlainStream,
        _ builder: inout PlainIndexBuilder,
        _ ledger: ChunkLedger,
        _ saver: inout StreamSaver
    ) throws(BlobError) {
        while let entry = try tar({ () throws(TarError) in try reader.next() }) {
            progress.addEntry()
            try format { () throws(LayerFormatError) in try builder.add(entry) }
            saver.save(&reader, stream, ledger, blobSize: subject.size)
            if entry.kind == .regular { try readContent(&reader, stream, &builder, ledger, &saver) }
        }
        _ = try tar { () throws(TarError) in try reader.drain() }
    }

    /// Cuts a file's content into chunks. Holes of sparse files are none; what they leave is cut at the same places of the
    /// file as that of any other.
    private func readContent(
        _ reader: inout TarReader<PlainSource>,
        _ stream: PlainStream,
        _ builder: inout PlainIndexBuilder,
        _ ledger: ChunkLedger,
        _ saver: inout StreamSaver
    ) throws(BlobError) {
        let size = UInt64(PlainIndexBuilder.chunkBytes)
        var position: UInt64 = 0
        while let run = reader.run() {
            guard !run.isHole else {
                try format { () throws(LayerFormatError) in try builder.addHole(run.count) }
                reader.skipHole()
                position += run.count
                continue
            }
            let count = Int(min(run.count, size - position % size))
            let start = reader.offset
            let number = try format { () throws(LayerFormatError) in try builder.addChunk(at: start, count: count) }
            switch saver.knowledge(of: start..<start + UInt64(count)) {
            case .nothing:
                try keepChunk(&reader, count, number, ledger)
                saver.save(&reader, stream, ledger, blobSize: subject.size)
            case .digest(let digest):
                ledger.add(number, digest)
                reader.leaveOut(UInt64(count))
            case .contradiction: throw contradiction
            }
            position += UInt64(count)
        }
    }

    private func keepChunk(
        _ reader: inout TarReader<PlainSource>,
        _ count: Int,
        _ number: Int,
        _ ledger: ChunkLedger
    ) throws(BlobError) {
        keeper.reserve(count)
        do throws(BlobError) {
            keeper.keep(try readChunk(&reader, count), number: number, of: ledger)
        } catch {
            keeper.giveBack(count)
            throw error
        }
    }

    private func readChunk(_ reader: inout TarReader<PlainSource>, _ count: Int) throws(BlobError) -> SharedBytes {
        guard var bytes = UniqueBytes(trying: count) else {
            throw BlobError(.system(ENOMEM), "\(subject.name): no memory for a chunk of \(count) bytes")
        }
        try unsafe bytes.withUnsafeMutableBytes { (buffer) throws(BlobError) in
            var filled = 0
            while filled < count {
                filled += try tar { () throws(TarError) in
                    try unsafe reader.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]))
                }
            }
        }
        return bytes.share()
    }

    private func tar<R>(_ body: () throws(TarError) -> R) throws(BlobError) -> R {
        do throws(TarError) {
            return try body()
        } catch {
            throw BlobError(.unsupported, "\(subject.name) is no layer that can be read: \(error)")
        }
    }

    private func format<R>(_ body: () throws(LayerFormatError) -> R) throws(BlobError) -> R {
        do throws(LayerFormatError) {
            return try body()
        } catch {
            throw BlobError(.unsupported, "\(subject.name) is no layer that can be read: \(error.reason)")
        }
    }

    // MARK: The end

    private func finish(
        _ stream: PlainStream,
        _ builder: inout PlainIndexBuilder,
        diffID: Digest
    ) throws(BlobError) -> PlainResult {
        let layout = stream.indexFormat
        let facts = PlainLayerFacts(
            layerDigest: subject.digest,
            diffID: diffID,
            blobSize: subject.size,
            format: layout
        )
        var notes: [String] = []
        do throws(LayerFormatError) {
            var restarts: RestartTable?
            var spans: [RestartSpan] = []
            if layout != .tar, let writer = stream.takeWriter() {
                spans = stream.spans
                builder.measure(&spans) { stream.mark($0) }
                restarts = try writer.finish(spans, layer: subject.digest, blobSize: subject.size, format: layout)
            }
            let index = try builder.finish(facts, spans: spans) { notes.append($0) }
            return PlainResult(index: index.share(), restarts: restarts, notes: notes)
        } catch {
            throw BlobError(error, name: subject.name)
        }
    }
}
