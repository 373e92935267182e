internal import BlobIO
internal import Glibc
internal import ImageFS
internal import OCIModel
internal import PosixIO

/// Walks the tree of a mount without mounting it, so that `ls` and `cat` see exactly what a mount shows.
struct TreeWalker {
    let fileSystem: FileSystem
    /// Its end cancels the walk; nil: nothing does.
    let cancelled: Completion?

    /// A node that was found, with its attributes.
    struct Node {
        var id: NodeID
        var attributes: Attributes

        var type: UInt32 { attributes.mode & S_IFMT }
    }

    /// One name of a directory.
    struct Child {
        var name: [UInt8]
        var type: UInt32
    }

    /// What an image or a layer file is called in the tree.
    static func path(_ source: ImageSource) -> [String] {
        switch source {
        case .file(let path): return ["layers", "local", String(path.split(separator: "/").last ?? "")]
        case .image(let reference):
            let repository = reference.repository
            let name = reference.digest.map(\.directoryName) ?? reference.tag ?? "latest"
            return ["images", repository.host.name] + repository.path.split(separator: "/").map(String.init) + [name]
        }
    }

    /// The root directory of an image or a layer file.
    func root(_ source: ImageSource) throws -> Node {
        let names = TreeWalker.path(source).map { Array($0.utf8) }
        var stack = [try node(.root)]
        let repository = try walk(Array(names.dropLast()), from: &stack, "\(source)")
        if case .image(let reference) = source, reference.digest == nil, let tag = names.last {
            // A name that is no tag can be a directory on faith, which is no image.
            guard try child(tag, of: repository, "\(source)").type == S_IFLNK else {
                throw CommandError("\(source): the registry has no such tag")
            }
        }
        return try walk(Array(names.suffix(1)), from: &stack, "\(source)")
    }

    /// The node at `path` below `root`; symlinks are followed inside the image, as chroot(2) would have it.
    func find(_ path: String, below root: Node) throws -> Node {
        var stack = [root]
        let components = path.utf8.split(separator: UInt8(ascii: "/")).map { Array($0) }
        return try walk(components, from: &stack, path)
    }

    private func walk(_ components: [[UInt8]], from stack: inout [Node], _ what: String) throws -> Node {
        var pending = Array(components.reversed())
        var links = 0
        while let component = pending.popLast() {
            if component == Array(".".utf8) { continue }
            if component == Array("..".utf8) {
                if stack.count > 1 { stack.removeLast() }
                continue
            }
            let child = try child(component, of: stack[stack.count - 1], what)
            guard child.type == S_IFLNK else {
                stack.append(child)
                continue
            }
            links += 1
            guard links <= 40 else { throw CommandError("\(what): \(describeErrno(ELOOP))") }
            let target = try value(what) { fileSystem.readLink(child.id) }
            if target.first == UInt8(ascii: "/") { stack.removeSubrange(1...) }
            pending += target.split(separator: UInt8(ascii: "/")).map { Array($0) }.reversed()
        }
        return stack[stack.count - 1]
    }

    /// The node of a name in a directory.
    func child(_ name: [UInt8], of parent: Node, _ what: String) throws -> Node {
        guard parent.type == S_IFDIR else { throw CommandError("\(what): \(describeErrno(ENOTDIR))") }
        let entry = try value(what) { unsafe fileSystem.lookup(parent.id, name.span.bytes) }
        guard let attributes = entry.attributes else { throw CommandError("\(what): \(describeErrno(ENOENT))") }
        return Node(id: entry.node, attributes: attributes)
    }

    private func node(_ id: NodeID) throws -> Node {
        Node(id: id, attributes: try value("/") { fileSystem.attributes(id) }.0)
    }

    /// Names of a directory, sorted, without "." and "..".
    func children(_ directory: Node, _ what: String) throws -> [Child] {
        var children: [Child] = []
        try value(what) {
            fileSystem.list(directory.id, offset: 0, plus: false) { name, listed in
                let bytes = unsafe name.withUnsafeBytes { unsafe Array($0) }
                if bytes != Array(".".utf8) && bytes != Array("..".utf8) {
                    children.append(Child(name: bytes, type: listed.type))
                }
                return true
            }
        }
        return children.sorted { $0.name.lexicographicallyPrecedes($1.name) }
    }

    /// A symlink's target.
    func target(_ link: Node, _ what: String) throws -> [UInt8] {
        try value(what) { fileSystem.readLink(link.id) }
    }

    /// Hands over a file's content piece by piece.
    func read(_ file: Node, _ what: String, _ sink: OutputSink) throws {
        var buffer = ReadBuffer()
        var offset: UInt64 = 0
        while offset < file.attributes.size {
            buffer.reset()
            var outcome = fileSystem.read(file.id, handle: 0, offset: offset, count: 1 << 20, into: &buffer)
            while case .parked(let job) = outcome {
                try wait(job.completion)
                buffer.reset()
                outcome = job.resume(into: &buffer)
            }
            if case .failed(let error) = outcome { throw CommandError("\(what): \(describeErrno(error.errno))") }
            guard buffer.byteCount > 0 else { throw CommandError("\(what): ends early, at \(offset) bytes") }
            try unsafe buffer.withSegments { segments in
                for index in segments.indices { try unsafe sink(segments[index].bytes) }
            }
            offset += UInt64(buffer.byteCount)
        }
    }

    private func wait(_ completion: Completion) throws {
        completion.waitBlocking(or: cancelled)
        if cancelled?.isFinished == true { throw CommandError("cancelled") }
    }

    /// Waits for an operation of the tree.
    private func value<T>(_ what: String, _ operation: () -> Outcome<T>) throws -> T {
        while true {
            switch operation() {
            case .ready(let value): return value
            case .failed(let error): throw CommandError("\(what): \(describeErrno(error.errno))")
            case .parked(let completion): try wait(completion)
            }
        }
    }
}

/// What `ls`, `cat` and `inspect` read: an image reference, or a layer file.
enum ImageSource: CustomStringConvertible {
    case image(ImageReference)
    case file(String)

    /// `file:PATH`, a path with a slash at its start or after dots, or the name of a file that exists, is a file;
    /// anything else is a reference.
    init(_ text: String) throws {
        if text.hasPrefix("file:") {
            self = .file(absolutePath(String(text.dropFirst(5))))
        } else if text.hasPrefix("/") || text.hasPrefix("./") || text.hasPrefix("../")
            || exists(text)
        {
            self = .file(absolutePath(text))
        } else if let reference = ImageReference(text) {
            self = .image(reference)
        } else {
            throw CommandError("\(text) is neither a file nor an image reference ([host/]name[:tag][@digest])")
        }
    }

    /// The directory that `layers/local` must show for a file.
    var localDirectory: String {
        switch self {
        case .image: return absolutePath(".")
        case .file(let path):
            let directory = path.split(separator: "/").dropLast().joined(separator: "/")
            return "/" + directory
        }
    }

    var description: String {
        switch self {
        case .image(let reference): reference.description
        case .file(let path): path
        }
    }
}

/// Whether something is there.
private func exists(_ path: String) -> Bool {
    unsafe access(path, F_OK) == 0
}
