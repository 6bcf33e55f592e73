"""Comparison: means, paired differences and their intervals, against counting by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

import geodeform.evaluation.comparison as comparison_module
from geodeform.errors import ConfigError
from geodeform.evaluation.calibration import Calibration
from geodeform.evaluation.comparison import Cell, Comparison, Difference, paired_difference
from geodeform.evaluation.experiment import Entry, Experiment, read_experiment
from geodeform.evaluation.metrics import Confusion
from geodeform.evaluation.result import Cost, Evaluation, MapScores, Unit, pooled
from geodeform.evaluation.timing import Times

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
        allocation="even", overlap=0.125, sizes=((64, 64, 8, 8),), notes=("one",), version="0",
        soft=scores, nearest=scores, deformed=whole, intrinsic=whole, intrinsic_nearest=whole,
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


def slow_half_width(ours: Cell, base: Cell, resamples: int) -> float:
    """The interval as its definition says it, one resample after the other."""
    rng = np.random.default_rng(99)
    pairs = list(zip(ours.evaluations, base.evaluations, strict=True))
    n_blocks = len(pairs[0][0].units)
    found = []
    for _ in range(resamples):
        blocks = rng.integers(n_blocks, size=n_blocks)
        drawn = [
            miou_by_hand([one.units[b] for b in blocks])
            - miou_by_hand([other.units[b] for b in blocks])
            for one, other in pairs
        ]
        found.append(np.mean(drawn))
    n = len(pairs)
    seeds = [one.miou - other.miou for one, other in pairs]
    of_blocks, of_seeds = np.var(found), np.var(seeds, ddof=1) / n
    freedom = (of_blocks + of_seeds) ** 2 / (of_seeds**2 / (n - 1))
    return float(stats.t.ppf(0.975, freedom) * math.sqrt(of_blocks + of_seeds))


def test_the_interval_is_what_its_definition_says(tmp_path):
    experiment = an_experiment(tmp_path)
    comparison = Comparison(experiment, results_of(experiment, SKILLS, SECONDS))
    difference = comparison.difference("joint", SMALL)
    ours, base = comparison.cell("joint", SMALL), comparison.cell("uniform", SMALL)
    expected = np.array(ours.miou.values) - np.array(base.miou.values)
    assert difference.values == pytest.approx(tuple(expected))
    half = (difference.high - difference.low) / 2
    assert half == pytest.approx(slow_half_width(ours, base, 2000), rel=0.05)
    assert (difference.low + difference.high) / 2 == pytest.approx(difference.mean)
    assert difference.sure  # 5 points of skill in 36,000 pixels
    same = comparison.difference("uniform", SMALL)
    assert (same.low, same.mean, same.high) == (0, 0, 0)
    assert not same.sure


def test_seeds_that_disagree_make_it_wide():
    """Where blocks say nothing, it is the t interval of the seeds' differences."""
    values = np.array([0.01, 0.03, 0.05])
    half = comparison_module._half_width(0.0, values)
    assert half == pytest.approx(stats.t.ppf(0.975, 2) * 0.02 / math.sqrt(3))
    one = comparison_module._half_width(0.01**2, values[:1])
    assert one == pytest.approx(1.959964 * 0.01)
    assert not Difference((0.02,), 0.01, 0.03).sure  # however narrow
    assert not Difference((0.02, 0.02), 0.01, 0.03).sure
    assert Difference((0.02, 0.02, 0.02), 0.01, 0.03).sure


