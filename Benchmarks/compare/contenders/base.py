"""What every contender offers, and what a mounted image is."""

import dataclasses
import os
import pathlib
import subprocess
import threading

from compare import cleanup, tools

LAZY, PULL, BOUND = "lazy", "pull", "bound"


class NotYet(cleanup.Failed):
    """A contender does not have what a cell needs; the text names it."""


@dataclasses.dataclass
class Cost:
    """What a contender's processes used so far, from exec on; None where there are none."""

    cpu_seconds: float | None = None
    peak_memory: int | None = None
    disk_bytes: int | None = None


@dataclasses.dataclass
class Mounted:
    """An image that can be read: its root, and the lower directories for an overlay over it."""

    root: str
    lower: list
    seconds: float  # from exec until `root` could be listed; for a pull until it was unpacked and mounted


class Contender:
    """One way to get at the files of an image; see `mount` first."""

    name = ""
    kind = LAZY
    variant = "estargz"  # the variant of the image that it reads
    about = ""  # what the row means
    keeps_mount = False  # in use it keeps an image mounted from one job to the next
    maps_cache = False  # it maps files of its cache into its memory, whose pages the kernel does not drop

    def __init__(self, work):
        self.work = work
        self.scratch = None
        self.log = work / f"runs/{self.name}.log"

    def unavailable(self):
        """Why this contender cannot run on this machine; None when it can."""
        return None

    def not_yet(self, scenario):
        """What a scenario needs that this contender does not have; None when it has all."""
        return None

    def build(self):
        """Builds what is built once for the machine; raises Failed."""

    def prepare(self, image):
        """Makes what is made once for an image and kept (bounds); raises Failed."""

    def local_files(self, image):
        """What of an image is on this machine's disk before anybody asks for it: a tree, a file, or None."""

    def version(self):
        """Name and version of the program, for the report."""
        return ""

    def mount(self, image, origin, variant, limit, prefetch=False):
        """From exec until the root can be listed; what is cached is used. Raises Failed.

        `prefetch`: with the landmark, where that is an option.
        """
        raise NotImplementedError

    def require(self, image, origin, variant, limit):
        """Raises NotYet where this contender does not read that format."""

    def unmount(self):
        """Ends the mount and its processes; what is cached on disk stays."""

    def cost(self):
        """The Cost of the present mount."""
        return Cost()

    def peak_memory(self):
        """The highest memory of the present mount's processes so far, in bytes; None where there are none."""
        return None

    def pid(self):
        """The process that serves the present mount; None where there is none."""
        return None

    def memory(self):
        """Bytes of memory that the processes of the present mount have now."""
        return 0

    def process_start(self):
        """Seconds from exec to end of its program doing nothing; None where it is not asked for."""
        return None

    def forget(self):
        """Unmounts and removes everything cached: the state `nothing`."""
        self.unmount()
        if self.scratch:
            cleanup.remove_tree(self.scratch)
            self.scratch = None

    def directory(self, name):
        """A directory for this contender's use, which `forget` removes."""
        if self.scratch is None:
            self.scratch = cleanup.tree(self.work / f"runs/scratch-{self.name}")
        path = pathlib.Path(self.scratch) / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def log_tail(self):
        """The end of the log, for a reason why something failed."""
        try:
            return " ".join(self.log.read_text(errors="replace")[-400:].split())
        except OSError:
            return ""


class Daemon(Contender):
    """A contender whose mount is served by a process of ours in the foreground."""

    def __init__(self, work):
        super().__init__(work)
        self.process = self.sampler = None

    def serve(self, command, root, origin, limit, environment=None):
        """Starts the daemon and waits until `root` can be listed; returns the seconds from exec until then.

        A child process waits, started before: this one must not touch a mount that may hang.
        """
        waiter = cleanup.start([self.work / "bin/probe", "serve", root], stdout=subprocess.PIPE, text=True)
        try:
            with open(self.log, "w") as log:
                before = tools.monotonic()
                self.process = cleanup.start(
                    command,
                    netns=origin and origin.netns,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **(origin.env if origin else {}), **(environment or {})},
                )
            self.sampler = tools.Sampler(self.process.pid)
            died = threading.Thread(target=self._watch, args=(waiter, limit), daemon=True)
            died.start()
            line = waiter.stdout.readline()
        finally:
            waiter.stdout.close()
            cleanup.stop(waiter, grace=0)
        if not line:
            why = "ended" if self.process.poll() is not None else f"does not serve after {limit:.0f} s"
            raise cleanup.Failed(f"{self.name}: {why}: {self.log_tail()}")
        return int(line) / 1e9 - before

    def unmount(self):
        if self.sampler:
            self.sampler.stop()
            self.sampler = None
        if self.process:
            cleanup.stop(self.process)
            self.process = None
        if self.scratch:
            for point in cleanup.mounts(str(self.scratch)):
                cleanup.unmount(point)

    def cost(self):
        if not self.process:
            return Cost()
        return Cost(tools.cpu_seconds(self.process.pid), self.peak_memory(), self.disk_bytes())

    def peak_memory(self):
        return self.sampler and self.sampler.highest

    def pid(self):
        return self.process and self.process.pid

    def memory(self):
        return sum(tools.memory(pid) for pid in (self.process.pid, *cleanup.descendants(self.process.pid)))

    def disk_bytes(self):
        """Bytes on disk of what is cached."""
        return None

    def _watch(self, waiter, limit):
        """Ends the waiter when the daemon ended or the time is over."""
        deadline = tools.monotonic() + limit
        while waiter.poll() is None:
            if self.process.poll() is not None or tools.monotonic() > deadline:
                waiter.kill()
                return
            threading.Event().wait(0.05)
