internal import Synchronization

/// Which of a registry's servers gave a blob last, so that wrong bytes can be held against it.
///
/// LOCK ORDER: the lock is a leaf.
final class ServerTable: Sendable {
    private let servers = Mutex<[BlobLocations.Key: String]>([:])
    private static let limit = 4096

    func server(_ key: BlobLocations.Key) -> String? { servers.withLock { $0[key] } }

    func note(_ key: BlobLocations.Key, _ server: String) {
        servers.withLock { servers in
            if servers.count >= ServerTable.limit, servers[key] == nil { servers.removeAll(keepingCapacity: true) }
            servers[key] = server
        }
    }
}
