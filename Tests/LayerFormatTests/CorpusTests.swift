import BlockCodec
import LayerFormat
import OCIModel
import PosixIO
import Testing

/// Every layer of the corpus that has a TOC shows exactly its manifest, and its chunks inflate to the files.
@Suite struct CorpusTests {
    static let formats: [String: IndexFormat] = [
        "estargz": .estargz, "estargz-prefetch": .estargz, "estargz-min64k": .estargz, "stargz-legacy": .stargz,
        "estargz-exttoc": .estargzExternalTOC, "zstdchunked-ctr": .zstdChunked, "zstdchunked-skopeo": .zstdChunked,
    ]
    /// Whose TOC has the fraction of a second.
    static let withFractions = ["zstdchunked-skopeo"]
    static let types: [String: UInt32] = [
        "reg": 0o100000, "dir": 0o040000, "symlink": 0o120000, "char": 0o020000, "block": 0o060000, "fifo": 0o010000,
    ]

    @Test(arguments: formats.keys.sorted(), [1, 2, 3])
    func layerShowsItsManifest(_ format: String, _ number: Int) throws {
        let blob = try CorpusFiles.layers(format)[number - 1]
        let index = try CorpusFiles.index(blob)
        try index.verifyAllBlocks()
        #expect(index.format == CorpusTests.formats[format])
        #expect(index.hasAllDigests == (format != "stargz-legacy" || number > 1))
        #expect(index.tocFrameDigest == blob.frameDigest)
        let rows = index.rows()
        let expected = try ManifestRow.rows("layer\(number)")
        #expect(Set(rows.keys) == Set(expected.map { path($0) }))
        for row in expected {
            guard let found = rows[path(row)] else { continue }
            if row.type == "whiteout" {
                #expect(found.flags.contains(.whiteout) && found.mode == 0o020000 && found.device == 0, "\(row.path)")
                continue
            }
            check(found, row, hasFractions: CorpusTests.withFractions.contains(format))
            #expect(found.flags.contains(.opaque) == (row.opaque ?? false), "\(row.path)")
            #expect(found.flags.contains(.implicit) == (row.implicit ?? false), "\(row.path)")
        }
        checkLinkGroups(rows, expected)
        checkDirectoryLinks(rows)
        try checkContents(index, blob, expected)
    }

    @Test(arguments: formats.keys.sorted())
    func imageShowsTheMergedManifest(_ format: String) throws {
        let layers = try CorpusFiles.layers(format).map { try CorpusFiles.index($0) }
        let bytes = try LayerFormat.ImageIndex.build(layers: layers) { Issue.record("note: \($0)") }
        let image = try LayerFormat.ImageIndex(bytes: bytes.share(), layers: layers)
        try image.verifyAllBlocks()
        let rows = image.rows()
        let expected = try ManifestRow.rows("merged")
        #expect(Set(rows.keys) == Set(expected.map { path($0) }))
        for row in expected {
            guard let found = rows[path(row)] else { continue }
            check(found, row, hasFractions: CorpusTests.withFractions.contains(format))
            guard let layer = row.layer, let record = find(path(row), in: image), row.attr_ambiguous != true else {
                continue
            }
            #expect(image.node(record).layer == layer - 1, "\(row.path)")
        }
        checkLinkGroups(rows, expected)
        checkDirectoryLinks(rows)
    }

    @Test func landmarksAreReadAndNotShown() throws {
        let plain = try CorpusFiles.layers("estargz").map { try CorpusFiles.index($0) }
        #expect(plain.map(\.prefetchEnd) == [0, 0, 0])
        let prioritised = try CorpusFiles.layers("estargz-prefetch").map { try CorpusFiles.index($0) }
        #expect(prioritised.map(\.prefetchEnd) == [750, 87, 87])
        let legacy = try CorpusFiles.layers("stargz-legacy").map { try CorpusFiles.index($0) }
        #expect(legacy.map(\.prefetchEnd) == [nil, nil, nil])
        for index in plain + prioritised + legacy {
            #expect(index.find(".prefetch.landmark") == nil)
            #expect(index.find(".no.prefetch.landmark") == nil)
            #expect(index.find("stargz.index.json") == nil)
        }
    }

    @Test func promisedDigestIsChecked() throws {
        var blob = try CorpusFiles.layers("estargz")[0]
        let index = try CorpusFiles.index(blob)
        #expect(index.tocDigest == blob.tocDigest)
        blob.tocDigest = testLayer
        #expect { _ = try CorpusFiles.index(blob) } throws: { ($0 as? LayerFormatError)?.kind == .digestMismatch }
    }

    @Test func chunksOfABlobAreInItsOrder() throws {
        for format in CorpusTests.formats.keys.sorted() {
            let index = try CorpusFiles.index(try CorpusFiles.layers(format)[0])
            var last: (UInt64, UInt64) = (0, 0)
            var seen: Set<UInt32> = []
            for position in 0..<index.chunkCount {
                let number = index.chunkInBlobOrder(position)
                let chunk = index.chunk(number)
                #expect((chunk.member.offset, chunk.innerOffset) >= last)
                last = (chunk.member.offset, chunk.innerOffset)
                seen.insert(number)
                let first = index.blobPosition(atOrAfter: chunk.member.offset)
                #expect(first <= position)
                #expect(index.chunk(index.chunkInBlobOrder(first)).member.offset == chunk.member.offset)
            }
            #expect(seen.count == index.chunkCount)
            #expect(index.blobPosition(atOrAfter: index.tocOffset) == index.chunkCount)
            #expect(index.blobPosition(atOrAfter: 0) == 0)
        }
    }

