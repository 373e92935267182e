internal import ArgumentParser
internal import ImageFS
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// `crfs warm`
struct WarmCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "warm",
        abstract: "Fetch images, or their hot files, into the cache ahead of their use.",
        discussion: """
            What is in the cache already is not fetched again, so a call that broke off goes on where it was.

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
        let stack = try Stack.owning(access, purpose: "warm")
        var failures = 0
        for reference in images.compactMap({ ImageReference($0) }) {
            var request = WarmRequest(reference, platform: access.platform)
            request.hotOnly = hot
            request.job = key.job ?? ""
            do {
                try warm(request, stack.library, interrupt)
            } catch {
                failures += 1
                printError("crfs: \(reference): \(error)")
            }
            if interrupt.isRequested { throw CommandError("interrupted; the same command goes on from here") }
        }
        if failures > 0 {
            throw CommandError("\(failures) of \(images.count) images could not be fetched in full")
        }
    }

    private func warm(_ request: WarmRequest, _ library: Library, _ interrupt: Interrupt) throws {
        let line = Mutex(ProgressLine(isQuiet: quiet, verb: "\(request.reference)"))
        let result = runBlocking { () -> Result<WarmReport, FSError> in
            do throws(FSError) {
                return .success(
                    try await library.warm(request) { progress in
                        line.withLock { $0.update(done: min(progress.done, progress.total), total: progress.total) }
                        return !interrupt.isRequested
                    }
                )
            } catch {
                return .failure(error)
            }
        }
        line.withLock { $0.end() }
        let report: WarmReport
        switch result {
        case .success(let value): report = value
        case .failure(let error): throw CommandError(error.reason)
        }
        if report.knowsNothingHot {
            throw CommandError(
                "nothing says which of its files are hot: there is neither a profile nor a prefetch landmark; mount it "
                    + "and run the job once, import a profile, or leave --hot out"
            )
        }
        if let failure = report.failure { throw CommandError(failure) }
        if interrupt.isRequested { return }
        // A compressed byte takes up to 1.6 in the cache.
        if !hot && access.cacheSize.bytes > 0 && report.imageSize / 5 * 8 > UInt64(access.cacheSize.bytes) {
            printError("crfs: \(request.reference) may not fit into --cache-size \(access.cacheSize) as a whole")
        }
        print(
            "\(request.reference): \(report.fetched) bytes fetched, \(report.missing) were missing (\(report.manifest))"
        )
    }
}
