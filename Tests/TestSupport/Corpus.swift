internal import PosixIO

/// Where things of this package are.
public enum SourceTree {
    /// The package's top directory.
    public static let root: String = {
        // Tests/TestSupport/Corpus.swift
        var parts = #filePath.split(separator: "/", omittingEmptySubsequences: false)
        parts.removeLast(3)
        return parts.joined(separator: "/")
    }()

    /// A file that belongs to the test support, e.g. a helper program.
    public static func testSupport(_ name: String) -> String { "\(root)/Tests/TestSupport/\(name)" }
}

/// The test images of `Tests/Corpus`.
public enum Corpus {
    /// The directory of the corpus.
    public static let directory = "\(SourceTree.root)/Tests/Corpus"

    /// The OCI layout of a format: `estargz`, `stargz-legacy` … (its tag has the same name).
    public static func layout(_ format: String) -> String { "\(directory)/\(format).oci" }

    /// A manifest of expected rows: `merged`, `layer1`, `layer2`, `layer3`.
    public static func manifest(_ name: String) -> String { "\(directory)/manifest/\(name).jsonl" }

    /// The program that compares a tree with a manifest.
    public static let verifier = "\(directory)/verify.py"

    /// Compares the tree at `root` with a manifest.
    ///
    /// - Parameters:
    ///   - manifest: `merged` or `layerN`.
    ///   - flags: those of verify.py.
    /// - Returns: the `DIFF` lines and the closing line, with the exit status.
    public static func verify(_ root: String, is manifest: String, flags: [String]) throws -> ProcessResult {
        try run("python3", [verifier, self.manifest(manifest), root] + flags, seconds: 300)
    }
}
