import Glibc
import PosixIO
import TestSupport
import Testing

/// Streams of plain layers that are cut: by the end of the daemon, by a mirror that goes away.
@Suite(.needs(.mounting))
struct PlainResumeTests {
    init() throws { try Requirement.mounting.orFail() }

    /// A layer of some 60 MB in a registry: its digest and its size. Its files are in `root` of the directory.
    private func push(_ registry: RegistryServer, _ directory: borrowing TemporaryDirectory) throws -> (
        hex: String, size: Int
    ) {
        let root = try directory.makeDirectory("root")
        for number in 0..<4 {
            let script = "head -c 12000000 /dev/urandom | base64 -w 0 > \"$1\""
            try runChecked("sh", ["-c", script, "sh", "\(root)/\(number)"])
            try writeFile("\(root)/small\(number)", "small \(number)\n")
        }
        let script = "tar -c --sort=name -C \"$1\" . | gzip -1 -n > \"$2\""
        try runChecked("sh", ["-c", script, "sh", root, directory.file("l.tar.gz")])
        try ImageLayout.make(directory.file("layout"), tag: "large", layers: [directory.file("l.tar.gz")])
        try registry.push(layout: directory.file("layout"), tag: "large", to: "app:large")
        let hex = try #require(try ImageLayout(directory.file("layout")).layerHexes.first)
        return (hex, try Int(FileStatus(directory.file("l.tar.gz")).size))
    }

    private func expectFiles(_ mounted: String, _ root: String) throws {
        for number in 0..<4 {
            #expect(try fingerprint("\(mounted)/\(number)") == fingerprint("\(root)/\(number)"))
            #expect(try text(of: "\(mounted)/small\(number)") == "small \(number)\n")
        }
    }

    @Test func aKilledDaemonGoesOnInTheMiddle() throws {
        let registry = try RegistryServer()
        let files = try TemporaryDirectory("resume")
        let layer = try push(registry, files)
        let proxy = try FaultProxy(upstream: registry.host)
        let cache = try TemporaryDirectory("cache")
        let path = "images/\(proxy.host)/app/large"
        let layers = "\(cache.path)/layers"
        let journal = "\(layers)/sha256-\(layer.hex).part"
        // 10 MB/s: killed each time after more was saved than before.
        try proxy.use(
            FaultProxy.Rule("slow", match: "/blobs/sha256:\(layer.hex)", bytes: 200_000, everyMilliseconds: 20)
        )
        var saved: UInt64 = 0
        for round in 0..<2 {
            let mount = try CrfsMount(cache: cache.path)
            let lister = try BackgroundProcess("ls", [mount.path("\(path)/")], log: "\(cache.path).ls\(round)")
            #expect(waitUntil(seconds: 60) { (try? FileStatus(journal).size).map { $0 > saved } ?? false })
            saved = try FileStatus(journal).size
            mount.process.kill()
            mount.stop()
            _ = lister.wait()
            #expect(!namesInDirectory(layers).contains { $0.hasSuffix(".idx") || $0.hasSuffix(".rst") })
        }
        try proxy.use()
        let mount = try CrfsMount(cache: cache.path)
        try expectFiles(mount.path(path), files.file("root"))
        #expect(!namesInDirectory(layers).contains { $0.hasSuffix(".part") })
        #expect(mount.logLines(containing: "goes on at byte").count == 1)
        // What was asked for up to the end of the blob: where each stream began. The footer is looked for before.
        let ends = try proxy.requests().filter { $0.path.contains(layer.hex) }.compactMap { request in
            request.range.flatMap { range -> Int? in
                let bounds = range.dropFirst("bytes=".count).split(separator: "-").compactMap { Int($0) }
                return bounds.count == 2 && bounds[1] == layer.size - 1 ? bounds[0] : nil
            }
        }
        let starts = ends.filter { $0 < layer.size * 9 / 10 }
        #expect(starts.count == 3, "\(ends)")
        #expect(starts.first == 0)
        for (before, after) in zip(starts, starts.dropFirst()) { #expect(before < after, "\(starts)") }
    }

    @Test func aMirrorThatGoesAwayInTheMiddleIsReplacedByTheRegistry() throws {
        let registry = try RegistryServer()
        let files = try TemporaryDirectory("resume")
        let layer = try push(registry, files)
        let mirror = try FaultProxy(upstream: registry.host)
        let keep = layer.size / 3
        let blob = "/blobs/sha256:\(layer.hex)"
        let directory = try TemporaryDirectory("hosts")
        let name = registry.host.split(separator: ":").joined(separator: "_") + "_"
        let hosts = try directory.makeDirectory("certs.d/\(name)")
        try writeFile(
            "\(hosts)/hosts.toml",
            "server = \"http://\(registry.host)\"\n[host.\"http://\(mirror.host)\"]\ncapabilities = [\"pull\"]\n"
        )
        try mirror.use(FaultProxy.Rule("cut", match: blob, keep: keep), FaultProxy.Rule("refuse", match: "/v2/$"))
        let mount = try CrfsMount(arguments: ["--hosts-dir", directory.file("certs.d")])
        try expectFiles(mount.path("images/\(registry.host)/app/large"), files.file("root"))
        // Of the registry itself, which the mirror asks with `ns`, only the rest was asked for.
        let own = registry.requests(containing: "GET", blob, " 206 ").filter { !$0.contains("ns=") }
        #expect(own.contains { $0.contains(" 206 \(layer.size - keep) ") }, "\(own)")
        #expect(mount.logLines(containing: "once more").isEmpty)
    }
}
