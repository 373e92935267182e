import BlockCodec
import LayerFormat
import OCIModel
import PosixIO

/// The input is a gzip member: of a payload, and of a TOC.
@c(LLVMFuzzerTestOneInput)
public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard count > 0 else { return 0 }
    let input = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(start: start, count: count))
    let wanted = unsafe Int(input.unsafeLoad(fromByteOffset: count - 1, as: UInt8.self)) * 64
    var inflater = Inflater()
    if let bytes = try? inflater.inflate(input, wanted: wanted, limit: 1 << 20) {
        precondition(bytes.count >= wanted && bytes.count <= 1 << 20)
    }
    let digest = Digest(words: (1, 0, 0, 0))
    let source = TOCSource(layerDigest: digest, blobSize: 2 << 20, tocOffset: 1 << 20, promisedDigest: nil)
    _ = try? LayerIndexBuilder.build(tocMember: input, source: source) { _ in }
    return 0
}
