"""How each visit goes; see scenarios.py for the states, and docs/benchmarks.md for the rules."""

import os
import statistics
import time

from compare import steps, tools
from compare.scenarios import READERS, SCENARIOS

# After a mount's last reader is gone.
IDLE_SECONDS = 3
SERVE_AGAIN, READ_AGAIN = 9, 5


def look(visit):
    serving = [visit.start_from_nothing().seconds]
    while visit.wants("serve") and visit.origin and serving[0] < 1 and len(serving) < 3:
        serving.append(visit.start_from_nothing().seconds)
    mounted = visit.mounted
    visit.note("serve", statistics.median(serving))
    for name, files in (("first-small", "small_files"), ("first-large", "large_files")):
        if visit.wants(name):
            times = steps.first_reads(visit, mounted, visit.image.facts[files])
            visit.note(name, statistics.median(times), all=[round(milliseconds, 2) for milliseconds in times])
    walks = (
        ("find", lambda: steps.timed(visit, ["find", visit.mounted.root])),
        ("ls", lambda: steps.timed(visit, ["ls", "-lR", visit.mounted.root])),
        ("stat", lambda: steps.stat_all(visit, visit.mounted)),
    )
    for name, walk in walks:
        if visit.wants(f"{name}-cold", f"{name}-warm"):
            visit.note(f"{name}-cold", visit.steadily(walk, visit.drop))
        if visit.wants(f"{name}-warm"):
            visit.note(f"{name}-warm", visit.steadily(walk))


def known(visit):
    """Mounts an image that was mounted before; by its tag, which was checked a moment ago."""
    visit.start_from_nothing()
    contender = visit.contender
    seconds, starts = [], []
    while len(seconds) < SERVE_AGAIN and (sum(seconds) < 5 or len(seconds) < 3):
        contender.unmount()
        seconds.append(visit.mount().seconds)
        if start := contender.process_start():
            starts.append(start)
    start = statistics.median(starts) * 1e3 if starts else None
    visit.note("serve-known", statistics.median(seconds) * 1e3, process_start=start)
    if visit.wants("idle"):
        steps.timed(visit, ["find", visit.mounted.root])
        time.sleep(min(IDLE_SECONDS, visit.left()))
        visit.note("idle", contender.memory() / (1 << 20))
    if visit.wants("index-layer", "index-merged"):
        layers, merged = contender.index_bytes()
        visit.note("index-layer", layers / visit.image.facts["entries"])
        if merged:
            visit.note("index-merged", merged / visit.image.facts["entries"])


def python(visit):
    mounted = visit.start_from_nothing()
    visit.note("python", mounted.seconds + steps.job(visit, mounted))
    if visit.wants("python-disk"):
        visit.note("python-disk", steps.job(visit, visit.drop()))
    if visit.wants("python-warm"):
        if "python-disk" not in visit.wanted:
            steps.job(visit, visit.mounted)
        visit.note("python-warm", statistics.median(steps.job(visit, visit.mounted) for _ in range(3)))


def python_variant(name, prefetch=False):
    """A visit of the python job from nothing with another variant of the image."""

    def run(visit):
        variant = SCENARIOS[name].variant
        visit.contender.require(visit.image, visit.origin, variant, visit.left())
        mounted = visit.start_from_nothing(variant, prefetch)
        visit.note(name, mounted.seconds + steps.job(visit, mounted))

    return run


def serve_gzip(visit):
    """All layers are streamed and indexed before the root can be listed."""
    visit.contender.require(visit.image, visit.origin, "gzip", visit.left())
    mounted = visit.start_from_nothing("gzip")
    visit.note("serve-gzip", mounted.seconds)
    if highest := visit.contender.peak_memory():
        visit.note("memory-gzip", highest / (1 << 20))


def indexed(visit):
    """The job by the tag that binds a published index to the gzip image; somebody else made the index, before."""
    variant = visit.contender.publish_index(visit.image, "gzip", visit.left())
    mounted = visit.start_from_nothing(variant)
    visit.note("python-indexed", mounted.seconds + steps.job(visit, mounted))


def profile(visit):
    """The job with nothing but the profile in the cache, as recorded by one run of it on a cache of its own."""
    contender = visit.contender
    recorded = contender.profile_file(visit.image, visit.contender.variant)
    if not recorded.exists():
        steps.job(visit, visit.start_from_nothing())
        contender.unmount()
        contender.export_profile(visit.image, visit.origin, visit.variant, recorded, visit.left())
    mounted = visit.start_from_nothing(prepare=lambda: contender.import_profile(recorded, visit.left()))
    seconds = mounted.seconds + steps.job(visit, mounted)
    visit.note("python-profile", seconds, profile_bytes=recorded.stat().st_size)


