"""Report of a comparison: one HTML page, one Markdown page with pictures, a CSV and a JSON file.

Every sentence about results is computed here from the data. Nothing is called better or worse
where its interval holds 0 or rests on fewer than three seeds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from geodeform.config import TrainConfig
from geodeform.errors import OutputError
from geodeform.evaluation.campaign import Work
from geodeform.evaluation.comparison import (
    FEWEST_SEEDS,
    LEVEL,
    RESAMPLES,
    Cell,
    Comparison,
    Difference,
    EqualTime,
    difference_of,
    paired_difference,
)
from geodeform.evaluation.comparison_data import results_csv, results_json
from geodeform.evaluation.comparison_pages import (
    Bullets,
    Code,
    Document,
    Figure,
    Paragraph,
    Part,
    Section,
    Table,
    html_page,
    markdown_page,
    png,
)
from geodeform.evaluation.comparison_tables import (
    UNTIMED,
    Findings,
    baseline_table,
    class_tables,
    cost_table,
    counted,
    difference_table,
    fold_table,
    interval,
    joined,
    maps_table,
    methods_table,
    miou_table,
    others_table,
    plain_value,
    points,
    share,
    shown_settings,
    slash_note,
    study_table,
    sure_parts,
    times_note,
    trained_as,
    trained_recipes,
)
from geodeform.evaluation.experiment import Entry, shown_size
from geodeform.evaluation.panel_store import PANELS, panels_json
from geodeform.evaluation.panels import Panel
from geodeform.evaluation.result import TOLERANCES, Evaluation
from geodeform.geo.outputs import OutputSet
from geodeform.training.datasets.base import listed
from geodeform.training.datasets.registry import DATASETS

PICTURES = "pictures"
_PANELS = f"{PICTURES}/{PANELS}"
_GREEK = re.compile(r"GREEK (?:SMALL|CAPITAL) LETTER (?:FINAL )?([A-Z]+)")
_LEVEL = f"{100 * LEVEL:.0f} %"

_CHARTS_OF = {
    "miou": ("Accuracy and cost", "mIoU at each budget"),
    "maps": ("Intrinsic and full-resolution mIoU",),
    "difference": ("Difference from the baseline",),
    "classes": ("Gain by class", "Class frequency in the samples"),
    "others": ("Accuracy near borders", "Confidence and accuracy"),
}  # titles of geodeform.evaluation.charts, beside the tables that they belong to


def write_comparison(
    comparison: Comparison,
    results: Mapping[Entry, Evaluation],
    folder: Path,
    *,
    figures: Sequence[Panel],
    panels: Sequence[Panel],
    command: str,
    works: Sequence[Work],
    no_panels: str = "",
) -> list[Path]:
    """Write a report into a folder: all of its files, or none.

    The files are ``report.html``, which needs nothing else, ``report.md`` with the pictures in
    ``pictures/``, ``results.csv`` and ``results.json``; and ``pictures/panels.json`` where there
    are panels, for :func:`geodeform.evaluation.panel_store.kept_panels`. Those of an older report
    are replaced; whatever else lies there stays.

    Args:
        comparison: With at least one cell.
        results: The evaluations that it was made from.
        folder: It is made where it does not exist.
        figures: Charts, see :func:`geodeform.evaluation.charts.charts`. Each goes to the table of
            the same figures.
        panels: Pictures of what methods see and map.
        command: Makes the report again.
        works: The experiment's networks.
        no_panels: Why there are no panels, a sentence that then stands in their place.

    Returns:
        The files, the HTML page first.

    Raises:
        OutputError: If a file cannot be written.
        ConfigError: If evaluations that belong together are of different images.
    """
    found = Findings(comparison)
    document = _document(found, figures, panels, command, works, no_panels)
    names = [
        f"{PICTURES}/{k:02d}-{_slug(one.title)}.png" for k, one in enumerate(document.pictures(), 1)
    ]
    contents = {
        "report.html": html_page(document).encode(),
        "report.md": markdown_page(document, names).encode(),
        "results.csv": results_csv(found, results).encode(),
        "results.json": results_json(found).encode(),
    }
    contents |= {
        name: png(one.picture) for name, one in zip(names, document.pictures(), strict=True)
    }
    if panels:  # the last pictures of the document
        files = [Path(name).name for name in names[-len(panels) :]]
        contents[_PANELS] = panels_json(panels, files).encode()
    try:
        (folder / PICTURES if names else folder).mkdir(parents=True, exist_ok=True)
        former = _pictures_of(folder / "report.md") | {_PANELS}
        with OutputSet(overwrite=True) as outputs:
            for name, content in contents.items():
                path = folder / name
                outputs.add(path, suffixes=(path.suffix,)).write_bytes(content)
    except OSError as error:
        raise OutputError(f"Cannot write the report {folder} ({error.strerror}).") from error
    for name in former - contents.keys():
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in contents]


def _slug(title: str) -> str:
    """A title as part of a file's name; Greek letters, which name settings, are spelled out."""
    spelled = (
        letter.group(1) if (letter := _GREEK.match(unicodedata.name(one, ""))) else one
        for one in title
    )
    return re.sub(r"[^a-z0-9]+", "-", "".join(spelled).lower()).strip("-")[:40]


