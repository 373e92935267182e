import Glibc
import PosixIO
import TestSupport
import Testing

/// The kernel opens directories and keeps their listings by itself: what follows from a digest it never asks for again, and
/// what can change is always as it is.
@Suite(.needs(.mounting))
struct DirectoryTests {
    init() throws { try Requirement.mounting.orFail() }

    /// Requests of the kernel in the log of `-fuse_debug`, by name, without those that nobody waits for, and without
    /// STATFS, of which find(1) makes one.
    private func requests(_ mount: CrfsMount) -> [String: Int] {
        var counts: [String: Int] = [:]
        for line in mount.logLines(containing: "opcode: ") {
            let name = line.split(separator: "opcode: ").last.map { String($0.prefix { $0 != " " }) } ?? ""
            if !name.contains("FORGET") && name != "INTERRUPT" && name != "STATFS" { counts[name, default: 0] += 1 }
        }
        return counts
    }

    @Test func aSecondWalkOfAnImageAsksForNothing() throws {
        let stage = try Stage(arguments: ["-fuse_debug"])
        let link = try linkTarget(stage.image("corpus/estargz"))
        let root = stage.image("corpus/\(link)")
        let walk = { try runChecked("find", [root, "-printf", "%P %y %m %U %G %s %l\\n"]).text }
        let first = try walk()
        let before = requests(stage.mount)
        #expect(before["READDIRPLUS", default: 0] > 0)
        // The one that told the kernel to open directories by itself.
        #expect(before["OPENDIR"] == 1)
        #expect(before["RELEASEDIR"] == nil)
        for _ in 0..<3 { #expect(try walk() == first) }
        #expect(requests(stage.mount) == before)
    }

    /// Layer files in `layers/local`: more than the kernel asks for at once.
    private func fill(_ directory: String, _ numbers: Range<Int>) throws {
        for number in numbers {
            try writeFile("\(directory)/layer-with-a-long-name-\(number).tar", "no layer \(number)")
        }
    }

    @Test func aListingThatChangesIsNeverTheKernelsOldOne() throws {
        let local = try TemporaryDirectory("local")
        try fill(local.path, 0..<1500)
        let mount = try CrfsMount(local: local.path)
        let listed = mount.path("layers/local")
        #expect(try names(in: listed) == names(in: local.path))
        #expect(try names(in: listed) == names(in: local.path))
        for round in 0..<20 {
            try fill(local.path, 2000 + round..<2001 + round)
            #expect(unsafe unlink("\(local.path)/layer-with-a-long-name-\(round).tar") == 0)
            // Some who look at the beginning only, and leave it to the kernel.
            if round % 3 != 0 {
                guard let stream = unsafe opendir(listed) else { throw SystemError.last("opendir", path: listed) }
                for _ in 0..<400 * (round % 3) { _ = unsafe readdir(stream) }
                unsafe _ = closedir(stream)
            }
            #expect(try names(in: listed) == names(in: local.path), "round \(round)")
        }
        #expect(mount.logLines(containing: "error").isEmpty)
    }

    @Test func whoIsListingWhileItChangesSeesEachOtherNameOnce() throws {
        let local = try TemporaryDirectory("local")
        try fill(local.path, 0..<3000)
        let mount = try CrfsMount(local: local.path)
        let listed = mount.path("layers/local")
        guard let stream = unsafe opendir(listed) else { throw SystemError.last("opendir", path: listed) }
        defer { unsafe _ = closedir(stream) }
        var seen: [String] = []
        var changed = 0
        while let entry = unsafe readdir(stream) {
            // SAFETY: the kernel's record is valid until the next readdir, and its name is terminated.
            seen.append(
                unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                    unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
                }
            )
            // Others list as well, to the end, and names come and go.
            if seen.count % 500 == 100 {
                #expect(unsafe unlink("\(local.path)/layer-with-a-long-name-\(changed).tar") == 0)
                try fill(local.path, 5000 + changed..<5001 + changed)
                changed += 1
                #expect(try names(in: listed) == names(in: local.path))
            }
        }
        #expect(changed > 4)
        #expect(Set(seen).count == seen.count)
        let untouched = Set((changed..<3000).map { "layer-with-a-long-name-\($0).tar" })
        #expect(untouched.subtracting(seen).isEmpty)
    }

    /// With a freshness of 0 as well: there, who waited for a listing found it too old when it came, and asked for ever.
    @Test func aTagIsListedOnceItIsKnown() throws {
        let stage = try Stage(arguments: ["--tag-ttl", "0"])
        let repository = stage.image("corpus")
        #expect(try names(in: repository).contains("estargz"))
        try stage.registry.pushCorpus("stargz-legacy")
        #expect(try waitUntil { try names(in: repository).contains("stargz-legacy") })
        // A digest is listed from when it is used.
        let digest = try linkTarget(stage.image("corpus/stargz-legacy"))
        try look(stage.image("corpus/\(digest)"))
        #expect(try names(in: repository).contains(digest))
    }
}
