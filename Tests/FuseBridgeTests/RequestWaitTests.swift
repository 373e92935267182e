import Foundation
import PosixIO
import Synchronization
import TestSupport
import Testing

@testable import FuseBridge

/// A request as the kernel sends it (linux/fuse.h): a header of 40 bytes, and for a READ 40 more.
private func request(opcode: UInt32, client: UInt32, readSize: UInt32? = nil) -> [UInt8] {
    func bytes<T: FixedWidthInteger>(_ value: T) -> [UInt8] { unsafe withUnsafeBytes(of: value) { unsafe Array($0) } }
    let length: UInt32 = readSize == nil ? 40 : 80
    // len, opcode, unique, nodeid, uid, gid, pid, padding.
    let header = bytes(length) + bytes(opcode) + bytes(UInt64(7)) + bytes(UInt64(1)) + bytes(UInt64(0)) + bytes(client)
    let padded = header + bytes(UInt32(0))
    guard let readSize else { return padded }
    // fh, offset, size, read_flags, lock_owner, flags, padding.
    return padded + bytes(UInt64(3)) + bytes(UInt64(4096)) + bytes(readSize) + [UInt8](repeating: 0xff, count: 20)
}

private func head(opcode: UInt32 = 1, client: UInt32, readSize: UInt32? = nil) throws -> RequestHead {
    let bytes = request(opcode: opcode, client: client, readSize: readSize)
    return try #require(read(bytes))
}

private func read(_ bytes: [UInt8]) -> RequestHead? {
    unsafe bytes.withUnsafeBytes { unsafe RequestHead($0) }
}

/// `#expect` cannot look into a value that is not copyable.
private final class Streak {
    private let streak = ClientStreak()
    func note(_ head: RequestHead, at now: UInt64) -> Bool { streak.note(head, at: now) }
}

@Suite("What tells requests apart")
struct RequestHeadTests {
    @Test func aHeaderSaysWhoAsks() throws {
        let head = try head(opcode: 22, client: 0x0102_0304)
        #expect(head.client == 0x0102_0304)
        #expect(head.readSize == 0)
    }

    @Test func aReadSaysHowMuch() throws {
        #expect(try head(opcode: 15, client: 1, readSize: 131_072).readSize == 131_072)
        // The same bytes in another request are no size.
        #expect(try head(opcode: 1, client: 1, readSize: 131_072).readSize == 0)
    }

    @Test func fewerBytesThanAHeaderAreNone() {
        for count in [0, 1, 39] {
            let bytes = [UInt8](repeating: 1, count: count)
            #expect(read(bytes) == nil)
        }
        // A READ that is cut behind its header has no size.
        let cut = Array(request(opcode: 15, client: 9, readSize: 4096)[..<59])
        #expect(read(cut)?.readSize == 0)
    }
}

@Suite("Streaks of one client")
struct ClientStreakTests {
    let step = ClientStreak.interval / 2

    @Test func oneClientThatAsksAtOnceHasAStreak() throws {
        let streak = Streak()
        let one = try head(client: 5)
        for number in 0..<40 as Range<UInt64> {
            // The first one begins it.
            #expect(streak.note(one, at: 1 + number * step) == (number >= ClientStreak.long), "request \(number)")
        }
    }

    @Test func anotherClientEndsIt() throws {
        let streak = Streak()
        var now: UInt64 = 1
        func note(_ client: UInt32) throws -> Bool {
            now += step
            return streak.note(try head(client: client), at: now)
        }
        for _ in 0...ClientStreak.long { _ = try note(5) }
        #expect(try note(5))
        #expect(try !note(6))
        #expect(try !note(5))
        // Two that take turns never have one.
        for _ in 0..<50 {
            #expect(try !note(6))
            #expect(try !note(5))
        }
    }

    @Test func aPauseEndsIt() throws {
        let streak = Streak()
        let one = try head(client: 5)
        var now: UInt64 = 1
        for _ in 0...ClientStreak.long {
            now += step
            _ = streak.note(one, at: now)
        }
        #expect(streak.note(one, at: now + step))
        #expect(!streak.note(one, at: now + step + ClientStreak.interval))
    }

    @Test func readAheadEndsItAndSmallReadsDoNot() throws {
        let streak = Streak()
        var now: UInt64 = 1
        func note(_ head: RequestHead) -> Bool {
            now += step
            return streak.note(head, at: now)
        }
        let small = try head(opcode: 15, client: 5, readSize: ClientStreak.largeRead)
        for _ in 0...ClientStreak.long { _ = note(small) }
        #expect(note(small))
        #expect(!note(try head(opcode: 15, client: 5, readSize: ClientStreak.largeRead + 4096)))
    }

    @Test func whatTheKernelAsksForItselfIsNoClient() throws {
        let streak = Streak()
        let forget = try head(opcode: 2, client: 0)
        let one = try head(client: 5)
        var now: UInt64 = 1
        for _ in 0...ClientStreak.long {
            now += step
            #expect(!streak.note(forget, at: now))
            _ = streak.note(one, at: now)
        }
        #expect(!streak.note(forget, at: now))
        #expect(streak.note(one, at: now + step))
    }
}

@Suite("Waiting for the next request", .timeLimit(.minutes(1)))
struct RequestWaitTests {
    /// Ten minutes: a wait that is not ended by what it waits for fails by the time limit.
    let long: UInt64 = 600_000_000_000

    @Test func aRequestEndsIt() {
        let pipe = Pipe()
        let wait = RequestWait()
        startThread(named: "writer") { pipe.fileHandleForWriting.write(Data([1])) }
        wait.wait(pipe.fileHandleForReading.fileDescriptor, nanoseconds: long)
        #expect(pipe.fileHandleForReading.availableData.count == 1)
        // It may be had again.
        pipe.fileHandleForWriting.write(Data([1]))
        wait.wait(pipe.fileHandleForReading.fileDescriptor, nanoseconds: long)
    }

    @Test func timeEndsIt() {
        let pipe = Pipe()
        RequestWait().wait(pipe.fileHandleForReading.fileDescriptor, nanoseconds: 1_000_000)
    }

    @Test func anEndOfTheMountEndsIt() {
        let pipe = Pipe()
        pipe.fileHandleForWriting.closeFile()
        RequestWait().wait(pipe.fileHandleForReading.fileDescriptor, nanoseconds: long)
    }

    @Test func oneThreadWaitsAtATime() throws {
        final class Shared: Sendable {
            let wait = RequestWait()
            let ended = Atomic(0)
        }
        let pipe = Pipe()
        let shared = Shared()
        let descriptor = pipe.fileHandleForReading.fileDescriptor
        let long = long
        for number in 0..<2 {
            startThread(named: "waits-\(number)") {
                shared.wait.wait(descriptor, nanoseconds: long)
                shared.ended.add(1, ordering: .sequentiallyConsistent)
            }
        }
        // The second one does not wait for what the first one waits for.
        while shared.ended.load(ordering: .sequentiallyConsistent) == 0 { usleep(1000) }
        usleep(20_000)
        #expect(shared.ended.load(ordering: .sequentiallyConsistent) == 1)
        pipe.fileHandleForWriting.write(Data([1]))
        while shared.ended.load(ordering: .sequentiallyConsistent) < 2 { usleep(1000) }
    }
}
