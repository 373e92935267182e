#!/usr/bin/env python3
"""A token server as registries want one (RS256), and Google Cloud's metadata server.

    tokenserver.py DIRECTORY

DIRECTORY has key.pem and cert.der, and configuration.json, which is read anew for each request:
  port         where to listen (127.0.0.1)
  life         seconds that a token works
  users        {name: password} that get tokens by GET; "" as a name: nobody in particular does too
  refresh      list of refresh tokens that get tokens by POST
  postStatus   answer POST with this status instead
  status       answer everything with this status instead
  issuer, service
  access       the access token of the metadata server

Each request is a line of JSON in the file requests. The registry accepts a token for 60 seconds longer than it says, so that the
end that is written into it lies as much earlier. Ends with its parent.
"""
import base64, http.server, json, os, socketserver, subprocess, sys, threading, time, urllib.parse

directory = sys.argv[1]
lock = threading.Lock()
counter = [0]


def configuration():
    with open(os.path.join(directory, "configuration.json")) as file:
        return json.load(file)


def encode(content):
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def sign(claims):
    with open(os.path.join(directory, "cert.der"), "rb") as file:
        certificate = base64.b64encode(file.read()).decode()
    head = encode(json.dumps({"alg": "RS256", "typ": "JWT", "x5c": [certificate]}).encode())
    text = head + "." + encode(json.dumps(claims).encode())
    signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", os.path.join(directory, "key.pem"), "-binary"],
                               input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
    return text + "." + encode(signature)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def note(self, body=""):
        headers = {name.lower(): value for name, value in self.headers.items()}
        with lock, open(os.path.join(directory, "requests"), "a") as file:
            file.write(json.dumps({"method": self.command, "path": self.path, "headers": headers, "body": body}) + "\n")

    def answer(self, status, document, headers=None):
        body = json.dumps(document).encode() if not isinstance(document, str) else document.encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.note()
        wanted = configuration()
        if self.path.startswith("/computeMetadata/"):
            if self.headers.get("Metadata-Flavor") != "Google":
                return self.answer(403, {})
            if self.path.endswith("/project-id"):
                return self.answer(200, "test-project-1", {"Metadata-Flavor": "Google"})
            document = {"access_token": wanted["access"], "expires_in": 3600, "token_type": "Bearer"}
            return self.answer(200, document, {"Metadata-Flavor": "Google"})
        if "status" in wanted:
            return self.answer(wanted["status"], {})
        given = self.headers.get("Authorization", "")
        user, _, password = base64.b64decode(given[6:]).decode().partition(":") if given.startswith("Basic ") else ("", "", "")
        if wanted["users"].get(user) != password:
            # Servers repeat what they were sent now and then.
            return self.answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "not " + given}]})
        query = urllib.parse.parse_qs(self.path.partition("?")[2])
        self.give(wanted, query.get("scope", []))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.note(body)
        wanted = configuration()
        if "postStatus" in wanted:
            return self.answer(wanted["postStatus"], {})
        form = urllib.parse.parse_qs(body)
        if form.get("refresh_token", [""])[0] not in wanted.get("refresh", []):
            return self.answer(401, {})
        self.give(wanted, form.get("scope", [""])[0].split())

    def give(self, wanted, scopes):
        now = int(time.time())
        with lock:
            counter[0] += 1
            number = counter[0]
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        token = sign({"iss": wanted["issuer"], "sub": "", "aud": wanted["service"], "nbf": now - 120, "iat": now,
                      "exp": now + wanted["life"] - 60, "jti": str(number), "access": access})
        self.answer(200, {"token": token, "expires_in": wanted["life"]})


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True


parent = os.getppid()
server = Server(("127.0.0.1", configuration()["port"]), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
while os.getppid() == parent:
    time.sleep(0.2)
