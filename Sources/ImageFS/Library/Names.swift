internal import BlobIO
internal import Glibc
internal import OCIModel
internal import OCIRegistry
internal import PosixIO
internal import Synchronization

/// Names seen since the start: hosts that answered, repositories, and prefixes of repositories.
struct SeenNames: Sendable {
    var hosts: Set<RegistryHost> = []
    var repositories: Set<Repository> = []
    var prefixes: Set<Repository> = []
    /// Repositories whose tags are kept, the last one listed at the end.
    var listed: [Repository] = []
}

/// What a repository lists: nil where the registry says there is none, or does not tell.
struct TagListing: Sendable {
    var list: TagList?
    /// Monotonic nanoseconds.
    var at: UInt64
}

/// What a host lists: nil where the registry offers no catalog.
struct CatalogListing: Sendable {
    var names: [String]?
    /// Monotonic nanoseconds.
    var at: UInt64

    /// For hosts that are not asked.
    static let none = CatalogListing(names: nil, at: 0)
}

/// Projects of this machine.
struct ProjectListing: Sendable {
    var names: [String]
    /// Monotonic nanoseconds.
    var at: UInt64
}

extension Library {
    /// Notes that a repository exists (and so its prefixes, and its host).
    func noteRepository(_ repository: Repository) {
        let prefixes = repository.prefixes
        seen.withLock { seen in
            guard seen.repositories.insert(repository).inserted else { return }
            seen.hosts.insert(repository.host)
            seen.prefixes.formUnion(prefixes)
        }
    }

    /// Notes what GCR says to be below a repository: its look-ups are answered as its listing was.
    private func noteChildren(_ names: [String], of repository: Repository) {
        let children = names.compactMap { Repository(host: repository.host, path: "\(repository.path)/\($0)") }
        seen.withLock { $0.prefixes.formUnion(children) }
    }

    /// A list can have megabytes: those of the repositories that were listed last are kept.
    private func keepFewTagLists(_ repository: Repository) {
        let dropped: Repository? = seen.withLock { seen in
            seen.listed.removeAll { $0 == repository }
            seen.listed.append(repository)
            return seen.listed.count > 64 ? seen.listed.removeFirst() : nil
        }
        if let dropped { tagLists.forget(dropped) }
    }

    /// Notes that a host speaks the registry protocol.
    func noteHost(_ host: RegistryHost) {
        seen.withLock { _ = $0.hosts.insert(host) }
    }

    /// Whether a path is known as a repository or as the beginning of one.
    func isKnown(_ repository: Repository) -> Bool {
        let isSeen = seen.withLock { $0.repositories.contains(repository) || $0.prefixes.contains(repository) }
        return isSeen || repositories.isKnown(repository.host, repository.path)
    }

    /// Whether a path is known to be a repository itself.
    func isRepository(_ repository: Repository) -> Bool {
        seen.withLock { $0.repositories.contains(repository) } || repositories.isRepository(repository)
    }

    /// Hosts to list beside the usual ones, sorted.
    func answeredHosts() -> [RegistryHost] {
        let seenHosts = seen.withLock { $0.hosts }
        return seenHosts.union(repositories.hosts().compactMap { RegistryHost($0) }).sorted { $0.name < $1.name }
    }

    /// Tags and GCR children of a repository, at most one freshness period old.
    func tagList(_ repository: Repository) -> Loaded<TagListing> {
        if let old = tagLists.existing(repository), isOld(old.at) { tagLists.forget(repository) }
        return tagLists.value(repository) { [self] () throws(FSError) in
            let isKnown = isKnown(repository)
            if isKnown && silentHosts.contains(repository.host) { throw FSError(errno: ETIMEDOUT) }
            do throws(RegistryError) {
                let deadline = listingDeadline(repository.host, isKnown: isKnown)
                let list = try await registry.tags(repository, deadline: deadline)
                if list != nil { noteRepository(repository) }
                noteHost(repository.host)
                noteChildren(list?.children ?? [], of: repository)
                keepFewTagLists(repository)
                return TagListing(list: list, at: monotonicNanoseconds())
            } catch {
                if isKnown { silentHosts.note(repository.host, error) }
                notices.warning("tags \(repository)", "cannot list the tags of \(repository): \(error)")
                throw FSError(error)
            }
        }
    }

    /// Repositories of a host, at most one freshness period old.
    func catalog(_ host: RegistryHost) -> Loaded<CatalogListing> {
        if let old = catalogs.existing(host), isOld(old.at) { catalogs.forget(host) }
        return catalogs.value(host) { [self] () throws(FSError) in
            let isKnown = !knownChildren(host, "").isEmpty
            if isKnown && silentHosts.contains(host) { throw FSError(errno: ETIMEDOUT) }
            do throws(RegistryError) {
                let names = try await registry.catalog(host, deadline: listingDeadline(host, isKnown: isKnown))
                noteHost(host)
                for name in names ?? [] {
                    if let repository = Repository(host: host, path: name) { noteRepository(repository) }
                }
                return CatalogListing(names: names, at: monotonicNanoseconds())
            } catch {
                if isKnown { silentHosts.note(host, error) }
                notices.warning("catalog \(host)", "cannot list the repositories of \(host): \(error)")
                throw FSError(error)
            }
        }
    }

