internal import CShims
internal import FoundationEssentials
internal import Glibc
internal import PosixIO

/// Runs `docker-credential-<name> get`: the registry goes to its standard input, what it knows comes out as JSON. Nothing
/// secret is in its arguments or its environment.
struct CredentialHelper: Sendable {
    /// Why there is no credential.
    enum Failure: Error, Sendable {
        /// The helper has none for this registry.
        case nothing
        /// It could not be run, or did not do what a helper does; the text says why, without its output.
        case broken(String)
    }

    private struct Document: Decodable {
        var user: String?
        var secret: String?

        enum CodingKeys: String, CodingKey {
            case user = "Username"
            case secret = "Secret"
        }
    }

    /// The user name that says that the secret is a refresh token.
    static let tokenUser = "<token>"
    /// How long a helper may take, in seconds: some ask the network, some ask the user to unlock a key ring.
    static let patience = 30.0
    private static let outputLimit = 1 << 20

    let name: String
    let patience: Double

    init(_ name: String, patience: Double = CredentialHelper.patience) {
        self.name = name
        self.patience = patience
    }

    private var program: String { "docker-credential-\(name)" }

    /// How a registry may be called in a helper's key ring, in the order in which they are asked.
    static func servers(_ host: String) -> [String] {
        host == "docker.io" ? ["https://index.docker.io/v1/", "index.docker.io", "docker.io"] : [host, "https://\(host)"]
    }

    /// Asks for a registry's credential. Blocks the calling thread.
    func get(_ host: String) throws(Failure) -> Credential {
        for server in CredentialHelper.servers(host) {
            do throws(Failure) {
                return try get(server: server)
            } catch {
                guard case .nothing = error else { throw error }
            }
        }
        throw .nothing
    }

    private func get(server: String) throws(Failure) -> Credential {
        // A name with a slash would be a path.
        guard !name.isEmpty, name.utf8.allSatisfy({ CredentialHelper.isNameByte($0) }) else {
            throw .broken("\(program) is no name of a program")
        }
        let (status, output): (CInt, [UInt8])
        do throws(SystemError) {
            (status, output) = try run(input: Array((server + "\n").utf8))
        } catch {
            if error.code == ETIMEDOUT { throw .broken("\(program) did not answer within \(Int(patience)) s") }
            if error.code == ENOENT { throw .broken("\(program) is not in PATH") }
            throw .broken("\(program) could not be run: \(error)")
        }
        guard status == 0 else {
            // Helpers of all kinds say it in these words (docker-credential-helpers, errCredentialsNotFound).
            if String(decoding: output, as: UTF8.self).contains("credentials not found") { throw .nothing }
            throw .broken("\(program) failed for \(server) (\(CredentialHelper.describe(status)))")
        }
        guard let document = try? JSONDecoder().decode(Document.self, from: Data(output)),
            let secret = document.secret, !secret.isEmpty
        else { throw .broken("\(program) gave no JSON with a secret for \(server)") }
        let user = document.user ?? ""
        let proof: Credential.Proof =
            user == CredentialHelper.tokenUser
            ? .identity(user: user, Secret(secret)) : .password(user: user, Secret(secret))
        return Credential(proof: proof, source: program)
    }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5a, 0x61...0x7a: true
        default: byte == UInt8(ascii: "-") || byte == UInt8(ascii: "_") || byte == UInt8(ascii: ".")
        }
    }

    private static func describe(_ status: CInt) -> String {
        status & 0x7f == 0 ? "exit code \((status >> 8) & 0xff)" : "signal \(status & 0x7f)"
    }

    /// Runs the program in a process group of its own and reads its output; ETIMEDOUT when it was killed for being late.
    private func run(input: [UInt8]) throws(SystemError) -> (status: CInt, output: [UInt8]) {
        var pid: CInt = 0
        var ends: (input: CInt, output: CInt) = (-1, -1)
        let code = unsafe crfs_spawn_piped(program, "get", &ends.input, &ends.output, &pid)
        guard code == 0 else { throw SystemError(code: code, operation: "spawn", path: program) }
        let outputReader = Descriptor(owning: ends.output)
        let inputWriter = Descriptor(owning: ends.input)
        // A pipe holds at least 4 KiB: this never waits. A helper that does not read is no reason to fail.
        try? unsafe inputWriter.writeNext(input.span.bytes)
        _ = consume inputWriter
        var output: [UInt8] = []
        let deadline = monotonicNanoseconds() + UInt64(max(0, min(patience, 3600)) * 1e9)
        var isOpen = true
        while true {
            let now = monotonicNanoseconds()
            guard now < deadline, output.count <= CredentialHelper.outputLimit else {
                _ = kill(-pid, SIGKILL)
                _ = reap(pid)
                throw SystemError(code: now < deadline ? EFBIG : ETIMEDOUT, operation: "read", path: program)
            }
            // It has ended although somebody (a daemon that it started) still has the pipe: what is in it is all.
            let ended = hasEnded(pid)
            if isOpen { isOpen = drain(outputReader, into: &output, milliseconds: ended ? 0 : 20) }
            if ended { return (reap(pid), output) }
            if !isOpen { usleep(2000) }
        }
    }

    /// Reads what there is, or waits for it a moment; false at the end.
    private func drain(
        _ reader: borrowing Descriptor,
        into output: inout [UInt8],
        milliseconds: CInt
    ) -> Bool {
        var wait = milliseconds
        var buffer = [UInt8](repeating: 0, count: 4096)
        while output.count <= CredentialHelper.outputLimit {
            var entry = pollfd(fd: reader.raw, events: Int16(POLLIN), revents: 0)
            guard unsafe poll(&entry, 1, wait) > 0 else { return true }
            wait = 0
            let count = unsafe buffer.withUnsafeMutableBytes { (try? unsafe reader.readNext(into: $0)) ?? 0 }
            if count == 0 { return false }
            output += buffer[..<count]
        }
        return true
    }

    private func hasEnded(_ pid: pid_t) -> Bool {
        var info = unsafe siginfo_t()
        // Not reaped yet, so that the number stays its own until the group was killed.
        return unsafe waitid(P_PID, id_t(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_signo == SIGCHLD
    }

    private func reap(_ pid: pid_t) -> CInt {
        var status: CInt = 0
        while unsafe waitpid(pid, &status, 0) < 0 && errno == EINTR {}
        return status
    }
}
