internal import HTTPTransport
internal import LayerFormat
internal import OCIModel
internal import PosixIO

/// A layer's TOC as it was fetched, or why there is none that crfs reads.
enum FoundTOC: Sendable {
    /// The TOC's gzip member, the first `skip` bytes of the pieces left out. For a TOC of a second image, that image's layer.
    case member([SharedBytes], skip: Int, IndexFormat, tocOffset: UInt64)
    /// The compressed TOC of zstd:chunked.
    case frame([SharedBytes], skip: Int, TOCFrame)
    /// The layer has to be read as a plain one.
    case none(reason: String)

    /// Compressed bytes of the TOC, with what follows it in what was fetched.
    var byteCount: Int {
        switch self {
        case .member(let pieces, let skip, _, _), .frame(let pieces, let skip, _):
            pieces.reduce(0) { $0 + $1.count } - skip
        case .none: 0
        }
    }
}

/// Fetches a layer's TOC from wherever its format has it: one request where the manifest or the guess is right, else two.
struct TOCFinder: Sendable {
    /// A TOC of 256 MiB that cannot be compressed, and its headers: more is not asked for (spec section 3).
    private static let mostTOC: UInt64 = 257 << 20

    let subject: LayerSubject
    /// What came before was wrong: the way there is not trusted.
    let fresh: Bool
    /// Digests are checked at all (not with `--verify=off`).
    let verifies: Bool

    /// Finds and fetches the TOC.
    func find() async throws(BlobError) -> FoundTOC {
        if let frame = subject.frame { return try await fetch(frame) }
        let guess = min(subject.size, Footer.tailGuess(blobSize: subject.size))
        guard guess > 0 else { return .none(reason: "it is empty") }
        let tail = ByteRange(offset: subject.size - guess, count: guess)
        let tailBytes = try await fetch(tail)
        let footer: Footer
        do throws(LayerFormatError) {
            footer = try Footer(tail: tailBytes.span, blobSize: subject.size)
        } catch {
            if error.kind == .noIndex || error.kind == .tooLarge { return .none(reason: error.reason) }
            throw BlobError(error, name: subject.name)
        }
        switch footer.kind {
        case .estargzExternalTOC: return try await external(footer)
        case .zstdChunked:
            guard let frame = footer.frame else { return .none(reason: "its footer has no TOC") }
            let (pieces, skip) = try await upToEnd(from: frame.offset, tail, tailBytes)
            return .frame(pieces, skip: skip, frame)
        case .stargz, .estargz:
            guard subject.size - footer.tocOffset <= TOCFinder.mostTOC else {
                return .none(reason: "its TOC is larger than \(TOCFinder.mostTOC) bytes")
            }
            let (pieces, skip) = try await upToEnd(from: footer.tocOffset, tail, tailBytes)
            return .member(pieces, skip: skip, footer.kind, tocOffset: footer.tocOffset)
        }
    }

    /// The TOC where the manifest says that it is: nothing else is asked for.
    private func fetch(_ frame: TOCFrame) async throws(BlobError) -> FoundTOC {
        do throws(LayerFormatError) {
            try frame.check(blobSize: subject.size)
        } catch {
            if error.kind == .tooLarge { return .none(reason: error.reason) }
            throw BlobError(error, name: subject.name)
        }
        let bytes = try await fetch(ByteRange(offset: frame.offset, count: frame.compressedSize))
        return .frame([bytes], skip: 0, frame)
    }

    /// The blob from `offset` to its end, of which the tail is there.
    private func upToEnd(
        from offset: UInt64,
        _ tail: ByteRange,
        _ tailBytes: SharedBytes
    ) async throws(BlobError) -> ([SharedBytes], skip: Int) {
        if offset >= tail.offset { return ([tailBytes], Int(offset - tail.offset)) }
        let missing = try await fetch(ByteRange(offset: offset, count: tail.offset - offset))
        return ([missing, tailBytes], 0)
    }

    private func fetch(_ range: ByteRange) async throws(BlobError) -> SharedBytes {
        let bytes = try await subject.place.read(range, .demand, fresh)
        guard UInt64(bytes.count) == range.count else {
            throw BlobError(.unavailable, "\(subject.name): \(bytes.count) bytes came where \(range) was asked for")
        }
        return bytes
    }

    /// The TOC out of a second image. Nothing of this image covers that one but the promised digest of the TOC, so without
    /// a promise such a TOC is not believed.
    private func external(_ footer: Footer) async throws(BlobError) -> FoundTOC {
        guard subject.promise.json != nil || !verifies else {
            return .none(reason: "its TOC is in a second image, and the manifest does not say what digest it must have")
        }
        let candidates = try await subject.place.tocLayers(subject.digest)
        guard !candidates.isEmpty else {
            return .none(
                reason: "its TOC is in a second image, and no tag of the repository that ends in -esgztoc has it"
            )
        }
        for candidate in candidates {
            let bytes = try await candidate.read()
            guard let promised = subject.promise.json else {
                return .member([bytes], skip: 0, .estargzExternalTOC, tocOffset: footer.tocOffset)
            }
            do throws(LayerFormatError) {
                guard try LayerIndexBuilder.tocDigest(ofMember: bytes.span) == promised else { continue }
            } catch {
                continue
            }
            return .member([bytes], skip: 0, .estargzExternalTOC, tocOffset: footer.tocOffset)
        }
        return .none(
            reason: "its TOC is in a second image, and none that is there has the digest that the manifest promises"
        )
    }

    /// The pieces one behind the other; nil when memory is out.
    static func join(_ pieces: [SharedBytes]) -> SharedBytes? {
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
}
