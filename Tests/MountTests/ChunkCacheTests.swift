import Glibc
import OCIModel
import PosixIO
import TestSupport
import Testing

/// The cache of contents on disk, as a mount uses it.
@Suite(.needs(.mounting))
struct ChunkCacheTests {
    private let big = "usr/lib/big.bin"

    init() throws { try Requirement.mounting.orFail() }

    /// The image by its digest, below a mount.
    private func byDigest(_ registry: RegistryServer, _ mount: CrfsMount) throws -> String {
        let digest = try linkTarget(mount.path("images/\(registry.host)/corpus/estargz"))
        return "images/\(registry.host)/corpus/\(digest)"
    }

    private func segments(_ cache: String) -> [String] {
        namesInDirectory("\(cache)/chunks").map { "\(cache)/chunks/\($0)" }
    }

    /// Whether the first megabyte of the cache has the record of a file that is one chunk, by its digest, where whoever opens
    /// the cache finds it: with nothing but whole records before it (docs/cache-format.md). Two threads write, and what stands
    /// behind a record that is not written yet is lost by a kill.
    private func hasRecord(_ cache: String, of file: Reader.Outcome) -> Bool {
        guard case .read(_, let hex) = file, let digest = Digest("sha256:\(hex)") else { return false }
        let wanted = (0..<32).map { digest[$0] }
        for path in segments(cache) {
            guard let segment = try? Descriptor.open(path) else { continue }
            var bytes = [UInt8](repeating: 0, count: 1 << 20)
            _ = unsafe bytes.withUnsafeMutableBytes { try? unsafe segment.read(into: $0, at: 0) }
            var at = 64
            while at + 80 <= bytes.count, Array(bytes[at..<at + 4]) == Array("crfR".utf8) {
                if Array(bytes[at + 32..<at + 64]) == wanted { return true }
                let body = (0..<4).reduce(0) { $0 | Int(bytes[at + 20 + $1]) << (8 * $1) }
                at += (80 + body + 7) / 8 * 8
            }
        }
        return false
    }

    @Test func whatWasReadIsThereAfterKillMinus9AndWithoutTheRegistry() throws {
        let registry = try RegistryServer()
        try registry.pushCorpus("estargz")
        let cache = try TemporaryDirectory("cache")
        let first = try CrfsMount(cache: cache.path)
        let image = try byDigest(registry, first)
        let files = ["etc/hosts", "usr/share/doc/p0/file0.txt", "usr/share/doc/p3/file7.txt"]
        let expected = try files.map { try fingerprint(first.path("\(image)/\($0)")) }
        // A reader is answered before its chunk is packed and written.
        for outcome in expected { #expect(waitUntil { hasRecord(cache.path, of: outcome) }) }
        first.process.kill()
        first.stop()
        registry.stop()

        let second = try CrfsMount(cache: cache.path, arguments: ["--deadline", "5"])
        for (file, outcome) in zip(files, expected) {
            #expect(try fingerprint(second.path("\(image)/\(file)")) == outcome)
        }
        // What was never asked for is not there: the registry really is gone.
        let unknown = second.path("images/\(registry.host)/corpus/never-asked-for")
        #expect(errorNumber { () throws(SystemError) in try look(unknown) } != nil)
    }

    @Test func aSegmentThatIsCutBehindTheDaemonsBackCostsAFetch() throws {
        let stage = try Stage()
        let other = try Stage()
        let expected = try fingerprint(other.image("corpus/estargz/\(big)"))
        let file = stage.image("corpus/estargz/\(big)")
        _ = try runChecked("dd", ["if=\(file)", "of=/dev/null", "bs=4096", "count=1"])
        #expect(waitUntil { !segments(stage.mount.cache).isEmpty })
        for path in segments(stage.mount.cache) { try Descriptor.open(path, O_RDWR).truncate(to: 0) }
        #expect(try fingerprint(file) == expected)
        #expect(stage.mount.process.isRunning)
    }

    @Test func withoutACacheOnDiskContentsAreInMemory() throws {
        let stage = try Stage(arguments: ["--cache-size", "0"])
        #expect(try text(of: stage.image("corpus/estargz/etc/hosts")) == "127.0.0.1 localhost\n")
        _ = try fingerprint(stage.image("corpus/estargz/\(big)"))
        #expect(segments(stage.mount.cache).isEmpty)
    }

    @Test func aBoundThatIsTooSmallIsAUsageError() throws {
        let result = try CrfsProgram.run(["mount", "--cache-size", "1MiB", "/nowhere"])
        #expect(result.status == .exited(2))
        #expect(result.errorText.contains("--cache-size"))
    }
}
