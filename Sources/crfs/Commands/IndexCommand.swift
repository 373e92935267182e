internal import ArgumentParser
internal import ImageFS
internal import OCIModel
internal import OCIRegistry

/// `crfs index`
struct IndexCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "index",
        abstract: "Write an index of an image's plain layers beside the image, so that it is lazy elsewhere.",
        discussion: """
            The layers are streamed once, unless they are indexed already. The index is an artifact that refers to the \
            image, whose own digest does not cover it: a mount uses it where --index-from or --index-digest says so, or \
            where the image is mounted by the tag that --bind gives.

            Example: crfs index --bind 3.12-indexed registry.example/python:3.12
            """
    )

    @Option(help: ArgumentHelp("Tag for an image index that names image and index.", valueName: "tag"))
    var bind: String?

    @OptionGroup var access: AccessOptions

    @Argument(help: ArgumentHelp("Reference of the image.", valueName: "image"))
    var image: String

    func validate() throws {
        if let bind, !Repository.isTag(bind[...]) { throw ValidationError("--bind: \(bind) is no tag.") }
    }

    func run() throws {
        guard let reference = ImageReference(image) else { throw CommandError("\(image) is no image reference") }
        let stack = try Stack.reading(access, purpose: "index")
        let (platform, tag) = (access.platform, bind)
        let result = runBlocking { () async -> Result<PublishedIndex, RegistryError> in
            do throws(RegistryError) {
                return .success(try await stack.library.publishIndex(reference, platform: platform, boundAs: tag))
            } catch {
                return .failure(error)
            }
        }
        switch result {
        case .failure(let error): throw CommandError("\(reference): \(error)")
        case .success(let index):
            print("image: \(index.manifest)")
            print("index: \(index.artifact)")
            print("layers: \(index.layers)")
            print("bytes: \(index.bytes)")
            if let bound = index.boundIndex { print("bound: \(bound)") }
        }
    }
}
