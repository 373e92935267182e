public import Glibc
public import PosixIO
internal import Synchronization

/// How a process ended.
public enum ExitStatus: Sendable, Equatable {
    /// It called exit with this code.
    case exited(Int32)
    /// A signal of this number ended it.
    case signalled(Int32)
    /// It was still running when its time was over, and was killed.
    case timedOut

    /// Exit code 0.
    public var isSuccess: Bool { self == .exited(0) }

    init(waitStatus: CInt) {
        let signal = waitStatus & 0x7F
        self = signal == 0 ? .exited((waitStatus >> 8) & 0xFF) : .signalled(signal)
    }
}

/// What a finished process left.
public struct ProcessResult: Sendable, CustomStringConvertible {
    /// The command, for messages.
    public let command: String
    /// How it ended.
    public let status: ExitStatus
    /// All it wrote to standard output.
    public let output: [UInt8]
    /// All it wrote to standard error.
    public let errors: [UInt8]

    /// Standard output as text.
    public var text: String { String(decoding: output, as: UTF8.self) }
    /// Standard error as text.
    public var errorText: String { String(decoding: errors, as: UTF8.self) }
    /// Exit code 0.
    public var isSuccess: Bool { status.isSuccess }

    /// The command, its end and what it said, for the message of a failed expectation.
    public var description: String { "\(command): \(status)\n\(text)\(errorText)" }
}

/// A command that had to succeed and did not.
public struct CommandFailure: Error, Sendable, CustomStringConvertible {
    /// The command, its end and what it said.
    public let description: String

    /// Makes a failure with its text.
    public init(description: String) { self.description = description }
}

/// Runs a program to its end.
///
/// - Parameters:
///   - program: a path, or a name that is looked up in PATH.
///   - environment: added to this process's own.
///   - directory: where it runs; nil: where this process runs.
///   - input: its standard input; nil: /dev/null.
///   - seconds: after this long it is killed and the status is `timedOut`.
public func run(
    _ program: String,
    _ arguments: [String] = [],
    environment: [String: String] = [:],
    directory: String? = nil,
    input: [UInt8]? = nil,
    seconds: Double = 120
) throws(SystemError) -> ProcessResult {
    let output = try anonymousFile()
    let errors = try anonymousFile()
    let source = try inputFile(input)
    let child = try BackgroundProcess(
        program,
        arguments,
        environment: environment,
        directory: directory,
        streams: (source.raw, output.raw, errors.raw)
    )
    let status = child.wait(seconds: seconds) ?? .timedOut
    if status == .timedOut { child.kill() }
    return ProcessResult(
        command: ([program] + arguments).joined(separator: " "),
        status: status,
        output: try content(of: output),
        errors: try content(of: errors)
    )
}

/// Runs a program that must exit with 0; throws what it said otherwise.
@discardableResult
public func runChecked(
    _ program: String,
    _ arguments: [String] = [],
    environment: [String: String] = [:],
    directory: String? = nil,
    seconds: Double = 120
) throws -> ProcessResult {
    let result = try run(
        program,
        arguments,
        environment: environment,
        directory: directory,
        seconds: seconds
    )
    guard result.isSuccess else { throw CommandFailure(description: result.description) }
    return result
}

/// A child process that runs beside the test. It is killed and reaped when its last owner goes.
public final class BackgroundProcess: Sendable {
    /// Its process id.
    public let pid: pid_t
    private let ended = Mutex<ExitStatus?>(nil)

    /// Starts a program whose standard output and error both go to the end of the file `log` (made if missing).
    public convenience init(
        _ program: String,
        _ arguments: [String] = [],
        environment: [String: String] = [:],
        directory: String? = nil,
        log: String
    ) throws(SystemError) {
        let source = try Descriptor.open("/dev/null")
        let sink = try Descriptor.open(log, O_WRONLY | O_CREAT | O_APPEND, mode: 0o644)
        try self.init(
            program,
            arguments,
            environment: environment,
            directory: directory,
            streams: (source.raw, sink.raw, sink.raw)
        )
    }

    fileprivate init(
        _ program: String,
        _ arguments: [String],
        environment: [String: String],
        directory: String?,
        streams: (input: CInt, output: CInt, errors: CInt)
    ) throws(SystemError) {
        pid = try spawn(
            program,
            arguments,
            environment: environment,
            directory: directory,
            streams: streams
        )
    }

    deinit {
        kill()
    }

    /// Whether it has not ended yet.
    public var isRunning: Bool { poll() == nil }

    /// How it ended; nil while it runs.
    public func poll() -> ExitStatus? {
        ended.withLock { ended in
            if let ended { return ended }
            var status: CInt = 0
            let result = unsafe waitpid(pid, &status, WNOHANG)
            if result == pid { ended = ExitStatus(waitStatus: status) }
            return ended
        }
    }

