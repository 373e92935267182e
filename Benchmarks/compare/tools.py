"""Small things that contenders and scenarios share: the probe, caches, samples of memory, processor time."""

import json
import math
import mmap
import os
import pathlib
import resource
import shutil
import sys
import threading
import time

from compare import cleanup

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SAMPLE_SECONDS = 0.02
TICKS = os.sysconf("SC_CLK_TCK")


def work_directory():
    """Where images, caches and results live, outside the tree."""
    return pathlib.Path(os.environ.get("CRFS_BENCH_DIR") or "/var/tmp/crfs-bench")


def say(text):
    """A line for people, on standard error."""
    print(f"compare: {text}", file=sys.stderr, flush=True)


def is_newer(output, *sources):
    """Whether a built file exists and none of its sources changed since."""
    return output.exists() and all(output.stat().st_mtime >= source.stat().st_mtime for source in sources)


def program(name):
    """The path of a program, which may be one of the system administrator's; None when it is not there."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def build_probe(work):
    """Compiles probe.c into the work directory; returns its path."""
    probe = work / "bin/probe"
    if not is_newer(probe, HERE / "probe.c"):
        probe.parent.mkdir(parents=True, exist_ok=True)
        cleanup.run(["cc", "-O2", "-o", probe, HERE / "probe.c"], timeout=120)
    return probe


# When each path was last read by keep_in_use.
_in_use = {}


def keep_in_use(path):
    """Reads a file, or all of a tree, unless that was done within five minutes.

    The disks of virtual machines have caches of their own, which nobody here can drop. What was not read for an hour comes
    ten times slower from there than what a contender has just written to its cache.
    """
    if monotonic() - _in_use.get(path, -math.inf) < 300:
        return
    buffer = bytearray(1 << 20)
    tree = (os.path.join(directory, name) for directory, _, names in os.walk(path) for name in names)
    for file in [path] if os.path.isfile(path) else tree:
        if os.path.islink(file) or not os.path.isfile(file):
            continue
        with open(file, "rb", buffering=0) as content:
            while content.readinto(buffer):
                pass
    _in_use[path] = monotonic()


def drop_caches():
    """Writes back and drops the page, dentry and inode caches of the machine."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


_mapped = {}  # file -> its mapping


def warm_blobs(work, digests):
    """Reads the registry's files of these blobs, so that the origin does not wait for this machine's disk.

    They stay mapped: the kernel does not drop pages that are, so that this takes long only once.
    """
    for digest in digests:
        algorithm, _, value = digest.partition(":")
        path = work / f"registry/docker/registry/v2/blobs/{algorithm}/{value[:2]}/{value}/data"
        if not path.exists():
            continue
        with open(path, "rb", buffering=0) as file:
            block = bytearray(1 << 20)
            while file.readinto(block):
                pass
            if path not in _mapped:
                flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
                _mapped[path] = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)


def disk_reads(pid=None):
    """Bytes that ended children of this process read from disks, read-ahead included, and a running one."""
    total = resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock * 512
    for member in [pid, *cleanup.descendants(pid)] if pid else []:
        try:
            with open(f"/proc/{member}/io") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("read_bytes:"))
        except OSError:
            continue
    return total


def stored_manifest(work, repository, tag):
    """(digest, manifest) of a tag, from the registry's files: no request disturbs the origin's counts."""
    registry = work / "registry/docker/registry/v2"
    digest = (registry / f"repositories/{repository}/_manifests/tags/{tag}/current/link").read_text().strip()
    return digest, _stored_json(registry, digest)


def stored_layers(work, repository, tag):
    """The layers' descriptors of the image that a tag leads to, also through an index that lists it first."""
    _, manifest = stored_manifest(work, repository, tag)
    if "manifests" in manifest:
        registry = work / "registry/docker/registry/v2"
        manifest = _stored_json(registry, manifest["manifests"][0]["digest"])
    return manifest["layers"]


def _stored_json(registry, digest):
    return json.loads((registry / f"blobs/sha256/{digest[7:9]}/{digest[7:]}/data").read_text())


def free_bytes(path):
    """Bytes that may still be written where `path` is."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def disk_usage(path):
    """Bytes that a directory takes on its disk; 0 where there is none."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except OSError:
                continue
    return total


class Sampler(threading.Thread):
    """The highest RssAnon + RssShmem of a process and its descendants, in bytes, sampled every 20 ms."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.highest, self.done = pid, 0, threading.Event()
        self.start()

    def run(self):
        family, rounds = [self.pid], 0
        while not self.done.wait(SAMPLE_SECONDS):
            if rounds % 25 == 0:  # New children are looked for twice a second: that reads all of /proc.
                family = [self.pid, *cleanup.descendants(self.pid)]
            rounds += 1
            self.highest = max(self.highest, sum(memory(pid) for pid in family))

    def stop(self):
        """Ends the sampling; returns the highest sum."""
        self.done.set()
        self.join()
        return self.highest


def memory(pid):
    """RssAnon + RssShmem of a process now, in bytes."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return (
                sum(int(line.split()[1]) for line in file if line.startswith(("RssAnon:", "RssShmem:")))
                * 1024
            )
    except OSError:
        return 0


def cpu_seconds(pid):
    """User and system seconds of a process, its ended children and its living descendants."""
    total = 0
    for member in [pid, *cleanup.descendants(pid)]:
        try:
            with open(f"/proc/{member}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def monotonic():
    """Seconds of CLOCK_MONOTONIC, which the probe uses too."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)
