public import OCIModel
internal import PosixIO

/// Options of one mount's tree.
public struct FileSystemOptions: Sendable {
    /// Which manifest of an index the tree shows.
    public var platform: Platform = .host
    /// The directory whose layer files `layers/local` lists; an absolute path.
    public var localDirectory: String
    /// Hosts to list beside the usual ones.
    public var listedHosts: [RegistryHost] = []
    /// Patterns (fnmatch(3)) of the hosts that the tree shows; empty: all.
    public var allowedHosts: [String] = []
    /// Mode bits of the mount's root; nil: 0755, or where the root is an image what that says.
    public var rootMode: UInt32?
    /// Group of the mount's root; nil: 0, or where the root is an image what that says.
    public var rootGroup: UInt32?
    /// Show `user.overlay.opaque` beside `trusted.overlay.opaque`.
    public var userXattr = false
    /// What is fetched ahead of readers and taken down of them; nil: nothing (commands that only look).
    public var prefetch: PrefetchPolicy?
    /// The text of README-crfs.txt.
    public var readme: String

    /// Makes options with the given text and local directory.
    public init(localDirectory: String, readme: String) {
        self.localDirectory = localDirectory
        self.readme = readme
    }
}
