import Glibc
import PosixIO
import Testing

@testable import FuseBridge

@Suite struct `Mount options` {
    @Test func `by default a mount is read-only, without set-user-id and devices`() {
        let arguments = FuseOptions(mountPoint: "/m").arguments
        #expect(arguments == ["crfs", "-o", "fsname=crfs,subtype=crfs,ro,nosuid,nodev"])
    }

    @Test func `each option is passed on`() {
        let options = FuseOptions(
            mountPoint: "/m",
            allowOther: true,
            defaultPermissions: true,
            suid: true,
            dev: true,
            readOnly: false,
            debug: true
        )
        #expect(
            options.arguments.last
                == "fsname=crfs,subtype=crfs,rw,suid,dev,allow_other,default_permissions,debug"
        )
    }

    @Test func `a comma in the source's name does not start another option`() {
        let options = FuseOptions(mountPoint: "/m", fsName: "a,allow_other\\b")
        #expect(options.arguments.last?.hasPrefix("fsname=a\\,allow_other\\\\b,subtype=crfs,") == true)
    }
}

@Suite struct `Mount table` {
    private static let text = """
        22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
        40 22 0:39 / /mnt/with\\040space\\134\\011x ro,nosuid,nodev - fuse.crfs a,b\\134c ro,user_id=0
        41 22 0:40 / /mnt/twice rw master:3 propagate_from:2 - tmpfs tmpfs rw
        42 22 0:41 / /mnt/twice ro - fuse.crfs crfs ro
        malformed
        43 22 0:42 / /mnt/short -

        """

    @Test func `lines are read with optional fields and escapes`() throws {
        let table = MountTable(text: Self.text)
        #expect(table.entries.map(\.device) == ["254:0", "0:39", "0:40", "0:41"])
        let entry = try #require(table.top(at: "/mnt/with space\\\tx"))
        #expect(entry.type == "fuse.crfs")
        #expect(entry.source == "a,b\\c")
    }

    @Test func `the mount on top counts`() {
        #expect(MountTable(text: Self.text).top(at: "/mnt/twice")?.device == "0:41")
        #expect(MountTable(text: Self.text).top(at: "/mnt") == nil)
    }

    @Test(arguments: [("a\\", "a\\"), ("\\04", "\\04"), ("\\0409", " 9"), ("\\777", "\\777"), ("\\08 ", "\\08 ")])
    func `what is no escape stays`(field: String, expected: String) {
        #expect(MountEntry.unescaped(field[...]) == expected)
    }

    @Test func `this process's own table has proc`() throws {
        #expect(try MountTable.current().top(at: "/proc")?.type == "proc")
    }
}

@Suite struct `Mount points` {
    private func kind(_ body: () throws(FuseError) -> Void) -> FuseError.Kind? {
        do throws(FuseError) {
            try body()
            return nil
        } catch {
            return error.kind
        }
    }

    @Test func `one that is missing, a file, or taken already is refused by name`() throws {
        let empty = MountTable(text: "")
        #expect(kind { () throws(FuseError) in _ = try MountChecks.mountPoint("/none/such", in: empty) } == .missing)
        #expect(
            kind { () throws(FuseError) in _ = try MountChecks.mountPoint("/etc/passwd", in: empty) } == .notADirectory
        )
        let taken = MountTable(text: "42 22 0:41 / /etc ro - fuse.crfs crfs ro")
        #expect(kind { () throws(FuseError) in _ = try MountChecks.mountPoint("/etc", in: taken) } == .alreadyMounted)
        #expect(try MountChecks.mountPoint("/etc/../etc/", in: empty) == "/etc")
    }

    @Test func `slashes in the end are taken off before a mount that may be dead is named`() throws {
        #expect(try resolvedPath("/etc///") == "/etc")
        #expect(try resolvedPath("//") == "/")
    }

    @Test func `what only root may ask for is refused before libfuse is asked`() throws {
        var options = FuseOptions(mountPoint: "/m", allowOther: true)
        try MountChecks.permissions(options, isRoot: true, configuration: nil)
        let check = { (options: FuseOptions, configuration: String?) -> FuseError.Kind? in
            kind { () throws(FuseError) in
                try MountChecks.permissions(options, isRoot: false, configuration: configuration)
            }
        }
        #expect(check(options, nil) == .notPermitted)
        #expect(check(options, "#user_allow_other\n") == .notPermitted)
        #expect(check(options, "mount_max = 5\n user_allow_other \n") == nil)
        options = FuseOptions(mountPoint: "/m", suid: true)
        #expect(check(options, "user_allow_other") == .notPermitted)
    }

    @Test func `unmounting says what is there instead`() {
        #expect(kind { () throws(FuseError) in try unmount(path: "/none/such") } == .missing)
        #expect(kind { () throws(FuseError) in try unmount(path: "/usr/bin") } == .notMounted)
        #expect(kind { () throws(FuseError) in try unmount(path: "/proc") } == .foreign)
    }

    @Test func `a helper program's complaints are collected`() throws {
        let result = try runCapturingErrors(["sh", "-c", "echo one >&2; echo two >&2; exit 3"])
        #expect(result.errors == "one; two")
        #expect(result.status == 3 << 8)
        #expect(throws: SystemError.self) { _ = try runCapturingErrors(["no-such-program-of-crfs"]) }
    }
}

@Suite struct `Pending signals` {
    private func status(
        state: String = "S (sleeping)",
        pending: UInt64 = 0,
        shared: UInt64 = 0,
        caught: UInt64 = 0,
        tracer: Int = 0
    ) -> PendingSignals {
        PendingSignals(
            status: """
                Name:\tcat
                State:\t\(state)
                TracerPid:\t\(tracer)
                SigPnd:\t\(String(pending, radix: 16))
                ShdPnd:\t\(String(shared, radix: 16))
                SigBlk:\t0000000000000000
                SigIgn:\t0000000000000000
                SigCgt:\t\(String(caught, radix: 16))
                """
        )
    }

    @Test func `SIGKILL for the thread or the process ends it`() {
        #expect(status(pending: 0x100).isDying)
        #expect(status(shared: 0x100).isDying)
        #expect(status(pending: 0x100, tracer: 5).isDying)
    }

    @Test func `what has a handler, stops, continues or is nothing does not`() {
        let alarm: UInt64 = 1 << 13
        #expect(!status().isDying)
        #expect(!status(shared: alarm, caught: alarm).isDying)
        #expect(!status(pending: 1 << 18 | 1 << 17).isDying)
    }

    @Test func `a core dump ends it, unless it is handled or a debugger decides`() {
        let quit: UInt64 = 1 << 2
        #expect(status(shared: quit).isDying)
        #expect(!status(shared: quit, caught: quit).isDying)
        #expect(!status(shared: quit, tracer: 5).isDying)
    }

    @Test func `a thread that is gone is dying, this one is not`() {
        #expect(status(state: "Z (zombie)").isDying)
        #expect(!PendingSignals(thread: getpid()).isDying)
        #expect(PendingSignals(thread: .max).isDying)
    }

    @Test func `text that is none of it counts as no signal`() {
        #expect(!PendingSignals(status: "").isDying)
        #expect(!PendingSignals(status: "SigPnd:\tzz\nState\nShdPnd:").isDying)
    }
}
