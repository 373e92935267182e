internal import Glibc

/// A list of xattrs as builder and index file hold it, little-endian and without padding: a 32-bit count, then for each
/// a 16-bit length of the name, a 32-bit length of the value, the name, the value.
enum XattrList {
    /// `trusted.overlay.…` and `user.overlay.…` speak to overlayfs, never to the reader of an image.
    static func isOverlay(_ name: UnsafeRawBufferPointer) -> Bool {
        unsafe name.starts(with: "trusted.overlay.".utf8) || name.starts(with: "user.overlay.".utf8)
    }

    /// Appends a list to a builder's bytes.
    struct Writer {
        /// Where the list starts in the builder's bytes.
        let start: Int
        private(set) var count: UInt32 = 0

        init(_ bytes: inout [UInt8]) {
            start = bytes.count
            bytes.append(contentsOf: [0, 0, 0, 0])
        }

        /// Appends one xattr; false when the value is not base64 or too long. A name that is there already is
        /// replaced.
        mutating func append(
            _ name: UnsafeRawBufferPointer,
            base64 value: UnsafeRawBufferPointer,
            to bytes: inout [UInt8]
        ) -> Bool {
            unsafe removeEarlier(name, from: &bytes)
            let head = bytes.count
            bytes.append(contentsOf: [UInt8(truncatingIfNeeded: name.count), 0, 0, 0, 0, 0])
            unsafe bytes.append(contentsOf: name)
            let valueStart = bytes.count
            guard unsafe TOCText.decodeBase64(Span(_unsafeBytes: value), into: &bytes) else { return false }
            let valueCount = bytes.count - valueStart
            guard valueCount <= FormatLimit.xattrValueBytes else { return false }
            for index in 0..<4 { bytes[head + 2 + index] = UInt8(truncatingIfNeeded: valueCount >> (8 * index)) }
            setCount(count + 1, &bytes)
            return true
        }

        /// Appends one xattr with its value as it is; false when the value is too long. A name that is there already is
        /// replaced.
        mutating func append(
            _ name: UnsafeRawBufferPointer,
            value: UnsafeRawBufferPointer,
            to bytes: inout [UInt8]
        ) -> Bool {
            guard value.count <= FormatLimit.xattrValueBytes else { return false }
            unsafe removeEarlier(name, from: &bytes)
            bytes.append(contentsOf: [UInt8(truncatingIfNeeded: name.count), 0])
            for index in 0..<4 { bytes.append(UInt8(truncatingIfNeeded: value.count >> (8 * index))) }
            unsafe bytes.append(contentsOf: name)
            unsafe bytes.append(contentsOf: value)
            setCount(count + 1, &bytes)
            return true
        }

        private mutating func setCount(_ value: UInt32, _ bytes: inout [UInt8]) {
            count = value
            for index in 0..<4 { bytes[start + index] = UInt8(truncatingIfNeeded: value >> UInt32(8 * index)) }
        }

        /// JSON objects can name a key twice.
        private mutating func removeEarlier(_ name: UnsafeRawBufferPointer, from bytes: inout [UInt8]) {
            var at = start + 4
            for _ in 0..<count {
                let nameCount = Int(bytes[at])
                let valueCount = (0..<4).reduce(0) { $0 | Int(bytes[at + 2 + $1]) << (8 * $1) }
                let end = at + 6 + nameCount + valueCount
                if nameCount == name.count, unsafe bytes[(at + 6)..<(at + 6 + nameCount)].elementsEqual(name) {
                    bytes.removeSubrange(at..<end)
                    setCount(count - 1, &bytes)
                    return
                }
                at = end
            }
        }
    }
}
