"""An HTTP/2 server with TLS that answers every request with the same content, and misbehaves in one way.

usage: h2server.py MODE CERTIFICATE KEY CONTENT PORT-FILE LOG

- goaway: each connection announces its end (GOAWAY) while its third request is being answered, answers the three, and
  drops what came later.
- reset: every third answer is reset (RST_STREAM, INTERNAL_ERROR) in the middle of its body.
- limit: after its first answer a connection lowers its number of streams at once to two, and refuses further ones.

The log has a line for each event: connection, goaway, reset, refused, answered. Header blocks of requests are not read:
answers have status 200 and the whole content, whatever range was asked for."""

import os
import socket
import ssl
import struct
import sys
import threading

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PIECE = 8192
INTERNAL_ERROR, REFUSED_STREAM = 2, 7
MAX_CONCURRENT_STREAMS = 3

mode, certificate, key, content_file, port_file, log_file = sys.argv[1:]
with open(content_file, "rb") as file:
    content = file.read()
log_lock = threading.Lock()
answers = 0


def log(event):
    with log_lock, open(log_file, "a") as file:
        file.write(event + "\n")


def literal(name, value):
    """A header field without indexing (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Connection:
    def __init__(self, stream):
        self.stream, self.lock = stream, threading.Lock()
        self.requests = self.running = 0
        self.lowered = self.leaving = False

    def send(self, kind, flags, number, payload=b""):
        frame = struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", number) + payload
        with self.lock:
            self.stream.sendall(frame)

    def receive(self, count):
        data = b""
        while len(data) < count:
            piece = self.stream.recv(count - len(data))
            if not piece:
                raise ConnectionError
            data += piece
        return data

    def run(self):
        log("connection")
        if self.receive(len(PREFACE)) != PREFACE:
            return
        self.send(SETTINGS, 0, 0, struct.pack(">HI", MAX_CONCURRENT_STREAMS, 100))
        while True:
            head = self.receive(9)
            length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            number = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
            payload = self.receive(length)
            if kind == SETTINGS and not flags & ACK:
                self.send(SETTINGS, ACK, 0)
            elif kind == PING and not flags & ACK:
                self.send(PING, ACK, 0, payload)
            elif kind == HEADERS:
                self.request(number)

    def request(self, number):
        self.requests += 1
        if self.leaving:
            return
        if self.lowered and self.running >= 2:
            log("refused")
            self.send(RESET, 0, number, struct.pack(">I", REFUSED_STREAM))
            return
        if mode == "goaway" and self.requests == 3:
            self.leaving = True
            log("goaway")
            self.send(GOAWAY, 0, 0, struct.pack(">II", number, 0))
        self.running += 1
        threading.Thread(target=self.answer, args=(number,), daemon=True).start()

    def answer(self, number):
        global answers
        with log_lock:
            answers += 1
            is_third = answers % 3 == 0
        try:
            self.send(HEADERS, END_HEADERS, number, b"\x88" + literal(b"content-length", str(len(content)).encode()))
            for start in range(0, len(content), PIECE):
                if mode == "reset" and is_third and start >= len(content) // 2:
                    log("reset")
                    self.send(RESET, 0, number, struct.pack(">I", INTERNAL_ERROR))
                    return
                end = start + PIECE
                self.send(DATA, END_STREAM if end >= len(content) else 0, number, content[start:end])
            log("answered")
        except OSError:
            pass
        finally:
            self.running -= 1
        if mode == "limit" and not self.lowered:
            self.lowered = True
            self.send(SETTINGS, 0, 0, struct.pack(">HI", MAX_CONCURRENT_STREAMS, 2))
        if self.leaving and self.running == 0:
            self.stream.shutdown(socket.SHUT_RDWR)


def serve(plain):
    try:
        Connection(context.wrap_socket(plain, server_side=True)).run()
    except (OSError, ConnectionError):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.set_alpn_protocols(["h2"])
listener = socket.create_server(("127.0.0.1", 0), backlog=128)
with open(port_file + ".new", "w") as file:
    file.write(str(listener.getsockname()[1]))
os.rename(port_file + ".new", port_file)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
