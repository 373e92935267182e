import BlockCodec
import LayerFormat
import LayerWriter
import OCIModel
import PosixIO
import TestSupport
import Testing

/// crfs's own index reader on what the converter writes.
@Suite struct OwnReaderTests {
    private func index(_ blob: [UInt8], _ result: ConvertResult) throws -> LayerIndex {
        let size = UInt64(blob.count)
        let footer = try unsafe Footer(tail: blob.span.bytes, blobSize: size)
        #expect(footer.tocOffset == result.tocOffset)
        let kinds: [OutputFormat: IndexFormat] = [
            .estargz: .estargz, .stargz: .stargz, .zstdChunked: .zstdChunked,
        ]
        #expect(footer.kind == kinds[result.format])
        let source = TOCSource(
            layerDigest: result.blobDigest,
            blobSize: size,
            tocOffset: footer.tocOffset,
            promisedDigest: result.tocDigest,
            promisedFrameDigest: result.tocFrameDigest,
            format: footer.kind
        )
        if let frame = footer.frame {
            #expect(result.tocFramePosition.flatMap { TOCFrame(annotation: $0) } == frame)
            let toc = blob[Int(frame.offset)..<Int(frame.offset + frame.compressedSize)]
            let bytes = try unsafe LayerIndexBuilder.build(tocFrame: toc.span.bytes, frame, source: source) { _ in }
            return try LayerIndex(bytes: bytes.share(), layer: result.blobDigest)
        }
        let toc = Array(blob[Int(footer.tocOffset)...])
        let bytes = try unsafe LayerIndexBuilder.build(tocMember: toc.span.bytes, source: source) { _ in }
        return try LayerIndex(bytes: bytes.share(), layer: result.blobDigest)
    }

    private func find(_ path: String, in index: LayerIndex) -> UInt32? {
        var record: UInt32? = 0
        for component in path.split(separator: "/") where component != "." {
            let name = Array(component.utf8)
            record = record.flatMap { unsafe index.lookup(name.span.bytes, in: $0) }
        }
        return record
    }

    @Test(arguments: [OutputFormat.estargz, .stargz, .zstdChunked], [[], ["dir/late", "last"]])
    func everyFileIsReadThroughTheIndex(format: OutputFormat, prioritized: [String]) throws {
        let directory = try TemporaryDirectory("own")
        let text = (0..<5000).map { "line \($0)\n" }.joined()
        let files = [
            directoryEntry("./"), directoryEntry("dir"), regular("dir/big", text),
            regular("dir/late", String(text.prefix(9000))),
            regular("empty", ""), regular("last", "the end"),
        ]
        try writeFile(directory.file("in.tar"), archive(files))
        var options = ConvertOptions()
        (options.format, options.chunkSize, options.prioritized) = (format, 4096, prioritized)
        let result = try LayerConverter.convert(input: directory.file("in.tar"), options: options)
        let blob = try fileBytes(result.path)
        let index = try index(blob, result)
        #expect(find("stargz.index.json", in: index) == nil)
        // zstd:chunked has a landmark only where it says something.
        let hasLandmark = format == .estargz || format == .zstdChunked && !prioritized.isEmpty
        #expect((index.prefetchEnd != nil) == hasLandmark)
        if format == .estargz { #expect(((index.prefetchEnd ?? 0) > 0) == !prioritized.isEmpty) }
        var inflater = Inflater()
        var decoder = FrameDecoder()
        for file in files where file.entry.kind == .regular {
            let path = String(decoding: file.entry.path, as: UTF8.self)
            let record = try #require(find(path, in: index), "\(path)")
            #expect(index.attributes(record).size == file.entry.size)
            #expect(index.attributes(record).mtimeSeconds == file.entry.mtimeSeconds)
            var content: [UInt8] = []
            for number in index.chunks(record) {
                let chunk = index.chunk(number)
                let member = Array(blob[Int(chunk.member.offset)..<Int(chunk.member.end)])
                let count = Int(chunk.length)
                let inflated =
                    format == .zstdChunked
                    ? try unsafe decoder.decode(member.span.bytes, wanted: count, limit: 1 << 20)
                    : try unsafe inflater.inflate(member.span.bytes, wanted: count, limit: 1 << 20)
                if format == .zstdChunked { #expect(inflated.count == count && chunk.digest != nil) }
                let payload = Array(inflated.share().array.prefix(count))
                if let digest = chunk.digest { #expect(unsafe SHA256.digest(of: payload.span.bytes) == digest) }
                content += payload
                // What a prefetch brings is in front of the landmark.
                if prioritized.contains(path), let end = index.prefetchEnd { #expect(chunk.member.end <= end) }
            }
            #expect(content == file.content, "\(path)")
        }
    }

    private func directoryEntry(_ path: String) -> TarFile { directory(path) }
}