    /// Seconds that a listing may take: a host that never answered may be a mistyped one, and `ls` of it should not hang.
    /// Where something is known that can be listed without the registry, it is not waited for any longer than for a tag.
    private func listingDeadline(_ host: RegistryHost, isKnown: Bool) -> Double? {
        if isKnown { return options.knownTagDeadline }
        return seen.withLock { $0.hosts.contains(host) } ? nil : Library.unknownHostDeadline
    }

    private static var unknownHostDeadline: Double { 10 }

    /// At least a second: who waits for a listing comes back for it when it has arrived, and must find it.
    private func isOld(_ at: UInt64) -> Bool {
        Double(monotonicNanoseconds() &- at) > max(options.tagFreshness, 1) * 1e9
    }

    /// Names directly below a path that are known without asking: components of repositories seen or remembered.
    func knownChildren(_ host: RegistryHost, _ path: String) -> Set<String> {
        var children = Set(repositories.children(host, path))
        let prefix = path.isEmpty ? "" : path + "/"
        for repository in seen.withLock({ $0.repositories }) {
            guard repository.host == host, repository.path.hasPrefix(prefix) else { continue }
            let rest = repository.path.dropFirst(prefix.count)
            if let first = rest.split(separator: "/").first { children.insert(String(first)) }
        }
        return children
    }

    /// The Google Cloud project of this machine, in a list of one; empty elsewhere. Asked for again while nobody answers.
    func ownProjects() -> Loaded<[String]> {
        if let old = projects.existing(0), old.names.isEmpty, isOld(old.at) { projects.forget(0) }
        let loaded = projects.value(0) { [self] () throws(FSError) in
            let name = await registry.ownProject()
            let names = [name].compactMap { $0 }.filter { GCRProject.isValid($0) }
            return ProjectListing(names: names, at: monotonicNanoseconds())
        }
        switch loaded {
        case .ready(let listing): return .ready(listing.names)
        case .failed(let error): return .failed(error)
        case .loading(let completion): return .loading(completion)
        }
    }
}

extension Repository {
    /// The paths that this one is nested in: for `a/b/c` those of `a` and `a/b`.
    var prefixes: [Repository] {
        var prefixes: [Repository] = []
        var components = path.split(separator: "/")
        while components.count > 1 {
            components.removeLast()
            if let prefix = Repository(host: host, path: components.joined(separator: "/")) { prefixes.append(prefix) }
        }
        return prefixes
    }
}

/// Google Cloud project names, the first component of repositories on gcr.io hosts.
enum GCRProject {
    /// 6 to 30 characters, `^[a-z]([-a-z0-9]*[a-z0-9])?$`.
    static func isValid(_ name: some StringProtocol) -> Bool {
        let bytes = Array(name.utf8)
        guard (6...30).contains(bytes.count) else { return false }
        func isLower(_ byte: UInt8) -> Bool { (0x61...0x7a).contains(byte) }
        func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }
        return isLower(bytes[0]) && bytes[bytes.count - 1] != UInt8(ascii: "-")
            && bytes.allSatisfy { isLower($0) || isDigit($0) || $0 == UInt8(ascii: "-") }
    }
}

/// What a local layer file is known by: the same content as long as all of this is the same.
struct LocalFileIdentity: Hashable, Sendable {
    var device: UInt64
    var inode: UInt64
    var size: UInt64
    var mtimeSeconds: Int64
    var mtimeNanoseconds: Int64

    /// The identity of the regular file at `path`; nil when there is none.
    init?(path: String) {
        var status = stat()
        guard unsafe stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
        device = UInt64(status.st_dev)
        inode = UInt64(status.st_ino)
        size = UInt64(status.st_size)
        mtimeSeconds = Int64(status.st_mtim.tv_sec)
        mtimeNanoseconds = Int64(status.st_mtim.tv_nsec)
    }

    /// A name for tables.
    var key: String { "\(device):\(inode):\(size):\(mtimeSeconds).\(mtimeNanoseconds)" }
}

extension Library {
    /// A local layer file.
    func localLayer(_ path: String, _ identity: LocalFileIdentity) -> Loaded<Layer> {
        localLayers.value(identity) { [self] () throws(FSError) in
            do throws(BlobError) {
                return try await blobs.open(localFile: path)
            } catch {
                notices.warning("local \(path)", "cannot open the layer file \(path): \(error)")
                throw FSError(error)
            }
        }
    }
}
