internal import ArgumentParser
internal import Glibc
internal import OCIModel
internal import PosixIO

/// `crfs cat`
struct CatCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cat",
        abstract: "Write files of an image or a layer file to standard output, without mounting it.",
        discussion: "Example: crfs cat debian:12 /etc/os-release"
    )

    @OptionGroup var access: AccessOptions

    @Argument(help: ArgumentHelp("Reference or layer file.", valueName: "image"))
    var image: String

    @Argument(help: ArgumentHelp("Paths inside.", valueName: "path"))
    var paths: [String]

    func run() throws {
        try runQuery(CatQuery(image: image, paths: paths, platform: access.platform.description), access)
    }
}

/// What `crfs cat` does.
struct CatQuery: ImageQuery {
    static let request = "cat"

    var image: String
    var paths: [String]
    var platform: String

    func run(_ stack: Stack, cancelled: Completion?, _ sink: @escaping OutputSink) throws {
        let (source, walker) = try open(stack, cancelled: cancelled)
        let root = try walker.root(source)
        for path in paths {
            let node = try walker.find(path, below: root)
            guard node.type == S_IFREG else {
                let reason = node.type == S_IFDIR ? describeErrno(EISDIR) : "no regular file"
                throw CommandError("\(path): \(reason)")
            }
            try walker.read(node, path, sink)
        }
    }
}
