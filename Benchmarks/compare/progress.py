"""The progress line: what runs, how long is left. Rewritten on a terminal, plain lines elsewhere."""

import json
import sys

from compare import tools
from compare.contenders import ALL
from compare.results import is_crfs

# Seconds of a visit of the large image with one scenario, and for each further one, where no earlier run on this
# machine says better: crfs, other lazy file systems, pulls, bounds.
GUESSES = {
    "look": {"crfs": (4, 1.5), "lazy": (4, 3), "bound": (2, 0.7)},
    "known": {"crfs": (4, 1), "lazy": (6, 1)},
    "python": {"crfs": (5, 1.5), "lazy": (9, 2), "bound": (3, 1.5)},
    "profile": {"crfs": (5, 0)},
    "read": {"crfs": (12, 6), "lazy": (42, 12), "bound": (8, 5)},
    "read-8": {"crfs": (12, 0), "lazy": (40, 0), "bound": (7, 0)},
    "fio": {"crfs": (7, 0), "lazy": (7, 0), "bound": (5, 0)},
    "hot": {"crfs": (8, 0), "lazy": (12, 0), "bound": (4, 0)},
    "large": {"crfs": (6, 1), "lazy": (12, 1), "bound": (2, 1)},
    "open": {"crfs": (12, 0), "lazy": (25, 0), "bound": (4, 0)},
    "jobs": {"crfs": (1.5, 0), "lazy": (1.5, 0), "bound": (0.8, 0)},  # of one job
    "jobs-stay": {"crfs": (1.1, 0)},
    "pull": {"pull": (18, 1)},
}
ELSE = (7, 0)
KINDS = {contender.name: contender.kind for contender in ALL}


class Durations:
    """How long visits took on this machine, kept in the work directory; guesses for the others."""

    def __init__(self, work, jobs):
        """`jobs`: how many of them a visit of jobs has."""
        self.file, self.jobs = work / "runs/durations.json", jobs
        self.known = json.loads(self.file.read_text()) if self.file.exists() else {}

    def expected(self, plan):
        """Seconds that a visit will take: as the last time, or as the longest like it at any other origin."""
        if self._key(plan) in self.known:
            return self.known[self._key(plan)]
        more = f" x{self.jobs}" if plan.visit.startswith("jobs") else ""
        like = [
            seconds
            for key, seconds in self.known.items()
            if key.startswith(f"{plan.visit} {'+'.join(plan.scenarios)} {plan.contender} ")
            and key.endswith(f" {plan.image}{more}")
        ]
        if like:
            return max(like)
        guesses = GUESSES.get(plan.visit, {})
        kind = "crfs" if is_crfs(plan.contender) else KINDS[plan.contender]
        first, further = guesses.get(kind, ELSE)
        seconds = first + further * (len(plan.scenarios) - 1)
        if plan.visit.startswith("jobs"):
            seconds *= self.jobs
        return seconds if plan.image in ("main", "entries-500k", "entries-50k") else min(seconds, 4)

    def is_known(self, plan):
        """Whether a visit was made before."""
        return self._key(plan) in self.known

    def note(self, plan, seconds):
        self.known[self._key(plan)] = round(seconds, 1)
        self.file.write_text(json.dumps(self.known, indent=0, sort_keys=True))

    def _key(self, plan):
        return plan.key() + (f" x{self.jobs}" if plan.visit.startswith("jobs") else "")


class Progress:
    """Says what runs and how long is left."""

    def __init__(self, durations, planned, deadline=None):
        """`planned` are all visits to come, in order."""
        self.durations = durations
        self.planned, self.total, self.deadline = list(planned), len(planned), deadline
        self.terminal = sys.stderr.isatty()

    def show(self, text):
        """Says what runs now; it is the first of the planned ones."""
        left = sum(self.durations.expected(plan) for plan in self.planned)
        if self.deadline:
            left = min(left, max(0, self.deadline - tools.monotonic()))
        place = f"{self.total - len(self.planned) + 1}/{self.total}"
        self._write(f"[{place}] {text}; about {int(left) // 60}:{int(left) % 60:02} left")

    def done(self, seconds):
        """Notes how long the first of the planned visits took; None: it did not run."""
        plan = self.planned.pop(0)
        if seconds is not None:
            self.durations.note(plan, seconds)

    def expected(self):
        """Seconds that the next visit will take."""
        return self.durations.expected(self.planned[0])

    def finish(self):
        """Ends the line on a terminal."""
        if self.terminal:
            print(file=sys.stderr)

    def _write(self, line):
        if self.terminal:
            print(f"\r\x1b[K{line[:120]}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
