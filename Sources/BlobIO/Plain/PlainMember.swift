internal import BlockCodec
internal import LayerFormat
internal import OCIModel
internal import PosixIO

/// Decompresses what was fetched for a span of a plain layer.
enum PlainMember {
    /// The bytes that hold the chunks which start in the span.
    static func decode(
        _ layer: Layer,
        _ offset: UInt64,
        _ bytes: SharedBytes,
        _ range: Range<Int>
    ) throws(CodecError) -> SharedBytes {
        guard let restarts = layer.restarts else {
            return range.count == bytes.count ? bytes : copy(bytes, range)
        }
        guard let number = restarts.span(at: offset) else { throw .corrupt }
        let count = restarts.spans[number].length
        guard count <= UInt64(MemberDecoder.mostInflated) else { throw .tooLarge(limit: MemberDecoder.mostInflated) }
        guard var output = UniqueBytes(trying: Int(count)) else { throw .outOfMemory(bytes: Int(count)) }
        let input = unsafe UnsafeRawBufferPointer(start: bytes.base + range.lowerBound, count: range.count)
        do throws(ByteSourceError) {
            if restarts.format == .tarGzip {
                // A first span without a window starts behind the header of the first member.
                guard let point = restarts.point(number), var decoder = PointDecoder(from: point) else {
                    throw .codec(.corrupt, format: .gzip, offset: offset)
                }
                try unsafe fill(&output, input) { (input, output) throws(ByteSourceError) in
                    let step = try unsafe decoder.step(input, into: output)
                    return (step.consumed, step.produced)
                }
            } else {
                var decoder = StreamDecoder(.zstd)
                try unsafe fill(&output, input) { (input, output) throws(ByteSourceError) in
                    let step = try unsafe decoder.step(input, into: output)
                    return (step.consumed, step.produced)
                }
            }
        } catch {
            if case .codec(let codec, _, _) = error { throw codec }
            throw .corrupt
        }
        return output.share()
    }

    private static func copy(_ bytes: SharedBytes, _ range: Range<Int>) -> SharedBytes {
        UniqueBytes(copying: bytes.span.extracting(range)).share()
    }

    /// Steps until the output is full; what is left of the input then does not matter.
    private static func fill(
        _ output: inout UniqueBytes,
        _ input: UnsafeRawBufferPointer,
        _ step: (UnsafeRawBufferPointer, UnsafeMutableRawBufferPointer) throws(ByteSourceError) -> (Int, Int)
    ) throws(ByteSourceError) {
        try unsafe output.withUnsafeMutableBytes { (output) throws(ByteSourceError) in
            var read = 0
            var written = 0
            while written < output.count {
                let (consumed, produced) = try unsafe step(
                    UnsafeRawBufferPointer(rebasing: input[read...]),
                    UnsafeMutableRawBufferPointer(rebasing: output[written...])
                )
                guard consumed > 0 || produced > 0 else {
                    throw .codec(.truncated, format: .gzip, offset: UInt64(read))
                }
                read += consumed
                written += produced
            }
        }
    }
}
