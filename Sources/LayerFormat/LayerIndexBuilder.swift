internal import BlockCodec
public import OCIModel
public import PosixIO

/// Builds a layer's index from its TOC.
public enum LayerIndexBuilder {
    /// Inflates the TOC's member, checks its digest, and builds the index.
    ///
    /// - Parameters:
    ///   - blob: the layer's blob from `tocOffset` to the footer or beyond.
    ///   - source: what is known of the layer.
    ///   - note: gets one line for each thing that must be logged (foreign overlay xattrs dropped, hard link without a
    ///     target in this layer, …).
    /// - Returns: the index file's bytes.
    public static func build(
        tocMember blob: borrowing RawSpan,
        source: TOCSource,
        note: (String) -> Void
    ) throws(LayerFormatError) -> UniqueBytes {
        let member = try TOCMember(inflating: blob)
        return try build(member.tar, member.json, source, nil, note)
    }

    /// The digest of the JSON inside of a TOC's member.
    public static func tocDigest(ofMember blob: borrowing RawSpan) throws(LayerFormatError) -> Digest {
        let member = try TOCMember(inflating: blob)
        return SHA256.digest(of: member.tar.span.extracting(member.json))
    }

    /// Builds the index from the compressed TOC of a zstd:chunked layer.
    ///
    /// - Parameters:
    ///   - bytes: the blob from `frame.offset` on, `frame.compressedSize` bytes of it.
    ///   - frame: where the TOC is, and how large.
    public static func build(
        tocFrame bytes: borrowing RawSpan,
        _ frame: TOCFrame,
        source: TOCSource,
        note: (String) -> Void
    ) throws(LayerFormatError) -> UniqueBytes {
        let digest = SHA256.digest(of: bytes)
        if let promised = source.promisedFrameDigest, promised != digest {
            throw LayerFormatError(
                .digestMismatch,
                "the compressed TOC has the digest \(digest); \(promised) was promised"
            )
        }
        let json = try frame.decode(bytes)
        return try build(json, 0..<json.count, source, digest, note)
    }

    /// The same from JSON that is inflated already.
    public static func build(
        json: consuming UniqueBytes,
        source: TOCSource,
        note: (String) -> Void
    ) throws(LayerFormatError) -> UniqueBytes {
        guard json.count <= FormatLimit.tocBytes else {
            throw LayerFormatError(.tooLarge, "the TOC is larger than 256 MiB")
        }
        if json.capacity - json.count < TOCWalk.padding { json = TOCWalk.padded(json.span) }
        return try build(json, 0..<json.count, source, nil, note)
    }

    private static func build(
        _ json: borrowing UniqueBytes,
        _ range: Range<Int>,
        _ source: TOCSource,
        _ frameDigest: Digest?,
        _ note: (String) -> Void
    ) throws(LayerFormatError) -> UniqueBytes {
        var reader = TOCReader(tocOffset: source.tocOffset, jsonBytes: range.count)
        var failure: LayerFormatError?
        // SAFETY: the JSON is borrowed until this function returns.
        let hash = unsafe SHA256Aside(json.span.extracting(range))
        do throws(LayerFormatError) {
            try TOCWalk.run(json, range, into: &reader)
            try reader.finish()
        } catch {
            failure = error
        }
        // Nothing is made of the entries before they are known to be the promised ones, and nothing is said of others.
        let digest = hash.digest()
        if let promised = source.promisedDigest, promised != digest {
            throw LayerFormatError(.digestMismatch, "the TOC has the digest \(digest); \(promised) was promised")
        }
        if let failure { throw failure }
        let starts = reader.memberStarts + reader.ends
        let tree = try TreeFinisher(reader.tree)
        tree.tree.notes.report(note)
        var header = IndexHeader()
        header.layerDigest = source.layerDigest
        header.tocDigest = digest
        header.tocFrameDigest = frameDigest ?? Digest(words: (0, 0, 0, 0))
        header.format = source.format.rawValue
        let hasAllDigests = tree.tree.chunks.allSatisfy { $0.isZeros || $0.digest != nil }
        if hasAllDigests { header.flags |= IndexHeader.hasAllDigests }
        header.blobSize = source.blobSize
        header.tocOffset = source.tocOffset
        header.prefetchEnd = tree.prefetchEnd ?? .max
        var serializer = LayerSerializer(tree, memberStarts: starts, tocOffset: source.tocOffset)
        return try serializer.serialize(header)
    }
}
