"""The progress line: what runs, how long is left. Rewritten on a terminal, plain lines elsewhere."""

import json
import sys

from compare import tools
from compare.contenders import ALL

# Seconds of a visit by contender's kind, where no earlier run on this machine says better.
GUESSES = {
    "look": {"lazy": 12, "bound": 5},
    "known": {"lazy": 6},
    "python": {"lazy": 12, "bound": 6},
    "profile": {"lazy": 5},
    "read": {"lazy": 45, "bound": 15},
    "read-8": {"lazy": 30, "bound": 8},
    "fio": {"lazy": 7, "bound": 5},
    "hot": {"lazy": 10, "bound": 5},
    "large": {"lazy": 10, "bound": 3},
    "open": {"lazy": 25, "bound": 6},
    "jobs": {"lazy": 75, "bound": 40},
    "jobs-stay": {"lazy": 55},
    "pull": {"pull": 22},
}
ELSE = 10
KINDS = {contender.name: contender.kind for contender in ALL}


class Durations:
    """How long visits took on this machine, kept in the work directory; guesses for the others."""

    def __init__(self, work):
        self.file = work / "runs/durations.json"
        self.known = json.loads(self.file.read_text()) if self.file.exists() else {}

    def expected(self, plan):
        """Seconds that a visit will take: as the last time, or as the longest like it at any other origin."""
        if plan.key() in self.known:
            return self.known[plan.key()]
        like = [
            seconds
            for key, seconds in self.known.items()
            if key.startswith(f"{plan.visit} {'+'.join(plan.scenarios)} {plan.contender} ")
            and key.endswith(f" {plan.image}")
        ]
        if like:
            return max(like)
        guess = GUESSES.get(plan.visit, {}).get(KINDS[plan.contender], ELSE)
        # The guesses are those of the large image.
        return guess if plan.image in ("main", "entries-500k", "entries-50k") else min(guess, 5)

    def note(self, plan, seconds):
        self.known[plan.key()] = round(seconds, 1)
        self.file.write_text(json.dumps(self.known, indent=0, sort_keys=True))


class Progress:
    """Says what runs and how long is left."""

    def __init__(self, work, planned, deadline=None):
        """`planned` are all visits to come, in order."""
        self.durations = Durations(work)
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
