#!/usr/bin/env python3
"""Measures each kernel setting of crfs against its other values, in the scenario that it is for.

usage: CRFS_BINARY=… settings.py [--only NAME,…] [--rounds N] [--work DIR] [--json FILE]   (as root)

An image (20,000 files of this machine's /usr, a directory of 20,000 files, symbolic links, large files) is made once in
--work, pushed into a private docker-registry on loopback and read once, so that the store has it. Then each setting is
measured: its values in turns, each on a mount of its own with that value in CRFS_KERNEL_SETTINGS, --rounds times; a figure
is the median, the ratio that to the default's. docs/decisions/0016-kernel-settings.md has the results and what follows.
"""
import argparse
import io
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import tarfile
import time

import metadata
from metadata import checked, drop_caches, say

FILES, FLAT, LINKS, LARGE, PARKED = 20_000, 20_000, 5_000, 256 << 20, 80
READERS = 40
GIVE_UP = 10


# The image.

def add(archive, name, data=b"", target=None):
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    if target:
        info.type, info.linkname = tarfile.SYMTYPE, target
    archive.addfile(info, io.BytesIO(data))


def make_image(work):
    """A layout in `work`, once; returns the manifest's digest."""
    done = work / "digest"
    if not done.exists():
        say("making the image")
        metadata.pack(work / "layer.tar", FILES)
        source = random.Random(1)
        with tarfile.open(work / "layer.tar", "a", format=tarfile.PAX_FORMAT) as archive:
            for number in range(FLAT):
                add(archive, f"flat/file-{number}", b"x")
            for number in range(LINKS):
                add(archive, f"links/link-{number}", target=f"../flat/file-{number}")
            add(archive, "large", b"".join(source.randbytes(1 << 20) for _ in range(LARGE >> 20)))
            for number in range(PARKED):
                add(archive, f"parked/file-{number}", source.randbytes(4 << 20))
        checked(os.environ["CRFS_BINARY"], "convert", f"file:{work}/layer.tar", f"file:{work}/layer.tar.gz")
        (work / "layer.tar").unlink()
        digest = checked(
            "python3", metadata.ROOT / "Tests/TestSupport/mklayout.py", work / "layout", "bench", work / "layer.tar.gz")
        (work / "layer.tar.gz").unlink()
        done.write_text(digest.strip())
    return done.read_text()


# What is measured: each takes the image's root and gives seconds.

def timed(work):
    before = time.monotonic()
    work()
    return time.monotonic() - before


def command(*words):
    return timed(lambda: subprocess.run(words, stdout=subprocess.DEVNULL, check=True))


def read(path, limit=None):
    """Seconds for reading a file in pieces of 1 MiB."""
    def run():
        buffer, done = bytearray(1 << 20), 0
        with open(path, "rb", buffering=0) as file:
            while (limit is None or done < limit) and (count := file.readinto(buffer)):
                done += count
    return timed(run)


def sequential(mount):
    """Pages dropped, chunks in the store and in memory."""
    path = mount.root + "/large"
    read(path)
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return read(path)


def warm(*words):
    def run(mount):
        line = [*words, mount.root]
        command(*line)
        return min(command(*line) for _ in range(2))
    return run


def cold(*words):
    def run(mount):
        line = [*words, mount.root]
        command(*line)
        drop_caches()
        return command(*line)
    return run


def from_processes(count, work):
    """Seconds until `count` processes have each done their part."""
    def run():
        children = []
        for number in range(count):
            if (child := os.fork()) == 0:
                try:
                    work(number)
                finally:
                    os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
    return timed(run)


def look_ups(mount):
    """4 clients look up all names of one directory."""
    drop_caches()
    root = mount.root + "/flat/file-"
    os.stat(root + "0")

    def look(number):
        for name in range(number, FLAT, 4):
            os.lstat(root + str(name))
    return from_processes(4, look)


def links(mount):
    """Reads 5,000 symbolic links again."""
    names = [f"{mount.root}/links/link-{number}" for number in range(LINKS)]
    for name in names:
        os.readlink(name)
    return timed(lambda: [os.readlink(name) for name in names])


def missing(mount):
    """Asks again for 5,000 names that are not there."""
    names = [f"{mount.root}/flat/none-{number}" for number in range(5_000)]
    for name in names:
        os.path.lexists(name)
    return timed(lambda: [os.path.lexists(name) for name in names])