    /// Waits for its end; nil when it still runs after `seconds`.
    public func wait(seconds: Double = 30) -> ExitStatus? {
        _ = waitUntil(seconds: seconds) { poll() != nil }
        return poll()
    }

    /// Sends a signal, unless it has ended.
    public func signal(_ number: CInt) {
        if poll() == nil { _ = Glibc.kill(pid, number) }
    }

    /// Sends SIGTERM, and SIGKILL to what still runs after `seconds`. Returns how it ended.
    @discardableResult
    public func terminate(seconds: Double = 10) -> ExitStatus {
        signal(SIGTERM)
        if let status = wait(seconds: seconds) { return status }
        return kill()
    }

    /// Ends it with SIGKILL and reaps it.
    @discardableResult
    public func kill() -> ExitStatus {
        signal(SIGKILL)
        // A process in a system call that cannot be interrupted ends late: it is left after a while.
        return wait(seconds: 20) ?? .timedOut
    }
}

/// An open file without a name: a child's output goes there, so that no pipe can fill up or be held open.
private func anonymousFile() throws(SystemError) -> Descriptor {
    let path = "\(environmentValue("TMPDIR") ?? "/tmp")/crfs-test-stream-\(getpid())-\(streamNumber.add(1))"
    let file = try Descriptor.open(path, O_RDWR | O_CREAT | O_EXCL)
    _ = unsafe unlink(path)
    return file
}

/// An open file that holds `input`, to be read from its start; /dev/null where there is none.
private func inputFile(_ input: [UInt8]?) throws(SystemError) -> Descriptor {
    guard let input else { return try Descriptor.open("/dev/null") }
    let file = try anonymousFile()
    try unsafe file.write(input.span.bytes, at: 0)
    return file
}

private let streamNumber = Counter()

private final class Counter: Sendable {
    private let value = Atomic(0)
    func add(_ amount: Int) -> Int { value.add(amount, ordering: .relaxed).newValue }
}

private func content(of file: borrowing Descriptor) throws(SystemError) -> [UInt8] {
    var bytes = UniqueBytes(capacity: Int(try file.status().st_size))
    let count = try unsafe bytes.withUnsafeMutableBytes { (buffer) throws(SystemError) in
        try unsafe file.read(into: buffer, at: 0)
    }
    bytes.truncate(to: count)
    return bytes.share().array
}

/// posix_spawnp(3) with the three standard streams and an own signal mask; returns the child's process id.
private func spawn(
    _ program: String,
    _ arguments: [String],
    environment: [String: String],
    directory: String?,
    streams: (input: CInt, output: CInt, errors: CInt)
) throws(SystemError) -> pid_t {
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe _ = posix_spawn_file_actions_destroy(&actions) }
    unsafe posix_spawn_file_actions_adddup2(&actions, streams.input, 0)
    unsafe posix_spawn_file_actions_adddup2(&actions, streams.output, 1)
    unsafe posix_spawn_file_actions_adddup2(&actions, streams.errors, 2)

    // The child starts without blocked signals, whatever thread of the test runner starts it.
    var attributes = posix_spawnattr_t()
    unsafe posix_spawnattr_init(&attributes)
    defer { unsafe _ = posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    unsafe sigemptyset(&none)
    unsafe posix_spawnattr_setsigmask(&attributes, &none)
    unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))

    // env(1) changes the directory: posix_spawn(3) has no portable action for that.
    let command = (directory.map { ["env", "-C", $0] } ?? []) + [program] + arguments
    let argv = CStringArray(command)
    let envp = CStringArray(mergedEnvironment(environment))
    var pid: pid_t = 0
    let code = unsafe posix_spawnp(&pid, command[0], &actions, &attributes, argv.pointers, envp.pointers)
    guard code == 0 else { throw SystemError(code: code, operation: "spawn", path: program) }
    return pid
}

private func mergedEnvironment(_ added: [String: String]) -> [String] {
    var result = added.map { "\($0.key)=\($0.value)" }
    // SAFETY: `environ` is a list of terminated strings that ends with nil; tests never change it.
    var next = unsafe environ
    while let entry = unsafe next.pointee {
        let text = unsafe String(cString: entry)
        let name = text.prefix { $0 != "=" }
        if added[String(name)] == nil { result.append(text) }
        unsafe next += 1
    }
    return result
}

/// A list of C strings that ends with nil, as execve(2) wants it.
@safe
private final class CStringArray {
    // SAFETY: both the list and its strings are owned by this object and live as long.
    let pointers: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>
    private let count: Int

    init(_ strings: [String]) {
        count = strings.count
        unsafe pointers = .allocate(capacity: strings.count + 1)
        for (index, string) in strings.enumerated() { unsafe pointers[index] = strdup(string) }
        unsafe pointers[strings.count] = nil
    }

    deinit {
        for index in 0..<count { unsafe free(pointers[index]) }
        unsafe pointers.deallocate()
    }
}
