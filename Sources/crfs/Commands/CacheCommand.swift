internal import ArgumentParser
internal import Control
internal import ImageFS
internal import PosixIO

/// `crfs cache`
struct CacheCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cache",
        abstract: "Look at a cache directory, make room in it, or check it.",
        discussion: "All of it works while the cache directory is in use: the crfs that owns it does it then.",
        subcommands: [CacheStatCommand.self, CachePruneCommand.self, CacheVerifyCommand.self]
    )
}

/// `crfs cache stat`
struct CacheStatCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stat",
        abstract: "Show what a cache directory holds and takes."
    )

    @Flag(help: "JSON instead of text.")
    var json = false

    @OptionGroup var directory: CacheDirectoryOption

    func run() throws {
        let report = try CacheRequest(action: .stat).send(directory.path) { _ in }
        try report.print(json: json)
    }
}

/// `crfs cache prune`
struct CachePruneCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prune",
        abstract: "Make room in a cache directory: files that are kept whole first, then chunks, the oldest first.",
        discussion: """
            Without options it only removes what crashed processes left and what is above the bound. What open images \
            need of their indexes stays usable; contents that are read again are fetched again.
            """
    )

    @Option(help: ArgumentHelp("Keep at most so many bytes of contents.", valueName: "size"))
    var keep: ByteSize?

    @Flag(help: "Remove all contents, indexes and manifests, and what is known of tags; profiles stay.")
    var all = false

    @Flag(help: "JSON instead of text.")
    var json = false

    @OptionGroup var directory: CacheDirectoryOption

    func validate() throws {
        if all && keep != nil { throw ValidationError("--keep and --all exclude each other.") }
    }

    func run() throws {
        let report = try CacheRequest(action: .prune, keepBytes: keep?.bytes, all: all).send(directory.path) { _ in }
        try report.print(json: json)
    }
}

/// `crfs cache verify`
struct CacheVerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Check all that a cache directory holds, and drop what is damaged.",
        discussion: "Exit code 1 when something was damaged. It is fetched again when it is needed."
    )

    @Flag(help: "JSON instead of text.")
    var json = false

    @Flag(help: "Show no progress.")
    var quiet = false

    @OptionGroup var directory: CacheDirectoryOption

    func run() throws {
        let line = ProgressLine(isQuiet: quiet, verb: "checking")
        let report = try CacheRequest(action: .verify).send(directory.path) { progress in
            line.update(chunks: progress.done, of: progress.total)
        }
        line.end()
        try report.print(json: json)
        guard let verified = report.verified else { return }
        let damagedFiles = verified.damagedMaterialisedFiles + verified.damagedFiles
        if verified.damagedChunks + damagedFiles > 0 {
            throw CommandError(
                "\(verified.damagedChunks) chunks and \(damagedFiles) files were damaged and have been dropped; "
                    + "if it happens again, look at the disk"
            )
        }
    }
}

extension CacheRequest {
    /// Does it here with the lock, or has the owner do it.
    func send(_ directory: String, _ progress: (CacheProgress) -> Void) throws -> CacheReport {
        guard CacheDirectory.exists(directory) else {
            throw CommandError("there is no cache directory \(directory); name another with --cache-dir")
        }
        var report: CacheReport?
        let claim = try CacheClaim(directory, purpose: "cache", seconds: 5) { channel in
            report = try channel.call("cache", self, progress: progress)
            return true
        }
        switch claim {
        case .served: break
        case .unavailable(let reason): throw CommandError(reason)
        case .owned(let state):
            crfsConfigureProcess()
            report = try run(CacheParts(unboundedIn: state), cancelled: nil, progress)
        }
        guard let report else { throw CommandError("the crfs that owns \(directory) gave no answer") }
        return report
    }
}

extension CacheReport {
    func print(json: Bool) throws {
        var output = OutputLines()
        if json {
            try writeJSON(self, &output)
        } else {
            for line in lines { try output.write(line) }
        }
        try output.flush()
    }

    private var lines: [String] {
        var bound = ""
        if let limitBytes { bound = " of \(bytesText(UInt64(limitBytes)))" }
        var rows: [(String, String)] = [
            ("cache", directory),
            (
                "contents",
                "\(bytesText(UInt64(max(0, contentBytes))))\(bound), \(contentChunks) chunks in \(segments) segments"
            ),
            ("files", "\(text(materialisedFiles)) that are kept whole, within the same bound"),
            ("indexes", "\(text(layerIndexes)) of layers, \(text(imageIndexes)) of images"),
            ("manifests", text(manifests)),
            ("profiles", text(profiles)),
        ]
        if let removed {
            rows.append(("removed", "\(bytesText(removed.bytes)), \(removed.leftoverFiles) leftover files"))
        }
        if let verified {
            rows.append(
                (
                    "checked",
                    "\(verified.chunks) chunks (\(bytesText(verified.bytes))), \(verified.damagedChunks) damaged; "
                        + "\(verified.materialisedFiles) whole files, \(verified.damagedMaterialisedFiles) damaged; "
                        + "\(verified.files) other files, \(verified.damagedFiles) damaged"
                )
            )
        }
        return rows.map { name, text in name + String(repeating: " ", count: 11 - name.count) + text }
    }

    private func text(_ usage: FileUsage) -> String { "\(usage.files) (\(bytesText(usage.bytes)))" }
}
