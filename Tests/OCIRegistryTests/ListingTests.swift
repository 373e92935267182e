import OCIModel
import OCIRegistry
import TestSupport
import Testing

/// Lists of many pages.
struct ListingTests {
    @Test(arguments: ["relative", "absolute"])
    func fiftyThousandTagsComeInPages(_ link: String) async throws {
        let pages = (0..<50).map { page in
            "[" + (0..<1000).map { "\"v\(page).\($0)\"" }.joined(separator: ",") + "]"
        }
        let registry = try await FakeRegistry.start(
            #"{"pages": [\#(pages.joined(separator: ","))], "link": "\#(link)"}"#
        )
        let client = makeClient()
        let list = try #require(try await client.tags(registry.repository))
        #expect(list.tags.count == 50_000)
        #expect(Set(list.tags).count == 50_000)
        // One request for each page, all to the registry itself: a link to another host is one to this.
        #expect(try registry.requests().count == 50)
    }
}
