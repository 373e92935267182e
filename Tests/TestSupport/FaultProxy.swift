internal import FoundationEssentials
internal import PosixIO

/// `faultproxy.py` in front of a registry: what it does to each request follows rules that a test changes at any time.
public final class FaultProxy: Sendable {
    /// What happens to requests. The first rule that matches a path decides.
    public struct Rule: Sendable, Encodable {
        /// The mode's name, as faultproxy.py documents them.
        public var mode: String
        /// A regular expression that must be found in the path.
        public var match: String
        /// How many requests it applies to; nil: all.
        public var times: Int?
        /// `status`: the status code.
        public var code: Int?
        /// `status`: the seconds in Retry-After.
        public var after: Int?
        /// `cut`: how many bytes of the body come.
        public var keep: Int?
        /// `redirect`: HOST:PORT.
        public var to: String?
        /// `slow`: bytes per piece.
        public var bytes: Int?
        /// `slow`: milliseconds between pieces.
        public var every_ms: Int?

        /// A rule of a mode for all paths in which `match` is found.
        public init(
            _ mode: String,
            match: String = "",
            times: Int? = nil,
            code: Int? = nil,
            after: Int? = nil,
            keep: Int? = nil,
            to: String? = nil,
            bytes: Int? = nil,
            everyMilliseconds: Int? = nil
        ) {
            self.mode = mode
            self.match = match
            self.times = times
            self.code = code
            self.after = after
            self.keep = keep
            self.to = to
            self.bytes = bytes
            every_ms = everyMilliseconds
        }
    }

    /// One request that the proxy saw.
    public struct Request: Sendable, Decodable {
        /// GET or HEAD.
        public var method: String
        /// Path and query.
        public var path: String
        /// The Range header.
        public var range: String?
        /// Whether it carried an Authorization header.
        public var authorization: Bool
        /// What the proxy did with it.
        public var mode: String
        /// The status that it answered; nil where there was no answer.
        public var status: Int?
        /// How many bytes of the body were sent.
        public var bytes: Int
        /// Whether all was sent that was to be sent.
        public var done: Bool
        /// The number of the TCP connection, from 1.
        public var connection: Int
    }

    private struct Control: Encodable { var rules: [Rule] }

    /// `127.0.0.1:<port>` of the proxy.
    public let host: String

    private let directory: TemporaryDirectory
    private let process: BackgroundProcess

    /// Starts a proxy in front of `upstream` (`host:port`) that passes everything on.
    ///
    /// - Parameter delayMilliseconds: how long it holds every request before it looks at it.
    public init(upstream: String, delayMilliseconds: Int = 0) throws {
        directory = try TemporaryDirectory("proxy")
        let portFile = directory.file("port")
        process = try BackgroundProcess(
            "python3",
            [
                SourceTree.testSupport("faultproxy.py"), "--upstream", upstream,
                "--control", directory.file("control.json"), "--log", directory.file("requests"),
                "--port-file", portFile, "--delay-ms", String(delayMilliseconds),
            ],
            log: directory.file("log")
        )
        let process = process
        guard waitUntil({ !process.isRunning || (try? FileStatus(portFile)) != nil }), process.isRunning else {
            throw CommandFailure(
                description: "faultproxy.py did not start:\n\((try? text(of: directory.file("log"))) ?? "")"
            )
        }
        host = "127.0.0.1:\(try text(of: portFile))"
    }

    /// Makes these the rules, from the next request on; their counts start anew. Hanging requests are let go.
    public func use(_ rules: Rule...) throws {
        let data = try JSONEncoder().encode(Control(rules: rules))
        try writeFile(directory.file("control.json"), String(decoding: data, as: UTF8.self))
    }

    /// The requests so far that were answered or given up, oldest first.
    public func requests() throws -> [Request] {
        let decoder = JSONDecoder()
        return try text(of: directory.file("requests")).split(separator: "\n").map { line in
            try decoder.decode(Request.self, from: Data(line.utf8))
        }
    }
}
