import CShims
import Glibc
import Logging
import PosixIO
import Synchronization
import TestSupport
import Testing

@testable import Control

/// A server in this process, and clients of all kinds.
@Suite final class ServerTests {
    private struct Text: Codable, Equatable {
        var text: String
    }

    private struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    private final class Cancellations: Sendable {
        let count = Atomic(0)
    }

    private let directory: TemporaryDirectory
    private let server: ControlServer
    private let cancellations = Cancellations()

    init() throws {
        directory = try TemporaryDirectory("control")
        let cancellations = cancellations
        server = try ControlServer(
            directory: directory.path,
            requests: [
                ControlRequest("echo", Text.self) { text, _ in text },
                ControlRequest("fail", NoValue.self) { _, _ -> NoValue in throw Failure(description: "for a reason") },
                ControlRequest("count", Text.self) { text, call in
                    for number in 0..<(Int(text.text) ?? 0) { try call.progress(Text(text: "\(number)")) }
                    return Text(text: "done")
                },
                ControlRequest("output", Text.self) { text, call in
                    let bytes = [UInt8](repeating: 0x61, count: Int(text.text) ?? 0)
                    try unsafe call.output(bytes.span.bytes)
                    return NoValue()
                },
                ControlRequest("size", NoValue.self) { _, call in
                    guard let file = call.takeDescriptor() else { return Text(text: "none") }
                    return Text(text: "\(try file.status().st_size)")
                },
                ControlRequest("wait", NoValue.self) { _, call in
                    let gone = Monitor(false)
                    call.cancelled.whenFinished { gone.withLock { $0 = true } }
                    gone.wait { $0 ? () : nil }
                    cancellations.count.add(1, ordering: .relaxed)
                    return NoValue()
                },
            ],
            logger: Logger(label: "test")
        )
    }

    private func channel() throws -> ControlChannel { try ControlChannel(directory: directory.path) }

    private func echo(_ text: String) throws -> String {
        let answer: Text = try channel().call("echo", Text(text: text))
        return answer.text
    }

    /// A connection of which the test says each byte.
    private func connect() throws -> Descriptor {
        let raw = unsafe crfs_unix_connect(directory.file("control"))
        try #require(raw >= 0)
        return Descriptor(owning: raw)
    }

    private func everything(_ socket: borrowing Descriptor) throws -> [Frame] {
        var reader = FrameReader()
        var frames: [Frame] = []
        while true {
            let received = try receive(socket, limit: 4096, waits: true)
            if received.bytes.isEmpty { return frames }
            reader.append(received.bytes)
            while let frame = try reader.next() { frames.append(frame) }
        }
    }

    private func answer(to bytes: [UInt8]) throws -> AnswerHead {
        let socket = try connect()
        try unsafe sendAll(socket.raw, bytes.span.bytes)
        let frames = try everything(socket)
        guard case .message(let message) = try #require(frames.first) else { throw Failure(description: "output") }
        return try ControlProtocol.decode(AnswerHead.self, message)
    }

    @Test func aRequestGetsItsAnswer() throws {
        defer { server.stop() }
        #expect(try echo("a") == "a")
        #expect(try echo("\u{0}\"\\\n🙂") == "\u{0}\"\\\n🙂")
    }

