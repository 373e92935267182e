/// Which parts of a sparse file are stored; all else is zeros.
struct SparseMap: Equatable {
    struct Segment: Equatable {
        /// Where it stands in the file.
        var offset: UInt64
        /// Bytes.
        var length: UInt64
    }

    /// A bound on memory (16 MiB); GNU tar itself writes one per run of data.
    static let segmentLimit = 1_000_000

    let segments: [Segment]
    let size: UInt64
    /// Bytes that the archive holds of the file.
    let storedBytes: UInt64

    /// Checks that segments ascend without overlap and end inside the file, and that the archive holds their bytes.
    init(segments: [Segment], size: UInt64, stored: UInt64) throws(TarFault) {
        var end: UInt64 = 0
        var sum: UInt64 = 0
        for segment in segments {
            let (segmentEnd, overflow) = segment.offset.addingReportingOverflow(segment.length)
            guard !overflow, segment.offset >= end, segmentEnd <= size else {
                throw TarFault("its sparse map is not in order or leaves the file of \(size) bytes")
            }
            end = segmentEnd
            // No overflow: the segments are disjoint parts of `size` bytes.
            sum += segment.length
        }
        guard sum <= stored else { throw TarFault("its sparse map wants \(sum) bytes, and \(stored) are stored") }
        self.segments = segments.filter { $0.length > 0 }
        self.size = size
        self.storedBytes = sum
    }
}

/// Reads the decimal numbers, one a line, that stand in front of the content of a GNU sparse 1.0 file. Bytes are fed a
/// block at a time.
struct SparseMapParser {
    private var numbers: [UInt64] = []
    private var current: UInt64?
    private var wanted: Int?

    /// Whether all segments are there.
    private(set) var isComplete = false

    /// Takes the next block.
    mutating func feed(_ block: [UInt8]) throws(TarFault) {
        for byte in block {
            switch byte {
            case 0x30...0x39:
                let (scaled, high) = (current ?? 0).multipliedReportingOverflow(by: 10)
                let (sum, low) = scaled.addingReportingOverflow(UInt64(byte - 0x30))
                if high || low { throw TarFault("its sparse map has a number above 64 bits") }
                current = sum
            case UInt8(ascii: "\n"):
                guard let number = current else { throw TarFault("its sparse map has an empty line") }
                current = nil
                try take(number)
                // The rest of the block is padding.
                if isComplete { return }
            default: throw TarFault("its sparse map is not made of numbers")
            }
        }
    }

    private mutating func take(_ number: UInt64) throws(TarFault) {
        if let wanted {
            numbers.append(number)
            isComplete = numbers.count == wanted
            return
        }
        guard number <= UInt64(SparseMap.segmentLimit) else {
            throw TarFault(.tooLarge, "its sparse map announces \(number) segments")
        }
        wanted = Int(number) * 2
        isComplete = number == 0
    }

    /// The segments, once complete.
    var segments: [SparseMap.Segment] {
        stride(from: 0, to: numbers.count - 1, by: 2).map {
            SparseMap.Segment(offset: numbers[$0], length: numbers[$0 + 1])
        }
    }
}
