"""Which cells the three selections run: the written lists, in the order in which they run.

A row is a set of cells: scenarios x contenders x origins on one image. Scenarios of a row that share a visit
(see scenarios.py) cost one mount together. Rows that matter most stand first, because what is not done when
the time is up is left out, and shown as that."""

import dataclasses

from compare import scenarios
from compare.contenders import ALL, base
from compare.results import is_crfs


@dataclasses.dataclass(frozen=True)
class OriginKind:
    """How the registry is reached. `label` stands in tables."""

    label: str
    rtt_ms: int = 0
    tls: bool = False
    cdn: bool = False
    bandwidth: str | None = None


PLAIN = {rtt: OriginKind(f"{rtt} ms", rtt) for rtt in (0, 15, 50)}
TLS_15 = OriginKind("15 ms, TLS", 15, tls=True)
CDN_15 = OriginKind("15 ms, TLS, CDN", 15, tls=True, cdn=True)
GBIT = OriginKind("15 ms, 1 Gbit/s", 15, bandwidth="1gbit")
MBIT_200 = OriginKind("15 ms, 200 Mbit/s", 15, bandwidth="200mbit")
LOCAL = OriginKind("local")  # for bounds, which need no origin
ORIGINS = {kind.label: kind for kind in (*PLAIN.values(), TLS_15, CDN_15, GBIT, MBIT_200)}

