"""What the images are made of: Debian, Python, wheels, generated files; and the archives of their layers."""

import contextlib
import dataclasses
import functools
import io
import math
import os
import pathlib
import platform
import random
import re
import shutil
import stat
import struct
import sys
import tarfile
from collections.abc import Callable, Iterator

from compare import cleanup

RELEASE = "bookworm"
PYTHON = "3.11"  # of that release
WHEELS = ["numpy==2.2.6", "scipy==1.15.3", "pandas==2.2.3"]
PYTHON_JOB = ["/usr/bin/python3", "-c", "import numpy, scipy.stats, pandas"]
MODIFIED = 1_700_000_000  # time of all files that we make ourselves
CHROOT_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
MIB = 1 << 20

# What a tree of Debian has from this machine or this hour, and an image has not.
TRANSIENT = (
    "dev/* proc/* sys/* run/* tmp/* var/tmp/* var/cache/apt/* var/lib/apt/lists/* var/log/*"
    " etc/hostname etc/resolv.conf debootstrap"
).split()

Log = Callable[[str], None]
# (directory for products, directory kept for all images, log) -> tar files, bottom layer first.
Layers = Callable[[pathlib.Path, pathlib.Path, Log], list[pathlib.Path]]


@dataclasses.dataclass
class Recipe:
    """How to make an image."""

    name: str
    layers: Layers
    variants: list[str]
    job: list[str] = dataclasses.field(default_factory=list)
    large_file: str | None = None


