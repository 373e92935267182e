"""What the project set itself to reach: a line for each bar, which verdicts.py holds against a run.

Place: a row of scenarios.py at an origin on an image. `crfs` is with background fetch off, as the bars are meant.
"""

import dataclasses

RTT_MS = {"0 ms": 0, "15 ms": 15, "50 ms": 50}


@dataclasses.dataclass(frozen=True)
class Place:
    """One cell's figure; `key` is what of it."""

    scenario: str
    contender: str = "crfs"
    origin: str = "0 ms"
    image: str = "main"
    key: str = "value"


@dataclasses.dataclass(frozen=True)
class Ratio:
    """crfs costs at most `most` times what another place costs; or has at least `least` times as much."""

    title: str
    mine: Place
    other: Place
    most: float | None = None
    least: float | None = None


@dataclasses.dataclass(frozen=True)
class Limit:
    """A figure is at most `most`, in the scenario's unit; with `above` what stands in the cell beside it."""

    title: str
    mine: Place
    most: float
    unit: str
    above: str | None = None


@dataclasses.dataclass(frozen=True)
class Disk:
    """The store's bytes on disk are at most `most` times the image's blobs."""

    title: str
    mine: Place
    most: float


@dataclasses.dataclass(frozen=True)
class Memory:
    """The highest memory of crfs over all cells of an image is at most `most` MiB."""

    title: str
    image: str
    most: float


def ratio(title, scenario, other, most=None, least=None, origin="0 ms", image="main", key="value", of=None):
    """A bar of one row; `of` names another row of the other contender."""
    return Ratio(
        title,
        Place(scenario, "crfs", origin, image, key),
        Place(of or scenario, other, origin, image, key),
        most,
        least,
    )


def _serve():
    yield ratio("until the mount serves, 0 ms, of stargz's", "serve", "stargz-1m", most=1 / 8)
    for origin, rtt in (("15 ms", 15), ("50 ms", 50)):
        title = f"until the mount serves, {origin}: 4 round trips + 60 ms"
        yield Limit(title, Place("serve", origin=origin), (4 * rtt + 60) / 1e3, "s")
    title = "until the mount serves, 15 ms, 40 layers: 4 round trips + 60 ms"
    yield Limit(title, Place("serve", origin="15 ms", image="layers-40"), 0.120, "s")


def _first():
    for scenario, what, more in (("first-small", "a small", 5), ("first-large", "a large", 25)):
        for origin, rtt in RTT_MS.items():
            title = f"first 4 KiB of {what} file, {origin}: 1.5 round trips + {more} ms"
            yield Limit(title, Place(scenario, origin=origin), 1.5 * rtt + more, "ms")


def _python():
    yield ratio("python from nothing, 0 ms, of stargz's", "python", "stargz-1m", most=1 / 2)
    yield ratio("python from nothing, 0 ms, of ext4's", "python", "ext4", most=1.5)
    yield ratio("python from nothing, 15 ms, of stargz's", "python", "stargz-1m", most=1 / 2, origin="15 ms")
    for origin, most in (("15 ms", 1.3), ("50 ms", 1.8)):
        title = f"python from nothing with a profile, {origin}, of ext4's"
        yield ratio(title, "python-profile", "ext4", most=most, origin=origin, of="python")
    for origin in ("0 ms", "15 ms"):
        title = f"python from nothing, {origin}, bytes, of stargz's default"
        yield ratio(title, "python", "stargz-default", most=1.3, origin=origin, key="bytes")
        title = f"python from nothing, {origin}, requests, of stargz's"
        yield ratio(title, "python", "stargz-1m", most=1.5, origin=origin, key="requests")


def _read_all():
    yield ratio("reading every file, 0 ms, of stargz's", "read-all", "stargz-1m", most=1 / 6)
    yield ratio(
        "reading every file, 0 ms, of `curl | tar` alone", "read-all", "curl-tar", most=0.6, of="serve"
    )
    yield ratio("reading every file, 0 ms, of ext4's", "read-all", "ext4", most=1.2)
    for origin in ("15 ms, TLS", "15 ms, 1 Gbit/s"):
        for pull in ("podman", "containerd", "curl-tar"):
            title = f"reading every file, {origin}, of {pull}'s, its pull included"
            yield ratio(title, "read-all", pull, most=1.0, origin=origin)
    yield ratio("reading every file, page cache dropped, of ext4's", "read-all-disk", "ext4", most=1.0)


def _known():
    for image in ("main", "entries-500k"):
        title = f"until a known image serves ({image}): process start + 5 ms"
        yield Limit(title, Place("serve-known", image=image), 5, "ms", above="process_start")
    for image in ("entries-500k", "layers-40"):
        yield Limit(f"memory when idle ({image})", Place("idle", image=image), 24, "MiB")
    for image in ("main", "entries-500k"):
        yield Limit(
            f"bytes of a layer index, for an entry ({image})", Place("index-layer", image=image), 160, "bytes"
        )
    yield Limit("bytes of a merged index, for an entry", Place("index-merged"), 80, "bytes")


