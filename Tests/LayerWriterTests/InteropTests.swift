import BlockCodec
import LayerFormat
import LayerWriter
import OCIModel
import PosixIO
import TestSupport
import Testing

/// The three layers of the corpus image as tars in `directory`.
private func makeLayers(_ directory: String) throws -> [String] {
    try runChecked("python3", ["\(Corpus.directory)/mkbasic.py", directory])
    return ["L1", "L2", "L3"].map { "\(directory)/\($0).tar" }
}

private let reserved = ["stargz.index.json", ".no.prefetch.landmark", ".prefetch.landmark"]

/// The lines of a listing without those of the format's own files.
private func withoutReserved(_ lines: [String]) -> [String] {
    let names = reserved.map { hexText($0.utf8) }
    return lines.filter { line in !names.contains(String(line.split(separator: " ")[1])) }
}

/// gzip, tar and Python's tarfile on what the converter writes.
@Suite(.enabled(if: Requirement.program("python3").runs, "needs python3 as the other reader"))
struct TarInteropTests {
    @Test(arguments: [OutputFormat.estargz, .stargz])
    func theCorpusLayersSurviveConversion(format: OutputFormat) throws {
        let directory = try TemporaryDirectory("interop")
        for layer in try makeLayers(directory.path) {
            var options = ConvertOptions()
            options.format = format
            let result = try LayerConverter.convert(input: layer, options: options)
            #expect(result.path == layer.dropLast(4) + format.fileSuffix)
            try runChecked("gzip", ["-t", "-S", format.fileSuffix, result.path])
            let expected = try pythonListing(layer)
            #expect(withoutReserved(try pythonListing(result.path)) == expected, "\(layer)")
            #expect(result.entries == expected.count)
            let tar = try runChecked("tar", ["-tzf", result.path])
            #expect(tar.errorText == "")
        }
    }

    @Test(arguments: ["gzip", "gzip -1", "zstd -q -19", "zstd -q --long=27"])
    func compressedInputsGiveTheSame(program: String) throws {
        let name = String(program.split(separator: " ")[0])
        guard Requirement.program(name).runs else { return }
        let directory = try TemporaryDirectory("interop")
        let layer = try makeLayers(directory.path)[0]
        let plain = try LayerConverter.convert(input: layer, output: directory.file("plain"))
        try runChecked("sh", ["-ec", "\(program) -c <'\(layer)' >'\(directory.file("compressed"))'"])
        let result = try LayerConverter.convert(input: directory.file("compressed"), output: directory.file("out"))
        #expect(result.blobDigest == plain.blobDigest)
    }

    @Test(arguments: ["v7", "oldgnu", "gnu", "ustar", "posix"])
    func archivesOfGNUTarSurviveConversion(format: String) throws {
        let directory = try TemporaryDirectory("interop")
        try runChecked(
            "sh",
            [
                "-ec",
                """
                mkdir -p t/sub; printf 'one' >t/sub/file; ln t/sub/file t/hard; ln -s sub/file t/soft; : >t/empty
                truncate -s 2000000 t/sparse; printf 'end' >>t/sparse
                tar --format=\(format) --sort=name \(format == "v7" || format == "ustar" ? "" : "-S") -cf t.tar t
                """,
            ],
            directory: directory.path
        )
        let result = try LayerConverter.convert(input: directory.file("t.tar"))
        #expect(withoutReserved(try pythonListing(result.path)) == (try pythonListing(directory.file("t.tar"))))
    }

    @Test func theInputThatIsConvertedTwiceIsSeenBySha256sum() throws {
        let directory = try TemporaryDirectory("interop")
        let layer = try makeLayers(directory.path)[0]
        let result = try LayerConverter.convert(input: layer)
        let blob = try runChecked("sha256sum", [result.path]).text
        #expect(blob.hasPrefix(result.blobDigest.hex))
        let diff = try runChecked("sh", ["-ec", "gzip -dc <'\(result.path)' | sha256sum"]).text
        #expect(diff.hasPrefix(result.diffID.hex))
    }
}

/// Debian's Go library for eStargz, the one in container engines, on what the converter writes.
@Suite(.enabled(if: GoLibrary.missing == nil, Comment(rawValue: GoLibrary.missing ?? "all is there")))
struct GoLibraryTests {
    @Test(arguments: [4096, 65536, 4 * 1024 * 1024], [false, true])
    func theGoLibraryVerifiesAndReadsEverything(chunkSize: Int, prioritized: Bool) throws {
        let directory = try TemporaryDirectory("go")
        let program = try GoLibrary.build(directory.path)
        for layer in try makeLayers(directory.path) {
            var options = ConvertOptions()
            options.chunkSize = chunkSize
            if prioritized { options.prioritized = ["usr/bin/tool-alias", "usr/lib/big.bin", "top", "srv/hl2"] }
            let result = try LayerConverter.convert(input: layer, options: options)
            let rows = try runChecked(program, [result.path, "\(result.tocDigest)"]).text.split(separator: "\n")
            try check(rows.map(String.init), layer)
        }
    }

