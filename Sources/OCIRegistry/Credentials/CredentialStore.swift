internal import HTTPTransport
internal import Glibc
internal import Logging
internal import PosixIO
internal import Synchronization

/// Finds the credential for a registry: in the configuration files (read again when they change), from the helper that
/// they name, from Google Cloud's metadata server. What a helper or the metadata server said is kept in memory, never on
/// disk, until it was refused, a file changed, or it is old.
///
/// LOCK ORDER: the locks are leaves, not held while a file is read or anybody is asked.
final class CredentialStore: Sendable {
    /// Who is asked for what, where asking takes long.
    private enum Question: Hashable, Sendable {
        case helper(name: String, host: String)
        case metadata
    }

    private struct Answer: Sendable {
        var credential: Credential?
        /// CLOCK_MONOTONIC, nanoseconds.
        var expiresAt: UInt64
    }

    /// What tells one state of a file from another.
    private struct Signature: Equatable, Sendable {
        var device: UInt64
        var inode: UInt64
        var size: Int64
        var seconds: Int64
        var nanoseconds: Int64
    }

    private struct Source: Sendable {
        var signature: Signature?
        var file: CredentialFile?
    }

    private struct State: Sendable {
        var sources: [String: Source] = [:]
        var checkedAt: UInt64 = 0
        var generation: UInt64 = 0
        var answers: [Question: Answer] = [:]
        var flights: [Question: Flight<Credential?>] = [:]
        /// Helpers and files that were complained about, until they change.
        var complaints: Set<String> = []
    }

    private let paths: [String]
    private let metadata: MetadataServer?
    private let log: Logger
    private let state = Mutex(State())

    /// How long a helper's answer is used that nobody refused, in seconds.
    private static let helperLife = 600.0
    /// Configurations are small.
    private static let fileLimit = 1 << 20
    /// Files are looked at not more often than this while tokens hold, in nanoseconds.
    private static let checkInterval: UInt64 = 1_000_000_000
    /// Helpers block a thread each.
    private static let pool = WorkerPool(named: "crfs-helper", threads: 2)

    init(_ sources: CredentialSources, transport: HTTPTransport, log: Logger) {
        paths = sources.files
        metadata = sources.metadataHost.map { MetadataServer(host: $0, transport: transport) }
        self.log = log
    }

    /// Counts the changes of the files. Looks at them in the background, once a second at most.
    var generation: UInt64 {
        let now = monotonicNanoseconds()
        let (generation, isDue): (UInt64, Bool) = state.withLock { state in
            let isDue = now &- state.checkedAt >= CredentialStore.checkInterval
            if isDue { state.checkedAt = now }
            return (state.generation, isDue)
        }
        if isDue && !paths.isEmpty { CredentialStore.pool.submit { self.readChangedFiles() } }
        return generation
    }

    /// The credential for a place, as the files say now; nil for nobody in particular.
    func credential(for place: CredentialPlace, patience: Double) async -> Credential? {
        await CredentialStore.pool.run { self.readChangedFiles() }
        let answer = state.withLock { state in
            for path in paths {
                if let answer = state.sources[path]?.file?.answer(place) { return Optional(answer) }
            }
            return nil
        }
        switch answer {
        case .credential(let credential):
            return credential
        case .helper(let name, let otherwise):
            return await ask(.helper(name: name, host: place.host), patience) ?? otherwise
        case nil:
            guard metadata != nil, MetadataServer.serves(place.host) else { return nil }
            return await ask(.metadata, patience)
        }
    }

    /// Notes that a server refused a credential: whoever gave it is asked again next time.
    func refuse(_ credential: Credential) {
        state.withLock { state in
            state.answers = state.answers.filter { $0.value.credential?.proof != credential.proof }
        }
    }

    // MARK: Files

    private func readChangedFiles() {
        for path in paths {
            let signature = CredentialStore.signature(of: path)
            let isKnown = state.withLock { $0.sources[path].map { $0.signature == signature } ?? false }
            if isKnown { continue }
            let file = signature == nil ? nil : read(path)
            state.withLock { state in
                // The first look is no change.
                if state.sources[path] != nil { state.generation += 1 }
                state.sources[path] = Source(signature: signature, file: file)
                state.answers = [:]
                state.complaints = []
            }
        }
    }

    private func read(_ path: String) -> CredentialFile? {
        do throws(SystemError) {
            let content = try readFile(path, limit: CredentialStore.fileLimit).array
            if let file = CredentialFile(json: content, source: path) { return file }
            log.warning("\(path) is not the JSON of a docker configuration: no credentials from it")
        } catch {
            log.warning("cannot read \(path): \(error.reason); no credentials from it")
        }
        return nil
    }

    private static func signature(of path: String) -> Signature? {
        var status = stat()
        guard unsafe stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
        return Signature(
            device: UInt64(status.st_dev),
            inode: UInt64(status.st_ino),
            size: Int64(status.st_size),
            seconds: Int64(status.st_mtim.tv_sec),
            nanoseconds: Int64(status.st_mtim.tv_nsec)
        )
    }

    // MARK: Those who have to be asked

    /// What is known, or one question for all who wait.
    private func ask(_ question: Question, _ patience: Double) async -> Credential? {
        let now = monotonicNanoseconds()
        let (known, flight, isMine): (Credential??, Flight<Credential?>, Bool) = state.withLock { state in
            if let answer = state.answers[question], answer.expiresAt > now {
                return (.some(answer.credential), Flight(), false)
            }
            if let flight = state.flights[question] { return (nil, flight, false) }
            let flight = Flight<Credential?>()
            state.flights[question] = flight
            return (nil, flight, true)
        }
        if let known { return known }
        if isMine {
            Task {
                let answer = await self.answer(question)
                state.withLock { state in
                    state.answers[question] = answer
                    state.flights[question] = nil
                }
                flight.finish(answer.credential)
            }
        }
        return await flight.wait(atMost: patience) ?? nil
    }

    private func answer(_ question: Question) async -> Answer {
        let askedAt = monotonicNanoseconds()
        switch question {
        case .metadata:
            guard let token = await metadata?.accessToken() else {
                // A machine without a service account: asked again in a while.
                return Answer(credential: nil, expiresAt: askedAt + 60_000_000_000)
            }
            let proof = Credential.Proof.password(user: "oauth2accesstoken", token.secret)
            let usable = token.life - min(60, token.life / 5)
            return Answer(
                credential: Credential(proof: proof, source: "the metadata server"),
                expiresAt: askedAt + UInt64(usable * 1e9)
            )
        case .helper(let name, let host):
            let result = await CredentialStore.pool.run { CredentialStore.run(name, host) }
            switch result {
            case .success(let credential):
                return Answer(credential: credential, expiresAt: askedAt + UInt64(CredentialStore.helperLife * 1e9))
            case .failure(.nothing):
                return Answer(credential: nil, expiresAt: askedAt + UInt64(CredentialStore.helperLife * 1e9))
            case .failure(.broken(let reason)):
                complain("\(reason); going on without a credential for \(host)")
                return Answer(credential: nil, expiresAt: askedAt + 5_000_000_000)
            }
        }
    }

    private static func run(_ name: String, _ host: String) -> Result<Credential, CredentialHelper.Failure> {
        do throws(CredentialHelper.Failure) {
            return .success(try CredentialHelper(name).get(host))
        } catch {
            return .failure(error)
        }
    }

    /// Writes a line that is not written again until a file changes.
    func complain(_ text: String) {
        if state.withLock({ $0.complaints.insert(text).inserted }) { log.warning("\(text)") }
    }
}
