internal import LayerWriter
internal import OCIModel
internal import OCIRegistry
internal import PosixIO

/// Why an image could not be converted.
public struct ImageConvertError: Error, Sendable, CustomStringConvertible {
    /// What failed, on what, why, and what to do.
    public let description: String

    /// Makes an error from its text.
    public init(_ description: String) { self.description = description }

    init(_ error: RegistryError) { self.init(error.reason) }

    init(_ error: ConvertError) { self.init(error.description) }

    init(_ error: SystemError, _ doing: String) { self.init("\(doing): \(error)") }

    init(_ error: ManifestError, _ what: String) { self.init("\(what): \(error)") }
}
