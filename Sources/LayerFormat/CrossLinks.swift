internal import Glibc

/// A name in a layer's directory that is a hard link to an inode of a lower layer.
struct CrossLink {
    /// The directory's record in the layer of the name.
    var parent: UInt32
    var name: [UInt8]
    /// Where the inode is.
    var layer: Int
    var record: UInt32

    func isBefore(_ otherParent: UInt32, _ otherName: UnsafeRawBufferPointer) -> Bool {
        if parent != otherParent { return parent < otherParent }
        return unsafe name.withUnsafeBytes { unsafe compareNames($0, otherName) < 0 }
    }
}

/// Resolves the hard links whose targets are in lower layers (spec section 2): each in the tree as it is below the
/// link's own layer, links of those layers included.
struct CrossLinks {
    /// For each layer its links, sorted by directory and name.
    private(set) var byLayer: [[CrossLink]]
    private let layers: [LayerIndex]
    /// The directory that was looked up last: links mostly come in runs.
    private var lastPath: ArraySlice<UInt8> = []
    private var lastLayer = -1
    private var lastDirectories: [DirectoryPart] = []

    init(_ layers: [LayerIndex], _ notes: inout Notes) {
        self.layers = layers
        byLayer = [[CrossLink]](repeating: [], count: layers.count)
        for layer in layers.indices {
            for number in 0..<Int(layers[layer].file.header.externalLinkCount) {
                resolve(layer, number, &notes)
            }
            byLayer[layer].sort { a, b in
                unsafe b.name.withUnsafeBytes { unsafe a.isBefore(b.parent, $0) }
            }
        }
    }

    /// The links of a directory.
    func links(_ layer: Int, in parent: UInt32) -> Range<Int> {
        let list = byLayer[layer]
        if list.isEmpty { return 0..<0 }
        let empty = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        return unsafe lowerBound(list, parent, empty)..<lowerBound(list, parent + 1, empty)
    }

    private func lowerBound(_ list: [CrossLink], _ parent: UInt32, _ name: UnsafeRawBufferPointer) -> Int {
        var low = 0
        var high = list.count
        while low < high {
            let middle = (low + high) / 2
            if unsafe list[middle].isBefore(parent, name) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private mutating func resolve(_ layer: Int, _ number: Int, _ notes: inout Notes) {
        let source = layers[layer]
        guard let link = source.file.record(.externalLinks, number, ExternalLinkRecord.self),
            link.parent < source.file.header.recordCount,
            let name = unsafe source.file.bytes(.names, Int(link.name), Int(link.nameCount)),
            let target = unsafe source.file.bytes(.names, Int(link.target), Int(link.targetCount)),
            name.count <= FormatLimit.nameBytes
        else {
            source.file.markDamaged()
            return
        }
        let path = unsafe [UInt8](target)
        guard let found = find(path, below: layer) else {
            unsafe notes.add(
                .link,
                "hard link \(printable(name)) of layer \(layers[layer].layerDigest) is left out: its target "
                    + "\(printable(target)) is no file of the layers below"
            )
            return
        }
        unsafe byLayer[layer].append(
            CrossLink(parent: link.parent, name: [UInt8](name), layer: found.layer, record: found.record)
        )
    }

    /// A layer's directory that takes part in a merged one.
    private struct DirectoryPart {
        var layer: Int
        var record: UInt32
    }

    private enum Found {
        case nothing
        case inode(layer: Int, record: UInt32)
        case directories([DirectoryPart])
    }

    private mutating func find(_ path: [UInt8], below layer: Int) -> (layer: Int, record: UInt32)? {
        let slash = path.lastIndex(of: UInt8(ascii: "/"))
        let directory = path[..<(slash ?? 0)]
        if lastLayer != layer || lastPath != directory {
            lastLayer = layer
            lastPath = directory
            lastDirectories = roots(below: layer)
            for component in directory.split(separator: UInt8(ascii: "/")) {
                if case .directories(let next) = step(component, lastDirectories) {
                    lastDirectories = next
                } else {
                    lastDirectories = []
                }
            }
        }
        let base = path[(slash.map { $0 + 1 } ?? 0)...]
        guard case .inode(let layer, let record) = step(base, lastDirectories) else { return nil }
        return (layer, record)
    }

    /// The root's parts, top first, down to the first opaque one.
    private func roots(below layer: Int) -> [DirectoryPart] {
        var parts: [DirectoryPart] = []
        for number in stride(from: layer - 1, through: 0, by: -1) {
            parts.append(DirectoryPart(layer: number, record: 0))
            if layers[number].node(0).flags & NodeFlags.opaque.rawValue != 0 { break }
        }
        return parts
    }

    /// What a name stands for in a merged directory.
    private func step(_ name: ArraySlice<UInt8>, _ parts: [DirectoryPart]) -> Found {
        var directories: [DirectoryPart] = []
        for part in parts {
            let layer = layers[part.layer]
            let link = unsafe name.withUnsafeBytes { unsafe self.link($0, part) }
            if let link {
                return directories.isEmpty ? .inode(layer: link.layer, record: link.record) : .directories(directories)
            }
            guard let record = unsafe name.withUnsafeBytes({ unsafe layer.find($0, in: part.record) }) else { continue }
            let node = layer.node(record)
            guard node.isDirectory else {
                if !directories.isEmpty { break }
                let isWhiteout = node.flags & NodeFlags.whiteout.rawValue != 0
                return isWhiteout ? .nothing : .inode(layer: part.layer, record: layer.inode(record))
            }
            directories.append(DirectoryPart(layer: part.layer, record: record))
            if node.flags & NodeFlags.opaque.rawValue != 0 { break }
        }
        return directories.isEmpty ? .nothing : .directories(directories)
    }

    private func link(_ name: UnsafeRawBufferPointer, _ part: DirectoryPart) -> CrossLink? {
        let list = byLayer[part.layer]
        if list.isEmpty { return nil }
        let position = unsafe lowerBound(list, part.record, name)
        guard position < list.count, list[position].parent == part.record else { return nil }
        let isEqual = unsafe list[position].name.withUnsafeBytes { unsafe compareNames($0, name) == 0 }
        return isEqual ? list[position] : nil
    }
}

/// Bytewise order of two names: below, at or above 0.
@inline(__always)
func compareNames(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Int {
    if let first = a.baseAddress, let second = b.baseAddress {
        // SAFETY: both have at least the lesser of the two counts.
        let order = unsafe memcmp(first, second, min(a.count, b.count))
        if order != 0 { return Int(order) }
    }
    return a.count - b.count
}

extension LayerIndex {
    /// `lookup` by a buffer.
    func find(_ name: UnsafeRawBufferPointer, in directory: UInt32) -> UInt32? {
        unsafe file.search(
            name,
            children(directory),
            stride: NodeRecord.byteCount,
            nameAt: NodeRecord.nameAt,
            nameCountAt: NodeRecord.nameCountAt
        )
    }

    /// The bytes of a record's own name, valid while the index lives.
    @inline(__always)
    func nameBytes(_ node: NodeRecord) -> UnsafeRawBufferPointer {
        unsafe file.bytes(.names, Int(node.name), Int(node.nameCount)) ?? UnsafeRawBufferPointer(start: nil, count: 0)
    }
}
