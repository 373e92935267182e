internal import BlobIO
internal import LayerFormat
public import OCIModel
internal import PosixIO

/// What is to be warmed of an image.
public struct WarmRequest: Sendable {
    /// Which image.
    public var reference: ImageReference
    /// Which manifest of an index.
    public var platform: Platform
    /// Only what a profile or a landmark says is needed early.
    public var hotOnly = false
    /// The job key of the profile; without a profile of that key, the one without a key counts.
    public var job = ""

    /// Asks for all of an image.
    public init(_ reference: ImageReference, platform: Platform) {
        self.reference = reference
        self.platform = platform
    }
}

/// How far it is, in compressed bytes.
public struct WarmProgress: Sendable, Equatable {
    /// What was missing and is there now.
    public var done: UInt64
    /// What was missing at the start.
    public var total: UInt64
}

/// What it came to.
public struct WarmReport: Sendable {
    /// The image manifest's digest.
    public var manifest: Digest
    /// Compressed bytes that were missing.
    public var missing: UInt64
    /// Compressed bytes that were fetched.
    public var fetched: UInt64
    /// Compressed bytes of all layers.
    public var imageSize: UInt64
    /// Neither a profile nor a landmark says what is hot.
    public var knowsNothingHot = false
    /// Why something is still missing.
    public var failure: String?
}

extension Library {
    /// Brings an image, or its hot files, into the chunk store. What is there already is not fetched again, so a call that
    /// broke off goes on where it was.
    ///
    /// - Parameter progress: called now and then, on any thread of the pool of tasks, by one at a time; false ends the work.
    public func warm(
        _ request: WarmRequest,
        progress: @escaping @Sendable (WarmProgress) -> Bool
    ) async throws(ImageError) -> WarmReport {
        let image = try await openImage(request.reference, platform: request.platform)
        let (manifest, layers) = (image.manifest, image.content.layers)
        var report = WarmReport(
            manifest: manifest,
            missing: 0,
            fetched: 0,
            imageSize: layers.reduce(0) { $0 + $1.index.tocOffset }
        )
        var jobs: [PrefetchJob] = []
        if request.hotOnly {
            let profile = await profilePool.run { [profiles] in
                profiles.read(ProfileStore.Key(manifest: manifest, job: request.job))
                    ?? profiles.read(ProfileStore.Key(manifest: manifest, job: ""))
            }
            if let profile { jobs.append(blobs.prefetchJob(.warm, profile, of: layers)) }
            if layers.contains(where: { ($0.index.prefetchEnd ?? 0) > 0 }) {
                jobs.append(blobs.prefetchJob(.warm, landmarksOf: layers))
            }
            report.knowsNothingHot = jobs.isEmpty
        } else {
            jobs.append(blobs.prefetchJob(.warm, allOf: layers))
        }
        for job in jobs { await run(job, &report, progress) }
        return report
    }

    private func run(
        _ job: PrefetchJob,
        _ report: inout WarmReport,
        _ progress: @escaping @Sendable (WarmProgress) -> Bool
    ) async {
        let missing = await profilePool.run { [blobs] in blobs.missingBytes(job) }
        blobs.start(job)
        let before = report.fetched
        let total = report.missing + missing
        // Somebody watches while it goes on; it ends by itself.
        let watch = Task {
            while !Task.isCancelled {
                if !progress(WarmProgress(done: before + job.fetched, total: total)) { job.cancel() }
                try? await Task.sleep(nanoseconds: 100_000_000)
            }
        }
        await job.completion.wait()
        watch.cancel()
        // Nobody is told anything by two at once.
        await watch.value
        report.missing = total
        report.fetched = before + job.fetched
        _ = progress(WarmProgress(done: report.fetched, total: total))
        if let failure = job.failure { report.failure = report.failure ?? failure.reason }
    }
}