def _pictures_of(page: Path) -> set[str]:
    """Pictures that an older report has."""
    if not page.is_file():
        return set()
    text = page.read_text(encoding="utf-8", errors="replace")
    return set(re.findall(rf"^!\[.*\]\(({PICTURES}/\d\d-[a-z0-9-]*\.png)\)$", text, re.MULTILINE))


def _document(
    found: Findings,
    charts: Sequence[Panel],
    panels: Sequence[Panel],
    command: str,
    works: Sequence[Work],
    no_panels: str,
) -> Document:
    """Everything that the pages say, in order."""
    experiment = found.experiment
    left = list(charts)

    def take(*titles: str, also: str | None = None) -> list[Figure]:
        taken = [p for p in left if p.title in titles or (also and p.title.startswith(also))]
        left[:] = [one for one in left if one not in taken]
        return [Figure(one.title, one.caption, one.figure) for one in taken]

    studies = [
        (study, table)
        for study in experiment.studies
        if (table := study_table(found, study)) is not None
    ]
    of = {key: take(*titles) for key, titles in _CHARTS_OF.items()}
    of |= {one.title: take(one.title, also=f"{one.title}: classes") for one, _ in studies}
    sections = [
        Section("What came out", _outcome(found)),
        Section("Full-resolution mIoU", [miou_table(found), *of["miou"]]),
        Section("Other maps", [maps_table(found), *of["maps"]]),
        Section(
            "Difference from the baseline",
            [*_tables(difference_table(found), baseline_table(found)), *of["difference"]],
        ),
        Section("Cost", [cost_table(found)]),
        Section("Classes", [*class_tables(found), *of["classes"]]),
        Section("Held-out parts", _tables(fold_table(found))),
        Section("Borders and confidence", [others_table(found), *of["others"]]),
        *(Section(study.title, [table, *of[study.title]]) for study, table in studies),
        Section("Further charts", [Figure(p.title, p.caption, p.figure) for p in left]),
        Section(
            "What the methods see and map",
            [
                *(Figure(p.title, p.caption, p.figure, drawing=False) for p in panels),
                *([Paragraph(no_panels)] if no_panels else []),
            ],
        ),
        Section("How it was measured", _method(found)),
    ]
    return Document(
        experiment.title,
        [*_opening(found, works), Code(command)],
        [section for section in sections if section.parts],
    )


def _tables(*tables: Table | None) -> list[Part]:
    return [table for table in tables if table is not None]


# --- the opening -------------------------------------------------------------------------------


