internal import HTTPTransport
internal import OCIModel
internal import PosixIO

/// A `hosts.toml`, as containerd documents it (docs/hosts.md there): the servers for one registry, in their order, the
/// registry itself last. Without one: certificates as docker keeps them (`*.crt`; `*.cert` and `*.key`).
struct HostsFile {
    /// A file that cannot be used; the text says where and why.
    struct Failure: Error {
        let reason: String
    }

    /// Configurations are small.
    static let limit = 1 << 20

    /// What the registry's directory is.
    let directory: String
    let host: RegistryHost
    /// The authorities that are trusted whatever the file says, in PEM.
    let commonAuthorities: [UInt8]
    /// What was found that does not work and is left out.
    private(set) var complaints: [String] = []

    init(directory: String, host: RegistryHost, commonAuthorities: [UInt8]) {
        self.directory = directory
        self.host = host
        self.commonAuthorities = commonAuthorities
    }

    /// The servers that `hosts.toml` in the directory names.
    mutating func endpoints(_ content: [UInt8]) throws(Failure) -> [Endpoint] {
        let document: TOMLValue
        do throws(TOMLValue.Failure) {
            document = try TOMLValue.parse(content)
        } catch {
            throw Failure(reason: "\(error)")
        }
        var endpoints: [Endpoint] = []
        for member in document["host"]?.members ?? [] {
            guard member.value.members != nil else {
                throw Failure(reason: "line \(member.line): host.\"\(member.key)\" is no table")
            }
            var endpoint = try server(member.key, member.value)
            endpoint.isRegistry = false
            endpoints.append(endpoint)
        }
        if let server = document["server"] {
            guard let text = server.text else { throw Failure(reason: "server is no string") }
            endpoints.append(try self.server(text, document))
        } else {
            endpoints.append(try settings(of: Endpoint(registry: host), document))
        }
        return endpoints
    }

    /// The registry with the certificates that lie in the directory.
    mutating func endpointsWithoutFile() -> [Endpoint] {
        var endpoint = Endpoint(registry: host)
        let names = namesInDirectory(directory)
        setAuthorities(&endpoint, names.filter { $0.hasSuffix(".crt") })
        if let certificate = names.first(where: { $0.hasSuffix(".cert") }) {
            endpoint.tls.clientCertificate = path(certificate)
            let key = certificate.dropLast(5) + ".key"
            if names.contains(String(key)) { endpoint.tls.clientKey = path(String(key)) }
        }
        return [endpoint]
    }

    /// `[scheme://]host[:port][/path]`, and what its table says of it.
    private mutating func server(_ text: String, _ table: TOMLValue) throws(Failure) -> Endpoint {
        let url = text.contains("://") ? text : "https://" + text
        guard let origin = HTTPURL(url) else { throw Failure(reason: "\(text) is no URL of a server") }
        var endpoint = Endpoint(registry: host)
        endpoint.base = .origin(origin)
        var path = Substring(origin.target)
        if let query = path.firstIndex(of: "?") { path = path[..<query] }
        while path.last == "/" { path.removeLast() }
        endpoint.prefix = String(path)
        let overrides = table["override_path"]?.flag ?? false
        if !overrides, !path.hasSuffix("/v2") { endpoint.prefix += "/v2" }
        if origin.authority != host.apiAuthority && origin.authority != host.name {
            endpoint.namespace = host.isDockerHub ? "docker.io" : host.name
        }
        return try settings(of: endpoint, table)
    }

    private mutating func settings(of endpoint: Endpoint, _ table: TOMLValue) throws(Failure) -> Endpoint {
        var endpoint = endpoint
        if let names = table["capabilities"]?.items, !names.isEmpty {
            endpoint.capabilities = []
            for name in names {
                switch name.text {
                case "pull": endpoint.capabilities.insert(.pull)
                case "resolve": endpoint.capabilities.insert(.resolve)
                case "push": break
                default: throw Failure(reason: "unknown capability \(name.text ?? "of another type than string")")
                }
            }
        }
        endpoint.tls.skipsVerification = table["skip_verify"]?.flag ?? false
        setAuthorities(&endpoint, try strings(table["ca"], "ca"))
        try setClient(&endpoint, table["client"])
        for field in table["header"]?.members ?? [] {
            for value in try strings(field.value, "header.\(field.key)") {
                endpoint.headers.append((field.key, Secret(value)))
            }
        }
        if let text = table["dial_timeout"]?.text {
            guard let seconds = seconds(text), seconds > 0 else {
                throw Failure(reason: "dial_timeout \"\(text)\" is no duration such as \"3s\"")
            }
            endpoint.dialTimeout = seconds
        }
        return endpoint
    }

    /// A string, or an array of strings.
    private func strings(_ value: TOMLValue?, _ name: String) throws(Failure) -> [String] {
        guard let value else { return [] }
        if let text = value.text { return [text] }
        let texts = value.items?.compactMap(\.text) ?? []
        guard let items = value.items, texts.count == items.count else {
            throw Failure(reason: "\(name) is neither a string nor an array of strings")
        }
        return texts
    }

    /// A file that holds certificate and key, an array of such files, or an array of pairs. libcurl shows one certificate: the
    /// first.
    private mutating func setClient(_ endpoint: inout Endpoint, _ value: TOMLValue?) throws(Failure) {
        guard let value else { return }
        let items = value.items ?? [value]
        guard let first = items.first else { return }
        if items.count > 1 { complaints.append("of several client certificates the first one is used") }
        if let file = first.text {
            endpoint.tls.clientCertificate = path(file)
        } else if let pair = first.items, pair.count == 2, let certificate = pair[0].text, let key = pair[1].text {
            endpoint.tls.clientCertificate = path(certificate)
            if !key.isEmpty { endpoint.tls.clientKey = path(key) }
        } else {
            throw Failure(reason: "client is neither a file nor a list of files or pairs of files")
        }
    }

    private mutating func setAuthorities(_ endpoint: inout Endpoint, _ files: [String]) {
        var content: [UInt8] = []
        for file in files {
            do throws(SystemError) {
                content += try readFile(path(file), limit: HostsFile.limit).array + [UInt8(ascii: "\n")]
            } catch {
                complaints.append("cannot read \(path(file)): \(error.reason)")
            }
        }
        if !content.isEmpty { endpoint.tls.authorities = commonAuthorities + content }
    }

    /// Files are named from the directory on.
    private func path(_ file: String) -> String { file.hasPrefix("/") ? file : "\(directory)/\(file)" }

    /// A duration as Go writes it: numbers with units, `1m30s`, `500ms`.
    private func seconds(_ text: String) -> Double? {
        let units: [(String, Double)] = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600), ("m", 60), ("s", 1)]
        var rest = Substring(text)
        var total = 0.0
        while !rest.isEmpty {
            let digits = rest.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
            rest = rest.dropFirst(digits.count)
            guard let number = Double(digits), let unit = units.first(where: { rest.hasPrefix($0.0) }) else { return nil }
            rest = rest.dropFirst(unit.0.count)
            total += number * unit.1
        }
        return text.isEmpty || total > 3600 ? nil : total
    }
}
