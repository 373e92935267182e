internal import BlobIO
internal import LayerFormat
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// An image that a mount shows. With the first look-up inside of it, its profile is fetched, then what is before the
/// landmarks of its layers; with the first read of a file the rest begins in the background. What is read of it is taken
/// down until the mount ends.
///
/// The image view has all layers at once; layer views bring them one by one, and each gets its part when it comes.
///
/// LOCK ORDER: the lock is a leaf. Files and indexes are read on the thread of `ImageUseTable`.
final class ImageUse: Sendable {
    private struct State: Sendable {
        var layers: [Layer] = []
        var profile: Profile?
        var recording: Recording?
        var jobs: [PrefetchJob] = []
        var hasBackground = false
        var isOver = false
    }

    let manifest: Digest
    /// Forgets its uses when the mount ends.
    private let table: ImageUseTable
    private let isStarted = Atomic(false)
    private let state = Mutex(State())

    init(_ manifest: Digest, _ table: ImageUseTable) {
        self.manifest = manifest
        self.table = table
    }

    /// Somebody looks up a name inside. Costs a load once the use has begun.
    func touch() {
        guard !isStarted.load(ordering: .relaxed), !isStarted.exchange(true, ordering: .acquiringAndReleasing) else {
            return
        }
        table.pool.submit { self.begin() }
    }

    /// Layers of the image that are open now.
    func add(_ layers: [Layer]) {
        let isNew = state.withLock { state in
            let new = layers.filter { layer in !state.layers.contains { $0 === layer } }
            state.layers += new
            return !new.isEmpty
        }
        guard isNew, isStarted.load(ordering: .acquiring) else { return }
        table.pool.submit { self.fetch(layers) }
    }

    // MARK: On the table's thread

    /// Begins the use if it has not begun, and the background with it: somebody wants all of the image.
    func beginWhole() {
        touch()
        table.pool.submit { self.beginBackground() }
    }

    private func begin() {
        let profile = table.readProfile(manifest)
        let recording = table.blobs.recorder.begin { [weak self] in
            guard let self else { return }
            self.table.pool.submit { self.beginBackground() }
        }
        let layers = state.withLock { state in
            state.profile = profile
            state.recording = recording
            return state.layers
        }
        fetch(layers)
        table.keep(self)
    }

    private func fetch(_ layers: [Layer]) {
        let (profile, recording, isOver) = state.withLock { ($0.profile, $0.recording, $0.isOver) }
        guard let recording, !isOver else { return }
        recording.add(layers)
        var jobs: [PrefetchJob] = []
        if let profile { jobs.append(table.blobs.prefetchJob(.profile, profile, of: layers)) }
        jobs.append(table.blobs.prefetchJob(.landmark, landmarksOf: layers))
        for job in jobs { start(job) }
        let background = state.withLock { state in
            state.jobs += jobs
            return state.hasBackground
        }
        if background { fetchRest(of: layers) }
    }

    private func beginBackground() {
        let layers: [Layer]? = state.withLock { state in
            guard !state.hasBackground, !state.isOver else { return nil }
            state.hasBackground = true
            return state.layers
        }
        if let layers { fetchRest(of: layers) }
    }

    private func fetchRest(of layers: [Layer]) {
        guard table.policy.background else { return }
        let size = layers.reduce(0) { $0 + $1.index.tocOffset }
        let limit = table.takeBackground(size)
        guard limit > 0 else { return }
        let job = table.blobs.prefetchJob(.background, allOf: layers, limit: limit)
        start(job)
        state.withLock { $0.jobs.append(job) }
    }

    private func start(_ job: PrefetchJob) {
        table.blobs.start(job)
        let (notices, manifest) = (table.notices, manifest)
        job.completion.whenFinished { [weak job] in
            guard let job, job.fetched > 0 else { return }
            notices.info("prefetched \(job.fetched) bytes of image \(manifest) (\(job.kind.name))")
        }
    }

