internal import ArgumentParser
internal import Control
internal import ImageFS
internal import OCIModel
internal import PosixIO

/// `crfs warm`
struct WarmCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "warm",
        abstract: "Fetch images, or their hot files, into the cache ahead of their use.",
        discussion: """
            What is in the cache already is not fetched again, so a call that broke off goes on where it was. Beside a \
            running mount of the same cache directory its crfs fetches.

            Exit codes: 0 all is there, 1 something is missing, 2 the command line cannot be used.

            Example: crfs warm --hot registry.example/app:1.2
            """
    )

    @OptionGroup var access: AccessOptions
    @OptionGroup var key: JobOption

    @Flag(help: "Only what the image's profile or its prefetch landmark says is needed early.")
    var hot = false

    @Flag(help: "No progress.")
    var quiet = false

    @Argument(help: ArgumentHelp("Image references.", valueName: "reference"))
    var images: [String]

    func validate() throws {
        if images.isEmpty { throw ValidationError("Name at least one image.") }
        for text in images where ImageReference(text) == nil {
            throw ValidationError("\(text) is no image reference.")
        }
    }

    func run() throws {
        let interrupt = Interrupt()
        var rest = images[...]
        var failures = 0
        /// Warms what is left, one after the other. An owner that is lost leaves the rest for another attempt.
        func warmRest(_ warm: (WarmQuery, (WarmStep) -> Void) throws -> WarmAnswer) throws {
            while let image = rest.first {
                do {
                    try self.warm(image, warm)
                } catch {
                    if interrupt.isRequested { throw CommandError("interrupted; the same command goes on from here") }
                    if let error = error as? ControlError, error.kind != .refused { throw error }
                    failures += 1
                    printError("crfs: \(image): \(error)")
                }
                rest.removeFirst()
            }
        }
        let directory = access.cacheDirectory
        let claim = try CacheClaim(directory, purpose: "warm", seconds: 5) { channel in
            try access.requireSame(as: ControlChannel(directory: directory).owner())
            // A connection is for one request.
            var first = Optional(channel)
            try warmRest { query, progress in
                let channel = try first.take() ?? ControlChannel(directory: directory)
                let token = interrupt.requested.whenFinished { channel.hangUp() }
                defer { interrupt.requested.remove(token) }
                return try channel.call("warm", query, progress: progress)
            }
            return true
        }
        switch consume claim {
        case .served: break
        case .unavailable(let reason): throw CommandError(reason)
        case .owned(let state):
            let stack = try Stack(access, state: state, use: .filling)
            try warmRest { query, progress in try query.run(stack, cancelled: interrupt.requested, progress) }
        }
        if failures > 0 {
            throw CommandError("\(failures) of \(images.count) images could not be fetched in full")
        }
    }

    private func warm(_ image: String, _ warm: (WarmQuery, (WarmStep) -> Void) throws -> WarmAnswer) throws {
        // What a reference leaves out is shown.
        let name = ImageReference(image).map { "\($0)" } ?? image
        let query = WarmQuery(image: image, platform: access.platform.description, hot: hot, job: key.job ?? "")
        let line = ProgressLine(isQuiet: quiet, verb: name)
        defer { line.end() }
        let answer = try warm(query) { line.update(done: $0.done, total: $0.total) }
        line.end()
        if answer.knowsNothingHot {
            throw CommandError(
                "nothing says which of its files are hot: there is neither a profile nor a prefetch landmark; mount it "
                    + "and run the job once, import a profile, or leave --hot out"
            )
        }
        if let failure = answer.failure { throw CommandError(failure) }
        // A compressed byte takes up to 1.6 in the cache.
        if !hot && answer.limitBytes > 0 && answer.imageBytes / 5 * 8 > UInt64(answer.limitBytes) {
            printError("crfs: \(name) may not fit into --cache-size \(bytesText(UInt64(answer.limitBytes))) as a whole")
        }
        print("\(name): \(answer.fetched) bytes fetched, \(answer.missing) were missing (\(answer.manifest))")
    }
}
