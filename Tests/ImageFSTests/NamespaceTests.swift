import Glibc
import OCIModel
import PosixIO
import Synchronization
import Testing

@testable import ImageFS

@Suite("Nodes above the digests")
struct NamespaceTests {
    @Test("inode numbers follow from the place, with the upper 8 bits 0 and apart from all trees")
    func inodes() {
        let places =
            (0..<10_000).map { "images/host.example/repository/tag\($0)" } + ["layers", "images", "layers/local"]
        let inodes = Set(places.map { NamespaceNode.inode(ofPlace: $0) })
        #expect(inodes.count == places.count)
        for inode in inodes {
            #expect(inode >> 56 == 0 && inode >> 55 == 1)
        }
        #expect(NamespaceNode.inode(ofPlace: "") == 1)
        let largest = Tree.nodeID(NumberTable.limit - 1, 0x0fff_ffff).rawValue
        #expect(largest >> 55 == 0)
    }

    @Test("a node lives from its first look-up to its last forget, and its number never comes back")
    func lifetime() {
        let table = NamespaceTable()
        let first = table.lookUp("images", .view(.images))
        let same = table.lookUp("images", .view(.images))
        #expect(first === same)
        table.forget(first.id, count: 1)
        #expect(table.node(first.id) === first)
        table.forget(first.id, count: 1)
        #expect(table.node(first.id) == nil)
        let again = table.lookUp("images", .view(.images))
        #expect(again.id != first.id && again.inode == first.inode)
        table.forget(NodeID.root.rawValue.asID, count: 5)
        #expect(table.node(1) === table.root)
    }

    @Test("a tag that moves is another node, because the kernel keeps the text of a symlink")
    func movedTag() {
        let table = NamespaceTable()
        let before = table.lookUp("images/h/r/t", .symlink(Array("sha256-a".utf8)))
        let after = table.lookUp("images/h/r/t", .symlink(Array("sha256-b".utf8)))
        #expect(before.id != after.id)
        #expect(before.inode == after.inode)
    }

    @Test("a listing goes on by a name's own number: whatever comes and goes, all other names come once")
    func cookies() {
        let items = { (numbers: any Sequence<Int>) in
            Listing(
                items: numbers.map { Listing.Item(name: Array("tag-\($0)".utf8), inode: UInt64($0), type: S_IFLNK) }
            )
        }
        let first = items(0..<5000)
        let half = Array(first.items.prefix(2500))
        // A third of the names went, others came.
        let second = items((0..<5000).filter { $0 % 3 != 0 } + Array(9000..<9500))
        let rest = second.items(after: half.last!.cookie)
        let seen = half.map(\.inode) + rest.map(\.inode)
        #expect(Set(seen).count == seen.count)
        for number in 0..<5000 where number % 3 != 0 { #expect(seen.contains(UInt64(number))) }
        #expect(first.items.allSatisfy { $0.cookie > 2 && $0.cookie < 1 << 63 })
        #expect(first.items(after: 0).count == 5000 && first.items(after: first.items.last!.cookie).isEmpty)
    }

    @Test("names whose numbers would be the same are told apart")
    func equalCookies() {
        let name = Array("tag".utf8)
        let listing = Listing(items: (1...3).map { Listing.Item(name: name, inode: $0, type: S_IFLNK) })
        #expect(Set(listing.items.map(\.cookie)).count == 3)
        #expect(listing.items(after: listing.items[0].cookie).map(\.inode) == [2, 3])
    }

    @Test("percent sequences stand for printable ASCII only")
    func percent() {
        #expect("host%3A5000".percentDecoded == "host:5000")
        #expect("a%2fb%2Fc".pathOfEscapedSlashes == "a/b/c")
        #expect("plain".pathOfEscapedSlashes == nil)
        #expect("%00%zz%4".percentDecoded == "%00%zz%4")
    }

    @Test(
        "Google Cloud project names",
        arguments: [
            ("my-project", true), ("abcdef", true), ("abcde", false), ("1abcdef", false), ("abcdef-", false),
            ("Abcdef", false), (String(repeating: "a", count: 30), true), (String(repeating: "a", count: 31), false),
        ]
    )
    func projects(name: String, isValid: Bool) {
        #expect(GCRProject.isValid(name) == isValid)
    }

    @Test("a layer that a manifest repeats counts once, at its topmost place")
    func repeatedLayers() throws {
        func layer(_ digit: Character) -> String {
            let digest = "sha256:" + String(repeating: digit, count: 64)
            return "{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"\(digest)\",\"size\":1}"
        }
        let json = "{\"schemaVersion\":2,\"layers\":[\(layer("1")),\(layer("2")),\(layer("1")),\(layer("3"))]}"
        guard case .image(let manifest) = try ManifestDocument(json: Array(json.utf8), mediaType: nil) else {
            Issue.record("not an image")
            return
        }
        #expect(manifest.distinctLayers.map(\.digest.hex.first) == ["2", "1", "3"])
    }
}

extension UInt64 {
    fileprivate var asID: UInt32 { UInt32(self) }
}

@Suite("Single flight by key")
struct LoaderTests {
    @Test("any number of questions start one task, and see its value")
    func one() async throws {
        let loader = Loader<String, Int>()
        let gate = Completion()
        let runs = Counter()
        let work: @Sendable () async throws(FSError) -> Int = {
            runs.add()
            await gate.wait()
            return 7
        }
        for _ in 0..<10 {
            guard case .loading = loader.value("key", work) else {
                Issue.record("not loading")
                return
            }
        }
        gate.finish()
        #expect(try await loader.awaitValue("key", work) == 7)
        #expect(runs.value == 1)
        loader.forget("key")
        #expect(try await loader.awaitValue("key", work) == 7)
        #expect(runs.value == 2)
    }

    @Test("those who waited for a failure see it instead of starting the next flight")
    func failure() async throws {
        let loader = Loader<String, Int>(failureNanoseconds: .max)
        let runs = Counter()
        let failing: @Sendable () async throws(FSError) -> Int = { () throws(FSError) in
            runs.add()
            throw FSError(errno: ETIMEDOUT)
        }
        guard case .loading(let completion) = loader.value("key", failing) else {
            Issue.record("not loading")
            return
        }
        await completion.wait()
        guard case .failed(let error) = loader.value("key", failing) else {
            Issue.record("the failure is gone")
            return
        }
        #expect(error == FSError(errno: ETIMEDOUT))
        #expect(runs.value == 1)
    }

    @Test("a question after a failure tries again")
    func recovery() async throws {
        let loader = Loader<String, Int>(failureNanoseconds: 0)
        guard case .loading(let completion) = loader.value("key", { () throws(FSError) in throw FSError(errno: EIO) })
        else {
            Issue.record("not loading")
            return
        }
        await completion.wait()
        #expect(try await loader.awaitValue("key") { () throws(FSError) in 5 } == 5)
    }
}

private final class Counter: Sendable {
    private let count = Atomic(0)
    func add() { count.add(1, ordering: .relaxed) }
    var value: Int { count.load(ordering: .relaxed) }
}
