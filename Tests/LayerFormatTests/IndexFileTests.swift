import Glibc
@testable import LayerFormat
import OCIModel
import PosixIO
import Testing

/// Index files: opened whole, refused when damaged or of something else, and never a crash.
@Suite struct IndexFileTests {
    private func temporaryPath() -> String {
        "/tmp/crfs-index-test-\(getpid())-\(monotonicNanoseconds())"
    }

    private func kind(_ body: () throws -> Void) -> LayerFormatError.Kind? {
        do {
            try body()
            return nil
        } catch {
            return (error as? LayerFormatError)?.kind
        }
    }

    @Test func filesOpenAsTheyWereBuilt() throws {
        let blobs = try CorpusFiles.layers("estargz")
        let path = temporaryPath()
        defer { unsafe unlink(path) }
        var layers: [LayerIndex] = []
        for blob in blobs {
            let bytes = try CorpusFiles.indexBytes(blob)
            try replaceFile(path, with: bytes.span)
            let index = try LayerIndex(path: path, layer: blob.digest)
            #expect(index.rows() == (try CorpusFiles.index(blob)).rows())
            #expect(index.blobSize == UInt64(blob.bytes.count) && index.layerDigest == blob.digest)
            #expect(!index.isDamaged)
            #expect(kind { _ = try LayerIndex(path: path, layer: testLayer) } == .staleIndex)
            layers.append(index)
        }
        let merged = try LayerFormat.ImageIndex.build(layers: layers) { _ in }.share()
        try replaceFile(path, with: merged.span)
        let image = try LayerFormat.ImageIndex(path: path, layers: layers)
        #expect(image.rows() == (try LayerFormat.ImageIndex(bytes: merged, layers: layers)).rows())
        #expect(kind { _ = try LayerFormat.ImageIndex(path: path, layers: layers.reversed()) } == .staleIndex)
        #expect(kind { _ = try LayerFormat.ImageIndex(path: path, layers: Array(layers.dropLast())) } == .staleIndex)
        #expect(kind { _ = try LayerIndex(path: path, layer: blobs[0].digest) } == .staleIndex)
        #expect(kind { _ = try LayerIndex(path: path + "-none", layer: testLayer) } == .system)
    }

    @Test func buildsAreTheSameEachTime() throws {
        let blob = try CorpusFiles.layers("estargz")[0]
        #expect(try CorpusFiles.indexBytes(blob).array == (try CorpusFiles.indexBytes(blob)).array)
    }

    @Test func cutFilesAreStale() throws {
        let blob = try CorpusFiles.layers("estargz")[2]
        let whole = try CorpusFiles.indexBytes(blob).array
        for count in 0..<whole.count {
            let cut = SharedBytes(Array(whole.prefix(count)))
            #expect(kind { _ = try LayerIndex(bytes: cut, layer: blob.digest) } == .staleIndex)
        }
        let path = temporaryPath()
        defer { unsafe unlink(path) }
        try unsafe replaceFile(path, with: [UInt8]().span.bytes)
        #expect(kind { _ = try LayerIndex(path: path, layer: blob.digest) } == .staleIndex)
    }

    /// Every byte counts: a small file with a flipped bit is refused when it is opened.
    @Test func flippedFilesAreStale() throws {
        let blob = try CorpusFiles.layers("estargz")[2]
        let layer = try CorpusFiles.index(blob)
        let files = [
            try CorpusFiles.indexBytes(blob).array,
            try LayerFormat.ImageIndex.build(layers: [layer]) { _ in }.share().array,
        ]
        for (number, whole) in files.enumerated() {
            for index in whole.indices {
                var flipped = whole
                flipped[index] ^= 1 << UInt8(index % 8)
                let bytes = SharedBytes(flipped)
                let kind = kind {
                    if number == 0 {
                        _ = try LayerIndex(bytes: bytes, layer: blob.digest)
                    } else {
                        _ = try LayerFormat.ImageIndex(bytes: bytes, layers: [layer])
                    }
                }
                #expect(kind == .staleIndex, "byte \(index)")
            }
        }
    }

