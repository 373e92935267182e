internal import ImageFS
internal import OCIModel
internal import PosixIO

/// Open an image: what has to be done before it can be mounted alone.
struct ImageRequest: Codable, Sendable {
    /// Its name among the requests of the control socket.
    static let name = "open"

    /// A reference.
    var image: String
    /// `os/arch[/variant]`.
    var platform: String

    /// Does it, on a thread that may wait.
    ///
    /// - Parameter cancelled: its end ends the wait, with an error.
    func run(_ stack: Stack, cancelled: Completion) throws -> NamedImage {
        guard let reference = ImageReference(image) else { throw CommandError("\(image) is no image reference") }
        guard let platform = Platform(platform) else { throw CommandError("\(platform) is no platform") }
        let outcome = Monitor<Result<NamedImage, ImageError>?>(nil)
        let opened = Completion()
        Task { [library = stack.library] in
            let result: Result<NamedImage, ImageError>
            do throws(ImageError) {
                result = .success(try await library.openImage(reference, platform: platform))
            } catch {
                result = .failure(error)
            }
            outcome.withLock { $0 = result }
            opened.finish()
        }
        opened.waitBlocking(or: cancelled)
        switch outcome.withLock({ $0 }) {
        case .success(let image): return image
        case .failure(let error): throw CommandError("cannot mount \(reference): \(error)")
        case nil: throw ImageRequest.interrupted
        }
    }

    static let interrupted = CommandError("interrupted before the image was open; nothing is mounted")
}

/// It is open, and a mount of `image` is served at once.
struct ImageAnswer: Codable {
    /// The reference with the digest that it led to.
    var image: String
}
