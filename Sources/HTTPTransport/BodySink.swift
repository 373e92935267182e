/// Takes the bytes of a range as they come, instead of an answer that holds them all.
///
/// Both closures run on the transport's thread, which drives all transfers: they may copy, and must not wait.
public struct BodySink: Sendable {
    /// Whether the answer's bytes are the wanted ones, as far as status and headers say. If not, the body is kept like that
    /// of a request without a sink.
    public let begins: @Sendable (_ status: Int, _ headers: HTTPHeaders) -> Bool
    /// Takes the next bytes of the range, in order; they are valid during the call. False ends the transfer.
    public let take: @Sendable (_ bytes: borrowing RawSpan) -> Bool
    /// Holds bytes back while `take` could not keep them; nil when it always can.
    public let gate: FlowGate?

    /// Makes a sink from its closures.
    public init(
        begins: @escaping @Sendable (_ status: Int, _ headers: HTTPHeaders) -> Bool,
        take: @escaping @Sendable (_ bytes: borrowing RawSpan) -> Bool,
        gate: FlowGate? = nil
    ) {
        self.begins = begins
        self.take = take
        self.gate = gate
    }
}
