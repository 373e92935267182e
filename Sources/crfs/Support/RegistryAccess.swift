internal import ArgumentParser
internal import Glibc
internal import HTTPTransport
internal import Logging
internal import OCIModel
internal import OCIRegistry
internal import Synchronization

/// Options that every command has that speaks to registries.
struct RegistryAccessOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Certificate authorities to trust beside the system's.", valueName: "pem"))
    var caFile: String?

    @Option(
        help: ArgumentHelp(
            "Directory of hosts.toml files (mirrors, certificates), as containerd has it.",
            valueName: "dir"
        )
    )
    var hostsDir = "/etc/containerd/certs.d"

    @Option(
        help: ArgumentHelp(
            "A registry that is spoken to by plain HTTP although it is not on this machine. May be repeated.",
            valueName: "host[:port]"
        )
    )
    var insecureRegistry: [String] = []

    @Option(
        help: ArgumentHelp("How long a reader waits for a registry that makes no progress.", valueName: "seconds")
    )
    var deadline: Double = 120

    @Option(
        help: ArgumentHelp(
            "Log lines to write: trace, debug, info, notice, warning, error (default: notice for mount, else warning).",
            valueName: "level"
        )
    )
    var logLevel: Logger.Level?

    func validate() throws {
        guard deadline > 0, deadline.isFinite else { throw ValidationError("--deadline must be above 0 seconds.") }
        for name in insecureRegistry where RegistryHost(name) == nil {
            throw ValidationError("--insecure-registry: \(name) is no host.")
        }
    }

    private static let hasLog = Atomic(false)

    /// Sets the process up, and its log, before a client is made. The first call counts.
    ///
    /// - Parameter level: what is logged when the command line does not say.
    func startLogging(_ level: Logger.Level) -> Logger {
        if !Self.hasLog.exchange(true, ordering: .relaxed) {
            crfsConfigureProcess()
            let level = logLevel ?? level
            LoggingSystem.bootstrap { _ in LineLogHandler(level: level) }
        }
        return Logger(label: "crfs")
    }

    /// A client with the user's logins.
    ///
    /// - Parameter deadlineLimit: seconds that no request may wait longer than.
    func makeClient(deadlineLimit: Double = .infinity) -> RegistryClient {
        var options = RegistryOptions()
        options.insecureHosts = Set(insecureRegistry.compactMap { RegistryHost($0)?.name })
        options.caFile = caFile.map(absolutePath)
        options.deadlineSeconds = min(deadline, deadlineLimit)
        options.userAgent = Version.userAgent
        options.hostsDirectory = absolutePath(hostsDir)
        options.credentials = CredentialSources(variable: environment, user: geteuid())
        return RegistryClient(transport: HTTPTransport(), options: options)
    }
}
