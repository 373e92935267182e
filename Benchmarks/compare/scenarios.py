"""What is measured, and how. A visit is one mount (or a row of them) from which several scenarios take their
figures.

Cache states: `nothing` = caches of the contender removed, the kernel's dropped; `disk` = what the contender
keeps on disk is there, the kernel's caches dropped; `warm` = the same done once before, nothing dropped. For
local bounds `nothing` and `disk` are the same. The origin's own files are always in memory: it stands for a
machine elsewhere."""

import dataclasses
import json
import os
import statistics
import subprocess

from compare import cleanup, tools
from compare.contenders import base

LAZY, PULL, BOUND = base.LAZY, base.PULL, base.BOUND
READERS = 8


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One row of figures.

    `needs` are features that crfs may lack; `against` names the scenario whose figures of the others it is
    compared with, where only crfs runs it.
    """

    name: str
    visit: str
    title: str
    state: str
    kinds: tuple
    unit: str = "s"
    more_is_better: bool = False
    needs: tuple = ()
    variant: str | None = None
    against: str | None = None


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "serve", "look", "until the mount serves (exec to `ls` of the root)", "nothing", (LAZY, PULL)
        ),
        Scenario("first-small", "look", "first 4 KiB of a small file", "nothing", (LAZY, BOUND), "ms"),
        Scenario("first-large", "look", "first 4 KiB of the large file", "nothing", (LAZY, BOUND), "ms"),
        Scenario("find-cold", "look", "`find`", "dentries dropped", (LAZY, BOUND)),
        Scenario("ls-cold", "look", "`ls -lR`", "dentries dropped", (LAZY, BOUND)),
        Scenario("ls-warm", "look", "`ls -lR`", "warm", (LAZY, BOUND)),
        Scenario("stat-cold", "look", "`stat` of all", "dentries dropped", (LAZY, BOUND)),
        Scenario("stat-warm", "look", "`stat` of all", "warm", (LAZY, BOUND)),
        Scenario(
            "python", "python", "python imports, mount or pull included", "nothing", (LAZY, PULL, BOUND)
        ),
        Scenario("python-disk", "python", "python imports", "disk", (LAZY, BOUND), needs=("disk store",)),
        Scenario("python-warm", "python", "python imports", "warm", (LAZY, BOUND)),
        Scenario(
            "python-landmark",
            "landmark",
            "python imports, mount included, image ordered with a landmark",
            "nothing",
            (LAZY,),
            needs=("landmark",),
            variant="estargz-ordered",
        ),
        Scenario(
            "python-stargz",
            "stargz",
            "python imports, mount included, stargz (the older format)",
            "nothing",
            (LAZY,),
            variant="stargz",
        ),
        Scenario(
            "python-profile",
            "profile",
            "python imports, mount included, profile of one earlier run",
            "nothing",
            (LAZY,),
            needs=("profile",),
            against="python",
        ),
        Scenario(
            "python-zstdchunked",
            "zstdchunked",
            "python imports, mount included, zstd:chunked",
            "nothing",
            (LAZY,),
            needs=("zstdchunked",),
            variant="zstdchunked",
            against="python",
        ),
        Scenario(
            "python-gzip",
            "gzip",
            "python imports, mount included, plain gzip layers",
            "nothing",
            (LAZY,),
            needs=("gzip",),
            variant="gzip",
            against="python",
        ),
        Scenario(
            "read-all", "read", "reading every file, mount or pull included", "nothing", (LAZY, PULL, BOUND)
        ),
        Scenario("read-all-disk", "read", "reading every file", "disk", (LAZY, BOUND), needs=("disk store",)),
        Scenario("read-all-warm", "read", "reading every file", "warm", (LAZY, BOUND)),
        Scenario(
            "read-8", "read-8", f"{READERS} readers share all files, mount included", "nothing", (LAZY, BOUND)
        ),
        Scenario(
            "fio", "fio", "fio, 4 KiB random reads of the large file", "nothing", (LAZY, BOUND), "IOPS", True
        ),
        Scenario(
            "fio-disk",
            "read",
            "fio, 4 KiB random reads of the large file",
            "disk",
            (LAZY, BOUND),
            "IOPS",
            True,
            needs=("disk store",),
        ),
        Scenario(
            "jobs", "jobs", "mount, python, unmount in a row: the second and later", "disk", (LAZY, BOUND)
        ),
    )
}


@dataclasses.dataclass
class Visit:
    """What a visit works with. `wanted` are the names of its scenarios that are asked for."""

    work: object
    contender: object
    image: object
    origin: object  # None for local bounds
    wanted: set
    deadline: float
    fio_seconds: int = 5
    jobs: int = 50
    results: dict = dataclasses.field(default_factory=dict)
    mark: object = None
    variant: str = "estargz"

    def left(self):
        """Seconds until the time limit; raises Failed when it is over."""
        left = self.deadline - tools.monotonic()
        if left <= 0:
            raise cleanup.Failed("the time limit of the cell is over")
        return left

    def start_from_nothing(self, variant=None, prefetch=False):
        """Brings about the state `nothing` and mounts; returns the Mounted."""
        self.variant = variant or self.contender.variant
        self.contender.forget()
        self.start_clean()
        return self.mount(prefetch)

    def start_clean(self):
        """Drops the kernel's caches, then takes the origin's files into memory again."""
        tools.drop_caches()
        if self.origin:
            _, manifest = tools.stored_manifest(
                self.work, self.image.reference_repo, self.image.variants[self.variant]
            )
            tools.warm_blobs(self.work, [layer["digest"] for layer in manifest["layers"]])
            self.mark = self.origin.start_count()

    def mount(self, prefetch=False):
        return self.contender.mount(self.image, self.origin, self.variant, self.left(), prefetch)

    def note(self, name, value):
        """Records a figure; from nothing also what the contender used and fetched since the visit's start."""
        if name not in self.wanted:
            return
        result = {"value": value}
        if SCENARIOS[name].state == "nothing":
            cost = self.contender.cost()
            result.update(
                cpu_seconds=cost.cpu_seconds, peak_memory=cost.peak_memory, disk_bytes=cost.disk_bytes
            )
            if self.origin:
                result["requests"], result["bytes"] = self.origin.counts(self.mark)
        self.results[name] = {key: number for key, number in result.items() if number is not None}

    def wants(self, *names):
        return any(name in self.wanted for name in names)

    def probe(self, *words, **options):
        """Runs the probe; returns the numbers that it prints."""
        output = cleanup.run([self.work / "bin/probe", *words], timeout=self.left(), **options).stdout
        return [int(word) for word in output.split()]

    def timed(self, command):
        """Seconds of a command from exec to its end, its output thrown away."""
        before = tools.monotonic()
        cleanup.run(command, timeout=self.left(), stdout=subprocess.DEVNULL)
        return tools.monotonic() - before


