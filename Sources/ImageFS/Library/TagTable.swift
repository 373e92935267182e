internal import BlobIO
internal import OCIModel
internal import OCIRegistry
internal import PosixIO
internal import Synchronization

/// Where tags lead, and how fresh that is (spec section 1).
///
/// A target counts as fresh for a while, counted across restarts. One that is not fresh is asked for again; when the
/// registry does not answer soon and a former target is known, that one is used and the question goes on behind. As long
/// as it goes on, nobody waits for that registry again for the sake of a tag whose target is known.
///
/// LOCK ORDER: `table` is a leaf; nothing is asked, read or written with it held.
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

    private struct Table: Sendable {
        var entries: [Key: Entry] = [:]
        /// Hosts that did not answer in time, and how many questions to them go on behind.
        var silent: [RegistryHost: Int] = [:]
    }

    private let table = Mutex(Table())
    private let registry: RegistryClient
    private let store: RepositoryStore
    private let notices: Notices
    /// Seconds.
    private let freshness: Double
    /// Seconds.
    private let knownDeadline: Double

    init(
        registry: RegistryClient,
        store: RepositoryStore,
        notices: Notices,
        freshness: Double,
        knownDeadline: Double
    ) {
        self.registry = registry
        self.store = store
        self.notices = notices
        self.freshness = freshness
        self.knownDeadline = knownDeadline
    }

    private enum Question {
        case none
        /// For those who wait. Of a name that something else is known of, it is not worth the whole deadline.
        case ask(former: Known?)
        /// For later: the former target is used now.
        case refresh(Digest, isReported: Bool)
    }

    /// Where the tag leads; asks the registry when what is known is not fresh.
    ///
    /// - Parameter isKnownPath: whether the name is known to be something else than a tag; asked only where it matters.
    func target(_ repository: Repository, _ tag: String, isKnownPath: () -> Bool = { false }) -> Loaded<Answer> {
        let key = Key(repository: repository, tag: tag)
        loadFromStoreOnce(key)
        let now = wallClockSeconds()
        let fresh = Completion()
        let (answer, question): (Loaded<Answer>, Question) = table.withLock { table in
            var entry = table.entries[key] ?? Entry()
            defer { table.entries[key] = entry }
            if let known = entry.known {
                let age = Double(now - known.checkedAt)
                // A clock that was set back makes nothing fresh for longer than it says.
                if age >= 0 && age < freshness {
                    return (.ready(Answer(target: known.target, remaining: freshness - age)), .none)
                }
            }
            if let loading = entry.loading { return (.loading(loading), .none) }
            if let failure = entry.failure, monotonicNanoseconds() &- failure.at < 200_000_000 {
                return (.failed(failure.error), .none)
            }
            if let target = entry.known?.target, table.silent[repository.host] != nil {
                let question: Question = entry.isRefreshing ? .none : .refresh(target, isReported: entry.isReported)
                if !entry.isRefreshing { table.silent[repository.host, default: 0] += 1 }
                entry.known = Known(target: target, checkedAt: now)
                entry.isRefreshing = true
                entry.isReported = true
                return (.ready(Answer(target: target, remaining: freshness)), question)
            }
            entry.loading = fresh
            return (.loading(fresh), .ask(former: entry.known))
        }
        switch question {
        case .none: break
        case .ask(let former): ask(key, former: former, isShort: former?.target != nil || isKnownPath(), fresh)
        case .refresh(let target, let isReported):
            if !isReported { report(key, target, "the registry does not answer") }
            refresh(key)
        }
        return answer
    }

    private func loadFromStoreOnce(_ key: Key) {
        if table.withLock({ $0.entries[key]?.isLoadedFromStore ?? false }) { return }
        let record = store.tag(key.repository, key.tag)
        table.withLock { table in
            var entry = table.entries[key] ?? Entry()
            if entry.known == nil, let record {
                entry.known = Known(target: record.target, checkedAt: record.checkedAt)
            }
            entry.isLoadedFromStore = true
            table.entries[key] = entry
        }
    }

    private func ask(_ key: Key, former: Known?, isShort: Bool, _ completion: Completion) {
        Task { [self] in
            let formerTarget = former?.target
            do throws(RegistryError) {
                let target = try await registry.resolve(
                    key.repository,
                    tag: key.tag,
                    deadline: isShort ? knownDeadline : nil
                )
                settle(key, target, completion)
            } catch {
                if let formerTarget {
                    useFormer(key, formerTarget, error, completion)
                } else {
                    notices.warning("tag \(key.repository)", "cannot resolve \(key.repository):\(key.tag): \(error)")
                    fail(key, FSError(error), completion)
                }
            }
        }
    }

    private func settle(_ key: Key, _ target: Digest?, _ completion: Completion) {
        let now = wallClockSeconds()
        if let target {
            store.setTag(key.repository, key.tag, RepositoryStore.TagRecord(target: target, checkedAt: now))
        } else {
            store.removeTag(key.repository, key.tag)
        }
        finish(key, completion) {
            $0.known = Known(target: target, checkedAt: now)
            $0.isReported = false
        }
    }

    private func report(_ key: Key, _ target: Digest, _ reason: String) {
        notices.warning(
            "tag \(key.repository):\(key.tag)",
            "\(key.repository):\(key.tag): using the last known digest \(target), because: \(reason)"
        )
    }

    private func useFormer(_ key: Key, _ target: Digest, _ error: RegistryError, _ completion: Completion) {
        let (isReported, isRefreshing) = table.withLock { table in
            let entry = table.entries[key] ?? Entry()
            if !entry.isRefreshing { table.silent[key.repository.host, default: 0] += 1 }
            return (entry.isReported, entry.isRefreshing)
        }
        if !isReported { report(key, target, "\(error)") }
        // Counts as fresh once more, so that a dead registry costs one wait per period, not one per look-up.
        finish(key, completion) {
            $0.known = Known(target: target, checkedAt: wallClockSeconds())
            $0.isRefreshing = true
            $0.isReported = true
        }
        if !isRefreshing { refresh(key) }
    }

    /// Asks on, with nobody waiting. The host counts as silent until that has come to an end.
    private func refresh(_ key: Key) {
        Task { [self] in
            let answer: Result<Digest?, RegistryError>
            do throws(RegistryError) {
                answer = .success(try await registry.resolve(key.repository, tag: key.tag, deadline: nil))
            } catch {
                answer = .failure(error)
            }
            let now = wallClockSeconds()
            if case .success(let target?) = answer {
                store.setTag(key.repository, key.tag, RepositoryStore.TagRecord(target: target, checkedAt: now))
            }
            table.withLock { table in
                let host = key.repository.host
                let others = (table.silent[host] ?? 1) - 1
                table.silent[host] = others > 0 ? others : nil
                table.entries[key]?.isRefreshing = false
                // "No such tag" is believed only of a question that somebody waited for.
                guard case .success(let target?) = answer else { return }
                table.entries[key]?.known = Known(target: target, checkedAt: now)
                table.entries[key]?.isReported = false
            }
        }
    }

    /// Whether the registry did not answer in time lately and is being asked behind.
    func isSilent(_ host: RegistryHost) -> Bool {
        table.withLock { $0.silent[host] != nil }
    }

    private func fail(_ key: Key, _ error: FSError, _ completion: Completion) {
        finish(key, completion) { $0.failure = (error, monotonicNanoseconds()) }
    }

    private func finish(_ key: Key, _ completion: Completion, _ change: (inout Entry) -> Void) {
        table.withLock { table in
            var entry = table.entries[key] ?? Entry()
            change(&entry)
            entry.loading = nil
            table.entries[key] = entry
        }
        completion.finish()
    }
}
