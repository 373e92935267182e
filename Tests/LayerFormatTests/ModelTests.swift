import LayerFormat
import OCIModel
import PosixIO
import TestSupport
import Testing

/// A layer and an image as dictionaries of paths: slow, plain, and written apart from the index.
struct ModelTree {
    enum Node: Equatable, CustomStringConvertible {
        var description: String {
            switch self {
            case .directory(let mode, let implicit): "\(implicit ? "implied" : "dir") \(String(mode, radix: 8))"
            case .file(let uid): "file \(uid)"
            case .whiteout: "whiteout"
            case .link(let target): "link \(target)"
            }
        }

        case directory(mode: UInt32, implicit: Bool)
        case file(Int)
        case whiteout
        /// To a path of the lower layers.
        case link(String)
    }
    var nodes: [String: Node] = ["": .directory(mode: 0o755, implicit: true)]
    var whiteouts: Set<String> = []
    var opaque: Set<String> = []
    /// Directories with a whiteout of their own name in the same layer.
    var anew: Set<String> = []

    static func parent(_ path: String) -> String { String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]) }

    mutating func removeBelow(_ path: String) {
        for key in nodes.keys where key.hasPrefix(path + "/") { nodes[key] = nil }
        whiteouts = whiteouts.filter { !$0.hasPrefix(path + "/") }
        opaque = opaque.filter { $0 != path && !$0.hasPrefix(path + "/") }
    }

    mutating func makeParents(_ path: String) {
        let parent = ModelTree.parent(path)
        if path == "" { return }
        makeParents(parent)
        if case .directory = nodes[parent] { return }
        nodes[parent] = .directory(mode: 0o755, implicit: true)
    }

    mutating func put(_ path: String, _ node: Node) {
        makeParents(path)
        if case .directory = nodes[path] {
            if case .directory = node {} else { removeBelow(path) }
        }
        nodes[path] = node
    }
}

/// One entry of a random TOC.
enum ModelEntry {
    case directory(String, mode: UInt32)
    case file(String, uid: Int)
    case link(String, to: String)
    case whiteout(String)
    case opaque(String)

    var json: String {
        switch self {
        case .directory(let path, let mode): #"{"name":"\#(path.dropFirst())/","type":"dir","mode":\#(mode)}"#
        case .file(let path, let uid): #"{"name":"\#(path.dropFirst())","type":"fifo","mode":420,"uid":\#(uid)}"#
        case .link(let path, let to): #"{"name":".\#(path)","type":"hardlink","linkName":"\#(to.dropFirst())"}"#
        case .whiteout(let path):
            #"{"name":"\#(ModelTree.parent(path).dropFirst())/.wh.\#(path.dropFirst(ModelTree.parent(path).count + 1))","type":"reg"}"#
        case .opaque(let path): #"{"name":"\#(path.dropFirst())/.wh..wh..opq","type":"reg"}"#
        }
    }
}

/// What the model says an entry list and a list of layers come to.
struct Model {
    /// Applies entries in their order; nil for a cycle of links.
    static func layer(_ entries: [ModelEntry]) -> ModelTree? {
        var tree = ModelTree()
        for entry in entries {
            switch entry {
            case .directory(let path, let mode): tree.put(path, .directory(mode: mode, implicit: false))
            case .file(let path, let uid): tree.put(path, .file(uid))
            case .whiteout(let path):
                tree.makeParents(path)
                tree.whiteouts.insert(path)
            case .opaque(let path):
                tree.makeParents(path + "/x")
                tree.opaque.insert(path)
            case .link(let path, let target):
                // The way to the link is made before its target is looked for.
                tree.makeParents(path)
                switch tree.nodes[target] {
                case .directory: break
                case .file(let uid): if path != target { tree.put(path, .file(uid)) }
                default: tree.put(path, .link(target))
                }
            }
        }
        // Links to what came later.
        for (path, node) in tree.nodes {
            guard case .link(var target) = node else { continue }
            var seen: Set<String> = [path]
            while case .link(let next) = tree.nodes[target], seen.insert(target).inserted { target = next }
            if seen.contains(target) { return nil }
            switch tree.nodes[target] {
            case .file(let uid): tree.nodes[path] = .file(uid)
            case .directory: tree.nodes[path] = .whiteout
            default: tree.nodes[path] = .link(target)
            }
        }
        return finish(tree)
    }

    private static func finish(_ given: ModelTree) -> ModelTree {
        var tree = given
        // Links to directories were marked by a whiteout above: they are nothing.
        for (path, node) in tree.nodes where node == .whiteout { tree.nodes[path] = nil }
        for path in tree.whiteouts {
            switch tree.nodes[path] {
            case .directory:
                tree.opaque.insert(path)
                tree.anew.insert(path)
            case .file: break
            default: if case .link = tree.nodes[path] {} else { tree.nodes[path] = .whiteout }
            }
        }
        return tree
    }

    /// Applies layers one after the other, as an extracting runtime does.
    static func image(_ layers: [ModelTree]) -> [String: ModelTree.Node] {
        var result = ModelTree()
        for layer in layers {
            let below = result
            for path in layer.nodes.keys.sorted(by: { $0.count < $1.count }) where layer.opaque.contains(path) {
                result.removeBelow(path)
                if layer.anew.contains(path) { result.nodes[path] = nil }
            }
            for (path, node) in layer.nodes where node == .whiteout || layer.whiteouts.contains(path) {
                if case .directory = layer.nodes[path] { continue }
                result.removeBelow(path)
                result.nodes[path] = nil
            }
            for (path, node) in layer.nodes.sorted(by: { $0.key.count < $1.key.count }) {
                switch node {
                case .whiteout: break
                case .file: result.put(path, node)
                case .directory(_, let implicit):
                    if implicit, case .directory = result.nodes[path] { continue }
                    result.put(path, node)
                case .link(let target):
                    if case .file(let uid) = below.nodes[target] { result.put(path, .file(uid)) }
                }
            }
        }
        return result.nodes
    }
}

