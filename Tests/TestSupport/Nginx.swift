/// nginx with TLS and HTTP/2 on a free port, with an access log.
public struct Nginx: Sendable {
    /// The process.
    public let service: Service

    /// Starts it.
    ///
    /// - Parameters:
    ///   - name: what its directory is called.
    ///   - certificates: a directory of `makeCertificates`.
    ///   - logFormat: what a line of the access log is.
    ///   - settings: further lines for all of it.
    ///   - server: what it serves.
    init(_ name: String, certificates: String, logFormat: String, settings: String = "", server: String) throws {
        service = try Service(name, "nginx", ["-c", "{}/nginx.conf", "-e", "{}/errors"]) { own, port in
            let user = Requirement.isRoot ? "user root;" : ""
            try writeFile(
                "\(own)/nginx.conf",
                """
                daemon off; master_process off; \(user)
                pid \(own)/pid;
                error_log \(own)/errors warn;
                events { worker_connections 512; }
                http {
                    log_format test '\(logFormat)';
                    access_log \(own)/access test;
                    client_body_temp_path \(own)/body; proxy_temp_path \(own)/proxy; fastcgi_temp_path \(own)/fastcgi;
                    uwsgi_temp_path \(own)/uwsgi; scgi_temp_path \(own)/scgi;
                    \(settings)
                    server {
                        listen 127.0.0.1:\(port) ssl http2;
                        ssl_certificate \(certificates)/server.crt;
                        ssl_certificate_key \(certificates)/server-key.pem;
                        \(server)
                    }
                }

                """
            )
        }
    }

    /// The lines of the access log.
    func accesses() -> [String] {
        ((try? text(of: "\(service.directory)/access")) ?? "").split(separator: "\n").map(String.init)
    }
}