COLD = (
    *_serve(),
    *_first(),
    *_python(),
    *_read_all(),
    ratio("second and later of CI jobs in a row, of the unpacked tree's", "jobs", "ext4", most=1.5),
    ratio("second and later of CI jobs in a row, of stargz's in one mount", "jobs", "stargz-1m", most=1.0),
    Disk("store on disk, of the compressed blobs", Place("read-all", key="disk_bytes"), 1.6),
    Memory("memory of the daemon over all rows", "main", 96),
)

WARM = (
    ratio("reading every file, everything warm, of ext4's", "read-all-warm", "ext4", most=1.0),
    ratio("python, everything warm, of ext4's", "python-warm", "ext4", most=1.0),
    ratio("hot files after unmount and mount, of ext4's warm", "hot", "ext4", most=1.0),
    ratio("second and later of CI jobs in a row, of the unpacked tree's", "jobs", "ext4", most=1.1),
    ratio(
        "the same where one daemon stays mounted, of the unpacked tree's",
        "jobs-stay",
        "ext4",
        most=1.1,
        of="jobs",
    ),
    Ratio(
        "open, read, close, warm, `--open=none`, of ext4's",
        Place("open", "crfs-open-none", image="entries-50k"),
        Place("open", "ext4", image="entries-50k"),
        most=1.5,
    ),
    ratio("the large file, warm, of ext4's", "large-warm", "ext4", most=1.25),
    ratio("the large file, mounted again, of ext4's", "large-known", "ext4", most=1.25),
    ratio("fio, page cache dropped, of stargz's IOPS", "fio-disk", "stargz-1m", least=3.0),
    ratio("fio, page cache dropped, of ext4's IOPS", "fio-disk", "ext4", least=0.6),
    *(
        ratio(f"`{what}`, page cache dropped, of {bound}'s", f"{what}-cold", bound, most=1.0)
        for what in ("find", "stat")
        for bound in ("ext4", "erofs")
    ),
    *(ratio(f"`{what}`, warm, of erofs's", f"{what}-warm", "erofs", most=1.1) for what in ("find", "stat")),
    *(
        ratio(f"`ls -lR`, {state}, of {other}'s", f"ls-{name}", contender, most=most)
        for name, state in (("cold", "page cache dropped"), ("warm", "warm"))
        for contender, other, most in (("ext4", "ext4", 4.0), ("stargz-1m", "stargz", 1.0))
    ),
    *_known(),
)

ANY = (
    ratio("plain gzip, until the mount serves, of `curl | tar`", "serve-gzip", "curl-tar", most=1.0, of="serve"),
    Limit("plain gzip, highest memory until the mount serves", Place("memory-gzip"), 96, "MiB"),
    *(
        ratio(
            f"python from nothing, plain gzip with a published index, {origin}, of eStargz's",
            "python-indexed",
            "crfs",
            most=1.5,
            origin=origin,
            of="python",
        )
        for origin in ("0 ms", "15 ms")
    ),
    ratio(
        "python from nothing, plain gzip with a published index, bytes, of eStargz's",
        "python-indexed",
        "crfs",
        most=1.5,
        key="bytes",
        of="python",
    ),
)

# What a mount of one image (crfs mount --image) may change, measured there too.
COLD_IN_IMAGE = ("serve", "python")
WARM_IN_IMAGE = ("python-warm", "hot", "jobs", "jobs-stay")
WARM_IN_IMAGE += ("find-cold", "find-warm", "stat-cold", "stat-warm", "ls-cold", "ls-warm")
IMAGE = tuple(
    dataclasses.replace(bar, mine=dataclasses.replace(bar.mine, contender="crfs-image"))
    for bar in (*COLD, *WARM)
    if isinstance(bar, Ratio)
    and bar.mine.scenario in (*COLD_IN_IMAGE, *WARM_IN_IMAGE)
    and bar.mine.origin == "0 ms"
)

# Where it is written, with the profile, what holds bars that are missed: the decision, and the rows of crfs.
HELD_BY = {
    "0015-until-it-serves": ("serve",),
    "0021-what-a-cold-job-waits-for": ("first-small", "python", "python-profile", "python-indexed"),
    "0022-reading-everything": ("read-all", "memory"),
    "0023-what-holds-warm-reads": (
        *WARM_IN_IMAGE,
        *("read-all-warm", "read-all-disk", "large-warm", "large-known", "fio-disk", "open"),
    ),
}


def held_by(bar):
    """A link to the page of docs/ that says what holds a bar; empty where there is none."""
    row = "memory" if isinstance(bar, Memory) else bar.mine.scenario
    return "".join(f"[{page[:4]}](decisions/{page}.md)" for page, rows in HELD_BY.items() if row in rows)


# (heading, bars)
ALL = (
    ("Cold reads", COLD),
    ("Warm reads and metadata", WARM),
    ("The same in a mount of one image (`crfs mount --image`)", IMAGE),
    ("Any image", ANY),
)
