#!/usr/bin/env python3
"""Registries with their token servers and storage servers, which misbehave as told.

    fakeregistry.py DIRECTORY

Watches DIRECTORY/worlds. For every directory there with a scenario.json it listens on three free ports of 127.0.0.1,
writes them to ports.json beside it ({"registry": N, "tokens": N, "storage": N}) and one JSON line per request to the file
requests. Ends when its parent ends, and removes DIRECTORY then.

Scenario:
  blob         how many bytes the one blob of any repository has (byte i is (i * 7 + i // 251) % 256)
  manifest     the text of the one manifest, answered for any tag; its digest is in Docker-Content-Digest
  noDigest     leave Docker-Content-Digest out
  pages        list of lists of tags; all but the last have a Link to the next
  link         how the Link is written: "relative" (default), "absolute", "loop"
  children     GCR's child list, in every page
  catalog      list of lists of repository names
  tokens       {"life": seconds a token works, "expires_in": what the answer says (absent: nothing), "field": name of the
               token's field, "delay": seconds before the answer}; the registry then wants a bearer token
  redirect     {"uses": how often a URL works before it is 403, or "spent": another status} blobs are redirected to the storage server;
               {"to": URL} they are redirected there
  rules        list of {"match": regular expression on "role METHOD path", "mode": …, "times": N or absent for all, …}; the
               first that matches is used:
     status    {"code", "headers", "body"}
     cut       {"keep": bytes of the body that come before the connection ends}
     hang      read the request and never answer
     drip      {"bytes": per piece, "pause": seconds between pieces}
     whole     ignore Range, answer 200
     wrong416  416 with a Content-Length of the whole blob and an empty body
     flip      one byte of the body is wrong
     close     end the connection without an answer
     shift     answer 206 with the range one byte later
"""
import functools, hashlib, http.server, json, os, re, shutil, socket, socketserver, sys, threading, time

class World:
    """What the three servers of one scenario share."""

    def __init__(self, directory):
        self.scenario = json.load(open(os.path.join(directory, "scenario.json")))
        self.lock = threading.Lock()
        self.rules = self.scenario.get("rules", [])
        self.tokens = {}
        self.signatures = {}
        self.ports = {}
        self.count = {"connection": 0, "token": 0, "signature": 0}
        self.log = open(os.path.join(directory, "requests"), "a", buffering=1)
        size = self.scenario.get("blob", 0)
        self.blob = make_blob(size)
        self.manifest = self.scenario.get("manifest", "").encode()
        self.manifest_digest = "sha256:" + hashlib.sha256(self.manifest).hexdigest()
        for role in ("registry", "tokens", "storage"):
            server = Server(("127.0.0.1", 0), type(role, (Handler,), {"role": role, "world": self}))
            self.ports[role] = server.server_address[1]
            threading.Thread(target=server.serve_forever, daemon=True).start()
        temporary = os.path.join(directory, "ports.tmp")
        with open(temporary, "w") as file:
            json.dump(self.ports, file)
        os.rename(temporary, os.path.join(directory, "ports.json"))


