import BlockCodec
import LayerFormat
import OCIModel
import PosixIO
import Testing

/// TOCs that contradict the format are one clear error each, or harmless; none crashes, hangs or takes memory.
@Suite struct BadTOCTests {
    private func expect(_ kind: LayerFormatError.Kind, _ word: String, _ json: [UInt8]) {
        let error = failure(json)
        #expect(error?.kind == kind, "\(word): \(String(describing: error))")
        #expect(error?.reason.contains(word) == true, "\(word): \(String(describing: error))")
    }

    @Test func whatIsNoTOCIsRefused() {
        expect(.corrupt, "not valid JSON", [])
        expect(.corrupt, "not valid JSON", Array("{".utf8))
        expect(.corrupt, "is not an object", Array("[]".utf8))
        expect(.corrupt, "\"entries\" is missing", Array("{}".utf8))
        expect(.corrupt, "\"entries\" is not a list", Array(#"{"entries":{}}"#.utf8))
        expect(.corrupt, "\"entries\" is there twice", Array(#"{"entries":[],"entries":[]}"#.utf8))
        expect(.corrupt, "is not an object", Array(#"{"entries":[3]}"#.utf8))
        expect(
            .corrupt,
            "not UTF-8",
            Array(#"{"entries":[{"name":""#.utf8) + [0xff] + Array(#"","type":"dir"}]}"#.utf8)
        )
        expect(.corrupt, "\"name\" has a wrong escape", toc(#""name":"\ud800x","type":"dir""#))
        expect(.corrupt, "\"version\" is not a whole number", Array(#"{"version":"1","entries":[]}"#.utf8))
    }

    @Test func fieldsOfTheWrongTypeAreRefused() {
        expect(.corrupt, "\"name\" is not a string", toc(#""name":5,"type":"dir""#))
        expect(.corrupt, "\"xattrs\" is not an object", toc(#""name":"a","type":"dir","xattrs":[]"#))
        expect(.corrupt, "\"xattrs\" is not a string", toc(#""name":"a","type":"dir","xattrs":{"user.a":1}"#))
        for number in ["-1", "1.5", "1e3", "\"1\"", "18446744073709551616", "[]", "true"] {
            for field in [
                "size", "mode", "uid", "gid", "offset", "devMajor", "chunkSize", "chunkOffset", "innerOffset",
            ] {
                let error = failure(toc(#""name":"some/file","type":"reg","\#(field)":\#(number)"#))
                #expect(error?.kind == .corrupt, "\(field) \(number)")
                #expect(error?.reason.contains("entry 0 of the TOC (\"some/file\"): \"\(field)\"") == true)
            }
        }
    }

    @Test func entriesNeedATypeAndAName() {
        expect(.corrupt, "has the type \"socket\"", toc(#""name":"a","type":"socket""#))
        expect(.corrupt, "has the type without a name", toc(#""name":"a""#))
        expect(.corrupt, "has no name", toc(#""type":"fifo""#))
        expect(.corrupt, "makes the root not a directory", toc(#""name":"./","type":"fifo""#))
        expect(.corrupt, "makes the root a hard link", toc(#""name":"/","type":"hardlink","linkName":"x""#))
        expect(.corrupt, "hard link without a target", toc(#""name":"a","type":"hardlink""#))
        expect(.corrupt, "symlink without a target", toc(#""name":"a","type":"symlink","linkName":"""#))
    }

    @Test func impossiblePathsAreRefused() {
        for name in ["..", "a/..", "../a", "a/../b", "/..", "./../a"] {
            expect(.corrupt, "\"..\"", toc(#""name":"\#(name)","type":"dir""#))
            expect(.corrupt, "\"..\"", toc(#""name":"x","type":"hardlink","linkName":"\#(name)""#))
        }
        expect(.corrupt, "NUL", toc(#""name":"a\u0000b","type":"dir""#))
        expect(.corrupt, "links to a path", toc(#""name":"a","type":"hardlink","linkName":"b\u0000""#))
        expect(.corrupt, "NUL", toc(#""name":"a","type":"symlink","linkName":"b\u0000""#))
        expect(.corrupt, "name of 256 bytes", toc(#""name":"\#(String(repeating: "n", count: 256))","type":"dir""#))
        expect(.corrupt, "name of 256 bytes", toc(#""name":"\#(String(repeating: "n", count: 256))/a","type":"dir""#))
        #expect(failure(toc(#""name":"\#(String(repeating: "n", count: 255))","type":"dir""#)) == nil)
        #expect(failure(toc(#""name":"..a/b..","type":"dir""#)) == nil)
    }

    @Test func deepNestingIsBounded() throws {
        expect(.corrupt, "200000 bytes", toc(#""name":"\#(String(repeating: "d/", count: 100_000))","type":"dir""#))
        let deep = try build(toc(#""name":"\#(String(repeating: "d/", count: 2048))","type":"dir""#))
        #expect(deep.recordCount == 2049)
        #expect(deep.path(2048).count == 4095)
        let nested = String(repeating: "[", count: 100_000) + String(repeating: "]", count: 100_000)
        #expect(failure(toc(#""x":\#(nested),"name":"a","type":"dir""#)) == nil)
    }

    @Test func sizesAndPlacesAreChecked() {
        expect(.corrupt, "2^63 or more", toc(#""name":"a","type":"reg","size":9223372036854775808"#))
        expect(.tooLarge, "32 MiB", toc(#""name":"a","type":"reg","size":9223372036854775807"#))
        expect(.tooLarge, "32 MiB", toc(#""name":"a","type":"reg","size":33554433,"offset":1"#))
        #expect(failure(toc(#""name":"a","type":"reg","size":33554432,"offset":1"#)) == nil)
        expect(.corrupt, "the TOC starts at 1000000", toc(#""name":"a","type":"reg","size":1,"offset":1000000"#))
        expect(.corrupt, "the TOC starts at", toc(#""name":"a","type":"reg","size":1,"offset":18446744073709551615"#))
        expect(.tooLarge, "innerOffset", toc(#""name":"a","type":"reg","size":1,"innerOffset":18446744073709551615"#))
        expect(.corrupt, "32 bits", toc(#""name":"a","type":"dir","uid":4294967296"#))
        expect(.corrupt, "32 bits", toc(#""name":"a","type":"dir","gid":4294967296"#))
        expect(.corrupt, "32 bits", toc(#""name":"a","type":"char","devMinor":4294967296"#))
    }

    @Test func chunksMustCoverTheirFile() {
        func file(_ chunks: String...) -> [UInt8] {
            let first = #"{"name":"f","type":"reg","size":30,"offset":1,"chunkSize":10}"#
            let entries = [first] + chunks.map { #"{"name":"f","type":"chunk",\#($0)}"# }
            return Array("{\"version\":1,\"entries\":[\(entries.joined(separator: ","))]}".utf8)
        }
        #expect(failure(file(#""offset":2,"chunkOffset":10"#)) == nil)
        #expect(failure(file(#""offset":3,"chunkOffset":20"#, #""offset":2,"chunkOffset":10,"chunkSize":10"#)) == nil)
        expect(.corrupt, "10 of 30 bytes", file())
        expect(.corrupt, "overlap at byte 5", file(#""offset":2,"chunkOffset":5"#))
        expect(.corrupt, "overlap at byte 0", file(#""offset":2"#))
        expect(.corrupt, "a gap before them at byte 11", file(#""offset":2,"chunkOffset":11"#))
        expect(.corrupt, "overlap at byte 10", file(#""offset":2,"chunkOffset":10"#, #""offset":3,"chunkOffset":10"#))
        expect(.corrupt, "behind the file's end", file(#""offset":2,"chunkOffset":30"#))
        expect(.corrupt, "behind the file's end", file(#""offset":2,"chunkOffset":10,"chunkSize":21"#))
        expect(.corrupt, "behind the file's end", file(#""offset":2,"chunkOffset":18446744073709551615"#))
        expect(
            .corrupt,
            "behind the file's end",
            file(#""offset":2,"chunkOffset":10,"chunkSize":18446744073709551615"#)
        )
        expect(.corrupt, "does not follow its file", toc(#""name":"f","type":"chunk","offset":2"#))
        expect(
            .corrupt,
            "does not follow its file",
            toc(#""name":"f","type":"reg","size":3"#, #""name":"d","type":"dir""#, #""name":"f","type":"chunk""#)
        )
    }

    @Test func textsMustBeWhatTheyAre() {
        expect(.corrupt, "chunkDigest", toc(#""name":"a","type":"reg","size":1,"chunkDigest":"sha256:12""#))
        expect(.corrupt, "has the digest", toc(#""name":"a","type":"reg","size":1,"digest":"md5:12""#))
        let upper = String(repeating: "AB", count: 32)
        let letters = String(repeating: "ag", count: 32)
        let signs = String(repeating: "a:", count: 32)
        for hex in [
            upper, letters, signs, String(repeating: "a/", count: 32), String(repeating: "0é", count: 21) + "0",
        ] {
            expect(
                .corrupt,
                "not a SHA-256 digest",
                toc(#""name":"a","type":"reg","size":1,"chunkDigest":"sha256:\#(hex)""#)
            )
        }
        expect(.corrupt, "chunk of the type \"holes\"", toc(#""name":"a","type":"reg","size":1,"chunkType":"holes""#))
        for time in [
            "now", "2020-13-01T00:00:00Z", "2020-02-30T00:00:00Z", "2020-01-01T00:00:00", "2020-01-01T24:00:00Z",
            "2020-01-01T00:00:00.Z", "2020-01-01T00:00:00+1:00", "2020-01-01 00:00:00Z", "2020-01-01T00:00:00Zx",
            "+020-01-01T00:00:00Z",
        ] {
            expect(.corrupt, "not an RFC 3339 time", toc(#""name":"a","type":"dir","modtime":"\#(time)""#))
        }
        for value in ["A", "AA", "AAA", "A===", "AA=A", "*AAA", "AAAA=", "====", "AAAAA"] {
            expect(.corrupt, "base64", toc(#""name":"a","type":"dir","xattrs":{"user.a":"\#(value)"}"#))
        }
        let large = String(repeating: "AAAA", count: 65536 / 3 + 1)
        expect(.corrupt, "above 64 KiB", toc(#""name":"a","type":"dir","xattrs":{"user.a":"\#(large)"}"#))
        expect(.corrupt, "an xattr with the name", toc(#""name":"a","type":"dir","xattrs":{"":"AAAA"}"#))
        let many = (0..<257).map { "\"user.\($0)\":\"\"" }.joined(separator: ",")
        expect(.tooLarge, "256 xattrs", toc(#""name":"a","type":"dir","xattrs":{\#(many)}"#))
    }

    @Test func messagesEscapeNames() {
        let error = failure(toc(#""name":"a\n\u001b[31m\"/..","type":"dir""#))
        #expect(error?.reason == #"TOC entry "a\n\u{1B}[31m\"/.." has a ".." in its path"#)
    }

    /// Any cut of a TOC's JSON is refused, and no flipped bit does harm.
    @Test func cutAndFlippedJSON() throws {
        let digest = String(repeating: "0f", count: 32)
        let whole = toc(
            #""name":"d/","type":"dir","mode":493,"modtime":"2020-01-01T00:00:00Z""#,
            #""name":"d/f","type":"reg","size":20,"offset":5,"chunkSize":10,"chunkDigest":"sha256:\#(digest)""#,
            #""name":"d/f","type":"chunk","offset":9,"chunkOffset":10"#,
            #""name":"l","type":"hardlink","linkName":"d/f""#,
            #""name":"x","type":"symlink","linkName":"d","xattrs":{"user.a":"AAAA"}"#,
            #""name":"d/.wh.y","type":"reg""#
        )
        _ = try build(whole)
        for count in 0..<whole.count { #expect(failure(Array(whole.prefix(count)))?.kind == .corrupt) }
        for index in whole.indices {
            for bit in 0..<8 {
                var flipped = whole
                flipped[index] ^= 1 << UInt8(bit)
                if let error = failure(flipped) {
                    #expect(error.kind == .corrupt || error.kind == .tooLarge)
                }
            }
        }
    }

    // MARK: Members

    private static func source(_ blob: CorpusFiles.Blob) throws -> (TOCSource, [UInt8]) {
        let footer = try unsafe Footer(tail: blob.bytes.span.bytes, blobSize: UInt64(blob.bytes.count))
        let source = TOCSource(
            layerDigest: blob.digest,
            blobSize: UInt64(blob.bytes.count),
            tocOffset: footer.tocOffset,
            promisedDigest: nil
        )
        return (source, Array(blob.bytes[Int(footer.tocOffset)...]))
    }

    private func memberFailure(_ member: [UInt8], _ source: TOCSource) -> LayerFormatError? {
        do throws(LayerFormatError) {
            _ = try unsafe LayerIndexBuilder.build(tocMember: member.span.bytes, source: source) { _ in }
            return nil
        } catch {
            return error
        }
    }

    @Test func cutMembersAreRefused() throws {
        let (source, member) = try BadTOCTests.source(try CorpusFiles.layers("estargz")[2])
        #expect(memberFailure(member, source) == nil)
        let end = member.count - 51
        #expect(memberFailure(Array(member.prefix(end)), source) == nil)
        for count in 0..<end {
            #expect(memberFailure(Array(member.prefix(count)), source)?.kind == .corrupt, "\(count)")
        }
    }

    /// The member's CRC catches every flip that changes what comes out; the digest never has to.
    @Test func flippedMembersAreRefused() throws {
        let blob = try CorpusFiles.layers("estargz")[2]
        var (source, member) = try BadTOCTests.source(blob)
        source.promisedDigest = blob.tocDigest
        for index in 0..<member.count - 51 {
            member[index] ^= 1 << UInt8(index % 8)
            let error = memberFailure(member, source)
            #expect(error == nil || error?.kind == .corrupt, "\(index)")
            member[index] ^= 1 << UInt8(index % 8)
        }
    }

    @Test func otherMembersAreRefused() throws {
        let blob = try CorpusFiles.layers("estargz")[0]
        var (source, _) = try BadTOCTests.source(blob)
        // The first member of the blob holds the tar headers of files.
        let error = memberFailure(blob.bytes, source)
        #expect(error?.kind == .corrupt)
        source.promisedDigest = testLayer
        let (_, member) = try BadTOCTests.source(blob)
        #expect(memberFailure(member, source)?.kind == .digestMismatch)
        #expect(memberFailure([], source)?.kind == .corrupt)
    }
}
