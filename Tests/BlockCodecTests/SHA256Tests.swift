import BlockCodec
import OCIModel
import TestSupport
import Testing

/// A hash that is put down and taken up again.
struct SHA256Tests {
    private func digest(_ bytes: [UInt8], cutAt cuts: [Int]) -> String {
        var state: SHA256State?
        for (start, end) in zip([0] + cuts, cuts + [bytes.count]) {
            var hash = state.map { SHA256(resuming: $0) } ?? SHA256()
            unsafe hash.update(bytes[start..<end].span.bytes)
            state = hash.state
        }
        guard let state else { return "" }
        var hash = SHA256(resuming: state)
        return hash.finish().description
    }

    @Test func aHashGoesOnFromItsState() throws {
        let bytes = (0..<1000).map { UInt8(truncatingIfNeeded: $0 &* 37) }
        // Of `bytes`, by sha256sum.
        let directory = try TemporaryDirectory("sha256")
        try writeFile(directory.file("a"), String(decoding: bytes.map { $0 & 127 }, as: UTF8.self))
        let ascii = bytes.map { $0 & 127 }
        let expected: String = "sha256:" + (try runChecked("sha256sum", [directory.file("a")]).text.prefix(64))
        for cut in [0, 1, 55, 56, 63, 64, 65, 127, 128, 500, 999, 1000] {
            #expect(digest(ascii, cutAt: [cut]) == expected, "\(cut)")
        }
        #expect(digest(ascii, cutAt: [1, 2, 3, 64, 700, 700, 701]) == expected)
    }

    @Test func aStateIsWhatTheStandardHasBetweenTwoBlocks() throws {
        var hash = SHA256()
        // FIPS 180-4, 5.3.3: the first 32 bits of the square roots' fractions.
        #expect(Array(hash.state.bytes[..<8]) == [0x67, 0xe6, 0x09, 0x6a, 0x85, 0xae, 0x67, 0xbb])
        #expect(hash.state.bytes[32...].allSatisfy { $0 == 0 })
        let bytes = [UInt8](repeating: 7, count: 70)
        unsafe hash.update(bytes.span.bytes)
        #expect(Array(hash.state.bytes[32..<40]) == [70, 0, 0, 0, 0, 0, 0, 0])
        #expect(Array(hash.state.bytes[40...]) == [7, 7, 7, 7, 7, 7] + [UInt8](repeating: 0, count: 58))
        #expect(SHA256State([UInt8](repeating: 0, count: 103)) == nil)
    }

    /// More than 4 GiB of bits: both halves of the count matter.
    @Test func aLongStreamKeepsItsLength() throws {
        var bytes = [UInt8](repeating: 0, count: SHA256State.byteCount)
        bytes.replaceSubrange(32..<40, with: [0x40, 0, 0, 0, 3, 0, 0, 0])
        let state = try #require(SHA256State(bytes))
        #expect(SHA256(resuming: state).state == state)
    }
}
