"""Writes a run's results as text: into the terminal, and into docs/benchmarks.md between its markers."""

from compare import tools, verdicts
from compare.results import figure, is_crfs, spread

DOCUMENT = tools.ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- compare:begin (written by make bench and its like) -->", "<!-- compare:end -->"


def write(results, charts):
    """Puts the section of these results into docs/benchmarks.md; `charts` are (file, caption) below docs/."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{section(results, charts)}\n{END}{after}")


def section(results, charts=()):
    """The whole section in Markdown."""
    parts = [
        headline(results),
        *facts(results),
        "### Bars",
        bars(results),
        "### Where crfs loses",
        losses(results),
        "### Where crfs wins",
        wins(results),
    ]
    for image in dict.fromkeys(place[2] for place in results.places()):
        parts += [f"### Ratios, image `{image}`", RATIOS, ratios(results, image)]
    parts += [f"![{caption}]({file})" for file, caption in charts]
    parts += ["### Figures", absolute_note(results), figures(results)]
    missing = not_there(results)
    if missing:
        parts += ["### What has no figure", missing]
    return "\n\n".join(parts)


RATIOS = (
    "Each cell: cost of crfs / cost of the contender (below 1: crfs is better), and the contender's median "
    "in brackets. Local bounds were measured once for all origins."
)


def headline(results):
    """One line: how often crfs wins and loses."""
    counts = results.count()
    peers, bounds = counts["peers"], counts["bounds"]
    return (
        f"**crfs loses {peers['lost']}, wins {peers['won']} and ties {peers['even']} comparisons with lazy "
        f"file systems and full pulls; against local bounds it loses {bounds['lost']}, wins {bounds['won']}, "
        f"ties {bounds['even']}; {counts['not yet']} cells it cannot do yet, which count as "
        "lost.** A tie is a ratio within 5 %."
    )


def facts(results):
    """Machine, versions, command, commit."""
    document, machine = results.document, results.document["machine"]
    versions = [entry["version"] for entry in results.contenders.values() if entry.get("version")]
    images = "; ".join(
        f"`{name}`: {image['entries']:,} entries, {size(image['file_bytes'])} of files, "
        f"{image['layers']} layers, {size(image['blob_bytes'])} compressed"
        for name, image in document["images"].items()
    )
    return [
        f"Commit {document['commit']} of {document.get('commit_day') or 'an unknown day'}, selection "
        f"{document['selection']}, {document['repeat']} run(s) of "
        f"each cell, {document['minutes']:.0f} minutes on {machine['day']}, `{document['command']}`.",
        f"Machine: {machine['cores']} cores ({machine['processor']}), {size(machine['memory'])} of "
        f"memory, Linux {machine['kernel']}, {machine['filesystem']}, load {machine['load']} before.",
        f"Images: {images}.",
        "Versions: "
        + "; ".join(dict.fromkeys(versions))
        + "; "
        + "; ".join(f"{name} {version}" for name, version in document["tools"].items() if version)
        + ".",
    ]


def bars(results):
    """A table of what was to be reached, for each heading, the missed ones first."""
    parts = []
    for heading, found in verdicts.all_verdicts(results):
        met = sum(verdict.verdict == verdicts.MET for verdict in found)
        parts.append(f"{heading}: {met} of {len(found)} met.")
        rows = [
            [
                verdict.verdict,
                verdict.title,
                verdict.bar,
                verdict.measured,
                verdict.held_by if verdict.verdict == verdicts.MISSED else "",
            ]
            for verdict in found
            if verdict.verdict != verdicts.NOT_ASKED
        ]
        if rows:
            parts.append(_table(["", "what", "to reach", "measured", "what holds it"], rows))
        others = [verdict.title for verdict in found if verdict.verdict == verdicts.NOT_ASKED]
        if others:
            parts.append(f"Not in this run, whose list of cells is another: {'; '.join(others)}.")
    return "\n\n".join(parts)


def losses(results):
    """A row for each place where crfs loses to anybody, worst ratio first; then what it cannot do yet."""
    rows = _by_place(results, "lost", worst_first=True)
    text = (
        _table(["scenario", "image", "origin", "crfs", "loses to (ratio)"], rows)
        if rows
        else "Nowhere in this run."
    )
    later = {}
    for scenario, contender, origin, image, what in results.not_yet():
        later.setdefault((what, contender), []).append(f"{_title(results, scenario)} ({origin}, {image})")
    if later:
        text += "\n\nNot yet, and counted as lost:\n\n" + "\n".join(
            f"- `not yet: {what}` ({contender}): {'; '.join(places)}"
            for (what, contender), places in later.items()
        )
    return text


def wins(results):
    """The same for where it wins, the best ratio first."""
    rows = _by_place(results, "won", worst_first=False)
    return (
        _table(["scenario", "image", "origin", "crfs", "wins against (ratio)"], rows)
        if rows
        else "Nowhere in this run."
    )


def _by_place(results, verdict, worst_first):
    groups = {}
    for comparison in results.comparisons():
        if comparison.verdict() == verdict and not comparison.missing.startswith("not yet"):
            key = (comparison.scenario, comparison.image, comparison.origin, comparison.crfs)
            groups.setdefault(key, []).append(comparison)
    far = float("inf")
    rows = []
    for (scenario, image, origin, crfs), group in groups.items():
        group.sort(key=lambda c: far if c.ratio is None else c.ratio, reverse=worst_first)
        value = value_text(results, scenario, results.median(scenario, crfs, origin, image))
        against = ", ".join(
            f"{c.contender} {'failed' if c.ratio is None else ratio_text(c.ratio)}" for c in group
        )
        extreme = far if group[0].ratio is None else group[0].ratio
        rows.append((extreme, [_title(results, scenario), image, origin, f"{crfs}: {value}", against]))
    rows.sort(key=lambda row: row[0], reverse=worst_first)
    return [row for _, row in rows]


def ratios(results, image):
    """A table of the scenarios and origins of an image: crfs, and the ratio to every contender."""
    places = [place for place in results.places() if place[2] == image]
    others = [
        name
        for name in results.contenders
        if not is_crfs(name)
        and any(results.cell(scenario, name, origin, image) for scenario, origin, _ in places)
    ]
    rows = []
    for scenario, origin, _ in places:
        for crfs in filter(is_crfs, results.contenders):
            mine = results.cell(scenario, crfs, origin, image)
            if mine is None:
                continue
            shown = cell_text(results, scenario, mine)
            row = [_title(results, scenario), origin, f"{shown}" if crfs == "crfs" else f"{crfs}: {shown}"]
            for name in others:
                other = results.cell(scenario, name, origin, image)
                if other is None:
                    row.append("")
                elif figure(other) is None:
                    row.append(other["status"])
                else:
                    row.append(_ratio_cell(results, scenario, mine, other))
            rows.append(row)
    return _table(["scenario", "origin", "crfs", *others], rows)


def _ratio_cell(results, scenario, mine, other):
    ratio = results.ratio(scenario, figure(mine), figure(other))
    text = value_text(results, scenario, figure(other))
    if ratio:
        return f"{ratio_text(ratio)} ({text})"
    return f"({text})" if mine["status"] in ("left out", "unavailable") else f"lost ({text})"


def figures(results):
    """Every measured cell: median, lowest and highest, and what it cost."""
    rows = []
    for cell in results.document["cells"]:
        if cell["runs"]:
            cost = [
                _cost(cell, key, show)
                for key, show in (
                    ("requests", lambda n: f"{n:,.0f}"),
                    ("bytes", size),
                    ("cpu_seconds", lambda n: f"{n:.1f} s"),
                    ("peak_memory", size),
                    ("disk_bytes", size),
                    ("disk_ratio", lambda n: f"{n:.2f}"),
                )
            ]
            rows.append(
                [
                    _title(results, cell["scenario"]),
                    cell["image"],
                    cell["origin"],
                    cell["contender"],
                    cell_text(results, cell["scenario"], cell),
                    *cost,
                ]
            )
    return _table(
        [
            "scenario",
            "image",
            "origin",
            "contender",
            "median (lowest–highest)",
            "requests",
            "received",
            "CPU",
            "memory",
            "disk",
            "disk reads",
        ],
        rows,
    )


def absolute_note(results):
    """What the absolute figures are."""
    machine = results.document["machine"]
    return (
        f"Absolute figures of this machine on {machine['day']}; other machines and days give others. "
        "Requests and bytes are the origin's count since the mount or pull began; CPU, memory (highest RssAnon "
        "+ RssShmem, sampled every 20 ms) and disk are those of the contender's own processes and directories "
        "up to the end of the row. Disk reads: bytes that fio and the contender read from the disk for each byte "
        "that fio asked for."
    )


def not_there(results):
    """A list of the cells that failed, were left out or could not run, with reasons."""
    groups = {}
    for cell in results.document["cells"]:
        if cell["status"] not in ("ok", "not yet"):
            reason = " ".join(cell["reason"].split())[:300]
            groups.setdefault((cell["contender"], cell["status"], reason), []).append(
                f"{cell['scenario']} ({cell['origin']}, {cell['image']})"
            )
    return "\n".join(
        f"- {contender}, {status}: {reason} — {', '.join(places)}"
        for (contender, status, reason), places in groups.items()
    )


# Pieces of text.


def cell_text(results, scenario, cell):
    """Median (lowest–highest) of a cell, or why there is none."""
    value = figure(cell)
    if value is None:
        return f"{cell['status']}: {cell['reason']}" if cell["status"] == "not yet" else cell["status"]
    text = value_text(results, scenario, value)
    low, high = spread(cell)
    if len(cell["runs"]) > 1:
        text += f" ({number(low)}–{number(high)})"
    return text + (" (some runs failed)" if cell["status"] == "failed" else "")


def value_text(results, scenario, value):
    """A figure with its unit."""
    return "–" if value is None else f"{number(value)} {results.scenarios[scenario]['unit']}"


def ratio_text(ratio):
    """A ratio with two or three significant digits."""
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def number(value):
    """Three significant digits, thousands separated."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def size(value):
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if value >= scale:
            return f"{number(value / scale)} {unit}"
    return f"{value / 1e3:.0f} kB"


def _title(results, scenario):
    facts = results.scenarios[scenario]
    return f"{facts['title']} ({facts['state']})"


def _cost(cell, key, show):
    value = figure(cell, key)
    return "" if value is None else show(value)


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(field).replace("|", "\\|") for field in line) + " |" for line in lines
    )
