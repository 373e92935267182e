import BlockCodec
import LayerFormat
import TestSupport
import Testing

/// A header block made by hand, field by field.
struct RawHeader {
    var bytes = [UInt8](repeating: 0, count: 512)

    init(_ name: String, type: Character = "0", size: Int = 0, magic: String = "ustar\0" + "00") {
        set(0, name)
        set(100, "0000644\0")
        set(108, "0000000\0")
        set(116, "0000000\0")
        set(124, octal(size, 11))
        set(136, octal(0, 11))
        set(156, String(type))
        set(257, magic)
    }

    mutating func set(_ offset: Int, _ text: String) { set(offset, Array(text.utf8)) }

    mutating func set(_ offset: Int, _ new: [UInt8]) {
        for (index, byte) in new.enumerated() { bytes[offset + index] = byte }
    }

    /// The block with its checksum, of unsigned or signed characters.
    func block(signed: Bool = false) -> [UInt8] {
        var result = self
        result.set(148, "        ")
        let sum = result.bytes.reduce(0) { $0 + (signed ? Int(Int8(bitPattern: $1)) : Int($1)) }
        result.set(148, octal(sum, 6) + "\0 ")
        return result.bytes
    }

    private func octal(_ value: Int, _ digits: Int) -> String {
        let text = String(value, radix: 8)
        return String(repeating: "0", count: digits - text.count) + text
    }
}

func padded(_ bytes: [UInt8]) -> [UInt8] {
    bytes + [UInt8](repeating: 0, count: (512 - bytes.count % 512) % 512)
}

func paxRecord(_ key: String, _ value: [UInt8]) -> [UInt8] {
    let rest = key.utf8.count + value.count + 3
    var length = rest + 1
    while length != rest + String(length).utf8.count { length = rest + String(length).utf8.count }
    return Array("\(length) \(key)=".utf8) + value + [UInt8(ascii: "\n")]
}

func paxHeader(_ records: [(String, String)], type: Character = "x") -> [UInt8] {
    let body = records.flatMap { paxRecord($0.0, Array($0.1.utf8)) }
    return RawHeader("PaxHeaders/x", type: type, size: body.count).block() + padded(body)
}

private func parse(_ bytes: [UInt8]) throws -> [TarFile] { try readArchive(MemorySource(bytes)) }

private let end = TarHeaderEncoder.endMarker

/// The error that reading `bytes` gives.
private func failure(_ bytes: [UInt8]) -> TarError? {
    do {
        _ = try readArchive(MemorySource(bytes))
        return nil
    } catch {
        return error as? TarError
    }
}

@Suite struct TarFormatTests {
    @Test func signedChecksumsAreGoodToo() throws {
        var header = RawHeader("name-\u{fc}")
        header.set(265, [0xff, 0xfe])
        #expect(try parse(header.block(signed: true) + end).count == 1)
        #expect(try parse(header.block(signed: false) + end).count == 1)
        var wrong = header.block()
        wrong[0] ^= 1
        #expect(failure(wrong + end)?.kind == .corrupt)
    }

    @Test func prefixesBelongToTheDialectThatHasThem() throws {
        var ustar = RawHeader("name")
        ustar.set(345, "some/dir")
        #expect(try parse(ustar.block() + end)[0].entry.path == Array("some/dir/name".utf8))
        // GNU keeps times there.
        var gnu = RawHeader("name", magic: "ustar  \0")
        gnu.set(345, "12345670123")
        #expect(try parse(gnu.block() + end)[0].entry.path == Array("name".utf8))
        var star = RawHeader("name")
        star.set(345, String(repeating: "d", count: 131) + "00000000000 00000000000 ")
        star.set(508, "tar\0")
        #expect(try parse(star.block() + end)[0].entry.path.count == 131 + 5)
        var v7 = RawHeader("name", magic: "\0\0\0\0\0\0\0\0")
        v7.set(345, "junk")
        v7.set(265, "junk")
        let entry = try parse(v7.block() + end)[0].entry
        #expect(entry.path == Array("name".utf8) && entry.userName.isEmpty)
    }

