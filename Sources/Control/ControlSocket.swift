internal import CShims
internal import Glibc
internal import PosixIO

/// The socket of a cache directory, whatever the length of its path: a socket's own path may have 107 bytes only, so it
/// is named through a descriptor of the directory.
struct ControlSocketPath: ~Copyable {
    private let directory: Descriptor

    init(directory: String) throws(SystemError) {
        self.directory = try Descriptor.open(directory, O_DIRECTORY)
    }

    private var path: String { "/proc/self/fd/\(directory.raw)/\(ControlProtocol.socketName)" }

    /// Listens, in the place of whatever socket was there. Only for the holder of the directory's lock.
    func listen() throws(SystemError) -> Descriptor {
        remove()
        let raw = unsafe crfs_unix_listen(path, 128)
        guard raw >= 0 else { throw SystemError.last("listen", path: ControlProtocol.socketName) }
        return Descriptor(owning: raw)
    }

    /// Connects to whoever listens.
    func connect() throws(SystemError) -> Descriptor {
        let raw = unsafe crfs_unix_connect(path)
        guard raw >= 0 else { throw SystemError.last("connect", path: ControlProtocol.socketName) }
        return Descriptor(owning: raw)
    }

    func remove() {
        _ = unsafe unlinkat(directory.raw, ControlProtocol.socketName, 0)
    }
}

/// What one receive gave.
struct Received: ~Copyable {
    /// Empty: the other side ended.
    var bytes: [UInt8]
    /// At most one is kept of what came along.
    var descriptor: Descriptor?
}

/// Receives what there is, at most `limit` bytes.
///
/// - Parameter waits: whether to wait for it; else nothing there is EAGAIN.
func receive(_ socket: borrowing Descriptor, limit: Int, waits: Bool) throws(SystemError) -> Received {
    var bytes = UniqueBytes(capacity: limit)
    var descriptor: CInt = -1
    var received: CInt = 0
    let raw = socket.raw
    let count = unsafe bytes.withUnsafeMutableBytes { buffer -> Int in
        while true {
            let flags = waits ? 0 : CInt(MSG_DONTWAIT)
            let count = unsafe crfs_receive(
                raw,
                buffer.baseAddress,
                buffer.count,
                flags,
                &descriptor,
                1,
                &received
            )
            if count < 0 && errno == EINTR { continue }
            return count
        }
    }
    guard count >= 0 else { throw SystemError.last("recv") }
    bytes.truncate(to: count)
    return Received(
        bytes: bytes.share().array,
        descriptor: received > 0 ? Descriptor(owning: descriptor) : nil
    )
}

/// Sends all of the bytes; waits while the other side does not take them.
///
/// - Parameter descriptor: goes along with the first byte; negative: none.
func sendAll(_ socket: CInt, _ bytes: borrowing RawSpan, descriptor: CInt = -1) throws(SystemError) {
    try unsafe bytes.withUnsafeBytes { (buffer) throws(SystemError) in
        guard let base = buffer.baseAddress else { return }
        var done = 0
        while done < buffer.count {
            // SAFETY: `done < buffer.count`, so the range stays inside.
            let count = unsafe crfs_send(socket, base + done, buffer.count - done, done == 0 ? descriptor : -1)
            if count < 0 {
                if errno == EINTR { continue }
                throw SystemError.last("send")
            }
            done += count
        }
    }
}
