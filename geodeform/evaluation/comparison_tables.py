"""Tables of a comparison's report, and which method is the best one where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from geodeform.config import Size, TrainConfig
from geodeform.evaluation.comparison import (
    FEWEST_SEEDS,
    LEVEL,
    Cell,
    Comparison,
    Difference,
    EqualTime,
    Summary,
    difference_of,
    paired_difference,
)
from geodeform.evaluation.comparison_pages import Strong, Table, Text
from geodeform.evaluation.experiment import Experiment, Study, shown_size, training_key
from geodeform.evaluation.result import TOLERANCES, Evaluation
from geodeform.evaluation.timing import Clock, Times
from geodeform.evaluation.ways import WAYS

UNKNOWN = "\u2013"
EVERY_PIXEL = "every pixel"
UNTIMED = "Times were not measured side by side, so nothing is compared at equal time."
_MINUS = "\u2212"
_ZERO = "0.0"

Figure = Callable[[Evaluation], float]

MAPS: dict[str, Figure] = {
    "users' map": lambda one: one.miou,
    "nearest sample": lambda one: one.nearest.confusion.miou(),
    "deformed": lambda one: one.deformed.miou(),
    "intrinsic": lambda one: one.intrinsic.miou(),
    "intrinsic, nearest": lambda one: one.intrinsic_nearest.miou(),
}
"""Mean IoU of the maps that an evaluation scores."""

_BUSY = 0.85  # share of the wall-clock time; an idle machine gives a process about all of it
_BOLD = f"Bold: the interval leaves out 0, with {FEWEST_SEEDS} seeds or more."
_BETWEEN = " / "
_FIXED = "one density for all windows, measured on the training labels"

_HIDDEN = {
    "data.root", "data.cache", "data.workers", "data.classes", "data.val_items",
    "run.out", "run.seed", "run.device", "run.devices", "run.nodes", "run.strategy",
    "run.val_every", "run.val_windows", "run.panel_every", "run.checkpoint_every",
}  # fmt: skip
"""Settings that no table shows: of a machine, of one seed or held-out part, of what is written."""


def other_figures(widths: Sequence[int]) -> dict[str, Figure]:
    """Figures of the users' map beside mIoU.

    Args:
        widths: Of the trimaps, in pixels.
    """

    def boundary(k: int) -> Figure:
        return lambda one: one.soft.boundary[k].mean_f1()

    def trimap(k: int) -> Figure:
        return lambda one: float(one.soft.trimap.accuracy()[k])

    return {
        "accuracy": lambda one: one.soft.confusion.accuracy(),
        **{f"boundary F1, {name}": boundary(k) for k, name in enumerate(TOLERANCES)},
        **{f"trimap, {width} px": trimap(k) for k, width in enumerate(widths)},
        "ECE": lambda one: one.calibration.error(),
    }


def joined(words: Sequence[str]) -> str:
    """Words for a sentence.

    >>> joined(["a", "b", "c"]), joined(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


class Findings:
    """A comparison with what several tables and sentences ask of it.

    Attributes:
        comparison: As given.
        experiment: Its experiment.
        entries: All evaluations that this asks for.
        methods: Names of those that have a cell, no points of studies.
        budgets: Those at which methods are compared, rising.
        difference: Method, budget → as :meth:`Comparison.difference`, computed once.
        at_equal_time: Method, budget → as :meth:`Comparison.at_equal_time`, computed once.
    """

    def __init__(self, comparison: Comparison) -> None:
        experiment = comparison.experiment
        self.comparison = comparison
        self.experiment = experiment
        self.entries = experiment.entries()
        there = {name for name, _ in comparison.cells}
        self.methods = [
            name for name, one in experiment.methods.items() if name in there and not one.study
        ]
        self.budgets: list[Size] = sorted(
            {
                budget
                for name, budget in comparison.cells
                if name in self.methods
                and budget is not None
                and (name != experiment.baseline or budget in experiment.budgets)
            },
            key=math.prod,
        )
        self.difference = comparison.difference
        self.at_equal_time = comparison.at_equal_time

    @cached_property
    def clock(self) -> Clock:
        """The time that equal time is of."""
        return next(iter(self.comparison.cells.values())).clock

    @cached_property
    def times(self) -> list[Times]:
        """Times that were measured side by side, of all cells that have them."""
        cells = self.comparison.cells.values()
        return [cell.times for cell in cells if cell.times is not None]

    @cached_property
    def busy(self) -> float | None:
        """Processor time over wall-clock time where the machine did other work meanwhile.

        Wall-clock times say nothing then. None where they do, or where a GPU works, which a
        processor's time does not see.
        """
        if not self.times or self.clock != "processor":
            return None
        ratio = float(np.median([one.cpu_seconds / one.seconds for one in self.times]))
        return ratio if ratio < _BUSY else None

    @property
    def clocks(self) -> list[Clock]:
        """Those by which equal time is told: a user waits by the wall's, if it can be trusted."""
        if not self.comparison.timed:
            return []
        beside = self.clock == "processor" and self.busy is None
        return [self.clock, "wall-clock"] if beside else [self.clock]

    @cached_property
    def blocks(self) -> tuple[int, str]:
        """How many blocks the intervals draw, and what they are."""
        units = next(iter(self.comparison.cells.values())).evaluations[0].units
        items, together = len({unit.item for unit in units}), self.experiment.block_items
        if together > 1:
            runs = math.ceil(items / together)
            return runs, f"run{'' if runs == 1 else 's'} of {together} successive images"
        if len(units) == items:
            return items, "whole images"
        whole = items > len({unit.item for unit in units if unit.row or unit.column})
        return len(units), "blocks of about 1024 px" + (", smaller images whole" if whole else "")

    @cached_property
    def compared(self) -> int:
        """Differences with an interval that the tables have."""
        cells = [
            (name, cell.budget)
            for name in self.methods
            if name != self.experiment.baseline
            for cell in self.comparison.curve(name)
        ]
        known = [self.difference(*cell) for cell in cells]
        timed = [self.at_equal_time(*cell) for cell in cells]
        return sum(one is not None for one in (*known, *timed)) + sum(
            len(study_differences(self, study)) for study in self.experiment.studies
        )

    def cells(self, budget: Size | None) -> list[Cell]:
        """Cells of the methods at a budget, None for every pixel."""
        found = (self.comparison.cell(name, budget) for name in self.methods)
        return [cell for cell in found if cell is not None]

    def is_oracle(self, name: str) -> bool:
        """Whether a method sees the labels at test time."""
        return any(cell.oracle for cell in self.comparison.curve(name))

    def title(self, name: str) -> str:
        """What readers call a method, marked where it is an oracle."""
        title = self.experiment.methods[name].title
        return (
            f"{title} (oracle)" if self.is_oracle(name) and "oracle" not in title.lower() else title
        )

    def rivals(self, budget: Size) -> list[Cell]:
        """What is compared with the baseline: neither it nor an oracle."""
        return [
            cell
            for cell in self.cells(budget)
            if cell.method != self.experiment.baseline and not self.is_oracle(cell.method)
        ]

    @property
    def uneven(self) -> bool:
        """Whether not all methods have the same seeds, so that means are of different trainings."""
        return len({c.seeds for name in self.methods for c in self.comparison.curve(name)}) > 1

    def spread(self, cell: Cell, unit: str = "") -> str:
        """A cell's mIoU in per cent, with its number of seeds where that differs."""
        count = len(cell.seeds)
        seeds = f" ({count} seed{'' if count == 1 else 's'})" if self.uneven else ""
        return f"{spread(cell.miou)}{unit}{seeds}"

    def highest(self, cells: Sequence[Cell]) -> Cell | None:
        """The best one of some cells at one budget: by what seeds shared with the baseline say.

        Where the baseline has no result there, by their means.
        """
        base = self.experiment.baseline
        if not cells or self.comparison.cell(base, cells[0].budget) is None:
            heights = [cell.miou.mean for cell in cells]
        else:
            gains = [self.difference(cell.method, cell.budget) for cell in cells]
            heights = [math.nan if gain is None else gain.mean for gain in gains]
        known = [(h, c) for h, c in zip(heights, cells, strict=True) if not math.isnan(h)]
        return max(known, key=lambda pair: pair[0])[1] if known else None

    def best(self, budget: Size) -> Cell | None:
        """The best rival."""
        return self.highest(self.rivals(budget))

    def equal_accuracy(self, cell: Cell) -> float | None:
        """As :meth:`Comparison.equal_accuracy`.

        None where the difference at equal pixels is not sure, or the baseline has other seeds.
        """
        curve = self.comparison.curve(self.experiment.baseline)
        if cell.budget is None or any(one.seeds != cell.seeds for one in curve):
            return None
        difference = self.difference(cell.method, cell.budget)
        if difference is None or not difference.sure:
            return None
        return self.comparison.equal_accuracy(cell.method, cell.budget)

    def best_learned(self, budget: Size) -> Cell | None:
        """The best rival that learns where to sample; the best one where none does."""
        rivals = self.rivals(budget)
        learned = [cell for cell in rivals if learns(self.experiment, cell.method)]
        return self.highest(learned or rivals)

    def best_oracle(self, budget: Size) -> Cell | None:
        """The best oracle."""
        return self.highest([c for c in self.cells(budget) if self.is_oracle(c.method)])

    def share(self, budget: Size) -> float:
        """Sampled pixels over all pixels, of the first method there."""
        return self.cells(budget)[0].evaluations[0].cost.sampled_share

    def at(self, budget: Size) -> str:
        """A budget's name, with its share of the pixels."""
        return f"{shown_size(budget)} ({share(self.share(budget))} of the pixels)"


def miou_table(found: Findings) -> Table:
    """Full-resolution mIoU of the methods at the budgets: THE table."""
    columns: list[Size | None] = [*found.budgets]
    if found.cells(None):
        columns.append(None)
    best = {}
    for budget in columns:
        candidates = [c for c in found.cells(budget) if not found.is_oracle(c.method)]
        best[budget] = found.highest(candidates) if len(candidates) > 1 else None
    rows = []
    for name in found.methods:
        row: list[Text] = [found.title(name)]
        for budget in columns:
            cell = found.comparison.cell(name, budget)
            text = UNKNOWN if cell is None else found.spread(cell)
            row.append(Strong(text) if cell is not None and cell is best[budget] else text)
        rows.append(row)
    return Table(
        "Full-resolution mIoU of the map that users get, %",
        ["Method", *map(budget_name, columns)],
        [("", rows)],
        note=f"Columns: samples of a window. Mean{deviation(found.comparison)}. Bold: the highest "
        "of those that do not see the labels, whether or not the difference is sure (see "
        "\u201cDifference from the baseline\u201d)"
        + (", by the seeds that it shares with the baseline." if found.uneven else "."),
        brief=f"samples of a window; mean{deviation(found.comparison)}",
    )


def maps_table(found: Findings) -> Table:
    """MIoU of every map that an evaluation scores."""
    return _figures_table(
        found,
        MAPS,
        "mIoU of the maps, %",
        "Users' map: scores interpolated by the reverse map. Nearest sample: the paper's map. "
        "Deformed: at the samples, no map at all. Intrinsic: the labels themselves, sampled and "
        "mapped back, the bound that sampling sets.",
    )


def others_table(found: Findings) -> Table:
    """Figures of the users' map beside mIoU."""
    one = next(iter(found.comparison.cells.values())).evaluations[0]
    return _figures_table(
        found,
        other_figures(one.soft.trimap.widths),
        "Other figures of the users' map, %",
        "ECE: the lower the better; all others: the higher.",
    )


def difference_table(found: Findings) -> Table | None:
    """Differences from the baseline at equal pixels and at equal time; None without any."""
    groups: list[tuple[str, list[list[Text]]]] = []
    clocks = found.clocks
    for budget in (*found.budgets, None):
        rows: list[list[Text]] = []
        for cell in found.cells(budget):
            equal = found.difference(cell.method, budget)
            at_times = [found.at_equal_time(cell.method, budget, clock) for clock in clocks]
            if cell.method != found.experiment.baseline and (equal or any(at_times)):
                row = [found.title(cell.method), *_sides(equal)]
                rows.append(row + [text for one in at_times for text in _timed(one)])
        if rows:
            groups.append((budget_name(budget), rows))
    if not groups:
        return None
    level = f"{LEVEL:.0%}".replace("%", " %")
    head = ["Method", "equal pixels", f"{level} interval"]
    for clock in clocks:
        head += [f"equal {clock} time", f"{level} interval", "baseline's samples"]
    return Table(
        f"Difference from the baseline ({found.title(found.experiment.baseline)}), points of "
        "full-resolution mIoU",
        head,
        groups,
        group_head="Samples",
        note=f"{_BOLD} "
        + (
            "Equal time: the highest that the baseline reaches within the method's time, and with "
            "how many samples. \u2191: that time is longer than all of the baseline's, so with "
            "more samples it might do better than its best; nothing is called better there. "
            "\u2193: shorter than that of its smallest budget, which stands for it; nothing is "
            "called worse. Oracles have none: what they spend on labels nobody could."
            if clocks
            else UNTIMED
        ),
    )


def baseline_table(found: Findings) -> Table | None:
    """The baseline at all its budgets; None where it has no further ones."""
    curve = found.comparison.curve(found.experiment.baseline)
    if all(cell.budget in found.budgets for cell in curve):
        return None
    rows = [
        [
            budget_name(cell.budget),
            spread(cell.miou),
            share(cell.evaluations[0].cost.sampled_share),
            f"{cell.clocked():.3g}",
        ]
        for cell in curve
    ]
    timed = found.comparison.timed
    return Table(
        "The baseline at all its budgets" + (", by which equal time is found" if timed else ""),
        ["Samples", "mIoU, %", "share of pixels", f"{found.clock} s/MP"],
        [("", rows)],
        note=times_note(found)
        + (" For equal time, the longest up to each budget counts." if timed else "")
        + _untrained(found),
    )


def _untrained(found: Findings) -> str:
    """At which of its further budgets the baseline's networks were not trained."""
    experiment = found.experiment
    sizes = [
        budget
        for budget in experiment.baseline_budgets
        if budget
        not in experiment.config_of(
            experiment.baseline, experiment.folds[0], experiment.seeds[0], budget
        ).model.sizes
    ]
    if not sizes:
        return ""
    return (
        f" Its networks were not trained at {joined([shown_size(size) for size in sizes])}: ones "
        "that were might do better there."
    )


def cost_table(found: Findings) -> Table:
    """What the predictions cost."""
    budgets: list[Size | None] = [*found.budgets, None]
    groups = [
        (budget_name(budget), [[found.title(c.method), *_cost(c)] for c in found.cells(budget)])
        for budget in budgets
        if found.cells(budget)
    ]
    head = [
        "Method", "share of pixels", "GFLOP/MP", "wall-clock s/MP", "processor s/MP",
        "peak memory, MiB",
    ]  # fmt: skip
    return Table(
        "Cost of a megapixel of the scene (MP)",
        head,
        groups,
        group_head="Samples",
        note=f"{times_note(found)} Memory is the largest, of the whole process: libraries, network "
        "and the image in memory, too.",
    )


def sure_parts(
    differences: Sequence[Difference | EqualTime], beyond: int, *, of_intervals: bool
) -> list[str]:
    """How many differences are sure, and on which side of 0: parts of a sentence.

    Args:
        differences: Those that are counted.
        beyond: How many more are at a time outside the baseline's own.
        of_intervals: Whether to speak of intervals, or of differences with theirs.
    """
    noun = "interval" if of_intervals else "difference"
    enough = [one for one in differences if len(difference_of(one).values) >= FEWEST_SEEDS]
    n, few = len(enough), len(differences) - len(enough)
    parts = []
    if few:
        known = str(len(differences)) if of_intervals else counted(len(differences), noun)
        parts.append(f"{few} of {known} {'has' if few == 1 else 'have'} too few seeds to say")
    if enough:
        above = sum(one.better for one in enough)
        below = sum(one.worse for one in enough)
        single = 1 in (above, n)
        whole = "" if of_intervals else f" with {'its' if single else 'their'} whole interval"
        parts.append(
            f"{above} of {f'the other {n}' if few else counted(n, noun)} "
            f"{'lies' if single else 'lie'} above 0{whole}, {below} below, "
            f"{n - above - below} neither"
        )
    if beyond:
        parts.append(
            f"{beyond} {'more ' if parts else ''}{'is' if beyond == 1 else 'are'} at a time "
            "outside the baseline's own"
        )
    return parts


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "seed"), counted(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def times_note(found: Findings) -> str:
    """Where times come from."""
    if found.times:
        return (
            "Times: one network of each method, all on the same images turn by turn in a changing "
            f"order, median of {len(found.times[0].rounds)} rounds, without reading files."
        )
    return (
        "Times: of the evaluations, which ran one after another or beside other work, medians over "
        "the seeds, without reading files."
    )


def class_tables(found: Findings) -> list[Table]:
    """IoU of the classes at each budget: baseline, best learned method, best oracle."""
    tables = []
    for budget in found.budgets:
        base = found.comparison.cell(found.experiment.baseline, budget)
        others = [c for c in (found.best_learned(budget), found.best_oracle(budget)) if c]
        if base is None or not others:
            continue
        one = base.evaluations[0]
        shares = one.soft.confusion.frequencies()
        head = ["Class", "share of pixels", found.title(base.method)]
        for cell in others:
            head += [found.title(cell.method), "gain"]
        rows: list[list[Text]] = []
        for k in np.argsort(-shares, kind="stable"):
            row: list[Text] = [one.classes[k], share(float(shares[k])), spread(_iou(base, int(k)))]
            for cell in others:
                row += [spread(_iou(cell, int(k))), _gain(cell, base, int(k))]
            rows.append(row)
        tables.append(
            Table(
                f"IoU by class at {shown_size(budget)} samples, %",
                head,
                [("", rows)],
                note="Most frequent class first. Gain: over the baseline in points, mean over "
                "the seeds that both have.",
            )
        )
    return tables


def fold_table(found: Findings) -> Table | None:
    """Differences from the baseline on each held-out part; None without several parts."""
    experiment = found.experiment
    best = [cell for budget in found.budgets if (cell := found.best_learned(budget))]
    names = list(dict.fromkeys(cell.method for cell in best))
    groups = []
    for name in names if len(experiment.folds) > 1 else ():
        rows: list[list[Text]] = []
        for fold in experiment.folds:
            parts = [found.comparison.fold_difference(name, b, fold) for b in found.budgets]
            if any(parts):
                rows.append([", ".join(fold), *(_each(part) for part in parts)])
        pooled = [found.difference(name, budget) for budget in found.budgets]
        if any(pooled):
            values = [None if one is None else Summary(one.values) for one in pooled]
            rows.append(["all, pooled", *(_each(one) for one in values)])
        if rows:
            groups.append((found.title(name), rows))
    if not groups:
        return None
    return Table(
        "Difference from the baseline on each held-out part, points of full-resolution mIoU",
        ["Held out", *map(shown_size, found.budgets)],
        groups,
        group_head="Method",
        note="Mean over the seeds, and each seed. Parts that lack a class average over the others.",
    )


def study_differences(found: Findings, study: Study) -> dict[tuple[str, Size | None], Difference]:
    """Point, budget → its difference from the study's method, paired by seed.

    Without points that are the method itself.
    """
    differences = {}
    for name in study.points:
        for cell in found.comparison.curve(name):
            own = found.comparison.cell(study.method, cell.budget)
            if own is None or is_own(found.experiment, study, name, cell.budget):
                continue
            known = paired_difference(cell, [(1.0, own)], found.experiment.block_items)
            if known is not None:
                differences[name, cell.budget] = known
    return differences


def study_table(found: Findings, study: Study) -> Table | None:
    """A study's points beside the method that they vary; None where no point has a result."""
    comparison, experiment = found.comparison, found.experiment
    points = [cell for name in study.points for cell in comparison.curve(name)]
    differences = study_differences(found, study)
    groups = []
    for budget in sorted({c.budget for c in points}, key=lambda size: math.prod(size or (0,))):
        rows: list[list[Text]] = []
        own = comparison.cell(study.method, budget)
        there = [name for name in study.points if comparison.cell(name, budget) is not None]
        if own is not None and not any(is_own(experiment, study, n, budget) for n in there):
            rows.append([own_label(experiment, study, budget), *_study_cells(own, None)])
        for name, label in zip(study.points, study.labels, strict=True):
            cell = comparison.cell(name, budget)
            if cell is not None:
                mine = is_own(experiment, study, name, budget)
                said = f"{label} (the method's own)" if mine else label
                rows.append([said, *_study_cells(cell, differences.get((name, budget)))])
        groups.append((budget_name(budget), rows))
    if not groups:
        return None
    return Table(
        f"{study.title}, of \u201c{found.title(study.method)}\u201d",
        ["Value", "mIoU, %", "difference", f"{100 * LEVEL:.0f} % interval", "nearest sample, %",
         "intrinsic, %"],
        groups,
        group_head="Samples",
        note="Difference from the method as it is, in points of full-resolution mIoU, paired by "
        f"seed. {_BOLD}",
    )  # fmt: skip


def own_label(experiment: Experiment, study: Study, budget: Size | None) -> str:
    """What the method itself is called among the points of a study: by its own value."""
    keys = varied_settings(experiment, study, budget)
    if len(keys) != 1:
        return "as the method"
    own = settings_at(experiment, study.method, budget).get(keys.pop())
    return f"{plain_value(own)} (the method's own)"


def is_own(experiment: Experiment, study: Study, point: str, budget: Size | None) -> bool:
    """Whether a study's point is trained as the study's method is."""
    fold, seed = experiment.folds[0], experiment.seeds_of(study.method)[0]
    own, other = (experiment.config_of(n, fold, seed, budget) for n in (study.method, point))
    return training_key(own) == training_key(other)


def varied_settings(experiment: Experiment, study: Study, budget: Size | None) -> set[str]:
    """Dotted settings in which a study's points differ from its method."""
    own = settings_at(experiment, study.method, budget)
    points = [settings_at(experiment, name, budget) for name in study.points]
    return {key for point in points for key in point if point[key] != own.get(key)}


def methods_table(found: Findings) -> Table:
    """Every setting in which the methods differ, and how each samples."""
    experiment = found.experiment
    named = [one for one in experiment.methods.values() if not one.study]
    settings = {one.name: shown_settings(experiment, one.name) for one in named}
    keys = [
        key
        for key in dict.fromkeys(key for of in settings.values() for key in of)
        if len({of.get(key) for of in settings.values()}) > 1
    ]
    rows = []
    for one in named:
        network = experiment.methods[one.network_of].title if one.network_of else "its own"
        of = settings[one.name]
        own = "; ".join(f"{key}: {of[key]}" for key in keys if key in of)
        rows.append([one.title, way_title(experiment, one.name), network, own or "none"])
    return Table(
        "The methods, and all settings in which their networks differ",
        ["Method", "samples", "networks", "settings"],
        [("", rows)],
        note=slash_note(text for of in settings.values() for text in map(of.get, keys) if text),
        words=True,
    )


def way_of(experiment: Experiment, method: str) -> str:
    """How a method samples: a name of :data:`geodeform.evaluation.ways.WAYS`."""
    return next(e.trial.sampler for e in experiment.entries() if e.method == method)


def learns(experiment: Experiment, method: str) -> bool:
    """Whether a method samples where a network learned to, window by window."""
    return way_of(experiment, method) == "learned" and not _is_fixed(experiment, method)


def way_title(experiment: Experiment, method: str) -> str:
    """How a method samples, a phrase."""
    way = way_of(experiment, method)
    title = _FIXED if way == "learned" and _is_fixed(experiment, method) else WAYS[way].title
    by_need = experiment.methods[method].allocation == "need"
    return f"{title}; windows get what they need" if by_need else title


def _is_fixed(experiment: Experiment, method: str) -> bool:
    budget = experiment.budgets_of(method)[0]
    return trained_as(experiment, method, budget).model.sampler == "fixed"


def trained_as(experiment: Experiment, method: str, budget: Size | None) -> TrainConfig:
    """The recipe of the network that a method uses at a budget, of the first seed and part."""
    seed = experiment.seeds_of(method)[0]
    return experiment.config_of(method, experiment.folds[0], seed, budget)


def trained_recipes(experiment: Experiment, method: str) -> list[TrainConfig]:
    """:func:`trained_as` at the budgets at which methods are compared, rising."""
    budgets = experiment.budgets_of(method)
    if method == experiment.baseline:
        budgets = tuple(b for b in budgets if b in experiment.budgets) or budgets
    return [trained_as(experiment, method, budget) for budget in budgets]


def settings_at(experiment: Experiment, method: str, budget: Size | None) -> dict[str, Any]:
    """Dotted settings of :func:`trained_as` that say how the network was trained."""
    return _settings(trained_as(experiment, method, budget))


def shown_settings(experiment: Experiment, method: str) -> dict[str, str]:
    """Dotted settings of a method's networks, as recipes write them.

    Where the networks of the budgets differ, all values, such as "5.3 / 10.6".
    """
    each = [_settings(config) for config in trained_recipes(experiment, method)]
    shown = {}
    for key in dict.fromkeys(key for settings in each for key in settings):
        texts = [plain_value(of[key]) if key in of else UNKNOWN for of in each]
        shown[key] = _BETWEEN.join(texts) if len(set(texts)) > 1 else texts[0]
    return shown


def slash_note(texts: Iterable[str]) -> str:
    """What several values of a setting are, where there are such."""
    several = any(_BETWEEN in text for text in texts)
    return "Values with / between them: of the budgets' networks, rising." if several else ""


def _settings(config: TrainConfig) -> dict[str, Any]:
    idle = "optim.epochs" if config.optim.steps else "optim.steps"
    return {
        f"{part}.{key}": value
        for part, values in config.to_dict().items()
        for key, value in values.items()
        if f"{part}.{key}" not in _HIDDEN and f"{part}.{key}" != idle
    }


def plain_value(value: Any) -> str:
    """A setting as recipes write it.

    >>> plain_value([64, 64]), plain_value([[8, 9], [1, 2]]), plain_value(None), plain_value(10.0)
    ('64x64', '8x9, 1x2', 'null', '10')
    """
    if isinstance(value, list):
        if len(value) == 2 and all(isinstance(v, int) for v in value):
            return f"{value[0]}x{value[1]}"
        return ", ".join(plain_value(v) for v in value) or "none"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def budget_name(budget: Size | None) -> str:
    """Samples of a window; None is every pixel."""
    return EVERY_PIXEL if budget is None else shown_size(budget)


def percent(value: float) -> str:
    """A share in per cent, one digit.

    >>> percent(0.5708), percent(float("nan"))
    ('57.1', '–')
    """
    return UNKNOWN if math.isnan(value) else f"{100 * value:.1f}"


def spread(summary: Summary) -> str:
    """Mean ± standard deviation in per cent; the mean alone of one seed."""
    if math.isnan(summary.std):
        return percent(summary.mean)
    return f"{percent(summary.mean)} ± {percent(summary.std)}"


def points(value: float) -> str:
    """A difference in points, with its sign.

    >>> points(0.0123), points(-0.0041), points(-0.0001), points(float("nan"))
    ('+1.2', '−0.4', '0.0', '–')
    """
    return _signed(value, 1)


def share(value: float) -> str:
    """A share in per cent, two digits that say something.

    >>> share(0.0014), share(0.0219), share(0.34), share(1.77)
    ('0.14 %', '2.2 %', '34 %', '177 %')
    """
    hundredths = 100 * value
    few = 0 < hundredths < 10
    digits = 1 - math.floor(math.log10(hundredths)) if few else 0
    return f"{hundredths:.{digits}f} %"


def interval(difference: Difference) -> str:
    """Both ends of an interval, in points; an end next to 0 with as many digits as tell its side.

    >>> interval(Difference((0.01,), -0.0041, 0.0222)), interval(Difference((0.01,), 0.0002, 0.022))
    ('−0.4 to +2.2', '+0.02 to +2.2')
    """
    return " to ".join(
        next((text for d in (1, 2, 3) if (text := _signed(end, d)) != _ZERO), _ZERO)
        for end in (difference.low, difference.high)
    )


def _signed(value: float, digits: int) -> str:
    if math.isnan(value):
        return UNKNOWN
    text = f"{100 * value:+.{digits}f}"
    return _ZERO if float(text) == 0 else text.replace("-", _MINUS)


def deviation(comparison: Comparison) -> str:
    """What stands behind ±, where something does."""
    seeds = {len(cell.seeds) for cell in comparison.cells.values()}
    if max(seeds) == 1:
        return " of one seed"
    count = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else f"{max(seeds)}"
    return f" ± standard deviation over {count} seeds"


def _figures_table(found: Findings, figures: Mapping[str, Figure], title: str, note: str) -> Table:
    budgets: list[Size | None] = [*found.budgets, None]
    groups = [
        (
            budget_name(budget),
            [
                [found.title(c.method), *(spread(c.summary(f)) for f in figures.values())]
                for c in found.cells(budget)
            ],
        )
        for budget in budgets
        if found.cells(budget)
    ]
    return Table(title, ["Method", *figures], groups, group_head="Samples", note=note)


def _sides(one: Difference | EqualTime | None) -> list[Text]:
    """A difference and its interval; bold where it is surely better or worse."""
    if one is None:
        return [UNKNOWN, UNKNOWN]
    difference = difference_of(one)
    texts = [points(difference.mean), interval(difference)]
    return [Strong(text) for text in texts] if one.better or one.worse else [*texts]


def _timed(timed: EqualTime | None) -> list[Text]:
    if timed is None:
        return [UNKNOWN, UNKNOWN, UNKNOWN]
    mark = "\u2191" if timed.longer else "\u2193" if timed.shorter else ""
    return [*_sides(timed), f"{timed.samples:,.0f}{mark}"]


def _cost(cell: Cell) -> list[str]:
    """Share, GFLOP, seconds and processor seconds a megapixel, memory."""
    costs = [one.cost for one in cell.evaluations]
    memory = f"{max(cost.peak_memory_bytes for cost in costs) / 2**20:,.0f}"
    device = [c.device_memory_bytes for c in costs if c.device_memory_bytes is not None]
    if device:
        memory += f" and {max(device) / 2**20:,.0f} of the GPU"
    return [
        share(costs[0].sampled_share),
        f"{costs[0].flops_per_megapixel / 1e9:,.3g}",
        f"{cell.seconds_per_megapixel:.3g}",
        f"{cell.cpu_seconds_per_megapixel:.3g}",
        memory,
    ]


def _iou(cell: Cell, k: int) -> Summary:
    return cell.summary(lambda one: float(one.soft.confusion.iou()[k]))


def _gain(cell: Cell, base: Cell, k: int) -> str:
    seeds = [seed for seed in cell.seeds if seed in base.seeds]
    if not seeds:
        return UNKNOWN
    return points(_iou(cell.of_seeds(seeds), k).mean - _iou(base.of_seeds(seeds), k).mean)


def _each(summary: Summary | None) -> str:
    """A mean difference, and each seed's where there are several."""
    if summary is None:
        return UNKNOWN
    each = f" ({', '.join(map(points, summary.values))})" if len(summary.values) > 1 else ""
    return f"{points(summary.mean)}{each}"


def _study_cells(cell: Cell, difference: Difference | None) -> list[Text]:
    names = ("nearest sample", "intrinsic")
    return [
        spread(cell.miou),
        *_sides(difference),
        *(spread(cell.summary(MAPS[name])) for name in names),
    ]
