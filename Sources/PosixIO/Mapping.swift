internal import Glibc

/// A file mapped read-only, whole, with one owner; unmapped when the owner goes.
///
/// The file must not shrink while it is mapped: a page past its end is SIGBUS. What crfs maps is written once under a
/// temporary name and renamed, in a directory that nobody else may write.
@safe
public struct Mapping: ~Copyable, @unchecked Sendable {
    // SAFETY: a private read-only mapping, valid until `deinit`.
    /// Where the mapping starts, page-aligned.
    public let base: UnsafeRawPointer
    /// The size of the file when it was mapped, in bytes.
    public let count: Int

    /// Maps `descriptor`'s file. An empty file is EINVAL, as mmap(2) says.
    public init(_ descriptor: borrowing Descriptor) throws(SystemError) {
        let size = Int(try descriptor.status().st_size)
        let address = unsafe mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor.raw, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else { throw SystemError.last("mmap") }
        unsafe base = UnsafeRawPointer(address)
        count = size
    }

    deinit {
        _ = unsafe munmap(UnsafeMutableRawPointer(mutating: base), count)
    }

    /// Gives up ownership without unmapping.
    consuming func release() -> UnsafeRawPointer {
        let base = unsafe self.base
        discard self
        return unsafe base
    }

    /// The file's bytes.
    public var span: RawSpan {
        @_lifetime(borrow self)
        get {
            // SAFETY: the mapping lives as long as `self`, which the span borrows.
            let span = unsafe RawSpan(_unsafeStart: base, byteCount: count)
            return unsafe _overrideLifetime(span, borrowing: self)
        }
    }
}
