"""Draws a run's results as SVG with matplotlib, which lives in a virtual environment in the work directory.

usage: python charts.py RESULTS.json DIRECTORY     (by that environment's Python)

Prints `file<TAB>caption` for each chart.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys

WANTED = "matplotlib==3.8.4"
COLOURS = {"lazy": "#8da0cb", "pull": "#fc8d62", "bound": "#b3b3b3"}
CRFS = "#1b7f5c"
# File, title, scenarios; each scenario and origin is a panel, contenders are bars.
CHARTS = (
    ("serve", "until the mount serves, or the pull is done", ("serve",)),
    ("python", "python imports from nothing, mount or pull included", ("python",)),
    ("read-all", "reading every file from nothing, mount or pull included", ("read-all",)),
    ("metadata", "find and ls -lR", ("find-cold", "ls-cold", "ls-warm")),
)


def install(work, say):
    """Installs matplotlib into the work directory where it is not there; returns its Python there."""
    python = work / "venv/bin/python"
    if not (work / "venv/complete").exists():
        say("installing matplotlib into the work directory")
        subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True, capture_output=True)
        subprocess.run([python, "-m", "pip", "install", "-q", WANTED], check=True, capture_output=True)
        (work / "venv/complete").touch()
    return python


def prepare(work, say):
    """Installs matplotlib ahead of a run; without it there will be no charts."""
    try:
        install(work, say)
    except (OSError, subprocess.CalledProcessError) as problem:
        say(f"there will be no charts: {getattr(problem, 'stderr', None) or problem}")


def draw_all(work, results_file, directory, say):
    """Draws all charts; returns (file below docs/, caption) of each, none where matplotlib cannot be had."""
    try:
        command = [install(work, say), __file__, results_file, directory]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as problem:
        say(f"no charts: {getattr(problem, 'stderr', None) or problem}")
        return []
    return [tuple(line.split("\t")) for line in output.splitlines()]


def panels(document, scenarios):
    """(scenario, origin) -> [(contender, kind, median, lowest, highest)] of `main` or the first image."""
    images = [cell["image"] for cell in document["cells"]]
    image = "main" if "main" in images else images[0]
    found = {}
    for scenario in scenarios:
        cells = [
            cell
            for cell in document["cells"]
            if cell["scenario"] == scenario and cell["image"] == image and cell["runs"]
        ]
        local = [cell for cell in cells if cell["origin"] == "local"]
        for origin in dict.fromkeys(cell["origin"] for cell in cells if cell["origin"] != "local"):
            for cell in [*(c for c in cells if c["origin"] == origin), *local]:
                values = [run["value"] for run in cell["runs"]]
                found.setdefault((scenario, origin), []).append(
                    (
                        cell["contender"],
                        document["contenders"][cell["contender"]]["kind"],
                        statistics.median(values),
                        min(values),
                        max(values),
                    )
                )
    return found


def draw(document, name, title, scenarios, directory):
    """One chart; False where the run has no figures for it."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "crfs", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot

    found = panels(document, scenarios)
    if not found:
        return False
    heights = [len(bars) for bars in found.values()]
    figure, axes = matplotlib.pyplot.subplots(
        len(found),
        1,
        figsize=(7, 0.6 * len(found) + 0.24 * sum(heights) + 0.5),
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for axis, ((scenario, origin), bars) in zip(axes[:, 0], found.items()):
        values = [bar[2] for bar in bars]
        errors = [[bar[2] - bar[3] for bar in bars], [bar[4] - bar[2] for bar in bars]]
        colours = [CRFS if bar[0].startswith("crfs") else COLOURS[bar[1]] for bar in bars]
        axis.barh([bar[0] for bar in bars], values, xerr=errors, color=colours, error_kw={"elinewidth": 0.8})
        for place, value in enumerate(values):
            axis.annotate(
                f"{value:.3g}", (value, place), (5, 0), textcoords="offset points", va="center", fontsize=8
            )
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.set_title(
            f"{document['scenarios'][scenario]['title'].replace('`', '')}, {origin}", fontsize=9, loc="left"
        )
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    axes[-1, 0].set_xlabel(
        f"seconds, logarithmic; machine and day of the table ({document['machine']['day']})"
    )
    figure.suptitle(title, fontsize=10)
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    matplotlib.pyplot.close(figure)
    return True


def main():
    document = json.loads(pathlib.Path(sys.argv[1]).read_text())
    directory = pathlib.Path(sys.argv[2])
    os.makedirs(directory, exist_ok=True)
    for name, title, scenarios in CHARTS:
        if draw(document, name, title, scenarios, directory):
            print(f"charts/{name}.svg\t{title}")


if __name__ == "__main__":
    main()
