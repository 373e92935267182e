internal import Glibc
internal import OCIModel
internal import PosixIO

/// What is remembered of repositories across restarts: where tags led and when that was checked, and which digests
/// were used. Components begin with a letter or digit, so `_tags`, `_none` and `_digests` collide with none.
struct RepositoryStore: Sendable {
    let directory: String

    /// Where a tag led, and when the registry said so (seconds since 1970).
    struct TagRecord: Sendable, Equatable {
        var target: Digest
        var checkedAt: Int64
    }

    private func path(_ repository: Repository) -> String { "\(directory)/\(repository.host.name)/\(repository.path)" }

    func tag(_ repository: Repository, _ tag: String) -> TagRecord? {
        guard let bytes = try? readFile("\(path(repository))/_tags/\(tag)", limit: 256) else { return nil }
        let fields = String(decoding: bytes.array, as: UTF8.self).split(separator: "\n").first?.split(separator: " ")
        guard let fields, fields.count == 2, let target = Digest(fields[0]), let time = Int64(fields[1]) else {
            return nil
        }
        return TagRecord(target: target, checkedAt: time)
    }

    func setTag(_ repository: Repository, _ tag: String, _ record: TagRecord) {
        let text = Array("\(record.target) \(record.checkedAt)\n".utf8)
        write(text, to: tag, in: "\(path(repository))/_tags")
    }

    func removeTag(_ repository: Repository, _ tag: String) {
        _ = unsafe unlink("\(path(repository))/_tags/\(tag)")
    }

    /// When the registry said that there is no such tag (seconds since 1970).
    func missingTag(_ repository: Repository, _ tag: String) -> Int64? {
        guard let bytes = try? readFile("\(path(repository))/_none/\(tag)", limit: 64) else { return nil }
        return String(decoding: bytes.array, as: UTF8.self).split(separator: "\n").first.flatMap { Int64($0) }
    }

    /// Keeps that there is no such tag where the name is a directory, which everybody looks into who uses a repository
    /// below; of other names nothing is kept.
    func setMissingTag(_ repository: Repository, _ tag: String, checkedAt: Int64) {
        guard isKnown(repository.host, "\(repository.path)/\(tag)") else { return }
        write(Array("\(checkedAt)\n".utf8), to: tag, in: "\(path(repository))/_none")
    }

    func hasDigest(_ repository: Repository, _ digest: Digest) -> Bool {
        unsafe access("\(path(repository))/_digests/\(digest.directoryName)", F_OK) == 0
    }

    func addDigest(_ repository: Repository, _ digest: Digest) {
        write([], to: digest.directoryName, in: "\(path(repository))/_digests")
    }

    /// Digests used so far, sorted.
    func digests(_ repository: Repository) -> [Digest] {
        names(in: "\(path(repository))/_digests").compactMap { Digest(directoryName: $0) }.sorted { $0.hex < $1.hex }
    }

    /// Tags that were asked for and found, sorted.
    func tags(_ repository: Repository) -> [String] { names(in: "\(path(repository))/_tags") }

    /// Hosts that anything is remembered of.
    func hosts() -> [String] { names(in: directory) }

    /// Whether `path` is a repository or a prefix of one, as far as is remembered.
    func isKnown(_ host: RegistryHost, _ path: String) -> Bool {
        unsafe access("\(directory)/\(host.name)/\(path)", F_OK) == 0
    }

    /// Whether `path` itself was seen as a repository.
    func isRepository(_ repository: Repository) -> Bool {
        unsafe access("\(path(repository))/_digests", F_OK) == 0 || access("\(path(repository))/_tags", F_OK) == 0
    }

    /// Components directly below a repository or prefix (`path` empty: below the host).
    func children(_ host: RegistryHost, _ path: String) -> [String] {
        names(in: "\(directory)/\(host.name)" + (path.isEmpty ? "" : "/\(path)")).filter { !$0.hasPrefix("_") }
    }

    private func write(_ bytes: [UInt8], to name: String, in directory: String) {
        try? makeDirectories(directory)
        try? unsafe replaceFile("\(directory)/\(name)", with: bytes.span.bytes)
    }

    private func names(in directory: String) -> [String] {
        namesInDirectory(directory).filter { !$0.contains(".tmp-") }
    }
}
