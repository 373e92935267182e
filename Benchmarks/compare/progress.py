"""The progress line: what runs, how long is left. Rewritten on a terminal, plain lines elsewhere."""

import json
import sys

from compare import tools

# Seconds of a visit by contender's kind, where no earlier run on this machine says better.
GUESSES = {"lazy": 15, "pull": 35, "bound": 8}


class Progress:
    """Estimates from how long each visit took in earlier runs, kept in the work directory."""

    def __init__(self, work, planned, deadline=None):
        """`planned` are (key, kind) of all visits to come, in order."""
        self.file = work / "runs/durations.json"
        self.known = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.planned, self.total, self.deadline = list(planned), len(planned), deadline
        self.terminal = sys.stderr.isatty()

    def show(self, text):
        """Says what runs now; it is the first of the planned ones."""
        left = sum(self.known.get(key, GUESSES[kind]) for key, kind in self.planned)
        if self.deadline:
            left = min(left, max(0, self.deadline - tools.monotonic()))
        place = f"{self.total - len(self.planned) + 1}/{self.total}"
        line = f"[{place}] {text}; about {int(left) // 60}:{int(left) % 60:02} left"
        self._write(line)

    def done(self, seconds):
        """Notes how long the first of the planned visits took; None: it did not run."""
        key, _ = self.planned.pop(0)
        if seconds is not None:
            self.known[key] = round(seconds, 1)
            self.file.write_text(json.dumps(self.known, indent=0, sort_keys=True))

    def expected(self):
        """Seconds that the next visit will take, from earlier runs; 0 where that is not known."""
        return self.known.get(self.planned[0][0], 0)

    def finish(self):
        """Ends the line on a terminal."""
        if self.terminal:
            print(file=sys.stderr)

    def _write(self, line):
        if self.terminal:
            print(f"\r\x1b[K{line[:120]}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