    /// Large files are checked block by block: what comes from a damaged block is a safe value, and noticed.
    @Test func damageIsNoticedAtFirstTouch() throws {
        let entries = (0..<3000).map {
            #"{"name":"d\#($0 / 30)/file-\#($0)","type":"reg","size":1,"offset":\#($0 + 1)}"#
        }
        let json = Array("{\"version\":1,\"entries\":[\(entries.joined(separator: ","))]}".utf8)
        let source = TOCSource(layerDigest: testLayer, blobSize: 20000, tocOffset: 10000, promisedDigest: nil)
        let whole = try unsafe LayerIndexBuilder.build(
            json: UniqueBytes(copying: json.span.bytes),
            source: source
        ) { _ in }.share().array
        let good = try LayerIndex(IndexFile(bytes: SharedBytes(whole), kind: .layer, eagerLimit: 0), testLayer)
        let expected = good.rows()
        #expect(expected == (try LayerIndex(bytes: SharedBytes(whole), layer: testLayer)).rows())
        #expect(!good.isDamaged && whole.count > 5 * 65536)
        try good.verifyAllBlocks()
        for block in 1..<whole.count / 65536 {
            var damaged = whole
            damaged[block * 65536 + 1000] ^= 0x10
            let index = try LayerIndex(IndexFile(bytes: SharedBytes(damaged), kind: .layer, eagerLimit: 0), testLayer)
            #expect(index.find("d0/none") == nil)
            touchEverything(index)
            #expect(index.isDamaged, "block \(block)")
            #expect(kind { try index.verifyAllBlocks() } == .staleIndex)
        }
    }

    /// Offsets and counts that lie, with checksums that hold: a safe value, never a crash.
    @Test func liesAreCaughtByBounds() throws {
        let blob = try CorpusFiles.layers("estargz")[1]
        let layer = try CorpusFiles.index(blob)
        let files = [
            try CorpusFiles.indexBytes(blob).array,
            try LayerFormat.ImageIndex.build(layers: [layer]) { _ in }.share().array,
        ]
        for (number, whole) in files.enumerated() {
            for index in IndexLayout.headerBytes..<whole.count {
                var lying = whole
                lying[index] = ~lying[index]
                restoreChecksums(&lying)
                if number == 0 {
                    guard let index = try? LayerIndex(bytes: SharedBytes(lying), layer: blob.digest) else { continue }
                    touchEverything(index)
                    if let merged = try? LayerFormat.ImageIndex.build(layers: [index], note: { _ in }) {
                        touchEverything(try LayerFormat.ImageIndex(bytes: merged.share(), layers: [index]))
                    }
                } else if let image = try? LayerFormat.ImageIndex(bytes: SharedBytes(lying), layers: [layer]) {
                    touchEverything(image)
                }
            }
        }
    }

    private func restoreChecksums(_ bytes: inout [UInt8]) {
        unsafe bytes.withUnsafeMutableBytes { buffer in
            let table = IndexLayout.sectionsAt + IndexLayout.Section.checksums.rawValue * 16
            let start = unsafe Int(buffer.loadUnaligned(fromByteOffset: table, as: UInt64.self))
            let size = unsafe Int(buffer.loadUnaligned(fromByteOffset: table + 8, as: UInt64.self))
            for block in 0..<size / 4 {
                let range = IndexBlocks.range(block, endingBefore: start)
                let sum = unsafe IndexBlocks.checksum(UnsafeRawBufferPointer(rebasing: buffer[range]))
                unsafe buffer.storeBytes(of: sum, toByteOffset: start + block * 4, as: UInt32.self)
            }
            let tableSum = unsafe IndexBlocks.checksum(UnsafeRawBufferPointer(rebasing: buffer[start..<start + size]))
            unsafe buffer.storeBytes(of: tableSum, toByteOffset: IndexLayout.tableChecksumAt, as: UInt32.self)
            let head = unsafe UnsafeRawBufferPointer(rebasing: buffer[..<IndexLayout.headerChecksumAt])
            let headSum = unsafe IndexBlocks.checksum(head)
            unsafe buffer.storeBytes(of: headSum, toByteOffset: IndexLayout.headerChecksumAt, as: UInt32.self)
        }
    }

    private func touchEverything(_ index: LayerIndex) {
        for record in 0..<UInt32(index.recordCount) {
            _ = index.row(record)
            _ = index.path(record)
            _ = index.inode(record)
            _ = index.lookup(index.name(record), in: index.parent(record))
            if !index.chunks(record).isEmpty { _ = index.chunkIndex(record, at: 0) }
        }
        for position in 0..<index.chunkCount { _ = index.chunk(index.chunkInBlobOrder(position)) }
        _ = index.blobPosition(atOrAfter: 50)
    }

    private func touchEverything(_ image: LayerFormat.ImageIndex) {
        for record in 0..<UInt32(image.recordCount) {
            _ = image.node(record)
            _ = image.inode(record)
            _ = image.children(record)
            _ = image.lookup(image.name(record), in: image.parent(record))
        }
    }
}
