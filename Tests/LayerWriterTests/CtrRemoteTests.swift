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
        let daemon = try Containerd(directory.path)
        defer { daemon.stop() }
        for layer in ["L1", "L2", "L3"] {
            let result = try LayerConverter.convert(input: directory.file("\(layer).tar"))
            let blob = "\(result.blobDigest)"
            try daemon.control("content ingest --expected-digest \(blob) \(layer) <'\(result.path)'")
            #expect(try daemon.control("image get-toc-digest \(blob)") == "\(result.tocDigest)\n")
        }
    }
}

/// A containerd whose files and sockets are all in one directory.
private final class Containerd {
    private let process: BackgroundProcess
    private let socket: String

    init(_ directory: String) throws {
        let socket = "\(directory)/containerd.sock"
        self.socket = socket
        let configuration = """
            version = 2
            root = "\(directory)/root"
            state = "\(directory)/state"
            disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
            [grpc]
              address = "\(socket)"
            [ttrpc]
              address = "\(directory)/ttrpc.sock"
            # No collection: nothing refers to the layers that the test puts in.
            [plugins."io.containerd.gc.v1.scheduler"]
              startup_delay = "1h"
              mutation_threshold = 1000000

            """
        try writeFile("\(directory)/containerd.toml", Array(configuration.utf8))
        let log = "\(directory)/containerd.log"
        let process = try BackgroundProcess("containerd", ["--config", "\(directory)/containerd.toml"], log: log)
        self.process = process
        let started = waitUntil(seconds: 60) {
            !process.isRunning || (try? run("ctr-remote", ["-a", socket, "version"]))?.isSuccess == true
        }
        guard started, process.isRunning else {
            let said = String(decoding: (try? fileBytes(log)) ?? [], as: UTF8.self)
            throw CommandFailure(description: "containerd did not start:\n\(said)")
        }
    }

    func stop() { process.terminate() }

    /// Runs a command of ctr-remote and returns what it prints.
    @discardableResult
    func control(_ command: String) throws -> String {
        try runChecked("sh", ["-ec", "ctr-remote -a '\(socket)' \(command)"]).text
    }
}
