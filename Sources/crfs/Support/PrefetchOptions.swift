internal import ArgumentParser
internal import BlobIO
internal import ImageFS
internal import OCIModel

/// Options of what is fetched ahead of readers.
struct PrefetchOptions: ParsableArguments {
    @OptionGroup var key: JobOption

    @Option(
        help: ArgumentHelp(
            "An image to fetch as soon as the mount serves, before anybody looks at it. May be repeated.",
            valueName: "reference"
        )
    )
    var prefetch: [String] = []

    @Flag(
        inversion: .prefixedNo,
        help: "Fetch the rest of an image in the background once a file of it is read, up to a quarter of --cache-size."
    )
    var background = true

    func validate() throws {
        for text in prefetch where ImageReference(text) == nil {
            throw ValidationError("--prefetch: \(text) is no image reference.")
        }
    }
}

/// `--job`
struct JobOption: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Which job this is: each key has profiles of its own. 1 to 60 printable characters.",
            valueName: "key"
        )
    )
    var job: String?

    func validate() throws {
        if let job, !Profile.isJobKey(job) {
            throw ValidationError("--job must be 1 to 60 printable ASCII characters without spaces.")
        }
    }
}

/// One line that says what came by prefetches and how much of it was read; nil where nothing did.
func prefetchSummary(_ figures: [PrefetchFigures]) -> String? {
    let parts = figures.filter { $0.fetched > 0 }.map { figure in
        "\(figure.kind.name) \(mebibytes(figure.fetched)), \(mebibytes(min(figure.read, figure.fetched))) read, "
            + "\(mebibytes(figure.fetched - min(figure.read, figure.fetched))) unread"
    }
    return parts.isEmpty ? nil : "prefetched by " + parts.joined(separator: "; by ")
}

private func mebibytes(_ bytes: UInt64) -> String {
    let tenths = (bytes * 10 + (1 << 19)) >> 20
    return "\(tenths / 10).\(tenths % 10) MiB"
}
