internal import Synchronization

/// Which chunks of a layer were fetched without having been asked for, and not been read since: a bit for each.
@safe
final class AheadMap: @unchecked Sendable {
    // SAFETY: the words are atomic, and live as long as the map; numbers are checked against the count.
    private let words: UnsafeMutablePointer<Atomic<UInt64>>
    private let wordCount: Int

    init(chunkCount: Int) {
        wordCount = (chunkCount + 63) / 64
        unsafe words = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: max(wordCount, 1))
        for index in 0..<wordCount { unsafe (words + index).initialize(to: Atomic(0)) }
    }

    deinit {
        unsafe words.deinitialize(count: wordCount)
        unsafe words.deallocate()
    }

    /// Marks a chunk as fetched ahead.
    func mark(_ chunk: UInt32) {
        let (word, bit) = place(chunk)
        _ = unsafe words[word].bitwiseOr(bit, ordering: .relaxed)
    }

    /// Whether a chunk is marked.
    func isMarked(_ chunk: UInt32) -> Bool {
        let (word, bit) = place(chunk)
        return unsafe words[word].load(ordering: .relaxed) & bit != 0
    }

    /// Takes the mark off; whether there was one, which is so for one caller only.
    func clear(_ chunk: UInt32) -> Bool {
        let (word, bit) = place(chunk)
        return unsafe words[word].bitwiseAnd(~bit, ordering: .relaxed).oldValue & bit != 0
    }

    private func place(_ chunk: UInt32) -> (word: Int, bit: UInt64) {
        let word = Int(chunk / 64)
        precondition(word < wordCount, "chunk out of range")
        return (word, 1 << UInt64(chunk % 64))
    }
}
