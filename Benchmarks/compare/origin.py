"""The origin: the registry that the contenders read from, in the forms that a user meets.

- plain: docker-registry itself, plain HTTP.
- tls: nginx with TLS and HTTP/2 in front of it.
- cdn: as tls, but blobs are answered by a redirect to another host name with a signed URL that expires.

A delay proxy before every port makes the latency; a network namespace behind a veth pair with `tc tbf` on
both ends makes the bandwidth. Access logs of the servers give requests and bytes.
"""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

from compare import cleanup, delayproxy, tools

BANDWIDTHS = {"1gbit": 125_000_000, "200mbit": 25_000_000}  # bytes a second
# Where Debian keeps nginx's modules; the redirects are signed by the Lua one.
NGINX_MODULES = pathlib.Path("/usr/lib/nginx/modules")

# One line of docker-registry's access log (Apache's combined format) and of ours for nginx.
LOG_LINE = re.compile(
    r'^\S+ \S+ \S+ \[[^\]]*\] "(?P<method>[A-Z]+) (?P<path>\S+) [^"]*" (?P<status>\d+) (?P<bytes>\d+)'
)
# Their clocks and buffers: a response is logged a moment after its last byte went out.
SETTLED_SECONDS = 0.1


def missing_programs(tls: bool = False, cdn: bool = False, bandwidth: str | None = None) -> list[str]:
    """Debian packages that an origin of this form needs and that are not there."""
    needed = {"docker-registry": "docker-registry", "cc": "gcc"}
    if tls or cdn:
        needed |= {"nginx": "nginx-light", "openssl": "openssl"}
    if bandwidth:
        needed |= {"ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux"}
    missing = {package for name, package in needed.items() if not _which(name)}
    if cdn and not (NGINX_MODULES / "ngx_http_lua_module.so").exists():
        missing.add("libnginx-mod-http-lua")
    return sorted(missing)


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def free_port() -> int:
    """A port that was free on loopback a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(
    address: str, process: subprocess.Popen, netns: str | None, what: str, log: pathlib.Path
) -> None:
    """Waits until somebody listens at `address`; after the process's end or 20 s it fails with the log."""
    host, port = address.split(":")
    probe = cleanup.inside(netns, ["bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}"])
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return
        time.sleep(0.02)
    text = " ".join(log.read_text(errors="replace").split())[-600:] if log.exists() else ""
    raise cleanup.Failed(f"{what} does not listen at {address}: {text}")


def blob_path(work: pathlib.Path, digest: str) -> pathlib.Path:
    """Where docker-registry keeps the bytes of a blob."""
    value = digest.removeprefix("sha256:")
    return work / f"registry/docker/registry/v2/blobs/sha256/{value[:2]}/{value}/data"


