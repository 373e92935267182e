internal import Control
internal import ImageFS
internal import PosixIO

/// What `crfs profile` asks of the owner of a cache directory: the files themselves are anybody's to read and replace.
struct ProfileRequest: Codable, Sendable {
    enum Action: String, Codable, Sendable {
        /// Write down what was read until now.
        case save
    }

    var action: Action

    /// Asks the owner, if there is one. What it cannot be asked is as it last wrote it down.
    static func save(_ directory: String) {
        guard let channel = try? ControlChannel(directory: directory) else { return }
        let _: NoValue? = try? channel.call("profile", ProfileRequest(action: .save))
    }
}

extension Owner {
    /// Has all mounts write down what was read.
    func saveProfiles() {
        let fileSystems = mounts.map(\.fileSystem)
        runBlocking {
            for fileSystem in fileSystems { await fileSystem.saveProfiles() }
        }
    }
}
