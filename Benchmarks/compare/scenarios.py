"""What is measured: a table of rows of figures. How it is done is in visits.py.

Cache states: `nothing` = caches of the contender removed, the kernel's dropped; `disk` = what the contender
keeps on disk is there, the kernel's caches dropped; `warm` = the same done before, nothing dropped; `known` =
mounted before, unmounted, nothing dropped. For local bounds `nothing` and `disk` are the same. The origin's own
files are always in memory: it stands for a machine elsewhere."""

import dataclasses

from compare.contenders import base

LAZY, PULL, BOUND = base.LAZY, base.PULL, base.BOUND
READERS = 8


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One row of figures.

    `needs` are features that crfs may lack; `against` names the scenario whose figures of the others it is
    compared with, where only crfs runs it; `alone`: only crfs runs it, and there is nothing to compare with.
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
    alone: bool = False


def _python(name, visit, what, **more):
    title = f"python imports, mount included{what}"
    return Scenario(name, visit, title, "nothing", (LAZY,), **more)


def _fio(name, visit, state, **more):
    title = "fio, 4 KiB random reads of the large file"
    return Scenario(name, visit, title, state, (LAZY, BOUND), "IOPS", True, **more)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "serve", "look", "until the mount serves (exec to `ls` of the root)", "nothing", (LAZY, PULL)
        ),
        Scenario("first-small", "look", "first 4 KiB of a small file", "nothing", (LAZY, BOUND), "ms"),
        Scenario("first-large", "look", "first 4 KiB of a large file", "nothing", (LAZY, BOUND), "ms"),
        Scenario("find-cold", "look", "`find`", "page cache dropped", (LAZY, BOUND)),
        Scenario("find-warm", "look", "`find`", "warm", (LAZY, BOUND)),
        Scenario("ls-cold", "look", "`ls -lR`", "page cache dropped", (LAZY, BOUND)),
        Scenario("ls-warm", "look", "`ls -lR`", "warm", (LAZY, BOUND)),
        Scenario("stat-cold", "look", "`stat` of all", "page cache dropped", (LAZY, BOUND)),
        Scenario("stat-warm", "look", "`stat` of all", "warm", (LAZY, BOUND)),
        Scenario(
            "serve-known", "known", "until the mount serves, image mounted before", "known", (LAZY,), "ms"
        ),
        Scenario("idle", "known", "memory when idle, after `find`", "known", (LAZY,), "MiB"),
        Scenario("index-layer", "known", "layer indexes, for an entry", "disk", (LAZY,), "bytes", alone=True),
        Scenario("index-merged", "known", "merged index, for an entry", "disk", (LAZY,), "bytes", alone=True),
        Scenario(
            "python", "python", "python imports, mount or pull included", "nothing", (LAZY, PULL, BOUND)
        ),
        Scenario("python-disk", "python", "python imports", "disk", (LAZY, BOUND)),
        Scenario("python-warm", "python", "python imports", "warm", (LAZY, BOUND)),
        _python(
            "python-landmark",
            "landmark",
            ", image ordered with a landmark",
            needs=("landmark",),
            variant="estargz-ordered",
        ),
        _python("python-stargz", "stargz", ", stargz (the older format)", variant="stargz"),
        _python(
            "python-profile", "profile", ", profile of one earlier run", needs=("profile",), against="python"
        ),
        _python(
            "python-zstdchunked", "zstdchunked", ", zstd:chunked", variant="zstdchunked", against="python"
        ),
        _python("python-gzip", "gzip", ", plain gzip layers", variant="gzip", against="python"),
        _python(
            "python-indexed",
            "indexed",
            ", plain gzip layers with a published index",
            needs=("index",),
            against="python",
        ),
        Scenario(
            "serve-gzip",
            "serve-gzip",
            "until the mount serves, plain gzip layers",
            "nothing",
            (LAZY,),
            variant="gzip",
            against="serve",
        ),
        Scenario(
            "memory-gzip",
            "serve-gzip",
            "highest memory until then",
            "nothing",
            (LAZY,),
            "MiB",
            variant="gzip",
            alone=True,
        ),
        Scenario(
            "read-all", "read", "reading every file, mount or pull included", "nothing", (LAZY, PULL, BOUND)
        ),
        Scenario("read-all-disk", "read", "reading every file", "disk", (LAZY, BOUND)),
        Scenario("read-all-warm", "read", "reading every file", "warm", (LAZY, BOUND)),
        Scenario(
            "read-8", "read-8", f"{READERS} readers share all files, mount included", "nothing", (LAZY, BOUND)
        ),
        _fio("fio", "fio", "nothing"),
        _fio("fio-disk", "read", "disk"),
        Scenario("hot", "hot", "reading the hot files again, mounted again", "known", (LAZY, BOUND), "ms"),
        Scenario("large-warm", "large", "reading the large file", "warm", (LAZY, BOUND), "ms"),
        Scenario("large-known", "large", "reading the large file", "known", (LAZY, BOUND), "ms"),
        Scenario("open", "open", "open, read, close every file", "warm", (LAZY, BOUND), "ms"),
        Scenario(
            "jobs", "jobs", "mount, python, unmount in a row: the second and later", "disk", (LAZY, BOUND)
        ),
        Scenario(
            "jobs-stay",
            "jobs-stay",
            "python in a row, one daemon stays mounted: the second and later",
            "warm",
            (LAZY,),
            against="jobs",
        ),
    )
}


def visit_of(scenario, contender):
    """The name of the visit in which a contender runs a scenario; pulls have one for all."""
    return "pull" if contender.kind == PULL else scenario.visit
