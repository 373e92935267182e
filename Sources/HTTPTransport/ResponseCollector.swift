internal import OCIModel
internal import PosixIO

/// Makes an answer out of header lines and body bytes, and decides when enough has come. Knows nothing of libcurl.
struct ResponseCollector: ~Copyable {
    /// Why the transfer was ended by us.
    enum Stop: Equatable {
        /// All that was wanted has come.
        case satisfied
        /// The body is longer than allowed.
        case tooLarge
        /// No memory for the body, or its sink takes no more.
        case outOfMemory
    }

    /// What happens to the body's bytes.
    private enum Plan: Equatable {
        case undecided
        /// Keep up to `limit` bytes; more is an error.
        case keep(limit: Int)
        /// Drop `skip` bytes, keep `want`, then stop.
        case slice(skip: UInt64, want: Int)
        /// Keep what fits, for a message; then stop.
        case excerpt
    }

    /// The most that is kept of the body of a redirect or an error.
    static let excerptLimit = 16384

    private let range: ByteRange?
    private let bodyLimit: Int
    private let expectsBody: Bool
    private let sink: BodySink?
    private var isSinking = false
    private var plan = Plan.undecided
    private var buffer = BodyBuffer()

    private(set) var status = 0
    private(set) var headers = HTTPHeaders()
    /// Whether the final answer's headers are complete.
    private(set) var headersComplete = false
    /// Set when the transfer is to end here.
    private(set) var stop: Stop?
    /// Bytes of the content that came, those of a wanted range and those before it.
    private(set) var bytesReceived: UInt64 = 0
    /// Bytes that the sink took.
    private(set) var delivered = 0

    init(range: ByteRange?, bodyLimit: Int, expectsBody: Bool, sink: BodySink? = nil) {
        self.sink = range == nil ? nil : sink
        self.range = range
        self.bodyLimit = max(0, bodyLimit)
        self.expectsBody = expectsBody
    }

    /// Whether a range was asked for and the whole content comes.
    var rangeIgnored: Bool {
        if case .slice = plan { return true }
        return false
    }

    /// Whether the answer is a redirect or an error, whose body nobody needs.
    var isExcerpt: Bool { plan == .excerpt }

    /// Whether the body ended before the wanted bytes of a sliced content had come.
    var isSliceIncomplete: Bool {
        if case .slice(_, let want) = plan { return kept < want }
        return false
    }

    /// Takes one header line with its line end; false when the transfer is to end.
    mutating func takeHeader(_ bytes: UnsafeRawBufferPointer) -> Bool {
        // Lines after the body's begin are trailers.
        if bytesReceived > 0 { return true }
        var line = unsafe Substring(String(decoding: bytes, as: UTF8.self))
        while let last = line.unicodeScalars.last, last == "\r" || last == "\n" { line.unicodeScalars.removeLast() }
        if line.hasPrefix("HTTP/") {
            // A new block: the one before was informational (1xx).
            let parts = line.split(separator: " ", maxSplits: 2)
            status = parts.count > 1 ? Int(parts[1]) ?? 0 : 0
            headers = HTTPHeaders()
            headersComplete = false
            return true
        }
        if headersComplete { return true }
        if line.isEmpty {
            guard status >= 200 else { return true }
            headersComplete = true
            return decide()
        }
        if let colon = line.firstIndex(of: ":") {
            let value = line[line.index(after: colon)...]
            headers.add(String(line[..<colon]), trimBlanks(value))
        }
        return true
    }

    /// Takes body bytes; false when the transfer is to end.
    mutating func takeBody(_ bytes: UnsafeRawBufferPointer) -> Bool {
        if plan == .undecided, !decide() { return false }
        bytesReceived += UInt64(bytes.count)
        switch plan {
        case .undecided:
            return true
        case .keep(let limit):
            guard bytes.count <= limit - kept else { return end(.tooLarge) }
            return unsafe keep(bytes, limit: limit)
        case .excerpt:
            let room = ResponseCollector.excerptLimit - buffer.count
            let kept = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<min(room, bytes.count)])
            guard unsafe buffer.append(kept, limit: ResponseCollector.excerptLimit) else { return end(.outOfMemory) }
            return bytes.count <= room || end(.satisfied)
        case .slice(let skip, let want):
            let dropped = Int(min(skip, UInt64(bytes.count)))
            plan = .slice(skip: skip - UInt64(dropped), want: want)
            let taken = min(bytes.count - dropped, want - kept)
            guard unsafe keep(UnsafeRawBufferPointer(rebasing: bytes[dropped..<dropped + taken]), limit: want) else {
                return false
            }
            return kept < want || end(.satisfied)
        }
    }

    /// Bytes of the wanted content that have come.
    private var kept: Int { buffer.count + delivered }

    /// Puts bytes of the content where they belong; false when that fails.
    private mutating func keep(_ bytes: UnsafeRawBufferPointer, limit: Int) -> Bool {
        guard isSinking, let sink else { return unsafe buffer.append(bytes, limit: limit) || end(.outOfMemory) }
        guard bytes.count > 0 else { return true }
        delivered += bytes.count
        return unsafe sink.take(bytes.bytes) || end(.outOfMemory)
    }

    /// Gives the body away.
    mutating func finishBody() -> UniqueBytes { buffer.take() }

    private mutating func end(_ reason: Stop) -> Bool {
        stop = reason
        return false
    }

    private mutating func decide() -> Bool {
        let announced = headers["content-length"].flatMap { UInt64($0) }
        guard expectsBody else {
            plan = .excerpt
            return true
        }
        switch (status, range) {
        case (416, _):
            plan = .excerpt
            return end(.satisfied)
        case (206, .some(let range)):
            isSinking = sink?.begins(status, headers) ?? false
            return keep(limit: Int(clamping: range.count), announced: announced)
        case (200..<300, .some(let range)):
            let want = Int(clamping: range.count)
            plan = .slice(skip: range.offset, want: want)
            isSinking = sink?.begins(status, headers) ?? false
            if isSinking { return true }
            return buffer.reserve(Int(clamping: min(UInt64(want), announced ?? UInt64(want)))) || end(.outOfMemory)
        case (200..<300, nil):
            return keep(limit: bodyLimit, announced: announced)
        default:
            plan = .excerpt
            return true
        }
    }

    private mutating func keep(limit: Int, announced: UInt64?) -> Bool {
        plan = .keep(limit: limit)
        guard let announced else { return true }
        guard announced <= UInt64(limit) else { return end(.tooLarge) }
        return isSinking || buffer.reserve(Int(announced)) || end(.outOfMemory)
    }
}

private func trimBlanks(_ text: Substring) -> String {
    var text = text
    while let first = text.first, first == " " || first == "\t" { text.removeFirst() }
    while let last = text.last, last == " " || last == "\t" { text.removeLast() }
    return String(text)
}