def test_the_interval_covers_what_it_says():
    """Trainings that differ much: a bootstrap over three seeds would cover four fifths."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(2000):
        block = rng.normal(0, 0.01)  # the ground's share, alike for all seeds
        values = 0.02 + block + rng.normal(0, 0.03, 3)
        half = comparison_module._half_width(0.01**2, values)
        held.append(abs(values.mean() - 0.02) <= half)
    assert 0.90 < np.mean(held) < 0.97


def test_an_end_that_the_draw_decides_is_not_sure(tmp_path, monkeypatch):
    difference = Difference((0.1, 0.1, 0.1), low=0.001, high=0.2, end_error=0.0006)
    assert not difference.sure
    assert replace(difference, end_error=0.0004).sure
    assert replace(difference, low=-0.2, high=-0.001, end_error=0.0004).sure
    assert not replace(difference, low=-0.2, high=-0.001).sure

    # and that error is what other generators give
    experiment = an_experiment(tmp_path)
    comparison = Comparison(experiment, results_of(experiment, SKILLS, SECONDS))
    said = comparison.difference("joint", SMALL).end_error
    one, default = comparison.cell("joint", SMALL), np.random.default_rng
    lows = []
    for seed in range(30):
        monkeypatch.setattr(np.random, "default_rng", lambda _, seed=seed: default(seed))
        base = [(1.0, comparison.cell("uniform", SMALL))]
        lows.append(paired_difference(one, base).low)
    assert 0.6 < np.std(lows, ddof=1) / said < 1.6


def test_frames_of_a_video_are_drawn_together(tmp_path):
    assert comparison_module._blocks(["a", "b", "b", "c", "d"], 2).tolist() == [0, 0, 0, 1, 1]
    assert comparison_module._blocks(["a", "b", "b"], 1).tolist() == [0, 1, 2]
    experiment = an_experiment(tmp_path, held_out=[["1"], ["2"], ["3"], ["4"]], seeds=[0])
    results = results_of(experiment, SKILLS, SECONDS)
    narrow = Comparison(experiment, results).difference("joint", SMALL)
    wide = Comparison(replace(experiment, block_items=2), results).difference("joint", SMALL)
    assert wide.values == narrow.values
    assert (wide.low, wide.high) != (narrow.low, narrow.high)


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
    assert 0.01 < difference.low < difference.high < 0.04


def times_of(seconds: dict) -> dict:
    return {cell: Times(((10 * s, s),) * 3) for cell, s in seconds.items()}


def test_equal_time_compares_with_what_the_baseline_affords(tmp_path):
    experiment = an_experiment(tmp_path)
    results = results_of(experiment, SKILLS, SECONDS)
    comparison = Comparison(experiment, results, times_of(SECONDS))
    assert comparison.timed
    found = comparison.at_equal_time("joint", SMALL)
    # 2 s lie half-way between 1 s and 4 s on the logarithm
    ours = np.array(comparison.cell("joint", SMALL).miou.values)
    low = np.array(comparison.cell("uniform", SMALL).miou.values)
    high = np.array(comparison.cell("uniform", LARGE).miou.values)
    assert found.difference.values == pytest.approx(tuple(ours - (low + high) / 2))
    assert found.samples == pytest.approx(math.sqrt(256 * 1024))
    assert not found.beyond
    assert found.seconds_per_megapixel == 2.0  # the processor's
    late = comparison.at_equal_time("joint", LARGE)  # 5 s: longer than any of the baseline
    assert late.beyond
    assert late.samples == pytest.approx(1024)


def test_times_of_different_runs_are_not_compared(tmp_path):
    experiment = an_experiment(tmp_path)
    results = results_of(experiment, SKILLS, SECONDS)
    some = times_of(SECONDS)
    del some["joint", LARGE]
    for times in (None, {}, some):
        comparison = Comparison(experiment, results, times)
        assert not comparison.timed
        assert comparison.at_equal_time("joint", SMALL) is None
        assert comparison.cell("joint", SMALL).cpu_seconds_per_megapixel == pytest.approx(20_000)


def test_noise_does_not_turn_the_baselines_times_around(tmp_path):
    """More samples that were measured faster: the method is not set against fewer samples."""
    experiment = an_experiment(tmp_path)
    results = results_of(experiment, SKILLS, SECONDS)
    noisy = times_of({**SECONDS, ("uniform", SMALL): 1.5, ("uniform", LARGE): 1.2,
                      ("joint", SMALL): 1.3})  # fmt: skip
    found = Comparison(experiment, results, noisy).at_equal_time("joint", SMALL)
    assert found.samples == pytest.approx(256)


def test_the_baseline_need_not_spend_all_of_the_time(tmp_path):
    """Where more samples make it worse, a method does not gain by being slow."""
    experiment = an_experiment(tmp_path)
    falling = {**SKILLS, ("uniform", SMALL): SKILLS["uniform", LARGE],
               ("uniform", LARGE): SKILLS["uniform", SMALL]}  # fmt: skip
    comparison = Comparison(experiment, results_of(experiment, falling, SECONDS), times_of(SECONDS))
    best = np.array(comparison.cell("uniform", SMALL).miou.values)
    assert best.mean() > comparison.cell("uniform", LARGE).miou.mean
    for budget in (SMALL, LARGE):  # inside the baseline's times, and beyond them
        ours = np.array(comparison.cell("joint", budget).miou.values)
        found = comparison.at_equal_time("joint", budget)
        assert found.difference.values == pytest.approx(tuple(ours - best))
        assert found.samples == pytest.approx(256)
        assert found.beyond == (budget == LARGE)


def test_noise_of_the_times_is_in_the_interval_of_equal_time_alone(tmp_path, monkeypatch):
    """Rounds that put the method at 1.5 s, 2 s and 2.7 s: who is compared there is not sure."""
    experiment = an_experiment(tmp_path)
    results = results_of(experiment, SKILLS, SECONDS)
    steady, noisy = times_of(SECONDS), times_of(SECONDS)
    noisy["joint", SMALL] = Times(((20.0, 1.5), (20.0, 2.0), (20.0, 2.7)))
    before, after = (Comparison(experiment, results, times) for times in (steady, noisy))
    small, large = (before.cell("uniform", budget).miou.mean for budget in (SMALL, LARGE))
    ours = before.cell("joint", SMALL).miou.mean
    rounds = [ours - small - (large - small) * math.log(t) / math.log(4) for t in (1.5, 2, 2.7)]
    still, moved = (one.at_equal_time("joint", SMALL).difference for one in (before, after))
    assert moved.values == still.values
    assert moved.high - moved.low > 1.05 * (still.high - still.low)
    values, of_blocks = np.array(still.values), 2e-4
    of_seeds, of_times = np.var(values, ddof=1) / 3, np.var(rounds, ddof=1) * math.pi / 6
    freedom = (of_blocks + of_seeds + of_times) ** 2 / (of_seeds**2 / 2 + of_times**2 / 2)
    wanted = stats.t(freedom).ppf(0.975) * math.sqrt(of_blocks + of_seeds + of_times)
    assert comparison_module._half_width(of_blocks, values, rounds) == pytest.approx(wanted)
    # the rounds' differences are those of the curve at the rounds' times
    seen = []
    real = comparison_module.paired_difference
    monkeypatch.setattr(
        comparison_module, "paired_difference", lambda *a: seen.append(a[3:]) or real(*a)
    )
    Comparison(experiment, results, noisy).at_equal_time("joint", SMALL)
    assert seen[0][0] == pytest.approx(rounds)
    assert after.difference("joint", SMALL) == before.difference("joint", SMALL)


@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("good", [True, False])
def test_outside_the_baselines_times_only_one_verdict_can_be_given(tmp_path, slow, good):
    """Slower than all of the baseline's: it might do better yet. Faster: it has had more time."""
    experiment = an_experiment(tmp_path)
    skills = {**SKILLS, ("joint", SMALL): 0.9 if good else 0.4}
    seconds = {**SECONDS, ("joint", SMALL): 9.0 if slow else 0.5}
    found = Comparison(
        experiment, results_of(experiment, skills, seconds), times_of(seconds)
    ).at_equal_time("joint", SMALL)
    assert (found.longer, found.shorter) == (slow, not slow)
    assert found.difference.better is good
    assert found.difference.worse is not good
    assert found.better is (good and not slow)
    assert found.worse is (not good and slow)


