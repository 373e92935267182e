import OCIModel
import PosixIO
import Testing

@testable import HTTPTransport

/// What becomes of header lines and body bytes, in whatever pieces they come.
@Suite struct CollectorTests {
    private func feed(_ collector: inout ResponseCollector, _ lines: String...) -> Bool {
        for line in lines {
            let more = unsafe Array((line + "\r\n").utf8).withUnsafeBytes { unsafe collector.takeHeader($0) }
            guard more else { return false }
        }
        return true
    }

    private func feedBody(_ collector: inout ResponseCollector, _ bytes: [UInt8]) -> Bool {
        unsafe bytes.withUnsafeBytes { unsafe collector.takeBody($0) }
    }

    @Test(arguments: [1, 3, 7, 100])
    func aRangeIsCutOutOfAWholeBodyInAnyPieces(_ piece: Int) {
        let content = (0..<100).map { UInt8($0) }
        for (offset, count) in [(0, 1), (0, 100), (99, 1), (10, 20), (33, 66)] {
            let range = ByteRange(offset: UInt64(offset), count: UInt64(count))
            var collector = ResponseCollector(range: range, bodyLimit: 0, expectsBody: true)
            #expect(feed(&collector, "HTTP/1.1 200 OK", ""))
            var position = 0
            while position < content.count {
                let end = min(position + piece, content.count)
                guard feedBody(&collector, Array(content[position..<end])) else { break }
                position = end
            }
            #expect(collector.stop == .satisfied)
            #expect(collector.rangeIgnored == true)
            #expect(collector.finishBody().share().array == Array(content[offset..<offset + count]))
        }
    }

    @Test func aLineWithoutAColonIsSkipped() {
        var collector = ResponseCollector(range: nil, bodyLimit: 10, expectsBody: true)
        #expect(feed(&collector, "HTTP/1.1 200 OK", "nonsense", ": no name", "A:", ""))
        #expect(collector.headers["a"] == "")
        #expect(collector.headersComplete == true)
    }

    @Test func headersAreBounded() {
        var collector = ResponseCollector(range: nil, bodyLimit: 10, expectsBody: true)
        #expect(feed(&collector, "HTTP/1.1 200 OK"))
        for index in 0..<1000 { #expect(feed(&collector, "X-\(index): 1")) }
        #expect(collector.headers.fields.count == 256)
    }

    @Test(arguments: ["HTTP/1.1", "HTTP/1.1 abc", "HTTP/1.1 99999999999999999999 x"])
    func aStatusThatIsNoneIsNoAnswer(_ line: String) {
        var collector = ResponseCollector(range: nil, bodyLimit: 10, expectsBody: true)
        #expect(feed(&collector, line, ""))
        #expect(collector.headersComplete == false)
    }

    @Test func theLimitHoldsForWhatWasNotAnnounced() {
        var collector = ResponseCollector(range: nil, bodyLimit: 10, expectsBody: true)
        #expect(feed(&collector, "HTTP/2 200 ", ""))
        #expect(feedBody(&collector, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]))
        #expect(!feedBody(&collector, [11]))
        #expect(collector.stop == .tooLarge)
    }

    @Test func aLengthThatIsNoNumberIsNone() {
        var collector = ResponseCollector(range: nil, bodyLimit: 10, expectsBody: true)
        #expect(feed(&collector, "HTTP/1.1 200 OK", "Content-Length: 99999999999999999999999", ""))
        #expect(feedBody(&collector, [1]))
        #expect(collector.finishBody().share().array == [1])
    }
}