    @Test func theGoLibraryReadsTheOriginalFormat() throws {
        let directory = try TemporaryDirectory("go")
        let program = try GoLibrary.build(directory.path)
        for layer in try makeLayers(directory.path) {
            var options = ConvertOptions()
            options.format = .stargz
            let result = try LayerConverter.convert(input: layer, options: options)
            try check(try runChecked(program, [result.path]).text.split(separator: "\n").map(String.init), layer)
        }
    }

    @Test(arguments: [4096, 4 * 1024 * 1024], [false, true])
    func theGoLibraryVerifiesAndReadsZstdChunked(chunkSize: Int, prioritized: Bool) throws {
        let directory = try TemporaryDirectory("go")
        let program = try GoLibrary.build(directory.path)
        for layer in try makeLayers(directory.path) {
            var options = ConvertOptions()
            (options.format, options.chunkSize) = (.zstdChunked, chunkSize)
            if prioritized { options.prioritized = ["usr/bin/tool-alias", "usr/lib/big.bin", "top", "srv/hl2"] }
            let result = try LayerConverter.convert(input: layer, options: options)
            let rows = try runChecked(program, [result.path, "\(result.tocDigest)"]).text.split(separator: "\n")
            try check(rows.map(String.init), layer)
        }
    }

    @Test func aWrongDigestIsNoticed() throws {
        let directory = try TemporaryDirectory("go")
        let program = try GoLibrary.build(directory.path)
        let result = try LayerConverter.convert(input: try makeLayers(directory.path)[1])
        #expect(try run(program, [result.path, "\(result.blobDigest)"]).isSuccess == false)
    }

    /// Each entry of the tar with its attributes among the rows of the Go program, each file with its content.
    private func check(_ rows: [String], _ layer: String) throws {
        let rows = Set(rows)
        let files = try readArchive(file: layer)
        var inodes: [[UInt8]: TarFile] = [:]
        for file in files { inodes[cleaned(file.entry.path)] = file }
        for file in files {
            // A hard link is shown as what it links to.
            let inode = file.entry.kind == .hardLink ? inodes[cleaned(file.entry.linkTarget)] ?? file : file
            let entry = inode.entry
            var detail = String(decoding: entry.linkTarget, as: UTF8.self)
            if entry.kind == .regular { detail = "\(unsafe SHA256.digest(of: inode.content.span.bytes))" }
            let name = String(decoding: cleaned(file.entry.path), as: UTF8.self)
            if name.isEmpty { continue }
            let mode = String(entry.mode, radix: 8)
            let row = "\(entry.kind.word) \(mode) \(entry.uid) \(entry.gid) \(entry.size) \(detail) \(name)"
            #expect(rows.contains(row), "\(layer): \(row)")
        }
    }

    private func cleaned(_ path: [UInt8]) -> [UInt8] {
        Array(
            path.split(separator: UInt8(ascii: "/")).filter { !$0.elementsEqual(".".utf8) }.joined(separator: "/".utf8)
        )
    }
}

/// The Go program in Tests/Interop, built in GOPATH mode with what Debian installs.
enum GoLibrary {
    private static let sources = "/usr/share/gocode"

    /// What is missing for it, as a reason to skip; nil when all is there.
    static let missing: String? = {
        let programs = Requirement.all([.program("go"), .program("python3")])
        if let missing = programs.missing { return missing }
        return fileExists("\(sources)/src/github.com/containerd/stargz-snapshotter/estargz/estargz.go")
            ? nil : "needs golang-github-containerd-stargz-snapshotter-dev: run make deps"
    }()

    private static func fileExists(_ path: String) -> Bool { (try? readFile(path, limit: 1 << 24)) != nil }

    /// Builds the program into `directory` and returns its path. Go's own cache makes this fast but for the first time.
    static func build(_ directory: String) throws -> String {
        let program = "\(directory)/estargz-open"
        try runChecked(
            "go",
            ["build", "-o", program, "\(SourceTree.root)/Tests/Interop/estargz-open/main.go"],
            environment: ["GO111MODULE": "off", "GOPATH": sources, "GOFLAGS": "", "GOTOOLCHAIN": "local"],
            seconds: 300
        )
        return program
    }
}