# Steps.


def job(visit, mounted):
    """Seconds of the image's job in a chroot over a new overlay (upper on tmpfs), its mount included."""
    scratch = cleanup.tree(visit.work / "runs/job")
    try:
        cleanup.run(["mount", "-t", "tmpfs", "tmpfs", scratch], timeout=visit.left())
        for name in ("upper", "work", "root"):
            (scratch / name).mkdir()
        lower = ":".join(path.replace("\\", "\\\\").replace(":", "\\:") for path in mounted.lower)
        options = f"lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work"
        before = tools.monotonic()
        cleanup.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, scratch / "root"], timeout=visit.left()
        )
        cleanup.run(
            [tools.program("chroot"), scratch / "root", *visit.image.job],
            timeout=visit.left(),
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LC_ALL": "C.UTF-8"},
        )
        return tools.monotonic() - before
    finally:
        cleanup.remove_tree(scratch)


def read_all(visit, mounted, readers=1):
    """Seconds of reading every file; the bytes read must be the image's."""
    nanoseconds, _, size = visit.probe("read", mounted.root, str(readers))
    expected = visit.image.facts["file_bytes"]
    if size != expected:
        raise cleanup.Failed(f"{size} bytes read of {expected}")
    return nanoseconds / 1e9


def fio(visit, mounted):
    """Reads a second, one at a time, of 4 KiB at random places of the large file."""
    # fio takes a list of files, with colons between.
    file = f"{mounted.root}/{visit.image.facts['large_file']}".replace(":", "\\:")
    output = cleanup.run(
        [
            "fio",
            "--name=random",
            f"--filename={file}",
            "--rw=randread",
            "--bs=4k",
            "--ioengine=psync",
            "--readonly",
            "--invalidate=0",
            "--allow_file_create=0",
            "--time_based",
            f"--runtime={visit.fio_seconds}",
            "--randseed=1",
            "--output-format=json",
        ],
        timeout=visit.left(),
    ).stdout
    return json.loads(output[output.index("{") :])["jobs"][0]["read"]["iops"]


# Visits.


def look(visit):
    mounted = visit.start_from_nothing()
    visit.note("serve", mounted.seconds)
    for name, file in (("first-small", "small_file"), ("first-large", "large_file")):
        if visit.wants(name):
            nanoseconds, _ = visit.probe("first", input=f"{mounted.root}/{visit.image.facts[file]}\n")
            visit.note(name, nanoseconds / 1e6)
    if visit.wants("find-cold"):
        tools.drop_caches()
        visit.note("find-cold", visit.timed(["find", mounted.root]))
    if visit.wants("ls-cold", "ls-warm"):
        tools.drop_caches()
        visit.note("ls-cold", visit.timed(["ls", "-lR", mounted.root]))
        visit.note("ls-warm", visit.timed(["ls", "-lR", mounted.root]))
    if visit.wants("stat-cold", "stat-warm"):
        tools.drop_caches()
        visit.note("stat-cold", visit.probe("stat", mounted.root)[0] / 1e9)
        visit.note("stat-warm", visit.probe("stat", mounted.root)[0] / 1e9)


