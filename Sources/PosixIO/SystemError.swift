internal import Glibc

/// A system call that failed: which one, on what, and the error number it gave.
public struct SystemError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The error number, as in errno(3).
    public let code: CInt
    /// The system call or library function that failed.
    public let operation: String
    /// The path that it was called on, if any.
    public let path: String?

    /// Makes an error from its parts.
    public init(code: CInt, operation: String, path: String? = nil) {
        self.code = code
        self.operation = operation
        self.path = path
    }

    /// The error that `errno` holds now; call it directly after the failing call.
    @inline(never)
    public static func last(_ operation: String, path: String? = nil) -> SystemError {
        SystemError(code: errno, operation: operation, path: path)
    }

    /// The text of strerror(3) for the code.
    public var reason: String { describeErrno(code) }

    /// `operation path: reason`.
    public var description: String {
        if let path { return "\(operation) \(path): \(reason)" }
        return "\(operation): \(reason)"
    }
}

/// The text of strerror(3) for an error number.
public func describeErrno(_ code: CInt) -> String {
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
        // SAFETY: the XSI strerror_r writes a terminated string into the buffer when it returns 0.
        guard let base = buffer.baseAddress, unsafe strerror_r(code, base, buffer.count) == 0 else {
            return "error \(code)"
        }
        return unsafe String(cString: base)
    }
}

/// Calls `body` again for as long as it fails with EINTR; nil stands for success.
@inline(__always)
func retryingInterrupts(_ body: () -> Int) -> Int {
    while true {
        let result = body()
        if result < 0 && errno == EINTR { continue }
        return result
    }
}
