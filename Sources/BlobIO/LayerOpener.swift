internal import Glibc
internal import HTTPTransport
internal import LayerFormat
internal import Logging
internal import OCIModel
internal import PosixIO

/// Finds or builds a layer's index.
struct LayerOpener: Sendable {
    /// What is to be opened.
    private struct Subject: Sendable {
        var digest: Digest
        var size: UInt64
        var promised: Digest?
        /// How messages name it.
        var name: String
        var place: Place
        var local: LocalFile?
        var hint: (@Sendable () async -> PlainHint?)?
    }

    /// An index, and where it came from.
    private struct Opened: Sendable {
        var index: LayerIndex
        var restarts: RestartTable?
        /// Somebody else made it, and nothing proves it yet.
        var hint: PlainHint?
    }

    /// A TOC of 256 MiB that cannot be compressed, and its headers: more is not asked for (spec section 3).
    private static let mostTOC: UInt64 = 257 << 20
    /// Notes of a build that are logged.
    private static let mostNotes = 5

    private let options: BlobIOOptions
    private let workers: WorkerPool
    private let log: LimitedLog
    private let limits: FetchLimits
    private let plain: PlainOpener
    /// One index is built at a time, since a large one takes memory.
    private let builder = WorkerPool(named: "crfs-index", threads: 1)

    init(options: BlobIOOptions, workers: WorkerPool, log: LimitedLog, limits: FetchLimits, plain: PlainOpener) {
        self.plain = plain
        self.limits = limits
        self.options = options
        self.workers = workers
        self.log = log
    }

    /// Opens a registry's layer.
    ///
    /// - Parameter anew: the index that the cache has proved damaged.
    func open(
        _ descriptor: ContentDescriptor,
        promised: Digest?,
        at place: Place,
        hint: (@Sendable () async -> PlainHint?)? = nil,
        anew: Bool
    ) async -> Result<Layer, BlobError> {
        let name = "layer \(descriptor.digest)"
        if let reason = LayerOpener.reasonUnreadable(descriptor) {
            return .failure(BlobError(.unsupported, "\(name) \(reason)"))
        }
        return await open(
            Subject(
                digest: descriptor.digest,
                size: descriptor.size,
                promised: promised,
                name: name,
                place: place,
                hint: hint
            ),
            anew: anew
        )
    }

    /// Opens a local file's layer.
    func open(_ file: LocalFile, digest: Digest, at place: Place, anew: Bool) async -> Result<Layer, BlobError> {
        let name = "local layer \(file.path)"
        return await open(
            Subject(digest: digest, size: file.size, promised: nil, name: name, place: place, local: file),
            anew: anew
        )
    }

    /// Why a layer of this media type is not even asked for.
    private static func reasonUnreadable(_ descriptor: ContentDescriptor) -> String? {
        guard MediaType.layerCompression(descriptor.mediaType) == nil else { return nil }
        return "has media type \(descriptor.mediaType), which is no file system layer"
    }

    private func open(_ subject: Subject, anew: Bool) async -> Result<Layer, BlobError> {
        do throws(BlobError) {
            let opened = try await index(subject, anew: anew)
            let index = opened.index
            if !index.format.isPlain && options.verify == .require && subject.promised == nil {
                throw BlobError(
                    .unsupported,
                    "\(subject.name) has no promised TOC digest, which --verify=require asks for;"
                        + " mount it with --verify=auto, or convert it with `crfs convert`"
                )
            }
            if !index.format.isPlain && subject.promised == nil && options.verify == .auto {
                log(.notice, cause: "unverified \(subject.digest)") {
                    "\(subject.name) has no promised TOC digest: its content is checked by CRC-32 and by the digests of"
                        + " its own TOC only"
                }
            }
            let layer = Layer(
                index: index,
                restarts: opened.restarts,
                digest: subject.digest,
                name: subject.name,
                place: subject.place,
                local: subject.local,
                verifiesChunks: options.verify != .off || index.format.isPlain,
                limits: limits
            )
            if let hint = opened.hint { proveLater(layer, subject, hint) }
            return .success(layer)
        } catch {
            return .failure(error)
        }
    }

    private func index(_ subject: Subject, anew: Bool) async throws(BlobError) -> Opened {
        if !anew, let index = await cachedIndex(subject) {
            guard index.format.isPlain && index.format != .tar else { return Opened(index: index) }
            if let restarts = await workers.run({ [plain] in plain.restarts(index) }) {
                return Opened(index: index, restarts: restarts)
            }
        }
        do throws(BlobError) {
            return Opened(index: try await fetchedIndex(subject, fresh: false))
        } catch {
            if error.isPlainLayer { return try await plainIndex(subject) }
            guard error.kind == .corrupt && subject.local == nil else { throw error }
            // What came was wrong, perhaps on the way only: once more, without trusting the way.
            return Opened(index: try await fetchedIndex(subject, fresh: true))
        }
    }

