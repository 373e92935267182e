internal import ArgumentParser
internal import FoundationEssentials
internal import Glibc
internal import OCIRegistry
internal import PosixIO

/// Options that are not on the command line: from the environment, else from the configuration file. They are put between
/// the command's name and its arguments, so that they mean and are checked as if somebody had typed them.
struct Configuration {
    /// A configuration is small.
    private static let limit = 1 << 20

    private let variable: (String) -> String?
    private let arguments: [String]
    private let file: (path: String, document: TOMLValue)?

    /// - Parameters:
    ///   - arguments: the command line without the program's name; `--config FILE` names the configuration file.
    ///   - variable: the environment.
    init(_ arguments: [String], variable: @escaping (String) -> String?) throws {
        self.variable = variable
        var rest = arguments
        let path = try Configuration.takeConfigOption(&rest) ?? variable("CRFS_CONFIG")
        self.arguments = rest
        if let path {
            file = (path, try Configuration.read(path))
        } else if let path = Configuration.usual(variable).first(where: { unsafe access($0, R_OK) == 0 }) {
            file = (path, try Configuration.read(path))
        } else {
            file = nil
        }
    }

    /// Where a configuration is looked for when nobody names one.
    private static func usual(_ variable: (String) -> String?) -> [String] {
        let common = "/etc/crfs/config.toml"
        if geteuid() == 0 { return [common] }
        let base = variable("XDG_CONFIG_HOME") ?? variable("HOME").map { $0 + "/.config" }
        return (base.map { [$0 + "/crfs/config.toml"] } ?? []) + [common]
    }

    private static func takeConfigOption(_ arguments: inout [String]) throws -> String? {
        let end = arguments.firstIndex(of: "--") ?? arguments.endIndex
        guard let place = arguments[..<end].lastIndex(where: { $0 == "--config" || $0.hasPrefix("--config=") }) else {
            return nil
        }
        let option = arguments.remove(at: place)
        if option != "--config" { return String(option.dropFirst("--config=".count)) }
        guard place < end - 1 else { throw CommandError("--config needs the path of a file") }
        return arguments.remove(at: place)
    }

    private static func read(_ path: String) throws -> TOMLValue {
        do {
            return try TOMLValue.parse(try readFile(path, limit: limit).array)
        } catch {
            throw CommandError("cannot use the configuration \(path): \(error)")
        }
    }

    /// The command line with what it does not say itself.
    func completed() throws -> [String] {
        guard file != nil || hasVariables, !isQuestion else { return arguments }
        var type: any ParsableCommand.Type = CRFS.self
        var place = 0
        // Tables of the file that hold for the command, the widest first.
        var tables = [file?.document].compactMap { $0 }
        while place < arguments.count, let next = type.subcommand(arguments[place]) {
            type = next
            place += 1
            if let table = tables.last?[next._commandName] { tables.append(table) }
        }
        if let next = type.configuration.defaultSubcommand {
            type = next
            if let table = tables.last?[next._commandName] { tables.append(table) }
        }
        let command = try CommandShape(type)
        try checkFile(command)
        let given = GivenOptions.names(in: arguments)
        var added: [String] = []
        for (name, option) in command.options where !option.longNames.contains(where: given.contains) {
            if let text = variable(Configuration.variableName(name)) {
                added += try words(name, option, text)
            } else if let value = tables.reversed().lazy.compactMap({ $0[name] }).first {
                added += try words(name, option, value)
            }
        }
        return Array(arguments[..<place]) + added + Array(arguments[place...])
    }

    /// `CRFS_CACHE_DIR` for `cache-dir`.
    private static func variableName(_ option: String) -> String {
        "CRFS_" + option.uppercased().map { $0 == "-" ? "_" : String($0) }.joined()
    }

    private var hasVariables: Bool {
        ProcessInfo.processInfo.environment.keys.contains { $0.hasPrefix("CRFS_") }
    }

    /// Whether the command line asks about crfs instead of having it do something.
    private var isQuestion: Bool {
        arguments.first == "help"
            || arguments.contains { argument in
                argument == "-h" || argument == "--version" || argument.hasPrefix("--help")
                    || argument.hasPrefix("--generate-completion") || argument.hasPrefix("---")
            }
    }

    // MARK: Values

    /// What an option's value is on the command line, from the environment.
    private func words(_ name: String, _ option: CommandShape.Option, _ text: String) throws -> [String] {
        if option.isFlag {
            switch text.lowercased() {
            case "1", "true", "yes", "on": return ["--\(name)"]
            case "0", "false", "no", "off": return negated(option)
            default:
                throw CommandError("\(Configuration.variableName(name)) is \(text): true or false is what it can be")
            }
        }
        let values = option.isRepeating ? text.split(separator: ",").map(String.init) : [text]
        return values.map { "--\(name)=\($0)" }
    }

    /// The same from the file.
    private func words(_ name: String, _ option: CommandShape.Option, _ value: TOMLValue) throws -> [String] {
        if option.isFlag {
            guard let isSet = value.flag else { throw wrong(name, "true or false") }
            return isSet ? ["--\(name)"] : negated(option)
        }
        if let items = value.items, option.isRepeating {
            return try items.map { "--\(name)=\(try scalar($0, name))" }
        }
        return ["--\(name)=\(try scalar(value, name))"]
    }

    private func scalar(_ value: TOMLValue, _ name: String) throws -> String {
        switch value {
        case .string(let text): text
        case .integer(let number): "\(number)"
        case .number(let number): "\(number)"
        default: throw wrong(name, "a string or a number, or a list of them where the option may be repeated")
        }
    }

    private func wrong(_ name: String, _ expected: String) -> CommandError {
        CommandError("cannot use the configuration \(file?.path ?? ""): \(name) must be \(expected)")
    }

    /// A flag that is off by itself needs no word for it.
    private func negated(_ option: CommandShape.Option) -> [String] {
        option.longNames.first { $0.hasPrefix("no-") }.map { ["--\($0)"] } ?? []
    }

    /// Refuses keys that no command knows: they would be without effect, and nobody would see it. What all commands have
    /// takes 9 ms to find out, as long as it takes to start; where this command has all that the file says, its own
    /// options tell enough.
    private func checkFile(_ command: CommandShape) throws {
        guard let file else { return }
        if file.document.members?.allSatisfy({ $0.value.members == nil && command.knows($0.key) }) ?? true { return }
        try check(file.document, try CommandShape(CRFS.self), file.path)
    }

    private func check(_ table: TOMLValue, _ command: CommandShape, _ path: String) throws {
        for member in table.members ?? [] {
            if member.value.members != nil {
                guard let next = command.subcommand(member.key) else {
                    throw CommandError(
                        "cannot use the configuration \(path): line \(member.line): there is no command \(member.key)"
                    )
                }
                try check(member.value, next, path)
            } else if !command.knows(member.key) {
                throw CommandError(
                    "cannot use the configuration \(path): line \(member.line): no command has an option --\(member.key)"
                )
            }
        }
    }
}
