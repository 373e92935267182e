internal import CFuse3
internal import CShims
internal import Glibc
internal import ImageFS
internal import Logging

/// The duty to answer one request of the kernel. It is used once; one that is dropped answers EIO and logs it.
///
/// The functions that give a `Bool` tell whether the kernel took the answer: where it did not (the request was
/// interrupted, or the mount is gone), what the answer handed out has to be taken back.
@safe
struct Reply: ~Copyable, @unchecked Sendable {
    // SAFETY: libfuse's request belongs to this value until it is answered; libfuse may be called from any thread.
    private let request: fuse_req_t

    /// Takes over a request that was not answered yet.
    init(_ request: fuse_req_t) {
        unsafe self.request = request
    }

    deinit {
        FuseLog.fallback.error("a request was dropped unanswered; this is a bug in crfs, its caller gets EIO")
        unsafe fuse_reply_err(request, EIO)
    }

    /// The thread that asks, as this process numbers it; 0 when it is in a process namespace that is not seen here.
    var callerThread: pid_t {
        guard let context = unsafe fuse_req_ctx(request) else { return 0 }
        return unsafe context.pointee.pid
    }

    /// Has libfuse call `interrupted` with `id` when an INTERRUPT comes for this request, or now if one came already.
    /// It must not answer the request itself: libfuse holds the request's lock then.
    func onInterrupt(_ id: UInt64, _ interrupted: fuse_interrupt_func_t) {
        // SAFETY: `id` only travels in the shape of a pointer; nobody follows it.
        unsafe fuse_req_interrupt_func(request, interrupted, UnsafeMutableRawPointer(bitPattern: UInt(id)))
    }

    /// An error number, or 0 for an empty answer of success.
    consuming func error(_ code: CInt) {
        let request = unsafe take()
        _ = unsafe fuse_reply_err(request, code)
    }

    /// No answer: for FORGET, which has none.
    consuming func none() {
        let request = unsafe take()
        unsafe fuse_reply_none(request)
    }

    /// The answer to a look-up.
    consuming func entry(_ entry: Entry) -> Bool {
        let request = unsafe take()
        var parameters = makeEntryParameters(entry)
        return unsafe fuse_reply_entry(request, &parameters) == 0
    }

    /// Attributes, and for how many seconds the kernel may keep them.
    consuming func attributes(_ attributes: Attributes, timeout: Double) {
        let request = unsafe take()
        var status = makeStatus(attributes)
        _ = unsafe fuse_reply_attr(request, &status, timeout)
    }

    /// An open file or directory.
    consuming func opened(_ info: fuse_file_info) -> Bool {
        let request = unsafe take()
        var info = info
        return unsafe fuse_reply_open(request, &info) == 0
    }

    /// A file that is open, and that the kernel reads from the one with this backing number.
    consuming func opened(handle: UInt64, backing: Int32) -> Bool {
        let request = unsafe take()
        return unsafe crfs_fuse_reply_passthrough(request, handle, backing) == 0
    }

    /// Bytes of a file, which has them.
    consuming func file(_ descriptor: CInt, offset: UInt64, count: Int) {
        let request = unsafe take()
        _ = unsafe crfs_fuse_reply_file(request, descriptor, off_t(clamping: offset), count)
    }

    /// Bytes that need no ending 0: a link target, an xattr, names of xattrs.
    consuming func bytes(_ bytes: [UInt8]) {
        let request = unsafe take()
        // SAFETY: libfuse sends the bytes before it returns.
        _ = unsafe bytes.withUnsafeBytes { buffer in
            unsafe fuse_reply_buf(request, buffer.baseAddress?.assumingMemoryBound(to: CChar.self), buffer.count)
        }
    }

    /// How many bytes an xattr, or the names of all, would take.
    consuming func size(_ size: Int) {
        let request = unsafe take()
        _ = unsafe fuse_reply_xattr(request, size)
    }

    /// A listing.
    consuming func listing(_ listing: borrowing ListingBuffer) -> Bool {
        let request = unsafe take()
        return unsafe listing.withBytes { base, count in unsafe fuse_reply_buf(request, base, count) == 0 }
    }

    /// What was read.
    consuming func data(_ list: borrowing SegmentList) {
        let request = unsafe take()
        // SAFETY: libfuse sends the segments before it returns.
        _ = unsafe list.segments.withUnsafeBufferPointer { segments in
            unsafe fuse_reply_iov(request, segments.baseAddress, CInt(segments.count))
        }
    }

    /// Figures of the file system.
    consuming func statistics(_ statistics: FileSystemStatistics) {
        let request = unsafe take()
        var result = makeStatistics(statistics)
        _ = unsafe fuse_reply_statfs(request, &result)
    }

    private consuming func take() -> fuse_req_t {
        let request = unsafe self.request
        discard self
        return unsafe request
    }
}

/// Figures in the form that libfuse takes: a full file system of 4 KiB blocks.
func makeStatistics(_ statistics: FileSystemStatistics) -> statvfs {
    var result = statvfs()
    result.f_bsize = 4096
    result.f_frsize = 4096
    result.f_blocks = UInt(statistics.bytes / 4096) + (statistics.bytes % 4096 == 0 ? 0 : 1)
    result.f_files = UInt(statistics.nodes)
    result.f_namemax = 255
    return result
}
