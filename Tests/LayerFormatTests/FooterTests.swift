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

    @Test func otherIndexesAreNamed() {
        for (tail, word) in [
            (FooterTests.external, "second image"),
            ([UInt8](repeating: 0, count: 40) + Array("GNUlInUx".utf8), "zstd:chunked"),
            ([UInt8](repeating: 0, count: 64) + Array("GnUlInUx".utf8), "zstd:chunked"),
            ([UInt8](repeating: 7, count: 100), "plain layer"),
        ] {
            guard case .failure(let error) = read(tail) else {
                Issue.record("read \(word)")
                continue
            }
            #expect(error.kind == .noIndex)
            #expect(error.reason.contains(word))
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
        for whole in [FooterTests.stargz(100), FooterTests.estargz(100), FooterTests.external] {
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
