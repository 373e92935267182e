/// nginx in front of a registry, with TLS, that wants to see a client certificate or only notes what it is shown.
public struct CertificateFront: Sendable {
    /// nginx.
    public let service: Service

    /// Starts it.
    ///
    /// - Parameters:
    ///   - registry: `host:port` of the registry behind it.
    ///   - certificates: a directory of `makeCertificates`.
    ///   - isRequired: whether clients without a certificate of that authority are turned away.
    public init(registry: String, certificates: String, isRequired: Bool) throws {
        service = try Service("certificates", "nginx", ["-c", "{}/nginx.conf", "-e", "{}/errors"]) { own, port in
            try writeFile("\(own)/nginx.conf", configuration(own, port, registry, certificates, isRequired))
        }
    }

    /// `127.0.0.1:<port>`.
    public var host: String { service.host }

    /// The lines of the access log: status, request, the subject of the client's certificate or `-`.
    public func accesses() throws -> [String] {
        ((try? text(of: "\(service.directory)/access")) ?? "").split(separator: "\n").map(String.init)
    }
}

private func configuration(
    _ own: String,
    _ port: UInt16,
    _ registry: String,
    _ certificates: String,
    _ isRequired: Bool
) -> String {
    let user = Requirement.isRoot ? "user root;" : ""
    return """
        daemon off; master_process off; \(user)
        pid \(own)/pid;
        error_log \(own)/errors warn;
        events { worker_connections 512; }
        http {
            log_format test '$status "$request" client="$ssl_client_s_dn"';
            access_log \(own)/access test;
            client_body_temp_path \(own)/body; proxy_temp_path \(own)/proxy; fastcgi_temp_path \(own)/fastcgi;
            uwsgi_temp_path \(own)/uwsgi; scgi_temp_path \(own)/scgi;
            server {
                listen 127.0.0.1:\(port) ssl http2;
                ssl_certificate \(certificates)/server.crt;
                ssl_certificate_key \(certificates)/server-key.pem;
                ssl_client_certificate \(certificates)/ca.crt;
                ssl_verify_client \(isRequired ? "on" : "optional");
                location / {
                    proxy_pass http://\(registry);
                    proxy_set_header Host $http_host;
                    proxy_set_header X-Forwarded-Proto https;
                }
            }
        }

        """
}
