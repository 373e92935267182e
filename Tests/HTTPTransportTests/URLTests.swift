import HTTPTransport
import Testing

/// URLs as requests and redirects have them.
@Suite struct URLTests {
    @Test func aURLHasItsParts() throws {
        let url = try #require(HTTPURL("HTTPS://Registry.Example:5000/v2/a/b?n=1&Sig=x%2Fy#part"))
        #expect(url.scheme == "https")
        #expect(url.host == "registry.example")
        #expect(url.port == 5000)
        #expect(url.target == "/v2/a/b?n=1&Sig=x%2Fy")
        #expect(url.origin == "https://registry.example:5000")
        #expect(url.description == "https://registry.example:5000/v2/a/b")
        #expect(url.queryValue("sig") == "x%2Fy")
        #expect(url.queryValue("m") == nil)
    }

    @Test func theSchemesOwnPortIsLeftOut() throws {
        #expect(try #require(HTTPURL("https://a:443/")).origin == "https://a")
        #expect(try #require(HTTPURL("http://a:443")).string == "http://a:443/")
        #expect(try #require(HTTPURL("http://[::1]:80/x")).authority == "[::1]")
    }

    @Test(arguments: [
        ("/c", "https://h.example/c"),
        ("c?x", "https://h.example/a/c?x"),
        ("../c", "https://h.example/c"),
        ("?last=b", "https://h.example/a/b?last=b"),
        ("//other:81/c", "https://other:81/c"),
        ("http://other/c d", "http://other/c%20d"),
    ])
    func referencesAreResolved(_ reference: String, _ expected: String) throws {
        #expect(try #require(HTTPURL("https://h.example/a/b?q")).resolving(reference)?.string == expected)
    }

    @Test(arguments: [
        "", "ftp://a/", "file:///etc/passwd", "https://", "https://user@a/", "https://user:word@a/", "https://a:99999/",
        "https://a/\n", "https://a/\u{0}", "a/b", "/a",
    ])
    func whatIsNoHTTPURLIsRefused(_ text: String) {
        #expect(HTTPURL(text) == nil)
    }

    @Test func thisMachineIsKnown() {
        for host in ["localhost", "a.localhost", "127.0.0.1", "127.8.9.10", "[::1]"] {
            #expect(HTTPURL("http://\(host):5000/")?.isLoopback == true)
        }
        for host in ["localhost.example", "128.0.0.1", "[::2]", "127.0.0.1.example"] {
            #expect(HTTPURL("http://\(host):5000/")?.isLoopback == false)
        }
    }
}
