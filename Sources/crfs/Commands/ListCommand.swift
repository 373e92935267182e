internal import ArgumentParser
internal import Glibc
internal import ImageFS
internal import OCIModel
internal import PosixIO

/// `crfs ls`
struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ls",
        abstract: "List files of an image or a layer file, without mounting it.",
        discussion: "Example: crfs ls -l debian:12 /etc"
    )

    @Flag(name: .short, help: "One line for each name: mode, links, owner, size, time, name.")
    var long = false

    @Flag(name: .customShort("R"), help: "Descend into directories.")
    var recursive = false

    @OptionGroup var access: AccessOptions

    @Argument(help: ArgumentHelp("Reference or layer file.", valueName: "image"))
    var image: String

    @Argument(help: ArgumentHelp("Path inside.", valueName: "path"))
    var path = "/"

    func run() throws {
        try runQuery(
            ListQuery(
                image: image,
                path: path,
                long: long,
                recursive: recursive,
                platform: access.platform.description
            ),
            access
        )
    }
}

/// What `crfs ls` does.
struct ListQuery: ImageQuery {
    static let request = "ls"

    var image: String
    var path: String
    var long: Bool
    var recursive: Bool
    var platform: String

    func run(_ stack: Stack, cancelled: Completion?, _ sink: @escaping OutputSink) throws {
        let (source, walker) = try open(stack, cancelled: cancelled)
        let root = try walker.root(source)
        let node = try walker.find(path, below: root)
        var output = OutputLines(sink)
        if node.type == S_IFDIR {
            try list(node, at: path, walker, &output)
        } else {
            try output.write(line(Array(path.utf8), node, walker))
        }
        try output.flush()
    }

    private func list(_ directory: TreeWalker.Node, at path: String, _ walker: TreeWalker, _ output: inout OutputLines)
        throws
    {
        if recursive { try output.write(Array("\(path):".utf8)) }
        var below: [(path: String, node: TreeWalker.Node)] = []
        for child in try walker.children(directory, path) {
            if long || (recursive && child.type == S_IFDIR) {
                let childPath = (path == "/" ? "" : path) + "/" + String(decoding: child.name, as: UTF8.self)
                let node = try walker.child(child.name, of: directory, childPath)
                try output.write(long ? line(child.name, node, walker) : child.name)
                if node.type == S_IFDIR { below.append((childPath, node)) }
            } else {
                try output.write(child.name)
            }
        }
        guard recursive else { return }
        for (path, node) in below {
            try output.write([])
            try list(node, at: path, walker, &output)
        }
    }

    private func line(_ name: [UInt8], _ node: TreeWalker.Node, _ walker: TreeWalker) throws -> [UInt8] {
        guard long else { return name }
        let attributes = node.attributes
        let isDevice = node.type == S_IFCHR || node.type == S_IFBLK
        let size =
            isDevice ? "\(deviceMajor(attributes.device)),\(deviceMinor(attributes.device))" : "\(attributes.size)"
        let fields = [
            modeText(attributes.mode), "\(attributes.linkCount)", "\(attributes.uid)", "\(attributes.gid)", size,
            utcText(attributes.mtimeSeconds),
        ]
        var line = Array(fields.joined(separator: " ").utf8) + [UInt8(ascii: " ")] + name
        if node.type == S_IFLNK {
            let target = try walker.target(node, String(decoding: name, as: UTF8.self))
            line += Array(" -> ".utf8) + target
        }
        return line
    }
}
