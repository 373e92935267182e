internal import ArgumentParser
internal import FoundationEssentials

/// A command's options and sub-commands, as ArgumentParser describes them: the one list of what can be configured.
struct CommandShape: Decodable {
    struct Option: Decodable {
        struct Name: Decodable {
            var kind: String
            var name: String
        }

        var kind: String
        var isRepeating: Bool
        var names: [Name]?

        /// Its long names without the hyphens; a flag that can be taken back has a second one, `no-…`.
        var longNames: [String] { (names ?? []).filter { $0.kind == "long" }.map(\.name) }
        var isFlag: Bool { kind == "flag" }
    }

    private struct Tool: Decodable {
        var command: CommandShape
    }

    var commandName: String
    var subcommands: [CommandShape]?
    var arguments: [Option]?

    /// A command's, with the commands below it.
    init(_ command: any ParsableCommand.Type) throws {
        let description = command._dumpHelp()
        do {
            self = try JSONDecoder().decode(Tool.self, from: Data(description.utf8)).command
        } catch {
            throw CommandError("cannot tell which options there are: \(error)")
        }
    }

    /// Options that a configuration can set, by their first long name. `help` and `version` are questions, not settings.
    var options: [(name: String, option: Option)] {
        (arguments ?? []).compactMap { option in
            guard option.kind != "positional", let name = option.longNames.first, name != "help", name != "version"
            else {
                return nil
            }
            return (name, option)
        }
    }

    /// The command below this one that is called so; aliases do not count.
    func subcommand(_ name: String) -> CommandShape? { subcommands?.first { $0.commandName == name } }

    /// Whether this command or one below it has an option of that name.
    func knows(_ name: String) -> Bool {
        options.contains { $0.name == name } || (subcommands ?? []).contains { $0.knows(name) }
    }
}

extension ParsableCommand {
    /// The command below this one that has the name.
    static func subcommand(_ name: String) -> (any ParsableCommand.Type)? {
        configuration.subcommands.first { $0._commandName == name || $0.configuration.aliases.contains(name) }
    }
}
