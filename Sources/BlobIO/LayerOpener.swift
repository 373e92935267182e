internal import Glibc
internal import LayerFormat
internal import Logging
internal import OCIModel
internal import PosixIO

/// Finds or builds a layer's index.
struct LayerOpener: Sendable {
    /// Notes of a build that are logged.
    static let mostNotes = 5

    let options: BlobIOOptions
    let workers: WorkerPool
    let log: LimitedLog
    private let limits: FetchLimits
    let plain: PlainOpener
    /// One large index is built at a time, since it takes memory; small ones need not wait for it.
    private let builder = WorkerPool(named: "crfs-index", threads: 1)
    /// Up to this many compressed bytes a TOC counts as small.
    private static let smallTOC = 1 << 20

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
        promise: TOCPromise,
        at places: PlaceList,
        hint: (@Sendable () async -> PlainHint?)? = nil,
        streams: Bool = true,
        anew: Bool
    ) async -> Result<Layer, BlobError> {
        let name = "layer \(descriptor.digest)"
        if let reason = LayerOpener.reasonUnreadable(descriptor) {
            return .failure(BlobError(.unsupported, "\(name) \(reason)"))
        }
        let subject = LayerSubject(
            digest: descriptor.digest,
            size: descriptor.size,
            promise: promise,
            frame: descriptor.tocFramePosition.flatMap { TOCFrame(annotation: $0) },
            name: name,
            places: places,
            streams: streams,
            hint: hint
        )
        return await open(subject, anew: anew)
    }

    /// Opens a local file's layer.
    func open(_ file: LocalFile, digest: Digest, at places: PlaceList, anew: Bool) async -> Result<Layer, BlobError> {
        let subject = LayerSubject(
            digest: digest,
            size: file.size,
            promise: .none,
            name: "local layer \(file.path)",
            places: places,
            local: file
        )
        return await open(subject, anew: anew)
    }

    /// Why a layer of this media type is not even asked for.
    private static func reasonUnreadable(_ descriptor: ContentDescriptor) -> String? {
        guard MediaType.layerCompression(descriptor.mediaType) == nil else { return nil }
        return "has media type \(descriptor.mediaType), which is no file system layer"
    }

    private func open(_ subject: LayerSubject, anew: Bool) async -> Result<Layer, BlobError> {
        do throws(BlobError) {
            let opened = try await index(subject, anew: anew)
            let index = opened.index
            try judge(index, subject)
            let layer = Layer(
                index: index,
                restarts: opened.restarts,
                isProved: opened.hint == nil,
                digest: subject.digest,
                name: subject.name,
                places: subject.places,
                local: subject.local,
                promise: subject.promise,
                verifiesChunks: options.verify != .off || index.format.isPlain,
                limits: limits
            )
            if let hint = opened.hint { proveLater(layer, subject, hint) }
            return .success(layer)
        } catch {
            return .failure(error)
        }
    }

    /// Whether the layer is covered by the image's digest as far as the options ask for it (spec section 4).
    private func judge(_ index: LayerIndex, _ subject: LayerSubject) throws(BlobError) {
        // All of a plain layer is covered by its own digest.
        if index.format.isPlain { return }
        let lack: String
        if subject.promise.isEmpty {
            lack = "no promised TOC digest"
        } else if !index.hasAllDigests {
            lack = "chunks without a digest"
        } else {
            return
        }
        switch options.verify {
        case .off: return
        case .require:
            throw BlobError(
                .unsupported,
                "\(subject.name) has \(lack), which --verify=require asks for;"
                    + " mount it with --verify=auto, or convert it with `crfs convert`"
            )
        case .auto:
            log(.notice, cause: "unverified \(subject.digest)") {
                "\(subject.name) has \(lack): its content is checked by the checksums of its members and by the digests of"
                    + " its own TOC only"
            }
        }
    }

    private func index(_ subject: LayerSubject, anew: Bool) async throws(BlobError) -> OpenedIndex {
        if !anew, let index = await cachedIndex(subject) {
            guard index.format.isPlain && index.format != .tar else { return OpenedIndex(index: index) }
            if let restarts = await workers.run({ [plain] in plain.restarts(index) }) {
                return OpenedIndex(index: index, restarts: restarts)
            }
        }
        var outcome: IndexOutcome
        do throws(BlobError) {
            outcome = try await fetchedIndex(subject, fresh: false)
        } catch {
            guard error.kind == .corrupt && subject.local == nil else { throw error }
            // What came was wrong, perhaps on the way only: once more, without trusting the way.
            outcome = try await fetchedIndex(subject, fresh: true)
        }
        switch outcome {
        case .index(let index): return OpenedIndex(index: index)
        case .plain(let reason):
            log(.debug, cause: "plain \(subject.digest)") { "\(subject.name) cannot be read lazily: \(reason)" }
            guard subject.streams else { throw BlobError(plainLayer: subject.name) }
            return try await plainIndex(subject)
        }
    }

    func path(_ subject: LayerSubject) -> String {
        "\(options.indexDirectory)/\(subject.digest.directoryName).idx"
    }

    /// The index that an earlier open left; nil when there is none, or not this layer's, or not a sound one.
    private func cachedIndex(_ subject: LayerSubject) async -> LayerIndex? {
        let path = path(subject)
        return await workers.run {
            do throws(LayerFormatError) {
                let index = try LayerIndex(path: path, layer: subject.digest)
                guard index.blobSize == subject.size else { return nil }
                guard index.format.isPlain || subject.promise.holds(for: index) else { return nil }
                return index
            } catch {
                return nil
            }
        }
    }

    /// What a layer's TOC gave: an index, or why the layer has to be read as a plain one.
    private enum IndexOutcome: Sendable {
        case index(LayerIndex)
        case plain(reason: String)
    }

    private func fetchedIndex(_ subject: LayerSubject, fresh: Bool) async throws(BlobError) -> IndexOutcome {
        let finder = TOCFinder(subject: subject, fresh: fresh, verifies: options.verify != .off)
        let found = try await finder.find()
        if case .none(let reason) = found { return .plain(reason: reason) }
        return try await build(subject, found)
    }

    /// Builds the index on a thread of its own, or on the decode threads where it is small, and keeps it in the index
    /// directory where that is possible.
    private func build(_ subject: LayerSubject, _ found: FoundTOC) async throws(BlobError) -> IndexOutcome {
        let path = path(subject)
        let isSmall = found.byteCount <= LayerOpener.smallTOC
        let result = await (isSmall ? workers : builder).run { [self] () -> Result<IndexOutcome, BlobError> in
            var notes: [String] = []
            var noteCount = 0
            do throws(LayerFormatError) {
                let bytes = try LayerOpener.indexBytes(subject, found) { note in
                    noteCount += 1
                    if notes.count < LayerOpener.mostNotes { notes.append(note) }
                }
                guard let bytes else {
                    return .failure(BlobError(.system(ENOMEM), "\(subject.name): no memory for its TOC"))
                }
                logNotes(subject, notes, noteCount)
                return .success(.index(try keep(bytes.share(), subject, path: path)))
            } catch {
                if error.kind == .noIndex || error.kind == .tooLarge { return .success(.plain(reason: error.reason)) }
                return .failure(BlobError(error, name: subject.name))
            }
        }
        return try result.get()
    }

    /// The index file's bytes; nil when memory is out.
    private static func indexBytes(
        _ subject: LayerSubject,
        _ found: FoundTOC,
        note: (String) -> Void
    ) throws(LayerFormatError) -> UniqueBytes? {
        func source(_ format: IndexFormat, _ tocOffset: UInt64) -> TOCSource {
            TOCSource(
                layerDigest: subject.digest,
                blobSize: subject.size,
                tocOffset: tocOffset,
                promisedDigest: subject.promise.json,
                promisedFrameDigest: subject.promise.frame,
                format: format
            )
        }
        switch found {
        case .member(let pieces, let skip, let format, let tocOffset):
            guard subject.promise.frame == nil || subject.promise.json != nil else {
                throw LayerFormatError(
                    .digestMismatch,
                    "the manifest promises a TOC of zstd:chunked; the layer has another"
                )
            }
            guard let blob = TOCFinder.join(pieces) else { return nil }
            return try LayerIndexBuilder.build(
                tocMember: blob.span.extracting(skip...),
                source: source(format, tocOffset),
                note: note
            )
        case .frame(let pieces, let skip, let frame):
            guard let blob = TOCFinder.join(pieces) else { return nil }
            guard let count = Int(exactly: frame.compressedSize), count <= blob.count - skip else {
                throw LayerFormatError(.corrupt, "the TOC ends behind the blob")
            }
            return try LayerIndexBuilder.build(
                tocFrame: blob.span.extracting(skip..<skip + count),
                frame,
                source: source(.zstdChunked, frame.start),
                note: note
            )
        case .none(let reason): throw LayerFormatError(.noIndex, reason)
        }
    }

    func logNotes(_ subject: LayerSubject, _ notes: [String], _ count: Int) {
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
    func keep(
        _ bytes: SharedBytes,
        _ subject: LayerSubject,
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
