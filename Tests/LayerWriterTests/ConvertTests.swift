import BlockCodec
import LayerFormat
import LayerWriter
import OCIModel
import PosixIO
import Synchronization
import TestSupport
import Testing

/// A layer with a chunked file, an empty one, links, a device, and names and xattrs that JSON must escape.
private func sampleLayer() -> [TarFile] {
    var odd = regular("odd/\"quote\\ \u{1}\u{7f} ü \u{fffd}", "odd name")
    odd.entry.path += [0xff, 0xc3, 0x28, 0xed, 0xa0, 0x80]
    odd.entry.xattrs = [
        TarXattr(name: Array("user.b".utf8), value: [0, 255, 1]), TarXattr(name: Array("user.a".utf8), value: []),
    ]
    odd.entry.mtimeSeconds = -1
    odd.entry.mtimeNanoseconds = 250_000_000
    var device = TarEntry(path: Array("dev/sda1".utf8), kind: .block)
    (device.deviceMajor, device.deviceMinor, device.mode, device.gid) = (8, 70000, 0o660, 6)
    var owned = regular("owned", "x")
    (owned.entry.mode, owned.entry.uid, owned.entry.userName) = (0o4755, 3_000_000, Array("big".utf8))
    let text = (0..<3000).map { "line \($0)\n" }.joined()
    return [
        directory("./"), directory("dir"), regular("dir/big", text), regular("dir/empty", ""),
        link("dir/hard", to: "dir/big", .hardLink), link("sym", to: "../x", .symlink), odd, TarFile(entry: device),
        owned,
        regular("dir/exact", String(repeating: "e", count: 8192)),
        TarFile(entry: TarEntry(path: Array("pipe".utf8), kind: .fifo)),
    ]
}

/// What conversion keeps of an archive: all but what belongs to the format, directories with a slash.
private func kept(_ files: [TarFile]) -> [TarFile] {
    files.filter { file in
        !["stargz.index.json", ".prefetch.landmark", ".no.prefetch.landmark"].contains {
            Array($0.utf8) == file.entry.path
        }
    }.map { file in
        var file = file
        if file.entry.kind == .directory && file.entry.path.last != UInt8(ascii: "/") {
            file.entry.path += Array("/".utf8)
        }
        file.entry.holeBytes = 0
        return file
    }
}

private func convert(
    _ directory: borrowing TemporaryDirectory,
    _ input: [UInt8],
    _ name: String = "in.tar",
    to output: String = "out.esgz",
    _ change: (inout ConvertOptions) -> Void = { _ in }
) throws -> (result: ConvertResult, blob: [UInt8]) {
    try writeFile(directory.file(name), input)
    var options = ConvertOptions()
    options.chunkSize = 4096
    options.threads = 2
    change(&options)
    let result = try LayerConverter.convert(
        input: directory.file(name),
        output: directory.file(output),
        options: options
    )
    return (result, try fileBytes(directory.file(output)))
}

@Suite struct ConvertTests {
    @Test(arguments: [OutputFormat.estargz, .stargz])
    func theTarStreamKeepsAllEntriesAndTheirAttributes(format: OutputFormat) throws {
        let directory = try TemporaryDirectory("convert")
        let input = sampleLayer()
        let (result, blob) = try convert(directory, archive(input)) { $0.format = format }
        let files = try readArchive(try DecodedSource(MemorySource(blob)))
        #expect(kept(files) == kept(input))
        #expect(result.entries == input.count)
        let names = files.map { String(decoding: $0.entry.path, as: UTF8.self) }
        #expect(names.last == "stargz.index.json")
        #expect((names.first == ".no.prefetch.landmark") == (format == .estargz))
        #expect(files[0].content == (format == .estargz ? [0x0f] : []))
    }

