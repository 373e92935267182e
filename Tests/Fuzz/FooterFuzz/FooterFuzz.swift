import LayerFormat

/// The input is the end of a blob: eight bytes of the blob's size, then its tail.
@c(LLVMFuzzerTestOneInput)
public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard count >= 8 else { return 0 }
    let input = unsafe UnsafeRawBufferPointer(start: start, count: count)
    let blobSize = unsafe UInt64(littleEndian: input.loadUnaligned(as: UInt64.self))
    let tail = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(rebasing: input[8...]))
    guard let footer = try? Footer(tail: tail, blobSize: blobSize) else { return 0 }
    precondition(footer.tocOffset < blobSize && blobSize - footer.tocOffset >= UInt64(footer.byteCount))
    if let frame = footer.frame {
        precondition(frame.offset <= blobSize && frame.compressedSize <= blobSize - frame.offset)
    }
    precondition(Footer.tailGuess(blobSize: blobSize) <= blobSize)
    return 0
}