def test_points_of_studies_need_no_times(tmp_path):
    study = {"method": "joint", "setting": "model.sigma", "values": [2.0, 9.0]}
    experiment = an_experiment(tmp_path, studies={"s": study})
    skills, seconds = dict(SKILLS), dict(SECONDS)
    for name in experiment.studies[0].points:
        for budget in (SMALL, LARGE):
            skills[name, budget], seconds[name, budget] = 0.6, 1.0
    results = results_of(experiment, skills, seconds)
    comparison = Comparison(experiment, results, times_of(SECONDS))
    assert comparison.timed
    assert comparison.at_equal_time("joint", SMALL) is not None
    for name in experiment.studies[0].points:
        assert comparison.cell(name, SMALL).times is None
        assert comparison.at_equal_time(name, SMALL) is None
        assert comparison.difference(name, SMALL) is not None


def test_time_is_equal_by_the_clock_that_is_asked_for(tmp_path):
    experiment = an_experiment(tmp_path)
    results = results_of(experiment, SKILLS, SECONDS)
    times = times_of(SECONDS)
    times["joint", SMALL] = Times(((10.0, 2.0),) * 3)  # on the wall, as uniform's 1 s
    comparison = Comparison(experiment, results, times)
    by_wall = comparison.at_equal_time("joint", SMALL, "wall-clock")
    assert by_wall.samples == pytest.approx(256)
    assert by_wall.seconds_per_megapixel == 10.0
    assert comparison.at_equal_time("joint", SMALL).samples == pytest.approx(512)


def test_a_gpus_time_is_that_of_the_wall(tmp_path):
    experiment = an_experiment(tmp_path)
    results = {
        entry: replace(one, cost=replace(one.cost, device_memory_bytes=5))
        for entry, one in results_of(experiment, SKILLS, SECONDS).items()
    }
    cell = Comparison(experiment, results, times_of(SECONDS)).cell("joint", SMALL)
    assert cell.clock == "wall-clock"
    assert cell.clocked() == 20.0


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
