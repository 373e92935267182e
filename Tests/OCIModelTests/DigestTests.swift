import OCIModel
import Testing

@Suite("Digests")
struct DigestTests {
    private let hex = "0123456789abcdef00112233445566778899aabbccddeeffdeadbeefcafef00d"

    @Test("sha256:<hex> and sha256-<hex> are read and written")
    func spellings() throws {
        let digest = try #require(Digest("sha256:" + hex))
        #expect(digest.hex == hex)
        #expect(digest.description == "sha256:" + hex)
        #expect(digest.directoryName == "sha256-" + hex)
        #expect(Digest(directoryName: "sha256-" + hex) == digest)
        #expect(digest[0] == 0x01 && digest[7] == 0xef && digest[8] == 0x00 && digest[31] == 0x0d)
    }

    @Test(
        "anything else is no digest",
        arguments: [
            "", "sha256:", "sha256:00", "sha512:0123456789abcdef00112233445566778899aabbccddeeffdeadbeefcafef00d",
            "sha256:0123456789ABCDEF00112233445566778899aabbccddeeffdeadbeefcafef00d",
            "sha256:0123456789abcdef00112233445566778899aabbccddeeffdeadbeefcafef00g",
            "sha256:0123456789abcdef00112233445566778899aabbccddeeffdeadbeefcafef00d0",
        ]
    )
    func refused(text: String) {
        #expect(Digest(text) == nil)
    }

    @Test("a digest made from bytes equals the parsed one")
    func bytes() throws {
        let digest = try #require(Digest("sha256:" + hex))
        let bytes = (0..<32).map { digest[$0] }
        #expect(unsafe Digest(bytes.span.bytes) == digest)
    }
}
