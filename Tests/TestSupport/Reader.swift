internal import PosixIO

/// A process that reads one file with read(2), for reads that may have to wait.
public final class Reader: Sendable {
    /// How a read ended.
    public enum Outcome: Sendable, Equatable {
        /// All was read: the file's size and the hex digits of its SHA-256.
        case read(size: Int, sha256: String)
        /// A call failed: the symbolic name of the error number.
        case failed(String)
        /// The process was ended by a signal, or had to be killed because it did not end.
        case ended(ExitStatus)
    }

    /// The reading process.
    public let process: BackgroundProcess
    private let directory: TemporaryDirectory

    /// Starts to read `path`.
    public init(_ path: String) throws {
        directory = try TemporaryDirectory("reader")
        process = try BackgroundProcess(
            "python3",
            [SourceTree.testSupport("reader.py"), path, directory.file("ready")],
            log: directory.file("output")
        )
    }

    /// Waits until the file is open and the first read begins; false when that does not happen.
    public func waitUntilReading(seconds: Double = 60) -> Bool {
        waitUntil(seconds: seconds) { !process.isRunning || (try? FileStatus(directory.file("ready"))) != nil }
            && process.isRunning
    }

    /// Waits for the end and says how it went.
    public func finish(seconds: Double = 180) throws -> Outcome {
        guard let status = process.wait(seconds: seconds) else { return .ended(process.kill()) }
        let words = try text(of: directory.file("output")).split(whereSeparator: \.isWhitespace)
        switch status {
        case .exited(0) where words.count == 2:
            return .read(size: Int(words[0]) ?? -1, sha256: String(words[1]))
        case .exited(1) where words.count == 2 && words[0] == "errno":
            return .failed(String(words[1]))
        default:
            return .ended(status)
        }
    }
}
