internal import Control
internal import ImageFS
internal import OCIModel
internal import PosixIO

/// What `crfs warm` asks for of one image: of the owner of the cache directory, or of its own process with the lock.
struct WarmQuery: Codable, Sendable {
    var image: String
    /// `os/arch[/variant]`.
    var platform: String
    /// Only what a profile or a landmark says is needed early.
    var hot: Bool
    /// `--job`; empty: none.
    var job: String

    private struct State: Sendable {
        var progress: WarmProgress?
        var result: Result<WarmReport, ImageError>?
        var isCancelled = false
    }

    /// Does it. Called on a thread that may wait, on which `progress` is called too: what throws there ends the work.
    ///
    /// - Parameter cancelled: its end ends the work; what has come stays.
    func run(_ stack: Stack, cancelled: Completion, _ progress: (WarmStep) throws -> Void) throws -> WarmAnswer {
        guard let reference = ImageReference(image) else { throw CommandError("\(image) is no image reference") }
        guard let platform = Platform(platform) else { throw CommandError("\(platform) is no platform") }
        var request = WarmRequest(reference, platform: platform)
        request.hotOnly = hot
        request.job = job
        let state = Monitor(State())
        let task = Task { [library = stack.library, request] in
            let result: Result<WarmReport, ImageError>
            do throws(ImageError) {
                result = .success(
                    try await library.warm(request) { progress in
                        state.withLock { state in
                            state.progress = progress
                            return !state.isCancelled
                        }
                    }
                )
            } catch {
                result = .failure(error)
            }
            state.withLock { $0.result = result }
        }
        let token = cancelled.whenFinished {
            state.withLock { $0.isCancelled = true }
            task.cancel()
        }
        defer {
            cancelled.remove(token)
            state.withLock { $0.isCancelled = true }
        }
        while true {
            let now = state.wait { state -> State? in
                guard state.progress != nil || state.result != nil || state.isCancelled else { return nil }
                defer { state.progress = nil }
                return state
            }
            if now.isCancelled { throw CommandError("interrupted; the same command goes on from here") }
            if let step = now.progress { try progress(WarmStep(done: min(step.done, step.total), total: step.total)) }
            switch now.result {
            case nil: continue
            case .success(let report): return WarmAnswer(report, limit: stack.cacheBytes)
            case .failure(let error): throw CommandError("\(error)")
            }
        }
    }
}

/// How far it is, in compressed bytes.
struct WarmStep: Codable {
    var done: UInt64
    /// What was missing at the start.
    var total: UInt64
}

/// What came of it. Sizes are compressed bytes.
struct WarmAnswer: Codable {
    /// The image manifest's digest.
    var manifest: String
    var missing: UInt64
    var fetched: UInt64
    /// Of all layers.
    var imageBytes: UInt64
    /// The bound of the contents in bytes, as they are kept; 0: none are kept on disk.
    var limitBytes: Int
    /// Neither a profile nor a landmark says what is hot.
    var knowsNothingHot: Bool
    /// Why something is still missing.
    var failure: String?

    init(_ report: WarmReport, limit: Int) {
        manifest = "\(report.manifest)"
        missing = report.missing
        fetched = report.fetched
        imageBytes = report.imageSize
        limitBytes = limit
        knowsNothingHot = report.knowsNothingHot
        failure = report.failure
    }
}
