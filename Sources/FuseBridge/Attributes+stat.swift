internal import CFuse3
internal import CShims
internal import Glibc
internal import ImageFS

/// stat(2)'s block size for st_blocks.
private let blockSize: UInt64 = 512

/// Attributes in the form that libfuse takes. All three times are the modification time.
func makeStatus(_ attributes: Attributes) -> stat {
    var status = stat()
    status.st_ino = UInt(attributes.inode)
    status.st_mode = attributes.mode
    status.st_nlink = UInt(attributes.linkCount)
    status.st_uid = attributes.uid
    status.st_gid = attributes.gid
    status.st_rdev = UInt(attributes.device)
    status.st_size = off_t(clamping: attributes.size)
    status.st_blksize = 4096
    status.st_blocks = Int(attributes.size / blockSize) + (attributes.size % blockSize == 0 ? 0 : 1)
    let time = timespec(tv_sec: Int(attributes.mtimeSeconds), tv_nsec: Int(attributes.mtimeNanoseconds))
    status.st_mtim = time
    status.st_ctim = time
    status.st_atim = time
    return status
}

/// An entry in the form that libfuse takes. Node 0 with a time-out is a negative entry.
func makeEntryParameters(_ entry: Entry) -> fuse_entry_param {
    var parameters = fuse_entry_param()
    parameters.ino = entry.node.rawValue
    parameters.generation = 0
    parameters.entry_timeout = entry.entryTimeout
    parameters.attr_timeout = entry.attributeTimeout
    if let attributes = entry.attributes { parameters.attr = makeStatus(attributes) }
    return parameters
}
