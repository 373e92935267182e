internal import HTTPTransport
internal import OCIRegistry

/// Why something is fetched that nobody has asked for; what comes first goes first.
public enum PrefetchKind: Int, Sendable, CaseIterable {
    /// A recorded profile has it.
    case profile
    /// It lies before the layer's landmark.
    case landmark
    /// Somebody wants it in the cache (`crfs warm`).
    case warm
    /// The rest of an image that is in use.
    case background

    /// How messages name it.
    public var name: String {
        switch self {
        case .profile: "profile"
        case .landmark: "landmark"
        case .warm: "warm"
        case .background: "background"
        }
    }

    var priority: TransferPriority {
        switch self {
        case .profile: .profile
        case .landmark, .warm: .landmark
        case .background: .background
        }
    }
}

/// What came by one kind of prefetch since the process started, in compressed bytes.
public struct PrefetchFigures: Sendable, Equatable {
    /// Why it was fetched.
    public var kind: PrefetchKind
    /// What came.
    public var fetched: UInt64
    /// Of that, what was read later.
    public var read: UInt64
}

/// How much a prefetch asks for at a time. Pure functions.
enum PrefetchPlan {
    /// The most bytes on their way, or waiting to be decoded: what a round trip is worth, and 2 MiB that keep the decoders
    /// busy meanwhile.
    ///
    /// - Parameter isQuiet: no reader waits for anything now.
    static func window(_ kind: PrefetchKind, _ link: LinkEstimate, _ limits: FetchLimits, isQuiet: Bool) -> UInt64 {
        let wide = max(min(limits.mostInFlight, 8 << 20), min(FetchPlanner.roundTripWorth(link) + (2 << 20), 12 << 20))
        guard kind == .background else { return wide }
        return isQuiet ? max(1 << 20, wide / 2) : 1 << 20
    }

    /// How much of a profile is planned as one, whose members can share requests wherever in the order of first use they
    /// stand.
    static let horizon: UInt64 = 64 << 20

    /// The most bytes of a request of a profile: large enough that its costs do not matter, and no larger, since what is
    /// used later comes along with what is used first.
    static func span(_ link: LinkEstimate) -> UInt64 { min(FetchPlanner.requestWorth(link), 2 << 20) }

    /// How much of ranges is planned as one: the more, the wider its requests. Small at first, so that what is used first
    /// comes first.
    static func step(window: UInt64, planned: UInt64) -> UInt64 {
        min(max(256 << 10, planned), max(256 << 10, window / 2))
    }

    /// Requests at once. All of these get a place with a server of HTTP/1.1, so none waits in front of one that is more
    /// urgent (`HostQueue`).
    static func requests(_ kind: PrefetchKind) -> Int { kind == .background ? 3 : 12 }
}
