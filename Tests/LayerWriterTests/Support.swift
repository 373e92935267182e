import BlockCodec
import FoundationEssentials
import Glibc
import LayerFormat
import LayerWriter
import OCIModel
import PosixIO
import TestSupport

typealias FileReader = TarReader<DecodedSource<FileSource>>

func hexText(_ bytes: some Sequence<UInt8>) -> String {
    bytes.map { byte in
        let digits = String(byte, radix: 16)
        return byte < 16 ? "0" + digits : digits
    }.joined()
}

/// An entry and its content.
struct TarFile: Equatable {
    var entry: TarEntry
    var content: [UInt8] = []
}

/// Reads an archive to its end, all content included.
func readArchive<Source: ByteSource & ~Copyable>(_ source: consuming Source) throws -> [TarFile] {
    var reader = TarReader(source)
    var files: [TarFile] = []
    while let entry = try reader.next() {
        files.append(TarFile(entry: entry, content: try readContent(&reader)))
    }
    _ = try reader.drain()
    return files
}

func readContent<Source: ByteSource & ~Copyable>(_ reader: inout TarReader<Source>) throws -> [UInt8] {
    var content: [UInt8] = []
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 100_000, alignment: 1)
    defer { unsafe buffer.deallocate() }
    while true {
        let count = try unsafe reader.read(into: buffer)
        if count == 0 { return content }
        unsafe content.append(contentsOf: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
    }
}

func readArchive(file path: String) throws -> [TarFile] {
    try readArchive(try DecodedSource(FileSource(try Descriptor.open(path))))
}

func writeFile(_ path: String, _ bytes: [UInt8]) throws {
    try unsafe replaceFile(path, with: bytes.span.bytes)
}

func fileBytes(_ path: String) throws -> [UInt8] {
    try readFile(path, limit: 1 << 30).array
}

/// An archive of entries and contents.
func archive(_ files: [TarFile]) -> [UInt8] {
    var bytes: [UInt8] = []
    for file in files {
        bytes += TarHeaderEncoder.encode(file.entry) + file.content
        bytes += [UInt8](repeating: 0, count: TarHeaderEncoder.padding(after: UInt64(file.content.count)))
    }
    return bytes + TarHeaderEncoder.endMarker
}

func regular(_ path: String, _ content: String) -> TarFile {
    var entry = TarEntry(path: Array(path.utf8), kind: .regular)
    entry.mode = 0o644
    entry.size = UInt64(content.utf8.count)
    entry.mtimeSeconds = 1_600_000_000
    return TarFile(entry: entry, content: Array(content.utf8))
}

func directory(_ path: String, mode: UInt32 = 0o755) -> TarFile {
    var entry = TarEntry(path: Array(path.utf8), kind: .directory)
    entry.mode = mode
    return TarFile(entry: entry)
}

func link(_ path: String, to target: String, _ kind: TarEntry.Kind) -> TarFile {
    var entry = TarEntry(path: Array(path.utf8), kind: kind)
    entry.linkTarget = Array(target.utf8)
    return TarFile(entry: entry)
}

extension TarEntry.Kind {
    /// What TOCs, and the programs in Tests/Interop, call it.
    var word: String {
        switch self {
        case .regular: "reg"
        case .directory: "dir"
        case .symlink: "symlink"
        case .hardLink: "hardlink"
        case .character: "char"
        case .block: "block"
        case .fifo: "fifo"
        }
    }
}

/// The line that Tests/Interop/tarlist.py prints for an entry.
func listLine(_ file: TarFile) -> String {
    let entry = file.entry
    var path = entry.path[...]
    while path.last == UInt8(ascii: "/") { path.removeLast() }
    let octal = String(entry.mode, radix: 8)
    let mode = String(repeating: "0", count: 4 - octal.count) + octal
    let mtime = entry.mtimeSeconds * 1_000_000_000 + Int64(entry.mtimeNanoseconds)
    let digest = unsafe entry.kind == .regular ? SHA256.digest(of: file.content.span.bytes).hex : "-"
    let xattrs = entry.xattrs.sorted { $0.name.lexicographicallyPrecedes($1.name) }
        .map { hexText($0.name) + "=" + hexText($0.value) }
    return [
        entry.kind.word, hexText(path), mode, "\(entry.uid)", "\(entry.gid)", hexText(entry.userName),
        hexText(entry.groupName),
        "\(entry.size)", "\(mtime)", hexText(entry.linkTarget), "\(entry.deviceMajor):\(entry.deviceMinor)", digest,
        xattrs.joined(separator: ","),
    ].joined(separator: " ")
}

/// The lines of an archive as Python's tarfile reads it.
func pythonListing(_ path: String) throws -> [String] {
    let text = try runChecked("python3", ["\(SourceTree.root)/Tests/Interop/tarlist.py", path]).text
    return text.split(separator: "\n").map(String.init)
}

/// What `gzip -dc` makes of a blob, as a file beside it.
func gunzipped(_ path: String) throws -> String {
    let result = try runChecked("gzip", ["-dc", path])
    try writeFile(path + ".tar", result.output)
    return path + ".tar"
}