    @Test func whatAHandlerThrowsIsTheClientsError() throws {
        defer { server.stop() }
        #expect(throws: ControlError(.refused, "for a reason")) {
            let _: NoValue = try channel().call("fail", NoValue())
        }
    }

    @Test func progressComesInOrderBeforeTheResult() throws {
        defer { server.stop() }
        var seen: [String] = []
        let result: Text = try channel().call("count", Text(text: "100")) { (text: Text) in seen.append(text.text) }
        #expect(seen == (0..<100).map { "\($0)" })
        #expect(result.text == "done")
    }

    @Test func outputOfAnySizeComesWhole() throws {
        defer { server.stop() }
        for size in [0, 1, Frame.limit, Frame.limit + 1, 5 << 20] {
            var count = 0
            let _: NoValue = try channel().call("output", Text(text: "\(size)"), progress: { (_: NoValue) in }) {
                bytes in
                count += bytes.count
                #expect(bytes.allSatisfy { $0 == 0x61 })
            }
            #expect(count == size)
        }
    }

    @Test func aDescriptorComesAlong() throws {
        defer { server.stop() }
        try writeFile(directory.file("file"), "12345")
        let file = try Descriptor.open(directory.file("file"))
        let size: Text = try channel().call("size", NoValue(), descriptor: file.raw)
        #expect(size.text == "5")
        let none: Text = try channel().call("size", NoValue())
        #expect(none.text == "none")
    }

    @Test func theSocketIsForItsOwnerOnly() throws {
        defer { server.stop() }
        #expect(try FileStatus(directory.file("control")).mode == 0o600)
    }

    @Test func wrongVersionsAndUnknownRequestsAreErrors() throws {
        defer { server.stop() }
        let other = try answer(to: Frame.message(Array(#"{"crfs":99,"request":"echo","text":"a"}"#.utf8)).bytes)
        #expect(other.versions == [1])
        #expect(other.error != nil)
        let unknown = try answer(to: Frame.message(Array(#"{"crfs":1,"request":"no-such"}"#.utf8)).bytes)
        #expect(unknown.error?.contains("no-such") == true)
        let more = try answer(to: Frame.message(Array(#"{"crfs":1,"request":"echo","text":"a","new":[1]}"#.utf8)).bytes)
        #expect(more.hasResult)
    }

    @Test(
        arguments: [
            [0xff, 0xff, 0xff, 0xff], [0, 0, 0, 0], [1, 0, 0, 0x80, 0x61], [2, 0, 0, 0, 0x5b, 0x5d],
            [3, 0, 0, 0, 0x7b, 0, 1],
            Array("GET / HTTP/1.1\r\n\r\n".utf8),
        ] as [[UInt8]]
    )
    func garbageIsAnErrorAndNothingElse(bytes: [UInt8]) throws {
        defer { server.stop() }
        #expect(try answer(to: bytes).error != nil)
        #expect(try echo("still here") == "still here")
    }

    @Test func connectionsThatSayNothingHoldNobodyUp() throws {
        defer { server.stop() }
        var silent: [ControlChannel] = []
        for _ in 0..<ControlServer.mostConnections + 100 { silent.append(try channel()) }
        let half = try connect()
        try unsafe sendAll(half.raw, ([200, 0, 0, 0, 0x7b] as [UInt8]).span.bytes)
        #expect(try echo("a") == "a")
        #expect(silent.count > ControlServer.mostConnections)
    }

    @Test func aClientThatTakesNoAnswerHoldsNobodyUp() throws {
        defer { server.stop() }
        let deaf = try (0..<10).map { _ in
            let channel = try channel()
            try channel.send("output", Text(text: "\(64 << 20)"))
            return channel
        }
        #expect(try echo("a") == "a")
        for channel in deaf { channel.hangUp() }
    }

    @Test func aClientThatGoesCancelsItsRequest() throws {
        defer { server.stop() }
        do {
            let channel = try channel()
            try channel.send("wait", NoValue())
            #expect(try echo("a") == "a")
        }
        #expect(waitUntil { cancellations.count.load(ordering: .relaxed) == 1 })
    }

    @Test func stoppingCancelsAndRemovesTheSocket() throws {
        let waiting = try channel()
        try waiting.send("wait", NoValue())
        #expect(try echo("a") == "a")
        server.stop(seconds: 30)
        #expect(cancellations.count.load(ordering: .relaxed) == 1)
        #expect(throws: ControlError.self) { try waiting.receive() }
        #expect(errorNumber { () throws(SystemError) in _ = try FileStatus(directory.file("control")) } == ENOENT)
        #expect(throws: ControlError.self) { try channel() }
    }

    @Test func aDirectoryWithALongPathHasASocketToo() throws {
        defer { server.stop() }
        let long = try directory.makeDirectory(String(repeating: "long/", count: 40) + "end")
        let second = try ControlServer(
            directory: long,
            requests: [ControlRequest("echo", Text.self) { text, _ in text }],
            logger: Logger(label: "test")
        )
        defer { second.stop() }
        let answer: Text = try ControlChannel(directory: long).call("echo", Text(text: "b"))
        #expect(answer.text == "b")
    }

    @Test func aLeftoverSocketIsReplaced() throws {
        server.stop()
        let leftover = unsafe crfs_unix_listen(directory.file("control"), 1)
        try #require(leftover >= 0)
        close(leftover)
        #expect(throws: ControlError.self) { try channel() }
        let second = try ControlServer(
            directory: directory.path,
            requests: [ControlRequest("echo", Text.self) { text, _ in text }],
            logger: Logger(label: "test")
        )
        defer { second.stop() }
        #expect(try echo("c") == "c")
    }
}