    @Test(arguments: [OutputFormat.estargz, .stargz])
    func theResultNamesWhatWasWritten(format: OutputFormat) throws {
        let directory = try TemporaryDirectory("convert")
        let (result, blob) = try convert(directory, archive(sampleLayer())) { $0.format = format }
        #expect(result.blobDigest == (unsafe SHA256.digest(of: blob.span.bytes)))
        #expect(result.blobSize == UInt64(blob.count))
        var tar: [UInt8] = []
        var source = try DecodedSource(MemorySource(blob))
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 100_000, alignment: 1)
        defer { unsafe buffer.deallocate() }
        while case let count = try unsafe source.read(into: buffer), count > 0 {
            unsafe tar.append(contentsOf: buffer[..<count])
        }
        #expect(result.diffID == (unsafe SHA256.digest(of: tar.span.bytes)))
        #expect(result.uncompressedSize == UInt64(tar.count))
        let (_, offset, digest) = try readTOC(blob, footer: format == .estargz ? 51 : 47)
        #expect(result.tocOffset == UInt64(offset))
        #expect(result.tocDigest == digest)
        #expect(result.format == format)
    }

    @Test func theFooterIsTheOneOfTheFormat() throws {
        let directory = try TemporaryDirectory("convert")
        for (format, extra) in [(OutputFormat.estargz, [26, 0, 0x53, 0x47, 22, 0] as [UInt8]), (.stargz, [22, 0])] {
            let (result, blob) = try convert(directory, archive([])) { $0.format = format }
            let hex = String(result.tocOffset, radix: 16)
            let offset = Array((String(repeating: "0", count: 16 - hex.count) + hex + "STARGZ").utf8)
            let expected: [UInt8] =
                [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff] + extra + offset + [1, 0, 0, 0xff, 0xff]
                + [UInt8](repeating: 0, count: 8)
            #expect(Array(blob.suffix(expected.count)) == expected)
            #expect(expected.count == (format == .estargz ? 51 : 47))
        }
    }

    @Test(arguments: [OutputFormat.estargz, .stargz])
    func theTOCDescribesEveryEntry(format: OutputFormat) throws {
        let directory = try TemporaryDirectory("convert")
        let (_, blob) = try convert(directory, archive(sampleLayer())) { $0.format = format }
        let (toc, tocOffset, _) = try readTOC(blob, footer: format == .estargz ? 51 : 47)
        #expect(toc.version == 1)
        let entries = toc.entries.filter { $0.type != "chunk" && !$0.name.hasSuffix("landmark") }
        #expect(
            entries.map(\.type) == [
                "dir", "dir", "reg", "reg", "hardlink", "symlink", "reg", "block", "reg", "reg", "fifo",
            ]
        )
        #expect(entries[1].name == "dir/")
        #expect(entries[4].linkName == "dir/big" && entries[5].linkName == "../x")
        // One U+FFFD for each byte that is not UTF-8.
        #expect(entries[6].name == "odd/\"quote\\ \u{1}\u{7f} ü \u{fffd}\u{fffd}\u{fffd}(\u{fffd}\u{fffd}\u{fffd}")
        #expect(entries[6].xattrs == ["user.a": "", "user.b": "AP8B"])
        #expect(entries[6].modtime == "1969-12-31T23:59:59.25Z")
        #expect(entries[7].devMajor == 8 && entries[7].devMinor == 70000 && entries[7].gid == 6)
        #expect(entries[8].mode == 0o4755 && entries[8].uid == 3_000_000 && entries[8].userName == "big")
        #expect(entries[2].modtime == "2020-09-13T12:26:40Z" && entries[1].modtime == nil)
        #expect(entries.allSatisfy { ($0.NumLink != nil) == (format == .stargz) })
        try checkChunks(of: toc, in: blob, tocOffset: tocOffset, format: format)
    }

    /// Every chunk starts a member, and gives what its digest says; together they are the file.
    private func checkChunks(of toc: TOC, in blob: [UInt8], tocOffset: Int, format: OutputFormat) throws {
        var inflater = Inflater()
        var index = 0
        while index < toc.entries.count {
            let file = toc.entries[index]
            index += 1
            guard file.type == "reg" else { continue }
            var content: [UInt8] = []
            var chunks = file.size == nil ? [] : [file]
            while index < toc.entries.count, toc.entries[index].type == "chunk" {
                chunks.append(toc.entries[index])
                index += 1
            }
            for (number, chunk) in chunks.enumerated() {
                let isLast = number == chunks.count - 1
                #expect(chunk.name == file.name && (chunk.chunkOffset ?? 0) == number * 4096)
                #expect(chunk.chunkSize == (isLast ? nil : 4096), "the last chunk goes to the end of the file")
                let offset = try #require(chunk.offset)
                #expect(offset > 0 && offset < tocOffset)
                let count = isLast ? (file.size ?? 0) - number * 4096 : 4096
                let member = blob[offset..<tocOffset]
                let inflated = try unsafe inflater.inflate(Array(member).span.bytes, wanted: count, limit: 1 << 20)
                let payload = Array(inflated.share().array.prefix(count))
                let digest = unsafe SHA256.digest(of: payload.span.bytes)
                #expect(chunk.chunkDigest == (format == .estargz ? "\(digest)" : nil))
                content += payload
            }
            #expect(content.count == file.size ?? 0)
            #expect(file.digest == "\(unsafe SHA256.digest(of: content.span.bytes))")
        }
    }

    @Test func anyCompressionOfTheSameTarGivesTheSameBlob() throws {
        let directory = try TemporaryDirectory("convert")
        let tar = archive(sampleLayer())
        let (plain, _) = try convert(directory, tar)
        var deflater = Deflater(level: 1)
        var members: [UInt8] = []
        for start in stride(from: 0, to: tar.count, by: 5000) {
            members += unsafe deflater.gzip(Array(tar[start..<min(start + 5000, tar.count)]).span.bytes)
        }
        // The name says something else: the first bytes count.
        #expect(try convert(directory, members, "in.tar.zst").result.blobDigest == plain.blobDigest)
        if Requirement.program("zstd").runs {
            try runChecked("zstd", ["-q", "-f", directory.file("in.tar"), "-o", directory.file("z.tar.gz")])
            let zstd = try convert(directory, try fileBytes(directory.file("z.tar.gz")), "z.tar.gz")
            #expect(zstd.result.blobDigest == plain.blobDigest)
        }
    }

    @Test func theNumberOfThreadsChangesNothing() throws {
        let directory = try TemporaryDirectory("convert")
        let seed = UInt64.random(in: 0...UInt64.max)
        var layer = RandomLayer(seed: seed)
        let tar = archive(layer.files(300))
        let (one, _) = try convert(directory, tar) { $0.threads = 1 }
        for threads in [2, 3, 16] {
            let (more, _) = try convert(directory, tar) { $0.threads = threads }
            #expect(more == one, "seed \(seed)")
        }
    }

    @Test(arguments: [OutputFormat.estargz, .stargz])
    func convertingAResultAgainChangesNothing(format: OutputFormat) throws {
        let directory = try TemporaryDirectory("convert")
        let (first, blob) = try convert(directory, archive(sampleLayer())) { $0.format = format }
        let (again, _) = try convert(directory, blob, "again.esgz") { $0.format = format }
        #expect(again == first)
        // And from the other format it is the same as from the tar.
        let (_, other) = try convert(directory, archive(sampleLayer())) {
            $0.format = format == .stargz ? .estargz : .stargz
        }
        #expect(try convert(directory, other, "other") { $0.format = format }.result == first)
    }

    @Test func randomLayersComeBackAsTheyWere() throws {
        let directory = try TemporaryDirectory("convert")
        for _ in 0..<5 {
            let seed = UInt64.random(in: 0...UInt64.max)
            var layer = RandomLayer(seed: seed)
            let input = layer.files(100)
            let (_, blob) = try convert(directory, archive(input)) { $0.chunkSize = 8192 }
            let files = kept(try readArchive(try DecodedSource(MemorySource(blob))))
            for (file, expected) in zip(files, kept(input)) { #expect(file == expected, "seed \(seed)") }
            #expect(files.count == input.count, "seed \(seed)")
        }
    }

    @Test func membersBehindAChunkStayShort() throws {
        let directory = try TemporaryDirectory("convert")
        // Thousands of headers between two files.
        let links = (0..<3000).map { link("link\($0)", to: "file", .symlink) }
        let (_, blob) = try convert(directory, archive([regular("file", "content")] + links + [regular("last", "x")]))
        let (toc, _, _) = try readTOC(blob, footer: 51)
        let offset = try #require(toc.entries.first { $0.name == "file" }?.offset)
        var inflater = Inflater()
        let member = try unsafe inflater.inflate(Array(blob[offset...]).span.bytes, wanted: 7, limit: 1 << 20)
        #expect(member.count <= 7 + 8192)
    }

    @Test func sparseFilesAreWrittenInFull() throws {
        let directory = try TemporaryDirectory("convert")
        let records = [
            ("GNU.sparse.size", "70000"), ("GNU.sparse.map", "20000,2,69999,1"), ("GNU.sparse.name", "real"),
        ]
        let tar = paxHeader(records) + RawHeader("f", size: 3).block() + padded([1, 2, 3]) + TarHeaderEncoder.endMarker
        let (_, blob) = try convert(directory, tar)
        let file = try #require(try readArchive(try DecodedSource(MemorySource(blob))).dropFirst().first)
        var expected = [UInt8](repeating: 0, count: 70000)
        expected.replaceSubrange(20000..<20002, with: [1, 2])
        expected[69999] = 3
        #expect(file.content == expected && file.entry.holeBytes == 0)
        #expect {
            try convert(directory, tar) { $0.holeLimit = 69996 }
        } throws: { error in
            (error as? ConvertError)?.kind == .tooLarge && "\(error)".contains("real")
        }
    }
}