    /// The index of a layer that has none of its own: one that somebody made, else by streaming the layer.
    private func plainIndex(_ subject: Subject) async throws(BlobError) -> Opened {
        if let hint = await subject.hint?() {
            let opened = await workers.run { () -> Opened? in
                guard let (index, restarts) = hint.open(subject.digest, size: subject.size) else { return nil }
                return Opened(index: index, restarts: restarts, hint: hint)
            }
            if let opened {
                log(.info, cause: "hint \(subject.digest)") { "\(subject.name) is read by the index \(hint.source)" }
                return opened
            }
            log(.notice, cause: "hint \(subject.digest)") {
                "\(subject.name): the index \(hint.source) is of another version of crfs, or damaged; the layer is streamed"
            }
        }
        let result = try await plain.stream(plainSubject(subject))
        let index = try await publish(result, subject)
        return Opened(index: index, restarts: result.restarts)
    }

    /// Keeps the index that a stream gave.
    private func publish(_ result: PlainResult, _ subject: Subject) async throws(BlobError) -> LayerIndex {
        logNotes(subject, Array(result.notes.prefix(LayerOpener.mostNotes)), result.notes.count)
        let path = path(subject)
        let index = await workers.run { [self] () -> Result<LayerIndex, BlobError> in
            do throws(LayerFormatError) {
                return .success(try keep(result.index, subject, path: path))
            } catch {
                return .failure(BlobError(error, name: subject.name))
            }
        }
        return try index.get()
    }

    // MARK: Proof

    /// How long to wait before a proof that the network prevented is tried again, in nanoseconds.
    private static let proofRetry: UInt64 = 60_000_000_000

    /// Streams the layer behind its readers, and compares the index that this gives with the one that is used: the same
    /// layer gives the same bytes. For as long as somebody uses the layer.
    private func proveLater(_ layer: Layer, _ subject: Subject, _ hint: PlainHint) {
        let delay = options.proofDelay
        Task { [weak layer] in
            var delay = delay
            while true {
                try? await Task.sleep(nanoseconds: delay)
                delay = LayerOpener.proofRetry
                guard layer != nil else { return }
                do throws(BlobError) {
                    let result = try await plain.stream(plainSubject(subject), isProof: true)
                    _ = try await publish(result, subject)
                    guard let layer else { return }
                    let isSame = layer.index.withBytes { isSameBytes($0, result.index.span) }
                    if isSame {
                        log(.info, cause: "proof \(subject.digest)") { "\(subject.name) is what the index says" }
                    } else {
                        refute(layer, subject, hint, "the layer has other content than the index says")
                    }
                    return
                } catch {
                    guard error.kind == .corrupt || error.kind == .unsupported else { continue }
                    if let layer { refute(layer, subject, hint, error.reason) }
                    return
                }
            }
        }
    }

    /// Drops what was believed of a layer: its index, the chunks that only that has, and its view.
    private func refute(_ layer: Layer, _ subject: Subject, _ hint: PlainHint, _ why: String) {
        let error = BlobError(
            .corrupt,
            "\(subject.name) was read by the index \(hint.source), which is wrong: \(why); reads fail until the layer is"
                + " opened again, and that source should not be trusted"
        )
        log(.error, cause: "refuted \(subject.digest)") { error.reason }
        layer.refute(error)
        plain.forget(layer)
    }

    private func plainSubject(_ subject: Subject) -> PlainSubject {
        PlainSubject(
            digest: subject.digest,
            size: subject.size,
            name: subject.name,
            place: subject.place,
            isLocal: subject.local != nil
        )
    }

    private func path(_ subject: Subject) -> String {
        "\(options.indexDirectory)/\(subject.digest.directoryName).idx"
    }

    /// The index that an earlier open left; nil when there is none, or not this layer's, or not a sound one.
    private func cachedIndex(_ subject: Subject) async -> LayerIndex? {
        let path = path(subject)
        return await workers.run {
            do throws(LayerFormatError) {
                let index = try LayerIndex(path: path, layer: subject.digest)
                guard index.blobSize == subject.size else { return nil }
                guard index.format.isPlain || subject.promised == nil || index.tocDigest == subject.promised else { return nil }
                return index
            } catch {
                return nil
            }
        }
    }

