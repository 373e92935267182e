"""Two runs of the same commit, side by side: which ratios differ by more than they may."""

import math

from compare.results import Results

ALLOWED = 0.15


def compare(first, second, say=print):
    """Prints the ratios of crfs to others that differ by more than ALLOWED; returns how many do."""
    one, two = Results.read(first), Results.read(second)
    for name in ("commit", "selection"):
        if one.document[name] != two.document[name]:
            say(f"the runs are of another {name}: {one.document[name]} and {two.document[name]}")
    pairs = list(_pairs(one, two))
    apart = sorted((pair for pair in pairs if pair[0] > ALLOWED), reverse=True)
    for difference, place, before, after in apart:
        say(f"{difference:5.0%}  {place}: {before:.3g} and {after:.3g}")
    share = len(apart) / len(pairs) if pairs else 0
    middle = sorted(pair[0] for pair in pairs)[len(pairs) // 2] if pairs else 0
    say(
        f"{len(apart)} of {len(pairs)} ratios ({share:.0%}) differ by more than {ALLOWED:.0%}; "
        f"the median difference is {middle:.1%}"
    )
    return len(apart)


def _pairs(one, two):
    """(difference, place, ratio, ratio) of every comparison that both runs have."""
    ratios = {_key(comparison): comparison.ratio for comparison in two.comparisons() if comparison.ratio}
    for comparison in one.comparisons():
        other = ratios.get(_key(comparison))
        if comparison.ratio and other:
            difference = math.exp(abs(math.log(comparison.ratio / other))) - 1
            yield difference, " ".join(_key(comparison)), comparison.ratio, other


def _key(comparison):
    return (
        comparison.scenario,
        f"({comparison.origin}, {comparison.image})",
        comparison.crfs,
        "/",
        comparison.contender,
    )
