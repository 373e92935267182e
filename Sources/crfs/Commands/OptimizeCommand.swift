internal import ArgumentParser
internal import BlobIO
internal import ImageConverter
internal import ImageFS
internal import LayerWriter
internal import Logging
internal import OCIModel
internal import OCIRegistry

/// `crfs optimize`
struct OptimizeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "optimize",
        abstract: "Convert an image so that what its recorded profile read first comes first.",
        discussion: """
            As crfs convert, of the one image that the profile is of, with the files of the profile in front of a \
            landmark, those that were used first (64 chunks at a time) foremost: a mount of the result fetches them in \
            one go, on any machine and by any reader of eStargz.

            Example: crfs optimize registry.example/app:1.2 registry.example/app:1.2-fast
            """
    )

    @OptionGroup var choice: ProfileChoice
    @OptionGroup var layout: LayerWriterOptions

    @Argument(help: ArgumentHelp("Image to write: a reference, or oci:DIRECTORY[:TAG].", valueName: "out"))
    var output: String

    func run() throws {
        guard let reference = ImageReference(choice.image) else {
            throw CommandError("\(choice.image) is no reference: the image itself is needed, not only its profile")
        }
        let target = try ImageConversion.target(output)
        let profile = try choice.profile()
        var layer = layout.options
        layer.prioritized = try choice.paths(of: profile)
        guard !layer.prioritized.isEmpty else {
            throw CommandError("the profile of \(reference) has no file: mount the image, read, and try again")
        }
        let source = ImageReference(repository: reference.repository, tag: nil, digest: profile.manifest)
        var conversion = ImageConversion(source: .registry(source), layer: layer)
        conversion.target = target
        conversion.isQuiet = layout.quiet
        _ = choice.access.registry.startLogging(.warning)
        try conversion.run(choice.access.registry.makeClient())
    }
}
