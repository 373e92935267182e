/// nginx in front of a registry, with TLS, that wants to see a client certificate or only notes what it is shown.
public struct CertificateFront: Sendable {
    private let nginx: Nginx

    /// Starts it.
    ///
    /// - Parameters:
    ///   - registry: `host:port` of the registry behind it.
    ///   - certificates: a directory of `makeCertificates`.
    ///   - isRequired: whether clients without a certificate of that authority are turned away.
    public init(registry: String, certificates: String, isRequired: Bool) throws {
        nginx = try Nginx(
            "certificates",
            certificates: certificates,
            logFormat: #"$status "$request" client="$ssl_client_s_dn""#,
            server: """
                ssl_client_certificate \(certificates)/ca.crt;
                ssl_verify_client \(isRequired ? "on" : "optional");
                location / {
                    proxy_pass http://\(registry);
                    proxy_set_header Host $http_host;
                    proxy_set_header X-Forwarded-Proto https;
                }
                """
        )
    }

    /// nginx.
    public var service: Service { nginx.service }

    /// `127.0.0.1:<port>`.
    public var host: String { service.host }

    /// The lines of the access log: status, request, the subject of the client's certificate or `-`.
    public func accesses() throws -> [String] { nginx.accesses() }
}