    /// Puts what was read until now into the profile.
    ///
    /// - Parameters:
    ///   - isOver: the use ends with that.
    ///   - materialises: what was used counts as used, for materialised files.
    func save(isOver: Bool, materialises: Bool = false) {
        let (recording, jobs) = state.withLock { state in
            state.isOver = state.isOver || isOver
            return (state.recording, state.jobs)
        }
        guard let recording, isOver || recording.hasNews else { return }
        if isOver {
            for job in jobs { job.cancel() }
            recording.end()
        }
        if materialises { table.blobs.materialiseUsed(in: recording) }
        let run = recording.run()
        // A look around is no run: it says nothing of what the job needs.
        guard run.hasOpened else { return }
        table.merge(run, manifest, isOver: isOver)
    }
}

/// The images that a mount shows, and where their profiles are kept.
///
/// LOCK ORDER: the lock is a leaf.
final class ImageUseTable: Sendable {
    private struct State: Sendable {
        var uses: [Digest: ImageUse] = [:]
        var backgroundLeft: UInt64
        var isSaving = false
        var isOver = false
    }

    let blobs: BlobIO
    let policy: PrefetchPolicy
    /// Reads and writes profiles, in order.
    let pool: WorkerPool
    private let store: ProfileStore
    let notices: Notices
    private let state: Mutex<State>

    init(_ library: Library, _ policy: PrefetchPolicy) {
        blobs = library.blobs
        pool = library.profilePool
        store = library.profiles
        notices = library.notices
        self.policy = policy
        state = Mutex(State(backgroundLeft: policy.backgroundLimit))
    }

    /// The use of an image, with these layers of it.
    func use(_ manifest: Digest, _ layers: [Layer]) -> ImageUse {
        let use = state.withLock { state in
            if let use = state.uses[manifest] { return use }
            let use = ImageUse(manifest, self)
            state.uses[manifest] = use
            return use
        }
        use.add(layers)
        return use
    }

    /// The profile of this mount's job, else the one without a job.
    func readProfile(_ manifest: Digest) -> Profile? {
        store.read(ProfileStore.Key(manifest: manifest, job: policy.job))
            ?? store.read(ProfileStore.Key(manifest: manifest, job: ""))
    }

    /// How much of `bytes` the background may still fetch; that is taken.
    func takeBackground(_ bytes: UInt64) -> UInt64 {
        state.withLock { state in
            let taken = min(bytes, state.backgroundLeft)
            state.backgroundLeft -= taken
            return taken
        }
    }

    /// Merges a run into its profile. Whatever else wrote the profile meanwhile (another mount, an import) stays in it.
    func merge(_ run: ProfileRun, _ manifest: Digest, isOver: Bool) {
        let old =
            store.read(ProfileStore.Key(manifest: manifest, job: policy.job))
            ?? Profile(manifest: manifest, job: policy.job)
        let new = old.merged(with: run, isOver: isOver)
        guard new != old else { return }
        do throws(SystemError) {
            try store.write(new)
        } catch {
            notices.warning("profile", "cannot keep the profile of image \(manifest): \(error)")
        }
    }

    /// Saves profiles now and then from now on, so that a daemon that is killed has lost little.
    func keep(_ use: ImageUse) {
        let starts = state.withLock { state in
            guard !state.isSaving, !state.isOver else { return false }
            state.isSaving = true
            return true
        }
        guard starts else { return }
        Task { [weak self] in
            // Soon after the start, where most first reads are, then less and less often.
            var seconds: UInt64 = 2
            while true {
                try? await Task.sleep(nanoseconds: seconds * 1_000_000_000)
                guard let self, !self.state.withLock({ $0.isOver }) else { return }
                await self.pool.run { self.saveAll(isOver: false) }
                seconds = min(seconds * 2, 64)
            }
        }
    }

    /// Saves all profiles now.
    func save() async {
        await pool.run { self.saveAll(isOver: false) }
    }

    /// Saves all profiles and ends all uses.
    func finish(materialises: Bool) async {
        state.withLock { $0.isOver = true }
        await pool.run { self.saveAll(isOver: true, materialises: materialises) }
        state.withLock { $0.uses = [:] }
    }

    private func saveAll(isOver: Bool, materialises: Bool = false) {
        for use in state.withLock({ Array($0.uses.values) }) { use.save(isOver: isOver, materialises: materialises) }
    }
}