    @Test func numbersInBase256() throws {
        var header = RawHeader("name")
        header.set(108, [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])
        header.set(136, [UInt8](repeating: 0xff, count: 12))
        let entry = try parse(header.block() + end)[0].entry
        #expect(entry.uid == .max && entry.mtimeSeconds == -1)

        var negative = RawHeader("name")
        negative.set(124, [UInt8](repeating: 0xff, count: 12))
        #expect(failure(negative.block() + end)?.reason == "its size is negative")
        var huge = RawHeader("name")
        huge.set(124, [0x80] + [UInt8](repeating: 0xff, count: 11))
        #expect(failure(huge.block() + end)?.reason == "its size does not fit in 64 bits")
        var owner = RawHeader("name")
        owner.set(108, [0x80, 0, 0, 1, 0, 0, 0, 0])
        #expect(failure(owner.block() + end)?.kind == .corrupt)
    }

    @Test func sizesNear2To63AreNotBelieved() throws {
        var header = RawHeader("name")
        header.set(124, [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
        let error = failure(header.block() + padded([1, 2, 3]))
        #expect(error?.kind == .truncated)
        #expect(error?.entry == Array("name".utf8))
        #expect(failure(paxHeader([("size", "9223372036854775807")]) + RawHeader("f").block())?.kind == .truncated)
        for size in ["9223372036854775808", "18446744073709551616", "-1", "1e3", " 1", ""] {
            let bytes = paxHeader([("size", size)]) + RawHeader("f").block() + end
            // An empty value takes the record back.
            #expect(failure(bytes)?.kind == (size.isEmpty ? nil : .corrupt), "size \(size)")
        }
    }

    @Test func paxRecordsOverrideTheHeader() throws {
        let records = [
            ("path", "p/ä"), ("uid", "3000000"), ("gid", "4000000"), ("uname", "u"), ("gname", "g"), ("mtime", "12.25"),
            ("SCHILY.xattr.user.a%3Db%25", "v=\u{1}\n"), ("LIBARCHIVE.xattr.user.%6Cib", "AQID"), ("atime", "5"),
            ("comment", "none"), ("linkpath", "t"), ("size", "2"),
        ]
        let bytes = paxHeader(records) + RawHeader("short", size: 0).block() + padded([7, 8]) + end
        let file = try parse(bytes)[0]
        #expect(file.content == [7, 8])
        #expect(file.entry.path == Array("p/ä".utf8))
        #expect(file.entry.uid == 3_000_000 && file.entry.gid == 4_000_000)
        #expect(file.entry.userName == Array("u".utf8) && file.entry.groupName == Array("g".utf8))
        #expect(file.entry.mtimeSeconds == 12 && file.entry.mtimeNanoseconds == 250_000_000)
        #expect(
            file.entry.xattrs == [
                TarXattr(name: Array("user.a=b%".utf8), value: Array("v=\u{1}\n".utf8)),
                TarXattr(name: Array("user.lib".utf8), value: [1, 2, 3]),
            ]
        )
        #expect(file.entry.otherRecords == [PaxRecord(key: Array("atime".utf8), value: Array("5".utf8))])
    }

    @Test(arguments: [
        ("0", 0, 0), ("1.5", 1, 500_000_000), ("-1.5", -2, 500_000_000), ("-0.25", -1, 750_000_000), ("-3", -3, 0),
        ("1.0000000019", 1, 1), ("7.", 7, 0),
    ])
    func timesHaveFractionsAndSigns(text: String, seconds: Int64, nanoseconds: UInt32) throws {
        let entry = try parse(paxHeader([("mtime", text)]) + RawHeader("f").block() + end)[0].entry
        #expect(entry.mtimeSeconds == seconds && entry.mtimeNanoseconds == nanoseconds)
    }

    @Test func globalHeadersHoldUntilTheNextOne() throws {
        let bytes =
            paxHeader([("uid", "5"), ("comment", "abc")], type: "g") + RawHeader("a").block()
            + paxHeader([("uid", "6")]) + RawHeader("b").block() + RawHeader("c").block()
            + paxHeader([("uid", "")], type: "g") + RawHeader("d").block() + end
        #expect(try parse(bytes).map(\.entry.uid) == [5, 6, 5, 0])
    }

    @Test(arguments: [
        "0 path=x\n", "9 path=x", "11 path=x\n", "8 path=x\n", "999999999999999999999 path=x\n", "5 a=\n", "5 =b\n",
        "path=x\n", "-9 path=x\n", "9 path\u{0}x\n", "4 a\n", " 9 path=x\n", "3 \n",
    ])
    func extendedHeadersThatLieAreRefused(body: String) {
        let header = RawHeader("x", type: "x", size: body.utf8.count).block() + padded(Array(body.utf8))
        let error = failure(header + RawHeader("f").block() + end)
        // "5 a=\n" is well-formed: an unknown keyword with an empty value.
        #expect((error?.kind == .corrupt) == (body != "5 a=\n"), "\(body)")
    }

    @Test func namesWithNULAreRefused() {
        let body = paxRecord("path", [0x61, 0, 0x62])
        let header = RawHeader("x", type: "x", size: body.count).block() + padded(body)
        #expect(failure(header + RawHeader("f").block() + end)?.kind == .corrupt)
    }

    @Test func extensionHeadersHaveABound() {
        let long = RawHeader("L", type: "L", size: 2 << 20).block() + [UInt8](repeating: 0x61, count: 2 << 20)
        #expect(failure(long + RawHeader("f").block() + end)?.kind == .tooLarge)
        // Empty ones without end, too.
        let empty = RawHeader("x", type: "x").block()
        #expect(failure([[UInt8]](repeating: empty, count: 3000).flatMap { $0 })?.kind == .tooLarge)
        let fitting = RawHeader("L", type: "L", size: 1 << 19).block() + [UInt8](repeating: 0x61, count: 1 << 19)
        #expect(failure(fitting + RawHeader("f").block() + end) == nil)
    }

    @Test func aHeaderFullOfAttributesIsReadAtOnce() throws {
        // Each name was once compared with all before it, which took minutes.
        let records = (0..<20_000).map { ("SCHILY.xattr.user.\($0)", "v") } + [("SCHILY.xattr.user.7", "last")]
        let entry = try parse(paxHeader(records) + RawHeader("f").block() + end)[0].entry
        #expect(entry.xattrs.count == 20_000)
        #expect(entry.xattrs[7].value == Array("last".utf8))
    }

    @Test func hardLinksWithAndWithoutStoredContent() throws {
        var link = RawHeader("link", type: "1", size: 700)
        link.set(157, "file")
        let next = RawHeader("next", size: 1).block() + padded([9])
        let without = try parse(link.block() + next + end)
        let content = [UInt8](repeating: 0x41, count: 700)
        let with = try parse(link.block() + padded(content) + next + end)
        let last = try parse(link.block() + end)
        for files in [without, with] {
            #expect(files.map(\.entry.kind) == [.hardLink, .regular])
            #expect(files[1].content == [9])
            #expect(files[0].entry.size == 0 && files[0].content.isEmpty)
        }
        #expect(last.count == 1)
    }

    @Test func sizesOfWhatHasNoContentAreIgnored() throws {
        for type in "23456" {
            var header = RawHeader("x", type: type, size: 1000)
            header.set(157, "target")
            #expect(try parse(header.block() + RawHeader("next").block() + end).count == 2, "type \(type)")
        }
    }

    @Test func oldDirectoriesAreFilesWithASlash() throws {
        let files = try parse(RawHeader("dir/", type: "\0").block() + RawHeader("dir2/").block() + end)
        #expect(files.map(\.entry.kind) == [.directory, .directory])
    }

    @Test func theEndOfAnArchive() throws {
        let file = RawHeader("f").block()
        #expect(try parse(file + end + Array("garbage behind it".utf8)).count == 1)
        // Without end marker, with half of it, with garbage behind half of it.
        #expect(try parse(file).count == 1)
        #expect(try parse(file + end.prefix(512)).count == 1)
        #expect(try parse(file + end.prefix(512) + Array("garbage".utf8)).count == 1)
        #expect(try parse([]).isEmpty)
        // A lone zero block in front of an entry would lose the entry.
        #expect(failure(file + end.prefix(512) + file + end)?.reason.contains("zero block") == true)
        #expect(failure(paxHeader([("path", "x")]) + end)?.kind == .truncated)
    }

    @Test func anArchiveCutAnywhereIsAnErrorOrEndsBetweenEntries() throws {
        let whole =
            paxHeader([("path", "first")]) + RawHeader("f", size: 700).block()
            + padded([UInt8](repeating: 1, count: 700)) + RawHeader("g").block() + end
        var boundaries = 0
        for count in 0..<whole.count {
            guard let error = failure(Array(whole.prefix(count))) else {
                boundaries += 1
                continue
            }
            #expect(error.kind == .truncated, "cut at \(count)")
            #expect(error.offset <= UInt64(count))
        }
        // Between entries, in the padding of the last one, in the end marker.
        #expect(boundaries < 1024 + 512)
        let error = failure(Array(whole.prefix(2000)))
        #expect(
            error?.description
                == "the archive ends in the middle of a file (byte 2000 of the tar stream, at entry \"first\")"
        )
    }

