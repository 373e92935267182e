import CFuse3
import CShims
import Glibc
import ImageFS
import PosixIO
import Testing

@testable import FuseBridge

@Suite struct `INIT reply` {
    @Test func `asks for parallel directory operations where the kernel offers them`() throws {
        let wire = try Wire()
        let chosen = try wire.initialise(flags: Wire.parallelDirops | 1)
        #expect(chosen & Wire.parallelDirops != 0)
        let served = try #require(wire.served)
        #expect(served.chosen == chosen)
        #expect(served.offered & Wire.parallelDirops != 0)
    }

    @Test func `does not ask for what is not offered`() throws {
        let wire = try Wire()
        #expect(try wire.initialise(flags: 1) & Wire.parallelDirops == 0)
        #expect(wire.served != nil)
    }

    @Test func `does not ask for what is not wanted`() throws {
        let wire = try Wire(wantsParallelLookups: false)
        #expect(try wire.initialise(flags: Wire.parallelDirops | 1) & Wire.parallelDirops == 0)
    }

    @Test func `keeps the upper half of the offered flags`() throws {
        let wire = try Wire()
        try wire.initialise(flags: 1 << 37)
        #expect(try #require(wire.served).offered & (1 << 37) != 0)
    }

    @Test func `is edited only once`() throws {
        var table = fuse_lowlevel_ops()
        unsafe table.getattr = { request, _, _ in
            guard let request = unsafe request else { return }
            unsafe Reply(request).bytes([UInt8](repeating: 0, count: 64))
        }
        let wire = try Wire(table)
        try wire.initialise(flags: Wire.parallelDirops)
        // The same number and size as the INIT reply.
        try wire.send(.getattr, unique: 2, [UInt8](repeating: 0, count: 16))
        #expect(try wire.receive() == .init(unique: 2, error: 0, body: [UInt8](repeating: 0, count: 64)))
    }

    @Test func `wants only what is offered, and never what makes readers unkillable`() {
        var connection = fuse_conn_info()
        connection.capable = UInt32(FUSE_CAP_POSIX_ACL | FUSE_CAP_ASYNC_DIO | FUSE_CAP_WRITEBACK_CACHE)
        connection.want = .max
        var settings = KernelSettings()
        settings.maxBackground = 100_000
        Negotiation.apply(settings, to: &connection)
        #expect(connection.want == UInt32(FUSE_CAP_POSIX_ACL))
        #expect(connection.max_background == 65535)
        #expect(connection.max_write == 1 << 20)
    }

    @Test func `each kernel setting can be turned off`() {
        var settings = KernelSettings()
        let words = [
            ("read-ahead", "128"), ("max-background", "12"), ("request", "128"),
            ("parallel", "off"),
            ("directories", "asked"), ("attributes", "never"), ("links", "off"), ("missing", "off"), ("acl", "off"),
        ]
        for (name, value) in words {
            let before = settings
            let isKnown = settings.change(name, value)
            #expect(isKnown, "\(name)")
            #expect(settings != before, "\(name)")
        }
        var connection = fuse_conn_info()
        connection.capable = .max
        Negotiation.apply(settings, to: &connection)
        #expect(connection.want == UInt32(FUSE_CAP_ASYNC_READ))
        #expect(connection.max_background == 12)
        #expect(connection.max_write == 128 << 10)
        #expect(settings.readAheadKiB == 128 && !settings.keepsMissing && settings.directories == .asked)
        let unchanged = settings
        for (name, value) in [("links", "1"), ("request", "big"), ("directories", "none"), ("new", "on")] {
            let isKnown = settings.change(name, value)
            #expect(!isKnown, "\(name)=\(value)")
        }
        #expect(settings == unchanged)
    }
}

/// A request that would change something, in its shortest form.
struct ModifyingRequest: Sendable {
    let opcode: Wire.Opcode
    let body: [UInt8]

    init(_ opcode: Wire.Opcode, zeros: Int, _ text: String = "") {
        self.opcode = opcode
        body = [UInt8](repeating: 0, count: zeros) + Array(text.utf8)
    }

    init(openFlags: CInt) {
        opcode = .open
        body = littleEndian(openFlags) + [0, 0, 0, 0]
    }
}

private let modifyingRequests: [ModifyingRequest] = [
    .init(.mkdir, zeros: 8, "d\0"),
    .init(.mknod, zeros: 16, "p\0"),
    .init(.unlink, zeros: 0, "f\0"),
    .init(.rmdir, zeros: 0, "d\0"),
    .init(.symlink, zeros: 0, "l\0t\0"),
    .init(.rename, zeros: 8, "a\0b\0"),
    .init(.link, zeros: 8, "l\0"),
    .init(.setattr, zeros: 88),
    .init(.create, zeros: 16, "f\0"),
    .init(.write, zeros: 40),
    .init(.setxattr, zeros: 8, "user.x\0"),
    .init(.removexattr, zeros: 0, "user.x\0"),
    .init(.fallocate, zeros: 32),
    .init(openFlags: O_RDWR),
    .init(openFlags: O_WRONLY),
    .init(openFlags: O_TRUNC),
]

@Suite struct `Replies` {
    @Test func `a dropped request answers EIO`() throws {
        var table = fuse_lowlevel_ops()
        unsafe table.getattr = { request, _, _ in
            guard let request = unsafe request else { return }
            _ = unsafe Reply(request)
        }
        let wire = try Wire(table)
        try wire.initialise(flags: 0)
        try wire.send(.getattr, unique: 4, [UInt8](repeating: 0, count: 16))
        #expect(try wire.receive() == .init(unique: 4, error: EIO, body: []))
        #expect(try wire.receive() == nil)
    }

