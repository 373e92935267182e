public import Logging
internal import PosixIO
internal import Synchronization

/// Logs at most a line a second for one cause (spec section 8); the next line says how many were left out.
///
/// LOCK ORDER: the lock is a leaf; lines are written without it.
public final class LogLimiter: Sendable {
    private struct Cause {
        var loggedAt: UInt64
        var leftOut = 0
    }

    private static let interval: UInt64 = 1_000_000_000
    private static let mostCauses = 512

    private let clock: @Sendable () -> UInt64
    private let causes = Mutex<[String: Cause]>([:])

    /// One that has logged nothing yet.
    public convenience init() {
        self.init(clock: monotonicNanoseconds)
    }

    /// With a clock of one's own, in nanoseconds.
    init(clock: @escaping @Sendable () -> UInt64) {
        self.clock = clock
    }

    /// How many causes are remembered.
    var causeCount: Int { causes.withLock { $0.count } }

    /// Logs a line, unless one of the same cause was logged less than a second ago.
    ///
    /// - Parameters:
    ///   - logger: where it goes.
    ///   - level: its level.
    ///   - cause: what the line is about; equal for lines of which one says it all.
    ///   - message: the line; not made when it is left out.
    public func log(
        _ logger: Logger,
        level: Logger.Level,
        cause: String,
        _ message: @autoclosure () -> String
    ) {
        guard logger.logLevel <= level, let leftOut = admit(cause) else { return }
        let text = message()
        if leftOut > 0 {
            logger.log(level: level, "\(text) (and \(leftOut) more of this kind)")
        } else {
            logger.log(level: level, "\(text)")
        }
    }

    /// How many lines were left out since the last one; nil when this one is to be left out as well.
    private func admit(_ cause: String) -> Int? {
        let now = clock()
        return causes.withLock { causes in
            if let known = causes[cause], now &- known.loggedAt < LogLimiter.interval {
                causes[cause]?.leftOut += 1
                return nil
            }
            let leftOut = causes[cause]?.leftOut ?? 0
            if causes.count >= LogLimiter.mostCauses {
                causes = causes.filter { now &- $0.value.loggedAt < LogLimiter.interval }
                if causes.count >= LogLimiter.mostCauses { causes.removeAll() }
            }
            causes[cause] = Cause(loggedAt: now)
            return leftOut
        }
    }
}

/// A log with its limit.
struct LimitedLog: Sendable {
    let logger: Logger
    let limiter: LogLimiter

    init(logger: Logger, limiter: LogLimiter = LogLimiter()) {
        self.logger = logger
        self.limiter = limiter
    }

    func callAsFunction(_ level: Logger.Level, cause: String, _ message: () -> String) {
        limiter.log(logger, level: level, cause: cause, message())
    }
}
