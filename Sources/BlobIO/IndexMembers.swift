internal import LayerFormat
internal import OCIModel

/// A layer's index as the planner sees it.
struct IndexMembers: MemberMap {
    let index: LayerIndex

    var positionCount: Int { index.chunkCount }

    func member(at position: Int) -> ByteRange { index.chunk(index.chunkInBlobOrder(position)).member }

    func position(atOrAfter offset: UInt64) -> Int { index.blobPosition(atOrAfter: offset) }

    /// What a member's file is there for, where hardly a job reads it.
    func companion(at position: Int) -> Companion? {
        index.companion(index.chunk(index.chunkInBlobOrder(position)).record)
    }

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

/// A file that comes with others and that hardly a job reads: it is not taken along with a miss until some of its kind
/// were read in the layer.
enum Companion {
    /// It belongs to a test suite: it is somewhere below a directory `test` or `tests`.
    case test
    /// A source of a compiled Python module: `.py`, `.pyi`, `.pyx` or `.pxd` beside a directory `__pycache__`. Python reads
    /// what it has there instead.
    case source
}

extension LayerIndex {
    /// What kind of companion a record is, if any.
    func companion(_ record: UInt32) -> Companion? {
        if isTest(record) { return .test }
        return isCompiledSource(record) ? .source : nil
    }

    private func isCompiledSource(_ record: UInt32) -> Bool {
        guard isSourceName(name(record)) else { return false }
        let compiled: StaticString = "__pycache__"
        // SAFETY: the bytes of a static string are there for as long as the program runs.
        let bytes = unsafe UnsafeRawBufferPointer(start: compiled.utf8Start, count: compiled.utf8CodeUnitCount)
        return unsafe lookup(bytes.bytes, in: parent(record)) != nil
    }

    private func isSourceName(_ name: borrowing RawSpan) -> Bool {
        // SAFETY: the bytes are read inside of the closure only.
        unsafe name.withUnsafeBytes { bytes in
            unsafe bytes.suffix(3).elementsEqual(".py".utf8) || bytes.suffix(4).elementsEqual(".pyi".utf8)
                || bytes.suffix(4).elementsEqual(".pyx".utf8) || bytes.suffix(4).elementsEqual(".pxd".utf8)
        }
    }

    private func isTest(_ record: UInt32) -> Bool {
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
