internal import BlockCodec
internal import OCIModel
internal import PosixIO

/// Why bytes are no profile that can be used: one sentence.
public struct ProfileError: Error, Sendable, CustomStringConvertible {
    /// The sentence.
    public let description: String

    init(_ description: String) { self.description = description }
}

// The file of a profile; docs/profile-format.md has every byte of it.

extension Profile {
    private static let magic = Array("crfsprof".utf8)
    private static let version: UInt32 = 1
    private static let headerBytes = 96
    /// Chunks that are sorted by place, not by use: few enough to keep the order, many enough that they can be
    /// written as small differences.
    static let groupCount = 64
    private static let ageBits: UInt64 = 2

    /// The order that a file keeps: groups by first use, in a group by layer and position.
    var grouped: [Item] {
        var result: [Item] = []
        result.reserveCapacity(items.count)
        var start = 0
        while start < items.count {
            let end = min(start + Profile.groupCount, items.count)
            result += items[start..<end].sorted {
                ($0.place.layer, $0.place.position) < ($1.place.layer, $1.place.position)
            }
            start = end
        }
        return result
    }

    /// The bytes of the file.
    public var encoded: [UInt8] {
        var body: [UInt8] = []
        append(manifest, to: &body)
        append(runs, 4, to: &body)
        append(UInt32(items.count), 4, to: &body)
        append(UInt32(layers.count), 2, to: &body)
        let key = Array(job.utf8.prefix(ProfileLimit.key))
        append(UInt32(key.count), 2, to: &body)
        append(0, 4, to: &body)
        body += key
        for layer in layers {
            append(layer.digest, to: &body)
            append(layer.toc, to: &body)
            append(layer.chunkCount, 4, to: &body)
        }
        let items = grouped
        var start = 0
        while start < items.count {
            let end = min(start + Profile.groupCount, items.count)
            appendGroup(items[start..<end], to: &body)
            start = end
        }
        var result = Profile.magic
        append(Profile.version, 4, to: &result)
        append(0, 4, to: &result)
        append(unsafe SHA256.digest(of: body.span.bytes), to: &result)
        return result + body
    }

    /// One part for each layer of a group.
    private func appendGroup(_ group: ArraySlice<Item>, to body: inout [UInt8]) {
        var start = group.startIndex
        while start < group.endIndex {
            let layer = group[start].place.layer
            let end = group[start...].firstIndex { $0.place.layer != layer } ?? group.endIndex
            appendVariable(UInt64(layer), to: &body)
            appendVariable(UInt64(end - start), to: &body)
            var previous: UInt32 = 0
            for item in group[start..<end] {
                let difference = UInt64(item.place.position - previous)
                appendVariable(difference << Profile.ageBits | UInt64(item.age & 3), to: &body)
                previous = item.place.position
            }
            start = end
        }
    }

    /// Reads a file. Whatever the bytes are, this ends with a profile that keeps to all bounds, or with an error.
    public init(decoding bytes: [UInt8]) throws(ProfileError) {
        guard bytes.count >= Profile.headerBytes, Array(bytes[..<8]) == Profile.magic else {
            throw ProfileError("this is no profile of crfs")
        }
        guard bytes.count <= ProfileLimit.bytes else { throw ProfileError("the profile is larger than 16 MiB") }
        var reader = ByteReader(bytes: bytes, position: 8)
        let version = try reader.number(4)
        guard version == Profile.version else {
            throw ProfileError("the profile is of version \(version); this crfs reads \(Profile.version)")
        }
        _ = try reader.number(4)
        let checksum = try reader.digest()
        guard unsafe SHA256.digest(of: bytes.span.bytes.extracting(48...)) == checksum else {
            throw ProfileError("the profile is damaged: its checksum does not hold")
        }
        manifest = try reader.digest()
        runs = try reader.number(4)
        let itemCount = Int(try reader.number(4))
        let layerCount = Int(try reader.number(2))
        let keyCount = Int(try reader.number(2))
        _ = try reader.number(4)
        job = String(decoding: try reader.bytes(keyCount), as: UTF8.self)
        guard job.isEmpty || Profile.isJobKey(job) else { throw ProfileError("the profile's job key is none") }
        guard layerCount <= ProfileLimit.layers, itemCount <= ProfileLimit.chunks else {
            throw ProfileError("the profile has \(layerCount) layers and \(itemCount) chunks, more than crfs reads")
        }
        layers = []
        for _ in 0..<layerCount {
            let layer = ProfileLayer(
                digest: try reader.digest(),
                toc: try reader.digest(),
                chunkCount: try reader.number(4)
            )
            layers.append(layer)
        }
        items = []
        try readItems(&reader, count: itemCount)
    }

    private mutating func readItems(_ reader: inout ByteReader, count: Int) throws(ProfileError) {
        var seen: Set<ProfilePlace> = []
        while !reader.isAtEnd {
            let number = try reader.variable()
            let partCount = try reader.variable()
            guard number < UInt64(layers.count), partCount > 0, partCount <= UInt64(count - items.count) else {
                throw ProfileError("the profile contradicts itself at byte \(reader.position)")
            }
            var position: UInt64 = 0
            for _ in 0..<partCount {
                let value = try reader.variable()
                position += value >> Profile.ageBits
                let place = ProfilePlace(
                    layer: UInt16(number),
                    position: UInt32(truncatingIfNeeded: position)
                )
                guard position < UInt64(layers[Int(number)].chunkCount), seen.insert(place).inserted else {
                    throw ProfileError("the profile has a chunk that cannot be, at byte \(reader.position)")
                }
                items.append(Item(place, age: min(UInt8(value & 3), ProfileLimit.age - 1)))
            }
        }
        guard items.count == count else { throw ProfileError("the profile is cut off") }
    }
}

private func append(_ digest: Digest, to bytes: inout [UInt8]) {
    for index in 0..<Digest.byteCount { bytes.append(digest[index]) }
}

private func append(_ number: UInt32, _ count: Int, to bytes: inout [UInt8]) {
    for index in 0..<count { bytes.append(UInt8(truncatingIfNeeded: number >> (8 * UInt32(index)))) }
}

/// LEB128: 7 bits a byte, the lowest first, the eighth bit set where more follow.
private func appendVariable(_ number: UInt64, to bytes: inout [UInt8]) {
    var rest = number
    while rest >= 0x80 {
        bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
        rest >>= 7
    }
    bytes.append(UInt8(rest))
}

/// Reads numbers from bytes that may be anything.
private struct ByteReader {
    let bytes: [UInt8]
    var position: Int

    var isAtEnd: Bool { position == bytes.count }

    mutating func bytes(_ count: Int) throws(ProfileError) -> ArraySlice<UInt8> {
        guard count <= bytes.count - position else { throw ProfileError("the profile is cut off") }
        defer { position += count }
        return bytes[position..<position + count]
    }

    mutating func number(_ count: Int) throws(ProfileError) -> UInt32 {
        try bytes(count).reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }

    mutating func digest() throws(ProfileError) -> Digest {
        let part = Array(try bytes(Digest.byteCount))
        return unsafe Digest(part.span.bytes)
    }

    /// At most 40 bits, so that sums of a million of them do not overflow.
    mutating func variable() throws(ProfileError) -> UInt64 {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 40, by: 7) {
            guard position < bytes.count else { throw ProfileError("the profile is cut off") }
            let byte = bytes[position]
            position += 1
            value |= UInt64(byte & 0x7f) << shift
            if byte & 0x80 == 0 { return value }
        }
        throw ProfileError("the profile has a number that is too long, at byte \(position)")
    }
}
