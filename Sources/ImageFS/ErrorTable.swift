internal import BlobIO
internal import Glibc
internal import OCIRegistry
internal import PosixIO

// The one table from the errors of the modules below to error numbers for the kernel. Each error was logged where it
// arose; readers only see the number.

extension FSError {
    /// A registry's answer, or its silence (spec section 5).
    init(_ error: RegistryError) {
        switch error.kind {
        case .notFound: self.init(errno: ENOENT)
        case .denied: self.init(errno: EACCES)
        case .timedOut: self.init(errno: ETIMEDOUT)
        case .unavailable, .protocolViolation: self.init(errno: EIO)
        }
    }

    /// A layer that cannot be opened or read.
    init(_ error: BlobError) {
        switch error.kind {
        case .notFound: self.init(errno: ENOENT)
        case .denied: self.init(errno: EACCES)
        case .timedOut: self.init(errno: ETIMEDOUT)
        case .unsupported: self.init(errno: EOPNOTSUPP)
        case .stale: self.init(errno: ESTALE)
        case .unavailable, .corrupt, .system: self.init(errno: EIO)
        }
    }

    /// The cache directory failed.
    init(_ error: SystemError) {
        self.init(errno: EIO)
    }

    static let notFound = FSError(errno: ENOENT)
    static let notDirectory = FSError(errno: ENOTDIR)
    static let isDirectory = FSError(errno: EISDIR)
    static let invalid = FSError(errno: EINVAL)
    static let stale = FSError(errno: ESTALE)
    static let noData = FSError(errno: ENODATA)
    static let inputOutput = FSError(errno: EIO)
}
