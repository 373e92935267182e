import OCIModel
import Testing

@Suite("Image references, hosts and repositories")
struct ReferenceTests {
    @Test(
        "references of every form",
        arguments: [
            ("debian", "index.docker.io/debian:latest"),
            ("debian:12", "index.docker.io/debian:12"),
            ("library/debian", "index.docker.io/debian:latest"),
            ("docker.io/library/debian:12", "index.docker.io/debian:12"),
            ("bitnami/redis", "index.docker.io/bitnami/redis:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1"),
            ("[::1]:5000/app:v1", "[::1]:5000/app:v1"),
            ("gcr.io/proj/img:tag", "gcr.io/proj/img:tag"),
            ("docker://ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("GHCR.io/a/b", "ghcr.io/a/b:latest"),
        ]
    )
    func forms(text: String, full: String) throws {
        #expect(try #require(ImageReference(text)).description == full)
    }

    @Test("a digest decides, and keeps the tag that came with it")
    func digest() throws {
        let digest = "sha256:0123456789abcdef00112233445566778899aabbccddeeffdeadbeefcafef00d"
        let both = try #require(ImageReference("quay.io/a/b:v1@\(digest)"))
        #expect(both.tag == "v1")
        #expect(both.manifestName == .digest(try #require(Digest(digest))))
        let alone = try #require(ImageReference("quay.io/a/b@\(digest)"))
        #expect(alone.tag == nil)
        #expect(alone.description == "quay.io/a/b@\(digest)")
    }

    @Test(
        "what is no reference",
        arguments: [
            "", ":", "a:", "UPPER", "a//b", "a/", "/a", "a b", "a@sha256:00", "-a", "a-", "a..b",
            "a:b/c:", "a/../b", ".git", "x/.git", "a___b", "host.example:70000/a", "host.example:0/a",
        ]
    )
    func refused(text: String) {
        #expect(ImageReference(text) == nil)
    }

    @Test(
        "names that can be a host, in their one spelling",
        arguments: [
            ("gcr.io", "gcr.io"), ("docker.io", "index.docker.io"), ("Index.Docker.IO", "index.docker.io"),
            ("localhost", "localhost"), ("localhost:5000", "localhost:5000"), ("registry:5000", "registry:5000"),
            ("127.0.0.1", "127.0.0.1"), ("10.0.0.1:443", "10.0.0.1:443"), ("[::1]", "[::1]"),
            ("[2001:db8::1]:5000", "[2001:db8::1]:5000"), ("a-b.example", "a-b.example"),
        ]
    )
    func hosts(text: String, name: String) {
        #expect(RegistryHost(text)?.name == name)
    }

    @Test(
        "names that cannot be a host",
        arguments: [
            "", ".git", ".Trash", ".Trash-1000", "lost+found", "a b", "autorun", "host..example", "-a.example",
            "a-.example", "1.2.3", "1.2.3.4.5", "256.1.1.1", "a_b.example", "[::1", "[zz]:1", "host:", "host:x",
            "host:05000", "host:0", "host:65536", "a/b", "\u{e4}.example",
        ]
    )
    func notHosts(text: String) {
        #expect(RegistryHost(text) == nil)
    }

    @Test("loopback is this machine alone")
    func loopback() throws {
        for name in ["localhost", "localhost:5000", "127.0.0.1:1", "127.255.0.9", "[::1]:5000", "x.localhost"] {
            #expect(try #require(RegistryHost(name)).isLoopback, "\(name)")
        }
        for name in ["10.0.0.1", "127.example", "127.0.0.1.example", "[::2]", "localhost.example"] {
            #expect(try #require(RegistryHost(name)).isLoopback == false, "\(name)")
        }
    }

    @Test("Docker Hub's repositories of one component are below library/ in requests, and only there")
    func library() throws {
        let hub = try #require(RegistryHost("docker.io"))
        #expect(Repository(host: hub, path: "debian")?.apiName == "library/debian")
        #expect(Repository(host: hub, path: "bitnami/redis")?.apiName == "bitnami/redis")
        #expect(hub.apiAuthority == "registry-1.docker.io")
        let other = try #require(RegistryHost("quay.io"))
        #expect(Repository(host: other, path: "debian")?.apiName == "debian")
    }

    @Test("components and tags have their own alphabets")
    func alphabets() {
        for component in ["a", "a.b", "a_b", "a__b", "a-b", "a--b", "1", "v1.2"] {
            #expect(Repository.isComponent(component), "\(component)")
        }
        for component in ["", "A", "a.", ".a", "a..b", "a___b", "a._b", "a/b", "a b"] {
            #expect(!Repository.isComponent(component), "\(component)")
        }
        for tag in ["latest", "_a", "V1.2-x", String(repeating: "a", count: 128)] {
            #expect(Repository.isTag(tag), "\(tag)")
        }
        for tag in ["", ".a", "-a", "a:b", "a/b", String(repeating: "a", count: 129)] {
            #expect(!Repository.isTag(tag), "\(tag)")
        }
    }
}
