internal import BlockCodec
internal import Glibc
internal import HTTPTransport
internal import OCIModel
internal import OCIRegistry
internal import PosixIO

/// Takes a blob's bytes as they come, into a file, and hashes them.
@safe
private final class FileSink: @unchecked Sendable {
    // SAFETY: `take` is called by the transport, one call at a time; the other members are used before the transfer starts and
    // after it has ended.
    private let file: Descriptor
    private var hash = SHA256()
    private(set) var failure: SystemError?

    init(_ path: String) throws(SystemError) {
        file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC)
    }

    func take(_ bytes: borrowing RawSpan) -> Bool {
        hash.update(bytes)
        do throws(SystemError) {
            // The transport's thread waits for the disk: it has nothing else to do.
            try file.writeNext(bytes)
            return true
        } catch {
            failure = error
            return false
        }
    }

    func digest() -> Digest { hash.finish() }
}

extension RegistryClient {
    /// Fetches a whole blob into a file, and checks its digest. Content that is wrong is asked for once more.
    func download(
        _ address: BlobAddress,
        to path: String,
        progress: @escaping @Sendable (_ bytes: UInt64) -> Bool
    ) async throws(ImageConvertError) {
        guard address.size > 0 else { throw ImageConvertError("the layer \(address.digest) is empty: no layer is") }
        for isLast in [false, true] {
            let sink: FileSink
            do throws(SystemError) {
                sink = try FileSink(path)
            } catch {
                throw ImageConvertError(error, "\(address.digest) cannot be fetched")
            }
            do throws(RegistryError) {
                let range = ByteRange(offset: 0, count: address.size)
                try await stream(address, range, priority: .demand, avoidCachedURL: isLast) { bytes in
                    let count = UInt64(bytes.byteCount)
                    return sink.take(bytes) && progress(count)
                }
            } catch {
                if let failure = sink.failure {
                    throw ImageConvertError(failure, "\(address.digest) cannot be fetched")
                }
                throw ImageConvertError(error)
            }
            if sink.digest() == address.digest { return }
        }
        throw ImageConvertError("\(address.repository.host) serves other content as \(address.digest)")
    }
}
