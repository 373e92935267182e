import BlockCodec
import PosixIO
import TestSupport
import Testing

@Suite struct SHA256AsideTests {
    @Test(arguments: [0, 1, 2_097_151, 2_097_152, 5_000_001])
    func theDigestIsTheSame(_ count: Int) {
        var random = SeededGenerator(seed: UInt64(count))
        var bytes = [UInt8](repeating: 0, count: count)
        for index in bytes.indices { bytes[index] = UInt8.random(in: 0...255, using: &random) }
        // SAFETY: the array is not changed any more.
        let hash = unsafe SHA256Aside(bytes.span.bytes)
        let expected = unsafe SHA256.digest(of: bytes.span.bytes)
        #expect(hash.digest() == expected)
        #expect(hash.digest() == hash.digest())
    }
}
