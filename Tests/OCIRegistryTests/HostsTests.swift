import HTTPTransport
import OCIModel
import PosixIO
import TestSupport
import Testing

@testable import OCIRegistry

/// `hosts.toml`: what is read from it, and where it is looked for.
struct HostsTests {
    private func endpoints(_ text: String, host: String = "r.example:5000") throws -> [Endpoint] {
        var file = HostsFile(directory: "/certs", host: try #require(RegistryHost(host)), commonAuthorities: [])
        return try file.endpoints(Array(text.utf8))
    }

    private func reason(_ text: String) -> String? {
        do {
            _ = try endpoints(text)
            return nil
        } catch let error as HostsFile.Failure {
            return error.reason
        } catch {
            return "\(error)"
        }
    }

    @Test func membersOfATableComeInTheirOrder() throws {
        let document = try TOMLValue.parse(
            Array("z = 1\na = [true, \"x\", 1.5]\n[m.\"q.r\"]\nd = 1979-05-27\n[b]\n".utf8)
        )
        #expect(document.members?.map(\.key) == ["z", "a", "m", "b"])
        #expect(document["a"] == .array([.boolean(true), .string("x"), .number(1.5)]))
        #expect(document["m"]?["q.r"]?["d"] == .date("1979-05-27"))
        #expect(document["m"]?["q.r"]?.members?.first?.line == 4)
        let error = #expect(throws: TOMLValue.Failure.self) { try TOMLValue.parse(Array("a = 1\nb = ".utf8)) }
        #expect(error?.line == 2)
    }

    @Test func mirrorsComeInTheFilesOrderAndTheServerLast() throws {
        let found = try endpoints(
            """
            server = "https://up.example/base"
            skip_verify = true

            [host."https://z.example"]
              capabilities = ["pull"]
            [host."http://a.example:8080/path/v2"]
              dial_timeout = "1m30s"
              [host."http://a.example:8080/path/v2".header]
                X-One = "1"
                X-Many = ["2", "3"]
            [host."m.example/odd"]
              override_path = true
            """
        )
        #expect(
            found.map(\.name) == [
                "https://z.example", "http://a.example:8080/path/v2", "https://m.example/odd",
                "https://up.example/base/v2",
            ]
        )
        #expect(found.map(\.isRegistry) == [false, false, false, true])
        #expect(found[0].capabilities == .pull)
        #expect(found[1].capabilities == .all)
        #expect(found[1].dialTimeout == 90)
        #expect(found[1].headers.map(\.name) == ["X-One", "X-Many", "X-Many"])
        #expect(found.map(\.tls.skipsVerification) == [false, false, false, true])
        #expect(found[0].path("/v2/a/tags/list?n=5") == "/v2/a/tags/list?n=5&ns=r.example:5000")
        #expect(found[1].path("/v2/a/blobs/x") == "/path/v2/a/blobs/x?ns=r.example:5000")
        #expect(found[2].path("/v2/a/blobs/x") == "/odd/a/blobs/x?ns=r.example:5000")
        #expect(found[2].target("/odd/a/tags/list?last=b") == "/v2/a/tags/list?last=b")
        #expect(found[2].target("/v2/a") == nil)
    }

    @Test func theRegistryItselfGetsNoNamespace() throws {
        #expect(try endpoints("server = \"https://r.example:5000\"")[0].path("/v2/a") == "/v2/a")
        #expect(try endpoints("").map(\.name) == ["r.example:5000"])
        let hub = try endpoints(
            "server = \"https://registry-1.docker.io\"\n[host.\"https://m.example\"]",
            host: "docker.io"
        )
        #expect(hub[0].path("/v2/library/debian/manifests/12") == "/v2/library/debian/manifests/12?ns=docker.io")
        #expect(hub[1].path("/v2/") == "/v2/")
    }

    @Test func certificatesAreFilesOfTheDirectory() throws {
        let directory = try TemporaryDirectory("certs")
        try writeFile(directory.file("one.pem"), "ONE")
        try writeFile(directory.file("two.pem"), "TWO")
        var file = HostsFile(
            directory: directory.path,
            host: try #require(RegistryHost("r.example")),
            commonAuthorities: Array("ALL\n".utf8)
        )
        let text = """
            ca = ["one.pem", "\(directory.path)/two.pem"]
            client = [["c.pem", "c.key"], ["d.pem", ""]]
            [host."https://m.example"]
            ca = "missing.pem"
            client = "/both.pem"
            """
        let found = try file.endpoints(Array(text.utf8))
        #expect(found[1].tls.authorities == Array("ALL\nONE\nTWO\n".utf8))
        #expect(found[1].tls.clientCertificate == directory.file("c.pem"))
        #expect(found[1].tls.clientKey == directory.file("c.key"))
        #expect(found[0].tls.authorities == [])
        #expect(found[0].tls.clientCertificate == "/both.pem")
        #expect(found[0].tls.clientKey == nil)
        #expect(file.complaints.count == 2)
        #expect(file.complaints.contains { $0.contains("missing.pem") })
    }

    @Test func whatCannotBeMeantIsRefusedWithItsPlace() throws {
        #expect(reason("server = ")?.contains("line 1") == true)
        #expect(reason("server = 5")?.contains("server") == true)
        #expect(reason("[host.\"https://m.example\"]\ncapabilities = [\"fly\"]")?.contains("fly") == true)
        #expect(reason("[host.\"ftp://m.example\"]")?.contains("ftp://m.example") == true)
        #expect(reason("client = 5")?.contains("client") == true)
        #expect(reason("ca = [5]")?.contains("ca") == true)
        #expect(reason("dial_timeout = \"soon\"")?.contains("soon") == true)
        #expect(reason("[host]\nx = 1")?.contains("line 2") == true)
        #expect(reason("unknown = true\n") == nil)
    }

    @Test func directoriesAreLookedForInContainerdsOrder() throws {
        func names(_ host: String) throws -> [String] {
            HostTable.directoryNames(try #require(RegistryHost(host)))
        }
        #expect(try names("r.example:5000") == ["r.example_5000_", "r.example:5000", "_default"])
        #expect(try names("r.example") == ["r.example", "_default"])
        #expect(try names("docker.io") == ["docker.io", "index.docker.io", "_default"])
        #expect(try names("[::1]:5000") == ["[::1]_5000_", "[::1]:5000", "_default"])
    }
}
