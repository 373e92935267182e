internal import Glibc
internal import PosixIO

/// Sets the read-ahead window of a mounted file system, `device` being its `major:minor` from the mount table. The
/// kernel's own 128 KiB holds a sequential reader to two requests at a time. Needs root.
func setReadAhead(device: String, kibibytes: Int) throws(SystemError) {
    let file = try Descriptor.open("/sys/class/bdi/\(device)/read_ahead_kb", O_WRONLY)
    let text = Array("\(kibibytes)\n".utf8)
    try unsafe file.writeNext(text.span.bytes)
}
