"""What a run ran on: machine, versions, commit, command."""

import datetime
import os
import platform
import shlex
import subprocess
import sys

from compare import tools


def facts(work):
    """The machine, as the report states it."""
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) * 1024
    processor = "unknown"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor,
        "memory": memory,
        "kernel": platform.release(),
        "filesystem": _output("findmnt", "-n", "-o", "FSTYPE", "--target", str(work)),
        "load": round(os.getloadavg()[0], 2),
        "day": datetime.date.today().isoformat(),
    }


def commit():
    """The commit of the tree, with `+` when files differ from it."""
    head = _output("git", "-C", str(tools.ROOT), "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", str(tools.ROOT), "status", "--porcelain", "--untracked-files=no")
    return (head or "unknown") + ("+" if changed else "")


def commit_day():
    """The day of that commit."""
    return _output("git", "-C", str(tools.ROOT), "log", "-1", "--format=%cs", "HEAD")


def command():
    """How this program was called."""
    return shlex.join(["python3", "-m", "compare", *sys.argv[1:]])


def tool_versions():
    """Versions of what is on both sides of every comparison."""
    return {
        "python3": platform.python_version(),
        "fio": _output("fio", "--version"),
        "docker-registry": _output("dpkg-query", "-W", "-f", "${Version}", "docker-registry"),
        "nginx": _output("dpkg-query", "-W", "-f", "${Version}", "nginx"),
    }


def _output(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
