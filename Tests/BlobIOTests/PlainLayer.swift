import Glibc
import OCIModel
import PosixIO
import TestSupport
import Testing

@testable import BlobIO

/// A tar of a few files in every form that a plain layer has.
struct PlainLayer {
    static let forms = ["tar", "gzip", "gzip members", "zstd", "zstd frames"]

    let form: String
    let files: [(name: String, content: [UInt8])]
    let tar: [UInt8]
    let blob: [UInt8]

    /// - Parameter large: bytes of the largest file.
    init(_ form: String, large: Int = 9 << 20) throws {
        let directory = try TemporaryDirectory("plain")
        self.form = form
        var files: [(name: String, content: [UInt8])] = []
        for number in 0..<40 {
            files.append(("d/small\(number)", compressible(100 + number * 997, seed: UInt64(number))))
        }
        files.append(("d/large", compressible(large, seed: 99)))
        files.append(("e/noise", noise(3 << 20, seed: 7)))
        files.append(("e/zeros", [UInt8](repeating: 0, count: 5 << 20)))
        for number in 40..<60 {
            files.append(("e/small\(number)", compressible(1000 + number * 311, seed: UInt64(number))))
        }
        self.files = files
        let root = try directory.makeDirectory("root-\(form.replacing(" ", with: "-"))")
        for name in ["d", "e"] { try makeDirectories("\(root)/\(name)") }
        for file in files { try writeBytes(file.content, "\(root)/\(file.name)") }
        let path = "\(root).tar"
        try runChecked("tar", ["-cf", path, "-C", root, "d", "e"])
        tar = try readFile(path, limit: 256 << 20).array
        switch form {
        case "tar": blob = tar
        case "gzip": blob = try runChecked("gzip", ["-6", "-n", "-c", path]).output
        case "zstd": blob = try runChecked("zstd", ["-q", "-3", "-c", path]).output
        default:
            // Pieces that are compressed by themselves, and not at the boundaries of anything.
            var pieces: [UInt8] = []
            for start in stride(from: 0, to: tar.count, by: 1_234_567) {
                let piece = "\(path).piece"
                try writeBytes(Array(tar[start..<min(tar.count, start + 1_234_567)]), piece)
                pieces += try runChecked(
                    form == "zstd frames" ? "zstd" : "gzip",
                    form == "zstd frames" ? ["-q", "-c", piece] : ["-n", "-c", piece]
                ).output
            }
            blob = pieces
        }
    }

    var descriptor: ContentDescriptor {
        let suffix = form == "tar" ? "" : form.hasPrefix("gzip") ? "+gzip" : "+zstd"
        return ContentDescriptor(
            mediaType: "application/vnd.oci.image.layer.v1.tar\(suffix)",
            digest: digest(of: blob),
            size: UInt64(blob.count)
        )
    }
}

func writeBytes(_ bytes: [UInt8], _ path: String) throws {
    unsafe try replaceFile(path, with: bytes.span.bytes)
}

/// Bytes that deflate can halve, the same for the same seed.
private func compressible(_ count: Int, seed: UInt64) -> [UInt8] {
    var bytes = noise(count, seed: seed)
    for index in bytes.indices { bytes[index] = bytes[index] & 15 }
    return bytes
}

func expectFiles(_ bench: Bench, _ layer: Layer, _ plain: PlainLayer) async throws {
    for file in plain.files {
        let content = try await bench.read(layer, file.name)
        #expect(content == file.content, "\(plain.form) \(file.name)")
    }
}
