internal import ArgumentParser
internal import Control
internal import PosixIO

/// `crfs status`
struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show what the crfs of a cache directory does: mounts, reads, network, cache.",
        discussion: """
            Counters count from the start of the process. Reads that the kernel's page cache serves never reach crfs and \
            are not among them. The members of --json are described in docs/control-socket.md.
            """
    )

    @Flag(help: "JSON instead of text.")
    var json = false

    @OptionGroup var directory: CacheDirectoryOption

    func run() throws {
        let report: StatusReport
        do {
            report = try ControlChannel(directory: directory.path).call("status", NoValue())
        } catch let error as ControlError {
            guard error.kind == .unreachable else { throw CommandError(error.description) }
            throw CommandError("\(error); mount first, or name another with --cache-dir")
        }
        var output = OutputLines()
        if json {
            try writeJSON(report, &output)
        } else {
            for line in report.lines { try output.write(line) }
        }
        try output.flush()
    }
}

/// The option of commands that need nothing but to know the cache directory.
struct CacheDirectoryOption: ParsableArguments {
    @Option(help: ArgumentHelp("Directory for what is kept across runs.", valueName: "dir"))
    var cacheDir: String?

    /// The option, or the user's.
    var path: String {
        CacheDirectory.path(cacheDir)
    }
}

extension StatusReport {
    /// The report for people.
    var lines: [String] {
        var rows: [(String, String)] = [
            ("crfs", "\(version), process \(process), up \(durationText(uptime))"),
            ("cache", cacheDirectory),
        ]
        for mount in mounts {
            let image = mount.image.map { " of \($0)" } ?? ""
            var text = "\(mount.point)\(image), since \(utcText(mount.since)) UTC"
            if mount.passthrough {
                text += ", opens answered, passthrough"
            } else if mount.openMode == "daemon" {
                text += ", opens answered"
            }
            if mount.isForeground { text += ", in the foreground of process \(mount.process)" }
            if mount.waits.now > 0 { text += ", \(mount.waits.now) requests wait" }
            rows.append(("mount", text))
        }
        let read = reads.fromStore + reads.fromFlights
        rows += [
            ("open", "\(imagesOpen) images, \(layersOpen) layers"),
            (
                "reads",
                "\(read): \(reads.fromStore) from the cache (\(percent(reads.fromStore, of: read))), "
                    + "\(reads.fromFlights) from the network; \(reads.failed) failed"
            ),
            ("waits", waits.text),
            (
                "network",
                "\(network.requests) requests, \(bytesText(network.bodyBytes)); \(network.retries) retries, "
                    + "\(network.redirects) redirects, \(network.tokenRequests) for tokens"
            ),
            (
                "contents",
                "\(network.contentRequests) requests (\(network.demandRequests) that a reader waited for), "
                    + "\(bytesText(network.contentBytes)), unpacked \(bytesText(network.inflatedBytes)); "
                    + "\(network.flightsNow) chunks on their way, \(network.mismatches) were wrong"
            ),
            (
                "hedges",
                "\(network.hedges) requests sent again because they were late, \(network.hedgesWon) of them first"
            ),
            (
                "ahead",
                "\(bytesText(prefetch.bytes)) before anybody asked: \(bytesText(prefetch.usedBytes)) read since, "
                    + "\(bytesText(prefetch.unusedBytes)) not"
            ),
            (
                "store",
                "\(bytesText(UInt64(max(0, store.diskBytes)))) of \(bytesText(UInt64(store.limitBytes))), "
                    + "\(store.chunks) chunks in \(store.segments) segments, in memory "
                    + "\(bytesText(UInt64(max(0, store.memoryBytes)))); \(store.evictions) evicted, \(store.damaged) damaged"
            ),
        ]
        rows += prefetch.kinds.filter { $0.fetchedBytes > 0 }.map { kind in
            (
                "prefetch",
                "\(kind.name): \(bytesText(kind.fetchedBytes)), \(bytesText(kind.readBytes)) read, "
                    + "\(bytesText(kind.unreadBytes)) unread"
            )
        }
        if materialisedFiles.bytes > 0 {
            let bound = bytesText(UInt64(materialisedFiles.limitBytes))
            rows.append(
                (
                    "files",
                    "\(materialisedFiles.files) kept whole, \(bytesText(UInt64(materialisedFiles.bytes))) of \(bound)"
                )
            )
        }
        for stream in streamingLayers {
            let left = stream.secondsLeft.map { ", \(durationText($0)) left" } ?? ""
            rows.append(
                (
                    "stream",
                    "\(stream.layer) of \(stream.place), \(bytesText(stream.bytes)) of \(bytesText(stream.sizeBytes)), "
                        + "\(bytesText(stream.rate))/s\(left)"
                )
            )
        }
        for host in hosts {
            rows.append(
                ("host", "\(host.name), round trip \(decimal(host.roundTrip)) ms, \(bytesText(host.rate))/s")
            )
        }
        return rows.map { name, text in name + String(repeating: " ", count: 10 - name.count) + text }
    }

    private func percent(_ part: UInt64, of all: UInt64) -> String {
        all == 0 ? "-" : "\(decimal(Double(part) / Double(all) * 100)) %"
    }
}

extension StatusReport.Waits {
    /// Where the median and the slowest are, by the classes.
    var text: String {
        guard total > 0 else { return "none, \(now) now" }
        let mean = decimal(seconds / Double(total) * 1000)
        return "\(total) requests, mean \(mean) ms, half \(bound(total / 2)), all \(bound(total - 1)); \(now) now"
    }

    private func bound(_ rank: UInt64) -> String {
        var sum: UInt64 = 0
        for item in classes {
            sum += item.count
            guard sum > rank else { continue }
            return item.upTo.map { "within \($0) ms" } ?? "beyond a minute"
        }
        return "?"
    }
}

/// One digit behind the point.
func decimal(_ value: Double) -> String {
    guard value.isFinite, value >= 0, value < 1e15 else { return "?" }
    let tenths = UInt64((value * 10).rounded())
    return "\(tenths / 10).\(tenths % 10)"
}

/// `1.5 GiB` and the like.
func bytesText(_ bytes: UInt64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] as [(String, UInt64)]
    where bytes >= 1 << shift {
        return "\(decimal(Double(bytes) / Double(UInt64(1) << shift))) \(unit)"
    }
    return "\(bytes) B"
}

/// `3 h 12 min` and the like.
func durationText(_ seconds: Double) -> String {
    let total = UInt64(max(0, min(seconds, 1e12)))
    if total >= 86400 { return "\(total / 86400) d \(total % 86400 / 3600) h" }
    if total >= 3600 { return "\(total / 3600) h \(total % 3600 / 60) min" }
    if total >= 60 { return "\(total / 60) min \(total % 60) s" }
    return "\(total) s"
}