@Suite struct PriorityTests {
    private func order(_ files: [TarFile], _ paths: [String], format: OutputFormat = .estargz) throws -> (
        [String], ConvertResult
    ) {
        let directory = try TemporaryDirectory("priority")
        let (result, blob) = try convert(directory, archive(files)) {
            $0.prioritized = paths
            $0.format = format
        }
        let read = try readArchive(try DecodedSource(MemorySource(blob)))
        #expect(Set(kept(read).map(listLine)) == Set(kept(files).map(listLine)))
        #expect(kept(read).count == files.count)
        return (read.map { String(decoding: $0.entry.path, as: UTF8.self) }.dropLast().map { $0 }, result)
    }

    @Test func prioritizedFilesComeFirstWithWhatTheyNeed() throws {
        let files = [
            directory("./"), directory("a"), regular("a/x", "x"), directory("b"), regular("b/target", "t"),
            link("b/hard", to: "./b/target", .hardLink), regular("c", "c"),
        ]
        let (names, result) = try order(files, ["c", "/b/hard", "nowhere", "./a/x", "c"])
        #expect(names == ["./", "c", "b/", "b/target", "b/hard", "a/", "a/x", ".prefetch.landmark"])
        #expect(result.notMoved == ["nowhere"])
        #expect(result.entries == files.count)
        #expect(try order(files, ["c"], format: .stargz).0 == ["./", "c", "a/", "a/x", "b/", "b/target", "b/hard"])
        #expect(try order(files, ["nowhere"]).0.first == ".no.prefetch.landmark")
    }

