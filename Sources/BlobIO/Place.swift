internal import Glibc
internal import HTTPTransport
internal import OCIModel
internal import OCIRegistry
internal import PosixIO

/// Somewhere that a layer's bytes can be read from: a repository of a registry, a local file. A closure fixed when the
/// layer is opened; it runs once per fetch, never on the path of a read that the store serves.
struct Place: Sendable {
    /// For messages, and to tell places of one layer apart: `127.0.0.1:5000/app`.
    let name: String
    /// Reads exactly the given range. `fresh` asks not to trust what was remembered of the way there (a redirect): the
    /// last answer from it was wrong.
    let read:
        @Sendable (_ range: ByteRange, _ priority: TransferPriority, _ fresh: Bool) async throws(BlobError) ->
            SharedBytes

    /// Hands over exactly the given range, in order, as it comes, on whatever thread brings it.
    var stream:
        @Sendable (
            _ range: ByteRange, _ priority: TransferPriority, _ fresh: Bool,
            _ take: @escaping @Sendable (borrowing RawSpan) -> Bool
        ) async throws(BlobError) -> Void
    /// Layers of TOC images beside it that name a layer (eStargz with external TOC); empty where there are none.
    var tocLayers: @Sendable (_ layer: Digest) async throws(BlobError) -> [TOCLayer] = { _ in [] }
    /// What is known of the way there.
    let link: @Sendable () -> LinkEstimate

    /// A place that gives a range all at once.
    init(
        name: String,
        link: @escaping @Sendable () -> LinkEstimate = { .unknown },
        read:
            @escaping @Sendable (ByteRange, TransferPriority, Bool) async throws(BlobError) -> SharedBytes
    ) {
        self.name = name
        self.link = link
        self.read = read
        stream = { (range, priority, fresh, take) throws(BlobError) in
            let bytes = try await read(range, priority, fresh)
            guard UInt64(bytes.count) == range.count else {
                throw BlobError(
                    .unavailable,
                    "\(name) answered \(bytes.count) bytes where \(range.count) were asked for"
                )
            }
            guard take(bytes.span) else { throw BlobError(.system(ENOMEM), "\(name): no memory to read \(range)") }
        }
    }

    /// A blob in a registry.
    init(_ registry: RegistryClient, _ address: BlobAddress) {
        name = address.repository.description
        link = { registry.link(address.repository.host) }
        read = { (range, priority, fresh) throws(BlobError) in
            do throws(RegistryError) {
                return try await registry.read(
                    address,
                    range,
                    priority: priority,
                    avoidCachedURL: fresh
                ).share()
            } catch {
                throw BlobError(error, layer: address.digest)
            }
        }
        stream = { (range, priority, fresh, take) throws(BlobError) in
            do throws(RegistryError) {
                try await registry.stream(address, range, priority: priority, avoidCachedURL: fresh, into: take)
            } catch {
                throw BlobError(error, layer: address.digest)
            }
        }
    }

    /// A local file, read by the threads of `pool`.
    init(_ file: LocalFile, pool: WorkerPool) {
        let link = LinkEstimate(roundTrip: 200_000, bytesPerSecond: 1 << 30)
        self.init(name: file.path, link: { link }) { (range, _, _) throws(BlobError) in
            try await pool.run { file.read(range) }.get()
        }
    }
}
