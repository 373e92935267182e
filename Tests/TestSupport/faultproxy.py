#!/usr/bin/env python3
"""An HTTP proxy that does to a registry's answers what bad networks and bad servers do.

usage: faultproxy.py --upstream HOST:PORT --control FILE --log FILE --port-file FILE [--delay-ms N]

It listens on a free port of 127.0.0.1 and writes that port into --port-file. What it does to a request is in the JSON file
--control, which is read anew for each request:

    {"rules": [{"match": "/blobs/", "mode": "cut", "times": 2}, …]}

The first rule whose `match` (a regular expression, default: everything) is found in the request's path, and which has
been used less than `times` times since the file was last changed (default: without limit), decides. Modes:

    pass          as the registry answered (also where no rule matches)
    refuse        the connection is closed without an answer
    hang          no answer for as long as the rule stands (or the client stays)
    ignore-range  Range is dropped: 200 and the whole blob
    cut           the header promises the whole body, `keep` bytes of it come (default: half), then the connection closes
    corrupt       one byte in the middle of the body is another one
    bad416        416 whose Content-Length is larger than its body
    status        the answer has the status `code` (default 503), with the header Retry-After: `after` if given
    slow          the body comes in pieces of `bytes` (default 1024) every `every_ms` (default 100)
    truncate      a range shorter than asked for, correctly labelled: the last half is missing
    redirect      307 to the same path at `to` (HOST:PORT), with ?signed=N appended

Each request is one JSON line in --log: time, method, path, range, mode, status, bytes sent, done or not, and the connection's number.
Python standard library only.
"""
import argparse
import http.client
import http.server
import json
import os
import re
import threading
import time