    @Test func whatTheOrderOfTheInputDecidesStaysInPlace() throws {
        // The last file counts; a hard link means the one before it.
        let twice = [regular("a", "1"), link("l", to: "a", .hardLink), regular("a", "22"), regular("b", "b")]
        #expect(try order(twice, ["a", "l", "b"]).0 == ["b", ".prefetch.landmark", "a", "l", "a"])
        // A file that becomes a directory.
        let replaced = [regular("d", "1"), directory("d"), regular("d/x", "x")]
        #expect(try order(replaced, ["d/x"]).1.notMoved == ["d/x"])
        // Directories may repeat.
        let repeated = [directory("d", mode: 0o700), regular("d/y", "y"), directory("d"), regular("d/x", "x")]
        #expect(try order(repeated, ["d/x"]).0 == ["d/", "d/x", ".prefetch.landmark", "d/y", "d/"])
    }

    @Test func linksInARingEnd() throws {
        let ring = [link("a", to: "b", .hardLink), link("b", to: "a", .hardLink), regular("c", "c")]
        #expect(try order(ring, ["a"]).0 == ["b", "a", ".prefetch.landmark", "c"])
        let chain = (0..<3000).map { $0 == 0 ? regular("0", "x") : link("\($0)", to: "\($0 - 1)", .hardLink) }
        #expect(try order(chain + [regular("z", "z")], ["2999"]).0.firstIndex(of: ".prefetch.landmark") == 3000)
        #expect(try order([link("a", to: "below", .hardLink), regular("c", "c")], ["a"]).1.notMoved == [])
    }

    @Test func contentOfAllSizesIsMoved() throws {
        let files = (0..<40).map { regular("f\($0)", String(repeating: "\($0) ", count: $0 * 300)) }
        let paths = (0..<40).reversed().filter { $0 % 3 == 0 }.map { "f\($0)" }
        let (names, _) = try order(files, paths)
        #expect(Array(names.prefix(paths.count)) == paths)
    }
}

@Suite struct ConvertFailureTests {
    private func failure(_ body: () throws -> Void) -> ConvertError? {
        do {
            try body()
            return nil
        } catch {
            return error as? ConvertError
        }
    }

    @Test func theInputIsNeverOverwritten() throws {
        let directory = try TemporaryDirectory("convert")
        let tar = archive(sampleLayer())
        try writeFile(directory.file("x.esgz"), tar)
        try runChecked("ln", ["-s", "x.esgz", directory.file("link")])
        try runChecked("ln", [directory.file("x.esgz"), directory.file("hard")])
        for output in [
            nil, directory.file("x.esgz"), directory.file("link"), directory.file("hard"), directory.path + "/./x.esgz",
        ] {
            let error = failure { _ = try LayerConverter.convert(input: directory.file("x.esgz"), output: output) }
            #expect(error?.kind == .refused)
        }
        #expect(try fileBytes(directory.file("x.esgz")) == tar)
    }