@functools.cache
def make_blob(size):
    return bytes((i * 7 + i // 251) % 256 for i in range(size))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    role = ""
    world = None

    def setup(self):
        super().setup()
        with self.world.lock:
            self.world.count["connection"] += 1
            self.connection_number = self.world.count["connection"]

    def handle(self):
        # A TLS handshake begins with byte 22: a server of plain HTTP that notices ends the connection.
        try:
            first = self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return
        if first == b"\x16":
            with self.world.lock:
                self.world.log.write(json.dumps({"role": self.role, "method": "TLS", "path": "", "headers": {},
                                      "connection": self.connection_number}) + "\n")
            if self.world.scenario.get("silentTLS"):
                time.sleep(600)
            return
        try:
            super().handle()
        except (ConnectionError, OSError):
            pass

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.world.lock:
            self.world.log.write(json.dumps({"role": self.role, "method": self.command, "path": self.path,
                                  "headers": headers, "connection": self.connection_number}) + "\n")
            self.rule = self.take_rule()
        mode = self.rule.get("mode")
        if mode == "hang":
            time.sleep(600)
            self.close_connection = True
            return
        if mode == "close":
            self.close_connection = True
            return
        if mode == "status":
            return self.answer(self.rule["code"], self.rule.get("body", "").encode(), self.rule.get("headers", {}))
        if mode == "wrong416":
            self.send_response(416)
            self.send_header("Content-Length", str(len(self.world.blob)))
            self.end_headers()
            return
        getattr(self, "serve_" + self.role)()

    def take_rule(self):
        for rule in self.world.rules:
            if not re.search(rule["match"], f"{self.role} {self.command} {self.path}"):
                continue
            if "times" in rule:
                if rule["times"] <= 0:
                    continue
                rule["times"] -= 1
            return rule
        return {}

    def answer(self, status, body=b"", headers=None):
        mode = self.rule.get("mode")
        if mode == "flip" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if mode == "cut":
            self.wfile.write(body[:self.rule["keep"]])
            self.wfile.flush()
            self.close_connection = True
        elif mode == "drip":
            step = self.rule["bytes"]
            for start in range(0, len(body), step):
                self.wfile.write(body[start:start + step])
                self.wfile.flush()
                time.sleep(self.rule["pause"])
        else:
            self.wfile.write(body)

    def serve_tokens(self):
        wanted = self.world.scenario["tokens"]
        time.sleep(wanted.get("delay", 0))
        with self.world.lock:
            self.world.count["token"] += 1
            text = f"token-{self.world.count['token']}"
            self.world.tokens[text] = time.monotonic() + wanted["life"]
        document = {wanted.get("field", "token"): text}
        if "expires_in" in wanted:
            document["expires_in"] = wanted["expires_in"]
        self.answer(200, json.dumps(document).encode())

    def serve_registry(self):
        path, _, query = self.path.partition("?")
        if "tokens" in self.world.scenario and not self.authorized(path):
            return
        if path == "/v2/":
            return self.answer(200, b"{}")
        if path == "/v2/_catalog":
            return self.serve_pages("catalog", "repositories", query, path)
        if path.endswith("/tags/list"):
            return self.serve_pages("pages", "tags", query, path)
        if "/manifests/" in path:
            if not self.world.manifest:
                return self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}')
            headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json; charset=utf-8"}
            if not self.world.scenario.get("noDigest"):
                headers["Docker-Content-Digest"] = self.world.manifest_digest
            return self.answer(200, self.world.manifest, headers)
        if "/blobs/" in path:
            if "redirect" in self.world.scenario:
                return self.answer(307, b"", {"Location": self.location()})
            return self.serve_blob()
        self.answer(404)

    def authorized(self, path):
        given = self.headers.get("Authorization", "")
        with self.world.lock:
            if given.startswith("Bearer ") and self.world.tokens.get(given[7:], 0) > time.monotonic():
                return True
        realm = f"http://127.0.0.1:{self.world.ports['tokens']}/token"
        name = re.match(r"/v2/(.+)/(blobs|manifests|tags)/", path)
        scope = f',scope="repository:{name.group(1)}:pull"' if name else ""
        self.answer(401, b"{}", {"WWW-Authenticate": f'Bearer realm="{realm}",service="fake registry"{scope}'})
        return False

    def location(self):
        if "to" in self.world.scenario["redirect"]:
            return self.world.scenario["redirect"]["to"].format(**self.world.ports)
        with self.world.lock:
            self.world.count["signature"] += 1
            signature = f"secret-{self.world.count['signature']}"
            self.world.signatures[signature] = self.world.scenario["redirect"]["uses"]
        return f"http://127.0.0.1:{self.world.ports['storage']}/data?sig={signature}"

    def serve_storage(self):
        path, _, query = self.path.partition("?")
        if path.startswith("/hop/"):
            return self.answer(302, b"", {"Location": "../hop/" + str(int(path[5:]) + 1)})
        with self.world.lock:
            left = self.world.signatures.get(query[4:], 0)
            self.world.signatures[query[4:]] = left - 1
        if left <= 0:
            return self.answer(self.world.scenario["redirect"].get("spent", 403), b"<Error/>")
        self.serve_blob()

    def serve_blob(self):
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked or self.rule.get("mode") == "whole":
            return self.answer(200, self.world.blob)
        first, last = int(asked.group(1)), min(int(asked.group(2)), len(self.world.blob) - 1)
        if first >= len(self.world.blob):
            return self.answer(416)
        if self.rule.get("mode") == "shift":
            first, last = first + 1, last + 1
        self.answer(206, self.world.blob[first:last + 1], {"Content-Range": f"bytes {first}-{last}/{len(self.world.blob)}"})

    def serve_pages(self, key, field, query, path):
        if key not in self.world.scenario:
            return self.answer(404)
        pages = self.world.scenario[key]
        found = re.search(r"last=(\d+)", query)
        index = int(found.group(1)) if found else 0
        document = {"name": "x", field: pages[index]}
        if "children" in self.world.scenario:
            document["child"] = self.world.scenario["children"]
        headers = {}
        if index + 1 < len(pages) or self.world.scenario.get("link") == "loop":
            target = f"{path}?last={(index + 1) % len(pages)}&n=1000"
            if self.world.scenario.get("link") == "absolute":
                target = "http://registry.internal" + target
            headers["Link"] = f'<{target}>; rel="next"'
        self.answer(200, json.dumps(document).encode(), headers)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 256


parent = os.getppid()
worlds = os.path.join(sys.argv[1], "worlds")
known = set()
while os.getppid() == parent:
    for name in os.listdir(worlds):
        directory = os.path.join(worlds, name)
        if name not in known and os.path.exists(os.path.join(directory, "scenario.json")):
            known.add(name)
            World(directory)
    time.sleep(0.005)
shutil.rmtree(sys.argv[1], ignore_errors=True)
