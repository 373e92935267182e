public import ArgumentParser
public import Logging
internal import PosixIO

extension Logger.Level: @retroactive ExpressibleByArgument {}

/// Writes log lines to standard error: time (UTC), level, message, metadata.
struct LineLogHandler: LogHandler {
    var logLevel: Logger.Level
    var metadata: Logger.Metadata = [:]

    init(level: Logger.Level) {
        logLevel = level
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        var line = "\(utcText(wallClockSeconds(), "T", "Z")) \(event.level.rawValue) \(event.message)"
        let all = metadata.merging(event.metadata ?? [:]) { $1 }
        for (key, value) in all.sorted(by: { $0.key < $1.key }) { line += " \(key)=\(value)" }
        // One line is one event, whatever a registry put into its answer.
        printError(line.split(whereSeparator: \.isNewline).joined(separator: " "))
    }
}