    @Test func aFailureLeavesNothingBehind() throws {
        let directory = try TemporaryDirectory("convert")
        let tar = archive(sampleLayer())
        var deflater = Deflater(level: 1)
        let gzip = unsafe deflater.gzip(tar.span.bytes)
        var flipped = gzip
        flipped[gzip.count / 2] ^= 0x10
        var wrongChecksum = gzip
        wrongChecksum[gzip.count - 6] ^= 1
        let inputs: [(String, [UInt8])] = [
            ("empty", []), ("text", Array(repeating: 0x41, count: 5000)), ("cut", Array(tar.prefix(tar.count / 2))),
            ("gzip cut", Array(gzip.prefix(gzip.count / 2))), ("gzip without its last byte", Array(gzip.dropLast())),
            ("gzip flipped", flipped), ("gzip with a wrong checksum", wrongChecksum),
            ("dots", archive([regular("a/../../etc/passwd", "x")])),
        ]
        for (name, bytes) in inputs {
            let error = failure { _ = try convert(directory, bytes) }
            #expect(error?.kind == .input, "\(name)")
            #expect(
                error?.description.contains(directory.file("in.tar")) == true,
                "\(name): \(error?.description ?? "")"
            )
            #expect(try runChecked("ls", ["-A", directory.path]).text == "in.tar\n", "\(name)")
        }
    }

    @Test func missingFilesAndWrongKindsAreNamed() throws {
        let directory = try TemporaryDirectory("convert")
        let missing = failure { _ = try LayerConverter.convert(input: directory.file("missing.tar")) }
        #expect(missing?.kind == .system && missing?.description.contains("No such file") == true)
        #expect(failure { _ = try LayerConverter.convert(input: directory.path) }?.kind == .input)
        let toDirectory = failure { _ = try convert(directory, archive([]), to: "no/such/dir/out") }
        #expect(toDirectory?.kind == .system && toDirectory?.description.contains("no/such/dir/out") == true)
    }

    @Test func optionsHaveBounds() throws {
        let directory = try TemporaryDirectory("convert")
        let changes: [(inout ConvertOptions) -> Void] = [
            { $0.chunkSize = 4095 }, { $0.chunkSize = 33 << 20 }, { $0.level = 0 }, { $0.level = 13 },
            { $0.threads = 0 },
        ]
        for change in changes {
            #expect(
                failure { _ = try convert(directory, archive([]), "in.tar", to: "out", change) }?.kind == .invalidOption
            )
        }
    }

    @Test func theCallbackSeesProgressAndCanStop() throws {
        let directory = try TemporaryDirectory("convert")
        let big = regular("big", String(repeating: "0123456789abcdef", count: 500_000))
        try writeFile(directory.file("in.tar"), archive([big]))
        for prioritized in [[], ["big"]] {
            var options = ConvertOptions()
            options.prioritized = prioritized
            let seen = Mutex<[ConvertProgress]>([])
            _ = try LayerConverter.convert(
                input: directory.file("in.tar"),
                output: directory.file("out"),
                options: options
            ) { progress in
                seen.withLock { $0.append(progress) }
                return true
            }
            let steps = seen.withLock { $0 }
            #expect(steps.count > 5)
            #expect(steps.map(\.done) == steps.map(\.done).sorted())
            #expect(steps.last?.done == steps.last?.total)
        }
        let stopped = failure {
            _ = try LayerConverter.convert(input: directory.file("in.tar"), output: directory.file("never")) {
                $0.done == 0
            }
        }
        #expect(stopped?.kind == .cancelled)
        #expect(try runChecked("ls", ["-A", directory.path]).text == "in.tar\nout\n")
    }

    @Test(arguments: [
        ("x.tar", "x"), ("x.tar.gz", "x"), ("d/x.tgz", "d/x"), ("x.tar.zst", "x"), ("x.gz", "x"), ("x", "x"),
        ("x.stargz", "x"), ("x.esgz", "x"), (".tar", ".tar"), ("d/.tar", "d/.tar"), ("x.tar.gz.bak", "x.tar.gz.bak"),
    ])
    func theDefaultOutputIsBesideTheInput(input: String, stem: String) {
        #expect(LayerConverter.defaultOutput(for: input, format: .estargz) == stem + ".esgz")
        #expect(LayerConverter.defaultOutput(for: input, format: .stargz) == stem + ".stargz")
    }
}
