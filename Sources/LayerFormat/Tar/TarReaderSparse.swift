// Sparse files: old GNU ones, and the three formats in PAX headers.
extension TarReader where Source: ~Copyable {
    /// The map of a sparse file, nil for any other.
    mutating func readSparseMap(
        _ header: TarHeader,
        _ pax: PaxHeader,
        at offset: UInt64
    ) throws(TarError) -> SparseMap? {
        if header.typeflag == UInt8(ascii: "S") { return try readOldSparseMap(header, at: offset) }
        let sparse = pax.sparse
        if let major = sparse.major, (major, sparse.minor ?? 0) != (0, 0), (major, sparse.minor ?? 0) != (0, 1) {
            guard (major, sparse.minor ?? 0) == (1, 0) else {
                throw fail(.unsupported, "sparse format \(major).\(sparse.minor ?? 0) is not known", at: offset)
            }
            return try readSparseMapInContent(realSize: sparse.realSize, at: offset)
        }
        guard sparse.map != nil || sparse.blockCount != nil else { return nil }
        let stored = content.stored
        return try parse(at: offset) { () throws(TarFault) in
            guard let size = sparse.realSize else { throw TarFault("a sparse file has no real size") }
            let segments = sparse.map ?? []
            guard sparse.pendingOffset == nil, sparse.blockCount ?? UInt64(segments.count) == UInt64(segments.count)
            else { throw TarFault("its sparse map has another number of segments than announced") }
            return try SparseMap(segments: segments, size: size, stored: stored)
        }
    }

    private mutating func readOldSparseMap(_ header: TarHeader, at offset: UInt64) throws(TarError) -> SparseMap {
        var (size, segments, more) = try parse(at: offset) { () throws(TarFault) in try header.oldGNUSparse() }
        while more {
            let block = try takeBlock()
            guard block.count == TarHeader.blockSize else {
                throw fail(.truncated, "the archive ends in the middle of a sparse map")
            }
            let next = try parse(at: offset) { () throws(TarFault) in try TarHeader.oldGNUSparseContinuation(block) }
            segments += next.segments
            more = next.more
            // A continuation without a segment says nothing: stop rather than read such blocks without end.
            guard !more || !next.segments.isEmpty else { throw fail(.corrupt, "a sparse map has an empty block") }
            guard segments.count <= SparseMap.segmentLimit else {
                throw fail(.tooLarge, "a sparse map has more than \(SparseMap.segmentLimit) segments")
            }
        }
        let (all, stored) = (segments, content.stored)
        return try parse(at: offset) { () throws(TarFault) in
            try SparseMap(segments: all, size: size, stored: stored)
        }
    }

    private mutating func readSparseMapInContent(
        realSize: UInt64?,
        at offset: UInt64
    ) throws(TarError) -> SparseMap {
        var parser = SparseMapParser()
        while !parser.isComplete {
            guard content.stored >= UInt64(TarHeader.blockSize) else {
                throw fail(.corrupt, "its sparse map does not end before its content does")
            }
            let block = try takeBlock()
            guard block.count == TarHeader.blockSize else {
                throw fail(.truncated, "the archive ends in the middle of a sparse map")
            }
            content.stored -= UInt64(TarHeader.blockSize)
            var next = parser
            parser = SparseMapParser()
            try parse(at: offset) { () throws(TarFault) in try next.feed(block) }
            parser = next
        }
        let (segments, stored) = (parser.segments, content.stored)
        return try parse(at: offset) { () throws(TarFault) in
            guard let realSize else { throw TarFault("a sparse file has no real size") }
            return try SparseMap(segments: segments, size: realSize, stored: stored)
        }
    }
}
