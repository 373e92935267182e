import BlockCodec
import LayerFormat
import TestSupport
import Testing

/// What the tar reader makes of archives of other programs.
@Suite(.enabled(if: Requirement.program("python3").runs, "needs python3 as the other reader"))
struct ForeignTarTests {
    /// A tree with something of everything that a user who is not root can make.
    private static func makeTree(_ directory: String) throws {
        try runChecked(
            "sh",
            [
                "-ec",
                """
                mkdir -p tree/dir/sub tree/empty.dir; cd tree
                printf 'hello\\n' >dir/file; ln dir/file dir/sub/hard; ln -s ../dir/file dir/sym; : >empty
                mkfifo pipe; chmod 4755 dir/file; chmod 1777 empty.dir
                touch -d '2001-02-03 04:05:06.789' dir/file; touch -d @0 empty
                head -c 70000 /dev/zero >zeros; printf 'umlaut' >'grö ße'
                truncate -s 3000000 sparse; printf data | dd of=sparse bs=1 seek=1500000 conv=notrunc 2>/dev/null
                """,
            ],
            directory: directory
        )
    }

    @Test(arguments: ["v7", "oldgnu", "gnu", "ustar", "posix"])
    func dialectsOfGNUTarAreReadAsPythonReadsThem(format: String) throws {
        let directory = try TemporaryDirectory("tar")
        try Self.makeTree(directory.path)
        // v7 has no type for pipes.
        try runChecked(
            "tar",
            ["--format=\(format)", "--sort=name", "-cf", "t.tar"] + (format == "v7" ? ["--exclude=pipe"] : []) + [
                "tree"
            ],
            directory: directory.path
        )
        let files = try readArchive(file: directory.file("t.tar"))
        #expect(files.map(listLine) == (try pythonListing(directory.file("t.tar"))))
        #expect(files.count == (format == "v7" ? 11 : 12))
    }

    @Test(arguments: ["--format=posix", "--format=gnu"])
    func longNamesAndLinkTargetsOfGNUTar(format: String) throws {
        let directory = try TemporaryDirectory("tar")
        let name = String(repeating: "n", count: 200)
        try runChecked(
            "sh",
            [
                "-ec",
                "mkdir -p tree/\(name); printf x >tree/\(name)/\(name); ln tree/\(name)/\(name) tree/h; ln -s \(name)/\(name) tree/s",
            ],
            directory: directory.path
        )
        try runChecked("tar", [format, "--sort=name", "-cf", "t.tar", "tree"], directory: directory.path)
        let files = try readArchive(file: directory.file("t.tar"))
        #expect(files.map(listLine) == (try pythonListing(directory.file("t.tar"))))
        #expect(files.contains { $0.entry.path.count > 400 })
    }

    @Test(arguments: ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"])
    func sparseFilesOfGNUTarAreReadInFull(version: String) throws {
        let directory = try TemporaryDirectory("tar")
        // More segments than a header block holds (4) and than the block behind it (21).
        try runChecked(
            "sh",
            [
                "-ec",
                """
                truncate -s 9000001 many; i=0; while [ $i -lt 40 ]; do
                printf "segment $i" | dd of=many bs=1 seek=$((i * 200000)) conv=notrunc 2>/dev/null; i=$((i+1)); done
                truncate -s 5000000 hole; printf first >start; truncate -s 4000000 start; printf 'next file' >next
                """,
            ],
            directory: directory.path
        )
        let format = version.hasPrefix("--sparse") ? ["--format=posix", version] : [version]
        try runChecked(
            "tar",
            format + ["-S", "-cf", "t.tar", "many", "hole", "start", "next"],
            directory: directory.path
        )
        let files = try readArchive(file: directory.file("t.tar"))
        #expect(files.map(\.entry.path) == ["many", "hole", "start", "next"].map { Array($0.utf8) })
        for (file, name) in zip(files, ["many", "hole", "start", "next"]) {
            #expect(file.content == (try fileBytes(directory.file(name))), "\(name)")
        }
        #expect(files[0].entry.holeBytes > 1_000_000)
        #expect(files[1].entry.holeBytes == 5_000_000)
        #expect(files[3].entry.holeBytes == 0)
    }

    @Test func theLayersOfTheCorpusAreReadAsPythonReadsThem() throws {
        let directory = try TemporaryDirectory("tar")
        try runChecked("python3", ["\(Corpus.directory)/mkbasic.py", directory.path])
        for layer in ["L1.tar", "L2.tar", "L3.tar"] {
            let files = try readArchive(file: directory.file(layer))
            #expect(files.map(listLine) == (try pythonListing(directory.file(layer))), "\(layer)")
        }
    }

    @Test func headersThatWeWriteAreReadByPythonAndGNUTar() throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        let directory = try TemporaryDirectory("tar")
        var layer = RandomLayer(seed: seed)
        let files = layer.files(150)
        try writeFile(directory.file("t.tar"), archive(files))
        #expect(try pythonListing(directory.file("t.tar")) == files.map(pythonView), "seed \(seed)")
        let listed = try run("tar", ["--quoting-style=escape", "-tf", directory.file("t.tar")])
        let complaints = Set(listed.errorText.split(separator: "\n"))
        #expect(complaints.isEmpty && listed.isSuccess, Comment(rawValue: "seed \(seed): \(complaints)"))
        #expect(listed.text.split(separator: "\n").count == files.count, "seed \(seed)")
    }

    /// Python reads `%25` and `%3D` in the name of an xattr as they stand.
    private func pythonView(_ file: TarFile) -> String {
        var file = file
        for index in file.entry.xattrs.indices {
            file.entry.xattrs[index].name = Array("user.%25%3D\(index)".utf8)
        }
        return listLine(file)
    }
}
