internal import FoundationEssentials

/// The version of the protocol, and what it is made of.
public enum ControlProtocol {
    /// The highest version that this program speaks.
    public static let version = 1
    /// All that it speaks.
    public static let versions = [1]
    /// The socket's name in the cache directory.
    public static let socketName = "control"

    /// The JSON of a value, within the bound of a message.
    public static func encode(_ value: some Encodable) throws(ControlError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do {
            let bytes = Array(try encoder.encode(value))
            guard bytes.count <= Frame.limit else {
                throw ControlError(.malformed, "a message of \(bytes.count) bytes, where \(Frame.limit) are allowed")
            }
            return bytes
        } catch let error as ControlError {
            throw error
        } catch {
            throw ControlError(.malformed, "a message cannot be put into JSON: \(error)")
        }
    }

    /// A value of a JSON object; members that are not known are passed over.
    public static func decode<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8]) throws(ControlError) -> Value {
        do {
            return try JSONDecoder().decode(type, from: Data(bytes))
        } catch {
            throw ControlError(.malformed, "a message that is not understood: \(explain(error))")
        }
    }

    private static func explain(_ error: any Error) -> String {
        guard let error = error as? DecodingError else { return "\(error)" }
        switch error {
        case .keyNotFound(let key, _): return "it has no member '\(key.stringValue)'"
        case .typeMismatch(_, let context), .valueNotFound(_, let context):
            let path = context.codingPath.map(\.stringValue).joined(separator: ".")
            return path.isEmpty ? "it is no object" : "its member '\(path)' is of another type"
        default: return "it is no JSON object"
        }
    }
}

/// What every request begins with.
struct RequestHead: Codable {
    var crfs: Int
    var request: String
}

/// A request with its members beside the head's.
struct OutgoingRequest<Arguments: Encodable>: Encodable {
    var head: RequestHead
    var arguments: Arguments

    func encode(to encoder: any Encoder) throws {
        try arguments.encode(to: encoder)
        try head.encode(to: encoder)
    }
}

/// An answer of any kind, so far as it can be read without knowing the request.
struct AnswerHead: Decodable {
    var hasProgress: Bool
    var hasResult: Bool
    var error: String?
    var code: Int32?
    var versions: [Int]?
    var isEnding: Bool

    private enum Keys: String, CodingKey {
        case progress, ok, error, code, versions, ending
    }

    init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Keys.self)
        hasProgress = container.contains(.progress)
        hasResult = container.contains(.ok)
        error = try container.decodeIfPresent(String.self, forKey: .error)
        code = try container.decodeIfPresent(Int32.self, forKey: .code)
        versions = try container.decodeIfPresent([Int].self, forKey: .versions)
        isEnding = try container.decodeIfPresent(Bool.self, forKey: .ending) ?? false
    }
}

struct ProgressAnswer<Value> {
    var progress: Value
}

extension ProgressAnswer: Encodable where Value: Encodable {}
extension ProgressAnswer: Decodable where Value: Decodable {}

struct ResultAnswer<Value> {
    var ok: Value
}

extension ResultAnswer: Encodable where Value: Encodable {}
extension ResultAnswer: Decodable where Value: Decodable {}

/// A request that came to nothing.
struct ErrorAnswer: Encodable {
    var error: String
    var code: Int32
    var versions: [Int]?
    var ending: Bool?

    init(_ error: ControlError) {
        self.error = error.description
        code = error.code
        if case .version(let versions) = error.kind { self.versions = versions }
        if error.kind == .ending { ending = true }
    }
}

/// Nothing to say: `{}`.
public struct NoValue: Codable, Sendable, Equatable {
    /// The one value.
    public init() {}
}
