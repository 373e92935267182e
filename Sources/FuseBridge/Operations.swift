internal import CFuse3
internal import CShims
internal import Glibc
internal import ImageFS

// libfuse's callbacks. Each takes over the request and hands it to the session that it belongs to.
//
// Left out on purpose, because the kernel remembers ENOSYS and then does better by itself: access (it checks permission
// bits), flush, fsync, lseek. Also left out: ioctl, poll, bmap, locks.

/// The table for fuse_session_new(3), which copies it.
func makeOperations() -> fuse_lowlevel_ops {
    var table = fuse_lowlevel_ops()
    unsafe table.`init` = opInit
    unsafe table.lookup = opLookup
    unsafe table.forget = opForget
    unsafe table.forget_multi = opForgetMulti
    unsafe table.getattr = opGetattr
    unsafe table.readlink = opReadlink
    unsafe table.open = opOpen
    unsafe table.read = opRead
    unsafe table.release = opRelease
    unsafe table.opendir = opOpendir
    unsafe table.readdir = opReaddir
    unsafe table.readdirplus = opReaddirplus
    unsafe table.getxattr = opGetxattr
    unsafe table.listxattr = opListxattr
    unsafe table.statfs = opStatfs
    // A mount that is not `ro` gets these, too.
    unsafe table.setattr = { request, _, _, _, _ in unsafe refuse(request) }
    unsafe table.mknod = { request, _, _, _, _ in unsafe refuse(request) }
    unsafe table.mkdir = { request, _, _, _ in unsafe refuse(request) }
    unsafe table.unlink = { request, _, _ in unsafe refuse(request) }
    unsafe table.rmdir = { request, _, _ in unsafe refuse(request) }
    unsafe table.symlink = { request, _, _, _ in unsafe refuse(request) }
    unsafe table.rename = { request, _, _, _, _, _ in unsafe refuse(request) }
    unsafe table.link = { request, _, _, _ in unsafe refuse(request) }
    unsafe table.write = { request, _, _, _, _, _ in unsafe refuse(request) }
    unsafe table.create = { request, _, _, _, _ in unsafe refuse(request) }
    unsafe table.setxattr = { request, _, _, _, _, _ in unsafe refuse(request) }
    unsafe table.removexattr = { request, _, _ in unsafe refuse(request) }
    unsafe table.fallocate = { request, _, _, _, _, _ in unsafe refuse(request) }
    return table
}

/// The session of a request.
private func session(_ request: fuse_req_t) -> FuseSession {
    // SAFETY: the session outlives its libfuse session and sets itself as the owner before it mounts.
    unsafe Unmanaged<FuseSession>.fromOpaque(crfs_fuse_request_owner(request)).takeUnretainedValue()
}

/// A name that libfuse lends for the length of the callback.
private func withName(_ name: UnsafePointer<CChar>?, _ body: (borrowing RawSpan) -> Void) {
    guard let name = unsafe name else { return body(RawSpan()) }
    // SAFETY: the name ends with a 0 and lives until the callback returns.
    body(unsafe RawSpan(_unsafeStart: UnsafeRawPointer(name), byteCount: strlen(name)))
}

private func refuse(_ request: fuse_req_t?) {
    guard let request = unsafe request else { return }
    unsafe Reply(request).error(EROFS)
}

/// INIT: what this file system asks of what the kernel offers.
@c private func opInit(_ userdata: UnsafeMutableRawPointer?, _ connection: UnsafeMutablePointer<fuse_conn_info>?) {
    guard let userdata = unsafe userdata, let connection = unsafe connection,
        let owner = unsafe crfs_fuse_link_owner(OpaquePointer(userdata))
    else { return }
    // SAFETY: as in `session`.
    unsafe Unmanaged<FuseSession>.fromOpaque(owner).takeUnretainedValue().negotiate(&connection.pointee)
}

@c private func opLookup(_ request: fuse_req_t?, _ parent: fuse_ino_t, _ name: UnsafePointer<CChar>?) {
    guard let request = unsafe request else { return }
    let session = unsafe session(request)
    unsafe withName(name) { name in
        unsafe session.lookup(Reply(request), NodeID(rawValue: parent), name)
    }
}

@c private func opForget(_ request: fuse_req_t?, _ node: fuse_ino_t, _ count: UInt64) {
    guard let request = unsafe request else { return }
    unsafe session(request).fileSystem.forget(NodeID(rawValue: node), count: count)
    unsafe Reply(request).none()
}

@c private func opForgetMulti(
    _ request: fuse_req_t?,
    _ count: Int,
    _ forgets: UnsafeMutablePointer<fuse_forget_data>?
) {
    guard let request = unsafe request else { return }
    let fileSystem = unsafe session(request).fileSystem
    // SAFETY: libfuse lends `count` of them.
    let list = unsafe UnsafeBufferPointer(start: forgets, count: count)
    for index in 0..<count {
        let forget = unsafe list[index]
        fileSystem.forget(NodeID(rawValue: forget.ino), count: forget.nlookup)
    }
    unsafe Reply(request).none()
}

