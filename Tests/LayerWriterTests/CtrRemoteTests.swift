import LayerWriter
import PosixIO
import TestSupport
import Testing

private let requirement = Requirement.all([.root, .program("containerd"), .program("ctr-remote"), .program("python3")])

/// stargz-snapshotter's own client on what the converter writes, through a containerd of the test's own.
@Suite(.enabled(if: requirement.runs, Comment(rawValue: requirement.reason)))
struct CtrRemoteTests {
    init() throws { try requirement.orFail() }

    @Test func ctrRemoteFindsTheSameTOCDigest() throws {
        let directory = try TemporaryDirectory("ctr")
        try runChecked("python3", ["\(Corpus.directory)/mkbasic.py", directory.path])
        let daemon = try PrivateContainerd(directory.path)
        for layer in ["L1", "L2", "L3"] {
            let result = try LayerConverter.convert(input: directory.file("\(layer).tar"))
            let blob = "\(result.blobDigest)"
            try daemon.control(["content", "ingest", "--expected-digest", blob, layer], input: result.path)
            #expect(try daemon.control(["image", "get-toc-digest", blob]) == "\(result.tocDigest)\n")
        }
    }
}
