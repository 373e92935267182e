internal import ArgumentParser
internal import Glibc
internal import PosixIO

/// A command that failed: the one line that goes to standard error.
struct CommandError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}

@main
struct CRFS: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "crfs",
        abstract: "Mount container images straight from a registry, without pulling them.",
        discussion: """
            crfs serves /layers/<host>/<repository>/… and /images/<host>/<repository>/<tag or digest>/… as a read-only \
            file system. Bytes are fetched when they are read.

            Every option can also stand in a configuration file (--config FILE, $CRFS_CONFIG, else \
            /etc/crfs/config.toml, for other users than root ~/.config/crfs/config.toml first) and in the environment, as \
            CRFS_CACHE_DIR for --cache-dir. The command line beats the environment, and the environment the file.

            Exit codes: 0 done, 1 failed, 2 the command line cannot be used.
            """,
        version: Version.text,
        subcommands: [
            MountCommand.self, UnmountCommand.self, ConvertCommand.self, OptimizeCommand.self, InspectCommand.self,
            ListCommand.self, CatCommand.self, WarmCommand.self, ProfileCommand.self, IndexCommand.self,
            StatusCommand.self,
            CacheCommand.self, VersionCommand.self,
        ],
        defaultSubcommand: MountCommand.self
    )

    static func main() {
        var arguments = Array(CommandLine.arguments.dropFirst())
        // A link named stargzify is the converter, as the tool of that name was.
        if let name = CommandLine.arguments.first?.split(separator: "/").last, name == "stargzify" {
            arguments.insert("convert", at: 0)
        }
        let code = run(arguments)
        // Not exit(3): its handlers take OpenSSL and libcurl apart under the threads that still use them, and now and
        // then one of those crashed. What is on its way to standard output is written first.
        fflush(nil)
        Glibc._exit(code)
    }

    /// Runs a command line; the exit code.
    static func run(_ arguments: [String]) -> CInt {
        do {
            let arguments = try Configuration(arguments, variable: environment).completed()
            var command = try parseAsRoot(arguments)
            try command.run()
            return 0
        } catch let error as CommandError {
            printError("crfs: \(error.description)")
            return 1
        } catch {
            return report(error)
        }
    }

    /// Help and version go to standard output; a command line that cannot be used is exit code 2.
    private static func report(_ error: any Error) -> CInt {
        let code = exitCode(for: error)
        let text = fullMessage(for: error)
        if code == .success {
            print(text)
            return 0
        }
        if code == .validationFailure {
            printError(text)
            return 2
        }
        if !text.isEmpty { printError("crfs: \(message(for: error))") }
        return code.rawValue
    }
}

/// A line on standard error.
func printError(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    _ = unsafe bytes.withUnsafeBytes { unsafe write(STDERR_FILENO, $0.baseAddress, $0.count) }
}
