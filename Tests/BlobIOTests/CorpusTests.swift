import HTTPTransport
import LayerFormat
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport
import Testing

@testable import BlobIO

/// Reads every file of a layer and compares it with the corpus.
private func expectFiles(_ bench: Bench, _ layer: Layer, number: Int) async throws {
    let files = try ExpectedFile.all(layer: number)
    #expect(!files.isEmpty)
    for file in files {
        let path = file.plainPath
        let content = try await bench.read(layer, path)
        #expect(content.count == file.size, "\(path)")
        #expect(digest(of: content).hex == file.sha256, "\(path)")
    }
}

@Suite struct CorpusTests {
    @Test(arguments: CorpusLayer.indexed)
    func everyFileOfEveryLayerReadsAsTheCorpusSays(_ format: String) async throws {
        for cacheBytes in [64 << 20, 100_000] {
            let bench = try Bench(cacheBytes: cacheBytes)
            for layer in try CorpusLayer.all(format) {
                let opened = try await bench.blobIO.open(
                    layer.descriptor,
                    at: layer.place(ScriptedSource(layer.blob))
                )
                try await expectFiles(bench, opened, number: layer.number)
                // A local file has nothing but itself.
                if layer.toc != nil { continue }
                let path = Corpus.layout(format) + "/blobs/sha256/" + layer.descriptor.digest.hex
                let local = try await bench.blobIO.open(localFile: path)
                try await expectFiles(bench, local, number: layer.number)
            }
        }
    }

    @Test func largeFileAtEveryOffsetAndLength() async throws {
        let layout = try ImageLayout(Corpus.layout("estargz"))
        let bench = try Bench()
        let layer = try await bench.blobIO.open(localFile: layout.blob(layout.layerHexes[0]))
        let whole = try await bench.read(layer, "usr/lib/big.bin")
        #expect(whole.count == (9 << 20) + 77)
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let boundary = 4 << 20
        var reads = [(boundary - 1, 2), (boundary, 1 << 20), (2 * boundary - 100, 200), (whole.count - 1, 4096)]
        for _ in 0..<60 {
            let offset = Int.random(in: 0..<whole.count, using: &generator)
            reads.append((offset, Int.random(in: 1...(1 << 20), using: &generator)))
        }
        for (offset, count) in reads {
            let expected = Array(whole[offset..<min(whole.count, offset + count)])
            let content = try await bench.read(layer, "usr/lib/big.bin", UInt64(offset), count)
            #expect(content == expected, "seed \(seed) \(offset)+\(count)")
        }
    }
}

@Suite(.enabled(if: Requirement.registry.runs, Comment(rawValue: Requirement.registry.reason)))
struct RegistryReadTests {
    init() throws { try Requirement.registry.orFail() }

    @Test func anImageIsReadFromARealRegistry() async throws {
        let server = try RegistryServer()
        try server.pushCorpus("estargz")
        let host = try #require(RegistryHost(server.host))
        let repository = try #require(Repository(host: host, path: "corpus"))
        let client = RegistryClient(transport: HTTPTransport(), options: RegistryOptions())
        let manifest = try await client.manifest(repository, .tag("estargz"))
        guard case .image(let image) = try ManifestDocument(json: manifest.bytes, mediaType: manifest.mediaType) else {
            Issue.record("not an image")
            return
        }
        let bench = try Bench(verify: .require, registry: client)
        for (index, descriptor) in image.layers.enumerated() {
            let layer = try await bench.blobIO.open(descriptor, from: repository)
            #expect(server.requests(containing: "GET", "blobs/\(descriptor.digest)").count <= 1)
            try await expectFiles(bench, layer, number: index + 1)
        }
        #expect(bench.blobIO.statistics.mismatches == 0)

        #expect(await bench.settled())
        try await expectOutage(server, image.layers[0], repository, bench.indexDirectory)
    }

    /// While the registry is gone a read is an error and what is in memory reads on; once it is back, all does.
    private func expectOutage(
        _ server: RegistryServer,
        _ descriptor: ContentDescriptor,
        _ repository: Repository,
        _ indexDirectory: String
    ) async throws {
        var options = RegistryOptions()
        options.deadlineSeconds = 2
        let client = RegistryClient(transport: HTTPTransport(), options: options)
        let bench = try Bench(indexDirectory: indexDirectory, registry: client)
        let layer = try await bench.blobIO.open(descriptor, from: repository)
        let small = try await bench.read(layer, "etc/hosts")
        #expect(await bench.settled())
        server.stop()
        let error = await #expect(throws: BlobError.self) { try await bench.read(layer, "usr/lib/big.bin") }
        #expect(error?.kind == .unavailable || error?.kind == .timedOut)
        #expect(try await bench.read(layer, "etc/hosts") == small)
        try server.start()
        #expect(try await bench.read(layer, "usr/lib/big.bin").count == (9 << 20) + 77)
    }
}
