"""Holds a run against the bars (bars.py)."""

import dataclasses

from compare import bars
from compare.results import figure, is_crfs

MET, MISSED, NOT_YET, NO_FIGURE = "met", "missed", "not yet", "no figure"
NOT_ASKED = "not asked"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A bar, what was measured, whether that meets it."""

    title: str
    bar: str
    measured: str
    verdict: str
    sort: float = 0.0  # how far from the bar: above 1 is missed
    held_by: str = ""  # where it is written what holds it, as a link


def all_verdicts(results):
    """(heading, verdicts with the missed ones first) of all bars."""
    order = {MISSED: 0, NOT_YET: 1, NO_FIGURE: 2, MET: 3, NOT_ASKED: 4}
    found = []
    for heading, some in bars.ALL:
        verdicts = [verdict(results, bar) for bar in some]
        found.append((heading, sorted(verdicts, key=lambda v: (order[v.verdict], -v.sort))))
    return found


def verdict(results, bar):
    """The Verdict of one bar."""
    kinds = {bars.Ratio: _ratio, bars.Limit: _limit, bars.Disk: _disk, bars.Memory: _memory}
    return dataclasses.replace(kinds[type(bar)](results, bar), held_by=bars.held_by(bar))


def places_of(bar):
    """The places that a bar is read off; of Memory those are all cells."""
    return [place for place in (getattr(bar, "mine", None), getattr(bar, "other", None)) if place]


def _cell(results, place):
    """The cell of a place, where it was asked for."""
    if place.contender not in results.contenders or place.scenario not in results.scenarios:
        return None
    return results.cell(place.scenario, place.contender, place.origin, place.image)


def _value(results, place):
    cell = _cell(results, place)
    return figure(cell, place.key) if cell else None


def _missing(results, bar, text):
    """The verdict where a figure is missing."""
    for place in places_of(bar):
        cell = _cell(results, place)
        if cell is None:
            return Verdict(bar.title, text, "", NOT_ASKED)
        if figure(cell, place.key) is None:
            if cell["status"] == "not yet":
                return Verdict(bar.title, text, f"not yet: {cell['reason']}", NOT_YET)
            why = " ".join(f"{place.contender}: {cell['status']}: {cell['reason']}".split())[:160]
            return Verdict(bar.title, text, why, NO_FIGURE)
    return Verdict(bar.title, text, "", NO_FIGURE)


def _ratio(results, bar):
    mine, other = _value(results, bar.mine), _value(results, bar.other)
    at_least = bar.least is not None
    limit = bar.least if at_least else bar.most
    text = f"{'at least' if at_least else 'at most'} {limit:.3g}"
    if mine is None or not other:
        return _missing(results, bar, text)
    ratio = mine / other
    good = ratio >= limit if at_least else ratio <= limit
    far = limit / ratio if at_least and ratio else ratio / limit
    return Verdict(bar.title, text, f"{ratio:.3g}", MET if good else MISSED, far)


def _limit(results, bar):
    value = _value(results, bar.mine)
    base = 0.0
    if bar.above and value is not None:
        base = figure(_cell(results, bar.mine), bar.above) or 0.0
    limit = bar.most + base
    text = f"at most {limit:.4g} {bar.unit}"
    if value is None:
        return _missing(results, bar, text)
    return Verdict(
        bar.title, text, f"{value:.4g} {bar.unit}", MET if value <= limit else MISSED, value / limit
    )


def _disk(results, bar):
    value = _value(results, bar.mine)
    blobs = results.document["images"].get(bar.mine.image, {}).get("estargz_bytes")
    text = f"at most {bar.most:.3g}"
    if value is None or not blobs:
        return _missing(results, bar, text)
    ratio = value / blobs
    return Verdict(bar.title, text, f"{ratio:.3g}", MET if ratio <= bar.most else MISSED, ratio / bar.most)


def _memory(results, bar):
    text = f"at most {bar.most:.0f} MiB"
    found = [
        (run["peak_memory"], cell)
        for cell in results.document["cells"]
        if is_crfs(cell["contender"]) and cell["image"] == bar.image
        for run in cell["runs"]
        if "peak_memory" in run
    ]
    if not found:
        return Verdict(bar.title, text, "", NOT_ASKED)
    highest, cell = max(found, key=lambda pair: pair[0])
    highest /= 1 << 20
    where = f"{highest:.0f} MiB ({cell['contender']}, {cell['scenario']}, {cell['origin']})"
    return Verdict(bar.title, text, where, MET if highest <= bar.most else MISSED, highest / bar.most)
