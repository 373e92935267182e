import BlockCodec
import HTTPTransport
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport

/// A client of its own, with a deadline that a failing test can wait for.
func makeClient(_ change: (inout RegistryOptions) -> Void = { _ in }) -> RegistryClient {
    var options = RegistryOptions()
    options.deadlineSeconds = 20
    change(&options)
    return RegistryClient(transport: HTTPTransport(), options: options)
}

func sha256(_ bytes: [UInt8]) -> Digest {
    // SAFETY: the span borrows the array for the call.
    unsafe SHA256.digest(of: bytes.span.bytes)
}

extension RegistryClient {
    /// `read` as an array.
    func readArray(
        _ address: BlobAddress,
        _ offset: Int,
        _ count: Int,
        priority: TransferPriority = .demand,
        avoidCachedURL: Bool = false
    ) async throws(RegistryError) -> [UInt8] {
        let bytes = try await read(
            address,
            ByteRange(offset: UInt64(offset), count: UInt64(count)),
            priority: priority,
            avoidCachedURL: avoidCachedURL
        )
        return bytes.share().array
    }
}

/// The error that `body` throws; nil when it throws none.
func registryError<T>(_ body: () async throws(RegistryError) -> T) async -> RegistryError? {
    do throws(RegistryError) {
        _ = try await body()
        return nil
    } catch {
        return error
    }
}

/// Ends the test with an error unless `condition` holds in time.
func mustHold(_ condition: () async throws -> Bool) async throws {
    guard try await eventually(condition) else { throw CommandFailure(description: "it never held") }
}

/// Runs what blocks (starting servers, pushing images) on a thread of its own: the few threads of the cooperative pool
/// are for the tests that wait meanwhile.
func offPool<T: Sendable, E: Error>(_ body: @escaping @Sendable () throws(E) -> T) async throws(E) -> T {
    let result: Result<T, E> = await withCheckedContinuation { continuation in
        startThread(named: "test-blocking") {
            do throws(E) {
                continuation.resume(returning: .success(try body()))
            } catch {
                continuation.resume(returning: .failure(error))
            }
        }
    }
    return try result.get()
}
