internal import OCIModel
internal import PosixIO
internal import Synchronization

/// The jobs of a process that fetch ahead of readers, by kind, and what is on its way for them.
///
/// There is no timer: a job goes on when something of it has landed, and only as far as the bytes on their way allow.
///
/// LOCK ORDER: the lock is a leaf.
final class Prefetcher: Sendable {
    private struct State: Sendable {
        /// By kind, then in the order in which they came.
        var jobs: [[PrefetchJob]] = PrefetchKind.allCases.map { _ in [] }
        var bytes: UInt64 = 0
        var members = 0
        var requests = 0
    }

    private final class Figures: Sendable {
        let fetched = Atomic<UInt64>(0)
        let read = Atomic<UInt64>(0)
    }

    /// Plans; shared by all of the process, since it never waits.
    static let pool = WorkerPool(named: "crfs-prefetch", threads: 1)

    private let state = Mutex(State())
    private let isPlanning = Atomic(false)
    private let figures = PrefetchKind.allCases.map { _ in Figures() }

    /// Compressed bytes on their way, or waiting to be inflated.
    var bytes: UInt64 { state.withLock { $0.bytes } }
    /// Members of which these are.
    var members: Int { state.withLock { $0.members } }
    var requests: Int { state.withLock { $0.requests } }

    func add(_ job: PrefetchJob) { state.withLock { $0.jobs[job.kind.rawValue].append(job) } }

    /// The job whose turn it is. Those that are through are let go of.
    func first() -> PrefetchJob? {
        state.withLock { state in
            for kind in state.jobs.indices {
                state.jobs[kind].removeAll { !$0.hasMore }
                if let job = state.jobs[kind].first { return job }
            }
            return nil
        }
    }

    func depart(_ bytes: UInt64, members: Int) {
        state.withLock { state in
            state.bytes += bytes
            state.members += members
            state.requests += 1
        }
    }

    /// A member is inflated, or failed. What waits to be packed is bounded by `LandingQueue`.
    func land(_ bytes: UInt64) { state.withLock { $0.bytes -= bytes } }

    /// A member has left the table of flights.
    func leave(_ kind: PrefetchKind, _ bytes: UInt64, isThere: Bool) {
        state.withLock { $0.members -= 1 }
        if isThere { figures[kind.rawValue].fetched.add(bytes, ordering: .relaxed) }
    }

    func endRequest() { state.withLock { $0.requests -= 1 } }

    func noteRead(_ kind: PrefetchKind, _ bytes: UInt64) {
        figures[kind.rawValue].read.add(bytes, ordering: .relaxed)
    }

    func statistics() -> [PrefetchFigures] {
        PrefetchKind.allCases.map { kind in
            let figures = figures[kind.rawValue]
            return PrefetchFigures(
                kind: kind,
                fetched: figures.fetched.load(ordering: .relaxed),
                read: figures.read.load(ordering: .relaxed)
            )
        }
    }

    /// Runs `plan` on the planning thread, unless it is about to run there already.
    func wake(_ plan: @escaping @Sendable () -> Void) {
        guard !isPlanning.exchange(true, ordering: .acquiringAndReleasing) else { return }
        Prefetcher.pool.submit {
            self.isPlanning.store(false, ordering: .releasing)
            plan()
        }
    }
}
