import TestSupport
import Testing

@testable import Control

/// The messages of the control socket.
@Suite struct FrameTests {
    private func read(_ pieces: [[UInt8]]) throws -> [Frame] {
        var reader = FrameReader()
        var frames: [Frame] = []
        for piece in pieces {
            reader.append(piece)
            while let frame = try reader.next() { frames.append(frame) }
        }
        return frames
    }

    @Test func aMessageIsItsLengthAndItsBytes() {
        #expect(Frame.message([0x7b, 0x7d]).bytes == [2, 0, 0, 0, 0x7b, 0x7d])
        #expect(Frame.output([9]).bytes == [1, 0, 0, 0x80, 9])
    }

    @Test(arguments: 0..<50)
    func framesComeTogetherWhereverTheyWereCut(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var frames: [Frame] = []
        for _ in 0..<Int.random(in: 1...12, using: &random) {
            let content = (0..<Int.random(in: 1...300, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
            frames.append(Bool.random(using: &random) ? .message(content) : .output(content))
        }
        var rest = frames.flatMap(\.bytes)[...]
        var pieces: [[UInt8]] = []
        while !rest.isEmpty {
            let piece = rest.prefix(Int.random(in: 1...64, using: &random))
            pieces.append(Array(piece))
            rest = rest.dropFirst(piece.count)
        }
        #expect(try read(pieces) == frames, "seed \(seed)")
    }

    @Test func theLargestFrameIsReadAndALargerOneIsNot() throws {
        let content = [UInt8](repeating: 7, count: Frame.limit)
        #expect(try read([Frame.message(content).bytes]) == [.message(content)])
        let header: [UInt8] = [1, 0, 0x10, 0]
        #expect(throws: ControlError.self) { try read([header]) }
        #expect(throws: ControlError.self) { try read([[0xff, 0xff, 0xff, 0xff]]) }
        #expect(throws: ControlError.self) { try read([[0, 0, 0, 0]]) }
        #expect(throws: ControlError.self) { try read([[0, 0, 0, 0x80]]) }
    }

    @Test func whatIsNoRequestIsSaidInWords() {
        for text in ["", "[]", "17", "{\"crfs\":1}", "{\"crfs\":\"1\",\"request\":\"x\"}", "{", "\u{0}"] {
            #expect(throws: ControlError.self) { try ControlProtocol.decode(RequestHead.self, Array(text.utf8)) }
        }
        let deep = String(repeating: "[", count: 100_000)
        #expect(throws: ControlError.self) { try ControlProtocol.decode(RequestHead.self, Array(deep.utf8)) }
    }
}
