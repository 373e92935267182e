#!/usr/bin/env python3
"""A registry whose blobs are at a storage server with signed URLs that expire.

    signingfront.py DIRECTORY

DIRECTORY/configuration.json:
  port       where to listen (127.0.0.1)
  upstream   HOST:PORT of the registry that all else goes to, and that decides who may read a blob
             (a registry's redirect middleware may send blobs here by their path in its storage: those are sent on, unasked)
  storage    scheme://host:port/prefix of the storage server, which has the registry's blobs (nginx, secure_link); "" for
             none: blobs come from the registry. Then it serves as an HTTP proxy, too, that sends every host's requests there.
  secret     what URLs are signed with
  life       seconds that they hold

Each request is a line of JSON in the file requests. Ends with its parent.
"""
import base64, hashlib, http.client, http.server, json, os, re, socketserver, sys, threading, time, urllib.parse

directory = sys.argv[1]
lock = threading.Lock()
with open(os.path.join(directory, "configuration.json")) as file:
    wanted = json.load(file)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        with lock, open(os.path.join(directory, "requests"), "a") as file:
            file.write(json.dumps({"method": self.command, "path": self.path, "headers": headers, "body": ""}) + "\n")
        path = re.sub("^http://[^/]+", "", self.path)
        blob = wanted["storage"] and re.match(r"/v2/.+/blobs/sha256:([0-9a-f]{64})(\?|$)", path)
        stored = wanted["storage"] and re.match(r"/docker/registry/v2/blobs/sha256/../([0-9a-f]{64})/data$", path)
        if stored:
            return self.finish_answer(307, {"Location": self.location(stored.group(1))}, b"")
        upstream = http.client.HTTPConnection(wanted["upstream"], timeout=30)
        try:
            forwarded = {name: value for name, value in self.headers.items() if name.lower() != "host" and not (blob and name.lower() == "range")}
            upstream.request("HEAD" if blob else self.command, path, headers={**forwarded, "Host": wanted["upstream"]})
            answer = upstream.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return self.finish_answer(502, {}, b"")
        finally:
            upstream.close()
        if blob and answer.status == 200:
            return self.finish_answer(307, {"Location": self.location(blob.group(1))}, b"")
        kept = {name: value for name, value in answer.getheaders()
                if name.lower() not in ("content-length", "transfer-encoding", "connection")}
        self.finish_answer(answer.status, kept, body, answer.getheader("Content-Length"))

    def location(self, digits):
        path = urllib.parse.urlsplit(wanted["storage"]).path + f"/{digits[:2]}/{digits}/data"
        end = int(time.time()) + wanted["life"]
        digest = hashlib.md5(f"{end}{path} {wanted['secret']}".encode()).digest()
        signature = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        base = urllib.parse.urlsplit(wanted["storage"])
        return f"{base.scheme}://{base.netloc}{path}?md5={signature}&expires={end}"

    def finish_answer(self, status, headers, body, length=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True


parent = os.getppid()
server = Server(("127.0.0.1", wanted["port"]), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
while os.getppid() == parent:
    time.sleep(0.2)
