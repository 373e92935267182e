#!/usr/bin/env python3
"""Measures what a mount costs before a file's content matters: opening, find, ls -lR, memory.

usage: CRFS_BINARY=… metadata.py [--files N] [--rounds N] [--work DIR] [--json FILE] [--no-document]   (as root)

An image of 40,000 files is made of this machine's own /usr, converted to eStargz by crfs, pushed into a private
docker-registry on loopback, mounted, and compared with the same tree unpacked on the disk that holds --work. Both sides
are measured in turns in one run, each round with dropped dentry, inode and page caches; figures are medians, ratios are
of medians. The table goes into docs/benchmarks.md between its markers, whether it is good or bad.
"""
import argparse
import json
import os
import pathlib
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- metadata:begin (written by make bench-metadata) -->", "<!-- metadata:end -->"
MEMORY_CACHE = "16MiB"
SAMPLE_SECONDS = 0.02


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def checked(*command, **more):
    result = subprocess.run(command, capture_output=True, text=True, **more)
    if result.returncode != 0:
        raise SystemExit(f"bench: {' '.join(map(str, command))}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


# The image.

def pack(output, wanted):
    """Writes a tar of `wanted` regular files of at most 1 MiB from /usr, with their directories and symlinks."""
    files = links = total = copy = 0
    with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as archive:
        while files < wanted:
            before = files
            prefix = "usr" if copy == 0 else f"copy{copy}/usr"
            for directory, subdirectories, names in os.walk("/usr"):
                subdirectories.sort()
                relative = prefix + directory[len("/usr"):]
                if files >= wanted:
                    break
                archive.add(directory, relative, recursive=False)
                for name in sorted(names):
                    path = os.path.join(directory, name)
                    archive.inodes.clear()  # Each name is a file of its own here: no hard links.
                    try:
                        info = archive.gettarinfo(path, f"{relative}/{name}")
                    except OSError:
                        continue
                    if info is None or not (info.issym() or info.isreg()) or info.size > 1 << 20:
                        continue
                    if info.isreg():
                        if files >= wanted:
                            break
                        with open(path, "rb") as file:
                            archive.addfile(info, file)
                        files, total = files + 1, total + info.size
                    else:
                        archive.addfile(info)
                        links += 1
            if files == before:
                raise SystemExit("bench: /usr has no files to take")
            copy += 1
    return {"files": files, "symlinks": links, "bytes": total}


class Registry:
    """docker-registry on a free port of 127.0.0.1."""

    def __init__(self, work):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        configuration = work / "registry.yml"
        configuration.write_text(
            f'version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {work}/registry}}}}\n'
            f'http: {{addr: "{self.host}", secret: bench}}\n')
        self.process = subprocess.Popen(
            ["docker-registry", "serve", configuration], stdout=open(work / "registry.log", "w"), stderr=subprocess.STDOUT)
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/", timeout=1).read()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        raise SystemExit("bench: docker-registry does not start: " + (work / "registry.log").read_text()[-500:])

    def stop(self):
        self.process.terminate()
        self.process.wait()


# The mount.

def is_mounted(point):
    with open("/proc/self/mountinfo") as table:
        return any(line.split(" ", 5)[4] == point for line in table)


class Mount:
    """crfs in the foreground; `started` is the time just before it was executed."""

    def __init__(self, work, cache, options=()):
        self.point = str(work / "mnt")
        os.makedirs(self.point, exist_ok=True)
        os.makedirs(work / "local", exist_ok=True)
        self.log = work / "crfs.log"
        command = [
            os.environ["CRFS_BINARY"], "mount", "--foreground", "--cache-dir", cache, "--local-dir", str(work / "local"),
            "--memory-cache", MEMORY_CACHE, *options, self.point,
        ]
        with open(self.log, "a") as log:
            self.started = time.monotonic()
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while not is_mounted(self.point):
            if self.process.poll() is not None:
                raise SystemExit("bench: crfs does not mount: " + self.log.read_text()[-500:])
            time.sleep(0.0002)  # Not the processor that crfs needs.

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            subprocess.run(["umount", "-l", self.point])


class Sampler(threading.Thread):
    """The highest RssAnon + RssShmem of a process, in KiB, sampled every 20 ms, for each named phase."""

    def __init__(self, process_id):
        super().__init__(daemon=True)
        self.path = f"/proc/{process_id}/status"
        self.phase, self.highest, self.samples, self.done = "start", {}, 0, False
        self.start()

    def run(self):
        while not self.done:
            try:
                with open(self.path) as status:
                    rows = dict(line.split(":", 1) for line in status)
                now = sum(int(rows[key].split()[0]) for key in ("RssAnon", "RssShmem"))
            except (OSError, KeyError):
                break
            self.samples += 1
            self.highest[self.phase] = max(self.highest.get(self.phase, 0), now)
            time.sleep(SAMPLE_SECONDS)

    def stop(self):
        self.done = True
        self.join()


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def timed(*command, directory):
    drop_caches()
    before = time.monotonic()
    with open(os.devnull, "w") as sink:
        subprocess.run(command, cwd=directory, stdout=sink, check=True)
    return time.monotonic() - before


# The measurements.

def measure_mounting(work, cache, image, rounds):
    """A second mount by digest: from exec, and from a serving daemon, until the image's root can be listed; ms."""
    from_exec, serving = [], []
    for _ in range(rounds):
        mount = Mount(work, cache)
        os.listdir(f"{mount.point}/{image}")
        from_exec.append((time.monotonic() - mount.started) * 1000)
        mount.stop()
        mount = Mount(work, cache)
        os.listdir(mount.point)
        before = time.monotonic()
        os.listdir(f"{mount.point}/{image}")
        serving.append((time.monotonic() - before) * 1000)
        mount.stop()
    return from_exec, serving


def measure_first_mount(work, image):
    """A first mount, with an empty cache directory: from exec until the image's root can be listed; ms."""
    cache = tempfile.mkdtemp(dir=work, prefix="first-")
    mount = Mount(work, cache)
    os.listdir(f"{mount.point}/{image}")
    result = (time.monotonic() - mount.started) * 1000
    mount.stop()
    return result


def measure_walks(tree, mounted, rounds):
    result = {"find": ([], []), "ls -lR": ([], [])}
    commands = {"find": ["find", "."], "ls -lR": ["ls", "-lR", "."]}
    for _ in range(rounds):
        for name, command in commands.items():
            result[name][0].append(timed(*command, directory=tree))
            result[name][1].append(timed(*command, directory=mounted))
    return result


def measure_memory(work, cache, image, files):
    """Highest memory while the image is listed, stat'ed and wholly read by four readers at once; KiB by phase."""
    mount = Mount(work, cache)
    sampler = Sampler(mount.process.pid)
    root = f"{mount.point}/{image}"
    try:
        sampler.phase = "find and ls -lR"
        timed("find", ".", directory=root)
        timed("ls", "-lR", ".", directory=root)
        sampler.phase = "reading every file, four readers"
        read = checked(
            "sh", "-c", "find . -type f -print0 | xargs -0 -P 4 -n 200 cat | wc -c", cwd=root).strip()
    finally:
        sampler.stop()
        mount.stop()
    if int(read) != files["bytes"]:
        raise SystemExit(f"bench: {read} bytes read of {files['bytes']}")
    return sampler.highest, sampler.samples


def machine(work):
    filesystem = checked("findmnt", "-n", "-o", "FSTYPE", "--target", str(work)).strip()
    return {
        "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "kernel": platform.release(), "filesystem": filesystem,
        "crfs": checked(os.environ["CRFS_BINARY"], "version").strip().splitlines()[0],
    }


def table(result):
    median = statistics.median
    disk = result["machine"]["filesystem"]
    rows = [
        "| what | crfs | " + disk + " | ratio | aim |",
        "|---|---|---|---|---|",
        f"| first mount by digest, from exec until `ls` answers | {result['first_mount_ms']:.0f} ms | | | |",
        f"| second mount, from exec until `ls` answers | {median(result['from_exec_ms']):.1f} ms | | | below 10 ms |",
        f"| second mount, by a daemon that serves already | {median(result['serving_ms']):.1f} ms | | | below 10 ms |",
    ]
    for name, aim in (("find", "at most 1.0"), ("ls -lR", "at most 4.0")):
        native, crfs = (median(values) for values in result["walks"][name])
        rows.append(f"| `{name}`, cold caches | {crfs:.2f} s | {native:.2f} s | {crfs / native:.2f} | {aim} |")
    for phase, kib in result["memory_kib"].items():
        rows.append(f"| memory, {phase} | {kib / 1024:.1f} MiB | | | below 64 MiB |")
    facts, image = result["machine"], result["image"]
    return "\n".join([
        f"{image['files']:,} files ({image['bytes'] / 1e9:.2f} GB, {image['symlinks']:,} symlinks) of /usr as one eStargz layer of "
        f"{image['blob'] / 1e9:.2f} GB; {facts['cores']} cores with a load of {facts['load']} before, Linux {facts['kernel']}, {disk}; medians of {result['rounds']}; "
        f"`--memory-cache {MEMORY_CACHE}`; {facts['crfs']}.",
        "", *rows, "",
        "Memory is the highest RssAnon + RssShmem, sampled every 20 ms. Caches are dropped before each walk "
        "(`drop_caches` 3), on both sides.",
    ])


def write_document(text):
    document = DOCUMENT.read_text()
    before, rest = document.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", default="/var/tmp", help="where the image and the unpacked tree go (some GB)")
    parser.add_argument("--json", help="also write the raw figures there")
    parser.add_argument("--no-document", action="store_true", help="print the table only")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench: needs root: it mounts, and drops the kernel's caches")
    if not os.environ.get("CRFS_BINARY"):
        raise SystemExit("bench: set CRFS_BINARY to the crfs program (make bench-metadata does)")
    work = pathlib.Path(tempfile.mkdtemp(dir=options.work, prefix="crfs-bench."))
    registry = None
    try:
        facts = machine(work)
        say(f"packing {options.files} files of /usr")
        files = pack(work / "usr.tar", options.files)
        say("unpacking them for comparison, converting and pushing")
        (work / "tree").mkdir()
        checked("tar", "-xf", work / "usr.tar", "-C", work / "tree")
        before = time.monotonic()
        checked(os.environ["CRFS_BINARY"], "convert", f"file:{work}/usr.tar", f"file:{work}/usr.tar.gz")
        files["convert_seconds"] = time.monotonic() - before
        (work / "usr.tar").unlink()
        files["blob"] = (work / "usr.tar.gz").stat().st_size
        digest = checked(
            "python3", ROOT / "Tests/TestSupport/mklayout.py", work / "layout", "bench", work / "usr.tar.gz").strip()
        registry = Registry(work)
        checked(
            "skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
            f"oci:{work}/layout:bench", f"docker://{registry.host}/bench:latest")
        shutil.rmtree(work / "layout")
        image = f"images/{registry.host}/bench/{digest.replace(':', '-')}"

        result = {"machine": facts, "image": files, "rounds": options.rounds}
        say("first mounts")
        result["first_mount_ms"] = statistics.median(measure_first_mount(work, image) for _ in range(options.rounds))
        cache = str(work / "cache")
        os.mkdir(cache, 0o700)
        mount = Mount(work, cache)
        os.listdir(f"{mount.point}/{image}")
        mount.stop()
        say("second mounts")
        result["from_exec_ms"], result["serving_ms"] = measure_mounting(work, cache, image, options.rounds)
        say("find and ls -lR")
        mount = Mount(work, cache)
        result["walks"] = measure_walks(work / "tree", f"{mount.point}/{image}", options.rounds)
        mount.stop()
        say("memory")
        result["memory_kib"], result["memory_samples"] = measure_memory(work, cache, image, files)

        text = table(result)
        print(text)
        if options.json:
            pathlib.Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
        if not options.no_document:
            write_document(text)
            say(f"written into {DOCUMENT.relative_to(ROOT)}")
    finally:
        if registry:
            registry.stop()
        if is_mounted(str(work / "mnt")):
            subprocess.run(["umount", "-l", str(work / "mnt")])
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
