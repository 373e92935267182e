internal import ArgumentParser
internal import Control
internal import FuseBridge

/// `crfs umount`
struct UnmountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "umount",
        abstract: "Unmount a mount of crfs; its process ends with its last mount.",
        discussion: """
            Where the mount point is in another mount name space (a container's), the crfs that serves it is asked to \
            end it: name its cache directory with --cache-dir then, unless it is the usual one.
            """,
        aliases: ["unmount"]
    )

    @Flag(help: "Detach it now, although something in it is in use; it goes when the last use ends.")
    var lazy = false

    @OptionGroup var directory: CacheDirectoryOption

    @Argument(help: ArgumentHelp("Where it is mounted.", valueName: "mountpoint"))
    var mountPoint: String

    func run() throws {
        let point = absolutePath(mountPoint)
        do throws(FuseError) {
            try unmount(path: point, lazy ? .lazy : .plain)
        } catch {
            let isElsewhere = error.kind == .notMounted || error.kind == .missing
            guard isElsewhere, askOwner(point) else { throw CommandError("\(error)") }
        }
    }

    /// Has the owner end a mount that is not seen here; whether it knew one.
    private func askOwner(_ point: String) -> Bool {
        let request = UnmountRequest(point: point, lazy: lazy)
        let answer: NoValue? = try? ControlChannel(directory: directory.path).call("unmount", request)
        return answer != nil
    }
}
