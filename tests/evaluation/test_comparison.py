"""Comparison: means, paired differences and their intervals, against counting by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from geodeform.errors import ConfigError
from geodeform.evaluation.calibration import Calibration
from geodeform.evaluation.comparison import Cell, Comparison, paired_difference
from geodeform.evaluation.experiment import Entry, Experiment, read_experiment
from geodeform.evaluation.metrics import Confusion
from geodeform.evaluation.result import Cost, Evaluation, MapScores, Unit, pooled

N = 3


def an_evaluation(
    rng: np.random.Generator,
    skill: float,
    *,
    items: tuple[str, ...] = ("7",),
    blocks: int = 12,
    cpu_seconds: float = 1.0,
) -> Evaluation:
    """Blocks of 1000 pixels; a pixel's class is right with a chance of about ``skill``."""
    units = []
    for item in items:
        for row in range(blocks):
            truth = rng.multinomial(1000, [0.6, 0.3, 0.1])
            chances = np.full((N, N + 1), (1 - skill) / (N - 1)) * np.array([1, 1, 1, 0])
            np.fill_diagonal(chances, skill)
            counts = np.stack([rng.multinomial(n, p) for n, p in zip(truth, chances, strict=True)])
            units.append(Unit(item, row, 0, counts.astype(np.int64)))
    whole = Confusion.of(np.sum([unit.counts for unit in units], 0))
    scores = replace(MapScores.empty(N), confusion=whole)
    return Evaluation(
        model="m", architecture="lite0", dataset="d", split="val", items=items,
        classes=("a", "b", "c"), sampler="uniform", oracle=False, budget="8x8 a window",
        overlap=0.125, sizes=((64, 64, 8, 8),), notes=("one",), version="0", soft=scores,
        nearest=scores, deformed=whole, intrinsic=whole, intrinsic_nearest=whole,
        calibration=Calibration(), units=tuple(units),
        cost=Cost(100, 10, 1, 5, 2.0, cpu_seconds, 0.5, 7, None, 3, "CPU"),
    )  # fmt: skip


def an_experiment(tmp_path: Path, **changes) -> Experiment:
    (tmp_path / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    values = {
        "recipe": "recipe.yaml",
        "budgets": [16, 32],
        "seeds": [0, 1, 2],
        "baseline": "uniform",
        "methods": {
            "uniform": {"settings": {"model.sampler": "uniform"}},
            "joint": {"settings": {"model.sampler": "joint"}},
        },
        **changes,
    }
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(values))
    return read_experiment(path)


def results_of(experiment: Experiment, skills: dict, seconds: dict) -> dict[Entry, Evaluation]:
    rng = np.random.default_rng(5)
    return {
        entry: an_evaluation(
            rng,
            skills[entry.method, entry.budget],
            items=entry.fold or ("7",),
            cpu_seconds=seconds[entry.method, entry.budget],
        )
        for entry in experiment.entries()
    }


SMALL, LARGE = (16, 16), (32, 32)
SKILLS = {
    ("uniform", SMALL): 0.60,
    ("uniform", LARGE): 0.70,
    ("joint", SMALL): 0.65,
    ("joint", LARGE): 0.70,
}
SECONDS = {
    ("uniform", SMALL): 1.0,
    ("uniform", LARGE): 4.0,
    ("joint", SMALL): 2.0,
    ("joint", LARGE): 5.0,
}


def miou_by_hand(units) -> float:
    counts = np.sum([unit.counts for unit in units], 0)
    values = []
    for k in range(N):
        hit = counts[k, k]
        values.append(hit / (counts[k].sum() + counts[:, k].sum() - hit))
    return float(np.mean(values))


