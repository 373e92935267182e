public import BlobIO
internal import BlockCodec
internal import LayerFormat
public import Logging
internal import OCIModel
public import OCIRegistry
public import PosixIO
internal import Synchronization

/// Options that hold for a process, whatever it mounts.
public struct LibraryOptions: Sendable {
    /// How long a tag's target counts as fresh, in seconds.
    public var tagFreshness: Double = 15
    /// How long a registry may take to say where a tag leads while a former target is known, in seconds.
    public var knownTagDeadline: Double = 3
    /// Which indexes of plain layers are believed although the image's digest does not cover them.
    public var indexTrust = IndexTrust()

    /// The defaults.
    public init() {}
}

/// A manifest, index or configuration that was checked against its digest.
struct StoredManifest: Sendable {
    let digest: Digest
    let bytes: [UInt8]
    let document: ManifestDocument
}

/// Images and layers by name, for any number of mounts: what has been fetched, what is being fetched, what the cache
/// directory remembers. One per process; a mount's tree (`FileSystem`) holds names and numbers on top of it.
public final class Library: Sendable {
    let registry: RegistryClient
    let blobs: BlobIO
    let options: LibraryOptions
    let contents: ContentStore
    let repositories: RepositoryStore
    let numbers: NumberTable
    let notices: Notices
    let state: StateDirectory
    let mergePool = WorkerPool(named: "merge", threads: 1)
    let profiles: ProfileStore
    /// Reads and writes profiles, one after the other.
    let profilePool = WorkerPool(named: "profiles", threads: 1)

    let manifests = Loader<ManifestKey, StoredManifest>()
    let configurations = Loader<ManifestKey, [UInt8]>()
    let images = Loader<ManifestKey, OpenImage>()
    let layers = Loader<ManifestKey, Layer>()
    let indexParts = Loader<ManifestKey, IndexParts?>()
    let bindings = IndexBindings()
    let checkedLayers = Loader<CheckedLayerKey, Layer>()
    let localLayers = Loader<LocalFileIdentity, Layer>()
    // A listing needs both: the failure of one must not be forgotten before the other has ended.
    let tagLists = Loader<Repository, TagListing>(failureNanoseconds: 2_000_000_000)
    let catalogs = Loader<RegistryHost, CatalogListing>(failureNanoseconds: 2_000_000_000)
    let projects = Loader<Int, ProjectListing>()
    let tags: TagTable
    let silentHosts: SilentHosts

    /// Repositories and prefixes seen since the start.
    let seen = Mutex<SeenNames>(SeenNames())

    /// Takes over the parts; the cache directory's numbers are read here.
    public init(
        registry: RegistryClient,
        blobs: BlobIO,
        state: StateDirectory,
        options: LibraryOptions,
        logger: Logger
    ) throws(SystemError) {
        self.registry = registry
        self.blobs = blobs
        self.state = state
        self.options = options
        profiles = ProfileStore(directory: state.profileDirectory)
        contents = ContentStore(directory: state.manifestDirectory)
        repositories = RepositoryStore(directory: state.repositoryDirectory)
        numbers = try NumberTable(path: state.numbersFile)
        notices = Notices(logger)
        silentHosts = SilentHosts(registry: registry, notices: notices)
        tags = TagTable(
            registry: registry,
            store: repositories,
            notices: notices,
            silentHosts: silentHosts,
            tagLists: tagLists,
            keep: { [contents, repositories] repository, manifest in
                contents.write(manifest.bytes, digest: manifest.digest)
                repositories.addDigest(repository, manifest.digest)
            },
            freshness: options.tagFreshness,
            knownDeadline: options.knownTagDeadline
        )
    }

    /// Images whose trees are open, and layers that these or layer views opened.
    public var openCounts: (images: Int, layers: Int) {
        (images.readyCount, layers.readyCount + localLayers.readyCount)
    }

    struct ManifestKey: Hashable, Sendable {
        let repository: Repository
        let digest: Digest
    }

    /// A manifest or index by digest, from the cache directory or the registry.
    func manifest(_ repository: Repository, _ digest: Digest) -> Loaded<StoredManifest> {
        manifests.value(ManifestKey(repository: repository, digest: digest)) { [self] () throws(FSError) in
            try await loadManifest(repository, digest)
        }
    }

    /// What the cache directory or this process knows of a manifest, without asking.
    func knownManifest(_ repository: Repository, _ digest: Digest) -> ManifestDocument? {
        let key = ManifestKey(repository: repository, digest: digest)
        if let stored = manifests.existing(key) { return stored.document }
        return contents.read(digest).flatMap { try? ManifestDocument(json: $0, mediaType: nil) }
    }

    private func loadManifest(_ repository: Repository, _ digest: Digest) async throws(FSError) -> StoredManifest {
        if repositories.hasDigest(repository, digest), let bytes = contents.read(digest) {
            if let document = try? ManifestDocument(json: bytes, mediaType: nil) {
                noteRepository(repository)
                if case .index(let index) = document { bindings.note(index) }
                return StoredManifest(digest: digest, bytes: bytes, document: document)
            }
        }
        let fetched: FetchedManifest
        do throws(RegistryError) {
            fetched = try await registry.manifest(repository, .digest(digest))
        } catch {
            if error.kind != .notFound {
                notices.warning("manifest \(repository)", "cannot read manifest \(repository)@\(digest): \(error)")
            }
            throw FSError(error)
        }
        let document: ManifestDocument
        do throws(ManifestError) {
            document = try ManifestDocument(json: fetched.bytes, mediaType: fetched.mediaType)
        } catch {
            notices.warning("manifest \(digest)", "cannot use manifest \(repository)@\(digest): \(error)")
            throw .inputOutput
        }
        if case .index(let index) = document { bindings.note(index) }
        contents.write(fetched.bytes, digest: digest)
        repositories.addDigest(repository, digest)
        noteRepository(repository)
        return StoredManifest(digest: digest, bytes: fetched.bytes, document: document)
    }

    /// The image configuration's bytes.
    func configuration(_ repository: Repository, _ descriptor: ContentDescriptor) -> Loaded<[UInt8]> {
        let key = ManifestKey(repository: repository, digest: descriptor.digest)
        return configurations.value(key) { [self] () throws(FSError) in
            if let bytes = contents.read(descriptor.digest) { return bytes }
            let address = BlobAddress(repository: repository, digest: descriptor.digest, size: descriptor.size)
            do throws(RegistryError) {
                let bytes = try await registry.blob(address, limit: ContentStore.limit)
                contents.write(bytes, digest: descriptor.digest)
                return bytes
            } catch {
                notices.warning(
                    "config \(repository)",
                    "cannot read configuration \(descriptor.digest) of \(repository): \(error)"
                )
                throw FSError(error)
            }
        }
    }

    func openLayer(
        _ repository: Repository,
        _ descriptor: ContentDescriptor,
        image: Digest
    ) async throws(FSError) -> Layer {
        do throws(BlobError) {
            let seen = tags.seen(in: repository, limit: 16)
            return try await blobs.open(descriptor, from: repository, tags: seen) { [self] in
                await hint(descriptor.digest, repository, image: image)
            }
        } catch {
            notices.warning(
                "layer \(descriptor.digest)",
                "cannot open layer \(descriptor.digest) of \(repository): \(error)"
            )
            throw FSError(error)
        }
    }
}