/// Random layers and images against the model. The seed is in every message.
@Suite struct ModelTests {
    private func randomPath(_ random: inout SeededGenerator) -> String {
        let depth = Int.random(in: 1...3, using: &random)
        return (0..<depth).map { _ in "/" + ["a", "b", "c"][Int.random(in: 0..<3, using: &random)] }.joined()
    }

    private func randomEntries(_ random: inout SeededGenerator, _ uid: inout Int) -> [ModelEntry] {
        (0..<Int.random(in: 0...10, using: &random)).map { _ in
            let path = randomPath(&random)
            switch Int.random(in: 0..<12, using: &random) {
            case 0...2: return .directory(path, mode: UInt32.random(in: 0...0o777, using: &random))
            case 3...6:
                uid += 1
                return .file(path, uid: uid)
            case 7...8: return .link(path, to: randomPath(&random))
            case 9...10: return .whiteout(path)
            default: return .opaque(path)
            }
        }
    }

    private func json(_ entries: [ModelEntry]) -> [UInt8] {
        Array("{\"version\":1,\"entries\":[\(entries.map(\.json).joined(separator: ","))]}".utf8)
    }

    private func node(_ row: Row) -> ModelTree.Node {
        if row.flags.contains(.whiteout) { return .whiteout }
        if row.mode & 0o170000 == 0o040000 {
            return .directory(mode: row.mode & 0o7777, implicit: row.flags.contains(.implicit))
        }
        return .file(Int(row.uid))
    }

    private func expectSame(_ found: [String: ModelTree.Node], _ expected: [String: ModelTree.Node], _ label: String) {
        for path in Set(found.keys).union(expected.keys).sorted() where found[path] != expected[path] {
            Issue.record(
                "\(path): \(found[path].map { "\($0)" } ?? "none"), model: \(expected[path].map { "\($0)" } ?? "none"); \(label)"
            )
        }
    }

    private func checkLayer(_ index: LayerIndex, _ model: ModelTree, _ label: String) {
        let rows = index.rows()
        var expected = model.nodes
        for (path, node) in model.nodes {
            if case .link = node { expected[path] = model.whiteouts.contains(path) ? .whiteout : nil }
        }
        expectSame(rows.mapValues(node), expected, label)
        #expect(Set(rows.filter { $0.value.flags.contains(.opaque) }.keys) == model.opaque, "\(label)")
        #expect(Set(rows.filter { $0.value.flags.contains(.replacesLower) }.keys) == model.anew, "\(label)")
        checkCounts(rows, label)
    }

    /// Link counts: names of one uid are one inode here.
    private func checkCounts(_ rows: [String: Row], _ label: String) {
        var names: [String: UInt32] = [:]
        for (path, row) in rows where row.mode & 0o170000 != 0o040000 && !row.flags.contains(.whiteout) {
            names["\(row.uid)", default: 0] += 1
            #expect(rows[row.first]?.uid == row.uid, "\(label) \(path)")
        }
        for (path, row) in rows where row.mode & 0o170000 != 0o040000 && !row.flags.contains(.whiteout) {
            #expect(row.links == names["\(row.uid)"], "\(label) \(path)")
        }
        for (path, row) in rows where row.mode & 0o170000 == 0o040000 {
            let directories = rows.filter {
                $0.key != "" && ModelTree.parent($0.key) == path && $0.value.mode & 0o170000 == 0o040000
            }
            #expect(row.links == 2 + UInt32(directories.count), "\(label) \(path)")
        }
    }

    @Test func randomLayersAndImagesAreWhatTheModelSays() throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SeededGenerator(seed: seed)
        for round in 0..<400 {
            var uid = 0
            var layers: [LayerIndex] = []
            var models: [ModelTree] = []
            var texts: [String] = []
            for number in 0..<Int.random(in: 1...4, using: &random) {
                let entries = randomEntries(&random, &uid)
                let label = "seed \(seed), round \(round): \(String(decoding: json(entries), as: UTF8.self))"
                guard let model = Model.layer(entries) else {
                    let error = failure(json(entries))
                    #expect(error?.reason.contains("cycle") == true, "\(label)")
                    continue
                }
                let index = try build(json(entries), layer: Digest(words: (UInt64(number), 0, 0, 0)))
                checkLayer(index, model, label)
                layers.append(index)
                models.append(model)
                texts.append(String(decoding: json(entries), as: UTF8.self))
            }
            if layers.isEmpty { continue }
            let merged = try LayerFormat.ImageIndex.build(layers: layers) { _ in }
            let rows = try LayerFormat.ImageIndex(bytes: merged.share(), layers: layers).rows()
            let expected = Model.image(models).mapValues { node in
                if case .directory(let mode, _) = node { return ModelTree.Node.directory(mode: mode, implicit: false) }
                return node
            }
            let label = "seed \(seed), round \(round), \(texts)"
            expectSame(rows.mapValues(node), expected, label)
            checkCounts(rows, label)
        }
    }
}