def test_cells_are_means_over_seeds(tmp_path):
    experiment = an_experiment(tmp_path)
    results = results_of(experiment, SKILLS, SECONDS)
    comparison = Comparison(experiment, results)
    assert comparison.missing == 0
    assert len(comparison.cells) == 4
    cell = comparison.cell("joint", SMALL)
    values = [
        miou_by_hand(one.units)
        for entry, one in results.items()
        if entry.method == "joint" and entry.budget == SMALL
    ]
    assert cell.miou.values == pytest.approx(tuple(values))
    assert cell.miou.mean == pytest.approx(sum(values) / 3)
    spread = sum((v - sum(values) / 3) ** 2 for v in values) / 2
    assert cell.miou.std == pytest.approx(math.sqrt(spread))


def test_parts_are_pooled_before_any_ratio(tmp_path):
    experiment = an_experiment(tmp_path, held_out=[["1"], ["2"]], seeds=[0, 1])
    results = results_of(experiment, SKILLS, SECONDS)
    comparison = Comparison(experiment, results)
    cell = comparison.cell("uniform", LARGE)
    for seed, one in zip(cell.seeds, cell.evaluations, strict=True):
        parts = [
            r
            for e, r in results.items()
            if (e.method, e.budget, e.seed) == ("uniform", LARGE, seed)
        ]
        units = [unit for part in parts for unit in part.units]
        assert one.miou == pytest.approx(miou_by_hand(units))
        assert one.items == ("1", "2")
        assert one.cost.cpu_seconds == 8.0
        assert one.cost.scene_pixels == 200
        assert one.cost.peak_memory_bytes == 7
    fold = comparison.fold_difference("joint", SMALL, ("2",))
    ours = next(
        r
        for e, r in results.items()
        if (e.method, e.budget, e.seed, e.fold) == ("joint", SMALL, 1, ("2",))
    )
    base = next(
        r
        for e, r in results.items()
        if (e.method, e.budget, e.seed, e.fold) == ("uniform", SMALL, 1, ("2",))
    )
    assert fold.values[1] == pytest.approx(miou_by_hand(ours.units) - miou_by_hand(base.units))


def test_a_seed_that_lacks_a_part_is_left_out(tmp_path):
    experiment = an_experiment(tmp_path, held_out=[["1"], ["2"]], seeds=[0, 1])
    results = results_of(experiment, SKILLS, SECONDS)
    lost = next(
        e for e in results if (e.method, e.budget, e.seed, e.fold) == ("joint", SMALL, 1, ("2",))
    )
    del results[lost]
    comparison = Comparison(experiment, results)
    assert comparison.missing == 1
    assert comparison.cell("joint", SMALL).seeds == (0,)
    assert comparison.cell("joint", LARGE).seeds == (0, 1)
    assert len(comparison.difference("joint", SMALL).values) == 1  # the seed that both have


def slow_interval(ours: Cell, base: Cell, resamples: int) -> tuple[float, float]:
    """The bootstrap as its definition says it, one resample after the other."""
    rng = np.random.default_rng(99)
    n_seeds, n_blocks = len(ours.seeds), len(ours.evaluations[0].units)
    found = []
    for _ in range(resamples):
        blocks = rng.integers(n_blocks, size=n_blocks)
        drawn = []
        for seed in rng.integers(n_seeds, size=n_seeds):
            one = [ours.evaluations[seed].units[b] for b in blocks]
            other = [base.evaluations[seed].units[b] for b in blocks]
            drawn.append(miou_by_hand(one) - miou_by_hand(other))
        found.append(np.mean(drawn))
    return tuple(np.quantile(found, (0.025, 0.975)))


def test_the_interval_is_that_of_a_plain_bootstrap(tmp_path):
    experiment = an_experiment(tmp_path)
    comparison = Comparison(experiment, results_of(experiment, SKILLS, SECONDS))
    difference = comparison.difference("joint", SMALL)
    ours, base = comparison.cell("joint", SMALL), comparison.cell("uniform", SMALL)
    expected = np.array(ours.miou.values) - np.array(base.miou.values)
    assert difference.values == pytest.approx(tuple(expected))
    low, high = slow_interval(ours, base, 2000)
    width = high - low
    assert difference.low == pytest.approx(low, abs=0.12 * width)
    assert difference.high == pytest.approx(high, abs=0.12 * width)
    assert difference.low < difference.mean < difference.high
    assert difference.sure  # 5 points of skill in 36,000 pixels
    same = comparison.difference("uniform", SMALL)
    assert (same.low, same.mean, same.high) == (0, 0, 0)
    assert not same.sure


