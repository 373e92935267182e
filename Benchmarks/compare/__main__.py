"""Compares crfs with lazy file systems, full pulls and local bounds on the same work.

usage: CRFS_BINARY=… python3 -m compare [quick|bench|full] [options]      (as root, in Benchmarks/)
       python3 -m compare compare-runs A.json B.json

The selections are lists of cells (selection.py): quick takes at most 10 minutes, bench at most 60, full as
long as it takes; check is what --self-check runs. The images come from `python3 -m compare images` (make
bench-image). Results are kept as JSON in the work directory, $CRFS_BENCH_DIR, else /var/tmp/crfs-bench, and a
full table goes into docs/benchmarks.md unless --no-document. compare-runs says which ratios of two runs differ
by more than 15 %."""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import sys
import time

from compare import agreement, charts, cleanup, delayproxy, facts, images, machine, origin, report
from compare import scenarios, selection, selfcheck, tools
from compare.contenders import ALL
from compare.progress import Durations
from compare.results import Results
from compare.runner import Runner, in_rounds, plans_of


def words(text):
    return [word for word in text.split(",") if word]


def parse():
    parser = argparse.ArgumentParser(
        prog="python3 -m compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        nargs="?",
        default="quick",
        choices=[*selection.SELECTIONS, "images", "report", "compare-runs"],
        help="a selection to run; images: build what is missing; report: write the document of --json again",
    )
    parser.add_argument("files", nargs="*", type=pathlib.Path, help="results of two runs, for compare-runs")
    parser.add_argument("--contenders", type=words, default=[], help="only these, comma-separated")
    parser.add_argument("--scenarios", type=words, default=[], help="only these, comma-separated")
    parser.add_argument(
        "--rtt",
        type=lambda text: [int(word) for word in words(text)],
        default=[],
        metavar="MS,…",
        help="only these round-trip times",
    )
    parser.add_argument("--image", type=words, default=[], help="only these images, comma-separated")
    parser.add_argument("--repeat", type=int, help="runs of each cell, instead of the selection's")
    parser.add_argument(
        "--minutes", type=float, help="when to end, instead of the selection's limit; what is left out then is listed"
    )
    parser.add_argument(
        "--json", type=pathlib.Path, help="write the results there too; with `report`: read them from there"
    )
    parser.add_argument(
        "--only-missing", action="store_true", help="run what has no figure in --json, and keep the rest"
    )
    parser.add_argument("--list", action="store_true", help="list the cells that would run, and end")
    parser.add_argument(
        "--no-document", action="store_true", help="print the tables, leave docs/benchmarks.md alone"
    )
    parser.add_argument(
        "--self-check", action="store_true", help="check this program itself on a tiny image, and end"
    )
    options = parser.parse_args()
    for given, known in (
        (options.contenders, [kind.name for kind in ALL]),
        (options.scenarios, scenarios.SCENARIOS),
        (options.image, images.names()),
    ):
        for name in given:
            if name not in known:
                parser.error(f"{name} is none of {', '.join(known)}")
    if len(options.files) != (2 if options.what == "compare-runs" else 0):
        parser.error("compare-runs takes the results of two runs")
    if (options.only_missing or options.what == "report") and not options.json:
        parser.error("--json must name the results")
    return options


def build_images(work, only):
    """Builds what is missing for a run: images (all, or those in `only`), packed bounds, contenders, charts."""
    images.build_all(work, tools.say, only)
    tools.build_probe(work)
    delayproxy.program(work)
    wanted = [images.load(work, name) for name in only or images.names()]
    for contender in (kind(work) for kind in ALL):
        reason = contender.unavailable()
        try:
            if not reason:
                tools.say(f"{contender.name}: preparing")
                contender.build()
                for image in wanted:
                    contender.prepare(image)
        except cleanup.Failed as problem:
            reason = str(problem)
        if reason:
            tools.say(f"{contender.name} will not run: {reason}")
    for image in wanted:
        facts.facts_of(image, work)
    charts.prepare(work, tools.say)
    tools.say("the images are complete")


def open_origin(work, kind):
    """An origin of the kind that a cell names."""
    return origin.Origin(work, rtt_ms=kind.rtt_ms, tls=kind.tls, cdn=kind.cdn, bandwidth=kind.bandwidth)


