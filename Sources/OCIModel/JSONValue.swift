internal import FoundationEssentials

/// JSON whose bytes depend on the content alone. The value must have no number that JSON has no text for.
public func stableJSON(_ value: some Encodable) -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(value) else { preconditionFailure("JSON that cannot be written") }
    return Array(data)
}

/// A JSON document of any shape, for what is changed in some places and otherwise kept as it is (RFC 8259). The order of an
/// object's members is not kept.
public enum JSONValue: Sendable, Equatable {
    /// `null`.
    case null
    /// `true` or `false`.
    case boolean(Bool)
    /// A number without fraction that fits.
    case integer(Int64)
    /// Any other number.
    case number(Double)
    /// A string.
    case string(String)
    /// An array.
    case array([JSONValue])
    /// An object.
    case object([String: JSONValue])

    /// Parses a document.
    public init(json: [UInt8]) throws(ManifestError) {
        do {
            self = try JSONDecoder().decode(JSONValue.self, from: Data(json))
        } catch {
            throw ManifestError(reason: "not JSON: \(error)")
        }
    }

    /// The document's bytes, which depend on its content alone.
    public var json: [UInt8] { stableJSON(self) }

    /// A member of an object; nil where there is none. Setting makes an object of anything else.
    public subscript(name: String) -> JSONValue? {
        get {
            guard case .object(let members) = self else { return nil }
            return members[name]
        }
        set {
            guard case .object(var members) = self else {
                self = .object([:])
                self[name] = newValue
                return
            }
            members[name] = newValue
            self = .object(members)
        }
    }

    /// The elements of an array; nil for anything else.
    public var elements: [JSONValue]? {
        guard case .array(let elements) = self else { return nil }
        return elements
    }

    /// The text of a string; nil for anything else.
    public var text: String? {
        guard case .string(let text) = self else { return nil }
        return text
    }
}

extension JSONValue: Codable {
    /// Reads any value.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(Bool.self) {
            self = .boolean(value)
        } else if let value = try? container.decode(Int64.self) {
            self = .integer(value)
        } else if let value = try? container.decode(Double.self) {
            self = .number(value)
        } else if let value = try? container.decode(String.self) {
            self = .string(value)
        } else if let value = try? container.decode([JSONValue].self) {
            self = .array(value)
        } else {
            self = .object(try container.decode([String: JSONValue].self))
        }
    }

    /// Writes the value.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .boolean(let value): try container.encode(value)
        case .integer(let value): try container.encode(value)
        case .number(let value): try container.encode(value)
        case .string(let value): try container.encode(value)
        case .array(let value): try container.encode(value)
        case .object(let value): try container.encode(value)
        }
    }
}

extension ContentDescriptor {
    /// The descriptor as a manifest or index has it.
    public var json: JSONValue {
        var members: [String: JSONValue] = [
            "mediaType": .string(mediaType), "digest": .string(digest.description), "size": .integer(Int64(size)),
        ]
        if !annotations.isEmpty { members["annotations"] = .object(annotations.mapValues { .string($0) }) }
        if let artifactType { members["artifactType"] = .string(artifactType) }
        if let platform {
            var parts: [String: JSONValue] = [
                "os": .string(platform.os), "architecture": .string(platform.architecture),
            ]
            if let variant = platform.variant { parts["variant"] = .string(variant) }
            members["platform"] = .object(parts)
        }
        return .object(members)
    }
}
