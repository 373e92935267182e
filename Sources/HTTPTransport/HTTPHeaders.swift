/// The header fields of an answer, in their order; names compare without regard to case (RFC 9110, 5.1).
public struct HTTPHeaders: Sendable {
    /// Names in lower case, values without surrounding blanks.
    public private(set) var fields: [(name: String, value: String)] = []

    /// How many fields are kept; further ones are dropped.
    static let limit = 256

    /// No fields.
    public init() {}

    /// Adds a field.
    public mutating func add(_ name: String, _ value: String) {
        if fields.count < HTTPHeaders.limit { fields.append((name.lowercased(), value)) }
    }

    /// The first value of a field.
    public subscript(_ name: String) -> String? {
        let wanted = name.lowercased()
        return fields.first { $0.name == wanted }?.value
    }

    /// All values of a field, which may come in several lines.
    public func all(_ name: String) -> [String] {
        let wanted = name.lowercased()
        return fields.filter { $0.name == wanted }.map(\.value)
    }
}