class Control:
    """The rules, and how often each was used since the file changed."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        self.stamp = None
        self.rules = []
        self.used = []

    def _load(self):
        try:
            status = os.stat(self.path)
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self.stamp:
                return
            with open(self.path) as file:
                rules = json.load(file)["rules"]
        except (OSError, ValueError, KeyError):
            return  # Being replaced, or not there yet: what was valid stays valid.
        self.stamp, self.rules, self.used = stamp, rules, [0] * len(rules)

    def choose(self, path):
        with self.lock:
            self._load()
            for index, rule in enumerate(self.rules):
                if self.used[index] >= rule.get("times", float("inf")):
                    continue
                if re.search(rule.get("match", ""), path):
                    self.used[index] += 1
                    return rule, self.stamp
        return {"mode": "pass"}, self.stamp

    def changed_since(self, stamp):
        with self.lock:
            self._load()
            return self.stamp != stamp


class Handler(http.server.BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the acknowledgement of its header
    protocol_version = "HTTP/1.1"
    connections = 0
    signature = 0
    counter_lock = threading.Lock()

    def setup(self):
        super().setup()
        with Handler.counter_lock:
            Handler.connections += 1
            self.connection_number = Handler.connections

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.serve()

    do_HEAD = do_GET

    def serve(self):
        rule, stamp = self.server.control.choose(self.path)
        mode = rule.get("mode", "pass")
        record = {
            "time": round(time.time(), 3), "method": self.command, "path": self.path,
            "range": self.headers.get("Range"), "authorization": self.headers.get("Authorization") is not None,
            "mode": mode, "status": None, "bytes": 0, "done": False, "connection": self.connection_number,
        }
        try:
            if self.server.delay:
                time.sleep(self.server.delay)
            getattr(self, "mode_" + mode.replace("-", "_"))(rule, stamp, record)
            record["done"] = True
        except (BrokenPipeError, ConnectionResetError, ConnectionAbortedError):
            self.close_connection = True
        except (OSError, http.client.HTTPException) as error:
            # The upstream is not there: a client sees a closed connection, as it would without the proxy.
            record["error"] = str(error)
            self.close_connection = True
        finally:
            self.server.write_log(record)

    # What the upstream says.

    def fetch(self, drop_range=False):
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=120)
        headers = {
            name: value for name, value in self.headers.items()
            if name.lower() not in ("host", "connection", "accept-encoding")
            and not (drop_range and name.lower() == "range")
        }
        headers["Host"] = self.headers.get("Host", "")
        connection.request(self.command, self.path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response, body

    def head(self, response, length, record, status=None):
        status = status or response.status
        record["status"] = status
        self.send_response_only(status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if self.command == "HEAD" and response.getheader("Content-Length"):
            length = response.getheader("Content-Length")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def body(self, data, record):
        if self.command == "HEAD":
            return
        view = memoryview(data)
        for start in range(0, len(view), 1 << 16):
            piece = view[start:start + (1 << 16)]
            self.wfile.write(piece)
            record["bytes"] += len(piece)

    # The modes.

    def mode_pass(self, rule, stamp, record, drop_range=False):
        response, data = self.fetch(drop_range)
        self.head(response, len(data), record)
        self.body(data, record)

    def mode_ignore_range(self, rule, stamp, record):
        self.mode_pass(rule, stamp, record, drop_range=True)

    def mode_refuse(self, rule, stamp, record):
        self.close_connection = True

    def mode_hang(self, rule, stamp, record):
        self.connection.settimeout(0.1)
        while not self.server.control.changed_since(stamp):
            try:
                if self.connection.recv(1) == b"":
                    break
            except TimeoutError:
                pass
        self.close_connection = True

    def mode_cut(self, rule, stamp, record):
        response, data = self.fetch()
        self.head(response, len(data), record)
        self.body(data[:rule.get("keep", len(data) // 2)], record)
        self.close_connection = True

    def mode_corrupt(self, rule, stamp, record):
        response, data = self.fetch()
        data = bytearray(data)
        if data:
            data[len(data) // 2] ^= 0x55
        self.head(response, len(data), record)
        self.body(data, record)

    def mode_truncate(self, rule, stamp, record):
        response, data = self.fetch()
        asked = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.getheader("Content-Range", ""))
        half = data[:len(data) // 2]
        if asked and half:
            start, total = int(asked[1]), asked[3]
            response.headers.replace_header("Content-Range", f"bytes {start}-{start + len(half) - 1}/{total}")
            data = half
        self.head(response, len(data), record)
        self.body(data, record)

    def mode_bad416(self, rule, stamp, record):
        record["status"] = 416
        text = b"range not satisfiable"
        self.send_response_only(416)
        self.send_header("Content-Length", str(len(text) + 100_000))
        self.end_headers()
        self.body(text, record)
        self.close_connection = True

    def mode_status(self, rule, stamp, record):
        record["status"] = rule.get("code", 503)
        text = b'{"errors":[{"code":"UNAVAILABLE","message":"fault injected"}]}'
        self.send_response_only(record["status"])
        if "after" in rule:
            self.send_header("Retry-After", str(rule["after"]))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.body(text, record)

    def mode_slow(self, rule, stamp, record):
        response, data = self.fetch()
        self.head(response, len(data), record)
        size, pause = rule.get("bytes", 1024), rule.get("every_ms", 100) / 1000
        for start in range(0, len(data), size):
            if self.server.control.changed_since(stamp):
                size = len(data)  # The rule is gone: the rest comes at once.
            self.body(data[start:start + size], record)
            if start + size >= len(data):
                break
            time.sleep(pause)

    def mode_redirect(self, rule, stamp, record):
        with Handler.counter_lock:
            Handler.signature += 1
            number = Handler.signature
        record["status"] = 307
        separator = "&" if "?" in self.path else "?"
        self.send_response_only(307)
        self.send_header("Location", f"http://{rule['to']}{self.path}{separator}signed={number}")
        self.send_header("Content-Length", "0")
        self.end_headers()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--control", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--delay-ms", type=float, default=0)
    options = parser.parse_args()
    server = Server(("127.0.0.1", 0), Handler)
    host, port = options.upstream.rsplit(":", 1)
    server.upstream = (host, int(port))
    server.control = Control(options.control)
    server.delay = options.delay_ms / 1000
    log, lock = open(options.log, "a", buffering=1), threading.Lock()

    def write_log(record):
        with lock:
            log.write(json.dumps(record) + "\n")

    server.write_log = write_log
    temporary = options.port_file + ".tmp"
    with open(temporary, "w") as file:
        file.write(str(server.server_address[1]))
    os.rename(temporary, options.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