def _opening(found: Findings, works: Sequence[Work]) -> list[Part]:
    experiment, comparison = found.experiment, found.comparison
    evaluations = [one for cell in comparison.cells.values() for one in cell.evaluations]
    name = _trained(found).data.dataset
    dataset = DATASETS[name].info.title
    items = tuple(dict.fromkeys(item for one in evaluations for item in one.items))
    megapixels = evaluations[0].cost.scene_pixels / 1e6
    names = sorted({one.architecture for one in evaluations})
    windows = sorted({size[:2] for one in evaluations if one.sampler != "full"
                      for size in one.sizes})  # fmt: skip
    budgets = joined([found.at(budget) for budget in found.budgets])
    networks = (
        "one network serves all budgets"
        if experiment.networks == "shared"
        else "each budget has a network of its own"
    )
    if experiment.baseline_networks != experiment.networks and experiment.baseline_budgets:
        networks += (
            ", and the baseline has ones of its own where it is evaluated besides"
            if experiment.baseline_networks == "own"
            else ", which serves the baseline at the nearest of its further budgets, too"
        )
    rest = "; studies vary single settings" if experiment.studies else ""
    said = [
        f"{counted(len(found.methods), 'method')} on the dataset {name} ({dataset}), "
        f"{_length(found)}. The segmenter is {joined(names)}; {networks}{rest}.",
        f"Evaluated on {counted(len(items), 'item')} ({experiment.split}: {listed(items)}; "
        f"{megapixels:,.1f} megapixels)"
        + (
            f", each held out whole from training in one of {len(experiment.folds)} parts"
            if len(experiment.folds) > 1
            else ""
        )
        + (f", with {budgets} samples" if budgets else "")
        + (f" a window of {joined([shown_size(w) for w in windows[:3]])} px" if windows else "")
        + (f" and {len(windows) - 3} other sizes" if len(windows) > 3 else "")
        + ".",
        _seeds(found),
        f"Made by geodeform {', '.join(sorted({one.version for one in evaluations}))} on "
        f"{joined(sorted({one.cost.device for one in evaluations}))}.",
    ]
    parts: list[Part] = [Paragraph(experiment.about)] if experiment.about else []
    parts.append(Paragraph(" ".join(said)))
    if comparison.missing:
        done = sum(work.is_done() for work in works)
        parts.append(
            Paragraph(
                f"Partial: {comparison.missing} of {len(found.entries)} evaluations are "
                f"missing ({done} of {len(works)} networks are done). Seeds that lack a held-out "
                "part, and methods without a seed, are left out."
            )
        )
    parts.append(Paragraph("The command that makes it:"))
    return parts


def _trained(found: Findings) -> TrainConfig:
    """A recipe by which something here was trained, for what all have in common."""
    cell = next(iter(found.comparison.cells.values()))
    return trained_as(found.experiment, cell.method, cell.budget)


def _length(found: Findings) -> str:
    """How long the methods were trained."""
    recipes = [one for name in found.methods for one in trained_recipes(found.experiment, name)]
    optims = [one.optim for one in recipes or [_trained(found)]]
    lengths = dict.fromkeys(
        f"{one.steps:,} step{'' if one.steps == 1 else 's'}"
        if one.steps
        else f"{one.epochs:g} epoch{'' if one.epochs == 1 else 's'}"
        for one in optims
    )
    sizes = dict.fromkeys(str(one.batch_size) for one in optims)
    windows = "window" if list(sizes) == ["1"] else "windows"
    which = " (see \u201cHow it was measured\u201d)" if max(len(lengths), len(sizes)) > 1 else ""
    return f"trained for {' or '.join(lengths)} with {' or '.join(sizes)} {windows} a step{which}"


def _seeds(found: Findings) -> str:
    seeds = sorted({seed for cell in found.comparison.cells.values() for seed in cell.seeds})
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): nothing here says how other trainings would come out."
    fewest = min(len(cell.seeds) for cell in found.comparison.cells.values())
    some = "" if fewest == len(seeds) else f", of some only {fewest}"
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))}){some}."


# --- what came out -----------------------------------------------------------------------------


def _outcome(found: Findings) -> list[Part]:
    items = [_at_budget(found, budget) for budget in found.budgets]
    return [
        Bullets([item for item in [_count(found), *items, _every_pixel(found)] if item]),
        Paragraph(
            f"Differences are points of full-resolution mIoU, with {_LEVEL} intervals."
            + _corrections(found)
            + (
                " Methods have different numbers of seeds here: differences are of the seeds that "
                "both sides have, and means of different seeds are no comparison."
                if found.uneven
                else ""
            )
        ),
        *_timing(found),
    ]


def _corrections(found: Findings) -> str:
    """How many comparisons are made, none of which is corrected for their number."""
    if not found.compared:
        return ""
    return (
        f" {counted(found.compared, 'comparison')} {'is' if found.compared == 1 else 'are'} made "
        "in the tables and none is corrected for that, nor for the choice of the highest method of "
        "a budget, by the same figures."
    )


