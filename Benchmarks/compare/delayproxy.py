"""The delay proxy: puts the latency of a real path between a client and a server on this machine.

usage: python3 -m compare.delayproxy --self-test

The program is delayproxy.c, built by `cc` at first use: one in Python takes twice its processor time from the
programs that are compared. The self-test shows round trips and throughput with and without it.
"""

import argparse
import contextlib
import hashlib
import pathlib
import socket
import statistics
import subprocess
import sys
import threading
import time

from compare import cleanup, tools

SOURCE = pathlib.Path(__file__).with_suffix(".c")
# A path that limits nothing carries this at least, in one connection.
UNLIMITED_BYTES_PER_SECOND = 1_000_000_000
SMALLEST_WINDOW = 1 << 20


def program(work: pathlib.Path) -> pathlib.Path:
    """The built program; it is built again when its source has changed."""
    name = "delayproxy-" + hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    path = pathlib.Path(work) / "bin" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        cleanup.run(["cc", "-O2", "-o", temporary, SOURCE])
        temporary.rename(path)
    return path


def window(rtt_ms: float, bytes_per_second: int | None = None) -> int:
    """Bytes that may be under way in one direction of a connection: twice what the path holds."""
    rate = bytes_per_second or UNLIMITED_BYTES_PER_SECOND
    return max(SMALLEST_WINDOW, int(rate * rtt_ms / 1000))


class DelayProxy:
    """A running proxy for one or several upstream addresses.

    `listening` holds, in the order of `upstreams`, the address to connect to instead.
    """

    def __init__(
        self,
        work: pathlib.Path,
        rtt_ms: float,
        upstreams: list[str],
        listen: list[str] | None = None,
        netns: str | None = None,
        bytes_per_second: int | None = None,
    ):
        pairs = [
            f"{own}={other}" for own, other in zip(listen or ["127.0.0.1:0"] * len(upstreams), upstreams)
        ]
        command = [program(work), str(rtt_ms), str(window(rtt_ms, bytes_per_second)), *pairs]
        self.process = cleanup.start(command, netns=netns, stdout=subprocess.PIPE, text=True)
        lines = [self.process.stdout.readline() for _ in pairs]
        if not all(lines):
            raise cleanup.Failed(f"the delay proxy did not start: {pairs}")
        self.listening = [line.split()[1] for line in lines]

    def close(self) -> None:
        cleanup.stop(self.process)
        self.process.stdout.close()


def _serve(listener: socket.socket) -> None:
    """Answers each 8-byte number with so many bytes, on any number of connections."""
    piece = bytes(1 << 18)

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while request := connection.recv(8, socket.MSG_WAITALL):
                left = int.from_bytes(request, "big")
                while left > 0:
                    left -= connection.send(piece[:left])

    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


def _connect(address: str) -> socket.socket:
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _ask(connection: socket.socket, count: int) -> None:
    connection.sendall(count.to_bytes(8, "big"))
    room = bytearray(1 << 18)
    while count > 0:
        got = connection.recv_into(room)
        if not got:
            raise cleanup.Failed("the connection ended early")
        count -= got


def _measure(address: str, connections: int, size: int) -> dict:
    """Milliseconds to a new connection's first byte and of round trips; bytes per second over all of them."""
    new = []
    for _ in range(5):
        started = time.monotonic()
        first = _connect(address)
        _ask(first, 1)
        new.append(time.monotonic() - started)
    trips = []
    for _ in range(20):
        started = time.monotonic()
        _ask(first, 1)
        trips.append(time.monotonic() - started)
    first.close()
    sockets = [_connect(address) for _ in range(connections)]
    for connection in sockets:
        _ask(connection, 1)
    threads = [
        threading.Thread(target=_ask, args=(connection, size // connections)) for connection in sockets
    ]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = size / (time.monotonic() - started)
    for connection in sockets:
        connection.close()
    return {
        "connections": connections,
        "first_ms": min(new) * 1000,
        "least_ms": min(trips) * 1000,
        "trip_ms": statistics.median(trips) * 1000,
        "rate": rate,
    }


def self_test(work: pathlib.Path, size: int = 1 << 30) -> list[dict]:
    """Measures without the proxy and with it at several delays, over one and four connections."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    direct = "127.0.0.1:%d" % listener.getsockname()[1]
    # The server is a process of its own: threads of one interpreter would wait for each other.
    server = cleanup.start(
        [sys.executable, "-c", "import socket, compare.delayproxy as d; d._serve(socket.socket(fileno=0))"],
        stdin=listener,
        cwd=SOURCE.parent.parent,
    )
    listener.close()
    rows = []
    try:
        for delay in (None, 0, 15, 50):
            proxy = None if delay is None else DelayProxy(work, delay, [direct])
            for connections in (1, 4):
                before = tools.cpu_seconds(proxy.process.pid) if proxy else 0.0
                row = _measure(proxy.listening[0] if proxy else direct, connections, size)
                spent = tools.cpu_seconds(proxy.process.pid) - before if proxy else 0.0
                rows.append({"rtt_ms": delay, **row, "cpu_seconds": spent})
            if proxy:
                proxy.close()
    finally:
        cleanup.stop(server)
    return rows


def failures(rows: list[dict]) -> list[str]:
    """What of a self-test is not as such a path has it, by the least times: a busy machine adds to all."""
    found = []
    direct = {row["connections"]: row["rate"] for row in rows if row["rtt_ms"] is None}
    for row in rows:
        delay = row["rtt_ms"]
        if delay is None:
            continue
        if not delay <= row["least_ms"] <= delay + max(2, delay / 10):
            found.append(f"a round trip through the delay proxy of {delay} ms took {row['least_ms']:.2f} ms")
        if not 2 * delay <= row["first_ms"] <= 2 * delay + max(5, delay / 5):
            found.append(
                f"the first byte through the delay proxy of {delay} ms took {row['first_ms']:.2f} ms"
            )
        # It copies once more on the same processors: a fifth must be left even on a busy machine.
        if row["rate"] < min(400e6, direct[row["connections"]] / 5):
            found.append(f"the delay proxy of {delay} ms carried only {row['rate'] / 1e6:.0f} MB/s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--self-test", action="store_true", required=True)
    parser.add_argument("--work", type=pathlib.Path, default=tools.work_directory())
    options = parser.parse_args()
    cleanup.install(options.work)
    rows = self_test(options.work)
    print("proxy  connections  first byte, ms  round trip, ms (least)    MB/s  CPU s a GiB")
    for row in rows:
        name = "none" if row["rtt_ms"] is None else f"{row['rtt_ms']} ms"
        trip = f"{row['trip_ms']:.3f} ({row['least_ms']:.3f})"
        print(
            f"{name:6} {row['connections']:11} {row['first_ms']:15.2f} {trip:>23} {row['rate'] / 1e6:7.0f}"
            f" {row['cpu_seconds']:12.2f}"
        )
    for text in failures(rows):
        print(f"delayproxy: {text}", file=sys.stderr)
    sys.exit(1 if failures(rows) else 0)


if __name__ == "__main__":
    main()
