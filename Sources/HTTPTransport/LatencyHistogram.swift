/// How long a server takes to begin its answers: counts on a logarithmic scale, four to an octave, where what is long ago
/// counts less.
struct LatencyHistogram {
    /// 131 µs: everything below is as good.
    private static let firstOctave = 17
    private static let buckets = 64
    /// Answers without which nothing is said.
    static let least: UInt32 = 32
    private static let most: UInt32 = 1024

    private var counts = [UInt32](repeating: 0, count: buckets)
    private var total: UInt32 = 0

    /// Takes in an answer that took so many nanoseconds to begin.
    mutating func note(_ nanoseconds: UInt64) {
        counts[LatencyHistogram.bucket(nanoseconds)] += 1
        total += 1
        guard total >= LatencyHistogram.most else { return }
        total = 0
        for index in counts.indices {
            counts[index] /= 2
            total += counts[index]
        }
    }

    /// What all answers but one in `rarity` stayed below, in nanoseconds, up to a fifth too high; nil while there are too
    /// few of them.
    func bound(allButOneIn rarity: UInt32) -> UInt64? {
        guard total >= LatencyHistogram.least else { return nil }
        var above: UInt32 = 0
        for index in counts.indices.reversed() {
            above += counts[index]
            if above > total / rarity { return LatencyHistogram.upperEdge(index) }
        }
        return nil
    }

    private static func bucket(_ nanoseconds: UInt64) -> Int {
        let octave = UInt64.bitWidth - 1 - max(nanoseconds, 1).leadingZeroBitCount
        guard octave >= firstOctave else { return 0 }
        let quarter = Int((nanoseconds >> (octave - 2)) & 3)
        return min((octave - firstOctave) * 4 + quarter, buckets - 1)
    }

    private static func upperEdge(_ bucket: Int) -> UInt64 {
        UInt64(5 + bucket % 4) << (bucket / 4 + firstOctave - 2)
    }
}