    // MARK: Comparison

    private func path(_ row: ManifestRow) -> String {
        row.path == "/" ? "" : String(decoding: unquoted(row.path), as: UTF8.self)
    }

    private func find(_ path: String, in image: LayerFormat.ImageIndex) -> UInt32? {
        var record: UInt32 = 0
        for part in path.split(separator: "/") {
            guard let next = unsafe image.lookup(Array(part.utf8).span.bytes, in: record) else { return nil }
            record = next
        }
        return record
    }

    private func check(_ found: Row, _ row: ManifestRow, hasFractions: Bool) {
        #expect(found.mode & 0o170000 == CorpusTests.types[row.type], "\(row.path)")
        if row.type == "reg" || row.type == "symlink" { #expect(found.size == row.size, "\(row.path)") }
        if let target = row.target { #expect(found.target == unquoted(target), "\(row.path)") }
        if let device = row.rdev { #expect(found.device == makeDevice(device[0], device[1]), "\(row.path)") }
        if row.type != "dir" { #expect(found.links == row.nlink ?? 1, "\(row.path)") }
        if row.attr_ambiguous == true { return }
        if row.implicit == true {
            #expect(found.mode == 0o040755 && found.uid == 0 && found.gid == 0 && found.seconds == 0, "\(row.path)")
            return
        }
        if row.type != "symlink" {
            #expect(found.mode & 0o7777 == row.mode.flatMap { UInt32($0, radix: 8) }, "\(row.path)")
        }
        #expect(found.uid == row.uid && found.gid == row.gid, "\(row.path)")
        if let time = row.mtime {
            if hasFractions {
                #expect([found.seconds, Int64(found.nanoseconds)] == time, "\(row.path)")
                return expectXattrs(found, row)
            }
            // A TOC of the other formats has whole seconds, rounded half up.
            #expect(found.seconds == time[0] + (time[1] >= 500_000_000 ? 1 : 0), "\(row.path)")
            #expect(found.nanoseconds == 0)
        }
        expectXattrs(found, row)
    }

    private func expectXattrs(_ found: Row, _ row: ManifestRow) {
        #expect(found.xattrs == (row.xattrs ?? [:]).mapValues { decoded($0) }, "\(row.path)")
    }

    /// makedev(3) of glibc.
    private func makeDevice(_ major: UInt32, _ minor: UInt32) -> UInt64 {
        let (major, minor) = (UInt64(major), UInt64(minor))
        return (major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff
    }

    private func decoded(_ text: String) -> [UInt8] {
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
        var bits = 0
        var count = 0
        var bytes: [UInt8] = []
        for symbol in text.utf8 {
            guard let value = alphabet.firstIndex(of: symbol) else { break }
            bits = bits << 6 | value
            count += 6
            if count >= 8 {
                count -= 8
                bytes.append(UInt8(truncatingIfNeeded: bits >> count))
            }
        }
        return bytes
    }

    private func checkLinkGroups(_ rows: [String: Row], _ expected: [ManifestRow]) {
        var groups: [Int: Set<String>] = [:]
        for row in expected {
            guard let found = rows[path(row)] else { continue }
            if let group = row.hardlink_group {
                groups[group, default: []].insert(found.first)
            } else {
                #expect(found.first == path(row), "\(row.path) shares an inode")
            }
        }
        for (group, firsts) in groups { #expect(firsts.count == 1, "group \(group) has several inodes") }
        #expect(Set(groups.values.joined()).count == groups.count)
    }

    private func checkDirectoryLinks(_ rows: [String: Row]) {
        var counts: [String: UInt32] = [:]
        for (path, row) in rows where row.mode & 0o170000 == 0o040000 {
            counts[path, default: 2] += 0
            if let slash = path.lastIndex(of: "/") { counts[String(path[..<slash]), default: 2] += 1 }
        }
        for (path, count) in counts { #expect(rows[path]?.links == count, "\(path)") }
    }

    /// Inflates every chunk and hashes chunk and file.
    private func checkContents(_ index: LayerIndex, _ blob: CorpusFiles.Blob, _ expected: [ManifestRow]) throws {
        var inflater = Inflater()
        var decoder = FrameDecoder()
        for row in expected where row.type == "reg" {
            guard let record = index.find(path(row)) else { continue }
            var hash = SHA256()
            var end: UInt64 = 0
            for number in index.chunks(record) {
                let chunk = index.chunk(number)
                #expect(chunk.fileOffset == end && chunk.length > 0)
                #expect(index.chunkIndex(record, at: end) == number)
                #expect(index.chunkIndex(record, at: end + UInt64(chunk.length) - 1) == number)
                #expect(chunk.record == index.inode(record))
                end += UInt64(chunk.length)
                let member = blob.bytes[Int(chunk.member.offset)..<Int(chunk.member.end)]
                let wanted = Int(chunk.innerOffset) + Int(chunk.length)
                let inflated =
                    index.format.memberCompression == .zstd
                    ? try unsafe decoder.decode(member.span.bytes, wanted: wanted, limit: 64 << 20)
                    : try unsafe inflater.inflate(member.span.bytes, wanted: wanted, limit: 64 << 20)
                let payload = inflated.span.extracting(Int(chunk.innerOffset)..<wanted)
                hash.update(payload)
                let digest = SHA256.digest(of: payload)
                if blob.tocDigest != nil { #expect(chunk.digest != nil, "\(row.path)") }
                if let promised = chunk.digest { #expect(promised == digest, "\(row.path)") }
            }
            #expect(end == row.size)
            #expect(hash.finish().hex == row.sha256, "\(row.path)")
        }
    }
}
