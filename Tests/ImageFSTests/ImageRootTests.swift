import BlobIO
import Glibc
import HTTPTransport
import LayerFormat
import Logging
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport
import Testing

@testable import ImageFS

/// A file system whose root is one image, without a mount and without a registry: its layers are files of the corpus.
@Suite("One image as the root")
final class ImageRootTests {
    private let directory: TemporaryDirectory
    private let library: Library

    init() throws {
        directory = try TemporaryDirectory("root")
        let state = try StateDirectory(path: directory.file("cache"))
        let registry = RegistryClient(transport: HTTPTransport(), options: RegistryOptions())
        library = try Library(
            registry: registry,
            blobs: BlobIO(registry: registry, options: BlobIOOptions(indexDirectory: state.layerIndexDirectory)),
            state: state,
            options: LibraryOptions(),
            logger: Logger(label: "test")
        )
    }

    /// The image of these layers of the corpus, counted from 0.
    private func image(_ numbers: [Int] = [0, 1, 2]) async throws -> NamedImage {
        let layout = try ImageLayout(Corpus.layout("estargz"))
        var layers: [Layer] = []
        for number in numbers {
            layers.append(try await library.blobs.open(localFile: layout.blob(layout.layerHexes[number])))
        }
        let indexes = layers.map(\.index)
        let index = try ImageIndex(bytes: ImageIndex.build(layers: indexes) { _ in }.share(), layers: indexes)
        return NamedImage(
            reference: try #require(ImageReference("registry.example/team/app:1")),
            manifest: try #require(Digest("sha256:" + layout.manifestHex)),
            content: OpenImage(layers: layers, index: index)
        )
    }

    private var options: FileSystemOptions { FileSystemOptions(localDirectory: "/", readme: "text") }

    private func value<Value>(_ outcome: Outcome<Value>) throws -> Value {
        guard case .ready(let value) = outcome else { throw CommandFailure(description: "\(outcome)") }
        return value
    }

    private func lookUp(_ fileSystem: FileSystem, _ parent: NodeID, _ name: String) throws -> Entry {
        try unsafe value(fileSystem.lookup(parent, Array(name.utf8).span.bytes))
    }

    private func error<Value>(_ outcome: Outcome<Value>) -> CInt? {
        if case .failed(let error) = outcome { return error.errno }
        return nil
    }

    @Test("node 1 is the image's root directory, kept without limit, and the only node that is not of a tree")
    func root() async throws {
        let fileSystem = try FileSystem(library: library, options: options, image: try await image())
        let (attributes, timeout) = try value(fileSystem.attributes(.root))
        #expect(isDirectory(attributes.mode) && attributes.mode & 0o7777 == 0o755)
        #expect(attributes.inode >> 28 > 0 && attributes.inode & 0x0fff_ffff == 0)
        #expect(timeout == Entry.unlimited)
        #expect(fileSystem.isListingFixed(.root))
        for other in [0, 2, 3, 0x0fff_ffff] as [UInt64] {
            #expect(error(fileSystem.attributes(NodeID(rawValue: other))) == ESTALE)
        }
        // The kernel's own count of the root is not one of look-ups.
        fileSystem.forget(.root, count: 7)
        #expect(try value(fileSystem.attributes(.root)).0 == attributes)
    }

    @Test("names of the namespace above are not there, and nobody asks for any name twice")
    func names() async throws {
        let fileSystem = try FileSystem(library: library, options: options, image: try await image())
        for name in ["images", "layers", "README-crfs.txt", "nothing"] {
            let entry = try lookUp(fileSystem, .root, name)
            #expect(entry.node == .none && entry.entryTimeout == Entry.unlimited)
        }
        let etc = try lookUp(fileSystem, .root, "etc")
        #expect(etc.entryTimeout == Entry.unlimited && etc.attributeTimeout == Entry.unlimited)
        let hosts = try lookUp(fileSystem, etc.node, "hosts")
        #expect(hosts.attributes?.size == 20)
        #expect(try value(fileSystem.attributes(hosts.node)).0 == hosts.attributes)
    }

    @Test("the root lists its names, with itself as its own parent")
    func listing() async throws {
        let fileSystem = try FileSystem(library: library, options: options, image: try await image())
        var listed: [String: UInt64] = [:]
        _ = try value(
            fileSystem.list(.root, offset: 0, plus: true) { name, item in
                listed[String(decoding: Array(copying: name), as: UTF8.self)] = item.inode
                return true
            }
        )
        let own = try value(fileSystem.attributes(.root)).0.inode
        #expect(listed["."] == own && listed[".."] == own)
        for name in ["etc", "usr"] { #expect(try lookUp(fileSystem, .root, name).attributes?.inode == listed[name]) }
        #expect(listed["images"] == nil)
    }

    @Test("its numbers are those that it has in a tree of all registries, also in the next process")
    func numbers() async throws {
        let image = try await image()
        let first = try FileSystem(library: library, options: options, image: image)
        let second = try FileSystem(library: library, options: options, image: image)
        let own = try value(first.attributes(.root)).0.inode
        #expect(try value(second.attributes(.root)).0.inode == own)
        let place = "images/registry.example/team/app/\(image.manifest.directoryName)"
        #expect(try library.numbers.number(for: "D \(place)") == UInt32(own >> 28))
    }

    @Test("the mode and the group that a mount asks for are those of the root alone")
    func mode() async throws {
        var options = options
        options.rootMode = 0o700
        options.rootGroup = 4242
        let fileSystem = try FileSystem(library: library, options: options, image: try await image())
        let (root, _) = try value(fileSystem.attributes(.root))
        #expect(root.mode == S_IFDIR | 0o700 && root.gid == 4242)
        let etc = try lookUp(fileSystem, .root, "etc")
        #expect(etc.attributes?.mode == S_IFDIR | 0o755 && etc.attributes?.gid == 0)
    }

    @Test("an image has extended attributes where one of its layers has; a tree of all registries always may")
    func xattrs() async throws {
        // Only the corpus's bottom layer has any.
        for (layers, hasXattrs) in [([0, 1, 2], true), ([1, 0], true), ([1, 2], false), ([2], false)] {
            let image = try await image(layers)
            #expect(try FileSystem(library: library, options: options, image: image).hasXattrs == hasXattrs)
        }
        #expect(FileSystem(library: library, options: options).hasXattrs)
    }
}
