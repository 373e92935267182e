"""Checks the comparison itself: its parts, a small matrix, that an interrupted run leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time

from compare import bars, cleanup, images, origin, selection, tools, verdicts

# Where a run is interrupted: seconds after its start, and the signal.
INTERRUPTIONS = ((1.0, signal.SIGINT), (3.0, signal.SIGTERM), (6.0, signal.SIGINT), (9.0, signal.SIGKILL))
MATRIX = ["check", "--no-document"]


def run(work):
    """Runs all checks; returns the exit code."""
    failures = unlisted_bars() + images.self_check(work) + origin.self_check(work)
    failures += _whole_matrix(work)
    for seconds, number in INTERRUPTIONS:
        failures += _interrupted(work, seconds, number)
    for failure in failures:
        tools.say(f"self-check failed: {failure}")
    tools.say(f"self-check: {len(failures)} failures" if failures else "self-check: all is well")
    return 1 if failures else 0


def unlisted_bars():
    """Bars that cannot be read off `bench`, because it has no such cell."""
    listed = {
        (cell.scenario, cell.contender, cell.origin.label, cell.image)
        for cell in selection.cells(selection.BENCH)
    }
    bounds = set(selection.BOUNDS)
    places = [
        (place.scenario, place.contender, "local" if place.contender in bounds else place.origin, place.image)
        for _, some in bars.ALL
        for bar in some
        for place in verdicts.places_of(bar)
    ]
    return [f"bench has no cell {' '.join(place)}, which a bar needs" for place in places if place not in listed]


def _start(work, log, *more):
    """A run of the matrix as a process of its own."""
    return cleanup.start(
        [sys.executable, "-m", "compare", *MATRIX, *more],
        cwd=tools.ROOT / "Benchmarks",
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "CRFS_BENCH_DIR": str(work)},
    )


def _whole_matrix(work):
    """A run to its end: every cell has a figure or a reason."""
    tools.say("self-check: a small matrix")
    before, output = _things(), work / "runs/selfcheck.json"
    with open(work / "runs/selfcheck.log", "w") as log:
        process = _start(work, log, "--json", output)
        code = process.wait()
        cleanup.stop(process)
    if code:
        return [f"the small matrix exits with {code}: {_tail(work)}"]
    cells = json.loads(output.read_text())["cells"]
    found = [
        f"{cell['contender']} {cell['scenario']} {cell['status']}: {cell['reason']}"
        for cell in cells
        if cell["status"] not in ("ok", "not yet")
    ]
    return found + _left(before, "the small matrix")


def _interrupted(work, seconds, number):
    """A run that gets a signal: nothing may be left; after SIGKILL, once the next run has started."""
    name = signal.Signals(number).name
    tools.say(f"self-check: {name} after {seconds:.0f} s")
    before = _things()
    with open(work / "runs/selfcheck.log", "w") as log:
        process = _start(work, log)
        time.sleep(seconds)  # Anywhere in the run will do.
        os.kill(process.pid, number)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            return [f"{name} after {seconds:.0f} s: still running a minute later: {_tail(work)}"]
        if number == signal.SIGKILL:
            cleanup.remove_leftovers(work)
        cleanup.stop(process)
    return _left(before, f"{name} after {seconds:.0f} s")


def _things():
    """Mounts, network namespaces, links and processes of ours that there are now."""
    links = os.listdir("/sys/class/net")
    namespaces = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    own = {str(pid) for pid in cleanup.descendants(os.getpid()) if cleanup.start_time(pid)}
    work = str(tools.work_directory())
    return {
        "mount": {point for point in cleanup.mounts() if point.startswith(work)},
        "link": set(links),
        "namespace": set(namespaces),
        "process": own | _processes_of(work),
    }


def _processes_of(work):
    """Pids of processes whose command line names the work directory."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if work.encode() + b"/runs/" in file.read():
                        found.add(name)
            except OSError:
                continue
    return found


def _left(before, what):
    after = _things()
    return [
        f"{what} left a {kind}: {thing}" for kind in after for thing in sorted(after[kind] - before[kind])
    ]


def _tail(work):
    return " ".join((work / "runs/selfcheck.log").read_text(errors="replace").split())[-400:]
