internal import Glibc

/// A block of memory with one owner. What is written into it is shared later, without a copy, by `share`.
@safe
public struct UniqueBytes: ~Copyable, @unchecked Sendable {
    // SAFETY: the memory belongs to this value alone, from allocation to `deinit` or `share`.
    @usableFromInline
    let base: UnsafeMutableRawPointer
    /// How many bytes are allocated.
    public let capacity: Int
    /// How many bytes count, from the start.
    public private(set) var count: Int

    /// Allocates `capacity` bytes, of which all count; their content is undefined. Traps when memory is out.
    public init(capacity: Int) {
        precondition(capacity >= 0)
        guard let base = unsafe malloc(max(capacity, 1)) else { fatalError("out of memory: \(capacity) bytes") }
        unsafe self.base = base
        self.capacity = capacity
        self.count = capacity
    }

    /// Allocates `capacity` bytes, of which all count; nil when the system has no memory for them. For sizes that
    /// somebody else announced.
    public init?(trying capacity: Int) {
        guard capacity >= 0, let base = unsafe malloc(max(capacity, 1)) else { return nil }
        unsafe self.base = base
        self.capacity = capacity
        self.count = capacity
    }

    /// A copy of `bytes`.
    public init(copying bytes: borrowing RawSpan) {
        self.init(capacity: bytes.byteCount)
        let base = unsafe self.base
        // SAFETY: both regions hold `byteCount` bytes and are different allocations.
        unsafe bytes.withUnsafeBytes { source in
            if let from = source.baseAddress { unsafe memcpy(base, from, source.count) }
        }
    }

    deinit {
        unsafe free(base)
    }

    /// Sets how many bytes count.
    public mutating func truncate(to count: Int) {
        precondition(count >= 0 && count <= capacity)
        self.count = count
    }

    /// The bytes that count.
    public var span: RawSpan {
        @_lifetime(borrow self)
        get {
            // SAFETY: the memory lives as long as `self`, which the span borrows.
            let span = unsafe RawSpan(_unsafeStart: base, byteCount: count)
            return unsafe _overrideLifetime(span, borrowing: self)
        }
    }

    /// Calls `body` with the bytes that count, for writing.
    @inlinable
    public mutating func withUnsafeMutableBytes<R: ~Copyable, E: Error>(
        _ body: (UnsafeMutableRawBufferPointer) throws(E) -> R
    ) throws(E) -> R {
        try unsafe body(UnsafeMutableRawBufferPointer(start: base, count: count))
    }

    /// Calls `body` with all allocated bytes, for writing.
    @inlinable
    public mutating func withUnsafeMutableCapacity<R: ~Copyable, E: Error>(
        _ body: (UnsafeMutableRawBufferPointer) throws(E) -> R
    ) throws(E) -> R {
        try unsafe body(UnsafeMutableRawBufferPointer(start: base, count: capacity))
    }

    /// Makes the bytes immutable and shared.
    public consuming func share() -> SharedBytes {
        let result = unsafe SharedBytes(owning: base, count: count)
        discard self
        return result
    }
}

/// Immutable bytes with any number of owners.
@safe
public final class SharedBytes: @unchecked Sendable {
    // SAFETY: never written after `init`; freed when the last owner goes.
    private enum Memory { case allocated, mapped }

    /// Where the bytes are.
    public let base: UnsafeRawPointer
    /// How many there are.
    public let count: Int
    private let memory: Memory

    fileprivate init(owning base: UnsafeMutableRawPointer, count: Int) {
        unsafe self.base = UnsafeRawPointer(base)
        self.count = count
        memory = .allocated
    }

    /// The bytes of a mapped file, which are read when they are touched.
    public init(_ mapping: consuming Mapping) {
        count = mapping.count
        unsafe base = mapping.release()
        memory = .mapped
    }

    /// A copy of an array.
    public convenience init(_ bytes: [UInt8]) {
        let unique = unsafe UniqueBytes(copying: bytes.span.bytes)
        let count = unique.count
        // SAFETY: ownership of the allocation passes over; `release` does not free.
        unsafe self.init(owning: unique.releaseBase(), count: count)
    }

    deinit {
        switch memory {
        case .allocated: unsafe free(UnsafeMutableRawPointer(mutating: base))
        case .mapped: _ = unsafe munmap(UnsafeMutableRawPointer(mutating: base), count)
        }
    }

    /// The bytes.
    public var span: RawSpan {
        @_lifetime(borrow self)
        get {
            // SAFETY: the memory lives as long as `self`, which the span borrows.
            let span = unsafe RawSpan(_unsafeStart: base, byteCount: count)
            return unsafe _overrideLifetime(span, borrowing: self)
        }
    }

    /// The bytes as an array (a copy).
    public var array: [UInt8] {
        unsafe [UInt8](UnsafeRawBufferPointer(start: base, count: count))
    }
}

extension UniqueBytes {
    fileprivate consuming func releaseBase() -> UnsafeMutableRawPointer {
        let base = unsafe self.base
        discard self
        return unsafe base
    }
}
