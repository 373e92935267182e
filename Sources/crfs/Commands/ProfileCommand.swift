internal import ArgumentParser
internal import BlobIO
internal import Glibc
internal import ImageFS
internal import LayerFormat
internal import OCIModel
internal import PosixIO

/// `crfs profile`
struct ProfileCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "profile",
        abstract: "Show, copy and remove recorded profiles: what jobs read of images, in which order.",
        discussion: """
            A mount records them and fetches by them the next time. They hold for any machine, so a runner can be given \
            those of another one. All of this works beside a running mount.
            """,
        subcommands: [
            ProfileListCommand.self, ProfileShowCommand.self, ProfileExportCommand.self, ProfileImportCommand.self,
            ProfileRemoveCommand.self,
        ]
    )
}

/// The image and the job of a profile.
struct ProfileChoice: ParsableArguments {
    @OptionGroup var access: AccessOptions
    @OptionGroup var key: JobOption

    @Argument(help: ArgumentHelp("Reference, or digest of an image manifest (sha256:…).", valueName: "image"))
    var image: String

    func validate() throws {
        if Digest(image) == nil && ImageReference(image) == nil {
            throw ValidationError("\(image) is neither a reference nor a digest.")
        }
    }

    var store: ProfileStore { ProfileStore(of: access) }

    /// The profile's key; asks the registry where a tag leads that is not known.
    func profileKey() throws -> ProfileStore.Key {
        ProfileStore.Key(manifest: try manifest(), job: key.job ?? "")
    }

    /// The profile, with what a running mount has read until now.
    func profile() throws -> Profile {
        ProfileRequest.save(access.cacheDirectory)
        let key = try profileKey()
        do throws(ProfileStoreError) {
            return try store.load(key)
        } catch {
            throw CommandError("\(error)")
        }
    }

    /// Files of the chunks, in order of first use.
    func paths(of profile: Profile) throws -> [String] {
        var indexes: [UInt16: LayerIndex] = [:]
        var seen: Set<String> = []
        var result: [String] = []
        for item in profile.items {
            let layer = profile.layers[Int(item.place.layer)]
            if indexes[item.place.layer] == nil {
                let path = "\(access.cacheDirectory)/layers/\(layer.digest.directoryName).idx"
                do throws(LayerFormatError) {
                    indexes[item.place.layer] = try LayerIndex(path: path, layer: layer.digest)
                } catch {
                    throw CommandError("cannot read the index of layer \(layer.digest): \(error); mount the image once")
                }
            }
            guard let index = indexes[item.place.layer], index.tocDigest == layer.toc,
                Int(item.place.position) < index.chunkCount
            else { continue }
            let path = index.path(index.chunk(index.chunkInBlobOrder(Int(item.place.position))).record)
            if seen.insert(path).inserted { result.append(path) }
        }
        return result
    }

    private func manifest() throws -> Digest {
        if let digest = Digest(image) { return digest }
        guard let reference = ImageReference(image) else { throw CommandError("\(image) is no image reference") }
        // A manifest that is named by its digest, and has a profile, needs no registry.
        if let digest = reference.digest, store.keys().contains(where: { $0.manifest == digest }) { return digest }
        let library = try Stack.reading(access, purpose: "profile").library
        let platform = access.platform
        let result = runBlocking { () -> Result<Digest, ImageError> in
            do throws(ImageError) {
                return .success(try await library.manifestDigest(reference, platform: platform))
            } catch {
                return .failure(error)
            }
        }
        switch result {
        case .success(let digest): return digest
        case .failure(let error): throw CommandError("\(reference): \(error)")
        }
    }
}

extension ProfileStore {
    /// Those of the cache directory that the options name, whoever owns it.
    init(of access: AccessOptions) {
        self.init(directory: StateDirectory.profileDirectory(of: access.cacheDirectory))
    }
}

/// `crfs profile list`
struct ProfileListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List all profiles: manifest, job (- without one), runs, chunks, bytes of the file."
    )

    @OptionGroup var access: AccessOptions

    func run() throws {
        ProfileRequest.save(access.cacheDirectory)
        let store = ProfileStore(of: access)
        for key in store.keys() {
            let job = key.job.isEmpty ? "-" : key.job
            do {
                let profile = try store.load(key)
                print(
                    "\(key.manifest) \(job) \(profile.runs) runs \(profile.items.count) chunks \(profile.encoded.count) bytes"
                )
            } catch {
                print("\(key.manifest) \(job) unusable: \(error)")
            }
        }
    }
}

/// `crfs profile show`
struct ProfileShowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Write a profile out: a line for each layer, then one for each chunk in order of first use.",
        discussion:
            "A chunk's line: number of the layer, place in the layer in order of the blob, runs since it was used."
    )

    @OptionGroup var choice: ProfileChoice

    @Flag(
        help: ArgumentHelp(
            "Write the paths of the files instead, each once: a list for crfs convert --prioritize. Needs the indexes of "
                + "the image's layers in the cache."
        )
    )
    var files = false

    func run() throws {
        let profile = try choice.profile()
        var lines = OutputLines()
        func write(_ text: String) throws { try lines.write(Array(text.utf8)) }
        if files {
            for path in try choice.paths(of: profile) { try write(path) }
            return try lines.flush()
        }
        try write("manifest \(profile.manifest)")
        if !profile.job.isEmpty { try write("job \(profile.job)") }
        try write("runs \(profile.runs)")
        for (number, layer) in profile.layers.enumerated() {
            try write("layer \(number) \(layer.digest) toc \(layer.toc) chunks \(layer.chunkCount)")
        }
        for item in profile.items { try write("\(item.place.layer) \(item.place.position) \(item.age)") }
        try lines.flush()
    }
}

/// `crfs profile export`
struct ProfileExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export",
        abstract: "Write a profile to a file, for another machine."
    )

    @OptionGroup var choice: ProfileChoice

    @Argument(help: ArgumentHelp("File to write.", valueName: "file"))
    var file: String

    func run() throws {
        let profile = try choice.profile()
        do throws(SystemError) {
            try unsafe replaceFile(absolutePath(file), with: profile.encoded.span.bytes, mode: 0o644)
        } catch {
            throw CommandError("\(error)")
        }
    }
}

/// `crfs profile import`
struct ProfileImportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import",
        abstract: "Take a profile that was exported, in place of one of the same image and job.",
        discussion: "The file says which image it is for; --job puts it under another key."
    )

    @OptionGroup var access: AccessOptions
    @OptionGroup var key: JobOption

    @Argument(help: ArgumentHelp("File to read.", valueName: "file"))
    var file: String

    func run() throws {
        do {
            var profile = try ProfileStore.load(absolutePath(file))
            if let job = key.job { profile.job = job }
            try makeDirectories(access.cacheDirectory, mode: 0o700)
            try ProfileStore(of: access).write(profile)
            print("\(profile.manifest) \(profile.job.isEmpty ? "-" : profile.job) \(profile.items.count) chunks")
        } catch {
            throw CommandError("\(error)")
        }
    }
}

/// `crfs profile remove`
struct ProfileRemoveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Remove a profile; a mount that records it now starts a new one."
    )

    @OptionGroup var choice: ProfileChoice

    func run() throws {
        let key = try choice.profileKey()
        do {
            guard try choice.store.remove(key) else {
                throw CommandError("there is no profile of \(key.manifest)\(key.job.isEmpty ? "" : " for \(key.job)")")
            }
        } catch let error as SystemError {
            throw CommandError("\(error)")
        }
    }
}
