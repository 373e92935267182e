internal import BlockCodec
internal import Glibc
internal import OCIModel
internal import PosixIO

/// An image layout on disk (OCI image specification, "Image Layout"): blobs by digest, and an index of what has a tag.
struct OCILayout: Sendable {
    /// The most that an index, a manifest or a configuration may have, in bytes.
    private static let documentLimit = 32 << 20
    private static let tagAnnotation = "org.opencontainers.image.ref.name"
    private static let version = #"{"imageLayoutVersion":"1.0.0"}"#

    let directory: String

    /// Makes the directories of a layout where they are missing.
    func create() throws(ImageConvertError) {
        do throws(SystemError) {
            try makeDirectories(blobDirectory, mode: 0o755)
            let marker = "\(directory)/oci-layout"
            if unsafe access(marker, F_OK) != 0 {
                try unsafe replaceFile(marker, with: Array(OCILayout.version.utf8).span.bytes, mode: 0o644)
            }
        } catch {
            throw ImageConvertError(error, "the image layout \(directory) cannot be written")
        }
    }

    var blobDirectory: String { "\(directory)/blobs/sha256" }

    func path(of digest: Digest) -> String { "\(blobDirectory)/\(digest.hex)" }

    /// What a tag leads to; without a tag the only image.
    func descriptor(tag: String?) throws(ImageConvertError) -> ContentDescriptor {
        let document = try index()
        let parsed: ManifestDocument
        do throws(ManifestError) {
            parsed = try ManifestDocument(json: document.json, mediaType: MediaType.ociIndex)
        } catch {
            throw ImageConvertError(error, "\(directory)/index.json")
        }
        guard case .index(let index) = parsed else {
            throw ImageConvertError("\(directory)/index.json is no image index")
        }
        let entries = index.manifests
        guard let tag else {
            guard entries.count == 1 else {
                throw ImageConvertError("\(directory) has \(entries.count) images: name one, as oci:\(directory):TAG")
            }
            return entries[0]
        }
        guard let found = entries.first(where: { $0.annotations[OCILayout.tagAnnotation] == tag }) else {
            throw ImageConvertError("\(directory)/index.json has no image with the tag \(tag)")
        }
        return found
    }

    /// Makes a tag lead to a manifest or index that is in the layout.
    func set(tag: String, to descriptor: ContentDescriptor) throws(ImageConvertError) {
        let hasIndex = unsafe access("\(directory)/index.json", F_OK) == 0
        var document: JSONValue = .object([
            "schemaVersion": .integer(2), "mediaType": .string(MediaType.ociIndex),
        ])
        if hasIndex { document = try index() }
        var entries = document["manifests"]?.elements ?? []
        entries.removeAll { $0["annotations"]?[OCILayout.tagAnnotation]?.text == tag }
        var entry = descriptor.json
        entry["annotations"] = .object([OCILayout.tagAnnotation: .string(tag)])
        document["manifests"] = .array(entries + [entry])
        try write(document.json, "\(directory)/index.json")
    }

    private func index() throws(ImageConvertError) -> JSONValue {
        let bytes: [UInt8]
        do throws(SystemError) {
            bytes = try readFile("\(directory)/index.json", limit: OCILayout.documentLimit).array
        } catch {
            throw ImageConvertError(error, "\(directory) cannot be read as an OCI image layout")
        }
        do throws(ManifestError) {
            return try JSONValue(json: bytes)
        } catch {
            throw ImageConvertError(error, "\(directory)/index.json")
        }
    }

    /// A manifest, index or configuration, checked against its digest.
    func document(_ digest: Digest) throws(ImageConvertError) -> [UInt8] {
        let bytes: SharedBytes
        do throws(SystemError) {
            bytes = try readFile(path(of: digest), limit: OCILayout.documentLimit)
        } catch {
            throw ImageConvertError(error, "the layout \(directory) is not complete")
        }
        guard SHA256.digest(of: bytes.span) == digest else { throw damaged(digest) }
        return bytes.array
    }

    /// The path of a blob, whose content has been checked against its digest.
    func checkedBlob(_ digest: Digest) throws(ImageConvertError) -> String {
        let found: Digest?
        do throws(SystemError) {
            let file = try Descriptor.open(path(of: digest))
            if try file.status().st_size > 0 {
                let bytes = try Mapping(file)
                found = SHA256.digest(of: bytes.span)
            } else {
                found = nil
            }
        } catch {
            throw ImageConvertError(error, "the layout \(directory) is not complete")
        }
        guard found == digest else { throw damaged(digest) }
        return path(of: digest)
    }

    private func damaged(_ digest: Digest) -> ImageConvertError {
        ImageConvertError("\(path(of: digest)) is damaged: its content has another digest")
    }

    /// Puts a manifest, index or configuration into the layout.
    func write(document bytes: [UInt8], digest: Digest) throws(ImageConvertError) {
        try write(bytes, path(of: digest))
    }

    private func write(_ bytes: [UInt8], _ path: String) throws(ImageConvertError) {
        do throws(SystemError) {
            try unsafe replaceFile(path, with: bytes.span.bytes, mode: 0o644)
        } catch {
            throw ImageConvertError(error, "the image layout \(directory) cannot be written")
        }
    }

    /// Makes a file that stands in the layout's blob directory the blob of its digest.
    func adopt(_ file: String, as digest: Digest) throws(ImageConvertError) {
        guard unsafe rename(file, path(of: digest)) == 0 else {
            throw ImageConvertError(
                SystemError.last("rename", path: path(of: digest)),
                "the image layout \(directory) cannot be written"
            )
        }
    }
}