def read(visit):
    mounted = visit.start_from_nothing()
    visit.note("read-all", mounted.seconds + steps.read_all(visit, mounted))
    if visit.wants("read-all-warm"):
        visit.note("read-all-warm", steps.read_all(visit, mounted))
    if visit.wants("read-all-disk"):
        visit.note("read-all-disk", steps.read_all(visit, visit.drop()))
    if visit.wants("fio-disk"):
        visit.note("fio-disk", **steps.fio(visit, visit.drop()))


def read_shared(visit):
    mounted = visit.start_from_nothing()
    visit.note("read-8", mounted.seconds + steps.read_all(visit, mounted, READERS))


def random_reads(visit):
    visit.note("fio", **steps.fio(visit, visit.start_from_nothing()))


def hot(visit):
    """What the job reads, read again in its order after it ran twice; the page cache is as the job left it."""
    mounted = visit.start_from_nothing()
    for _ in range(2):
        steps.job(visit, mounted)
    files = visit.image.hot_files
    again = [steps.read_files(visit, visit.remount(), files) for _ in range(READ_AGAIN)]
    visit.note("hot", statistics.median(again) * 1e3, all=[round(seconds * 1e3, 2) for seconds in again])


def large(visit):
    """The large file from begin to end: its pages are in memory, at least where the contender lets them be."""
    files = [visit.image.facts["large_file"]]
    mounted = visit.start_from_nothing()
    for _ in range(2):
        steps.read_files(visit, mounted, files)
    warm = [steps.read_files(visit, mounted, files) for _ in range(READ_AGAIN)]
    visit.note("large-warm", statistics.median(warm) * 1e3)
    if visit.wants("large-known"):
        again = [steps.read_files(visit, visit.remount(), files) for _ in range(READ_AGAIN)]
        visit.note("large-known", statistics.median(again) * 1e3)


def opens(visit):
    """Opens, reads and closes every file, time after time."""
    mounted = visit.start_from_nothing()
    files = list(_files(visit.image.root))
    for _ in range(2):
        steps.read_files(visit, mounted, files)
    again = [steps.read_files(visit, mounted, files) for _ in range(READ_AGAIN)]
    visit.note("open", statistics.median(again) * 1e3, files=len(files))


def _files(root):
    """Relative paths of the regular files of a tree, in the order of the directories' names."""
    for directory, subdirectories, names in os.walk(root):
        subdirectories.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield os.path.relpath(path, root)


def jobs(visit):
    """A CI runner's day. What `keeps_mount` stays mounted between the jobs; the others mount each time."""
    mounted = visit.start_from_nothing()
    seconds = [mounted.seconds + steps.job(visit, mounted)]
    for _ in range(visit.jobs - 1):
        if visit.contender.keeps_mount:
            seconds.append(steps.job(visit, mounted))
            continue
        before = tools.monotonic()
        visit.contender.unmount()
        ended = tools.monotonic() - before
        mounted = visit.mount()
        seconds.append(ended + mounted.seconds + steps.job(visit, mounted))
    _note_jobs(visit, "jobs", seconds)


def jobs_stay(visit):
    """The same on a host that leaves one daemon mounted: each job takes the tag from it, with a new overlay."""
    mounted = visit.start_from_nothing()
    seconds = [mounted.seconds + steps.job(visit, mounted)]
    while len(seconds) < visit.jobs:
        seconds.append(steps.job(visit, mounted))
    _note_jobs(visit, "jobs-stay", seconds)


def _note_jobs(visit, name, seconds):
    visit.note(
        name, statistics.median(seconds[1:]), first=seconds[0], jobs=len(seconds), total=sum(seconds)
    )


def pull(visit):
    """One pull serves all its rows; each job is read from what the pull left in the page cache."""
    mounted = visit.start_from_nothing()
    visit.note("serve", mounted.seconds)
    if visit.wants("read-all"):
        visit.note("read-all", mounted.seconds + steps.read_all(visit, mounted))
    if visit.wants("python"):
        visit.note("python", mounted.seconds + steps.job(visit, mounted))


VISITS = {
    "look": look,
    "known": known,
    "python": python,
    "landmark": python_variant("python-landmark", prefetch=True),
    "stargz": python_variant("python-stargz"),
    "zstdchunked": python_variant("python-zstdchunked"),
    "gzip": python_variant("python-gzip"),
    "indexed": indexed,
    "serve-gzip": serve_gzip,
    "profile": profile,
    "read": read,
    "read-8": read_shared,
    "fio": random_reads,
    "hot": hot,
    "large": large,
    "open": opens,
    "jobs": jobs,
    "jobs-stay": jobs_stay,
    "pull": pull,
}