    @Test(arguments: modifyingRequests)
    func `what modifies is EROFS, also where the kernel lets it through`(request: ModifyingRequest) throws {
        var table = makeOperations()
        unsafe table.`init` = nil
        let wire = try Wire(table)
        try wire.initialise(flags: 0)
        try wire.send(request.opcode, unique: 6, node: 5, request.body)
        #expect(try wire.receive() == .init(unique: 6, error: EROFS, body: []))
    }

    @Test func `a negative entry has node 0 and its time-out, so that the kernel keeps it`() throws {
        var table = fuse_lowlevel_ops()
        unsafe table.lookup = { request, _, _ in
            guard let request = unsafe request else { return }
            let entry = Entry(node: .none, attributes: nil, entryTimeout: 12.5, attributeTimeout: 0)
            _ = unsafe Reply(request).entry(entry)
        }
        let wire = try Wire(table)
        try wire.initialise(flags: 0)
        try wire.send(.lookup, unique: 8, Array("name\0".utf8))
        let answer = try #require(try wire.receive())
        #expect(answer.error == 0)
        #expect(number(answer.body, at: 0, size: 8) == 0)
        #expect(number(answer.body, at: 16, size: 8) == 12)
        #expect(number(answer.body, at: 32, size: 4) == 500_000_000)
    }
}

@Suite struct `Parked requests` {
    /// A wire with one request taken and kept by the test.
    private func keptRequest(thread: pid_t = 0) throws -> Wire {
        var table = fuse_lowlevel_ops()
        unsafe table.getattr = { request, _, _ in
            guard let request = unsafe request else { return }
            unsafe Wire.of(request)?.kept = Reply(request)
        }
        let wire = try Wire(table)
        try wire.initialise(flags: 0)
        try wire.send(.getattr, unique: 10, thread: thread, [UInt8](repeating: 0, count: 16))
        try #require(try wire.receive() == nil)
        return wire
    }

    private func park(_ wire: Wire, _ lot: ParkingLot, _ completion: Completion) throws -> ParkedRequest {
        let request = try #require(lot.enter(callerThread: 0, operation: .attributes(.root)))
        guard let reply = wire.kept.take() else {
            Issue.record("nothing was kept")
            return request
        }
        request.park(reply, .attributes(.root), on: completion) { [id = request.id] in
            guard let request = lot.request(id), var taken = request.take() else { return }
            taken.reply.take()?.error(0)
            lot.leave(id)
        }
        return request
    }

    @Test func `are answered when their completion is finished, and only then`() throws {
        let wire = try keptRequest()
        let lot = ParkingLot()
        let completion = Completion()
        _ = try park(wire, lot, completion)
        #expect(try wire.receive() == nil)
        completion.finish()
        #expect(try wire.receive() == .init(unique: 10, error: 0, body: []))
        #expect(lot.count == 0)
    }

    @Test func `are answered at once when their completion is finished already`() throws {
        let wire = try keptRequest()
        let lot = ParkingLot()
        let completion = Completion()
        completion.finish()
        _ = try park(wire, lot, completion)
        #expect(try wire.receive() == .init(unique: 10, error: 0, body: []))
        #expect(lot.count == 0)
    }

    @Test func `go to one taker, and the completion then has nobody to call`() throws {
        let wire = try keptRequest()
        let lot = ParkingLot()
        let completion = Completion()
        let request = try park(wire, lot, completion)
        for _ in 0..<2 {
            if var taken = request.take() { taken.reply.take()?.error(EINTR) }
        }
        completion.finish()
        #expect(try wire.receive() == .init(unique: 10, error: EINTR, body: []))
        #expect(try wire.receive() == nil)
    }

    @Test func `are answered when the session ends, and no more come in`() throws {
        let wire = try keptRequest()
        let lot = ParkingLot()
        _ = try park(wire, lot, Completion())
        lot.close(answering: ENOTCONN)
        #expect(try wire.receive() == .init(unique: 10, error: ENOTCONN, body: []))
        let late = lot.enter(callerThread: 1, operation: .attributes(.root))
        #expect(late == nil)
    }

    @Test func `hear of an INTERRUPT that came before they were parked`() throws {
        let wire = try keptRequest(thread: 4711)
        try wire.send(.interrupt, unique: 11, littleEndian(UInt64(10)))
        #expect(wire.interrupts.isEmpty)
        listen(wire, 77)
        #expect(wire.interrupts == [77])
        #expect(wire.kept?.callerThread == 4711)
    }

    @Test func `hear of an INTERRUPT that comes later`() throws {
        let wire = try keptRequest()
        listen(wire, 78)
        #expect(wire.interrupts.isEmpty)
        try wire.send(.interrupt, unique: 11, littleEndian(UInt64(10)))
        #expect(wire.interrupts == [78])
    }

    private func listen(_ wire: Wire, _ id: UInt64) {
        unsafe wire.kept?.onInterrupt(id) { request, id in
            unsafe Wire.of(request)?.interrupts.append(UInt64(UInt(bitPattern: id)))
        }
    }
}

@Suite struct `Interrupt watch` {
    @Test func `looks at once, and again until it is told to stop`() {
        let watch = InterruptWatch()
        defer { watch.close() }
        let looks = Monitor([UInt64: Int]())
        let check: @Sendable (UInt64) -> Bool = { id in
            looks.withLock { looks in
                looks[id, default: 0] += 1
                return looks[id] != Int(id)
            }
        }
        watch.add(1, check: check)
        watch.add(3, check: check)
        looks.wait { $0 == [1: 1, 3: 3] ? () : nil }
        // The thread that had nothing left to watch takes up new ones.
        watch.add(2, check: check)
        looks.wait { $0 == [1: 1, 2: 2, 3: 3] ? () : nil }
    }
}
