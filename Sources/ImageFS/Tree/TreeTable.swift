internal import BlobIO
internal import LayerFormat
internal import PosixIO
internal import Synchronization

/// The trees of a mount by their numbers.
///
/// LOCK ORDER: a leaf.
final class TreeTable: Sendable {
    private let trees = Mutex<[UInt32: Tree]>([:])

    func tree(_ number: UInt32) -> Tree? {
        trees.withLock { $0[number] }
    }

    /// The tree of a number, made on first use.
    func tree(_ number: UInt32, orInsert make: () -> Tree) -> Tree {
        if let tree = tree(number) { return tree }
        let made = make()
        return trees.withLock { trees in
            if let tree = trees[number] { return tree }
            trees[number] = made
            return made
        }
    }

    /// The tree of an image at a place, and of its layers' own nodes, made on first use.
    ///
    /// - Parameter use: asked for when the tree is made.
    func image(
        _ image: OpenImage,
        place: String,
        numbers: NumberTable,
        use: @autoclosure () -> ImageUse?
    ) throws(SystemError) -> Tree {
        let number = try numbers.number(for: "D \(place)")
        if let tree = tree(number) { return tree }
        var nodes: [UInt32] = []
        for layer in image.layers { nodes.append(try layerNodes(layer, localFile: nil, numbers: numbers)) }
        return tree(number) { Tree(number: number, content: .image(image, nodes: nodes), use: use()) }
    }

    /// The number of a layer's own nodes; their tree exists from then on.
    func layerNodes(
        _ layer: Layer,
        localFile: (path: String, identity: LocalFileIdentity)?,
        numbers: NumberTable
    ) throws(SystemError) -> UInt32 {
        // A layer without a promised TOC can be indexed in more than one way; each way has its own records.
        let number = try numbers.number(for: "L \(layer.digest) \(layer.index.tocDigest)")
        _ = tree(number) { Tree(number: number, content: .layerNodes(layer), localFile: localFile) }
        return number
    }

    /// How many records all trees hold.
    var recordCount: Int {
        trees.withLock { trees in
            trees.values.reduce(0) { total, tree in
                switch tree.content {
                case .layerNodes(let layer): total + layer.index.recordCount
                case .layerDirectories, .image: total
                }
            }
        }
    }
}
