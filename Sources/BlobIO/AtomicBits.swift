internal import Synchronization

/// A fixed number of bits, for all threads. Reading one is a load; nothing allocates after `init`.
@safe
final class AtomicBits: @unchecked Sendable {
    // SAFETY: the words are atomic, and live as long as the object; numbers are checked against the count.
    private let words: UnsafeMutablePointer<Atomic<UInt64>>
    private let wordCount: Int

    /// All 0.
    init(count: Int) {
        wordCount = (count + 63) / 64
        unsafe words = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: max(wordCount, 1))
        for index in 0..<wordCount { unsafe (words + index).initialize(to: Atomic(0)) }
    }

    deinit {
        unsafe words.deinitialize(count: wordCount)
        unsafe words.deallocate()
    }

    func contains(_ number: UInt32) -> Bool {
        let (word, bit) = place(number)
        return unsafe words[word].load(ordering: .relaxed) & bit != 0
    }

    /// Sets a bit; whether it was 0, which is so for one caller only.
    func insert(_ number: UInt32) -> Bool {
        let (word, bit) = place(number)
        return unsafe words[word].bitwiseOr(bit, ordering: .relaxed).oldValue & bit == 0
    }

    /// Takes a bit off; whether it was 1, which is so for one caller only.
    func remove(_ number: UInt32) -> Bool {
        let (word, bit) = place(number)
        return unsafe words[word].bitwiseAnd(~bit, ordering: .relaxed).oldValue & bit != 0
    }

    func removeAll() {
        for word in 0..<wordCount { unsafe words[word].store(0, ordering: .relaxed) }
    }

    /// Sets every bit that is set in `other`, which has the same count.
    func formUnion(_ other: AtomicBits) {
        precondition(wordCount == other.wordCount)
        for word in 0..<wordCount {
            let bits = unsafe other.words[word].load(ordering: .relaxed)
            if bits != 0 { _ = unsafe words[word].bitwiseOr(bits, ordering: .relaxed) }
        }
    }

    /// Calls `body` with the number of every bit that is set.
    func forEach(_ body: (UInt32) -> Void) {
        for word in 0..<wordCount {
            var bits = unsafe words[word].load(ordering: .relaxed)
            while bits != 0 {
                body(UInt32(word * 64 + bits.trailingZeroBitCount))
                bits &= bits - 1
            }
        }
    }

    var isEmpty: Bool {
        for word in 0..<wordCount where unsafe words[word].load(ordering: .relaxed) != 0 { return false }
        return true
    }

    private func place(_ number: UInt32) -> (word: Int, bit: UInt64) {
        let word = Int(number / 64)
        precondition(word < wordCount, "number out of range")
        return (word, 1 << UInt64(number % 64))
    }
}
