/// A containerd of the test's own, without the CRI plugin, with all its files and sockets in one directory.
public final class PrivateContainerd {
    private let process: BackgroundProcess
    private let socket: String

    /// Starts it, and waits until it answers.
    public init(_ directory: String) throws {
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
            # No collection: nothing refers to the layers that a test puts in.
            [plugins."io.containerd.gc.v1.scheduler"]
              startup_delay = "1h"
              mutation_threshold = 1000000

            """
        try writeFile("\(directory)/containerd.toml", configuration)
        let log = "\(directory)/containerd.log"
        let process = try BackgroundProcess("containerd", ["--config", "\(directory)/containerd.toml"], log: log)
        self.process = process
        let started = waitUntil(seconds: 60) {
            !process.isRunning || (try? run("ctr-remote", ["-a", socket, "version"]))?.isSuccess == true
        }
        guard started, process.isRunning else {
            throw CommandFailure(description: "containerd did not start:\n\((try? text(of: log)) ?? "")")
        }
    }

    deinit { process.terminate() }

    /// Runs ctr-remote, with a file as its input or none, and returns what it prints.
    @discardableResult
    public func control(_ arguments: [String], input: String = "/dev/null") throws -> String {
        let script = "input=$1; shift; exec ctr-remote \"$@\" <\"$input\""
        return try runChecked("sh", ["-ec", script, "sh", input, "-a", socket] + arguments).text
    }

    /// What `images convert` with these options makes of the corpus image without an index: an OCI layout in
    /// `directory`, whose tag is `tag`.
    public func converted(_ options: [String], as tag: String, in directory: borrowing TemporaryDirectory) throws
        -> String
    {
        try runChecked("tar", ["-cf", directory.file("gzip.tar"), "-C", Corpus.layout("gzip"), "."])
        try control(["images", "import", "--no-unpack", "--base-name", "made.test/basic", directory.file("gzip.tar")])
        try control(["images", "convert", "--oci"] + options + ["made.test/basic:gzip", "made.test/basic:\(tag)"])
        try control(["images", "export", directory.file("made.tar"), "made.test/basic:\(tag)"])
        let layout = try directory.makeDirectory("made")
        try runChecked("tar", ["-xf", directory.file("made.tar"), "-C", layout])
        return layout
    }
}