@contextlib.contextmanager
def product(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to make something at; it gets its final name when the block ends well, and goes when not."""
    new = path.with_name(path.name + ".new")
    _remove(new)
    try:
        yield new
    except BaseException:
        _remove(new)
        raise
    new.rename(path)


def _remove(path: pathlib.Path) -> None:
    # debootstrap mounts /proc and /sys in its tree, and leaves them when it is interrupted.
    for point in cleanup.mounts(str(path)):
        cleanup.unmount(point)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# Archives.


class Archive:
    """A tar archive whose bytes depend on nothing but what is added, in that order."""

    def __init__(self, path: pathlib.Path):
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)
        self._directories: set[str] = set()

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_) -> None:
        self._tar.close()

    def add(self, tree: pathlib.Path, path: str) -> None:
        """One entry of a tree on disk."""
        entry = self._tar.gettarinfo(tree / path, arcname=path)
        entry.uname = entry.gname = ""
        entry.mtime = int(entry.mtime)
        if entry.isreg():
            with open(tree / path, "rb") as file:
                self._tar.addfile(entry, file)
        else:
            self._tar.addfile(entry)

    def add_file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A file made of `content`, and its directories where they are new."""
        self._add_parents(path)
        entry = self._entry(path, tarfile.REGTYPE, mode)
        entry.size = len(content)
        self._tar.addfile(entry, io.BytesIO(content))

    def add_link(self, path: str, target: str) -> None:
        """A symbolic link, and its directories where they are new."""
        self._add_parents(path)
        entry = self._entry(path, tarfile.SYMTYPE, 0o777)
        entry.linkname = target
        self._tar.addfile(entry)

    def add_directory(self, path: str) -> None:
        """A directory, once, and those above it."""
        if path and path not in self._directories:
            self._add_parents(path)
            self._directories.add(path)
            self._tar.addfile(self._entry(path, tarfile.DIRTYPE, 0o755))

    def _add_parents(self, path: str) -> None:
        self.add_directory(path.rpartition("/")[0])

    @staticmethod
    def _entry(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.mtime = kind, mode, MODIFIED
        return entry


def archive_tree(tree: pathlib.Path, target: pathlib.Path, base: pathlib.Path | None = None) -> None:
    """All of a tree in order of names, or what it has that `base` has not, with the directories above."""
    with product(target) as new, Archive(new) as archive:
        written = set()
        for path in _walk(tree):
            if base and not _differs(base / path, tree / path):
                continue
            parents = [str(parent) for parent in reversed(pathlib.PurePath(path).parents)][1:]
            for entry in [*parents, path]:
                if entry not in written:
                    written.add(entry)
                    archive.add(tree, entry)


def _walk(tree: pathlib.Path, below: str = "") -> Iterator[str]:
    """Relative paths of all entries, a directory before what is in it."""
    with os.scandir(tree / below) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        yield path
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(tree, path)


def _differs(old: pathlib.Path, new: pathlib.Path) -> bool:
    """Whether an entry is new or another one; the time alone counts for nothing."""
    if not os.path.lexists(old):
        return True
    before, now = old.lstat(), new.lstat()
    if (before.st_mode, before.st_uid, before.st_gid) != (now.st_mode, now.st_uid, now.st_gid):
        return True
    if stat.S_ISLNK(now.st_mode):
        return os.readlink(old) != os.readlink(new)
    if not stat.S_ISREG(now.st_mode):
        return False
    if before.st_size != now.st_size:
        return True
    return before.st_mtime != now.st_mtime and old.read_bytes() != new.read_bytes()


@functools.cache
def names(tar: pathlib.Path) -> frozenset[str]:
    """Names of the regular files of an archive."""
    with tarfile.open(tar, "r:") as archive:
        return frozenset(entry.name for entry in archive if entry.isreg())


def census(tree: pathlib.Path) -> tuple[int, int]:
    """(entries below the root, bytes of all files); a file of several names counts once as bytes."""
    entries, size, seen = 0, 0, set()
    for path in _walk(tree):
        status = (tree / path).lstat()
        entries += 1
        if stat.S_ISREG(status.st_mode) and status.st_ino not in seen:
            seen.add(status.st_ino)
            size += status.st_size
    return entries, size


# What a command reads.


def files_read(root: pathlib.Path, command: list[str]) -> list[str]:
    """Regular files that a command in `root` reads, in order of first use, without leading slash."""
    with contextlib.ExitStack() as undo:
        trace = root.parent / f"trace-{os.getpid()}"
        undo.callback(lambda: trace.unlink(missing_ok=True))
        calls = ["-e", "trace=open,openat,execve,chroot", "-e", "signal=none", "-s", "4096"]
        # Without new .pyc files, which would change the tree.
        env = {**CHROOT_ENV, "PYTHONDONTWRITEBYTECODE": "1"}
        cleanup.run(["strace", "-f", "-qq", *calls, "-o", trace, "chroot", root, *command], env=env)
        lines = trace.read_text(errors="replace").splitlines()
    found: dict[str, None] = {}
    inside = False
    for line in lines:
        inside = inside or " chroot(" in line
        match = re.match(r'^\d+ +(?:open|openat|execve)\((?:AT_FDCWD, )?"([^"]+)"', line)
        if not inside or not match or " = -1 " in line:
            continue
        for path in _with_interpreter(root, _resolve(root, match[1])):
            found[path] = None
    return list(found)


def _with_interpreter(root: pathlib.Path, path: str | None) -> list[str]:
    """The path if it is a regular file, before it the dynamic loader that the kernel reads with it."""
    if path is None or not (root / path).is_file():
        return []
    with open(root / path, "rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02":
            return [path]
        table, size, count = struct.unpack_from("<32xQ14xHH", header)
        for number in range(count):
            file.seek(table + number * size)
            kind, offset, length = struct.unpack("<I4xQ16xQ16x", file.read(56))
            if kind == 3:  # PT_INTERP
                file.seek(offset)
                loader = _resolve(root, file.read(length).rstrip(b"\0").decode())
                return [loader, path] if loader else [path]
    return [path]


def _resolve(root: pathlib.Path, path: str, links: int = 0) -> str | None:
    """The path below `root` that a path means to a program whose root that is; None if there is nothing."""
    resolved: list[str] = []
    parts = [part for part in path.split("/") if part not in ("", ".")]
    while parts:
        part = parts.pop(0)
        if part == "..":
            resolved = resolved[:-1]
            continue
        here = root.joinpath(*resolved, part)
        if here.is_symlink():
            links += 1
            if links > 40:
                return None
            target = os.readlink(here)
            if target.startswith("/"):
                resolved = []
            parts = [part for part in target.split("/") if part not in ("", ".")] + parts
        elif os.path.lexists(here):
            resolved.append(part)
        else:
            return None
    return "/".join(resolved)


# Generated content.


class Text:
    """Compressible text of made-up words: about a third of its size in gzip."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        letters = "etaoinshrdlucmfwypvbgkqjxz"
        words = ["".join(self._random.choices(letters, k=self._random.randint(2, 11))) for _ in range(6000)]
        weights = [1 / (rank + 8) for rank in range(len(words))]
        self._pool = " ".join(self._random.choices(words, weights, k=3_000_000)).encode()

    def piece(self, size: int) -> bytes:
        """`size` bytes from anywhere in the text."""
        start = self._random.randrange(len(self._pool) - size)
        return self._pool[start : start + size]

    def size(self, median: int, spread: float, most: int) -> int:
        """A size as files have it: a log-normal number, at most `most`."""
        return min(int(self._random.lognormvariate(math.log(median), spread)), most)


def _random_file(archive: Archive, path: str, mib: int, seed: int) -> None:
    """An incompressible file."""
    numbers = random.Random(seed)
    archive.add_file(path, b"".join(numbers.randbytes(MIB) for _ in range(mib)))


def _many_small_files(target: pathlib.Path, count: int) -> None:
    """A layer of text files of 6 KB in the middle and 20 KB on average, about a hundred in a directory."""
    text = Text(seed=11)
    with product(target) as new, Archive(new) as archive:
        for number in range(count):
            place = f"srv/files/{number // 1600:02}/{number // 100 % 16:02}"
            content = text.piece(text.size(6000, 1.65, MIB))
            archive.add_file(f"{place}/note-{number:05}.txt", b"%d\n" % number + content)


def _tiny_files(parts: pathlib.Path, entries: int, layers: int, log: Log) -> list[pathlib.Path]:
    """Files of 32 to 1200 bytes, a hundred in a directory, dealt out to the layers by directory."""
    tars = [parts / f"{number:02}-tiny.tar" for number in range(layers)]
    if all(tar.exists() for tar in tars):
        return tars
    log(f"generating {entries} entries in {layers} layer{'s' if layers > 1 else ''}")
    text, numbers = Text(seed=12), random.Random(13)
    # 101 for a directory and its files; 31 directories above 30 each.
    directories = round(entries / (101 + 1 / 30))
    with contextlib.ExitStack() as files:
        archives = [files.enter_context(Archive(files.enter_context(product(tar)))) for tar in tars]
        for directory in range(directories):
            place = f"data/{directory // 30:04}/{directory % 30:02}"
            for number in range(100):
                content = b"%d %d\n" % (directory, number) + text.piece(numbers.randint(20, 1180))
                archives[directory % layers].add_file(f"{place}/item-{number:02}.txt", content)
    return tars


# Debian and Python.


def mirror() -> str:
    """The mirror that apt is configured with (or $CRFS_BENCH_MIRROR)."""
    if chosen := os.environ.get("CRFS_BENCH_MIRROR"):
        return chosen
    form = "$(CODENAME) $(COMPONENT) $(REPO_URI)"
    for line in cleanup.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    ).stdout.splitlines():
        codename, component, address = line.split()
        if (codename, component) == (RELEASE, "main"):
            return address
    raise cleanup.Failed(f"apt knows no mirror of Debian {RELEASE}: set CRFS_BENCH_MIRROR to one")


def _bootstrap(target: pathlib.Path, cache: pathlib.Path, include: list[str]) -> None:
    """A minimal Debian with some more packages."""
    if target.exists():
        return
    debs = cache / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    with product(target) as new:
        cleanup.tree(new)
        more = [f"--include={','.join(include)}"] if include else []
        program = shutil.which("debootstrap", path=os.environ.get("PATH", "") + ":/usr/sbin")
        cleanup.run([program, "--variant=minbase", f"--cache-dir={debs}", *more, RELEASE, new, mirror()])
        for pattern in TRANSIENT:
            for path in new.glob(pattern):
                _remove(path)
    cleanup.remove_tree(new)  # It has its final name by now: this only takes it off the register.


def _install_wheels(target: pathlib.Path, python_tree: pathlib.Path) -> None:
    """numpy, scipy, pandas and what they need, byte-compiled by the Python of `python_tree`."""
    place = f"usr/local/lib/python{PYTHON}/dist-packages"
    with product(target) as new:
        packages = new / place
        kind = [
            "--platform",
            f"manylinux2014_{platform.machine()}",
            "--python-version",
            PYTHON,
            "--only-binary=:all:",
        ]
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--root-user-action=ignore",
            "--no-compile",
        ]
        cleanup.run([*command, *kind, "--target", packages, *WHEELS])
        set_times(new)
        # In a mount namespace of its own, which ends with it. Compiled files note the times that stand now.
        (python_tree / place).mkdir(parents=True, exist_ok=True)
        script = 'mount --bind "$1" "$2/$3" && exec chroot "$2" /usr/bin/python3 -m compileall -q "/$3"'
        cleanup.run(
            ["unshare", "-m", "sh", "-c", script, "compile", packages, python_tree, place], check=False
        )
        if not any((packages / "numpy").glob("__pycache__/*.pyc")):
            raise cleanup.Failed("the wheels could not be byte-compiled")
        set_times(new)


def set_times(tree: pathlib.Path) -> None:
    """Gives every entry the time of what we make."""
    for path in _walk(tree):
        os.utime(tree / path, (MODIFIED, MODIFIED), follow_symlinks=False)


def _main_layers(parts: pathlib.Path, cache: pathlib.Path, log: Log) -> list[pathlib.Path]:
    """Debian, python3, the wheels, one large incompressible file, many small ones."""
    base, python, wheels = parts / "base", parts / "python", parts / "wheels"
    tars = [
        parts / f"{number}-{name}.tar"
        for number, name in enumerate(("base", "python", "wheels", "large", "small"))
    ]
    if not tars[0].exists():
        log("layer 1: Debian (debootstrap, a few minutes)")
        _bootstrap(base, cache, [])
        archive_tree(base, tars[0])
    if not tars[1].exists():
        log("layer 2: python3 (debootstrap)")
        _bootstrap(python, cache, ["python3"])
        archive_tree(python, tars[1], base)
    if not tars[2].exists():
        log(f"layer 3: {', '.join(WHEELS)} (pip)")
        if not wheels.exists():
            _install_wheels(wheels, python)
        archive_tree(wheels, tars[2])
    if not tars[3].exists():
        log("layer 4: a large file")
        with product(tars[3]) as new, Archive(new) as archive:
            _random_file(archive, MAIN_LARGE_FILE, 256, seed=14)
    if not tars[4].exists():
        log("layer 5: many small files")
        _many_small_files(tars[4], 26_000)
    return tars


def _small_layers(parts: pathlib.Path, cache: pathlib.Path, log: Log) -> list[pathlib.Path]:
    """A static busybox and 400 files: 10 MB, and a job that reads all of it."""
    tars = [parts / "0-busybox.tar", parts / "1-files.tar"]
    if not tars[0].exists():
        log("layer 1: busybox")
        program = _busybox(cache)
        with product(tars[0]) as new, Archive(new) as archive:
            archive.add_file("bin/busybox", program.read_bytes(), 0o755)
            for applet in ("cat", "find", "ls", "sh", "sha256sum", "stat"):
                archive.add_link(f"bin/{applet}", "busybox")
    if not tars[1].exists():
        log("layer 2: files")
        text = Text(seed=15)
        with product(tars[1]) as new, Archive(new) as archive:
            _random_file(archive, SMALL_LARGE_FILE, 3, seed=16)
            for number in range(400):
                archive.add_file(
                    f"data/{number // 50}/note-{number:03}.txt", text.piece(text.size(9000, 0.7, MIB))
                )
    return tars


def _busybox(cache: pathlib.Path) -> pathlib.Path:
    """The static busybox of this machine's Debian."""
    tree = cache / "busybox"
    if not tree.exists():
        with product(tree) as new:
            new.mkdir(parents=True)
            download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "busybox-static"]
            if cleanup.run(download, cwd=new, check=False).returncode != 0:
                cleanup.run(["apt-get", "-q", "update"])
                cleanup.run(download, cwd=new)
            (package,) = new.glob("*.deb")
            cleanup.run(["dpkg-deb", "-x", package, new])
    return tree / "bin/busybox"


def _tiny(entries: int, layers: int) -> Layers:
    return lambda parts, cache, log: _tiny_files(parts, entries, layers, log)


MAIN_LARGE_FILE = "opt/data/large.bin"
SMALL_LARGE_FILE = "data/large.bin"
PLAIN = ["gzip", "estargz"]
RECIPES = [
    Recipe(
        "small",
        _small_layers,
        PLAIN,
        job=["/bin/sh", "-c", "cat /data/*/*.txt | sha256sum"],
        large_file=SMALL_LARGE_FILE,
    ),
    Recipe(
        "main",
        _main_layers,
        ["gzip", "estargz", "estargz-ordered", "stargz", "zstdchunked"],
        job=PYTHON_JOB,
        large_file=MAIN_LARGE_FILE,
    ),
    Recipe("entries-5k", _tiny(5_000, 1), PLAIN),
    Recipe("entries-50k", _tiny(50_000, 1), PLAIN),
    Recipe("layers-1", _tiny(50_000, 1), PLAIN),
    Recipe("layers-5", _tiny(50_000, 5), PLAIN),
    Recipe("layers-40", _tiny(50_000, 40), PLAIN),
    Recipe("entries-500k", _tiny(500_000, 1), PLAIN),
]
