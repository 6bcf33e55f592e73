"""The report of a comparison: both pages say what the comparison has, and nothing more."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from evaluation_scenes import VILLAS, write_dubai
from matplotlib.figure import Figure

import geodeform.evaluation.comparison_report as report
from geodeform.cli.main import main
from geodeform.errors import ConfigError, OutputError
from geodeform.evaluation.calibration import Calibration
from geodeform.evaluation.campaign import Work, plan_campaign
from geodeform.evaluation.comparison import Comparison, Difference, EqualTime
from geodeform.evaluation.comparison_pages import (
    Bullets,
    Document,
    Paragraph,
    Section,
    Strong,
    Table,
    html_page,
    markdown_page,
)
from geodeform.evaluation.comparison_report import write_comparison
from geodeform.evaluation.comparison_tables import (
    Findings,
    interval,
    is_own,
    miou_table,
    points,
    spread,
    study_table,
)
from geodeform.evaluation.experiment import Entry, Experiment, read_experiment
from geodeform.evaluation.metrics import Confusion
from geodeform.evaluation.panel_store import kept_panels
from geodeform.evaluation.panels import Panel
from geodeform.evaluation.result import Cost, Evaluation, MapScores, Unit
from geodeform.evaluation.timing import Times

CLASSES = ("Building", "Land", "Road <&>", "Vegetation", "Water")

EXPERIMENT = """
title: "Which | sampler <b>?</b>"
about: About *this*.
recipe: recipe.yaml
settings: {optim.steps: 60}
held_out: [["1"], ["2"]]
budgets: [16, 32]
seeds: [0, 1, 2]
baseline: uniform
baseline_budgets: [24, 48]
methods:
  uniform: {title: evenly, settings: {model.sampler: uniform}}
  joint: {title: "joint | loss", settings: {model.sampler: joint}}
  single: {title: single loss, settings: {model.sampler: single}}
  oracle: {title: at borders, network_of: joint, sampler: oracle}
  full: {title: all of it, network_of: uniform, sampler: full}
studies:
  Gamma: {method: joint, budgets: [16], setting: loss.gamma, values: [50, 200]}
