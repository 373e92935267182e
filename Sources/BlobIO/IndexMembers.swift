internal import LayerFormat
internal import OCIModel

/// A layer's index as the planner sees it.
struct IndexMembers: MemberMap {
    let index: LayerIndex

    var positionCount: Int { index.chunkCount }

    func member(at position: Int) -> ByteRange { index.chunk(index.chunkInBlobOrder(position)).member }

    func position(atOrAfter offset: UInt64) -> Int { index.blobPosition(atOrAfter: offset) }

    /// Whether a member belongs to a test suite: its file is somewhere below a directory `test` or `tests`.
    func isTest(at position: Int) -> Bool { index.isTest(index.chunk(index.chunkInBlobOrder(position)).record) }

    /// Calls `body` with the number of every chunk of a member.
    ///
    /// - Parameter first: the member's first position.
    func forEachChunk(of member: ByteRange, from first: Int, _ body: (UInt32) -> Void) {
        var position = first
        while position < index.chunkCount {
            let number = index.chunkInBlobOrder(position)
            let chunk = index.chunk(number)
            guard chunk.member.offset == member.offset else { break }
            if !chunk.isZeros { body(number) }
            position += 1
        }
    }

    /// Whether any chunk of a member is one of those that `condition` means.
    func containsChunk(of member: ByteRange, from first: Int, _ condition: (Chunk) -> Bool) -> Bool {
        var position = first
        while position < index.chunkCount {
            let chunk = index.chunk(index.chunkInBlobOrder(position))
            guard chunk.member.offset == member.offset else { break }
            if !chunk.isZeros, condition(chunk) { return true }
            position += 1
        }
        return false
    }
}

extension LayerIndex {
    /// Whether a record is somewhere below a directory `test` or `tests`.
    func isTest(_ record: UInt32) -> Bool {
        var directory = parent(record)
        while directory != 0 {
            if isTestName(name(directory)) { return true }
            directory = parent(directory)
        }
        return false
    }

    private func isTestName(_ name: borrowing RawSpan) -> Bool {
        guard name.byteCount == 4 || name.byteCount == 5 else { return false }
        // SAFETY: the bytes are read inside of the closure only.
        return unsafe name.withUnsafeBytes { unsafe $0.elementsEqual("tests".utf8.prefix($0.count)) }
    }
}