    @Test func volumesAreRefusedAndLabelsSkipped() throws {
        #expect(try parse(RawHeader("label", type: "V").block() + RawHeader("f").block() + end).count == 1)
        #expect(failure(RawHeader("part", type: "M", size: 3).block() + padded([1, 2, 3]))?.kind == .unsupported)
    }

    @Test func unknownTypesAreFiles() throws {
        let files = try parse(RawHeader("f", type: "7", size: 1).block() + padded([5]) + end)
        #expect(files[0].entry.kind == .regular && files[0].content == [5])
    }
}

@Suite struct SparseTests {
    private func sparse(_ records: [(String, String)], content: [UInt8]) -> [UInt8] {
        paxHeader(records) + RawHeader("f", size: content.count).block() + padded(content) + end
    }

    @Test func mapsInRecordsAndInTheContent() throws {
        let expected: [UInt8] = [0, 0, 1, 2, 0, 3, 0]
        let pairs = [("GNU.sparse.size", "7"), ("GNU.sparse.numblocks", "2")]
        let v00 =
            pairs + [
                ("GNU.sparse.offset", "2"), ("GNU.sparse.numbytes", "2"), ("GNU.sparse.offset", "5"),
                ("GNU.sparse.numbytes", "1"),
            ]
        #expect(try parse(sparse(v00, content: [1, 2, 3]))[0].content == expected)
        let v01 = pairs + [("GNU.sparse.map", "2,2,5,1"), ("GNU.sparse.name", "real")]
        let file = try parse(sparse(v01, content: [1, 2, 3]))[0]
        #expect(file.content == expected && file.entry.path == Array("real".utf8) && file.entry.holeBytes == 4)
        let v10 = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "7")]
        #expect(
            try parse(sparse(v10, content: padded(Array("2\n2\n2\n5\n1\n".utf8)) + [1, 2, 3]))[0].content == expected
        )
    }

    @Test(arguments: [
        "2,2,1,1", "0,8", "6,2", "9223372036854775807,9223372036854775807", "1", "a,b", "0,4", "1,,2",
        "18446744073709551615,2",
    ])
    func mapsThatCannotBeAreRefused(map: String) {
        let records = [("GNU.sparse.size", "7"), ("GNU.sparse.map", map)]
        #expect(failure(sparse(records, content: [1, 2, 3]))?.kind == .corrupt)
    }

    @Test(arguments: [
        "1000001\n", "99999999999999999999999\n", "\n", "x", "2\n1\n", "-1\n",
    ])
    func mapsInTheContentThatCannotBeAreRefused(map: String) {
        let records = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "7")]
        let kind = failure(sparse(records, content: padded(Array(map.utf8))))?.kind
        #expect(kind == .corrupt || kind == .tooLarge)
    }

    @Test func otherVersionsAreRefused() {
        let records = [("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "7")]
        #expect(failure(sparse(records, content: [1]))?.kind == .unsupported)
    }

    @Test func continuationBlocksWithoutEndAreRefused() {
        var header = RawHeader("f", type: "S", magic: "ustar  \0")
        header.set(482, [1])
        header.set(483, "00000000007\0")
        var more = [UInt8](repeating: 0, count: 512)
        more[504] = 1
        #expect(failure(header.block() + more + more + more)?.kind == .corrupt)
    }

    private func parse(_ bytes: [UInt8]) throws -> [TarFile] { try readArchive(MemorySource(bytes)) }
}

@Suite struct TarMutationTests {
    /// A small archive with one of everything.
    static let sample: [UInt8] = {
        var header = RawHeader("old-sparse", type: "S", size: 3, magic: "ustar  \0")
        header.set(386, "00000000002\0" + "00000000002\0" + "00000000005\0" + "00000000001\0")
        header.set(483, "00000000007\0")
        let records = [("GNU.sparse.size", "7"), ("GNU.sparse.map", "2,2,5,1"), ("GNU.sparse.name", "real")]
        var bytes = paxHeader([("path", "long"), ("SCHILY.xattr.user.x", "y"), ("mtime", "1.5")])
        bytes += RawHeader("f", size: 5).block() + padded([1, 2, 3, 4, 5]) + header.block() + padded([1, 2, 3])
        bytes +=
            RawHeader("L", type: "L", size: 9).block() + padded(Array("long/name".utf8))
            + RawHeader("d", type: "5").block()
        bytes += paxHeader(records) + RawHeader("s", size: 3).block() + padded([1, 2, 3])
        return bytes + TarHeaderEncoder.endMarker
    }()

    /// Whatever the bytes, reading ends, with entries or with one error, and gives no more content than there is.
    static func check(_ bytes: [UInt8], _ label: @autoclosure () -> String) {
        do {
            var reader = TarReader(MemorySource(bytes, pieceSize: 700))
            var count = 0
            while let entry = try reader.next() {
                count += 1
                #expect(!entry.path.isEmpty && !entry.path.contains(0), "\(label())")
                // Holes may be as long as they like: read only the beginning of such files.
                if entry.size < 1 << 20 {
                    let content = try readContent(&reader)
                    #expect(UInt64(content.count) == entry.size, "\(label())")
                }
            }
            #expect(count <= bytes.count / 512, "\(label())")
        } catch {
            #expect(error is TarError, "\(label())")
        }
    }

    @Test func everyByteFlippedAndEveryCut() {
        let sample = Self.sample
        let headers = stride(from: 0, to: sample.count - 1024, by: 512).filter { start in
            sample[start + 257] == UInt8(ascii: "u")
        }
        for index in headers.flatMap({ $0..<$0 + 512 }) {
            for mask: UInt8 in [1, 0x80] {
                var damaged = sample
                damaged[index] ^= mask
                if index % 16 == 0 { Self.check(damaged, "byte \(index) ^ \(mask)") }
                // With a good checksum, so that what is behind it is reached.
                let start = index / 512 * 512
                var header = RawHeader("")
                header.bytes = Array(damaged[start..<start + 512])
                damaged.replaceSubrange(start..<start + 512, with: header.block())
                Self.check(damaged, "byte \(index) ^ \(mask), checksum mended")
            }
        }
        // Bytes between headers have no checksum.
        for index in sample.indices where !headers.contains(index / 512 * 512) && sample[index] != 0 {
            var damaged = sample
            damaged[index] ^= 0xff
            Self.check(damaged, "byte \(index)")
        }
        for count in stride(from: 0, to: sample.count, by: 37) {
            Self.check(Array(sample.prefix(count)), "cut at \(count)")
        }
    }

    @Test func randomBytesInRandomPlaces() {
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SeededGenerator(seed: seed)
        for round in 0..<1000 {
            var damaged = Self.sample
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                let index = Int.random(in: 0..<damaged.count, using: &random)
                damaged[index] =
                    [0, 0x20, 0x30, 0x37, 0x39, 0x80, 0xff, .random(in: 0...255, using: &random)]
                    .randomElement(using: &random) ?? 0
                if Bool.random(using: &random) {
                    let start = index / 512 * 512
                    var header = RawHeader("")
                    header.bytes = Array(damaged[start..<start + 512])
                    damaged.replaceSubrange(start..<start + 512, with: header.block())
                }
            }
            Self.check(damaged, "seed \(seed), round \(round)")
        }
    }
}

@Suite struct TarHeaderEncoderTests {
    @Test func whatIsWrittenIsReadBack() throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        var layer = RandomLayer(seed: seed)
        let files = layer.files(400)
        let read = try readArchive(MemorySource(archive(files), pieceSize: 5000))
        for (read, file) in zip(read, files) { #expect(read == file, "seed \(seed)") }
        #expect(read.count == files.count, "seed \(seed)")
    }

    @Test func plainEntriesNeedNoExtendedHeader() {
        #expect(TarHeaderEncoder.encode(regular("etc/hosts", "x").entry).count == 512)
        // 155 bytes of prefix, a slash, 100 bytes of name.
        let longest = String(repeating: "p", count: 155) + "/" + String(repeating: "n", count: 100)
        #expect(TarHeaderEncoder.encode(regular(longest, "x").entry).count == 512)
        #expect(TarHeaderEncoder.encode(regular(longest + "n", "x").entry).count == 3 * 512)
    }
}