class Registry:
    """A docker-registry on a free port; `log` is its access log among other lines."""

    def __init__(
        self,
        directory: pathlib.Path,
        storage: pathlib.Path,
        readonly: bool,
        netns: str | None = None,
        host: str = "127.0.0.1",
    ):
        """`directory` takes its files; `address` is where it listens, in `netns` or here."""
        self.log = directory / "registry.log"
        configuration = directory / "registry.yml"
        for attempt in range(5):
            self.address = f"{host}:{free_port()}"
            configuration.write_text(_registry_configuration(storage, self.address, readonly))
            with open(self.log, "w") as log:
                self.process = cleanup.start(
                    ["docker-registry", "serve", configuration],
                    netns=netns,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            try:
                wait_for_port(self.address, self.process, netns, "docker-registry", self.log)
                return
            except cleanup.Failed:
                # The port may have been taken meanwhile.
                cleanup.stop(self.process)
                if attempt == 4:
                    raise

    def close(self) -> None:
        cleanup.stop(self.process)


def _registry_configuration(storage: pathlib.Path, address: str, readonly: bool) -> str:
    return f"""version: 0.1
log:
  level: error
  accesslog:
    disabled: false
storage:
  filesystem:
    rootdirectory: {storage}
    maxthreads: 1000
  cache:
    blobdescriptor: inmemory
  delete:
    enabled: false
  maintenance:
    uploadpurging:
      enabled: false
    readonly:
      enabled: {str(readonly).lower()}
http:
  addr: {address}
  secret: {secrets.token_hex(16)}
  relativeurls: true
"""


class Origin:
    """A running origin; a context manager.

    host: address of the registry for clients ("127.0.0.1:PORT", or the namespace's).
    plain_http: whether it is spoken to without TLS.
    insecure: whether clients must be told so, because it is not on loopback.
    ca_file: the CA's certificate (PEM) where there is TLS, else None.
    cert_dir: the same as a directory, for options like skopeo's `--cert-dir`.
    env: what makes common clients trust the CA (Go programs, curl, Python).
    netns: None: the servers live in a namespace where bandwidth is limited, clients stay outside.
    """

    def __init__(
        self,
        work: pathlib.Path,
        rtt_ms: float = 0,
        tls: bool = False,
        cdn: bool = False,
        bandwidth: str | None = None,
        url_lifetime: int = 60,
    ):
        """`bandwidth` is a key of BANDWIDTHS; `url_lifetime` says for how many seconds a CDN's URL works."""
        if bandwidth and bandwidth not in BANDWIDTHS:
            raise ValueError(f"bandwidth {bandwidth} is none of {', '.join(BANDWIDTHS)}")
        self.work = pathlib.Path(work)
        self.rtt_ms = rtt_ms
        self.tls = tls or cdn
        self.cdn = cdn
        self.bandwidth = bandwidth
        self.url_lifetime = url_lifetime
        self.plain_http = not self.tls
        self.insecure = self.plain_http and bandwidth is not None
        self.netns = None
        self.ca_file: pathlib.Path | None = None
        self.cert_dir: pathlib.Path | None = None
        self.env: dict[str, str] = {}
        self.host = ""
        self._closing = contextlib.ExitStack()

    @property
    def name(self) -> str:
        """A short name for tables: "plain", "tls, 15 ms", "cdn, 50 ms, 200mbit"."""
        form = "cdn" if self.cdn else "tls" if self.tls else "plain"
        delay = [f"{self.rtt_ms:g} ms"] if self.rtt_ms else []
        return ", ".join([form, *delay, *([self.bandwidth] if self.bandwidth else [])])

    @property
    def url(self) -> str:
        """The registry's address with its scheme, without a path."""
        return f"{'http' if self.plain_http else 'https'}://{self.host}"

    def __enter__(self) -> "Origin":
        missing = missing_programs(self.tls, self.cdn, self.bandwidth)
        if missing:
            raise cleanup.Failed(f"this origin needs, as root: apt-get install {' '.join(missing)}")
        with contextlib.ExitStack() as undo:
            self._start(undo)
            self._closing = undo.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._closing.close()

    def _start(self, undo: contextlib.ExitStack) -> None:
        self._directory = cleanup.tree(self.work / "runs" / f"origin-{os.getpid()}-{secrets.token_hex(3)}")
        undo.callback(cleanup.remove_tree, self._directory)
        server_netns, hosts = None, ["127.0.0.1", "localhost"]
        if self.bandwidth:
            server_netns, hosts = self._make_network(undo)
        delayed = self.rtt_ms > 0
        direct = not (self.tls or delayed)
        registry = Registry(
            self._directory,
            self.work / "registry",
            readonly=True,
            netns=server_netns,
            host=hosts[0] if direct else "127.0.0.1",
        )
        undo.callback(registry.close)
        self._logs = [registry.log]
        # Where clients connect: the delay proxy, or the last server itself.
        outer = [f"{_bind_address(host)}:{free_port()}" for host in (hosts if self.cdn else hosts[:1])]
        inner = [registry.address]
        if self.tls:
            self._make_certificates(hosts)
            listen = [f"127.0.0.1:{free_port()}" for _ in outer] if delayed else outer
            cdn = f"https://{hosts[-1]}:{outer[-1].rpartition(':')[2]}"
            inner = self._start_nginx(undo, registry.address, listen, cdn, server_netns)
        if delayed:
            rate = BANDWIDTHS.get(self.bandwidth or "")
            proxy = delayproxy.DelayProxy(self.work, self.rtt_ms, inner, outer, server_netns, rate)
            undo.callback(proxy.close)
            inner = outer
        self.host = inner[0]

    # The network.

    def _make_network(self, undo: contextlib.ExitStack) -> tuple[str, list[str]]:
        """A namespace whose only way out is a limited link; returns its name and the two addresses in it."""
        mark = secrets.token_hex(3)
        netns, outside, inside = f"crfs-bench-{mark}", f"cb{mark}o", f"cb{mark}i"
        network = _free_network()
        cleanup.namespace(netns)
        undo.callback(cleanup.remove_namespace, netns)
        with cleanup.held():
            cleanup.link(outside)
            subprocess.run(["ip", "link", "add", outside, "type", "veth", "peer", "name", inside], check=True)
        for command in (
            f"ip link set {inside} netns {netns}",
            f"ip addr add {network}.1/24 dev {outside}",
            f"ip link set {outside} up",
            f"ip -n {netns} link set lo up",
            f"ip -n {netns} addr add {network}.2/24 dev {inside}",
            f"ip -n {netns} addr add {network}.3/24 dev {inside}",
            f"ip -n {netns} link set {inside} up",
            f"tc qdisc add dev {outside} root tbf {_bucket(self.bandwidth)}",
            f"tc -n {netns} qdisc add dev {inside} root tbf {_bucket(self.bandwidth)}",
        ):
            cleanup.run(command.split())
        return netns, [f"{network}.2", f"{network}.3"]

    # Certificates and nginx.

    def _make_certificates(self, hosts: list[str]) -> None:
        directory = self._directory / "certificates"
        directory.mkdir()
        names = ",".join(
            f"{'IP' if host[0].isdigit() else 'DNS'}:{host}"
            for host in dict.fromkeys(["127.0.0.1", "localhost", *hosts])
        )
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        ca = ["-keyout", directory / "ca.key", "-out", directory / "ca.crt", "-subj", "/CN=crfs benchmark CA"]
        cleanup.run(["openssl", "req", "-x509", *key, *ca])
        own = [
            "-keyout",
            directory / "server.key",
            "-out",
            directory / "server.crt",
            "-subj",
            "/CN=crfs benchmark",
        ]
        authority = ["-CA", directory / "ca.crt", "-CAkey", directory / "ca.key"]
        purpose = ["-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"]
        cleanup.run(["openssl", "req", "-x509", *key, *own, *authority, *purpose])
        self.ca_file, self.cert_dir = directory / "ca.crt", directory / "trusted"
        self.cert_dir.mkdir()
        shutil.copy(self.ca_file, self.cert_dir / "ca.crt")
        self.env = {
            name: str(self.ca_file) for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
        }

    def _start_nginx(
        self,
        undo: contextlib.ExitStack,
        registry: str,
        listen: list[str],
        cdn: str,
        netns: str | None,
    ) -> list[str]:
        """Starts the front, and the second host if `listen` has two addresses; returns `listen`."""
        (self._directory / "nginx").mkdir()
        logs = [self._directory / "front.log", self._directory / "cdn.log"]
        configuration = self._directory / "nginx.conf"
        configuration.write_text(
            _nginx_configuration(
                self._directory, self.work / "registry", registry, listen, cdn, self.url_lifetime
            )
        )
        error_log = self._directory / "nginx-error.log"
        process = cleanup.start(
            [_which("nginx"), "-c", configuration, "-p", self._directory, "-e", error_log],
            netns=netns,
            stdout=subprocess.DEVNULL,
            stderr=open(self._directory / "nginx-stderr.log", "w"),
        )
        undo.callback(cleanup.stop, process)
        for address in listen:
            wait_for_port(address, process, netns, "nginx", error_log)
        self._logs = logs[: len(listen)]
        return listen

    # Counting.

    def start_count(self) -> object:
        """A mark for `counts`."""
        self._wait_for_logs()
        return [log.stat().st_size if log.exists() else 0 for log in self._logs]

    def counts(self, since: object) -> tuple[int, int]:
        """(requests, bytes of bodies) that were answered since the mark, by all hosts of the origin."""
        requests, size = 0, 0
        for entry in self.requests(since):
            requests += 1
            size += entry["bytes"]
        return requests, size

    def requests(self, since: object) -> list[dict]:
        """Method, path, status and bytes of each request since the mark."""
        self._wait_for_logs()
        found = []
        for log, start in zip(self._logs, since):
            if not log.exists():
                continue
            with open(log, errors="replace") as lines:
                lines.seek(start)
                for line in lines:
                    if match := LOG_LINE.match(line):
                        entry = match.groupdict()
                        found.append({**entry, "status": int(entry["status"]), "bytes": int(entry["bytes"])})
        return found

    def _wait_for_logs(self) -> None:
        """Until nothing was logged for a moment, at most 5 s: responses that clients gave up end late."""
        deadline = time.monotonic() + 5
        sizes = None
        while time.monotonic() < deadline:
            now = [log.stat().st_size if log.exists() else 0 for log in self._logs]
            if now == sizes:
                return
            sizes = now
            time.sleep(SETTLED_SECONDS + self.rtt_ms / 1000)


def _bind_address(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def _bucket(bandwidth: str | None) -> str:
    """Parameters of the token bucket: bursts of 2 ms, a queue of 20 ms."""
    burst = max(BANDWIDTHS[bandwidth] // 500, 32_000)
    return f"rate {bandwidth} burst {burst} latency 20ms"


def _free_network() -> str:
    """The first three numbers of a private /24 that no address or route of this machine touches."""
    routes = subprocess.run(
        ["ip", "-4", "route", "show", "table", "all"], capture_output=True, text=True
    ).stdout
    for third in range(256):
        if f"10.213.{third}." not in routes:
            return f"10.213.{third}"
    raise cleanup.Failed("no free network of 10.213.0.0/16 for the limited link")


def _nginx_configuration(
    directory: pathlib.Path, storage: pathlib.Path, registry: str, listen: list[str], cdn: str, lifetime: int
) -> str:
    """The front at the first address; with a second one blobs are redirected to it, by the name `cdn`."""
    secret = secrets.token_hex(16)
    modules, redirect, second = "", "", ""
    tls = f"""ssl_certificate {directory}/certificates/server.crt;
        ssl_certificate_key {directory}/certificates/server.key;"""
    if len(listen) == 2:
        modules = "".join(
            f"load_module {NGINX_MODULES}/{name}_module.so;\n" for name in ("ndk_http", "ngx_http_lua")
        )
        redirect = f"""
        location ~ ^/v2/.+/blobs/sha256:([0-9a-f][0-9a-f])([0-9a-f]+)$ {{
            limit_except GET HEAD {{ deny all; }}
            content_by_lua_block {{
                local path = "/blobs/" .. ngx.var[1] .. "/" .. ngx.var[1] .. ngx.var[2] .. "/data"
                local expires = math.floor(ngx.now()) + {lifetime}
                local sum = ngx.encode_base64(ngx.md5_bin(expires .. path .. " {secret}"), true)
                local signature = sum:gsub("+", "-"):gsub("/", "_")
                local query = "?expires=" .. expires .. "&md5=" .. signature
                return ngx.redirect("{cdn}" .. path .. query, 307)
            }}
        }}"""
        second = f"""
    server {{
        listen {listen[1]} ssl http2;
        {tls}
        access_log {directory}/cdn.log counted;
        location /blobs/ {{
            secure_link $arg_md5,$arg_expires;
            secure_link_md5 "$secure_link_expires$uri {secret}";
            if ($secure_link = "") {{ return 403; }}
            if ($secure_link = "0") {{ return 403; }}
            alias {storage}/docker/registry/v2/blobs/sha256/;
            default_type application/octet-stream;
        }}
    }}"""
    return f"""{modules}
daemon off;
user root;
worker_processes 2;
pid {directory}/nginx.pid;
worker_rlimit_nofile 8192;
events {{ worker_connections 2048; }}
http {{
    log_format counted '$remote_addr - - [$time_local] "$request" $status $body_bytes_sent';
    client_body_temp_path {directory}/nginx/body;
    proxy_temp_path {directory}/nginx/proxy;
    fastcgi_temp_path {directory}/nginx/fastcgi;
    uwsgi_temp_path {directory}/nginx/uwsgi;
    scgi_temp_path {directory}/nginx/scgi;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000;
    ssl_session_cache shared:tls:1m;
    upstream registry {{
        server {registry};
        keepalive 32;
    }}
    server {{
        listen {listen[0]} ssl http2;
        {tls}
        access_log {directory}/front.log counted;{redirect}
        location / {{
            proxy_pass http://registry;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto https;
            proxy_buffers 16 64k;
            proxy_buffer_size 64k;
            proxy_max_temp_file_size 0;
        }}
    }}{second}
}}
"""


# The self-check.


def _get(origin: Origin, path: str, span: str | None = None) -> bytes:
    """A body from the origin, redirects followed."""
    request = urllib.request.Request(path if "://" in path else origin.url + path)
    request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json, */*")
    if span:
        request.add_header("Range", f"bytes={span}")
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if origin.ca_file:
        context = ssl.create_default_context(cafile=str(origin.ca_file))
        handlers.append(urllib.request.HTTPSHandler(context=context))
    with urllib.request.build_opener(*handlers).open(request, timeout=30) as answer:
        return answer.read()


def _blob_problems(origin: Origin, repository: str, tag: str) -> list[str]:
    """Reads a manifest, its largest blob, and a range of it; compares content, counts and times."""
    found = []
    digest, manifest = tools.stored_manifest(origin.work, repository, tag)
    layer = max(manifest["layers"], key=lambda layer: layer["size"])
    path = f"/v2/{repository}/blobs/{layer['digest']}"
    content = blob_path(origin.work, layer["digest"]).read_bytes()
    mark = origin.start_count()
    body = _get(origin, f"/v2/{repository}/manifests/{tag}")
    if body != blob_path(origin.work, digest).read_bytes():
        found.append("the manifest is another one")
    if origin.counts(mark) != (1, len(body)):
        found.append(f"a manifest of {len(body)} bytes was counted as {origin.counts(mark)}")
    mark = origin.start_count()
    started = time.monotonic()
    if _get(origin, path) != content:
        found.append("the blob is another one")
    seconds = time.monotonic() - started
    if _get(origin, path, "1000-1999") != content[1000:2000]:
        found.append("a range is another one")
    entries = [entry for entry in origin.requests(mark) if entry["status"] != 307]
    if [entry["bytes"] for entry in entries] != [len(content), 1000]:
        found.append(f"a blob of {len(content)} bytes and a range of 1000 were counted as {entries}")
    redirects = len(origin.requests(mark)) - len(entries)
    if redirects != (2 if origin.cdn else 0):
        found.append(f"{redirects} redirects")
    # A connection costs a handshake, each request a round trip.
    least = 2 * origin.rtt_ms / 1000
    if origin.bandwidth:
        least += len(content) / BANDWIDTHS[origin.bandwidth] * 0.9
    if seconds < least:
        found.append(f"{len(content)} bytes came in {seconds:.3f} s, which cannot be")
    return [f"origin {origin.name}: {text}" for text in found]


def _expiry_problems(origin: Origin, repository: str, tag: str) -> list[str]:
    """A signed URL works until it expires, and only as it was signed."""
    _, manifest = tools.stored_manifest(origin.work, repository, tag)
    layer = min(manifest["layers"], key=lambda layer: layer["size"])
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{redirect_url}", "--cacert", origin.ca_file]
    url = cleanup.run([*command, f"{origin.url}/v2/{repository}/blobs/{layer['digest']}"]).stdout
    found = []
    if len(_get(origin, url)) != layer["size"]:
        found.append("a signed URL does not work")
    time.sleep(origin.url_lifetime + 1.1)
    for text, bad in (("expired", url), ("changed", url.replace("expires=", "expires=1"))):
        try:
            _get(origin, bad)
            found.append(f"a URL that is {text} works")
        except urllib.error.HTTPError as error:
            if error.code != 403:
                found.append(f"a URL that is {text} is answered {error.code}")
    return [f"origin {origin.name}: {text}" for text in found]


def self_check(work: pathlib.Path) -> list[str]:
    """What is wrong with the origins and the delay proxy; needs the small image, takes half a minute."""
    repository, tag = "bench/small", "estargz"
    found = []
    for form in (
        {},
        {"rtt_ms": 15},
        {"tls": True, "rtt_ms": 50},
        {"cdn": True},
        {"cdn": True, "rtt_ms": 15, "bandwidth": "200mbit"},
        {"bandwidth": "1gbit"},
    ):
        if missing := missing_programs(form.get("tls", False), form.get("cdn", False), form.get("bandwidth")):
            found.append(f"origin {form}: not installed: {', '.join(missing)}")
            continue
        with Origin(work, **form) as running:
            found += _blob_problems(running, repository, tag)
    if not missing_programs(cdn=True):
        with Origin(work, cdn=True, url_lifetime=2) as running:
            found += _expiry_problems(running, repository, tag)
    return found + delayproxy.failures(delayproxy.self_test(work, size=256 << 20))
