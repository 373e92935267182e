import BlockCodec
import LayerFormat
import OCIModel
import PosixIO

/// The input is a zstd frame after four bytes that say how much it holds: of a payload, and of a TOC. It is read as an
/// annotation's text too.
@c(LLVMFuzzerTestOneInput)
public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard count >= 4 else { return 0 }
    let input = unsafe UnsafeRawBufferPointer(start: start, count: count)
    let announced = unsafe UInt64(UInt32(littleEndian: input.loadUnaligned(as: UInt32.self)))
    let bytes = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(rebasing: input[4...]))
    let wanted = Int(announced % (64 << 10))
    var decoder = FrameDecoder()
    if let out = try? decoder.decode(bytes, wanted: wanted, limit: 1 << 20) {
        precondition(out.count >= wanted && out.count <= 1 << 20)
    }
    let frame = TOCFrame(
        offset: 1 << 20,
        compressedSize: UInt64(bytes.byteCount),
        // What is announced costs no memory, but what comes does.
        uncompressedSize: announced % (4 << 20)
    )
    let source = TOCSource(
        layerDigest: Digest(words: (1, 0, 0, 0)),
        blobSize: 2 << 20,
        tocOffset: frame.start,
        promisedDigest: nil,
        format: .zstdChunked
    )
    if let index = try? LayerIndexBuilder.build(tocFrame: bytes, frame, source: source, note: { _ in }) {
        let opened = try? LayerIndex(bytes: index.share(), layer: source.layerDigest)
        precondition(opened?.format == .zstdChunked)
    }
    let text = unsafe String(decoding: input, as: UTF8.self)
    if let frame = TOCFrame(annotation: text), (try? frame.check(blobSize: 1 << 30)) != nil {
        precondition(frame.offset + frame.compressedSize <= 1 << 30 && frame.start <= frame.offset)
    }
    return 0
}
