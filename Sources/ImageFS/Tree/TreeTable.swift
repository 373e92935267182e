internal import BlobIO
internal import LayerFormat
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
