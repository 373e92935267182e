internal import BlobIO
internal import Glibc
internal import OCIModel
internal import OCIRegistry
internal import PosixIO
internal import Synchronization

/// Where tags lead, and how fresh that is (spec section 1).
///
/// A target counts as fresh for a while, counted across restarts. One that is not fresh is asked for again; when the
/// registry does not answer soon and a former target is known, that one is used and the question goes on behind. As long
/// as the registry is silent (`SilentHosts`), nobody waits for it again for the sake of a tag whose target is known, or of
/// a name that is known to be a directory.
///
/// LOCK ORDER: `entries` is a leaf; nothing is asked, read or written with it held.
final class TagTable: Sendable {
    struct Key: Hashable, Sendable {
        let repository: Repository
        let tag: String
    }

    /// What a tag came to: a digest, or nil for "no such tag", and for how many seconds that stands.
    struct Answer: Sendable {
        var target: Digest?
        var remaining: Double
    }

    private struct Known: Sendable {
        var target: Digest?
        /// Seconds since 1970.
        var checkedAt: Int64
        /// Monotonic nanoseconds when the answer came, in this process.
        var settledAt: UInt64?

        /// Those who waited look again, and must see what came, however short it counts as fresh.
        var isJustSettled: Bool {
            settledAt.map { monotonicNanoseconds() &- $0 < 200_000_000 } ?? false
        }
    }

    private struct Entry: Sendable {
        var known: Known?
        var isLoadedFromStore = false
        var loading: Completion?
        /// What the last question came to, for those who waited for it.
        var failure: (error: FSError, at: UInt64)?
        /// The registry is asked behind.
        var isRefreshing = false
        /// The log says that a former target is used.
        var isReported = false
    }

    private let entries = Mutex<[Key: Entry]>([:])
    private static let limit = 65_536
    private let registry: RegistryClient
    private let store: RepositoryStore
    private let notices: Notices
    private let silentHosts: SilentHosts
    private let tagLists: Loader<Repository, TagListing>
    /// Takes a manifest that came with the answer, before anybody hears of its digest.
    private let keep: @Sendable (Repository, FetchedManifest) -> Void
    /// Seconds.
    private let freshness: Double
    /// Seconds.
    private let knownDeadline: Double

    init(
        registry: RegistryClient,
        store: RepositoryStore,
        notices: Notices,
        silentHosts: SilentHosts,
        tagLists: Loader<Repository, TagListing>,
        keep: @escaping @Sendable (Repository, FetchedManifest) -> Void,
        freshness: Double,
        knownDeadline: Double
    ) {
        self.registry = registry
        self.store = store
        self.notices = notices
        self.silentHosts = silentHosts
        self.tagLists = tagLists
        self.keep = keep
        self.freshness = freshness
        self.knownDeadline = knownDeadline
    }

    /// Where the tag leads; asks the registry when what is known is not fresh.
    ///
    /// - Parameter isKnownPath: whether the name is known to be something else than a tag; asked only where it matters.
    func target(_ repository: Repository, _ tag: String, isKnownPath: () -> Bool = { false }) -> Loaded<Answer> {
        let key = Key(repository: repository, tag: tag)
        loadFromStoreOnce(key)
        let now = wallClockSeconds()
        let fresh = Completion()
        let isSilent = silentHosts.contains(repository.host)
        let isKnownDirectory = isSilent && isKnownPath()
        let step: Step = entries.withLock { entries in
            var entry = entries[key] ?? Entry()
            defer { entries[key] = entry }
            if let known = entry.known {
                let age = Double(now - known.checkedAt)
                // A clock that was set back makes nothing fresh for longer than it says.
                if (age >= 0 && age < freshness) || known.isJustSettled {
                    return .answer(.ready(Answer(target: known.target, remaining: max(0, freshness - max(0, age)))))
                }
            }
            if let loading = entry.loading { return .answer(.loading(loading)) }
            if let failure = entry.failure, monotonicNanoseconds() &- failure.at < 200_000_000 {
                return .answer(.failed(failure.error))
            }
            if isSilent, let target = entry.known?.target {
                defer { entry.isReported = true }
                entry.known = Known(target: target, checkedAt: now)
                return .former(target, isReported: entry.isReported)
            }
            if isKnownDirectory { return .answer(.failed(FSError(errno: ETIMEDOUT))) }
            entry.loading = fresh
            return .ask(former: entry.known)
        }
        switch step {
        case .answer(let answer): return answer
        case .former(let target, let isReported):
            if !isReported { report(key, target, "its registry does not answer") }
            return .ready(Answer(target: target, remaining: freshness))
        case .ask(let former):
            ask(key, former: former?.target, isKnownPath: isKnownPath(), fresh)
            return .loading(fresh)
        }
    }

    private enum Step {
        case answer(Loaded<Answer>)
        /// The registry is silent: where the tag led before.
        case former(Digest, isReported: Bool)
        case ask(former: Known?)
    }

    /// Tags of a repository that were asked for and are there; no more than `limit`.
    func seen(in repository: Repository, limit: Int) -> [String] {
        entries.withLock { entries in
            var tags: [String] = []
            for (key, entry) in entries where key.repository == repository && entry.known?.target != nil {
                tags.append(key.tag)
                if tags.count == limit { break }
            }
            return tags
        }
    }

