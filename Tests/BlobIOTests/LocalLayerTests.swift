import Glibc
import LayerFormat
import OCIModel
import PosixIO
import TestSupport
import Testing

@testable import BlobIO

@Suite struct LocalLayerTests {
    private let layer = TestLayer([.init(name: "a", content: noise(50_000, seed: 1), chunkSize: 10_000)])

    private func write(_ bytes: [UInt8], _ path: String) throws {
        unsafe try replaceFile(path, with: bytes.span.bytes)
    }

    @Test func aLocalFileIsReadLikeALayer() async throws {
        let bench = try Bench()
        let path = bench.directory.file("a.esgz")
        try write(layer.blob, path)
        let opened = try await bench.blobIO.open(localFile: path)
        #expect(opened.digest != layer.digest)
        #expect(try await bench.read(opened, "a") == layer.files[0].content)
        #expect(try await bench.blobIO.open(localFile: path) === opened)
        // The same file under another name is the same layer.
        let other = bench.directory.file("b.esgz")
        #expect(unsafe symlink(path, other) == 0)
        #expect(try await bench.blobIO.open(localFile: other) === opened)
    }

    @Test func anotherFileIsAnotherLayer() async throws {
        let bench = try Bench()
        try write(layer.blob, bench.directory.file("a"))
        try write(layer.blob, bench.directory.file("b"))
        let first = try await bench.blobIO.open(localFile: bench.directory.file("a"))
        let second = try await bench.blobIO.open(localFile: bench.directory.file("b"))
        #expect(first.digest != second.digest)
    }

    @Test func aFileThatChangesIsStaleAndAnotherLayerAfterwards() async throws {
        let bench = try Bench()
        let path = bench.directory.file("a")
        try write(layer.blob, path)
        let opened = try await bench.blobIO.open(localFile: path)
        #expect(try await bench.read(opened, "a", 0, 100) == Array(layer.files[0].content[..<100]))
        // In place, longer by a byte: what is in the store is void as well.
        let file = try Descriptor.open(path, O_WRONLY | O_APPEND)
        let more: [UInt8] = [0]
        unsafe try file.writeNext(more.span.bytes)
        for offset: UInt64 in [0, 40_000] {
            let error = await #expect(throws: BlobError.self) { try await bench.read(opened, "a", offset, 100) }
            #expect(error?.kind == .stale)
        }
        try write(layer.blob, path)
        let again = try await bench.blobIO.open(localFile: path)
        #expect(again !== opened)
        #expect(try await bench.read(again, "a") == layer.files[0].content)
    }

    @Test func whatIsNoLayerIsRefused() async throws {
        let bench = try Bench()
        let missing = await #expect(throws: BlobError.self) {
            try await bench.blobIO.open(localFile: bench.directory.file("missing"))
        }
        #expect(missing?.kind == .system(ENOENT))
        let directory = await #expect(throws: BlobError.self) {
            try await bench.blobIO.open(localFile: bench.directory.path)
        }
        #expect(directory?.kind == .system(EINVAL))
        let fifo = bench.directory.file("fifo")
        #expect(unsafe mkfifo(fifo, 0o600) == 0)
        let pipe = await #expect(throws: BlobError.self) { try await bench.blobIO.open(localFile: fifo) }
        #expect(pipe?.kind == .system(EINVAL))
        let plain = bench.directory.file("plain.tar.gz")
        try write(gzip(noise(1000, seed: 1)), plain)
        let unsupported = await #expect(throws: BlobError.self) { try await bench.blobIO.open(localFile: plain) }
        #expect(unsupported?.kind == .unsupported)
        #expect(unsupported?.reason.contains("plain.tar.gz") == true)
    }
}
