internal import CFuse3
internal import CShims
internal import Logging

/// libfuse has one place for the messages of all its sessions; this leads them to the session whose thread speaks.
enum FuseLog {
    /// For what is said outside every session's threads.
    static let fallback = Logger(label: "crfs.fuse")

    private static let installed: Void = {
        unsafe crfs_fuse_set_log_sink { level, text in
            guard let text = unsafe text else { return }
            FuseLog.write(level: Int(level), unsafe String(cString: text))
        }
    }()

    /// Takes libfuse's messages from now on.
    static func install() { installed }

    /// Runs `body` on this thread and gives the messages that libfuse wrote meanwhile.
    static func capturing<R>(_ body: () -> R) -> (R, [String]) {
        let hadContext = ThreadContext.existing != nil
        let context = ThreadContext.current
        context.captured = []
        let result = body()
        let messages = context.captured ?? []
        context.captured = nil
        if !hadContext { ThreadContext.remove() }
        return (result, messages)
    }

    private static func write(level: Int, _ text: String) {
        if text.isEmpty { return }
        let context = ThreadContext.existing
        if context?.captured != nil {
            context?.captured?.append(text)
            return
        }
        (context?.logger ?? fallback).log(level: loggerLevel(level), "libfuse: \(text)")
    }

    /// swift-log's level for one of `enum fuse_log_level`, which counts up from emergencies to debugging.
    static func loggerLevel(_ level: Int) -> Logger.Level {
        switch level {
        case ...2: .critical
        case 3: .error
        case 4: .warning
        case 5: .notice
        case 6: .info
        default: .debug
        }
    }
}