def _count(found: Findings) -> str:
    """How many differences are sure, at equal pixels and at equal time."""
    said = []
    rivals = [cell for budget in found.budgets for cell in found.rivals(budget)]
    for where in ("pixels", "time"):
        known: list[Difference | EqualTime] = []
        beyond = 0
        for cell in rivals:
            if where == "pixels":
                equal = found.difference(cell.method, cell.budget)
                known += [] if equal is None else [equal]
            else:
                timed = found.at_equal_time(cell.method, cell.budget)
                if timed is not None and timed.beyond:
                    beyond += 1
                elif timed is not None:
                    known.append(timed)
        parts = sure_parts(known, beyond, of_intervals=False)
        if parts:
            clock = f"{found.clock} " if where == "time" else ""
            said.append(f"at equal {clock}{where}, {', and '.join(parts)}")
    if not said:
        return ""
    title = found.title(found.experiment.baseline)
    return f"Methods without labels against the baseline ({title}): {'; '.join(said)}."


def _at_budget(found: Findings, budget: tuple[int, int]) -> str:
    """Baseline, best method and oracle at a budget."""
    base = found.comparison.cell(found.experiment.baseline, budget)
    said = []
    best = found.best(budget)
    if base is not None:
        said.append(f"the baseline reaches {_height(found, base)}.")
    if best is not None:
        count = len(found.rivals(budget))
        which = f"The highest of {count} others is" if count > 1 else "The other method is"
        said.append(f"{which} {_named(found, best)}, {_height(found, best)}.")
        equal = found.difference(best.method, budget)
        if equal is not None:
            said.append(f"At equal pixels: {_verdict(equal)}.")
        timed = found.at_equal_time(best.method, budget)
        if timed is not None:
            where = f"where the baseline is best with {timed.samples:,.0f} samples"
            if timed.longer:
                where = f"longer than the baseline's, whose best is at {timed.samples:,.0f} samples"
            elif timed.shorter:
                where = f"shorter than the baseline's, which is at {timed.samples:,.0f} samples"
            said.append(f"At equal {found.clock} time ({where}): {_verdict(timed)}.")
        ratio = found.equal_accuracy(best)
        if ratio is not None:
            said.append(
                f"For the same mean mIoU it takes {share(ratio)} of the baseline's samples."
            )
    oracle = found.best_oracle(budget)
    if oracle is not None:
        gain = found.difference(oracle.method, budget)
        said.append(
            f"The oracle {_named(found, oracle)}, which sees the labels, reaches "
            f"{_height(found, oracle)}" + (f": {_verdict(gain)}." if gain is not None else ".")
        )
    if not said:
        return ""
    text = " ".join(said)
    return f"{found.at(budget)}: {text[0].lower()}{text[1:]}"


def _every_pixel(found: Findings) -> str:
    """How far the sampled maps are below one that sees every pixel."""
    whole = found.highest(found.cells(None))
    if whole is None:
        return ""
    below = []
    for budget in found.budgets:
        base = found.comparison.cell(found.experiment.baseline, budget)
        for cell in (base, found.best(budget)):
            gap = (
                None
                if cell is None
                else paired_difference(cell, [(1.0, whole)], found.experiment.block_items)
            )
            if cell is not None and gap is not None:
                below.append(f"{_named(found, cell)} at {shown_size(budget)} {_short(gap)}")
    text = f"Every pixel ({_named(found, whole)}): {_height(found, whole)}."
    return f"{text} Against it: {'; '.join(below)}." if below else text


def _verdict(one: Difference | EqualTime) -> str:
    """A difference in words, no better than its interval and what stands for the baseline."""
    difference = difference_of(one)
    said = _short(difference)
    if len(difference.values) < FEWEST_SEEDS:
        return f"{said}, too few seeds to say"
    if one.better or one.worse:
        return f"{said}, {'better' if one.better else 'worse'}"
    if difference.sure:
        return f"{said}, which says nothing of equal times"
    what = "holds 0" if difference.low <= 0 <= difference.high else "ends as good as at 0"
    return f"{said}, an interval that {what}, so no difference is shown"


def _height(found: Findings, cell: Cell) -> str:
    return found.spread(cell, unit=" %")


def _named(found: Findings, cell: Cell) -> str:
    return f"\u201c{found.title(cell.method)}\u201d"


def _short(difference: Difference) -> str:
    return f"{points(difference.mean)} ({interval(difference)})"


# --- how it was measured -----------------------------------------------------------------------


