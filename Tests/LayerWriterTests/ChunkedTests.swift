import BlockCodec
import LayerFormat
import LayerWriter
import OCIModel
import PosixIO
import TestSupport
import Testing

/// What the converter writes as zstd:chunked.
@Suite struct ChunkedTests {
    private let files = [
        directory("d"), regular("d/a", String(repeating: "first file\n", count: 2000)), regular("d/b", "b"),
        regular("d/empty", ""), link("d/hard", to: "d/a", .hardLink), link("d/soft", to: "a", .symlink),
        regular("late", String(repeating: "x", count: 10_000)),
    ]

    private func convert(
        _ directory: borrowing TemporaryDirectory,
        _ change: (inout ConvertOptions) -> Void = { _ in }
    ) throws -> ConvertResult {
        try writeFile(directory.file("in.tar"), archive(files))
        var options = ConvertOptions()
        (options.format, options.chunkSize) = (.zstdChunked, 4096)
        change(&options)
        return try LayerConverter.convert(input: directory.file("in.tar"), options: options)
    }

    @Test func theTarIsInItAndNothingElse() throws {
        let directory = try TemporaryDirectory("chunked")
        let result = try convert(directory)
        #expect(result.path == directory.file("in.chunked.tar.zst"))
        let tar = try fileBytes(directory.file("in.tar"))
        let read = try readArchive(file: result.path)
        #expect(
            read.map { $0.entry.path.filter { $0 != UInt8(ascii: "/") } }
                == files.map { $0.entry.path.filter { $0 != UInt8(ascii: "/") } }
        )
        #expect(read.map(\.content) == files.map(\.content))
        #expect(result.uncompressedSize == UInt64(tar.count))
        #expect(result.entries == files.count)
    }

    @Test func theSameBytesWithAnyNumberOfThreads() throws {
        let directory = try TemporaryDirectory("chunked")
        var digests: [Digest] = []
        for threads in [1, 2, 7] {
            digests.append(try convert(directory) { $0.threads = threads }.blobDigest)
        }
        #expect(Set(digests).count == 1)
        #expect(try convert(directory) { $0.level = 19 }.blobDigest != digests[0])
        #expect(throws: ConvertError.self) { try convert(directory) { $0.level = 20 } }
    }

    @Test func theAnnotationsAreUnderBothPrefixes() throws {
        let directory = try TemporaryDirectory("chunked")
        let result = try convert(directory)
        let annotations = Dictionary(uniqueKeysWithValues: result.annotations.map { ($0.name, $0.value) })
        #expect(annotations.count == 6)
        for prefix in ["io.containers.zstd-chunked", "io.github.containers.zstd-chunked"] {
            #expect(annotations["\(prefix).manifest-checksum"] == result.tocFrameDigest?.description)
            #expect(annotations["\(prefix).manifest-position"] == result.tocFramePosition)
        }
        #expect(annotations["containerd.io/snapshot/stargz/toc.digest"] == "\(result.tocDigest)")
        let descriptor = ContentDescriptor(
            mediaType: result.mediaType,
            digest: result.blobDigest,
            size: result.blobSize,
            annotations: annotations
        )
        #expect(MediaType.layerCompression(descriptor.mediaType) == .zstd)
        #expect(descriptor.tocFrameDigest == result.tocFrameDigest && descriptor.tocDigest == result.tocDigest)
        let frame = try #require(descriptor.tocFramePosition.flatMap { TOCFrame(annotation: $0) })
        let blob = try fileBytes(result.path)
        let toc = blob[Int(frame.offset)..<Int(frame.offset + frame.compressedSize)]
        #expect(unsafe SHA256.digest(of: toc.span.bytes) == result.tocFrameDigest)
    }

    /// Between a chunk's offset and the next, or the file's endOffset, is one frame with the chunk and nothing else.
    @Test func framesOfContentHoldContentOnly() throws {
        let directory = try TemporaryDirectory("chunked")
        let result = try convert(directory)
        let blob = try fileBytes(result.path)
        let size = UInt64(blob.count)
        let footer = try unsafe Footer(tail: blob.span.bytes, blobSize: size)
        let frame = try #require(footer.frame)
        var decoder = FrameDecoder()
        let rest = Array(blob[Int(frame.offset)...])
        let json = try unsafe decoder.decode(
            rest.span.bytes,
            wanted: Int(frame.uncompressedSize),
            limit: 1 << 20
        ).share().array
        let text = String(decoding: json, as: UTF8.self)
        #expect(text.contains("\"endOffset\":"))
        #expect(!text.contains("\"chunkSize\":0"))
        // The end of the tar is in a frame of its own, in front of the TOC.
        #expect(try readArchive(file: result.path).count == files.count)
        #expect(blob.suffix(8) == Array("GnUlInUx".utf8)[...])
    }
}
