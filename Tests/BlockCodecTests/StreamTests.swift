import BlockCodec
import Testing

/// Reads everything that `bytes`, given in pieces, decompress to.
func readAll(_ bytes: [UInt8], pieceSize: Int = .max, bufferSize: Int = 4096) throws -> [UInt8] {
    var source = try DecodedSource(MemorySource(bytes, pieceSize: pieceSize))
    var result: [UInt8] = []
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bufferSize, alignment: 1)
    defer { unsafe buffer.deallocate() }
    while true {
        let count = try unsafe source.read(into: buffer)
        if count == 0 { return result }
        unsafe result.append(contentsOf: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
    }
}

private func gzip(_ text: String) -> [UInt8] {
    var deflater = Deflater(level: 6)
    return unsafe deflater.gzip(Array(text.utf8).span.bytes)
}

/// A zstd frame of one raw block, with a content size of one byte (RFC 8878, section 3.1.1).
private func zstdFrame(_ text: String) -> [UInt8] {
    let content = Array(text.utf8)
    precondition(content.count < 256)
    let block = UInt32(content.count) << 3 | 1
    let header: [UInt8] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, UInt8(content.count)]
    return header + (0..<3).map { UInt8(truncatingIfNeeded: block >> (8 * $0)) } + content
}

private let skippableFrame: [UInt8] = [0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9]

@Suite struct StreamTests {
    @Test func formatsAreRecognisedByTheirFirstBytes() {
        let heads: [([UInt8], CompressionFormat)] = [
            ([0x1f, 0x8b, 8, 0], .gzip), ([0x1f, 0x8b], .gzip), ([0x28, 0xb5, 0x2f, 0xfd], .zstd),
            ([0x50, 0x2a, 0x4d, 0x18], .zstd), ([0x5f, 0x2a, 0x4d, 0x18], .zstd), ([0x60, 0x2a, 0x4d, 0x18], .none),
            ([0x28, 0xb5, 0x2f], .none), ([], .none), ([0x1f], .none), (Array("usr/".utf8), .none),
        ]
        for (head, format) in heads {
            #expect(unsafe CompressionFormat.detect(head.span.bytes) == format, "\(head)")
        }
    }

    @Test(arguments: [1, 2, 3, 7, 64, .max], [1, 5, 4096])
    func streamsComeInPiecesOfAnySize(pieceSize: Int, bufferSize: Int) throws {
        let text = String(repeating: "layers of layers, ", count: 300)
        let plain = Array(text.utf8)
        #expect(try readAll(plain, pieceSize: pieceSize, bufferSize: bufferSize) == plain)
        #expect(try readAll(gzip(text), pieceSize: pieceSize, bufferSize: bufferSize) == plain)
        let members = gzip("one ") + gzip("") + gzip(text) + gzip(" three")
        #expect(try readAll(members, pieceSize: pieceSize, bufferSize: bufferSize) == Array("one \(text) three".utf8))
        let frames = skippableFrame + zstdFrame("one ") + skippableFrame + zstdFrame("two") + skippableFrame
        #expect(try readAll(frames, pieceSize: pieceSize, bufferSize: bufferSize) == Array("one two".utf8))
    }

    @Test func zeroPaddingBehindMembersIsSkippedAndNothingElse() throws {
        let padding = [UInt8](repeating: 0, count: 1000)
        #expect(try readAll(gzip("a") + padding + gzip("b") + padding) == Array("ab".utf8))
        #expect(throws: ByteSourceError.self) { try readAll(gzip("a") + Array("garbage".utf8)) }
    }

    @Test func aStreamCutAnywhereIsAnError() throws {
        for stream in [gzip("cut me anywhere"), zstdFrame("cut me anywhere")] {
            for count in 4..<stream.count {
                #expect(throws: ByteSourceError.self, "cut at \(count)") { try readAll(Array(stream.prefix(count))) }
            }
        }
        let members = gzip("first") + gzip("second")
        let first = gzip("first").count
        // Cut between two members it is a shorter stream.
        #expect(try readAll(Array(members.prefix(first))) == Array("first".utf8))
        for count in first + 1..<members.count {
            #expect(throws: ByteSourceError.self, "cut at \(count)") { try readAll(Array(members.prefix(count))) }
        }
    }

    @Test func aFlippedByteNeverGivesOtherContent() throws {
        let content = Array("content with a checksum".utf8)
        let stream = gzip("content with a checksum")
        for index in 2..<stream.count {
            for bit in 0..<8 {
                var damaged = stream
                damaged[index] ^= 1 << UInt8(bit)
                // Time, flags of the compressor and the system's number in the header are not checked by anybody.
                if let result = try? readAll(damaged) { #expect(result == content, "byte \(index), bit \(bit)") }
            }
        }
    }

    @Test func aWindowAbove128MiBIsRefused() {
        // A frame without content size whose window descriptor says 256 MiB.
        let frame: [UInt8] = [0x28, 0xb5, 0x2f, 0xfd, 0, 0x90, 1, 0, 0]
        #expect {
            try readAll(frame)
        } throws: { error in
            guard case .windowTooLarge? = error as? ByteSourceError else { return false }
            return "\(error)".contains("128 MiB")
        }
    }

    @Test func errorsSayTheFormatAndThePlace() {
        let stream = gzip("whatever")
        #expect {
            try readAll(Array(stream.dropLast()))
        } throws: { error in
            guard case .codec(.truncated, .gzip, let offset)? = error as? ByteSourceError else { return false }
            return offset == UInt64(stream.count - 1)
        }
    }
}
