import LayerFormat
import OCIModel
import PosixIO
import Testing

/// What a layer shows of its TOC (spec sections 2 and 3).
@Suite struct TOCTests {
    private let directory: UInt32 = 0o040000
    private let regular: UInt32 = 0o100000

    private func paths(_ index: LayerIndex) -> [String] { index.rows().keys.sorted() }

    private func names(_ index: LayerIndex, in record: UInt32 = 0) -> [String] {
        index.children(record).map { text(index.name($0)) }
    }

    @Test func rootEntryHasManySpellings() throws {
        for name in ["./", "/", "//", "", ".", "/./", "././"] {
            let index = try build(toc(#""name":"\#(name)","type":"dir","mode":448,"uid":7"#))
            #expect(index.recordCount == 1)
            #expect(index.attributes(0).mode == directory | 0o700)
            #expect(index.attributes(0).uid == 7)
            #expect(index.attributes(0).flags == [])
        }
        let without = try build(toc())
        #expect(without.attributes(0).mode == directory | 0o755)
        #expect(without.attributes(0).flags == .implicit)
        #expect(without.attributes(0).linkCount == 2)
        #expect(text(without.name(0)) == "" && without.parent(0) == 0 && without.children(0).isEmpty)
    }

    @Test func spellingsOfAPathAreOne() throws {
        let index = try build(
            toc(
                #""name":"a/b","type":"dir","mode":448"#,
                #""name":"./a/b/","type":"dir","mode":493"#,
                #""name":"/a//b/./c","type":"fifo","mode":420"#,
                #""name":"a/./b//c/.","type":"fifo","mode":384"#
            )
        )
        #expect(paths(index) == ["", "/a", "/a/b", "/a/b/c"])
        #expect(index.attributes(index.find("a/b")!).mode == directory | 0o755)
        #expect(index.attributes(index.find("a/b/c")!).mode == 0o010600)
        #expect(index.attributes(index.find("a")!).flags == .implicit)
    }

    @Test func namesAreBytesAndSorted() throws {
        let index = try build(
            toc(
                #""name":"b","type":"fifo""#,
                #""name":"ab","type":"fifo""#,
                #""name":"a","type":"fifo""#,
                #""name":"\u00fc","type":"fifo""#,
                #""name":"a b\n\"\\","type":"fifo""#,
                #""name":"abcdefgh2","type":"fifo""#,
                #""name":"abcdefgh1","type":"fifo""#,
                #""name":"\ud83d\ude00","type":"fifo""#
            )
        )
        #expect(names(index) == ["a", "a b\n\"\\", "ab", "abcdefgh1", "abcdefgh2", "b", "ü", "😀"])
        for record in index.children(0) { #expect(index.lookup(index.name(record), in: 0) == record) }
        #expect(unsafe index.lookup([UInt8]("abc".utf8).span.bytes, in: 0) == nil)
        #expect(unsafe index.lookup([UInt8]().span.bytes, in: 0) == nil)
        #expect(unsafe index.lookup([UInt8](repeating: 97, count: 256).span.bytes, in: 0) == nil)
    }

    @Test func fieldsComeInAnyOrderAndUnknownOnesAreSkipped() throws {
        let json = Array(
            #"{"x":[{"entries":[1]}],"entries":[{"mode":420,"later":{"name":["q",{"type":3}]},"size":3,"type":"reg","chunkDigest":null,"offset":5,"na\u006de":"no","name":"f","uid":null}],"version":1,"z":1.5e9}"#
                .utf8
        )
        let index = try build(json)
        #expect(paths(index) == ["", "/f"])
        #expect(index.attributes(1).size == 3)
        #expect(index.chunk(0).digest == nil)
    }

    @Test func theLastOfRepeatedFieldsCounts() throws {
        let index = try build(
            toc(#""name":"a","name":"b","type":"reg","type":"fifo","mode":1,"mode":384,"uid":4,"uid":null"#)
        )
        #expect(paths(index) == ["", "/b"])
        #expect(index.attributes(1).mode == 0o010600 && index.attributes(1).uid == 0)
    }

    @Test func otherVersionsAreReadWithANote() throws {
        var notes: [String] = []
        _ = try build(Array(#"{"version":2,"entries":null}"#.utf8)) { notes.append($0) }
        #expect(notes == ["the TOC has version 2; read as version 1"])
    }

    @Test func modesOfTarAndOfGo() throws {
        for (given, expected) in [
            (0o4755, 0o4755), (0o6777, 0o6777), (0o1777, 0o1777), (0o100644, 0o644), (1 << 23 | 0o755, 0o4755),
            (1 << 22 | 0o711, 0o2711), (1 << 20 | 0o777, 0o1777), (1 << 31 | 1 << 20 | 0o777, 0o1777),
        ] {
            let index = try build(toc(#""name":"f","type":"fifo","mode":\#(given)"#))
            #expect(index.attributes(1).mode == 0o010000 | UInt32(expected))
        }
    }

    @Test func timesOfRFC3339() throws {
        for (given, seconds, nanoseconds) in [
            ("1970-01-01T00:00:00Z", 0, 0), ("2020-09-13T12:26:42Z", 1_600_000_002, 0),
            ("2009-02-13T23:31:30.5Z", 1_234_567_890, 500_000_000),
            ("2009-02-13T23:31:30.1234567899Z", 1_234_567_890, 123_456_789),
            ("2009-02-14T01:01:30+01:30", 1_234_567_890, 0),
            ("2009-02-13T22:31:30.25-01:00", 1_234_567_890, 250_000_000),
            ("1969-12-31T23:59:59Z", -1, 0), ("2040-01-01T00:00:00Z", 2_208_988_800, 0),
            ("2000-02-29T00:00:00Z", 951_782_400, 0), ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
            ("9999-12-31T23:59:59Z", 253_402_300_799, 0), ("0000-01-01T00:00:00Z", -62_167_219_200, 0),
        ] {
            let index = try build(toc(#""name":"f","type":"fifo","modtime":"\#(given)""#))
            #expect(index.attributes(1).mtimeSeconds == Int64(seconds), "\(given)")
            #expect(index.attributes(1).mtimeNanoseconds == UInt32(nanoseconds), "\(given)")
        }
    }

    @Test func devicesAndLinks() throws {
        let index = try build(
            toc(
                #""name":"null","type":"char","devMajor":1,"devMinor":3"#,
                #""name":"sda","type":"block","devMajor":254,"devMinor":70000"#,
                #""name":"link","type":"symlink","linkName":"../x/y""#
            )
        )
        #expect(index.attributes(index.find("null")!).device == 0x103)
        #expect(index.attributes(index.find("sda")!).device == 0x1110_fe70)
        let link = index.find("link")!
        #expect(text(index.linkTarget(link)) == "../x/y" && index.attributes(link).size == 6)
        #expect(index.linkTarget(0).byteCount == 0)
    }

    // MARK: Replacement

    @Test func aLaterEntryReplacesAnEarlierOne() throws {
        let index = try build(
            toc(
                #""name":"f","type":"reg","size":5,"offset":10"#,
                #""name":"f","type":"symlink","linkName":"x""#,
                #""name":"d/old","type":"fifo""#,
                #""name":"d","type":"fifo""#,
                #""name":"d","type":"dir","mode":448"#,
                #""name":"d/new","type":"fifo""#,
                #""name":"e/kept","type":"fifo""#,
                #""name":"e/","type":"dir","mode":448"#
            )
        )
        #expect(paths(index) == ["", "/d", "/d/new", "/e", "/e/kept", "/f"])
        #expect(index.attributes(index.find("f")!).mode & 0o170000 == 0o120000)
        #expect(index.attributes(index.find("e")!).mode == directory | 0o700)
        #expect(index.chunkCount == 0)
    }

    @Test func aFileOnTheWayBecomesADirectory() throws {
        var notes: [String] = []
        let index = try build(toc(#""name":"f","type":"reg""#, #""name":"f/x","type":"fifo""#)) { notes.append($0) }
        #expect(paths(index) == ["", "/f", "/f/x"])
        #expect(notes.count == 1 && notes[0].contains("f/x"))
    }

    // MARK: Hard links

    @Test func linksShareTheInodeOfTheirTime() throws {
        let index = try build(
            toc(
                #""name":"b","type":"reg","size":4,"offset":10,"mode":420"#,
                #""name":"a","type":"hardlink","linkName":"./b""#,
                #""name":"b","type":"reg","size":9,"offset":20,"mode":384"#,
                #""name":"c","type":"hardlink","linkName":"/b""#
            )
        )
        let (a, b, c) = (index.find("a")!, index.find("b")!, index.find("c")!)
        #expect(index.inode(a) == a && index.attributes(a).size == 4 && index.attributes(a).linkCount == 1)
        #expect(index.inode(c) == b && index.attributes(c).size == 9 && index.attributes(c).linkCount == 2)
        #expect(index.chunks(c) == index.chunks(b) && index.chunks(c).count == 1)
        #expect(index.chunk(index.chunks(c).lowerBound).record == b)
    }

    @Test func linksResolveForwardAndInChains() throws {
        let index = try build(
            toc(
                #""name":"1","type":"hardlink","linkName":"2""#,
                #""name":"2","type":"hardlink","linkName":"3""#,
                #""name":"3","type":"hardlink","linkName":"dir/target""#,
                #""name":"dir/target","type":"symlink","linkName":"else","uid":5"#,
                #""name":"4","type":"hardlink","linkName":"1""#,
                #""name":"fifo","type":"fifo""#,
                #""name":"fifo2","type":"hardlink","linkName":"fifo""#
            )
        )
        let group = Set(["1", "2", "3", "4", "dir/target"].map { index.inode(index.find($0)!) })
        #expect(group.count == 1)
        #expect(index.attributes(index.find("4")!).linkCount == 5)
        #expect(text(index.linkTarget(index.find("2")!)) == "else")
        #expect(index.inode(index.find("fifo2")!) == index.inode(index.find("fifo")!))
    }

    @Test func cyclesOfLinksAreOneError() {
        for json in [
            toc(#""name":"a","type":"hardlink","linkName":"a""#),
            toc(#""name":"a","type":"hardlink","linkName":"b""#, #""name":"b","type":"hardlink","linkName":"a""#),
            toc(
                #""name":"x","type":"hardlink","linkName":"a""#,
                #""name":"a","type":"hardlink","linkName":"b""#,
                #""name":"b","type":"hardlink","linkName":"c""#,
                #""name":"c","type":"hardlink","linkName":"a""#
            ),
        ] {
            let error = failure(json)
            #expect(error?.kind == .corrupt)
            #expect(error?.reason.contains("cycle of hard links") == true)
        }
    }

    /// A cycle that a later entry breaks is none.
    @Test func replacedLinksAreNoCycle() throws {
        let index = try build(
            toc(
                #""name":"a","type":"hardlink","linkName":"b""#,
                #""name":"b","type":"hardlink","linkName":"a""#,
                #""name":"a","type":"fifo""#
            )
        )
        #expect(index.inode(index.find("b")!) == index.inode(index.find("a")!))
        #expect(
            try build(toc(#""name":"a","type":"fifo""#, #""name":"a","type":"hardlink","linkName":"a""#)).recordCount
                == 2
        )
    }

    @Test func linksWithoutTargetAreLeftOutWithANote() throws {
        var notes: [String] = []
        let index = try build(
            toc(
                #""name":"gone","type":"hardlink","linkName":"lower/file""#,
                #""name":"d/","type":"dir""#,
                #""name":"todir","type":"hardlink","linkName":"d""#,
                #""name":".wh.w","type":"reg""#,
                #""name":"tow","type":"hardlink","linkName":"w""#,
                #""name":"later","type":"hardlink","linkName":"dd""#,
                #""name":"dd/","type":"dir""#
            )
        ) { notes.append($0) }
        #expect(paths(index) == ["", "/d", "/dd", "/w"])
        #expect(notes.count == 4)
    }

    @Test func noteLinesAreBounded() throws {
        var notes: [String] = []
        let entries = (0..<5000).map { #"{"name":"l\#($0)","type":"hardlink","linkName":"none"}"# }
        _ = try build(Array("{\"version\":1,\"entries\":[\(entries.joined(separator: ","))]}".utf8)) {
            notes.append($0)
        }
        #expect(notes.count == 9)
        #expect(notes.last?.contains("4992 more") == true)
    }

    // MARK: Whiteouts

    @Test func whiteoutsAreDevicesUnlessTheNameIsThere() throws {
        let index = try build(
            toc(
                #""name":"d/.wh.gone","type":"reg""#,
                #""name":"d/.wh.file","type":"reg""#,
                #""name":"d/file","type":"fifo""#,
                #""name":"d/dir/","type":"dir""#,
                #""name":"d/.wh.dir","type":"reg""#,
                #""name":"dev","type":"char","mode":384"#
            )
        )
        #expect(paths(index) == ["", "/d", "/d/dir", "/d/file", "/d/gone", "/dev"])
        let gone = index.attributes(index.find("d/gone")!)
        #expect(gone.mode == 0o020000 && gone.device == 0 && gone.flags == .whiteout && gone.linkCount == 1)
        #expect(index.attributes(index.find("d/file")!).flags == [])
        #expect(index.attributes(index.find("d/dir")!).flags == [.opaque, .replacesLower])
        #expect(index.attributes(index.find("dev")!).flags == .whiteout)
    }

    @Test func opaqueMarkersComeBeforeOrAfterOrAlone() throws {
        let index = try build(
            toc(
                #""name":"a/.wh..wh..opq","type":"reg""#,
                #""name":"a/x","type":"fifo""#,
                #""name":"b/","type":"dir","mode":448"#,
                #""name":"b/x","type":"fifo""#,
                #""name":"b/.wh..wh..opq","type":"reg""#,
                #""name":"b/","type":"dir","mode":493"#,
                #""name":"c/.wh..wh..opq","type":"reg""#,
                #""name":"c","type":"fifo""#,
                #""name":"c/","type":"dir""#
            )
        )
        #expect(paths(index) == ["", "/a", "/a/x", "/b", "/b/x", "/c"])
        #expect(index.attributes(index.find("a")!).flags == [.opaque, .implicit])
        #expect(index.attributes(index.find("b")!).flags == .opaque)
        #expect(index.attributes(index.find("c")!).flags == [])
    }

    @Test func namesThatHideNothingAreIgnored() throws {
        var notes: [String] = []
        let index = try build(
            toc(
                #""name":".wh.","type":"reg""#,
                #""name":".wh..","type":"reg""#,
                #""name":".wh...","type":"reg""#,
                #""name":".wh.d/x","type":"reg""#,
                #""name":".wh..wh.aufs","type":"reg""#,
                #""name":".wh..wh.plnk/1.2","type":"reg","size":3,"offset":9,"uid":4"#,
                #""name":"f","type":"hardlink","linkName":".wh..wh.plnk/1.2""#
            )
        ) { notes.append($0) }
        #expect(paths(index) == ["", "/f"])
        #expect(index.attributes(1).uid == 4 && index.attributes(1).size == 3)
        #expect(notes.count == 4)
    }

    @Test func landmarksAndTheTOCAreHiddenInTheRootOnly() throws {
        let index = try build(
            toc(
                #""name":".prefetch.landmark","type":"reg","size":1,"offset":77"#,
                #""name":"stargz.index.json","type":"reg","size":1,"offset":99"#,
                #""name":"d/.prefetch.landmark","type":"reg""#,
                #""name":"d/stargz.index.json","type":"fifo""#
            )
        )
        #expect(paths(index) == ["", "/d", "/d/.prefetch.landmark", "/d/stargz.index.json"])
        #expect(index.prefetchEnd == 77)
        #expect(index.chunkCount == 0)
    }

    // MARK: Xattrs

    @Test func xattrsAreDecodedAndOverlaysDropped() throws {
        var notes: [String] = []
        let index = try build(
            toc(
                #""name":"f","type":"fifo","xattrs":{"user.b":"AQID","trusted.overlay.opaque":"eQ==","user.a":"","user.overlay.x":"eQ==","user.n":null,"user.b":"/+8="}"#,
                #""name":"g","type":"fifo","xattrs":{"trusted.overlay.opaque":"eQ=="}"#
            )
        ) { notes.append($0) }
        var found: [String] = []
        index.forEachXattr(index.find("f")!) { name, value in
            found.append("\(text(name))=\(bytes(value))")
            return true
        }
        #expect(found == ["user.a=[]", "user.n=[]", "user.b=[255, 239]"])
        #expect(index.attributes(index.find("f")!).flags == .hasXattrs)
        #expect(index.attributes(index.find("g")!).flags == [])
        #expect(notes.count == 1 && notes[0].contains("3 xattrs"))
        #expect(index.xattrValue("f", "user.b") == [255, 239])
        #expect(index.xattrValue("f", "user.") == nil)
        #expect(index.xattrValue("g", "user.b") == nil)
        var calls = 0
        index.forEachXattr(index.find("f")!) { _, _ in
            calls += 1
            return false
        }
        #expect(calls == 1)
    }

    // MARK: Chunks

    @Test func chunksFollowTheirFile() throws {
        let digest = String(repeating: "ab", count: 32)
        let index = try build(
            toc(
                #""name":"big","type":"reg","size":25,"offset":100,"chunkSize":10,"digest":"sha256:\#(digest)""#,
                #""name":"big","type":"chunk","offset":300,"chunkOffset":20"#,
                #""name":"big","type":"chunk","offset":200,"chunkOffset":10,"chunkSize":10,"chunkDigest":"sha256:\#(digest)""#,
                #""name":"small","type":"reg","size":5,"offset":400,"innerOffset":512,"digest":"sha256:\#(digest)""#,
                #""name":"shared","type":"reg","size":6,"offset":400,"innerOffset":1536"#,
                #""name":"zero","type":"reg","size":7,"chunkType":"zeros""#,
                #""name":"empty","type":"reg","digest":"x""#
            )
        )
        let big = index.chunks(index.find("big")!).map { index.chunk($0) }
        #expect(big.map(\.fileOffset) == [0, 10, 20] && big.map(\.length) == [10, 10, 5])
        #expect(
            big.map(\.member) == [
                ByteRange(offset: 100, count: 100), ByteRange(offset: 200, count: 100),
                ByteRange(offset: 300, count: 100),
            ]
        )
        #expect(big.map { $0.digest == nil } == [true, false, true])
        let small = index.chunk(index.chunks(index.find("small")!).lowerBound)
        #expect(small.digest?.hex == digest && small.innerOffset == 512)
        #expect(small.member == ByteRange(offset: 400, count: 999_600))
        let zero = index.chunk(index.chunks(index.find("zero")!).lowerBound)
        #expect(zero.isZeros && zero.member.count == 0 && zero.length == 7)
        #expect(index.chunks(index.find("empty")!).isEmpty)
        #expect(index.chunkIndex(index.find("big")!, at: 24) == index.chunks(index.find("big")!).upperBound - 1)
    }
}