@c private func opGetattr(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    guard let request = unsafe request else { return }
    unsafe session(request).attributes(Reply(request), NodeID(rawValue: node))
}

@c private func opReadlink(_ request: fuse_req_t?, _ node: fuse_ino_t) {
    guard let request = unsafe request else { return }
    unsafe session(request).readLink(Reply(request), NodeID(rawValue: node))
}

@c private func opOpen(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    guard let request = unsafe request else { return }
    let flags = unsafe info?.pointee.flags ?? O_RDONLY
    if flags & O_ACCMODE != O_RDONLY || flags & O_TRUNC != 0 { return unsafe refuse(request) }
    let session = unsafe session(request)
    // The kernel remembers it, and opens and closes by itself from then on.
    guard session.answersOpen() else { return unsafe Reply(request).error(ENOSYS) }
    unsafe session.open(Reply(request), NodeID(rawValue: node))
}

@c private func opRead(
    _ request: fuse_req_t?,
    _ node: fuse_ino_t,
    _ size: Int,
    _ offset: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    guard let request = unsafe request else { return }
    guard let offset = UInt64(exactly: offset) else { return unsafe Reply(request).error(EINVAL) }
    let handle = unsafe info?.pointee.fh ?? 0
    unsafe session(request)
        .read(Reply(request), NodeID(rawValue: node), handle: handle, offset: offset, count: size)
}

@c private func opRelease(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    guard let request = unsafe request else { return }
    unsafe session(request).release(NodeID(rawValue: node), handle: info?.pointee.fh ?? 0)
    unsafe Reply(request).error(0)
}

@c private func opOpendir(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    guard let request = unsafe request else { return }
    let session = unsafe session(request)
    // The kernel remembers it, and from then on opens, keeps the listings of, and closes directories by itself. One that
    // does not know of that is told the same at each open.
    if session.kernelOpensDirectories { return unsafe Reply(request).error(ENOSYS) }
    var reply = fuse_file_info()
    if session.options.kernel.directories != .asked {
        reply.keep_cache = 1
        reply.cache_readdir = 1
    }
    _ = unsafe Reply(request).opened(reply)
}

@c private func opReaddir(
    _ request: fuse_req_t?,
    _ node: fuse_ino_t,
    _ size: Int,
    _ offset: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    unsafe list(request, node, size, offset, plus: false)
}

@c private func opReaddirplus(
    _ request: fuse_req_t?,
    _ node: fuse_ino_t,
    _ size: Int,
    _ offset: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    unsafe list(request, node, size, offset, plus: true)
}

private func list(
    _ request: fuse_req_t?,
    _ node: fuse_ino_t,
    _ size: Int,
    _ offset: off_t,
    plus: Bool
) {
    guard let request = unsafe request else { return }
    // An offset is whatever the file system handed out before, all 64 bits of it.
    let offset = UInt64(bitPattern: Int64(offset))
    unsafe session(request).list(Reply(request), NodeID(rawValue: node), offset: offset, size: size, plus: plus)
}

@c private func opGetxattr(_ request: fuse_req_t?, _ node: fuse_ino_t, _ name: UnsafePointer<CChar>?, _ size: Int) {
    guard let request = unsafe request else { return }
    let session = unsafe session(request)
    // The kernel remembers it for the whole mount, and says EOPNOTSUPP by itself from then on.
    guard session.fileSystem.hasXattrs else { return unsafe Reply(request).error(ENOSYS) }
    unsafe withName(name) { name in
        unsafe session.xattr(Reply(request), NodeID(rawValue: node), name, size: size)
    }
}

@c private func opListxattr(_ request: fuse_req_t?, _ node: fuse_ino_t, _ size: Int) {
    guard let request = unsafe request else { return }
    let session = unsafe session(request)
    // As above.
    guard session.fileSystem.hasXattrs else { return unsafe Reply(request).error(ENOSYS) }
    unsafe session.xattrNames(Reply(request), NodeID(rawValue: node), size: size)
}

@c private func opStatfs(_ request: fuse_req_t?, _ node: fuse_ino_t) {
    guard let request = unsafe request else { return }
    unsafe Reply(request).statistics(session(request).fileSystem.statistics())
}

/// INTERRUPT for a parked request, whose number comes in the shape of a pointer. Called with the request's lock held:
/// no answer from here.
@c func interrupted(_ request: fuse_req_t?, _ id: UnsafeMutableRawPointer?) {
    guard let request = unsafe request else { return }
    unsafe session(request).noteInterrupt(UInt64(UInt(bitPattern: id)))
}