CRFS = ("crfs", "crfs-background")
OPENS = ("crfs-open-none", "crfs-open-daemon")
BEST = ("crfs", "stargz-1m")
LAZY = tuple(contender.name for contender in ALL if contender.kind == base.LAZY)
PULLS = tuple(contender.name for contender in ALL if contender.kind == base.PULL)
BOUNDS = tuple(contender.name for contender in ALL if contender.kind == base.BOUND)
SYNTHETIC = ("entries-5k", "entries-50k", "entries-500k", "layers-1", "layers-5", "layers-40")
METADATA = ("find-cold", "find-warm", "ls-cold", "ls-warm", "stat-cold", "stat-warm")
FIRST = ("serve", "first-small", "first-large")
PYTHON = ("python", "python-disk", "python-warm")
READ = ("read-all", "read-all-disk", "read-all-warm")
KNOWN = ("serve-known", "idle", "index-layer", "index-merged")
LATER = ("python-landmark", "python-profile", "python-zstdchunked", "python-gzip", "python-indexed")
# What an option of crfs can change: there it is shown beside.
WITH_BACKGROUND = (*FIRST, "python", "python-profile", "python-landmark", "read-all", "jobs-stay")
WITH_OPEN = ("python-warm", "read-all-warm", "hot", "large-warm", "large-known", "open", "jobs", "jobs-stay")
WITH_IMAGE = ("serve", *METADATA, "serve-known", "python", "python-warm", "hot", "jobs", "jobs-stay")
OPTIONS = {
    "crfs-background": WITH_BACKGROUND,
    **dict.fromkeys(OPENS, WITH_OPEN),
    "crfs-image": WITH_IMAGE,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """`rounds`: how many of the selection's runs measure it, where it need not be all."""

    scenarios: tuple
    contenders: tuple
    origins: tuple = (PLAIN[0],)
    image: str = "main"
    rounds: int | None = None


@dataclasses.dataclass(frozen=True)
class Selection:
    """A named list of rows; `minutes` bounds it (None: no limit), `cell_seconds` bounds a visit."""

    rows: tuple
    repeat: int
    minutes: float | None
    cell_seconds: int
    fio_seconds: int
    jobs: int


QUICK = Selection(
    repeat=1,
    minutes=9.25,
    cell_seconds=60,
    fio_seconds=3,
    jobs=5,
    rows=(
        Row((*FIRST, *METADATA), ("crfs", "stargz-1m", "ext4", "erofs")),
        Row(FIRST, ("stargz-default", "stargz-background")),
        Row(PYTHON, ("crfs", "stargz-1m", "ext4", "erofs")),
        Row(("python",), ("crfs-background", "stargz-default", "stargz-background", "squashfuse")),
        Row(("serve", "python", "read-all"), PULLS),
        Row(FIRST, BEST, (PLAIN[15],)),
        Row(("python",), ("crfs", "crfs-background", "stargz-default", "stargz-1m"), (PLAIN[15],)),
        Row(LATER, ("crfs", "stargz-1m"), (PLAIN[15],)),
        Row(("serve", "read-all"), (*BEST, "curl-tar"), image="small"),
        *(Row(("serve", "find-cold"), BEST, image=name) for name in SYNTHETIC if name != "layers-1"),
        Row(KNOWN, ("crfs",)),
        Row(("jobs", "jobs-stay"), ("crfs", "ext4")),
        Row(("fio",), ("crfs", "stargz-1m", "ext4")),
        Row(("read-all", "fio-disk"), ("crfs", "stargz-1m", "ext4", "erofs")),
        Row(("read-all-disk",), ("crfs", "ext4")),
        Row(("hot",), ("crfs", "ext4")),
        Row(("serve", "python"), PULLS, (PLAIN[15],)),
        Row(("serve", *METADATA, "python", "serve-known", "jobs", "jobs-stay"), ("crfs-image",)),
    ),
)

# Every bar of bars.py is read off this one; --self-check holds it to that.
BENCH = Selection(
    repeat=3,
    minutes=58,
    cell_seconds=240,
    fio_seconds=5,
    jobs=50,
    rows=(
        Row((*FIRST, *METADATA), ("crfs", "stargz-1m", "ext4", "erofs")),
        Row(FIRST, ("crfs-background", "stargz-default")),
        Row(("serve", *METADATA), ("crfs-image",)),
        Row(PYTHON, ("crfs", "stargz-1m", "ext4", "erofs")),
        Row(("python",), ("crfs-background", "stargz-default", "stargz-background", "squashfuse")),
        Row(("python", "python-warm"), ("crfs-image",)),
        Row(("serve", "python", "read-all"), PULLS),
        Row((*READ, "fio-disk"), ("crfs", "ext4")),
        Row(("read-all", "fio-disk"), ("stargz-1m", "erofs")),
        Row(("read-all",), ("crfs-background",)),
        Row(FIRST, BEST, (PLAIN[15], PLAIN[50])),
        Row(("python",), ("crfs", "crfs-background", "stargz-default", "stargz-1m"), (PLAIN[15],)),
        Row(("python",), ("crfs", "crfs-background", "stargz-1m"), (PLAIN[50],)),
        Row(("python-profile",), CRFS, (PLAIN[15],)),
        Row(("python-profile",), ("crfs",), (PLAIN[50],)),
        Row(("python-landmark",), BEST, (PLAIN[15],)),
        Row(("python-zstdchunked", "python-gzip"), ("crfs",), (PLAIN[15],)),
        Row(("serve-gzip", "memory-gzip"), ("crfs",)),
        Row(("python-indexed",), ("crfs",), (PLAIN[0], PLAIN[15])),
        Row(("serve", "python", "read-all"), PULLS, (TLS_15, GBIT)),
        Row(("python",), ("crfs",), (TLS_15,)),
        Row(("read-all",), ("crfs",), (TLS_15, GBIT)),
        # Each is a median of 49 jobs.
        Row(("jobs", "jobs-stay"), ("crfs", "crfs-image", "stargz-1m", "ext4"), rounds=1),
        Row(("fio",), ("crfs", "stargz-1m", "ext4")),
        Row(("serve", "read-all"), (*BEST, "curl-tar"), image="small"),
        *(Row(("serve", "find-cold"), BEST, image=name) for name in ("entries-5k", "entries-50k")),
        *(Row(("serve", "find-cold"), BEST, image=name) for name in ("layers-5", "layers-40")),
        Row(("serve",), BEST, image="entries-500k"),
        Row(("serve",), ("crfs",), (PLAIN[15],), image="layers-40"),
        Row(KNOWN, ("crfs",)),
        Row(("serve-known",), ("crfs-image", "stargz-1m")),
        Row(KNOWN, ("crfs",), image="entries-500k"),
        Row(("idle",), ("crfs",), image="layers-40"),
        Row(("hot", "large-warm", "large-known"), ("crfs", "stargz-1m", "ext4")),
        Row(("hot",), (*OPENS, "crfs-image")),
        Row(("open",), ("crfs", *OPENS, "ext4"), image="entries-50k"),
        Row(("read-8",), ("crfs", "ext4")),
    ),
)

FULL = Selection(
    repeat=3,
    minutes=None,
    cell_seconds=900,
    fio_seconds=10,
    jobs=50,
    rows=(
        Row(
            tuple(scenarios.SCENARIOS),
            (*LAZY, *PULLS, *BOUNDS),
            (*PLAIN.values(), TLS_15, CDN_15, GBIT, MBIT_200),
        ),
        Row(("serve", "read-all"), (*LAZY, *PULLS, *BOUNDS), (PLAIN[0], PLAIN[15]), image="small"),
        *(
            Row(("serve", *KNOWN, *METADATA), (*LAZY, *BOUNDS), (PLAIN[0], PLAIN[15]), image=name)
            for name in SYNTHETIC
        ),
        Row(("open",), (*LAZY, *BOUNDS), image="entries-50k"),
    ),
)

# For --self-check: a bit of everything on the small image, whose job is a shell's.
CHECK = Selection(
    repeat=1,
    minutes=10,
    cell_seconds=60,
    fio_seconds=1,
    jobs=3,
    rows=(
        Row(
            ("serve", "first-small", "find-cold", "python", "python-warm", "read-all", "read-8", "jobs"),
            ("crfs", *LAZY[-3:], *PULLS, *BOUNDS),
            image="small",
        ),
        Row(
            ("find-warm", *KNOWN, "python-profile", "python-gzip", "read-all-disk", "fio-disk", "hot")
            + ("large-warm", "large-known", "open", "jobs-stay", "serve-gzip", "memory-gzip", "python-indexed"),
            (*CRFS, *OPENS, "crfs-image", "ext4"),
            image="small",
        ),
        Row(("serve", "read-all"), (*BEST, *PULLS), (PLAIN[15], TLS_15, CDN_15, MBIT_200), image="small"),
    ),
)

SELECTIONS = {"quick": QUICK, "bench": BENCH, "full": FULL, "check": CHECK}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One scenario of one contender from one origin."""

    scenario: str
    contender: str
    origin: OriginKind
    image: str
    rounds: int | None = dataclasses.field(default=None, compare=False)


def cells(selection, only_contenders=(), only_scenarios=(), only_rtts=(), only_images=()):
    """The cells of a selection in order, each once, narrowed by what is asked for; bounds have LOCAL."""
    kinds = {contender.name: contender for contender in ALL}
    found = {}
    for row in selection.rows:
        for origin in row.origins:
            if only_rtts and origin.rtt_ms not in only_rtts:
                continue
            for name in row.scenarios:
                for contender in row.contenders:
                    scenario, kind = scenarios.SCENARIOS[name], kinds[contender].kind
                    if kind not in scenario.kinds or (only_images and row.image not in only_images):
                        continue
                    if (scenario.against or scenario.alone) and not is_crfs(contender):
                        continue
                    if name not in OPTIONS.get(contender, (name,)):
                        continue
                    if (only_contenders and contender not in only_contenders) or (
                        only_scenarios and name not in only_scenarios
                    ):
                        continue
                    place = LOCAL if kind == base.BOUND else origin
                    cell = Cell(name, contender, place, row.image, row.rounds)
                    found.setdefault(cell)
    return list(found)