def python(visit):
    mounted = visit.start_from_nothing()
    visit.note("python", mounted.seconds + job(visit, mounted))
    if visit.wants("python-disk"):
        tools.drop_caches()
        visit.note("python-disk", job(visit, mounted))
    if visit.wants("python-warm"):
        if "python-disk" not in visit.wanted:
            job(visit, mounted)
        visit.note("python-warm", job(visit, mounted))


def python_variant(name, prefetch=False):
    """A visit of the python job from nothing with another variant of the image."""

    def run(visit):
        mounted = visit.start_from_nothing(SCENARIOS[name].variant, prefetch)
        visit.note(name, mounted.seconds + job(visit, mounted))

    return run


def read(visit):
    mounted = visit.start_from_nothing()
    visit.note("read-all", mounted.seconds + read_all(visit, mounted))
    if visit.wants("read-all-warm"):
        visit.note("read-all-warm", read_all(visit, mounted))
    if visit.wants("read-all-disk"):
        tools.drop_caches()
        visit.note("read-all-disk", read_all(visit, mounted))
    if visit.wants("fio-disk"):
        tools.drop_caches()
        visit.note("fio-disk", fio(visit, mounted))


def read_shared(visit):
    mounted = visit.start_from_nothing()
    visit.note("read-8", mounted.seconds + read_all(visit, mounted, READERS))


def random_reads(visit):
    mounted = visit.start_from_nothing()
    visit.note("fio", fio(visit, mounted))


def jobs(visit):
    """A CI runner's day. What `keeps_mount` stays mounted between the jobs; the others mount each time."""
    mounted = visit.start_from_nothing()
    seconds = [mounted.seconds + job(visit, mounted)]
    for _ in range(visit.jobs - 1):
        if visit.contender.keeps_mount:
            seconds.append(job(visit, mounted))
            continue
        before = tools.monotonic()
        visit.contender.unmount()
        ended = tools.monotonic() - before
        mounted = visit.mount()
        seconds.append(ended + mounted.seconds + job(visit, mounted))
    visit.note("jobs", statistics.median(seconds[1:]))
    if "jobs" in visit.results:
        visit.results["jobs"].update(first=seconds[0], jobs=len(seconds), total=sum(seconds))


def pull(visit):
    """One pull serves all its rows; each job is read from what the pull left in the page cache."""
    mounted = visit.start_from_nothing()
    visit.note("serve", mounted.seconds)
    if visit.wants("read-all"):
        visit.note("read-all", mounted.seconds + read_all(visit, mounted))
    if visit.wants("python"):
        visit.note("python", mounted.seconds + job(visit, mounted))


VISITS = {
    "look": look,
    "python": python,
    "landmark": python_variant("python-landmark", prefetch=True),
    "stargz": python_variant("python-stargz"),
    "zstdchunked": python_variant("python-zstdchunked"),
    "gzip": python_variant("python-gzip"),
    "read": read,
    "read-8": read_shared,
    "fio": random_reads,
    "jobs": jobs,
    "pull": pull,
}


def visit_of(scenario, contender):
    """The name of the visit in which a contender runs a scenario; pulls have one for all."""
    return "pull" if contender.kind == PULL else scenario.visit


def facts_of(image, work):
    """Facts of an image's tree: a small and the large file, bytes in regular files, entries."""
    kept = work / f"runs/facts-{image.name}.json"
    stamp = [str(image.root), os.stat(image.root).st_ctime_ns]
    if kept.exists():
        facts = json.loads(kept.read_text())
        if facts["stamp"] == stamp:
            return facts
    entries = size = 0
    large, small = (0, ""), None
    for directory, subdirectories, names in os.walk(image.root):
        subdirectories.sort()
        entries += len(subdirectories) + len(names)
        for name in sorted(names):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if not os.path.isfile(path) or os.path.islink(path):
                continue
            size += status.st_size
            relative = os.path.relpath(path, image.root)
            large = max(large, (status.st_size, relative))
            if small is None and 2048 <= status.st_size <= 32768:
                small = relative
    facts = {
        "stamp": stamp,
        "entries": entries,
        "file_bytes": size,
        "large_file": image.large_file or large[1],
        "small_file": small or large[1],
    }
    kept.write_text(json.dumps(facts))
    return facts
