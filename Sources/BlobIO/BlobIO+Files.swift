public import ChunkStore
internal import LayerFormat
internal import OCIModel
internal import PosixIO
internal import Synchronization

extension BlobIO {
    /// Whether a file of so many bytes may come to be read from a materialised file.
    public func mayMaterialise(_ layer: Layer, size: UInt64) -> Bool {
        // A local layer's file can be replaced at any time; its readers are to notice.
        size >= FileStore.leastSize && layer.local == nil && store.files != nil
    }

    /// The materialised file with the content of a regular file's inode record, if there is one that can be trusted now.
    /// Fetches nothing and reads no content.
    ///
    /// - Parameter isUse: the file is being opened. One that was opened before, now or in an earlier process, and whose
    ///   chunks are all in the store, is materialised in the background.
    public func materialised(_ layer: Layer, record: UInt32, isUse: Bool) -> MaterialisedFile? {
        guard let files = store.files else { return nil }
        let size = layer.index.attributes(record).size
        guard mayMaterialise(layer, size: size), let key = layer.fileKey(record) else { return nil }
        let file = files.find(key, size: size)
        if isUse { noteUse(files, layer, record, key, isThere: file != nil) }
        return file
    }

    /// Whether any materialised file may be found now.
    public var mayHaveMaterialised: Bool { store.files?.mayHaveFiles ?? false }

    /// Counts a use of each file that a recording saw opened or read, one for however often: where the kernel opens
    /// files by itself, and reads what it has, nobody sees more. As in `materialised`, one that was used before is
    /// materialised in the background.
    public func materialiseUsed(in recording: Recording) {
        guard let files = store.files else { return }
        var counted: Set<FileKey> = []
        recording.forEachOpened { layer, record in
            let size = layer.index.attributes(record).size
            guard mayMaterialise(layer, size: size), let key = layer.fileKey(record), counted.insert(key).inserted
            else {
                return
            }
            noteUse(files, layer, record, key, isThere: files.find(key, size: size) != nil)
        }
    }

    private func noteUse(_ files: FileStore, _ layer: Layer, _ record: UInt32, _ key: FileKey, isThere: Bool) {
        guard files.noteUse(key), !isThere else { return }
        files.materialise(key, size: layer.index.attributes(record).size) { [store] (writer) throws(SystemError) in
            try FileFiller(store: store, layer: layer).fill(record, &writer)
        }
    }
}

extension Layer {
    /// What a regular file is materialised under; nil where its index is damaged.
    func fileKey(_ record: UInt32) -> FileKey? {
        let chunks = index.chunks(record)
        guard let first = chunks.first else { return nil }
        if chunks.count == 1 {
            let chunk = index.chunk(first)
            if verifiesChunks, !chunk.isZeros, let digest = chunk.digest { return FileKey(content: digest) }
        }
        if let known = fileKeys.withLock({ $0[record] }) { return known }
        var hash = FileKeyHash()
        for number in chunks {
            let chunk = index.chunk(number)
            if chunk.isZeros { hash.add(zeros: chunk.length) } else { hash.add(key(chunk)) }
        }
        if index.isDamaged { return nil }
        let result = hash.finish()
        fileKeys.withLock { $0[record] = result }
        return result
    }
}

/// Writes a file from the chunks of the store; gives up where one is missing.
struct FileFiller: Sendable {
    let store: ChunkStore
    let layer: Layer

    func fill(_ record: UInt32, _ writer: inout FileWriter) throws(SystemError) -> Bool {
        let index = layer.index
        let chunks = index.chunks(record)
        // Seen to first: half a file is of no use.
        for number in chunks {
            let chunk = index.chunk(number)
            if !chunk.isZeros, !store.contains(layer.key(chunk)) { return false }
        }
        var buffer = UniqueBytes(capacity: ChunkRecord.blockSize)
        for number in chunks {
            let chunk = index.chunk(number)
            if chunk.isZeros {
                try writer.append(zeros: UInt64(chunk.length))
                continue
            }
            guard let found = store.find(layer.key(chunk)), found.count == Int(chunk.length) else { return false }
            for block in 0..<found.blockCount {
                guard try append(found, block, &buffer, &writer) else { return false }
            }
        }
        return !index.isDamaged
    }

    private func append(
        _ record: ChunkRecord,
        _ block: Int,
        _ buffer: inout UniqueBytes,
        _ writer: inout FileWriter
    ) throws(SystemError) -> Bool {
        let size = record.payloadSize(block)
        let isRead: Bool
        switch unsafe record.block(block) {
        case .damaged: return false
        case .zeros:
            try writer.append(zeros: UInt64(size))
            return true
        case .raw(let bytes):
            isRead = unsafe buffer.withUnsafeMutableBytes { room in
                unsafe ChunkRecord.copy(bytes, into: UnsafeMutableRawBufferPointer(rebasing: room[..<size]))
            }
        case .packed:
            isRead = unsafe buffer.withUnsafeMutableBytes { room in
                unsafe record.unpack(block, into: UnsafeMutableRawBufferPointer(rebasing: room[..<size]))
            }
        }
        guard isRead else { return false }
        try writer.append(buffer.span.extracting(0..<size))
        return true
    }
}
