internal import BlobIO
internal import CFuse3
internal import CShims
internal import Glibc
internal import ImageFS
internal import Logging

/// What a thread that answers requests keeps from one to the next, so that answering allocates nothing.
@safe
final class ThreadContext {
    /// What the last read gave.
    var buffer = ReadBuffer()
    /// The same for the kernel.
    var segments = SegmentList()
    /// The listing that is being put together.
    var listing = ListingBuffer()
    /// Where libfuse's messages on this thread go; nil for the process's own logger.
    let logger: Logger?
    /// While this is not nil, messages are collected here instead.
    var captured: [String]?

    init(logger: Logger?) {
        self.logger = logger
    }

    /// The calling thread's, which is made on first use and lives as long as the thread pool: for ever.
    static var current: ThreadContext {
        if let existing { return existing }
        let context = ThreadContext(logger: nil)
        // SAFETY: the thread keeps one retain of its context, given up by `remove`.
        unsafe crfs_fuse_set_thread_context(Unmanaged.passRetained(context).toOpaque())
        return context
    }

    /// The calling thread's, if it has one.
    static var existing: ThreadContext? {
        guard let context = unsafe crfs_fuse_thread_context() else { return nil }
        // SAFETY: only `current` and `install` set the pointer, to a context that is retained.
        return unsafe Unmanaged<ThreadContext>.fromOpaque(context).takeUnretainedValue()
    }

    /// Makes this the calling thread's, which had none.
    func install() {
        unsafe crfs_fuse_set_thread_context(Unmanaged.passRetained(self).toOpaque())
    }

    /// Takes the calling thread's away.
    static func remove() {
        guard let context = unsafe crfs_fuse_thread_context() else { return }
        crfs_fuse_set_thread_context(nil)
        // SAFETY: this is the retain that `current` or `install` made.
        unsafe Unmanaged<ThreadContext>.fromOpaque(context).release()
    }
}

/// Segments of a reply as writev(2) takes them.
@safe
struct SegmentList {
    /// IOV_MAX is 1,024, and libfuse puts its header before them.
    static let limit = 1023

    private(set) var segments: [iovec] = unsafe []
    private var joined: [UInt8] = []

    init() {
        unsafe segments.reserveCapacity(Self.limit)
    }

    /// Takes over the segments of `buffer`, which must outlive their use. Those beyond `limit` are copied together into
    /// the last one.
    mutating func set(_ source: UnsafeBufferPointer<UnsafeRawBufferPointer>) {
        unsafe segments.removeAll(keepingCapacity: true)
        joined.removeAll(keepingCapacity: true)
        let direct = source.count <= Self.limit ? source.count : Self.limit - 1
        for index in 0..<direct {
            let segment = unsafe source[index]
            unsafe segments.append(
                iovec(iov_base: UnsafeMutableRawPointer(mutating: segment.baseAddress), iov_len: segment.count)
            )
        }
        if direct == source.count { return }
        for index in direct..<source.count { unsafe joined.append(contentsOf: source[index]) }
        // SAFETY: `joined` is not changed before the next `set`, so its storage stays where it is.
        unsafe joined.withUnsafeMutableBytes { bytes in
            unsafe segments.append(iovec(iov_base: bytes.baseAddress, iov_len: bytes.count))
        }
    }
}

/// The answer to readdir or readdirplus, in the kernel's form.
@safe
struct ListingBuffer: ~Copyable {
    /// More than the kernel asks for at once.
    static let limit = 1 << 20

    private var base: UnsafeMutablePointer<CChar>
    private var capacity: Int
    private var room = 0
    private(set) var used = 0
    /// Nodes that the kernel counts a look-up of when it takes the answer.
    private(set) var counted: [NodeID] = []
    /// Nodes that the file system counts, but that are not in the answer.
    private(set) var uncounted: [NodeID] = []
    /// Whether a name did not fit.
    private(set) var isFull = false

    init() {
        capacity = 65536
        // SAFETY: the memory belongs to this value, from here or `begin` to `deinit`.
        unsafe base = .allocate(capacity: 65536)
    }

    deinit {
        unsafe base.deallocate()
    }

    /// Empties it, for at most `size` bytes.
    mutating func begin(size: Int) {
        room = min(max(size, 0), Self.limit)
        if room > capacity {
            unsafe base.deallocate()
            unsafe base = .allocate(capacity: room)
            capacity = room
        }
        used = 0
        isFull = false
        counted.removeAll(keepingCapacity: true)
        uncounted.removeAll(keepingCapacity: true)
    }

    /// Stores a name; false when there is no room for it. A name that is longer than the kernel's limit is passed over.
    mutating func append(_ name: borrowing RawSpan, _ listed: ListedName, plus: Bool) -> Bool {
        let isDots = Self.isDots(name)
        let node = plus && !isDots ? listed.entry?.node ?? .none : .none
        guard (1...Int(CRFS_FUSE_NAME_MAX)).contains(name.byteCount) else {
            if node != .none { uncounted.append(node) }
            return true
        }
        let free = room - used
        let next = off_t(truncatingIfNeeded: listed.nextOffset)
        // SAFETY: `used <= room <= capacity`; the callee writes at most `free` bytes from there and reads the name.
        let size: Int
        if plus {
            var entry =
                node == .none
                ? fuse_entry_param() : listed.entry.map(makeEntryParameters) ?? fuse_entry_param()
            // Where no node is told, d_ino and d_type still come from here.
            if node == .none {
                entry.attr.st_ino = UInt(listed.inode)
                entry.attr.st_mode = listed.type
            }
            size = unsafe name.withUnsafeBytes { bytes in
                unsafe crfs_fuse_add_name_plus(base + used, free, bytes.baseAddress, bytes.count, &entry, next)
            }
        } else {
            var status = stat()
            status.st_ino = UInt(listed.inode)
            status.st_mode = listed.type
            size = unsafe name.withUnsafeBytes { bytes in
                unsafe crfs_fuse_add_name(base + used, free, bytes.baseAddress, bytes.count, &status, next)
            }
        }
        guard size <= free else {
            isFull = true
            return false
        }
        used += size
        if node != .none { counted.append(node) }
        return true
    }

    /// Calls `body` with what was stored.
    func withBytes<R>(_ body: (UnsafePointer<CChar>, Int) -> R) -> R {
        unsafe body(base, used)
    }

    private static func isDots(_ name: borrowing RawSpan) -> Bool {
        let dot = UInt8(ascii: ".")
        if name.byteCount == 1 { return unsafe name.unsafeLoad(as: UInt8.self) == dot }
        guard name.byteCount == 2 else { return false }
        return unsafe name.unsafeLoad(as: UInt8.self) == dot
            && name.unsafeLoad(fromByteOffset: 1, as: UInt8.self) == dot
    }
}
