internal import PosixIO

/// Where a body goes: one block, allocated for what is expected, and grown (never past the limit) for what was not
/// announced.
struct BodyBuffer: ~Copyable {
    private var storage: UniqueBytes?
    private(set) var count = 0
    private var capacity = 0

    /// Allocates for `expected` bytes; false when the system has no memory for them.
    mutating func reserve(_ expected: Int) -> Bool {
        guard let block = UniqueBytes(trying: expected) else { return false }
        storage = consume block
        capacity = expected
        count = 0
        return true
    }

    /// Adds bytes; false when the system has no memory for them.
    mutating func append(_ bytes: UnsafeRawBufferPointer, limit: Int) -> Bool {
        guard let source = bytes.baseAddress, bytes.count > 0 else { return true }
        precondition(bytes.count <= limit - count)
        if bytes.count > capacity - count, !grow(toHold: count + bytes.count, limit: limit) { return false }
        let offset = count
        // SAFETY: `grow` made room for the bytes behind `offset`.
        unsafe storage?.withUnsafeMutableCapacity { buffer in
            unsafe buffer.baseAddress?.advanced(by: offset).copyMemory(from: source, byteCount: bytes.count)
        }
        count += bytes.count
        return true
    }

    private mutating func grow(toHold needed: Int, limit: Int) -> Bool {
        let doubled = capacity.multipliedReportingOverflow(by: 2)
        let wanted = min(limit, max(needed, doubled.overflow ? needed : doubled.partialValue, 16384))
        guard var block = UniqueBytes(trying: wanted) else { return false }
        if let old = storage.take() {
            let count = count
            // SAFETY: both blocks hold `count` bytes and are different allocations.
            unsafe block.withUnsafeMutableCapacity { buffer in
                unsafe old.span.withUnsafeBytes { bytes in
                    unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
                }
            }
        }
        storage = consume block
        capacity = wanted
        return true
    }

    /// Gives the bytes away; the buffer is empty afterwards.
    mutating func take() -> UniqueBytes {
        var bytes = storage.take() ?? UniqueBytes(capacity: 0)
        bytes.truncate(to: min(count, bytes.capacity))
        count = 0
        capacity = 0
        return bytes
    }
}
