import BlockCodec
import PosixIO
import Testing

@Suite struct DeflaterTests {
    private static func sample(_ count: Int) -> [UInt8] {
        var random = SystemRandomNumberGenerator()
        // Half of it repeats, half does not.
        return (0..<count).map {
            $0 % 2 == 0 ? UInt8(truncatingIfNeeded: $0 / 64) : UInt8.random(in: 0...15, using: &random)
        }
    }

    @Test(arguments: Deflater.levels)
    func everyLevelInflatesToTheInput(level: Int) throws {
        var deflater = Deflater(level: level)
        var inflater = Inflater()
        for count in [1, 55, 56, 4096, 100_000] {
            let bytes = Self.sample(count)
            let member = unsafe deflater.gzip(bytes.span.bytes)
            let inflated = unsafe try inflater.inflate(member.span.bytes, wanted: count, limit: count)
            #expect(inflated.share().array == bytes)
        }
    }

    @Test func theSameInputGivesTheSameMember() {
        let bytes = Self.sample(50_000)
        var first = Deflater(level: 6)
        var second = Deflater(level: 6)
        let member = unsafe first.gzip(bytes.span.bytes)
        _ = unsafe first.gzip([1, 2, 3].span.bytes)
        #expect(unsafe first.gzip(bytes.span.bytes) == member)
        #expect(unsafe second.gzip(bytes.span.bytes) == member)
        // No time and no name in the header (RFC 1952, section 2.3).
        #expect(Array(member[0..<4]) == [0x1f, 0x8b, 8, 0])
        #expect(Array(member[4..<8]) == [0, 0, 0, 0])
    }

    @Test func anEmptyMemberIsAMember() throws {
        var deflater = Deflater(level: 1)
        let member = unsafe deflater.gzip([UInt8]().span.bytes)
        #expect(try readAll(member) == [])
    }
}
