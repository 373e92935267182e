internal import Glibc
internal import PosixIO

/// Asks `condition` again and again until it holds or `seconds` have passed. Returns whether it held.
///
/// The deadline is for machines that are busy or broken: it is generous by default, and a condition that holds is seen
/// within milliseconds.
public func waitUntil(seconds: Double = 30, _ condition: () throws -> Bool) rethrows -> Bool {
    let deadline = monotonicNanoseconds() + UInt64(seconds * 1e9)
    var pause: useconds_t = 500
    while true {
        if try condition() { return true }
        if monotonicNanoseconds() >= deadline { return false }
        usleep(pause)
        pause = min(pause * 2, 20_000)
    }
}

/// The same for a test that is a task: the threads are left to others meanwhile.
public func eventually(_ condition: () async throws -> Bool) async rethrows -> Bool {
    let deadline = monotonicNanoseconds() + 30_000_000_000
    while try await !condition() {
        guard monotonicNanoseconds() < deadline else { return false }
        try? await Task.sleep(nanoseconds: 500_000)
    }
    return true
}

/// A TCP port of 127.0.0.1 that nobody listens on at the moment.
public func freePort() -> UInt16 {
    let descriptor = Descriptor(owning: socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let failed = unsafe withUnsafeMutablePointer(to: &address) { pointer in
        // SAFETY: a sockaddr_in is a sockaddr, and its size is given.
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
            unsafe bind(descriptor.raw, pointer, length) != 0
                || getsockname(descriptor.raw, pointer, &length) != 0
        }
    }
    precondition(!failed, "no free port on 127.0.0.1: \(describeErrno(errno))")
    return UInt16(bigEndian: address.sin_port)
}

/// Whether something accepts TCP connections at 127.0.0.1:`port`.
public func isListening(port: UInt16) -> Bool {
    let descriptor = Descriptor(owning: socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    address.sin_port = port.bigEndian
    return unsafe withUnsafePointer(to: &address) { pointer in
        // SAFETY: a sockaddr_in is a sockaddr, and its size is given.
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
            unsafe connect(descriptor.raw, pointer, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
        }
    }
}