/// A TOC as any JSON reader sees it.
struct TOC: Decodable {
    struct Entry: Decodable {
        var name: String
        var type: String
        var size: Int?
        var modtime: String?
        var linkName: String?
        var mode: UInt32?
        var uid: UInt32?
        var gid: UInt32?
        var userName: String?
        var groupName: String?
        var offset: Int?
        var devMajor: UInt32?
        var devMinor: UInt32?
        var NumLink: Int?
        var xattrs: [String: String]?
        var digest: String?
        var chunkOffset: Int?
        var chunkSize: Int?
        var chunkDigest: String?
    }
    var version: Int
    var entries: [Entry]
}

/// Reads the TOC of a blob through its footer.
func readTOC(_ blob: [UInt8], footer: Int) throws -> (toc: TOC, offset: Int, digest: Digest) {
    let text = String(decoding: blob.suffix(footer).dropFirst(footer == 51 ? 16 : 12).prefix(16), as: UTF8.self)
    guard let offset = Int(text, radix: 16) else {
        throw CommandFailure(description: "no offset in the footer: \(text)")
    }
    let files = try readArchive(try DecodedSource(MemorySource(Array(blob[offset...]))))
    guard files.count == 1, files[0].entry.path == Array("stargz.index.json".utf8) else {
        throw CommandFailure(description: "no TOC at \(offset)")
    }
    let json = files[0].content
    let digest = unsafe SHA256.digest(of: json.span.bytes)
    return (try JSONDecoder().decode(TOC.self, from: Data(json)), offset, digest)
}

/// Random layers: every kind of entry, every odd name, and sizes around all limits of the headers.
struct RandomLayer {
    private var random: SeededGenerator
    private var names: [[UInt8]] = []

    init(seed: UInt64) { random = SeededGenerator(seed: seed) }

    mutating func files(_ count: Int) -> [TarFile] {
        (0..<count).map { _ in file() }
    }

    private mutating func pick<T>(_ values: [T]) -> T { values[Int.random(in: 0..<values.count, using: &random)] }

    private mutating func name() -> [UInt8] {
        let lengths = [1, 3, 8, 20, 60, 99, 100, 101, 154, 155, 156, 255]
        var result: [UInt8] = []
        for _ in 0..<Int.random(in: 1...4, using: &random) {
            if !result.isEmpty { result.append(UInt8(ascii: "/")) }
            for _ in 0..<pick(lengths) {
                // Any byte but NUL, slash and dot (so that no `..` arises).
                var byte = UInt8.random(in: 1...255, using: &random)
                if Bool.random(using: &random) { byte = UInt8(ascii: "a") + byte % 26 }
                result.append(byte == UInt8(ascii: "/") || byte == UInt8(ascii: ".") ? UInt8(ascii: "_") : byte)
            }
        }
        return result
    }

    private mutating func file() -> TarFile {
        let kind = pick([
            TarEntry.Kind.regular, .regular, .regular, .directory, .symlink, .hardLink, .character, .block, .fifo,
        ])
        var file = TarFile(entry: TarEntry(path: name(), kind: kind))
        if kind == .directory { file.entry.path.append(UInt8(ascii: "/")) }
        file.entry.mode = UInt32.random(in: 0...0o7777, using: &random)
        file.entry.uid = pick([0, 1000, 0o7777777, 0o10000000, .max])
        file.entry.gid = pick([0, 100, 0o7777777, 0o10000000, .max])
        file.entry.userName = pick([
            [], Array("root".utf8), Array(repeating: 0x75, count: 31), Array(repeating: 0xfc, count: 40),
        ])
        file.entry.groupName = pick([[], Array("root".utf8), Array(repeating: 0x67, count: 32)])
        file.entry.mtimeSeconds = pick([0, 1, 1_600_000_000, 0o77777777777, 0o100000000000, -1, -1_000_000])
        file.entry.mtimeNanoseconds = pick([0, 0, 0, 1, 500_000_000, 999_999_999, 120_000])
        if kind == .symlink || kind == .hardLink { file.entry.linkTarget = names.isEmpty ? name() : pick(names) }
        if kind == .character || kind == .block {
            file.entry.deviceMajor = pick([0, 1, 254, 0o7777777, 0x7fff_ffff])
            file.entry.deviceMinor = pick([0, 3, 70000, 0o10000000])
        }
        if kind == .regular {
            let size = pick([0, 1, 511, 512, 513, 4095, 4096, 4097, 8192, 30_000])
            let period = Int.random(in: 1...300, using: &random)
            file.content = (0..<size).map { UInt8(truncatingIfNeeded: $0 % period) }
            file.entry.size = UInt64(size)
        }
        for index in 0..<pick([0, 0, 0, 1, 4]) {
            var value: [UInt8] = []
            for _ in 0..<pick([0, 1, 20, 300]) { value.append(UInt8.random(in: 0...255, using: &random)) }
            file.entry.xattrs.append(TarXattr(name: Array("user.%=\(index)".utf8), value: value))
        }
        names.append(file.entry.path)
        return file
    }
}
