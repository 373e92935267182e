import BlobIO
import OCIModel
import PosixIO
import TestSupport
import Testing

@testable import ImageFS

@Suite("The profiles of a cache directory")
struct ProfileStoreTests {
    private let manifest = Digest(words: (1, 2, 3, 4))

    @Test(
        "each key has its file, and its file the key",
        arguments: ["", "a", "ci/build:1", "%41", "~", "..", "-._", String(repeating: "/", count: 60)]
    )
    func names(job: String) throws {
        let key = ProfileStore.Key(manifest: manifest, job: job)
        let name = ProfileStore.fileName(key)
        #expect(name.utf8.count <= 255 && !name.contains("/"))
        #expect(ProfileStore.key(fileName: name) == key)
    }

    @Test(
        "other files are nobody's",
        arguments: ["lock", "sha256-ab", "sha256-\(String(repeating: "ab", count: 32))~"]
    )
    func foreign(name: String) {
        #expect(ProfileStore.key(fileName: name) == nil)
        #expect(ProfileStore.key(fileName: name + ".tmp-1-2") == nil)
    }

    @Test("what is written is found, listed and removed; what is damaged is absent")
    func files() throws {
        let directory = try TemporaryDirectory("profiles")
        let store = ProfileStore(directory: directory.file("profiles"))
        #expect(store.keys().isEmpty)
        var profile = Profile(manifest: manifest, job: "ci/x")
        profile.layers = [ProfileLayer(digest: manifest, toc: manifest, chunkCount: 9)]
        profile.items = [Profile.Item(ProfilePlace(layer: 0, position: 8))]
        try store.write(profile)
        let key = ProfileStore.Key(manifest: manifest, job: "ci/x")
        #expect(store.read(key) == profile)
        #expect(store.keys() == [key])
        #expect(store.read(ProfileStore.Key(manifest: manifest, job: "")) == nil)
        let path = "\(store.directory)/\(ProfileStore.fileName(key))"
        // Under another key's name it is not that key's.
        try runChecked("cp", [path, "\(store.directory)/\(manifest.directoryName)"])
        #expect(store.read(ProfileStore.Key(manifest: manifest, job: "")) == nil)
        try Descriptor.open(path, 1).truncate(to: 50)
        #expect(store.read(key) == nil)
        let error = #expect(throws: ProfileStoreError.self) { try store.load(key) }
        #expect(error?.description.contains(path) == true)
        #expect(try store.remove(key))
        #expect(try !store.remove(key))
    }
}