def document_of(runner, machine_facts, outcomes, options, minutes):
    """The results for machines."""
    contenders = {}
    for cell in (outcome.cell for outcome in outcomes):
        contender = runner.contenders[cell.contender]
        contenders[contender.name] = {
            "kind": contender.kind,
            "about": contender.about,
            "version": None if contender.unavailable() else contender.version(),
        }
    return {
        "selection": options.what,
        "repeat": runner.repeat,
        "minutes": round(minutes, 1),
        "command": machine.command(),
        "commit": machine.commit(),
        "commit_day": machine.commit_day(),
        "machine": machine_facts,
        "tools": machine.tool_versions(),
        "contenders": {kind.name: contenders[kind.name] for kind in ALL if kind.name in contenders},
        "scenarios": {
            name: {
                "title": scenario.title,
                "state": scenario.state,
                "unit": scenario.unit,
                "against": scenario.against,
                "more_is_better": scenario.more_is_better,
                "alone": scenario.alone,
            }
            for name, scenario in scenarios.SCENARIOS.items()
        },
        "images": {
            name: {
                "entries": image.facts["entries"],
                "file_bytes": image.facts["file_bytes"],
                "layers": len(image.layers),
                "blob_bytes": sum(layer["size"] for layer in image.layers),
                "estargz_bytes": sum(layer["size"] for layer in image.variant_layers["estargz"]),
            }
            for name, image in runner.images.items()
        },
        "cells": [outcome.as_json() for outcome in outcomes],
    }


def key_of(cell):
    """What names a cell in JSON."""
    return cell["scenario"], cell["contender"], cell["origin"], cell["image"]


def keep(document, kept):
    """Adds an earlier run's cells to a document, except those that were run again; its order comes first."""
    again = {key_of(cell): cell for cell in document["cells"]}
    document["cells"] = [again.pop(key_of(cell), cell) for cell in kept["cells"]] + list(again.values())
    document["minutes"] = round(document["minutes"] + kept["minutes"], 1)
    document["images"] = {**kept["images"], **document["images"]}
    found = {**kept["contenders"], **document["contenders"]}
    document["contenders"] = {kind.name: found[kind.name] for kind in ALL if kind.name in found}


def write_report(work, path, options):
    """Prints the tables, and writes them with charts into the document."""
    results = Results.read(path)
    if options.no_document:
        print(report.section(results))
    else:
        drawn = charts.draw_all(work, path, tools.ROOT / "docs/charts", tools.say)
        report.write(results, drawn)
        print(report.section(results, drawn))
        tools.say("written into docs/benchmarks.md")
    print("\n" + report.headline(results))


def list_cells(work, cells, chosen, repeat):
    """Prints the cells, and how long their visits took the last time."""
    for cell in cells:
        print(f"{cell.scenario:20} {cell.contender:18} {cell.origin.label:20} {cell.image}")
    durations, plans = Durations(work, chosen.jobs), in_rounds(plans_of(cells, repeat), repeat)
    seconds = sum(durations.expected(plan) for _, plan in plans)
    unknown = len({plan.key() for _, plan in plans if not durations.is_known(plan)})
    print(
        f"{len(cells)} cells, {len(plans)} visits in {repeat} runs, about {seconds / 60:.0f} minutes"
        + (f" ({unknown} visits are guesses)" if unknown else "")
    )


def run(work, options):
    chosen = selection.SELECTIONS[options.what]
    if options.minutes:
        chosen = dataclasses.replace(chosen, minutes=options.minutes)
    cells = selection.cells(chosen, options.contenders, options.scenarios, options.rtt, options.image)
    if options.list:
        return list_cells(work, cells, chosen, options.repeat or chosen.repeat)
    if not cells:
        raise SystemExit("compare: no cell of this selection matches the options")
    kept = {}
    if options.only_missing:
        kept = json.loads(options.json.read_text())
        there = {key_of(cell) for cell in kept["cells"] if cell["status"] == "ok"}
        cells = [
            cell
            for cell in cells
            if (cell.scenario, cell.contender, cell.origin.label, cell.image) not in there
        ]
    before = time.monotonic()
    runner = Runner(
        work,
        chosen,
        cells,
        lambda name: images.load(work, name),
        lambda kind: open_origin(work, kind),
        options.repeat,
    )
    machine_facts = machine.facts(work)
    outcomes = runner.run()
    document = document_of(runner, machine_facts, outcomes, options, (time.monotonic() - before) / 60)
    if kept:
        keep(document, kept)
    path = work / f"runs/{time.strftime('%Y-%m-%d-%H%M%S')}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    if options.json:
        shutil.copy(path, options.json)
    write_report(work, path, options)
    tools.say(f"results: {path}")


def main():
    options = parse()
    if options.list:
        return run(tools.work_directory(), options)
    if options.what == "compare-runs":
        return 1 if agreement.compare(*options.files) else 0
    if os.geteuid() != 0:
        raise SystemExit("compare: needs root: it mounts, and drops the kernel's caches")
    work = tools.work_directory()
    work.mkdir(parents=True, exist_ok=True)
    cleanup.install(work)
    try:
        if options.self_check:
            return selfcheck.run(work)
        if options.what == "images":
            return build_images(work, options.image)
        if options.what == "report":
            return write_report(work, options.json, options)
        run(work, options)
    except (cleanup.Failed, FileNotFoundError) as problem:
        raise SystemExit(f"compare: {problem}") from None


if __name__ == "__main__":
    sys.exit(main())
