internal import CShims
internal import Glibc

/// Starts a thread that runs `body` and is never joined. All signals are blocked in it: the main thread takes them.
public func startThread(named name: String, _ body: @escaping @Sendable () -> Void) {
    final class Box {
        let name: String
        let body: @Sendable () -> Void
        init(_ name: String, _ body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }
    var all = sigset_t()
    var before = sigset_t()
    _ = unsafe sigfillset(&all)
    _ = unsafe pthread_sigmask(SIG_SETMASK, &all, &before)
    let context = unsafe Unmanaged.passRetained(Box(name, body)).toOpaque()
    var thread = pthread_t()
    // SAFETY: the new thread takes the one retain that `passRetained` made.
    let result = unsafe pthread_create(
        &thread,
        nil,
        { context in
            guard let context = unsafe context else { return nil }
            let box = unsafe Unmanaged<Box>.fromOpaque(context).takeRetainedValue()
            unsafe crfs_name_thread(box.name)
            box.body()
            return nil
        },
        context
    )
    _ = unsafe pthread_sigmask(SIG_SETMASK, &before, nil)
    guard result == 0 else { fatalError("pthread_create: \(describeErrno(result))") }
    pthread_detach(thread)
}

/// How much of the processor the threads of a pool get beside others.
public enum WorkerPriority: Sendable {
    /// As much as any thread.
    case normal
    /// A tenth of what a normal one gets where both want it (setpriority(2), 10). Such a thread must hold nothing for long that
    /// another one waits for.
    case low
}

/// Up to a fixed number of threads that run jobs first in, first out. A thread starts when a job finds none that is free, and
/// lives until the process ends: a process has only those that it needs. For work that uses the processor or waits for the
/// disk; nothing that waits for the network belongs here.
public final class WorkerPool: Sendable {
    @safe
    private final class Queue: @unchecked Sendable {
        // SAFETY: every field is touched only with the condition's lock held.
        private let condition = Condition()
        private var jobs = Line<@Sendable () -> Void>()
        /// Threads that wait for a job, and all.
        private var idle = 0
        private var started = 0

        /// Returns the number of a thread to start, if one is needed and there are fewer than `most`.
        func push(_ job: @escaping @Sendable () -> Void, most: Int) -> Int? {
            condition.lock()
            defer { condition.unlock() }
            jobs.append(job)
            condition.signal()
            guard jobs.count > idle, started < most else { return nil }
            started += 1
            return started - 1
        }

        /// Waits for a job; with a limit in nanoseconds, nil when none came.
        func next(within nanoseconds: UInt64?) -> (@Sendable () -> Void)? {
            let end = nanoseconds.map { monotonicNanoseconds() &+ $0 }
            condition.lock()
            defer { condition.unlock() }
            idle += 1
            defer { idle -= 1 }
            while jobs.count == 0 {
                if let end {
                    if !condition.wait(until: end) { break }
                } else {
                    condition.wait()
                }
            }
            return jobs.popFirst()
        }
    }

    private let queue = Queue()
    private let name: String
    private let threads: Int
    private let priority: WorkerPriority
    private let whenIdle: (@Sendable () -> Void)?
    /// How long a thread waits for a further job before it counts as idle, in nanoseconds.
    private static let idleAfter: UInt64 = 1_000_000_000

    /// - Parameters:
    ///   - threads: how many there are at most.
    ///   - whenIdle: called by a thread that had jobs, once, after a second without any.
    public init(
        named name: String,
        threads: Int,
        priority: WorkerPriority = .normal,
        whenIdle: (@Sendable () -> Void)? = nil
    ) {
        precondition(threads > 0)
        self.whenIdle = whenIdle
        self.name = name
        self.threads = threads
        self.priority = priority
    }

    /// Queues a job.
    public func submit(_ job: @escaping @Sendable () -> Void) {
        guard let number = queue.push(job, most: threads) else { return }
        let queue = queue
        let priority = priority
        let whenIdle = whenIdle
        startThread(named: "\(name)-\(number)") {
            // On Linux that is about the calling thread.
            if priority == .low { _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 10) }
            var hasWorked = false
            while true {
                if let job = queue.next(within: hasWorked && whenIdle != nil ? WorkerPool.idleAfter : nil) {
                    job()
                    hasWorked = true
                } else {
                    whenIdle?()
                    hasWorked = false
                }
            }
        }
    }

    /// Queues a job and waits for its result, without a thread of the cooperative pool.
    public func run<T: Sendable>(_ job: @escaping @Sendable () -> T) async -> T {
        await withCheckedContinuation { continuation in
            submit { continuation.resume(returning: job()) }
        }
    }
}

/// Gives the system back what is freed and kept for the next allocations (malloc_trim(3)). Takes milliseconds.
public func releaseFreeMemory() {
    crfs_release_free_memory()
}

/// CLOCK_MONOTONIC in nanoseconds.
public func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    _ = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}

/// CLOCK_REALTIME in seconds since 1970.
public func wallClockSeconds() -> Int64 {
    var time = timespec()
    _ = unsafe clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec)
}