def test_pairing_takes_out_what_both_share(tmp_path):
    """Blocks of very different difficulty: unpaired, the interval would hold 0."""
    rng = np.random.default_rng(1)
    ours, base = [], []
    for row in range(20):
        hard = rng.uniform(0.3, 0.9)
        for shift, units in ((0.02, ours), (0.0, base)):
            right = round(10000 * (hard + shift))
            counts = np.array([[right, 10000 - right, 0]] * 2)
            counts[1] = counts[1][[1, 0, 2]]
            units.append(Unit("7", row, 0, counts))
    whole = an_evaluation(rng, 0.5)
    cells = [
        Cell("m", SMALL, (0,), (replace(whole, units=tuple(units), soft=replace(
            whole.soft, confusion=Confusion.of(np.sum([u.counts for u in units], 0)))),))
        for units in (ours, base)
    ]  # fmt: skip
    difference = paired_difference(cells[0], [(1.0, cells[1])])
    assert difference.sure
    assert 0.01 < difference.low < difference.high < 0.04


def test_equal_time_compares_with_what_the_baseline_affords(tmp_path):
    experiment = an_experiment(tmp_path)
    comparison = Comparison(experiment, results_of(experiment, SKILLS, SECONDS))
    found = comparison.at_equal_time("joint", SMALL)
    # 2 s lie half-way between 1 s and 4 s on the logarithm
    ours = np.array(comparison.cell("joint", SMALL).miou.values)
    low = np.array(comparison.cell("uniform", SMALL).miou.values)
    high = np.array(comparison.cell("uniform", LARGE).miou.values)
    assert found.difference.values == pytest.approx(tuple(ours - (low + high) / 2))
    assert found.samples == pytest.approx(math.sqrt(256 * 1024))
    assert not found.beyond
    assert found.cpu_seconds_per_megapixel == pytest.approx(20_000)
    late = comparison.at_equal_time("joint", LARGE)  # 5 s: longer than any of the baseline
    assert late.beyond
    assert late.samples == pytest.approx(1024)


def test_equal_accuracy_is_a_share_of_the_baselines_pixels(tmp_path):
    experiment = an_experiment(tmp_path)
    comparison = Comparison(experiment, results_of(experiment, SKILLS, SECONDS))
    ours = comparison.cell("joint", SMALL).miou.mean
    low, high = (comparison.cell("uniform", size).miou.mean for size in (SMALL, LARGE))
    share = (ours - low) / (high - low)
    assert comparison.equal_accuracy("joint", SMALL) == pytest.approx(4**-share)
    assert comparison.equal_accuracy("uniform", LARGE) == pytest.approx(1)


def test_other_images_do_not_pair(tmp_path):
    experiment = an_experiment(tmp_path)
    results = results_of(experiment, SKILLS, SECONDS)
    for entry in list(results):
        if entry.method == "joint":
            results[entry] = an_evaluation(np.random.default_rng(0), 0.5, items=("8",))
    with pytest.raises(ConfigError, match="other images"):
        Comparison(experiment, results).difference("joint", SMALL)


def test_only_what_is_alike_is_pooled():
    rng = np.random.default_rng(0)
    one, other = an_evaluation(rng, 0.5), an_evaluation(rng, 0.5, items=("8",))
    with pytest.raises(ConfigError, match="share items"):
        pooled([one, one])
    with pytest.raises(ConfigError, match="differ in their sampler"):
        pooled([one, replace(other, sampler="learned")])
    both = pooled([one, other])
    assert both.soft.confusion.counts.sum() == 24000
    assert len(both.units) == 24
    assert both.notes == ("one",)
