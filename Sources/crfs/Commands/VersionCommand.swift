internal import ArgumentParser

/// `crfs version`
struct VersionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "version", abstract: "Print the version.")

    func run() throws {
        print("crfs \(Version.text)")
    }
}
