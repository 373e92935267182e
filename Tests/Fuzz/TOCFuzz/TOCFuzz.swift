import LayerFormat
import OCIModel
import PosixIO

/// The input is a TOC's JSON. What is built of it is opened and walked, alone and merged with itself.
@c(LLVMFuzzerTestOneInput)
public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(start: start, count: count))
    let digests = [Digest(words: (1, 0, 0, 0)), Digest(words: (2, 0, 0, 0))]
    var layers: [LayerIndex] = []
    for digest in digests {
        let source = TOCSource(layerDigest: digest, blobSize: 2 << 20, tocOffset: 1 << 20, promisedDigest: nil)
        guard
            let bytes = try? LayerIndexBuilder.build(json: UniqueBytes(copying: input), source: source, note: { _ in }),
            let index = try? LayerIndex(bytes: bytes.share(), layer: digest)
        else { return 0 }
        layers.append(index)
    }
    walk(layers[0])
    guard let bytes = try? ImageIndex.build(layers: layers, note: { _ in }),
        let image = try? ImageIndex(bytes: bytes.share(), layers: layers)
    else { preconditionFailure("an index that was built cannot be merged") }
    for record in 0..<UInt32(image.recordCount) {
        precondition(image.node(record).linkCount > 0)
        guard record > 0 else { continue }
        precondition(image.lookup(image.name(record), in: image.parent(record)) == record)
    }
    precondition(!layers[0].isDamaged && !layers[1].isDamaged && !image.isDamaged)
    return 0
}

func walk(_ index: LayerIndex) {
    for record in 0..<UInt32(index.recordCount) {
        let attributes = index.attributes(record)
        precondition(attributes.linkCount > 0)
        index.forEachXattr(record) { name, _ in name.byteCount > 0 }
        if record > 0 { precondition(index.lookup(index.name(record), in: index.parent(record)) == record) }
        guard index.inode(record) == record, attributes.mode & 0o170000 == 0o100000 else { continue }
        var end: UInt64 = 0
        for number in index.chunks(record) {
            let chunk = index.chunk(number)
            precondition(chunk.fileOffset == end && chunk.record == record)
            precondition(chunk.isZeros || chunk.member.end <= index.tocOffset)
            end += UInt64(chunk.length)
        }
        precondition(end == attributes.size)
    }
}
