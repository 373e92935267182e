internal import Glibc
internal import PosixIO

/// The crfs program of this build.
public enum CrfsProgram {
    /// `$CRFS_BINARY`, or the one that was built together with these tests.
    public static let path: String = {
        if let path = environmentValue("CRFS_BINARY"), path != "" { return path }
        // The test runner stands beside it.
        if let runner = try? linkTarget("/proc/self/exe"), let slash = runner.lastIndex(of: "/") {
            let sibling = "\(runner[..<slash])/crfs"
            if unsafe access(sibling, X_OK) == 0 { return sibling }
        }
        return "\(SourceTree.root)/.build/debug/crfs"
    }()

    /// Runs crfs with these arguments to its end.
    public static func run(_ arguments: [String], directory: String? = nil, seconds: Double = 60) throws
        -> ProcessResult
    {
        try TestSupport.run(path, arguments, directory: directory, seconds: seconds)
    }
}

/// A mounted crfs: a child process in the foreground, unmounted and reaped when its last owner goes.
///
/// The test may touch the mount, because another process serves it; but a call that has to wait for a dead registry holds
/// the calling thread, so such calls belong into a process of their own (`BackgroundProcess`).
public final class CrfsMount: Sendable {
    /// Where it is mounted.
    public let point: String
    /// The cache directory.
    public let cache: String
    /// What crfs wrote to its standard error and output.
    public let log: String
    /// The serving process.
    public let process: BackgroundProcess

    private let directory: TemporaryDirectory

    /// Mounts and waits until the kernel shows the mount. Without background fetch, which would make requests depend on
    /// time; `--background` among the arguments turns it on.
    ///
    /// - Parameters:
    ///   - cache: an existing cache directory; nil: a new one that goes with this object.
    ///   - local: the directory for `layers/local`; nil: an empty one.
    ///   - arguments: further options.
    ///   - environment: variables for the process.
    public init(
        cache: String? = nil,
        local: String? = nil,
        arguments: [String] = [],
        environment: [String: String] = [:]
    ) throws {
        directory = try TemporaryDirectory("mount")
        point = try directory.makeDirectory("mnt")
        log = directory.file("log")
        self.cache = try cache ?? directory.makeDirectory("cache", mode: 0o700)
        let local = try local ?? directory.makeDirectory("local")
        process = try BackgroundProcess(
            CrfsProgram.path,
            ["mount", "--foreground", "--no-background", "--cache-dir", self.cache, "--local-dir", local] + arguments
                + [point],
            environment: environment,
            log: log
        )
        let point = self.point
        let process = self.process
        let mounted = waitUntil(seconds: 60) { !process.isRunning || isMounted(point) }
        guard mounted, process.isRunning else {
            let said = (try? text(of: log)) ?? ""
            throw CommandFailure(
                description: "crfs did not mount \(point) (\(String(describing: process.poll()))):\n\(said)"
            )
        }
    }

    deinit {
        stop()
    }

    /// Unmounts by SIGTERM, by force where that does not work. Returns how the process ended.
    @discardableResult
    public func stop() -> ExitStatus {
        let status = process.terminate(seconds: 15)
        // Left behind only by a process that had to be killed.
        if isMounted(point) { unsafe _ = umount2(point, CInt(MNT_DETACH)) }
        return status
    }

    /// A path in the mount.
    public func path(_ relative: String) -> String { "\(point)/\(relative)" }

    /// The lines of the log that contain `part`.
    public func logLines(containing part: String) -> [String] {
        ((try? text(of: log)) ?? "").split(separator: "\n").filter { $0.contains(part) }.map(String.init)
    }
}

/// Whether something is mounted at exactly this path, by the kernel's list: the path itself is not touched.
public func isMounted(_ path: String) -> Bool { mountOptions(of: path) != nil }

/// The options (`ro`, `nosuid` …) of what is mounted on top at this path; nil where nothing is.
public func mountOptions(of path: String) -> [String]? {
    // Fields as in proc(5): id, parent, device, root, mount point, options, …
    for line in mountTable().reversed() {
        let fields = line.split(separator: " ")
        if fields.count > 5, unescaped(fields[4]) == path {
            return fields[5].split(separator: ",").map(String.init)
        }
    }
    return nil
}

/// The lines of /proc/self/mountinfo. Files there have no size, so they are read to their end.
private func mountTable() -> [Substring] {
    guard let file = try? Descriptor.open("/proc/self/mountinfo") else { return [] }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
        let count = unsafe buffer.withUnsafeMutableBytes { (try? unsafe file.readNext(into: $0)) ?? 0 }
        if count == 0 { break }
        bytes += buffer[..<count]
    }
    return String(decoding: bytes, as: UTF8.self).split(separator: "\n")
}

/// mountinfo writes space, tab, newline and backslash as `\` and three octal digits.
private func unescaped(_ text: Substring) -> String {
    var result: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
        if byte == UInt8(ascii: "\\"), rest.count >= 3,
            let value = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8)
        {
            result.append(value)
            rest = rest.dropFirst(3)
        } else {
            result.append(byte)
        }
    }
    return String(decoding: result, as: UTF8.self)
}
