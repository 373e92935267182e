internal import FoundationEssentials
internal import HTTPTransport
internal import PosixIO

/// The error document of the distribution specification ("error codes").
enum ErrorBody {
    private struct Document: Decodable {
        struct Item: Decodable {
            var code: String?
            var message: String?
        }
        var errors: [Item]?
    }

    /// ` (CODE: message)` of the first error in an answer's body, printable and short; empty where there is none.
    static func detail(_ response: borrowing HTTPResponse) -> String {
        guard response.status >= 400, (1...16384).contains(response.body.count) else { return "" }
        guard let document = try? JSONDecoder().decode(Document.self, from: Data(bytes(response))),
            let item = document.errors?.first
        else { return "" }
        let text = [item.code, item.message].compactMap { $0 }.joined(separator: ": ")
        let printable = text.unicodeScalars.filter { $0.value >= 0x20 && $0.value != 0x7f }.prefix(200)
        return printable.isEmpty ? "" : " (\(String(String.UnicodeScalarView(printable))))"
    }
}

/// The body as an array.
func bytes(_ response: borrowing HTTPResponse) -> [UInt8] {
    // SAFETY: the buffer is only read, and not kept.
    unsafe response.body.span.withUnsafeBytes { buffer in unsafe [UInt8](buffer) }
}
