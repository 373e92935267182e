internal import ArgumentParser
internal import FuseBridge

/// `crfs umount`
struct UnmountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "umount",
        abstract: "Unmount a mount of crfs; its process ends.",
        aliases: ["unmount"]
    )

    @Flag(help: "Detach it now, although something in it is in use; it goes when the last use ends.")
    var lazy = false

    @Argument(help: ArgumentHelp("Where it is mounted.", valueName: "mountpoint"))
    var mountPoint: String

    func run() throws {
        do throws(FuseError) {
            try unmount(path: absolutePath(mountPoint), lazy ? .lazy : .plain)
        } catch {
            throw CommandError("\(error)")
        }
    }
}
