import Logging
import Synchronization
import Testing

@testable import BlobIO

@Suite struct LogLimiterTests {
    private final class Clock: Sendable {
        private let value = Atomic<UInt64>(5_000_000_000)
        func advance(milliseconds: UInt64) { value.add(milliseconds * 1_000_000, ordering: .relaxed) }
        var now: UInt64 { value.load(ordering: .relaxed) }
    }

    @Test func oneCauseIsLoggedOnceASecondAndTheNextLineCounts() {
        let recorder = LogRecorder()
        let clock = Clock()
        let limiter = LogLimiter(clock: { clock.now })
        for number in 0..<5 {
            limiter.log(recorder.logger, level: .warning, cause: "a", "line \(number)")
            clock.advance(milliseconds: 100)
        }
        limiter.log(recorder.logger, level: .warning, cause: "b", "other")
        #expect(recorder.text == ["warning: line 0", "warning: other"])
        clock.advance(milliseconds: 500)
        limiter.log(recorder.logger, level: .warning, cause: "a", "again")
        clock.advance(milliseconds: 1000)
        limiter.log(recorder.logger, level: .warning, cause: "a", "last")
        #expect(recorder.text.suffix(2) == ["warning: again (and 4 more of this kind)", "warning: last"])
    }

    @Test func aLineThatIsLeftOutIsNotMade() {
        let recorder = LogRecorder()
        let limiter = LogLimiter(clock: { 1 })
        var made = 0
        func line() -> String {
            made += 1
            return "line"
        }
        limiter.log(recorder.logger, level: .info, cause: "a", line())
        limiter.log(recorder.logger, level: .info, cause: "a", line())
        limiter.log(recorder.logger, level: .trace, cause: "below the logger's level", line())
        #expect(made == 1)
    }

    @Test func manyCausesDoNotPileUp() {
        let recorder = LogRecorder()
        let limiter = LogLimiter(clock: { 1 })
        for number in 0..<5000 { limiter.log(recorder.logger, level: .info, cause: "\(number)", "x") }
        #expect(recorder.text.count == 5000)
        #expect(limiter.causeCount <= 512)
    }
}