    /// Footer and TOC in one request, or in two where the TOC starts before what the guess covers.
    private func fetchedIndex(_ subject: Subject, fresh: Bool) async throws(BlobError) -> LayerIndex {
        let guess = min(subject.size, Footer.tailGuess(blobSize: subject.size))
        guard guess > 0 else { throw BlobError(LayerFormatError(.noIndex, "it is empty"), name: subject.name) }
        let tail = ByteRange(offset: subject.size - guess, count: guess)
        let tailBytes = try await fetch(subject, tail, fresh: fresh)
        let footer: Footer
        do throws(LayerFormatError) {
            footer = try Footer(tail: tailBytes.span, blobSize: subject.size)
        } catch {
            throw BlobError(error, name: subject.name)
        }
        guard footer.tocOffset < subject.size, subject.size - footer.tocOffset <= LayerOpener.mostTOC else {
            throw BlobError(
                plainLayer: "\(subject.name) has its TOC at \(footer.tocOffset) of \(subject.size) bytes, which is out of bounds or"
                    + " more than \(LayerOpener.mostTOC) bytes"
            )
        }
        var pieces = [tailBytes]
        var skip = 0
        if footer.tocOffset < tail.offset {
            let missing = ByteRange(offset: footer.tocOffset, count: tail.offset - footer.tocOffset)
            pieces = [try await fetch(subject, missing, fresh: fresh), tailBytes]
        } else {
            skip = Int(footer.tocOffset - tail.offset)
        }
        return try await build(subject, tocOffset: footer.tocOffset, pieces, skip: skip)
    }

    private func fetch(_ subject: Subject, _ range: ByteRange, fresh: Bool) async throws(BlobError) -> SharedBytes {
        let bytes = try await subject.place.read(range, .demand, fresh)
        guard UInt64(bytes.count) == range.count else {
            throw BlobError(.unavailable, "\(subject.name): \(bytes.count) bytes came where \(range) was asked for")
        }
        return bytes
    }

    /// Builds the index on the builder's thread, and keeps it in the index directory where that is possible.
    private func build(
        _ subject: Subject,
        tocOffset: UInt64,
        _ pieces: [SharedBytes],
        skip: Int
    ) async throws(BlobError) -> LayerIndex {
        let path = path(subject)
        let result = await builder.run { [self] () -> Result<LayerIndex, BlobError> in
            let source = TOCSource(
                layerDigest: subject.digest,
                blobSize: subject.size,
                tocOffset: tocOffset,
                promisedDigest: subject.promised
            )
            guard let blob = LayerOpener.join(pieces) else {
                return .failure(BlobError(.system(ENOMEM), "\(subject.name): no memory for its TOC"))
            }
            var notes: [String] = []
            var noteCount = 0
            do throws(LayerFormatError) {
                let toc = blob.span.extracting(skip...)
                let bytes = try LayerIndexBuilder.build(tocMember: toc, source: source) { note in
                    noteCount += 1
                    if notes.count < LayerOpener.mostNotes { notes.append(note) }
                }
                logNotes(subject, notes, noteCount)
                return .success(try keep(bytes.share(), subject, path: path))
            } catch {
                return .failure(BlobError(error, name: subject.name))
            }
        }
        return try result.get()
    }

    /// The pieces one behind the other; nil when memory is out.
    private static func join(_ pieces: [SharedBytes]) -> SharedBytes? {
        if pieces.count == 1 { return pieces[0] }
        guard var bytes = UniqueBytes(trying: pieces.reduce(0) { $0 + $1.count }) else { return nil }
        unsafe bytes.withUnsafeMutableBytes { buffer in
            var position = 0
            for piece in pieces {
                let source = unsafe UnsafeRawBufferPointer(start: piece.base, count: piece.count)
                unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[position...]).copyMemory(from: source)
                position += piece.count
            }
        }
        return bytes.share()
    }

    private func logNotes(_ subject: Subject, _ notes: [String], _ count: Int) {
        for (number, note) in notes.enumerated() {
            log(.notice, cause: "note \(number) \(subject.digest)") { "\(subject.name): \(note)" }
        }
        if count > notes.count {
            log(.notice, cause: "notes \(subject.digest)") {
                "\(subject.name): \(count - notes.count) more notes of this kind"
            }
        }
    }

    /// Writes the index and maps it; where the directory does not take it, the index stays in memory.
    private func keep(
        _ bytes: SharedBytes,
        _ subject: Subject,
        path: String
    ) throws(LayerFormatError) -> LayerIndex {
        do throws(SystemError) {
            try makeDirectories(options.indexDirectory)
            try replaceFile(path, with: bytes.span)
        } catch {
            log(.warning, cause: "index directory") {
                "the index of \(subject.name) stays in memory, since it cannot be kept in a file: \(error);"
                    + " make room in the cache directory, or name another one"
            }
            return try LayerIndex(bytes: bytes, layer: subject.digest)
        }
        do throws(LayerFormatError) {
            return try LayerIndex(path: path, layer: subject.digest)
        } catch {
            return try LayerIndex(bytes: bytes, layer: subject.digest)
        }
    }
}
