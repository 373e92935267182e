import Glibc
import PosixIO
import TestSupport
import Testing

/// `crfs mount --metrics`.
@Suite(.needs(.mounting))
struct MetricsTests {
    init() throws { try Requirement.mounting.orFail() }

    private func get(_ address: String, _ path: String = "/metrics", _ options: [String] = []) throws -> ProcessResult {
        try run("curl", ["-sS", "-i", "--max-time", "20"] + options + ["http://\(address)\(path)"])
    }

    @Test func theNumbersOfStatusAreMetrics() throws {
        let address = "127.0.0.1:\(freePort())"
        let stage = try Stage(arguments: ["--metrics", address])
        try expectTree(stage.image("corpus/estargz"), is: "merged", flags: ["--native"] + tocFlags)
        let answer = try get(address).text
        #expect(answer.hasPrefix("HTTP/1.1 200 OK\r\n"))
        #expect(answer.contains("Content-Type: text/plain; version=0.0.4"))
        let parts = answer.split(separator: "\r\n\r\n", maxSplits: 1)
        let body = try #require(parts.last)
        // Every line is a comment or a sample, and the samples of a metric stand together.
        var seen: [Substring] = []
        for line in body.split(separator: "\n") {
            if line.hasPrefix("# TYPE crfs_") { continue }
            let name = line.prefix { $0.isLetter || $0.isNumber || $0 == "_" }
            #expect(name.hasPrefix("crfs_"), "\(line)")
            #expect(Double(line.split(separator: " ").last ?? "") != nil, "\(line)")
            if seen.last != name {
                #expect(!seen.contains(name), "\(name) is in two places")
                seen.append(name)
            }
        }
        func value(_ sample: String) -> Double? {
            let line = body.split(separator: "\n").first { $0.hasPrefix(sample + " ") }
            return line?.split(separator: " ").last.flatMap { Double($0) }
        }
        #expect((value("crfs_network_content_bytes") ?? 0) > 100_000)
        #expect((value("crfs_store_hits") ?? 0) > 0)
        #expect(value("crfs_mounts_waits_now{point=\"\(stage.mount.point)\"}") != nil)
        #expect(body.contains(",up_to_milliseconds=\"+Inf\"} "))
        #expect(body.contains("crfs_info{version="))
        // A second look counts on.
        #expect(try get(address).isSuccess)
    }

    @Test func whatIsNoScrapeDisturbsNobody() throws {
        let address = "127.0.0.1:\(freePort())"
        let mount = try CrfsMount(arguments: ["--metrics", address])
        #expect(try get(address, "/").text.hasPrefix("HTTP/1.1 404"))
        #expect(try get(address, "/metrics", ["-X", "POST"]).text.hasPrefix("HTTP/1.1 405"))
        #expect(try get(address, "/metrics?x=y").text.hasPrefix("HTTP/1.1 200"))
        let port = address.split(separator: ":")[1]
        // One says nothing, one says too much.
        let silent = try BackgroundProcess(
            "bash",
            ["-c", "exec 3<>/dev/tcp/127.0.0.1/\(port); sleep 60"],
            log: "/dev/null"
        )
        _ = try run("bash", ["-c", "head -c 100000 /dev/zero > /dev/tcp/127.0.0.1/\(port)"])
        #expect(try get(address).text.hasPrefix("HTTP/1.1 200"))
        #expect(silent.isRunning)
        #expect(mount.process.isRunning)
    }

    @Test func anAddressThatCannotBeListenedOnIsAnError() throws {
        let address = "127.0.0.1:\(freePort())"
        let mount = try CrfsMount(arguments: ["--metrics", address])
        let directory = try TemporaryDirectory("point")
        func failure(_ address: String, cache: String) throws -> ProcessResult {
            try CrfsProgram.run(["mount", "--cache-dir", cache, "--metrics", address, directory.path])
        }
        let cache = try directory.makeDirectory("cache", mode: 0o700)
        for (wrong, complaint) in [
            (address, "Address already in use"), ("nowhere", "HOST:PORT"), ("::x:y", "no address"),
        ] {
            let result = try failure(wrong, cache: cache)
            #expect(result.status == .exited(1), "\(result)")
            #expect(result.errorText.contains(complaint), "\(result)")
        }
        // Beside a running process it is that one's.
        let joined = try failure("127.0.0.1:1", cache: mount.cache)
        #expect(joined.status == .exited(1), "\(joined)")
        #expect(joined.errorText.contains("does not serve metrics"))
        #expect(!isMounted(directory.path))
    }
}
