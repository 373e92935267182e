internal import Glibc
internal import HTTPTransport
internal import Logging
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// The servers of each registry, from a directory as containerd has it (`/etc/containerd/certs.d`): read when a registry is
/// first asked, and again when its file changes.
///
/// LOCK ORDER: the lock is a leaf; files are read without it.
final class HostTable: Sendable {
    private struct Known: Sendable {
        var endpoints: [Endpoint]
        var signature: Signature
        /// CLOCK_MONOTONIC, nanoseconds.
        var checkedAt: UInt64
    }

    /// What tells one state of a registry's directory from another.
    private struct Signature: Equatable, Sendable {
        var directory: String?
        var inode: UInt64 = 0
        var size: Int64 = 0
        var seconds: Int64 = 0
        var nanoseconds: Int64 = 0
    }

    private let directory: String?
    private let authorities: [UInt8]
    private let log: Logger
    private let hosts = Mutex<[RegistryHost: Known]>([:])

    /// Files are looked at not more often than this, in nanoseconds.
    private static let checkInterval: UInt64 = 2_000_000_000
    private static let limit = 4096

    /// - Parameters:
    ///   - directory: nil for no configuration.
    ///   - caFile: authorities that all servers are trusted by, beside the system's and their own.
    init(directory: String?, caFile: String?, log: Logger) {
        self.directory = directory
        self.log = log
        authorities = caFile.flatMap { try? readFile($0, limit: HostsFile.limit).array + [UInt8(ascii: "\n")] } ?? []
    }

    /// The servers for a registry, in the order in which they are asked; the registry itself is the last one.
    func endpoints(of host: RegistryHost) -> [Endpoint] {
        guard directory != nil else { return [Endpoint(registry: host)] }
        let now = monotonicNanoseconds()
        let known = hosts.withLock { $0[host] }
        if let known, now &- known.checkedAt < HostTable.checkInterval { return known.endpoints }
        let signature = signature(of: host)
        var endpoints = known?.endpoints
        if endpoints == nil || known?.signature != signature {
            // A file that became unusable changes nothing: what was there before goes on.
            endpoints = read(host, signature) ?? known?.endpoints ?? [Endpoint(registry: host)]
        }
        let result = endpoints ?? [Endpoint(registry: host)]
        hosts.withLock { hosts in
            if hosts.count >= HostTable.limit { hosts.removeAll() }
            hosts[host] = Known(endpoints: result, signature: signature, checkedAt: now)
        }
        return result
    }

    /// How a server is trusted that a registry redirects to: as its own directory says, where it has one.
    func trust(_ authority: String) -> TLSSettings {
        guard directory != nil, let host = RegistryHost(authority) else { return TLSSettings() }
        guard let found = signature(of: host).directory, !found.hasSuffix("/_default") else { return TLSSettings() }
        return endpoints(of: host).last?.tls ?? TLSSettings()
    }

    /// Names of a registry's directory in the order in which they are looked for (containerd's order); Docker Hub's is called
    /// `docker.io` there.
    static func directoryNames(_ host: RegistryHost) -> [String] {
        var names: [String] = []
        for name in host.isDockerHub ? ["docker.io", host.name] : [host.name] {
            if let colon = name.lastIndex(of: ":"), !name.hasSuffix("]") {
                names.append(name[..<colon] + "_" + name[name.index(after: colon)...] + "_")
            }
            names.append(name)
        }
        return names + ["_default"]
    }

    private func signature(of host: RegistryHost) -> Signature {
        guard let directory else { return Signature() }
        for name in HostTable.directoryNames(host) {
            let path = "\(directory)/\(name)"
            var status = stat()
            guard unsafe stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else { continue }
            var file = stat()
            if unsafe stat("\(path)/hosts.toml", &file) == 0 { status = file }
            return Signature(
                directory: path,
                inode: UInt64(status.st_ino),
                size: Int64(status.st_size),
                seconds: Int64(status.st_mtim.tv_sec),
                nanoseconds: Int64(status.st_mtim.tv_nsec)
            )
        }
        return Signature()
    }

    private func read(_ host: RegistryHost, _ signature: Signature) -> [Endpoint]? {
        guard let directory = signature.directory else { return [Endpoint(registry: host)] }
        let path = "\(directory)/hosts.toml"
        var file = HostsFile(directory: directory, host: host, commonAuthorities: authorities)
        defer { for complaint in file.complaints { log.warning("\(path): \(complaint)") } }
        let content: [UInt8]
        do throws(SystemError) {
            content = try readFile(path, limit: HostsFile.limit).array
        } catch {
            if error.code == ENOENT { return file.endpointsWithoutFile() }
            log.warning("cannot read \(path): \(error.reason); it is left out")
            return nil
        }
        do throws(HostsFile.Failure) {
            return try file.endpoints(content)
        } catch {
            log.warning("cannot use \(path): \(error.reason); it is left out")
            return nil
        }
    }
}
