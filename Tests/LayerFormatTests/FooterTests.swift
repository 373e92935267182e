import LayerFormat
import PosixIO
import Testing

/// Footers are recognised exactly; everything else is no index, or corrupt where a known footer lies about its offset.
@Suite struct FooterTests {
    /// A footer as Go's gzip writer makes it: an empty member with this Extra field.
    static func footer(extra: [UInt8]) -> [UInt8] {
        [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, UInt8(extra.count), 0] + extra
            + [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    static func text(_ offset: UInt64) -> [UInt8] {
        let digits = String(offset, radix: 16)
        return Array((String(repeating: "0", count: 16 - digits.count) + digits + "STARGZ").utf8)
    }

    static func stargz(_ offset: UInt64) -> [UInt8] { footer(extra: text(offset)) }
    static func estargz(_ offset: UInt64) -> [UInt8] { footer(extra: [0x53, 0x47, 22, 0] + text(offset)) }
    static let external = footer(extra: [0x53, 0x47, 17, 0] + Array("STARGZEXTERNALTOC".utf8))

    /// A footer of zstd:chunked: with 64 payload bytes, where the tar-split data is stands before the magic.
    static func chunked(
        _ offset: UInt64,
        _ compressed: UInt64,
        _ uncompressed: UInt64,
        type: UInt64 = 1,
        payload: Int = 40,
        magic: String = "GNUlInUx"
    ) -> [UInt8] {
        let numbers = [offset, compressed, uncompressed, type] + (payload == 64 ? [700, 10, 20] : [])
        return [0x50, 0x2a, 0x4d, 0x18, UInt8(payload), 0, 0, 0]
            + numbers.flatMap { number in (0..<8).map { UInt8(truncatingIfNeeded: number >> (8 * UInt64($0))) } }
            + Array(magic.utf8)
    }

    private func read(_ tail: [UInt8], blobSize: UInt64 = 1000) -> Result<Footer, LayerFormatError> {
        do throws(LayerFormatError) {
            return .success(try unsafe Footer(tail: tail.span.bytes, blobSize: blobSize))
        } catch {
            return .failure(error)
        }
    }

    private func kind(_ tail: [UInt8], blobSize: UInt64 = 1000) -> LayerFormatError.Kind? {
        if case .failure(let error) = read(tail, blobSize: blobSize) { return error.kind }
        return nil
    }

    @Test func footersOfBothKindsAreRead() throws {
        let before: [UInt8] = [1, 2, 3]
        let old = try read(before + FooterTests.stargz(0x2a0)).get()
        #expect(old.kind == .stargz && old.tocOffset == 0x2a0 && old.byteCount == 47)
        let new = try read(before + FooterTests.estargz(0x2a0)).get()
        #expect(new.kind == .estargz && new.tocOffset == 0x2a0 && new.byteCount == 51)
        #expect(FooterTests.stargz(0).count == 47 && FooterTests.estargz(0).count == 51)
    }

    @Test func aTOCElsewhereIsRead() throws {
        let footer = try read([1, 2, 3] + FooterTests.external).get()
        #expect(footer.kind == .estargzExternalTOC && footer.tocOffset == 954 && footer.byteCount == 46)
        #expect(kind(FooterTests.external, blobSize: 46) == .corrupt)
    }

    @Test(arguments: [40, 64], ["GNUlInUx", "GnUlInUx"])
    func footersOfZstdChunkedAreRead(payload: Int, magic: String) throws {
        let footer = try read([1, 2, 3] + FooterTests.chunked(100, 200, 5000, payload: payload, magic: magic)).get()
        #expect(footer.kind == .zstdChunked && footer.tocOffset == 92 && footer.byteCount == payload + 8)
        #expect(footer.frame == TOCFrame(offset: 100, compressedSize: 200, uncompressedSize: 5000))
        let end = UInt64(1000 - 8 - payload)
        #expect(kind(FooterTests.chunked(100, end - 100, 9, payload: payload, magic: magic)) == nil)
        for (offset, compressed) in [(100, end - 99), (end, 1), (7, 100), (100, 0), (.max, 1), (1, .max), (900, .max)] {
            let bad = FooterTests.chunked(offset, compressed, 9, payload: payload, magic: magic)
            #expect(kind(bad) == .corrupt, "\(offset) \(compressed)")
        }
        #expect(kind(FooterTests.chunked(100, 200, 256 << 20 | 1, payload: payload, magic: magic)) == .tooLarge)
        #expect(kind(FooterTests.chunked(100, 200, 5000, type: 2, payload: payload, magic: magic)) == .noIndex)
    }

    @Test func positionsOfAnnotationsAreParsedExactly() {
        let frame = TOCFrame(annotation: "150676:9209:56587:1")
        #expect(frame == TOCFrame(offset: 150676, compressedSize: 9209, uncompressedSize: 56587))
        for text in [
            "", "1:2:3", "1:2:3:2", "1:2:3:1:4", ":2:3:1", "1:2:3:", "+1:2:3:1", "-1:2:3:1", " 1:2:3:1", "1:2:3:1 ",
            "0x1:2:3:1",
            "18446744073709551616:2:3:1", "\u{663}:2:3:1",
        ] {
            #expect(TOCFrame(annotation: text) == nil, "\(text)")
        }
    }

    @Test func whatHasNoFooterIsAPlainLayer() {
        for tail in [
            [UInt8](repeating: 0, count: 40) + Array("GNUlInUx".utf8),
            [UInt8](repeating: 0, count: 64) + Array("GnUlInUx".utf8), [UInt8](repeating: 7, count: 100),
        ] {
            guard case .failure(let error) = read(tail) else {
                Issue.record("read \(tail)")
                continue
            }
            #expect(error.kind == .noIndex)
            #expect(error.reason.contains("plain layer"))
        }
    }

    @Test func offsetsOutsideOfTheBlobAreErrors() {
        for offset: UInt64 in [949, 1000, 1 << 40, 1 << 63 - 1, 1 << 63, .max] {
            #expect(kind(FooterTests.estargz(offset)) == .corrupt, "\(offset)")
        }
        #expect(kind(FooterTests.estargz(948)) == nil)
        #expect(kind(FooterTests.stargz(952)) == nil)
        #expect(kind(FooterTests.stargz(953)) == .corrupt)
        #expect(kind(FooterTests.estargz(0), blobSize: 10) == .corrupt)
    }

    @Test func everyCutIsNoIndex() {
        for whole in [
            FooterTests.stargz(100), FooterTests.estargz(100), FooterTests.external, FooterTests.chunked(100, 200, 300),
            FooterTests.chunked(100, 200, 300, payload: 64),
        ] {
            for count in 0..<whole.count {
                #expect(kind(Array(whole.prefix(count))) == .noIndex)
                #expect(kind(Array(whole.suffix(count))) == .noIndex)
            }
        }
    }

    /// A flipped bit gives no index, an error, or (time, level and system of the gzip header; digits of the offset) a
    /// footer whose offset lies in the blob.
    @Test func everyFlipIsJudged() {
        for whole in [FooterTests.stargz(100), FooterTests.estargz(100)] {
            for index in whole.indices {
                for bit in 0..<8 {
                    var flipped = whole
                    flipped[index] ^= 1 << UInt8(bit)
                    let digits = whole.count == 47 ? 12..<28 : 16..<32
                    switch read(flipped) {
                    case .success(let footer):
                        #expect((4..<10).contains(index) || digits.contains(index))
                        #expect(footer.tocOffset < 1000)
                    case .failure(let error):
                        #expect(error.kind == .noIndex || error.kind == .corrupt && digits.contains(index))
                    }
                }
            }
        }
    }

    @Test func tailGuessIsBounded() {
        #expect(Footer.tailGuess(blobSize: 0) == 0)
        #expect(Footer.tailGuess(blobSize: 60_000) == 60_000)
        #expect(Footer.tailGuess(blobSize: 1 << 20) == 256 << 10)
        #expect(Footer.tailGuess(blobSize: 128 << 20) == 1 << 20)
        #expect(Footer.tailGuess(blobSize: .max) == 4 << 20)
    }
}