def _timing(found: Findings) -> list[Part]:
    """How times were measured, and whether they can be trusted: more samples take longer."""
    if not found.comparison.timed:
        return [Paragraph(UNTIMED)]
    said = times_note(found)
    falls, steps, noisy = 0, 0, []
    for name in found.methods:
        curve = [c for c in found.comparison.curve(name) if c.budget is not None]
        down = sum(a.clocked() > b.clocked() for a, b in pairwise(curve))
        steps, falls = steps + max(len(curve) - 1, 0), falls + down
        noisy += [found.title(name)] if down else []
    quartiles = [np.percentile(one.by(found.clock), (25, 50, 75)) for one in found.times]
    scatter = float(np.median([(high - low) / mid for low, mid, high in quartiles]))
    said += f" The middle half of a method's rounds differ by {share(scatter)} (median of methods)."
    if falls:
        said += (
            f" They are noisy: in {falls} of {steps} steps to a method's next larger budget "
            f"{found.clock} time falls ({', '.join(noisy)}). Read what is said of equal time with "
            "that in mind."
        )
    if found.busy is not None:
        said += (
            f" The machine did other work: processor time is {share(found.busy)} of wall-clock "
            "time, so nothing is said by the latter; measure again with --retime."
        )
    return [Paragraph(said)]


def _method(found: Findings) -> list[Part]:
    one = next(iter(found.comparison.cells.values())).evaluations[0]
    info = DATASETS[_trained(found).data.dataset].info
    return [
        Bullets([*_definitions(one), *_sureness(found), *_overlaps(found)]),
        Paragraph(_splits(found)),
        methods_table(found),
        *_tables(_settings_table(found)),
        *_notes(found),
        Paragraph(f"Data: {info.title}. Licence: {info.licence}{_stop(info.licence)}"),
        Paragraph(
            "Method: Jin et al., Learning to Downsample for Segmentation of Ultra-High Resolution "
            "Images, ICLR 2022. Edge-based sampling: Marin et al., ICCV 2019. Interpolation: "
            "Talebi and Milanfar, ICCV 2021. Single loss: Recasens et al., ECCV 2018. Boundary F1: "
            "Csurka et al., BMVC 2013. Bootstrap: Efron and Tibshirani, 1993. Degrees of freedom: "
            "Satterthwaite 1946, Welch 1947."
        ),
    ]


def _definitions(one: Evaluation) -> list[str]:
    widths = ", ".join(map(str, one.soft.trimap.widths))
    return [
        "mIoU: intersection over union of each class, pooled over all images, averaged over the "
        "classes that the labels have. Unknown pixels are left out.",
        "Full-resolution mIoU is THE figure: of the map that users get, every pixel, class scores "
        "interpolated by the reverse map and then decided. Nearest sample: each pixel takes its "
        "nearest sample's scores instead, as in the paper.",
        "Deformed mIoU: at the samples alone. It stands beside the figure and never for it.",
        "Intrinsic mIoU: the labels, sampled and mapped back, against themselves: what sampling "
        "allows at best.",
        "Accuracy: share of the pixels whose class is right. Trimap accuracy: of those within "
        f"{widths} px of a border between labels.",
        f"Boundary F1: harmonic mean of precision and recall of the class borders, within "
        f"{' or '.join(TOLERANCES)}.",
        "ECE: mean gap between confidence and accuracy, in 15 bins of confidence.",
        "Share of pixels: what the network saw over all pixels, overlaps counted as often as they "
        "are seen. GFLOP: convolutions and matrix products of sampler and network, a "
        "multiplication and an addition each. Seconds: from images in memory to class and "
        "confidence at full resolution, after a warm-up; processor seconds add up all threads.",
    ]


