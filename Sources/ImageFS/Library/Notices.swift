internal import BlobIO
internal import Logging

/// Log lines of the tree, at most one a second for one cause.
struct Notices: Sendable {
    let logger: Logger
    private let limiter: LogLimiter

    init(_ logger: Logger) {
        self.logger = logger
        limiter = LogLimiter()
    }

    func warning(_ cause: String, _ message: @autoclosure () -> String) {
        limiter.log(logger, level: .warning, cause: cause, message())
    }

    func info(_ message: @autoclosure () -> String) {
        logger.info("\(message())")
    }
}