def parked(mount):
    """64 MiB that are in the store, while 40 readers wait for a registry that is stopped."""
    first, Mount.taken = Mount.taken, Mount.taken + READERS
    mount.registry.process.send_signal(signal.SIGSTOP)
    readers = [
        subprocess.Popen(["cat", f"{mount.root}/parked/file-{number}"], stdout=subprocess.DEVNULL)
        for number in range(first, first + READERS)
    ]
    try:
        time.sleep(1)
        path = mount.root + "/large"
        before = time.monotonic()
        reader = subprocess.Popen(["dd", f"if={path}", "of=/dev/null", "bs=1M", "count=64", "status=none"])
        try:
            reader.wait(GIVE_UP)
        except subprocess.TimeoutExpired:
            pass
        return time.monotonic() - before
    finally:
        for process in [*readers, reader]:
            process.kill()
        mount.registry.process.send_signal(signal.SIGCONT)
        for process in [*readers, reader]:
            process.wait()


# name -> (values, the default first; what is measured: name -> function)
SETTINGS = {
    "read-ahead": (("1024", "128", "4096"), {"1 file of 256 MiB, store in memory": sequential}),
    "request": (("1024", "1020", "128"), {"1 file of 256 MiB, store in memory": sequential}),
    "max-background": (("4096", "12"), {"64 MiB beside 40 waiting readers": parked}),
    "parallel": (("on", "off"), {"20,000 look-ups, 4 clients": look_ups}),
    "directories": (("kernel", "kept", "asked"), {"`find`, warm": warm("find")}),
    "attributes": (("always", "auto", "never"), {
        "`find`, cold": cold("find"), "`ls -lR`, cold": cold("ls", "-lR")}),
    "links": (("on", "off"), {"5,000 links again": links}),
    "missing": (("on", "off"), {"5,000 missing names again": missing}),
    "acl": (("on", "off"), {"`ls -lR`, warm": warm("ls", "-lR")}),
}


class Mount(metadata.Mount):
    """A mount with one setting."""

    taken = 0  # Files that somebody has waited for: each wait needs new ones.

    def __init__(self, work, image, registry, setting):
        os.environ["CRFS_KERNEL_SETTINGS"] = setting
        super().__init__(work, str(work / "cache"), ["--no-background", "--insecure-registry", registry.host])
        self.root, self.registry = f"{self.point}/{image}", registry


def measure(work, image, registry, names, rounds):
    results = []
    for name in names:
        values, scenarios = SETTINGS[name]
        seconds = {(scenario, value): [] for scenario in scenarios for value in values}
        for _ in range(1 if parked in scenarios.values() else rounds):
            for value in values:
                mount = Mount(work, image, registry, f"{name}={value}")
                try:
                    for scenario, run in scenarios.items():
                        seconds[scenario, value].append(run(mount))
                finally:
                    mount.stop()
        for scenario in scenarios:
            default = statistics.median(seconds[scenario, values[0]])
            for value in values:
                here = statistics.median(seconds[scenario, value])
                results.append({
                    "setting": name, "value": value, "scenario": scenario, "seconds": here, "ratio": here / default,
                    "all": seconds[scenario, value]})
                say(f"{name}={value}: {scenario}: {here:.4f} s, {here / default:.2f}")
    return results


def table(results):
    rows = ["| setting | scenario | value | time | to the default |", "|---|---|---|---|---|"]
    for row in results:
        time_text = f"more than {GIVE_UP} s" if row["seconds"] >= GIVE_UP else f"{row['seconds'] * 1e3:.1f} ms"
        rows.append(f"| `{row['setting']}` | {row['scenario']} | {row['value']} | {time_text} | {row['ratio']:.2f} |")
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="only these settings, comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", default="/var/tmp/crfs-settings", help="where the image is kept (3 GB)")
    parser.add_argument("--json", help="also write the raw figures there")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench: needs root: it mounts, and drops the kernel's caches")
    if not os.environ.get("CRFS_BINARY"):
        raise SystemExit("bench: set CRFS_BINARY to the crfs program (make bench-settings does)")
    names = options.only.split(",") if options.only else list(SETTINGS)
    work = pathlib.Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    (work / "cache").mkdir(mode=0o700, exist_ok=True)
    digest = make_image(work)
    registry = metadata.Registry(work)
    try:
        checked(
            "skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
            f"oci:{work}/layout:bench", f"docker://{registry.host}/bench:latest")
        image = f"images/{registry.host}/bench/{digest.replace(':', '-')}"
        mount = Mount(work, image, registry, "read-ahead=1024")
        say("reading what the store is to have")
        command("sh", "-c", f"cd {mount.root} && cat large >/dev/null && find usr -type f -print0 | xargs -0 cat")
        mount.stop()
        results = measure(work, image, registry, names, options.rounds)
        facts = metadata.machine(work)
        print(f"{facts['cores']} cores, load {facts['load']}, Linux {facts['kernel']}, {facts['filesystem']}, {facts['crfs']}.\n")
        print(table(results))
        if options.json:
            pathlib.Path(options.json).write_text(json.dumps({"machine": facts, "results": results}, indent=1) + "\n")
    finally:
        registry.stop()


if __name__ == "__main__":
    main()