def _sureness(found: Findings) -> list[str]:
    """What the intervals are."""
    count, what = found.blocks
    several = max(len(cell.seeds) for cell in found.comparison.cells.values()) > 1
    beside = " Those side by side are taken as independent." if "blocks" in what else ""
    drawn = (
        f"v_blocks, over other ground, is its variance in a bootstrap of {RESAMPLES:,} resamples "
        f"of {count:,} {what}, the same for both sides, with the networks as they are.{beside}"
    )
    if several:
        said = [
            f"Intervals: {_LEVEL}, mean \u00b1 t \u00b7 \u221a(v_blocks + v_seeds / n), of a "
            f"difference that is paired by seed. {drawn} v_seeds, over other trainings, is the "
            "sample variance of the n seeds' differences. t is Student's, with Welch and "
            "Satterthwaite's degrees of freedom. Where a difference has one seed, v_seeds is "
            "unknown and left out. "
        ]
    else:
        said = [
            f"Intervals: {_LEVEL}, mean \u00b1 z \u00b7 \u221av_blocks, z of the normal "
            f"distribution. {drawn} How other trainings would come out is unknown of one seed and "
            "not in them. "
        ]
    said[0] += f"With fewer than {FEWEST_SEEDS} seeds nothing is called better or worse."
    if several:
        said.append("\u00b1 after a mean is the sample standard deviation over the seeds.")
    if found.comparison.timed:
        said.append(
            "Equal time: the highest mIoU of the baseline within that time, interpolated over the "
            "logarithm of its own, of which the longest up to each budget counts: more samples "
            "take longer. Where it gets worse with more samples it is taken at fewer; the choice "
            "is by the figures compared, so it favours the baseline a little. Each round of the "
            "times gives a difference of its own; their variance, times \u03c0 / 2 by their number "
            f"(that of a median), is added in the interval. Said and drawn is {found.clock} time. "
            "All rounds are of one sitting: how times change from one to the next, as they do on a "
            "shared machine, is in no interval."
        )
    said.append(
        "Same mIoU: the baseline's mean mIoU, interpolated over the logarithm of its samples; said "
        "only where the difference at equal pixels is sure."
    )
    return said


def _overlaps(found: Findings) -> list[str]:
    """Overlap of the windows, by method where it differs."""
    overlaps: dict[float, list[str]] = {}
    for name in found.methods:
        for overlap in {o.overlap for c in found.comparison.curve(name) for o in c.evaluations}:
            overlaps.setdefault(overlap, []).append(found.title(name))
    if len(overlaps) == 1:
        return [
            f"Windows share {100 * next(iter(overlaps)):g} % of their side with each neighbour."
        ]
    said = [f"{100 * overlap:g} % ({', '.join(names)})" for overlap, names in overlaps.items()]
    return [f"Windows share a part of their side with each neighbour: {'; '.join(said)}."]


def _splits(found: Findings) -> str:
    experiment = found.experiment
    if experiment.folds == ((),):
        held = _trained(found).data.val_items
        which = f"held out by the recipe: {listed(held)}" if held else "the dataset's own"
        return f"Split: {which}; what is evaluated is the part \u201c{experiment.split}\u201d."
    how = " (leave one out)" if experiment.leave_one_out else ""
    parts = "; ".join(", ".join(fold) for fold in experiment.folds)
    return (
        f"Split: {counted(len(experiment.folds), 'part')}{how}, each held out whole from the "
        f"trainings that are evaluated on it: {parts}. Counts of all parts are added before any "
        "ratio is taken."
    )


def _settings_table(found: Findings) -> Table | None:
    """What all methods alike were trained with, where it is no default."""
    methods = found.experiment.methods.values()
    of = [shown_settings(found.experiment, one.name) for one in methods if not one.study]
    usual = {
        f"{part}.{key}": plain_value(value)
        for part, values in TrainConfig().to_dict().items()
        for key, value in values.items()
    }
    rows = [
        (key, text)
        for key, text in of[0].items()
        if text != usual[key] and all(other.get(key) == text for other in of)
    ]
    if not rows:
        return None
    return Table(
        "Settings of all trainings that are not geodeform's defaults",
        ["Setting", "value"],
        [("", rows)],
        note=slash_note(text for _, text in rows),
        words=True,
    )


def _notes(found: Findings) -> list[Part]:
    """What the evaluations noted, once each, with the methods that it is of."""
    notes: dict[str, list[str]] = {}
    for name in found.methods:
        for cell in found.comparison.curve(name):
            for note in (note for one in cell.evaluations for note in one.notes):
                titles = notes.setdefault(note, [])
                if found.title(name) not in titles:
                    titles.append(found.title(name))
    if not notes:
        return []
    return [
        Paragraph("What the evaluations noted:"),
        Bullets(
            [
                note if len(titles) == len(found.methods) else f"{', '.join(titles)}: {note}"
                for note, titles in notes.items()
            ]
        ),
    ]


def _stop(text: str) -> str:
    return "" if text.endswith(".") else "."
