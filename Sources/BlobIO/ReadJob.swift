public import PosixIO
internal import Synchronization

/// What a read came to.
public enum ReadOutcome: Sendable {
    /// The buffer holds the bytes (fewer than asked only at the end of the file).
    case ready
    /// Chunks are on their way.
    case parked(ReadJob)
    /// It cannot be served; the buffer is empty.
    case failed(BlobError)
}

/// Which bytes of which file are to be read.
struct ReadRequest: Sendable {
    let layer: Layer
    let record: UInt32
    let offset: UInt64
    let count: Int
}

/// A read whose chunks are on their way. It holds what arrives for it: however small the chunk store is, and whatever
/// else goes through it, each round of a read has what the rounds before fetched, and so ends.
public final class ReadJob: Sendable {
    private final class Countdown: Sendable {
        let completion = Completion()
        private let left: Atomic<Int>

        init(_ count: Int) { left = Atomic(count) }

        func arrive() {
            if left.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 { completion.finish() }
        }
    }

    /// Finished when every flight of the job is. Its callbacks run on a thread that decodes or fetches: hand over
    /// anything longer than queueing a reply.
    public let completion: Completion

    private let blobIO: BlobIO
    private let request: ReadRequest
    /// Sorted by offset.
    private let flights: [Flight]
    private let round: Int
    /// Callbacks that this job has put on its flights.
    private let tokens: [UInt64]

    init(_ blobIO: BlobIO, _ request: ReadRequest, _ flights: [Flight], round: Int) {
        self.blobIO = blobIO
        self.request = request
        self.flights = flights
        self.round = round
        if flights.count == 1 {
            completion = flights[0].completion
            tokens = []
            return
        }
        // One more than there are flights, so that a job without any is finished too.
        let countdown = Countdown(flights.count + 1)
        completion = countdown.completion
        tokens = flights.map { $0.completion.whenFinished { countdown.arrive() } }
        countdown.arrive()
    }

    deinit {
        // Nobody waits any more; the flights go on for others.
        for (flight, token) in zip(flights, tokens) where token != 0 { flight.completion.remove(token) }
    }

    /// Serves the read now that it is finished; may park again.
    public func resume(into buffer: inout ReadBuffer) -> ReadOutcome {
        blobIO.serve(request, held: flights, round: round, into: &buffer)
    }
}
