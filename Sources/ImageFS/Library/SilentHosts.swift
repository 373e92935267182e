internal import OCIModel
internal import OCIRegistry
internal import Synchronization

/// Registries that did not answer in time while something else was known to go on with. As long as one is here nobody
/// waits for it again for the sake of what is known; it is asked behind whether it is back, for as long as any question
/// may take.
///
/// LOCK ORDER: `hosts` is a leaf.
final class SilentHosts: Sendable {
    private let registry: RegistryClient
    private let notices: Notices
    private let hosts = Mutex<Set<RegistryHost>>([])

    init(registry: RegistryClient, notices: Notices) {
        self.registry = registry
        self.notices = notices
    }

    /// Whether the host did not answer lately.
    func contains(_ host: RegistryHost) -> Bool {
        hosts.withLock { $0.contains(host) }
    }

    /// Notes that a host did not answer, if that is what the error means, and says so once.
    func note(_ host: RegistryHost, _ error: RegistryError) {
        guard error.kind == .timedOut || error.kind == .unavailable else { return }
        guard hosts.withLock({ $0.insert(host).inserted }) else { return }
        notices.warning("silent \(host)", "\(host) does not answer: going on with what is known of it: \(error)")
        Task { [self] in
            // Whatever it answers, it is there.
            try? await registry.ping(host)
            hosts.withLock { _ = $0.remove(host) }
        }
    }
}