"""

SKILL = {
    "uniform": 0.6, "joint": 0.7, "single": 0.55, "oracle": 0.8, "full": 0.9, "fixed": 0.75,
}  # fmt: skip


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    (folder / "which.yaml").write_text(EXPERIMENT)
    return read_experiment(folder / "which.yaml")


@pytest.fixture(scope="module")
def works(experiment) -> list[Work]:
    return plan_campaign(experiment, Path("nowhere"))


def evaluation(experiment: Experiment, entry: Entry) -> Evaluation:
    """Counts of 8 blocks, right in a share of the pixels that grows with skill and budget."""
    n = len(CLASSES)
    method = experiment.methods[entry.method]
    samples = 65536 if entry.budget is None else entry.budget[0] * entry.budget[1]
    name = "joint" if method.study else entry.method
    skill = SKILL[name] * (0.6 + 0.1 * np.log(samples) / np.log(1024)) + 0.01 * entry.seed
    rng = np.random.default_rng([entry.seed, len(entry.method), samples])
    units = []
    for k in range(8):
        truth = np.array([80, 600, 120, 150, 50]) + 10 * k
        counts = np.zeros((n, n + 1), np.int64)
        for c in range(n):
            counts[c, :n] = rng.multinomial(
                truth[c], skill * np.eye(n)[c] + (1 - skill) * np.full(n, 1 / n)
            )
        units.append(Unit((entry.fold or ("7",))[0], 0, 1024 * k, counts))
    total = Confusion.of(np.sum([unit.counts for unit in units], 0))
    soft = replace(MapScores.empty(n), confusion=total)
    soft.trimap.pixels[:], soft.trimap.right[:] = 100, 40
    calibration = Calibration()
    return Evaluation(
        model="model.safetensors",
        architecture="lite0",
        dataset="dubai",
        split="val",
        items=entry.fold or ("7",),
        classes=CLASSES,
        sampler=entry.trial.sampler,
        oracle=entry.trial.sampler == "oracle",
        budget="",
        allocation="even",
        overlap=0.25 if entry.budget is None else 0.125,
        sizes=((1024, 1024, *(entry.budget or (1024, 1024))),),
        notes=("A note.",),
        version="0.1.0",
        soft=soft,
        nearest=replace(MapScores.empty(n), confusion=total),
        deformed=total,
        intrinsic=total,
        intrinsic_nearest=total,
        calibration=calibration,
        cost=Cost(
            scene_pixels=10**6,
            sampled_pixels=samples,
            windows=1,
            flops=samples * 1000,
            seconds=0.1,
            cpu_seconds=samples / 1000 * (1.2 if name == "joint" else 1.0),
            seconds_reading=0.1,
            peak_memory_bytes=2**30,
            device_memory_bytes=None,
            parameters=10,
            device="CPU",
        ),
        units=tuple(units),
    )


def results_of(experiment: Experiment, **only: object) -> dict[Entry, Evaluation]:
    """Evaluations of the entries whose attributes are among those given."""
    return {
        entry: evaluation(experiment, entry)
        for entry in experiment.entries()
        if all(getattr(entry, key) in values for key, values in only.items())
    }


def timed(experiment: Experiment, results: dict[Entry, Evaluation]) -> Comparison:
    """A comparison whose methods were timed beside each other, not in the evaluations."""
    cells = Comparison(experiment, results).cells
    times = {
        key: Times(((3 * cell.seconds_per_megapixel, 2 * cell.cpu_seconds_per_megapixel),) * 3)
        for key, cell in cells.items()
    }
    return Comparison(experiment, results, times)


def panel(title: str) -> Panel:
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1], [0, 1])
    return Panel(title, f"The caption of {title}.", figure)


@pytest.fixture
def write(works):
    """Write a report; return its folder."""

    def written(experiment, results: dict[Entry, Evaluation], folder: Path, **more) -> Path:
        given = {
            "figures": [panel("Gain by class"), panel("Gamma"), panel("Something <new>")],
            "panels": [panel("What is seen")],
            "command": "geodeform compare which.yaml --root 'a & b'",
            "works": works,
        }
        comparison = more.pop("comparison", None) or timed(experiment, results)
        paths = write_comparison(comparison, results, folder, **given | more)
        assert all(path.is_file() for path in paths)
        return folder

    return written


class Page(HTMLParser):
    """Tables by caption, text, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.text, self.title = "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        attrs = dict(attrs)
        self.loaded += [attrs[k] for k in ("src", "href", "srcset") if k in attrs]
        if tag in ("meta", "img", "br"):
            return
        self.open.append(tag)
        if tag == "table":
            self.rows = self.tables.setdefault(attrs["aria-label"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if "style" in self.open:
            assert "http" not in data
            assert "@import" not in data
        elif "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        elif data.strip():
            self.text += f"{' '.join(data.split())}\n"


def markdown_tables(text: str) -> dict[str, list[list[str]]]:
    """Title → rows of a Markdown page's tables, without the signs that make it Markdown."""
    tables = {}
    for block in re.finditer(r"^\*\*Table \d+\. (.*?)\.\*\*.*?\n\n((?:\|.*\n)+)", text, re.M):
        lines = block[2].splitlines()
        rows = [
            [bare(cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in (lines[0], *lines[2:])
        ]
        tables[bare(block[1])] = rows
    return tables


def bare(text: str) -> str:
    """Markdown without its escapes and stars."""
    return re.sub(r"\\(\W)", r"\1", re.sub(r"(?<!\\)\*\*", "", text))


def test_both_pages_have_the_comparisons_numbers(experiment, write, tmp_path):
    results = results_of(experiment)
    comparison = timed(experiment, results)
    folder = write(experiment, results, tmp_path / "which")
    page = Page((folder / "report.html").read_text())
    marks = markdown_tables((folder / "report.md").read_text())
    assert set(page.tables) == set(marks)

    title = "Full-resolution mIoU of the map that users get, %"
    assert page.tables[title] == marks[title]
    assert page.tables[title][0] == ["Method", "16x16", "32x32", "every pixel"]
    rows = {row[0]: row[1:] for row in page.tables[title][1:]}
    assert set(rows) == {
        "evenly",
        "joint | loss",
        "single loss",
        "at borders (oracle)",
        "all of it",
    }
    for name, said in (("uniform", "evenly"), ("joint", "joint | loss")):
        for k, budget in enumerate(((16, 16), (32, 32))):
            values = 100 * np.array(
                [one.miou for one in comparison.cells[name, budget].evaluations]
            )
            assert rows[said][k] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    assert rows["all of it"][:2] == ["\u2013", "\u2013"]

    title = next(name for name in marks if name.startswith("Difference from the baseline (evenly)"))
    (row,) = (r for r in marks[title] if r[:2] == ["32x32", "joint | loss"])
    known = comparison.difference("joint", (32, 32))
    beside = comparison.at_equal_time("joint", (32, 32))
    assert known is not None
    assert beside is not None
    assert known.low > 0
    by_wall = comparison.at_equal_time("joint", (32, 32), "wall-clock")
    assert by_wall is not None
    assert marks[title][0][4::3] == ["equal processor time", "equal wall-clock time"]
    assert row[2:] == [
        points(known.mean), interval(known), points(beside.difference.mean),
        interval(beside.difference), f"{beside.samples:,.0f}", points(by_wall.difference.mean),
        interval(by_wall.difference), f"{by_wall.samples:,.0f}",
    ]  # fmt: skip
    (bound,) = (r for r in marks[title] if r[:2] == ["32x32", "at borders (oracle)"])
    assert bound[2] != "\u2013"
    assert bound[4:] == 6 * ["\u2013"]  # its time is spent on labels that nobody has
    heights = [cell.miou.mean for cell in comparison.curve("uniform") if cell.budget]
    assert np.argmax(heights) == 2  # 48x48, in more than 1.2 times the time, is worse than 32x32
    assert beside.samples == pytest.approx(1024)
    grouped = [r for r in page.tables[title] if r[0] == "joint | loss"]
    assert row[1:] in grouped  # HTML has the budget in a row of its own
    assert ["Samples: 32x32"] in page.tables[title]

    for text in (page.text, bare((folder / "report.md").read_text())):
        flat = " ".join(text.split())
        assert "missing" not in flat
        assert "3 seeds (0, 1, 2)." in flat
        height = spread(comparison.cells["joint", (16, 16)].miou)
        assert f"is “joint | loss”, {height} %. At equal pixels: +" in flat
        assert "A note." in flat
        assert "CC0-1.0" in flat
        assert "dubai" in flat


def test_nothing_is_called_better_where_the_interval_holds_0():
    three = (0.01, 0.015, 0.02)
    sure, unsure = Difference(three, 0.001, 0.03), Difference(three, -0.001, 0.03)
    worse = Difference((-0.01, -0.015, -0.02), -0.03, -0.0001)
    assert report._verdict(sure) == "+1.5 (+0.1 to +3.0), better"
    # sure, but the baseline might do better with more samples
    longer = report._verdict(EqualTime(1.0, 256.0, True, False, sure))
    assert "better" not in longer
    assert "says nothing of equal times" in longer
    assert "better" not in report._verdict(unsure)
    assert "no difference is shown" in report._verdict(unsure)
    assert report._verdict(worse) == "\u22121.5 (\u22123.0 to \u22120.01), worse"
    # its time is longer than the baseline's, so it may be called worse, but not if it is shorter
    assert report._verdict(EqualTime(1.0, 256.0, True, False, worse)).endswith(", worse")
    assert "worse" not in report._verdict(EqualTime(1.0, 256.0, False, True, worse))


def test_nothing_is_called_better_by_fewer_than_three_seeds(experiment, write, tmp_path):
    for values in ((0.015,), (0.01, 0.02)):
        said = report._verdict(Difference(values, 0.001, 0.03))
        assert said == "+1.5 (+0.1 to +3.0), too few seeds to say"
    results = results_of(experiment, seed=(0, 1))
    known = timed(experiment, results).difference("joint", (32, 32))
    assert known is not None
    assert known.low > 0
    text = (write(experiment, results, tmp_path / "w", figures=[]) / "report.md").read_text()
    outcome = text.split("## Full-resolution mIoU")[0]
    assert outcome.count("too few seeds to say") >= 4
    assert "at equal pixels, 4 of 4 differences have too few seeds to say" in outcome
    assert not re.search("better|worse|above 0|for the same mean mIoU", outcome, re.IGNORECASE)
    table = text.split("points of full-resolution mIoU.**")[1].split("\n\n")[1]
    assert "**" not in table


def test_a_studys_figures_stand_in_its_section(experiment, write, tmp_path):
    figures = [panel(title) for title in ("Gamma", "Gamma: classes at 16x16", "Another")]
    folder = write(experiment, results_of(experiment), tmp_path / "w", figures=figures)
    text = (folder / "report.md").read_text()
    gamma, rest = text.split("\n## Gamma\n")[1].split("\n## Further charts\n")
    assert "The caption of Gamma." in gamma
    assert "The caption of Gamma: classes at 16x16." in gamma
    assert "The caption of Another." in rest


def test_times_of_a_machine_that_did_other_work_are_called_so(experiment, write, tmp_path):
    results = results_of(experiment)
    cells = Comparison(experiment, results).cells
    for busy, rounds in ((False, ((1.0, 0.95), (1.0, 0.95))), (True, ((1.0, 0.6), (1.5, 0.9)))):
        comparison = Comparison(experiment, results, {key: Times(rounds) for key in cells})
        folder = write(experiment, results, tmp_path / str(busy), comparison=comparison, figures=[])
        text = (folder / "report.md").read_text()
        assert ("The machine did other work: processor time is 60 %" in text) is busy
        assert ("equal wall-clock time" in text) is not busy  # it would say nothing
        kept = json.loads((folder / "results.json").read_text())["cells"]
        assert any(one["equal_time"] for one in kept)
        assert any(one["equal_wall_clock"] for one in kept) is not busy
        # quartiles of 0.6 and 0.9 around 0.75: 0.15 of it
        assert f"rounds differ by {'20 %' if busy else '0 %'} (median of methods)" in text


def test_sizes_at_which_the_baseline_was_not_trained_are_named(experiment, write, tmp_path):
    note = "Its networks were not trained at 24x24 and 48x48"
    folder = write(experiment, results_of(experiment), tmp_path / "w", figures=[])
    assert note in (folder / "report.md").read_text()
    own = replace(experiment, baseline_networks="own")
    text = (write(own, results_of(own), tmp_path / "o", figures=[]) / "report.md").read_text()
    assert "were not trained at" not in text
    assert "the baseline has ones of its own where it is evaluated besides" in text


def test_the_number_of_comparisons_is_said(experiment, write, tmp_path):
    folder = write(experiment, results_of(experiment), tmp_path / "w")
    text = (folder / "report.md").read_text()
    # joint, single and the oracle at two budgets; at equal time the first two of these and every
    # pixel; two points of a study
    count = 6 + 5 + 2
    assert f"{count} comparisons are made in the tables and none is corrected for that" in text
    assert json.loads((folder / "results.json").read_text())["comparisons"] == count


def test_the_best_method_is_bold_and_no_oracle_or_sure_by_it(experiment, write, tmp_path):
    text = (write(experiment, results_of(experiment), tmp_path / "w") / "report.md").read_text()
    table = text.split("Table 1.")[1].split("\n\n")[1].splitlines()
    (joint,) = (line for line in table if "joint" in line)
    assert joint.count("**") == 4
    assert all("**" not in line for line in table if "evenly" in line or "borders" in line)


def test_gains_of_the_classes_are_means_of_paired_seeds(experiment, write, tmp_path):
    results = results_of(experiment)
    del results[next(e for e in results if e.method == "joint" and e.budget == (16, 16))]  # seed 0
    comparison = timed(experiment, results)
    folder = write(experiment, results, tmp_path / "w")
    rows = markdown_tables((folder / "report.md").read_text())["IoU by class at 16x16 samples, %"]
    assert [row[0] for row in rows[1:]] == ["Land", "Vegetation", "Road <&>", "Building", "Water"]
    ours, base = comparison.cells["joint", (16, 16)], comparison.cells["uniform", (16, 16)]
    assert (ours.seeds, base.seeds) == ((1, 2), (0, 1, 2))
    pairs = zip(ours.evaluations, base.evaluations[1:], strict=True)
    gain = np.mean([a.soft.confusion.iou()[1] - b.soft.confusion.iou()[1] for a, b in pairs])
    assert rows[1][4] == points(gain)
    assert "(2 seeds)" in (folder / "report.md").read_text()


def test_each_held_out_part_has_a_row_with_every_seed(experiment, write, tmp_path):
    results = results_of(experiment)
    comparison = timed(experiment, results)
    folder = write(experiment, results, tmp_path / "w")
    tables = markdown_tables((folder / "report.md").read_text())
    (rows,) = (rows for title, rows in tables.items() if "on each held-out part" in title)
    part = comparison.fold_difference("joint", (32, 32), ("2",))
    assert part is not None
    (row,) = (row for row in rows if row[1] == "2")
    each = ", ".join(points(value) for value in part.values)
    assert row[3] == f"{points(part.mean)} ({each})"
    assert rows[-1][1] == "all, pooled"


def test_a_study_is_compared_with_its_method(experiment, write, tmp_path):
    results = results_of(experiment)
    comparison = timed(experiment, results)
    folder = write(experiment, results, tmp_path / "w")
    tables = markdown_tables((folder / "report.md").read_text())
    (rows,) = (rows for title, rows in tables.items() if title.startswith("Gamma"))
    own = experiment.recipe.loss.gamma
    assert [row[1] for row in rows[1:]] == [f"{own:g} (the method's own)", "50", "200"]
    ours = comparison.cells["Gamma/200", (16, 16)].evaluations
    base = comparison.cells["joint", (16, 16)].evaluations
    gap = np.mean([a.miou - b.miou for a, b in zip(ours, base, strict=True)])
    assert rows[3][3] == points(gap)
    data = json.loads((folder / "results.json").read_text())
    assert data["studies"][0]["points"][1]["difference"]["mean"] == pytest.approx(gap)


OWN = """
recipe: base.yaml
networks: own
budgets: [16, 32]
seeds: [0, 1, 2]
baseline: uniform
baseline_budgets: [24]
methods:
  uniform: {settings: {model.sampler: uniform}}
  joint: {title: joint loss, recipe: "joint_{budget}.yaml"}
  full: {sampler: full, settings: {model.sampler: uniform, model.sizes: 64, data.window: 64}}
studies:
  Width: {method: joint, setting: model.sigma, values: [5.3, 10.6]}
  Looks: {method: joint, budgets: [16], changes: {seldom: {run.val_every: 77}}}
"""


def own_experiment(folder: Path, **overrides: object) -> Experiment:
    """A network for each budget, by recipes that differ in one setting."""
    optim = "optim: {steps: 0, epochs: 7, batch_size: 3}\n"
    (folder / "base.yaml").write_text(f"data: {{dataset: dubai}}\n{optim}")
    for side, sigma in ((16, 5.3), (32, 10.6)):
        (folder / f"joint_{side}.yaml").write_text(
            f"extends: base.yaml\nmodel: {{sigma: {sigma}}}\nloss: {{gamma: 33}}\n"
        )
    (folder / "own.yaml").write_text(OWN)
    return read_experiment(
        folder / "own.yaml", {k.replace("_", ".", 1): v for k, v in overrides.items()}
    )


def settings_in(text: str, table: str) -> dict[str, str]:
    """First → last column of a table of words."""
    (rows,) = (rows for title, rows in markdown_tables(text).items() if title.startswith(table))
    return {row[0]: row[-1] for row in rows[1:]}


def test_settings_shown_are_those_of_the_networks_that_were_trained(tmp_path):
    def page(**overrides: object) -> str:
        experiment = own_experiment(tmp_path, **overrides)
        results = results_of(experiment, seed=(0,))
        works = plan_campaign(experiment, Path("nowhere"))
        write_comparison(
            timed(experiment, results), results, tmp_path / "w", figures=[], panels=[],
            command="", works=works,
        )  # fmt: skip
        return (tmp_path / "w" / "report.md").read_text()

    text = page()
    assert "trained for 7 epochs with 3 windows a step." in text
    methods = settings_in(text, "The methods")
    # what the recipes of its budgets say, which the experiment's own recipe knows nothing of
    assert "model.sigma: 5.3 / 10.6" in methods["joint loss"]
    assert "loss.gamma: 33" in methods["joint loss"]
    assert "Values with / between them: of the budgets' networks, rising." in text
    assert "model.sigma: 4;" in methods["uniform"]
    assert "model.sizes: 16x16 / 32x32" in methods["uniform"]  # not of the further budget
    assert "model.sizes: 64x64" in methods["full"]
    assert not re.search(r"run\.|data\.root|data\.val_items", " ".join(methods.values()))
    settings = settings_in(text, "Settings of all trainings")
    assert settings["optim.epochs"] == "7"
    assert settings["optim.batch_size"] == "3"
    assert "optim.steps" not in settings
    assert "model.sigma" not in settings

    text = page(optim_steps=2, loss_gamma=44)
    assert "trained for 2 steps with 3 windows a step." in text
    settings = settings_in(text, "Settings of all trainings")
    assert settings["optim.steps"] == "2"
    assert settings["loss.gamma"] == "44"
    assert "optim.epochs" not in settings
    assert "loss.gamma" not in settings_in(text, "The methods")["joint loss"]


def test_trainings_of_different_length_are_not_said_to_be_alike(experiment, tmp_path, write):
    methods = dict(experiment.methods)
    methods["joint"] = replace(methods["joint"], settings={"optim.steps": 30})
    other = replace(experiment, methods=methods)
    text = (write(other, results_of(other, seed=(0,)), tmp_path / "w") / "report.md").read_text()
    assert "trained for 60 steps or 30 steps with 16 windows a step (see" in text
    assert "optim.steps: 30" in settings_in(text, "The methods")["joint | loss"]


def test_a_point_of_a_study_is_the_method_where_it_has_its_training(tmp_path):
    experiment = own_experiment(tmp_path)
    width, looks = experiment.studies
    small, large = (16, 16), (32, 32)
    assert is_own(experiment, width, "Width/5.3", small)
    assert not is_own(experiment, width, "Width/5.3", large)
    assert is_own(experiment, width, "Width/10.6", large)
    # another value, but nothing of the network depends on it
    assert is_own(experiment, looks, "Looks/seldom", small)
    found = Findings(timed(experiment, results_of(experiment)))
    table = study_table(found, width)
    assert table is not None
    labels = {budget: [row[0] for row in rows] for budget, rows in table.groups}
    assert labels == {
        "16x16": ["5.3 (the method's own)", "10.6"],
        "32x32": ["5.3", "10.6 (the method's own)"],
    }
    for _, rows in table.groups:
        mine, other = sorted(rows, key=lambda row: "own" not in str(row[0]))
        assert mine[2:4] == ["\u2013", "\u2013"]
        assert other[2] != "\u2013"


def test_a_fixed_density_is_no_learned_sampling(tmp_path, write):
    text = EXPERIMENT.replace(
        "  oracle:", "  fixed: {title: one for all, settings: {model.sampler: fixed}}\n  oracle:"
    )
    (tmp_path / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    (tmp_path / "which.yaml").write_text(text)
    experiment = read_experiment(tmp_path / "which.yaml")
    results = results_of(experiment)
    found = Findings(timed(experiment, results))
    best, learned = found.best((16, 16)), found.best_learned((16, 16))
    assert best is not None
    assert learned is not None
    assert (best.method, learned.method) == ("fixed", "joint")
    assert best.evaluations[0].sampler == learned.evaluations[0].sampler == "learned"
    folder = write(experiment, results, tmp_path / "w", works=[])
    tables = markdown_tables((folder / "report.md").read_text())
    (rows,) = (rows for title, rows in tables.items() if title.startswith("The methods"))
    ways = {row[0]: row[1] for row in rows[1:]}
    assert ways["one for all"] == "one density for all windows, measured on the training labels"
    assert ways["joint | loss"] == "where the model's density or grid net says"
    assert "one for all" not in tables["IoU by class at 16x16 samples, %"][0]
    csv = pd.read_csv(folder / "results.csv")
    assert csv.groupby("method").trained_sampler.first()["fixed"] == "fixed"


def with_units(one: Evaluation, places: list[tuple[str, int, int]]) -> Evaluation:
    units = [Unit(*at, unit.counts) for at, unit in zip(places, one.units, strict=True)]
    return replace(one, units=tuple(units))


@pytest.mark.parametrize(
    ("places", "block_items", "said"),
    [
        ([(f"i{k}", 0, 0) for k in range(8)], 1, "8 whole images"),
        ([(f"i{k}", 0, 0) for k in range(8)], 3, "3 runs of 3 successive images"),
        ([(f"i{k // 2}", 0, 1024 * (k % 2)) for k in range(8)], 1, "8 blocks of about 1024 px"),
        ([(f"i{k // 2}", 0, 1024 * (k % 2)) for k in range(8)], 4,
         "1 run of 4 successive images"),
        ([("a", 0, 0), ("a", 900, 0), *((f"i{k}", 0, 0) for k in range(6))], 1,
         "8 blocks of about 1024 px, smaller images whole"),
    ],
)  # fmt: skip
def test_the_intervals_blocks_are_named_as_they_are(
    experiment, write, tmp_path, places, block_items, said
):
    one_part = replace(experiment, folds=((),), block_items=block_items)
    results = {
        entry: with_units(evaluation(experiment, replace(entry, fold=("1",))), places)
        for entry in one_part.entries()
    }
    text = (write(one_part, results, tmp_path / "w", figures=[]) / "report.md").read_text()
    assert f"a bootstrap of 4,000 resamples of {said}, the same for both sides" in bare(text)
    assert ("1024" in text.split("Intervals:")[1].split("t is Student")[0]) == ("1024" in said)


def test_without_times_side_by_side_nothing_is_said_at_equal_time(experiment, write, tmp_path):
    results = results_of(experiment)
    untimed = Comparison(experiment, results)
    folder = write(experiment, results, tmp_path / "w", comparison=untimed, figures=[])
    text = (folder / "report.md").read_text()
    tables = markdown_tables(text)
    (head,) = (
        rows[0]
        for title, rows in tables.items()
        if title.startswith("Difference from the baseline (")
    )
    assert head == ["Samples", "Method", "equal pixels", "95 % interval"]
    note, *_ = re.findall(r"points of full-resolution mIoU\.\*\* (.*)", text)
    assert "Times were not measured side by side, so nothing is compared at equal time." in note
    outcome = text.split("## Full-resolution mIoU")[0]
    assert "Times were not measured side by side" in outcome
    assert not re.search("at equal [a-z-]+ time[,: (]", outcome, re.IGNORECASE)
    assert "Times: of the evaluations" in text
    assert "medians over the seeds" in text
    data = json.loads((folder / "results.json").read_text())
    assert not data["timed_side_by_side"]
    assert all(cell["equal_time"] is None for cell in data["cells"])
    both = (write(experiment, results, tmp_path / "b", figures=[]) / "report.md").read_text()
    assert "median of 3 rounds" in both
    assert "medians over the seeds" not in both
    assert "At equal processor time (" in both


def test_times_are_the_tables_in_json_and_by_the_clock_that_counts(experiment, write, tmp_path):
    results = results_of(experiment)
    for device, clock in ((None, "processor"), (2**30, "wall-clock")):
        there = {
            entry: replace(one, cost=replace(one.cost, device_memory_bytes=device))
            for entry, one in results.items()
        }
        comparison = timed(experiment, there)
        folder = write(experiment, there, tmp_path / clock, comparison=comparison)
        data = json.loads((folder / "results.json").read_text())
        (one,) = (c for c in data["cells"] if (c["method"], c["budget"]) == ("joint", "16x16"))
        cell = comparison.cells["joint", (16, 16)]
        seconds = {
            "wall-clock": one["wall_clock_seconds_per_megapixel"],
            "processor": one["processor_seconds_per_megapixel"],
        }
        # the parts' seconds for two megapixels, times the factors of timed()
        assert seconds["wall-clock"] == pytest.approx(3 * 0.1)
        assert seconds["processor"] == pytest.approx(2 * 1.2 * 256 / 1000)
        assert "seconds_per_megapixel" not in one["figures"]
        assert one["clock"] == clock
        assert one["equal_time"]["seconds_per_megapixel"] == seconds[clock]
        assert one["equal_wall_clock"]["seconds_per_megapixel"] == seconds["wall-clock"]
        text = (folder / "report.md").read_text()
        tables = markdown_tables(text)
        (row,) = (r for r in tables["Cost of a megapixel of the scene (MP)"]
                  if r[:2] == ["16x16", "joint | loss"])  # fmt: skip
        assert row[4:6] == [f"{seconds[k]:.3g}" for k in ("wall-clock", "processor")]
        (rows,) = (rows for title, rows in tables.items() if title.startswith("The baseline at"))
        assert rows[0][-1] == f"{clock} s/MP"
        base = comparison.cells["uniform", (16, 16)]
        assert rows[1][-1] == f"{base.clocked():.3g}"
        assert f"equal {clock} time" in text
        assert cell.clock == clock


def test_equal_accuracy_is_said_only_of_a_sure_difference(experiment, write, tmp_path, monkeypatch):
    monkeypatch.setattr(Comparison, "equal_accuracy", lambda *_: 0.57)
    said = "For the same mean mIoU it takes 57 % of the baseline's samples."
    for seeds, count in (((0, 1, 2), 2), ((0, 1), 0)):  # of two the difference is not sure
        results = results_of(experiment, seed=seeds)
        folder = write(experiment, results, tmp_path / f"{len(seeds)}", figures=[])
        assert (folder / "report.md").read_text().count(said) == count
        cells = json.loads((folder / "results.json").read_text())["cells"]
        (one,) = (c for c in cells if (c["method"], c["budget"]) == ("joint", "16x16"))
        assert one["equal_accuracy"] == (0.57 if count else None)
    found = Findings(timed(experiment, results_of(experiment)))
    found.difference = lambda *_: Difference((0.1, 0.0, 0.1), -0.1, 0.2)
    assert found.equal_accuracy(found.comparison.cells["joint", (16, 16)]) is None


def test_the_main_table_has_a_brief_note_for_a_terminal(experiment):
    table = miou_table(Findings(timed(experiment, results_of(experiment))))
    assert table.brief == "samples of a window; mean ± standard deviation over 3 seeds"
    one = miou_table(Findings(timed(experiment, results_of(experiment, seed=(1,)))))
    assert one.brief == "samples of a window; mean of one seed"


def test_a_partial_run_says_what_is_missing(experiment, write, tmp_path):
    results = results_of(experiment, method=("uniform", "joint"), seed=(0, 1))
    text = (write(experiment, results, tmp_path / "w") / "report.md").read_text()
    count = len(experiment.entries())
    assert f"{count - len(results)} of {count} evaluations are missing" in text
    assert "single loss" not in text.split("## How it was measured")[0]
    assert "2 seeds (0, 1)." in text


def test_without_the_baseline_there_are_no_differences(experiment, write, tmp_path):
    results = results_of(experiment, method=("joint",))
    text = (write(experiment, results, tmp_path / "w") / "report.md").read_text()
    assert "Table 1." in text
    assert "## Difference" not in text
    assert "better" not in text.split("## How")[0].replace("the lower the better", "")


def test_one_seed_has_no_spread_and_says_so(experiment, write, tmp_path):
    results = results_of(experiment, seed=(1,))
    folder = write(experiment, results, tmp_path / "w")
    text = (folder / "report.md").read_text()
    assert "±" not in text.split("## How it was measured")[0]
    assert "One seed (1)" in text
    assert "How other trainings would come out is unknown of one seed and not in them" in text
    assert "v_seeds" not in text
    cell = json.loads((folder / "results.json").read_text())["cells"][0]
    assert cell["figures"]["users' map"]["std"] is None


def test_without_an_oracle_or_a_study_nothing_is_said_of_them(experiment, write, tmp_path):
    results = results_of(experiment, method=("uniform", "joint", "single"))
    text = (write(experiment, results, tmp_path / "w", figures=[]) / "report.md").read_text()
    outcome = text.split("## How it was measured")[0]
    assert "oracle" not in outcome
    assert "Gamma" not in outcome
    assert "very pixel (" not in outcome


def test_pictures_stand_where_their_tables_are(experiment, write, tmp_path):
    folder = write(experiment, results_of(experiment), tmp_path / "w")
    text = (folder / "report.md").read_text()
    sections = {part.split("\n")[0]: part for part in text.split("\n## ")}
    assert "![Figure 1. Gain by class](pictures/01-gain-by-class.png)" in sections["Classes"]
    assert "![Figure 2. Gamma]" in sections["Gamma"]
    assert "Something \\<new\\>" in sections["Further charts"]
    assert "The caption of What is seen." in sections["What the methods see and map"]
    for name in re.findall(r"\]\((pictures/.*?)\)", text):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert len(list((folder / "pictures").glob("*.png"))) == 4
    page = (folder / "report.html").read_text()
    assert page.count('src="data:image/svg+xml;base64,') == 3
    assert page.count('src="data:image/png;base64,') == 1  # the panel, which is a photograph
    assert "<figcaption><b>Figure 3. Something &lt;new&gt;.</b>" in page


def test_where_no_panels_are_the_pages_say_why(experiment, write, tmp_path):
    why = "There are no pictures: nobody took any."
    folder = write(experiment, results_of(experiment), tmp_path / "w", panels=[], no_panels=why)
    text = (folder / "report.md").read_text()
    sections = {part.split("\n")[0]: part for part in text.split("\n## ")}
    assert sections["What the methods see and map"].endswith(f"\n\n{why}\n")
    assert f"<p>{why}</p>" in (folder / "report.html").read_text()
    silent = write(experiment, results_of(experiment), tmp_path / "v", panels=[])
    assert "What the methods see and map" not in (silent / "report.md").read_text()


def test_the_page_loads_nothing_and_escapes_what_it_was_given(experiment, write, tmp_path):
    folder = write(experiment, results_of(experiment), tmp_path / "w")
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert all(place.startswith(("data:image/", "#")) for place in page.loaded)
    assert "http://" not in text
    assert "https://" not in text
    assert "<h1>Which | sampler &lt;b&gt;?&lt;/b&gt;</h1>" in text
    assert "--root 'a & b'" in page.text
    marks = (folder / "report.md").read_text()
    assert marks.startswith("# Which \\| sampler \\<b\\>?\\</b\\>\n\nAbout \\*this\\*.\n")
    assert "```sh\ngeodeform compare which.yaml --root 'a & b'\n```" in marks


def test_csv_reads_back_with_every_evaluation(experiment, write, tmp_path):
    results = results_of(experiment)
    folder = write(experiment, results, tmp_path / "w")
    table = pd.read_csv(folder / "results.csv", dtype={"held_out": str})
    assert len(table) == len(experiment.entries()) == len(results)
    entry = Entry("joint", ("2",), 1, (32, 32), next(
        e.trial for e in results if (e.method, e.fold, e.seed, e.budget) ==
        ("joint", ("2",), 1, (32, 32))
    ))  # fmt: skip
    (row,) = table[
        (table.method == "joint") & (table.held_out == "2") & (table.seed == 1)
        & (table.budget == "32x32")
    ].to_dict("records")  # fmt: skip
    one = results[entry]
    assert row["miou"] == one.miou
    assert row["soft_accuracy"] == one.soft.confusion.accuracy()
    assert row["soft_trimap_accuracy (16)"] == 0.4
    assert row["sampled_share"] == 1024 / 1e6
    assert (row["seconds"], row["cpu_seconds"]) == (one.cost.seconds, one.cost.cpu_seconds)
    assert table[table.method == "full"].budget.isna().all()
    assert table[table.oracle].method.unique().tolist() == ["oracle"]


def test_json_has_values_means_and_intervals(experiment, write, tmp_path):
    results = results_of(experiment)
    comparison = timed(experiment, results)
    data = json.loads((write(experiment, results, tmp_path / "w") / "results.json").read_text())
    assert len(data["cells"]) == len(comparison.cells)
    (cell,) = (c for c in data["cells"] if (c["method"], c["budget"]) == ("joint", "16x16"))
    known = comparison.difference("joint", (16, 16))
    assert known is not None
    assert (cell["difference"]["low"], cell["difference"]["high"]) == (known.low, known.high)
    miou = comparison.cells["joint", (16, 16)].miou
    assert cell["figures"]["users' map"] == {
        "values": list(miou.values), "mean": miou.mean, "std": miou.std
    }  # fmt: skip
    assert cell["equal_accuracy"] == Findings(comparison).equal_accuracy(
        comparison.cells["joint", (16, 16)]
    )


def test_a_failure_leaves_the_old_report(experiment, write, tmp_path, monkeypatch):
    results = results_of(experiment)
    folder = write(experiment, results, tmp_path / "w")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    replaced = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if self.name == "results.json":
            raise OSError(28, "No space left on device", str(target))
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OutputError, match="No space left"):
        write(experiment, results, folder, command="another", figures=[])
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_pictures_of_the_old_report_go_and_other_files_stay(experiment, write, tmp_path):
    results = results_of(experiment)
    folder = write(experiment, results, tmp_path / "w")
    (folder / "pictures" / "mine.png").write_bytes(b"mine")
    write(experiment, results, folder, figures=[panel("Gamma")], panels=[])
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == [
        "01-gamma.png", "mine.png",
    ]  # fmt: skip


def test_panels_are_kept_where_the_networks_are_not(experiment, write, tmp_path):
    """A page made anew without networks has the pictures of the one before, and says so."""
    results = results_of(experiment)
    drawn = replace(panel("What is seen"), networks=("a", "b"))
    folder = write(experiment, results, tmp_path / "w", panels=[drawn])
    pictures = folder / "pictures"
    (path,) = pictures.glob("*what-is-seen.png")
    before, number = path.read_bytes(), int(path.name[:2])
    assert kept_panels(pictures, {"a"}) == []  # it shows another network besides
    (kept,) = kept_panels(pictures, {"a", "b", "c"})
    assert (kept.title, kept.figure, kept.networks) == (drawn.title, before, ("a", "b"))
    assert kept.caption.startswith(f"{drawn.caption} Kept from an earlier report")

    write(experiment, results, folder, panels=[kept], figures=[panel("Gamma")])
    (moved,) = pictures.glob("*what-is-seen.png")
    assert int(moved.name[:2]) == number - 2
    assert moved.read_bytes() == before
    for page in ("report.md", "report.html"):
        assert (folder / page).read_text().count("Kept from an earlier report") == 1
    html = (folder / "report.html").read_text()
    assert base64.b64encode(before).decode() in html
    assert 'width="192" height="96" alt="What is seen"' in html  # 2 by 1 inches
    assert kept_panels(pictures, {"a", "b"}) == [kept]  # said once, however often it is kept

    moved.unlink()
    assert kept_panels(pictures, {"a", "b"}) == []
    (pictures / "panels.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"panels\.json is damaged.*delete it"):
        kept_panels(pictures, {"a", "b"})
    write(experiment, results, folder, panels=[])
    assert not (pictures / "panels.json").exists()
    assert kept_panels(pictures, {"a", "b"}) == []


def test_names_of_pictures_spell_greek_letters_out(experiment, write, tmp_path):
    figures = [panel("\u03b3 (table 5)"), panel("\u03a3 over \u03c2, \u00e9")]
    folder = write(experiment, results_of(experiment), tmp_path / "w", figures=figures, panels=[])
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    assert names == ["01-gamma-table-5.png", "02-sigma-over-sigma.png"]
    write(experiment, results_of(experiment), folder, figures=[], panels=[])
    assert not list((folder / "pictures").iterdir())


def test_a_folder_that_cannot_be_made_is_one_sentence(experiment, write, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write the report"):
        write(experiment, results_of(experiment, seed=(0,)), tmp_path / "file" / "w")


def test_the_same_results_make_the_same_bytes(experiment, write, tmp_path):
    results = results_of(experiment, seed=(0,))
    one, two = (write(experiment, results, tmp_path / name) for name in ("a", "b"))
    for path in one.rglob("*.*"):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


def test_a_document_has_the_same_words_in_both_forms():
    table = Table("T", ["a|b", "c"], [("", [["x_y", Strong("1")], ["<z>", "2"]])], note="N.")
    document = Document(
        "Title", [Paragraph("- no list {{css}}")], [Section("S", [Bullets(["* i"]), table])]
    )
    page = Page(html_page(document))
    assert page.tables["T"] == [["a|b", "c"], ["x_y", "1"], ["<z>", "2"]]
    assert "- no list {{css}}" in page.text
    assert markdown_page(document, []) == (
        "# Title\n\n\\- no list {{css}}\n\n## S\n\n- \\* i\n\n**Table 1. T.** N.\n\n"
        "| a\\|b  |     c |\n| ----- | ----: |\n| x_y   | **1** |\n| \\<z\\> |     2 |\n"
    )


def test_the_command_says_that_there_is_nothing_to_report(experiment, tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    (tmp_path / "which.yaml").write_text(EXPERIMENT)
    root = tmp_path / "data"
    write_dubai(root, tile1=VILLAS, tile2=VILLAS, tile7=VILLAS)
    words = ["compare", str(tmp_path / "which.yaml"), "--root", str(root), "--partial"]
    done = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "nothing to report yet" in done.output
    assert f"has 0 of the {len(experiment.entries())} evaluations" in done.output
    assert not (tmp_path / "out").exists()
