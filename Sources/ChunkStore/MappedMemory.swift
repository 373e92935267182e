internal import CShims

/// Reads memory that may be a mapping of a file, under a guard: a page that cannot be read gives false, not a SIGBUS.
enum MappedMemory {
    /// Copies `input` into `output`, which is as long.
    static func copy(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Bool {
        precondition(input.count == output.count)
        guard let from = input.baseAddress, let to = output.baseAddress else { return true }
        return unsafe crfs_mapped_copy(to, from, input.count) == 1
    }

    /// Reads a byte of every page.
    static func touch(_ input: UnsafeRawBufferPointer) -> Bool {
        guard let from = input.baseAddress else { return true }
        return unsafe crfs_mapped_touch(from, input.count) == 1
    }

    /// CRC-32 in the low half, Adler-32 in the high half.
    static func checksum(_ input: UnsafeRawBufferPointer) -> UInt64? {
        guard let from = input.baseAddress else { return 1 << 32 }
        var checksum: UInt64 = 0
        return unsafe crfs_mapped_checksum(from, input.count, &checksum) == 1 ? checksum : nil
    }

    /// Unpacks an LZ4 block that fills `output`; false also when it is damaged.
    static func unpack(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Bool {
        unsafe crfs_mapped_lz4_decompress(input.baseAddress, input.count, output.baseAddress, output.count) == 1
    }

    /// CRC-32 of memory of our own.
    static func crc32(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        unsafe crfs_crc32(bytes.baseAddress, bytes.count)
    }
}
