internal import FoundationEssentials
internal import HTTPTransport
internal import PosixIO

/// Google Cloud's metadata server: the machine's own project, and access tokens of its service account.
public struct MetadataServer: Sendable {
    private struct TokenDocument: Decodable {
        var access_token: String
        var expires_in: Double?
    }

    /// An access token and for how many seconds it holds.
    struct AccessToken: Sendable {
        var secret: Secret
        var life: Double
    }

    private let host: String
    private let transport: HTTPTransport

    /// - Parameter host: `host[:port]`.
    init(host: String, transport: HTTPTransport) {
        self.host = host
        self.transport = transport
    }

    /// Google's own name for its metadata server, only where the firmware says that this is a machine of theirs.
    public static let hostOfThisMachine: String? = {
        guard let product = try? readFile("/sys/class/dmi/id/product_name", limit: 4096) else { return nil }
        return String(decoding: product.array, as: UTF8.self).hasPrefix("Google") ? "metadata.google.internal" : nil
    }()

    /// Whether a registry takes the access tokens of Google Cloud: gcr.io and its regional hosts, `*.pkg.dev`.
    static func serves(_ host: String) -> Bool {
        host == "gcr.io" || host.hasSuffix(".gcr.io") || host.hasSuffix(".pkg.dev")
    }

    /// The machine's project; nil when nobody says.
    func projectName() async -> String? {
        guard let content = await get("project/project-id") else { return nil }
        return String(decoding: content, as: UTF8.self)
    }

    /// A token of the default service account; nil when the machine has none.
    func accessToken() async -> AccessToken? {
        guard let content = await get("instance/service-accounts/default/token"),
            let document = try? JSONDecoder().decode(TokenDocument.self, from: Data(content)),
            !document.access_token.isEmpty
        else { return nil }
        let life = document.expires_in.flatMap { $0.isFinite && $0 > 0 ? min($0, 86_400) : nil } ?? 60
        return AccessToken(secret: Secret(document.access_token), life: life)
    }

    /// A value, only from a server that says it is one of Google's; never by a proxy, which would see the token.
    private func get(_ path: String) async -> [UInt8]? {
        guard let url = HTTPURL("http://\(host)/computeMetadata/v1/\(path)") else { return nil }
        var request = HTTPRequest(url)
        request.headers = [("Metadata-Flavor", "Google")]
        request.bodyLimit = 65536
        request.connectTimeout = 1
        request.totalTimeout = 5
        request.passesProxy = true
        do throws(TransportError) {
            let response = try await transport.send(request)
            guard response.status == 200, response.headers["metadata-flavor"] == "Google" else { return nil }
            return bytes(response)
        } catch {
            return nil
        }
    }
}
