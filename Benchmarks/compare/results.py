"""A run's results: statistics of cells, ratios of crfs to each contender, what is won and lost."""

import dataclasses
import json
import statistics

EVEN = 0.05  # ratios this near to 1 are neither won nor lost


@dataclasses.dataclass(frozen=True)
class Comparison:
    """crfs beside one contender in one scenario.

    `ratio` is cost of crfs / cost of the contender: below 1 is won. None: crfs has none, `missing` says why.
    """

    scenario: str
    origin: str
    image: str
    crfs: str
    contender: str
    kind: str
    ratio: float | None
    missing: str = ""

    def verdict(self):
        """won, even, lost; what crfs cannot do yet, and what failed, is lost."""
        if self.ratio is None or self.ratio > 1 + EVEN:
            return "lost"
        return "won" if self.ratio < 1 - EVEN else "even"


class Results:
    """The results of one run, read from its JSON."""

    def __init__(self, document):
        self.document = document
        self.scenarios, self.contenders = document["scenarios"], document["contenders"]
        self.cells = {
            (cell["scenario"], cell["contender"], cell["origin"], cell["image"]): cell
            for cell in document["cells"]
        }

    @classmethod
    def read(cls, path):
        with open(path) as file:
            return cls(json.load(file))

    def places(self):
        """(scenario, origin, image) of all that was asked for, in order; without `local`."""
        names = list(self.scenarios)
        origins = list(dict.fromkeys(cell["origin"] for cell in self.document["cells"]))
        found = {(s, o, i) for s, _, o, i in self.cells if o != "local"}
        images = list(dict.fromkeys(cell["image"] for cell in self.document["cells"]))
        return sorted(found, key=lambda p: (images.index(p[2]), names.index(p[0]), origins.index(p[1])))

    def cell(self, scenario, contender, origin, image):
        """A cell; of bounds the local one; where only crfs runs a scenario, the one it is compared with."""
        if self.contenders[contender]["kind"] == "bound":
            origin = "local"
        found = self.cells.get((scenario, contender, origin, image))
        against = self.scenarios[scenario]["against"]
        if found is None and against and not is_crfs(contender):
            found = self.cells.get((against, contender, origin, image))
        return found

    def median(self, scenario, contender, origin, image):
        """The median of a cell; None where it has no figure."""
        cell = self.cell(scenario, contender, origin, image)
        return figure(cell) if cell else None

    def comparisons(self):
        """Every row of crfs beside every other contender that has a figure in the same place."""
        found = []
        for scenario, origin, image in self.places():
            for crfs in filter(is_crfs, self.contenders):
                mine = self.cell(scenario, crfs, origin, image)
                if mine is None or mine["status"] in ("left out", "unavailable"):
                    continue
                for name, facts in self.contenders.items():
                    other = None if is_crfs(name) else self.median(scenario, name, origin, image)
                    if other is None:
                        continue
                    value = figure(mine)
                    ratio = self.ratio(scenario, value, other) if value else None
                    missing = "" if value else f"{mine['status']}: {mine['reason']}"
                    found.append(
                        Comparison(scenario, origin, image, crfs, name, facts["kind"], ratio, missing)
                    )
        return found

    def not_yet(self):
        """(scenario, contender, origin, image, what) of the cells that crfs cannot do yet."""
        return [(*key, cell["reason"]) for key, cell in self.cells.items() if cell["status"] == "not yet"]

    def ratio(self, scenario, crfs, other):
        """Cost of crfs / cost of the other."""
        if not crfs or not other:
            return None
        return other / crfs if self.scenarios[scenario]["more_is_better"] else crfs / other

    def count(self):
        """{"peers": {"won", "even", "lost"}, "bounds": the same, "not yet": cells, all of them lost}."""
        counts = {side: {"won": 0, "even": 0, "lost": 0} for side in ("peers", "bounds")}
        for comparison in self.comparisons():
            if comparison.missing.startswith("not yet"):
                continue
            counts["bounds" if comparison.kind == "bound" else "peers"][comparison.verdict()] += 1
        return {**counts, "not yet": len(self.not_yet())}


def is_crfs(contender):
    """Whether a contender is crfs, or a way of using it."""
    return contender.startswith("crfs")


def figure(cell, key="value"):
    """The median of a cell's runs; None where there are none."""
    values = [run[key] for run in cell["runs"] if key in run]
    return statistics.median(values) if values else None


def spread(cell, key="value"):
    """(lowest, highest) of a cell's runs."""
    values = [run[key] for run in cell["runs"] if key in run]
    return (min(values), max(values)) if values else None