    private func loadFromStoreOnce(_ key: Key) {
        if entries.withLock({ $0[key]?.isLoadedFromStore ?? false }) { return }
        let record = store.tag(key.repository, key.tag)
        let missing = record == nil ? store.missingTag(key.repository, key.tag) : nil
        entries.withLock { entries in
            // Names that somebody looked up once do not stay for ever: their targets are in the cache directory.
            if entries.count >= TagTable.limit { entries = entries.filter { $0.value.loading != nil } }
            var entry = entries[key] ?? Entry()
            if entry.known == nil, let checkedAt = record?.checkedAt ?? missing {
                entry.known = Known(target: record?.target, checkedAt: checkedAt)
            }
            entry.isLoadedFromStore = true
            entries[key] = entry
        }
    }

    /// - Parameters:
    ///   - former: where it led before.
    ///   - isKnownPath: the name is a directory if it is no tag. Like a former target that is something to go on with,
    ///     so the registry is not waited for as long as for a name that nothing is known of.
    private func ask(_ key: Key, former: Digest?, isKnownPath: Bool, _ completion: Completion) {
        Task { [self] in
            do throws(RegistryError) {
                let isShort = former != nil || isKnownPath
                settle(key, try await resolve(key, former: former, isShort: isShort), completion)
            } catch {
                if former != nil || isKnownPath { silentHosts.note(key.repository.host, error) }
                if let former {
                    useFormer(key, former, error, completion)
                } else {
                    if !isKnownPath {
                        notices.warning(
                            "tag \(key.repository)",
                            "cannot resolve \(key.repository):\(key.tag): \(error)"
                        )
                    }
                    fail(key, FSError(error), completion)
                }
            }
        }
    }

    /// Asks for the manifest itself where it is not known and nobody has listed the repository's tags: who names one tag
    /// goes on into its image, and saves a round trip. After a listing each tag is looked at, and only digests are asked for.
    private func resolve(_ key: Key, former: Digest?, isShort: Bool) async throws(RegistryError) -> Digest? {
        if former == nil, !isShort, tagLists.existing(key.repository) == nil {
            guard let manifest = try await registry.manifest(key.repository, tag: key.tag) else { return nil }
            keep(key.repository, manifest)
            return manifest.digest
        }
        return try await registry.resolve(
            key.repository,
            tag: key.tag,
            deadline: isShort ? knownDeadline : nil
        )
    }

    private func settle(_ key: Key, _ target: Digest?, _ completion: Completion) {
        let now = wallClockSeconds()
        if let target {
            store.setTag(key.repository, key.tag, RepositoryStore.TagRecord(target: target, checkedAt: now))
            keepMissing(above: key.repository)
        } else {
            store.removeTag(key.repository, key.tag)
            store.setMissingTag(key.repository, key.tag, checkedAt: now)
        }
        finish(key, completion) {
            $0.known = Known(target: target, checkedAt: now, settledAt: monotonicNanoseconds())
            $0.isReported = false
        }
    }

    /// Keeps that the names on the way to a repository are no tags: this process had to ask, the next one need not.
    private func keepMissing(above repository: Repository) {
        for directory in [repository] + repository.prefixes {
            guard let parent = directory.prefixes.first else { continue }
            let tag = String(directory.path.dropFirst(parent.path.utf8.count + 1))
            let known = entries.withLock { $0[Key(repository: parent, tag: tag)]?.known }
            guard let known, known.target == nil, known.settledAt != nil else { continue }
            store.setMissingTag(parent, tag, checkedAt: known.checkedAt)
        }
    }

    private func report(_ key: Key, _ target: Digest, _ reason: String) {
        notices.warning(
            "tag \(key.repository):\(key.tag)",
            "\(key.repository):\(key.tag): using the last known digest \(target), because: \(reason)"
        )
    }

    private func useFormer(_ key: Key, _ target: Digest, _ error: RegistryError, _ completion: Completion) {
        var wasReported = false
        var wasRefreshing = false
        // Counts as fresh once more, so that a dead registry costs one wait per period, not one per look-up.
        finish(key, completion) { entry in
            wasReported = entry.isReported
            wasRefreshing = entry.isRefreshing
            entry.known = Known(target: target, checkedAt: wallClockSeconds(), settledAt: monotonicNanoseconds())
            entry.isRefreshing = true
            entry.isReported = true
        }
        if !wasReported { report(key, target, "\(error)") }
        if !wasRefreshing { refresh(key) }
    }

    /// Asks on, with nobody waiting.
    private func refresh(_ key: Key) {
        Task { [self] in
            // "No such tag" is believed only of a question that somebody waited for.
            let target = try? await registry.resolve(key.repository, tag: key.tag, deadline: nil)
            let now = wallClockSeconds()
            if let target {
                store.setTag(key.repository, key.tag, RepositoryStore.TagRecord(target: target, checkedAt: now))
            }
            entries.withLock { entries in
                entries[key]?.isRefreshing = false
                guard let target else { return }
                entries[key]?.known = Known(target: target, checkedAt: now)
                entries[key]?.isReported = false
            }
        }
    }

    private func fail(_ key: Key, _ error: FSError, _ completion: Completion) {
        finish(key, completion) { $0.failure = (error, monotonicNanoseconds()) }
    }

    private func finish(_ key: Key, _ completion: Completion, _ change: (inout Entry) -> Void) {
        entries.withLock { entries in
            var entry = entries[key] ?? Entry()
            change(&entry)
            entry.loading = nil
            entries[key] = entry
        }
        completion.finish()
    }
}
