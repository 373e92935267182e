import BlockCodec
import LayerFormat

// A libFuzzer target: an input is a layer file (tar, tar.gz, tar.zst) as it may come from anywhere. Whatever the bytes,
// reading ends with entries or with one error.

/// A file may say that it has exabytes of holes: so much of each is read.
private let contentLimit = 1 << 20

/// Reads one input. Returns 0, as libFuzzer wants it.
@c(LLVMFuzzerTestOneInput)
public func fuzzTar(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    // SAFETY: libFuzzer gives `count` readable bytes for the time of the call.
    let bytes = unsafe Array(UnsafeBufferPointer(start: data, count: count))
    read(bytes)
    // A mutation seldom keeps the checksum: with a good one the rest of the reader is reached.
    read(withMendedChecksums(bytes))
    return 0
}

private func withMendedChecksums(_ bytes: [UInt8]) -> [UInt8] {
    var result = bytes
    for start in stride(from: 0, to: bytes.count - 511, by: 512)
    where bytes[start + 257..<start + 262].elementsEqual("ustar".utf8) {
        var sum = 8 * 0x20
        for index in start..<start + 512 where !(start + 148..<start + 156).contains(index) { sum += Int(bytes[index]) }
        let digits = Array(String(sum, radix: 8).utf8)
        let field = [UInt8](repeating: 0x30, count: 6 - digits.count) + digits + [0, 0x20]
        result.replaceSubrange(start + 148..<start + 156, with: field)
    }
    return result
}

private func read(_ bytes: [UInt8]) {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 70_000, alignment: 1)
    defer { unsafe buffer.deallocate() }
    do {
        // Pieces of an odd size, so that blocks straddle them.
        var reader = TarReader(try DecodedSource(MemorySource(bytes, pieceSize: 777)))
        while let entry = try reader.next() {
            precondition(!entry.path.isEmpty && !entry.path.contains(0), "a name that no reader can use")
            var total = 0
            while total < contentLimit {
                let got = try unsafe reader.read(into: buffer)
                if got == 0 { break }
                total += got
            }
            precondition(total >= contentLimit || UInt64(total) == entry.size, "content of another size than announced")
            checkEncoding(of: entry)
        }
        _ = try reader.drain()
    } catch {
        precondition(!"\(error)".isEmpty)
    }
}

/// What we write of an entry is read back as the same entry.
private func checkEncoding(of entry: TarEntry) {
    var written = entry
    written.holeBytes = 0
    // Only the header: the content is not there.
    var reader = TarReader(MemorySource(TarHeaderEncoder.encode(written)))
    guard let read = try? reader.next() else {
        // Records that together are larger than what a reader accepts.
        precondition(TarHeaderEncoder.encode(written).count > TarReader<MemorySource>.extensionLimit)
        return
    }
    precondition(read == written, "an entry is read back as another one")
}
