import OCIModel
import Testing

@Suite("Manifests, indexes, platforms")
struct ManifestTests {
    private let layer = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
    private let config = "sha256:2222222222222222222222222222222222222222222222222222222222222222"

    private func document(_ json: String, _ mediaType: String? = nil) throws -> ManifestDocument {
        try ManifestDocument(json: Array(json.utf8), mediaType: mediaType)
    }

    @Test("an image manifest with annotations, with unknown fields skipped")
    func image() throws {
        let toc = "sha256:3333333333333333333333333333333333333333333333333333333333333333"
        let json = """
            {"schemaVersion":2,"mediaType":"\(MediaType.ociManifest)","unknown":[1,{"a":null}],
             "config":{"mediaType":"\(MediaType.ociConfig)","digest":"\(config)","size":7},
             "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"\(layer)","size":9,
               "annotations":{"containerd.io/snapshot/stargz/toc.digest":"\(toc)"}}]}
            """
        guard case .image(let manifest) = try document(json) else {
            Issue.record("not an image")
            return
        }
        #expect(manifest.config?.digest == Digest(config))
        #expect(manifest.layers.map(\.size) == [9])
        #expect(manifest.layers[0].tocDigest == Digest(toc))
        #expect(manifest.reasonNotMountable == nil)
    }

    @Test("an index chooses by platform, variant and order")
    func index() throws {
        func entry(_ digit: Character, _ platform: String) -> String {
            let digest = "sha256:" + String(repeating: digit, count: 64)
            return "{\"mediaType\":\"\(MediaType.ociManifest)\",\"digest\":\"\(digest)\",\"size\":1,\(platform)}"
        }
        let json = """
            {"schemaVersion":2,"manifests":[
              \(entry("1", "\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}")),
              \(entry("2", "\"platform\":{\"os\":\"linux\",\"architecture\":\"arm\",\"variant\":\"v6\"}")),
              \(entry("3", "\"platform\":{\"os\":\"linux\",\"architecture\":\"arm\",\"variant\":\"v7\"}")),
              \(entry("4", "\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\"}")),
              \(entry("5", "\"platform\":{\"os\":\"unknown\",\"architecture\":\"unknown\"}"))]}
            """
        guard case .index(let index) = try document(json) else {
            Issue.record("not an index")
            return
        }
        func chosen(_ platform: String) throws -> Character? {
            index.select(try #require(Platform(platform)))?.digest.hex.first
        }
        #expect(try chosen("linux/amd64") == "1")
        #expect(try chosen("linux/arm/v7") == "3")
        #expect(try chosen("linux/arm/v6") == "2")
        #expect(try chosen("linux/arm") == "3")
        #expect(try chosen("linux/arm64/v8") == "4")
        #expect(try chosen("linux/arm64") == "4")
        #expect(try chosen("linux/s390x") == nil)
        #expect(try chosen("windows/amd64") == nil)
    }

    @Test("a Docker manifest list is told by the registry's media type when it names none itself")
    func dockerList() throws {
        let json = "{\"schemaVersion\":2,\"manifests\":[]}"
        guard case .index = try document(json, MediaType.dockerIndex) else {
            Issue.record("not an index")
            return
        }
    }

    @Test("what is no root file system says why")
    func notMountable() throws {
        let json = """
            {"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"\(config)",
             "size":1},"layers":[{"mediaType":"application/vnd.cncf.helm.chart.content.v1.tar+gzip",
             "digest":"\(layer)","size":1}]}
            """
        guard case .image(let manifest) = try document(json) else {
            Issue.record("not an image")
            return
        }
        #expect(manifest.reasonNotMountable?.contains("helm.chart") == true)
    }

    @Test(
        "what is no manifest is an error",
        arguments: [
            "", "[]", "{", "{}", "{\"schemaVersion\":3}",
            "{\"schemaVersion\":2,\"layers\":[{\"mediaType\":\"x\",\"digest\":\"md5:00\",\"size\":1}]}",
            "{\"schemaVersion\":2,\"layers\":[{\"mediaType\":\"x\",\"digest\":"
                + "\"sha256:1111111111111111111111111111111111111111111111111111111111111111\",\"size\":-1}]}",
            "{\"schemaVersion\":2,\"layers\":[{\"size\":1e30}]}",
        ]
    )
    func refused(json: String) {
        #expect(throws: ManifestError.self) { try ManifestDocument(json: Array(json.utf8), mediaType: nil) }
    }

    @Test("every byte of a manifest cut off is an error, never a crash")
    func cut() throws {
        let json = Array(
            """
            {"schemaVersion":2,"config":{"mediaType":"c","digest":"\(config)","size":7},
             "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"\(layer)","size":9}]}
            """.utf8
        )
        _ = try ManifestDocument(json: json, mediaType: nil)
        for count in 0..<json.count {
            #expect(throws: ManifestError.self) {
                try ManifestDocument(json: Array(json[..<count]), mediaType: nil)
            }
        }
    }

    @Test("a configuration gives platform and diffIDs")
    func configuration() throws {
        let json =
            "{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"\(layer)\"]}}"
        let parsed = try ImageConfiguration(json: Array(json.utf8))
        #expect(parsed.platform == Platform(os: "linux", architecture: "amd64"))
        #expect(parsed.diffIDs == [try #require(Digest(layer))])
    }
}
