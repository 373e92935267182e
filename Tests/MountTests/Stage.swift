import PosixIO
import TestSupport
import Testing

extension Trait where Self == ConditionTrait {
    /// Skips, with the reason, where a requirement is not met (see `Requirement`). The suite's `init` calls `orFail`.
    static func needs(_ requirement: Requirement) -> Self {
        .enabled(if: requirement.runs, Comment(rawValue: requirement.reason))
    }
}

/// The formats of the corpus that are mounted.
let mountableFormats = [
    "estargz", "estargz-prefetch", "estargz-min64k", "estargz-exttoc", "stargz-legacy", "zstdchunked-ctr",
    "zstdchunked-skopeo",
]

/// What a TOC in JSON cannot carry (Tests/Corpus/README.md).
let tocFlags = ["--toc", "--sec"]

/// The same for a format of the corpus: the containers tools write nanoseconds.
func tocFlags(_ format: String) -> [String] { format == "zstdchunked-skopeo" ? ["--toc"] : tocFlags }

extension RegistryServer {
    /// Pushes a corpus image, and its TOC image where it has one.
    func pushWithTOC(_ format: String) throws {
        try pushCorpus(format)
        guard format == "estargz-exttoc" else { return }
        let tag = "\(format)-esgztoc"
        try push(layout: Corpus.layout(format), tag: tag, to: "corpus:\(tag)")
    }
}

/// A registry with images, and a mount that may look at it.
struct Stage {
    let registry: RegistryServer
    let mount: CrfsMount

    /// Starts a registry, pushes corpus images to `corpus:<format>`, and mounts.
    init(
        _ formats: [String] = ["estargz"],
        transport: RegistryServer.Transport = .plain,
        local: String? = nil,
        arguments: [String] = []
    ) throws {
        registry = try RegistryServer(transport)
        for format in formats { try registry.pushWithTOC(format) }
        let trust = transport == .tls ? ["--ca-file", registry.certificateAuthority] : []
        mount = try CrfsMount(local: local, arguments: trust + arguments)
    }

    /// `images/<host>/<rest>` in the mount.
    func image(_ rest: String) -> String { mount.path("images/\(registry.host)/\(rest)") }

    /// `layers/<host>/<rest>` in the mount.
    func layers(_ rest: String) -> String { mount.path("layers/\(registry.host)/\(rest)") }
}

/// Expects an image of the corpus's three layers to be what it is made of, in the image view and in those of its layers.
func expectBothViews(_ stage: Stage, _ image: String, _ flags: [String] = tocFlags) throws {
    try expectTree(stage.image(image), is: "merged", flags: ["--native"] + flags)
    for number in 0..<3 {
        try expectTree(
            stage.layers("\(image)/\(number)"),
            is: "layer\(number + 1)",
            flags: ["--layer", "--native"] + flags
        )
    }
}

/// The same, and what a kernel overlayfs makes of the layers.
func expectAllViews(_ stage: Stage, _ image: String, _ flags: [String] = tocFlags) throws {
    try expectBothViews(stage, image, flags)
    let overlay = try LayerOverlay((0..<3).map { stage.layers("\(image)/\($0)") })
    try expectTree(overlay.path, is: "merged", flags: flags)
}

/// A value of the JSON that a command writes, as Python sees it: `value` is an expression in `d`.
func json(_ result: ProcessResult, _ value: String) throws -> String {
    #expect(result.isSuccess, "\(result)")
    let program = "import json,sys; d=json.load(sys.stdin); print(\(value))"
    let answer = try run("python3", ["-c", program], input: result.output)
    #expect(answer.isSuccess, "\(answer)")
    return String(answer.text.dropLast())
}

/// The same of what `crfs status` says of a cache directory's daemon.
func status(_ cache: String, _ value: String) throws -> String {
    try json(CrfsProgram.run(["status", "--json", "--cache-dir", cache]), value)
}

/// Expects the tree at `root` to be exactly the manifest's.
func expectTree(
    _ root: String,
    is manifest: String,
    flags: [String],
    sourceLocation: SourceLocation = #_sourceLocation
) throws {
    let result = try Corpus.verify(root, is: manifest, flags: flags)
    #expect(result.isSuccess, "\(result)", sourceLocation: sourceLocation)
}

/// Expects a failure with one of these error numbers.
func expectError(
    _ expected: CInt...,
    sourceLocation: SourceLocation = #_sourceLocation,
    _ body: () throws(SystemError) -> Void
) {
    let code = errorNumber(body)
    #expect(
        code.map { expected.contains($0) } ?? false,
        "got \(code.map(describeErrno) ?? "no error"), expected \(expected.map(describeErrno))",
        sourceLocation: sourceLocation
    )
}

/// lstat(2) without the result.
func look(_ path: String) throws(SystemError) { _ = try FileStatus(path) }

/// Size and SHA-256 of a file, by sha256sum(1).
func fingerprint(_ path: String) throws -> Reader.Outcome {
    let size = try Int(FileStatus(path).size)
    let sum = try runChecked("sha256sum", [path]).text.prefix(64)
    return .read(size: size, sha256: String(sum))
}
