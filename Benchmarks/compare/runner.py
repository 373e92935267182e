"""Runs the cells: a visit at a time, contenders in turns, whatever fails recorded with its reason."""

import contextlib
import dataclasses

from compare import cleanup, facts, scenarios, tools
from compare.contenders import ALL, base
from compare.progress import Durations, Progress
from compare.selection import LOCAL
from compare.visit import Visit
from compare.visits import VISITS

OK, FAILED, NOT_YET, LEFT_OUT, UNAVAILABLE = "ok", "failed", "not yet", "left out", "unavailable"


@dataclasses.dataclass
class Outcome:
    """What became of a cell; `runs` are the measurements, dictionaries with at least `value`."""

    cell: object
    status: str = LEFT_OUT
    reason: str = "the time of this selection was over"
    runs: list = dataclasses.field(default_factory=list)

    def as_json(self):
        return {
            "scenario": self.cell.scenario,
            "contender": self.cell.contender,
            "origin": self.cell.origin.label,
            "image": self.cell.image,
            "status": self.status,
            "reason": self.reason,
            "runs": self.runs,
        }


@dataclasses.dataclass(frozen=True)
class Plan:
    """One visit to make: its cells' scenarios are measured from one mount; in `rounds` of the rounds."""

    visit: str
    contender: str
    origin: object
    image: str
    rounds: int
    scenarios: tuple

    def key(self):
        return f"{self.visit} {'+'.join(self.scenarios)} {self.contender} {self.origin.label} {self.image}"


class Runner:
    """Runs a selection's cells; `load_image(name)` gives an image, `open_origin(kind)` an origin."""

    def __init__(self, work, selection, cells, load_image, open_origin, repeat=None):
        self.work, self.selection, self.repeat = work, selection, repeat or selection.repeat
        self.load_image, self.open_origin = load_image, open_origin
        self.contenders = {kind.name: kind(work) for kind in ALL}
        self.outcomes = {cell: Outcome(cell) for cell in cells}
        self.images = {}
        self.deadline = None

    def run(self):
        """Runs everything; returns the outcomes in the order of the cells."""
        tools.build_probe(self.work)
        self._rule_out()
        # What was missing was built; the time counts from here.
        self.deadline = tools.monotonic() + self.selection.minutes * 60 if self.selection.minutes else None
        plans = self._plans()
        rounds = in_rounds(plans, self.repeat)
        durations = Durations(self.work, self.selection.jobs)
        progress = Progress(durations, [plan for _, plan in rounds], self.deadline)
        with contextlib.ExitStack() as stack:
            origins = {LOCAL: None}
            for number, plan in rounds:
                if self._is_over(progress):
                    progress.done(None)
                    continue
                if plan.origin not in origins:
                    origins[plan.origin] = stack.enter_context(self.open_origin(plan.origin))
                progress.show(
                    f"{' '.join(plan.scenarios)}, {plan.contender}, {plan.origin.label}, {plan.image}, "
                    f"run {number + 1} of {self.repeat}"
                )
                before = tools.monotonic()
                complete = self._visit(plan, origins[plan.origin])
                progress.done(tools.monotonic() - before if complete else None)
            progress.finish()
        return list(self.outcomes.values())

    def image(self, name):
        """An image with its facts, loaded once."""
        if name not in self.images:
            image = self.load_image(name)
            image.facts = facts.facts_of(image, self.work)
            self.images[name] = image
        return self.images[name]

    def _rule_out(self):
        """Settles the cells that cannot run: absent contenders and images, what crfs does not have yet."""
        for contender in self.contenders.values():
            mine = [outcome for cell, outcome in self.outcomes.items() if cell.contender == contender.name]
            if not mine:
                continue
            reason = contender.unavailable()
            try:
                if not reason:
                    contender.build()
            except cleanup.Failed as problem:
                reason = f"cannot be built: {problem}"
            for outcome in mine:
                if reason:
                    outcome.status, outcome.reason = UNAVAILABLE, reason
                elif not_yet := contender.not_yet(scenarios.SCENARIOS[outcome.cell.scenario]):
                    outcome.status, outcome.reason = NOT_YET, not_yet
        for outcome in self.outcomes.values():
            if outcome.status == LEFT_OUT:
                try:
                    self.contenders[outcome.cell.contender].prepare(self.image(outcome.cell.image))
                except (OSError, cleanup.Failed) as problem:
                    outcome.status, outcome.reason = UNAVAILABLE, f"{outcome.cell.image}: {problem}"

    def _plans(self):
        """The visits of the cells that can run, in order."""
        return plans_of([cell for cell, outcome in self.outcomes.items() if outcome.status == LEFT_OUT], self.repeat)

    def _is_over(self, progress):
        """Whether the next visit would end after the selection's time."""
        return self.deadline is not None and tools.monotonic() + progress.expected() > self.deadline

    def _visit(self, plan, origin):
        """Makes a visit; returns whether it has all its figures."""
        contender, image = self.contenders[plan.contender], self.image(plan.image)
        limit = tools.monotonic() + self.selection.cell_seconds
        visit = Visit(
            self.work,
            contender,
            image,
            origin,
            set(plan.scenarios),
            min(limit, (self.deadline or limit) + 20),
            self.selection.fio_seconds,
            self.selection.jobs,
        )
        problem, status = None, FAILED
        try:
            VISITS[plan.visit](visit)
        except base.NotYet as lacking:
            problem, status = str(lacking), NOT_YET
        except (cleanup.Failed, OSError, ValueError, KeyError) as error:
            problem = str(error) if isinstance(error, cleanup.Failed) else f"{type(error).__name__}: {error}"
        finally:
            contender.forget()
        for name in plan.scenarios:
            outcome = self.outcomes[self._cell(plan, name)]
            if name in visit.results:
                outcome.runs.append(visit.results[name])
                if outcome.status != FAILED:
                    outcome.status, outcome.reason = OK, ""
            elif self.deadline is None or tools.monotonic() < self.deadline:
                outcome.status, outcome.reason = status, problem or "no figure"
        return not problem

    def _cell(self, plan, name):
        for cell in self.outcomes:
            if (cell.scenario, cell.contender, cell.origin, cell.image) == (
                name,
                plan.contender,
                plan.origin,
                plan.image,
            ):
                return cell
        raise KeyError(name)


def plans_of(cells, repeat):
    """The visits of cells, in order. A cell that another run of the selection measures fewer times says so."""
    kinds, groups = {kind.name: kind for kind in ALL}, {}
    for cell in cells:
        visit = scenarios.visit_of(scenarios.SCENARIOS[cell.scenario], kinds[cell.contender])
        key = (visit, cell.contender, cell.origin, cell.image, min(cell.rounds or repeat, repeat))
        groups.setdefault(key, []).append(cell.scenario)
    return [Plan(*key, tuple(names)) for key, names in groups.items()]


def in_rounds(plans, repeat):
    """(round, plan) of all visits, in the order in which they run."""
    return [
        (number, plan)
        for number in range(repeat)
        for plan in _in_turns([plan for plan in plans if number < plan.rounds], number)
    ]


def _in_turns(plans, number):
    """The plans of one round in order; those that stand together for one visit change places each round.

    Bounds, which have no origin, belong to the origin before them.
    """
    groups, last = [], None
    for plan in plans:
        place = (plan.visit, plan.image)
        if not groups or last[0] != place or plan.origin not in (LOCAL, last[1]):
            groups.append([])
            last = place, plan.origin
        groups[-1].append(plan)
    return [plan for group in groups for plan in group[number % len(group) :] + group[: number % len(group)]]
