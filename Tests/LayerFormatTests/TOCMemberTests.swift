import LayerFormat
import PosixIO
import Testing

/// The tar around the TOC, in gzip members of stored blocks that the tests make themselves.
@Suite struct TOCMemberTests {
    private static func crc32(_ bytes: [UInt8]) -> UInt32 {
        var crc: UInt32 = ~0
        for byte in bytes {
            crc ^= UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 != 0 ? crc >> 1 ^ 0xedb8_8320 : crc >> 1 }
        }
        return ~crc
    }

    private static func little(_ value: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * UInt32($0))) }
    }

    /// A gzip member of stored blocks.
    static func member(_ bytes: [UInt8], size: UInt32? = nil) -> [UInt8] {
        var out: [UInt8] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]
        var rest = bytes[...]
        repeat {
            let block = rest.prefix(65535)
            rest = rest.dropFirst(65535)
            let count = UInt16(block.count)
            out += [rest.isEmpty ? 1 : 0, UInt8(truncatingIfNeeded: count), UInt8(count >> 8)]
            out += [UInt8(truncatingIfNeeded: ~count), UInt8(~count >> 8)] + block
        } while !rest.isEmpty
        return out + little(crc32(bytes)) + little(size ?? UInt32(truncatingIfNeeded: bytes.count))
    }

    /// A tar header and its data, padded.
    static func entry(_ name: String, _ data: [UInt8], type: Character = "0", size: String? = nil) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 512)
        header.replaceSubrange(0..<name.utf8.count, with: name.utf8)
        let octal = String(data.count, radix: 8)
        let size = size ?? String(repeating: "0", count: 11 - octal.count) + octal
        header.replaceSubrange(124..<124 + size.utf8.count, with: size.utf8)
        header[156] = type.asciiValue ?? 0
        header.replaceSubrange(148..<156, with: [UInt8](repeating: 32, count: 8))
        let sum = String(header.reduce(0) { $0 + Int($1) }, radix: 8)
        header.replaceSubrange(
            148..<156,
            with: Array((String(repeating: "0", count: 6 - sum.count) + sum).utf8) + [0, 32]
        )
        return header + data + [UInt8](repeating: 0, count: (512 - data.count % 512) % 512)
    }

    private let json = toc(#""name":"file","type":"fifo""#)
    private let end = [UInt8](repeating: 0, count: 1024)

    private func build(_ member: [UInt8]) -> Result<Int, LayerFormatError> {
        let source = TOCSource(layerDigest: testLayer, blobSize: 1 << 30, tocOffset: 1 << 29, promisedDigest: nil)
        do throws(LayerFormatError) {
            let bytes = try unsafe LayerIndexBuilder.build(tocMember: member.span.bytes, source: source) { _ in }
            return .success(try LayerIndex(bytes: bytes.share(), layer: testLayer).recordCount)
        } catch {
            return .failure(error)
        }
    }

    private func kind(_ member: [UInt8]) -> LayerFormatError.Kind? {
        if case .failure(let error) = build(member) { return error.kind }
        return nil
    }

    @Test func recordsBeforeTheEntryAreSkipped() throws {
        let record = [UInt8](repeating: 0x20, count: 700)
        for type: Character in ["x", "g", "L", "K"] {
            let tar =
                TOCMemberTests.entry("pax", record, type: type) + TOCMemberTests.entry("stargz.index.json", json) + end
            #expect(try build(TOCMemberTests.member(tar)).get() == 2)
        }
        let dotted = TOCMemberTests.entry("./stargz.index.json", json) + end
        #expect(try build(TOCMemberTests.member(dotted)).get() == 2)
    }

    @Test func theTarMayEndWithTheJSONAndSpanMembers() throws {
        let tar = TOCMemberTests.entry("stargz.index.json", json)
        #expect(try build(TOCMemberTests.member(Array(tar.prefix(512 + json.count)))).get() == 2)
        let pieces =
            TOCMemberTests.member(Array(tar[..<100])) + TOCMemberTests.member(Array(tar[100..<530]))
            + TOCMemberTests.member(Array(tar[530...]))
        #expect(try build(pieces + [1, 2, 3]).get() == 2)
        // JSON that ends exactly where its padding would be.
        let padded = json + [UInt8](repeating: 0x20, count: 512 - json.count % 512)
        #expect(try build(TOCMemberTests.member(TOCMemberTests.entry("stargz.index.json", padded))).get() == 2)
    }

    @Test func otherTarsAreRefused() {
        func member(_ bytes: [UInt8]) -> [UInt8] { TOCMemberTests.member(bytes) }
        #expect(kind(member([])) == .corrupt)
        #expect(kind(member(end)) == .corrupt)
        #expect(kind(member(TOCMemberTests.entry("other.json", json) + end)) == .corrupt)
        #expect(kind(member(TOCMemberTests.entry("stargz.index.json2", json) + end)) == .corrupt)
        #expect(kind(member(TOCMemberTests.entry("stargz.index.json", [], type: "5") + end)) == .corrupt)
        let records = (0..<100).flatMap { _ in TOCMemberTests.entry("pax", [], type: "x") }
        #expect(kind(member(records + TOCMemberTests.entry("stargz.index.json", json))) == .corrupt)
        var bad = TOCMemberTests.entry("stargz.index.json", json)
        bad[200] = 1
        #expect(kind(member(bad)) == .corrupt)
    }

    /// Sizes that are announced and not delivered: an error, without memory for them.
    @Test func announcedSizesAreNotBelieved() {
        for (size, expected): (String, LayerFormatError.Kind) in [
            ("00000010000", .corrupt), ("01777777777", .corrupt), ("02000000001", .tooLarge),
            ("77777777777", .tooLarge),
            ("0000000000x", .corrupt), ("\u{20}\u{20}\u{20}\u{20}\u{20}\u{20}\u{20}\u{20}\u{20}\u{20}\u{20}", .corrupt),
        ] {
            let tar = TOCMemberTests.entry("stargz.index.json", json, size: size)
            #expect(kind(TOCMemberTests.member(tar)) == expected, "\(size)")
        }
        let tar = TOCMemberTests.entry("stargz.index.json", json) + end
        #expect(kind(TOCMemberTests.member(tar, size: .max)) == .corrupt)
        #expect(kind(TOCMemberTests.member(tar, size: 0)) == .corrupt)
    }
}
