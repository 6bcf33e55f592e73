"""Budgets for a time or a confidence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from evaluation_scenes import SHORE, as_scene, demo_cut

import geodeform
from geodeform import budget_choice
from geodeform.budget import Budget
from geodeform.budget_choice import budget_for_confidence, budget_for_time
from geodeform.cli.main import main
from geodeform.errors import ConfigError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """A machine that needs 1 s for a scene and 200 s for all of its pixels; shares it was asked."""
    asked: list[float | None] = []

    def estimate(
        source, *, budget, window=1024, fewest=0.0, looking=0.0, allocation=None, **settings
    ):
        asked.append(budget)
        share = max(0.0156 if budget is None else budget, fewest)
        by_need = looking > 0 and allocation != "even" and share > 0.003
        side = int(window * share**0.5)
        sizes = ((side, side),) if by_need else ()
        plan = SimpleNamespace(
            share=share, scene="scene.tif", sample_size=(side, side), sizes=sizes
        )
        seconds = 1 + 200 * share + looking * by_need
        return SimpleNamespace(plan=plan, seconds=seconds, device="CPU (2 threads)")

    monkeypatch.setattr(budget_choice, "estimate", estimate)
    return asked


@pytest.mark.parametrize("seconds", [1.3, 5.0, 41.0, 200.0])
def test_the_budget_fills_the_time(clock, seconds):
    budget = budget_for_time("scene.tif", seconds)
    assert budget.kind == "share"
    assert 0.98 * (seconds - 1) / 200 <= budget.value <= (seconds - 1) / 200 + 1e-9
    assert len(clock) < 4 or clock[-1] <= budget.value  # nothing that is over the time was tried


def test_a_look_at_all_windows_takes_its_time_once(clock):
    budget = budget_for_time("scene.tif", 11.0, looking=5.0)
    assert budget.value == pytest.approx(0.025, rel=0.02)
    assert clock[:3] == [None, None, 0.001]  # the model's own by need and evenly; others evenly
    with pytest.raises(ConfigError, match=r"scene.tif takes about 6.2 s at a budget of 0.1%"):
        budget_for_time("scene.tif", 6.0, looking=5.0)


def test_a_scene_that_has_some_fewest_samples(clock):
    budget = budget_for_time("scene.tif", 21.0, fewest=0.02)  # 0.1 and 1 % are the same there
    assert budget.value == pytest.approx(0.1, rel=0.02)


def test_time_for_everything_and_for_nothing(clock):
    assert budget_for_time("scene.tif", 1000.0) == Budget("share", 1.0)
    large = budget_for_time("scene.tif", 1000.0, window=10_000)
    assert large.value == 0.01  # 1000x1000 samples a window
    with pytest.raises(ConfigError, match=r"scene.tif takes about 1.2 s at a budget of 0.1%"):
        budget_for_time("scene.tif", 0.5)
    with pytest.raises(ConfigError, match="more than 0"):
        budget_for_time("scene.tif", 0.0)


def test_a_map_is_as_sure_as_was_asked():
    scene = as_scene(demo_cut(SHORE)[0])
    model, how = geodeform.load_model(), {"bands": (1, 2, 3), "gsd": 1.0}

    def reached(budget):  # one window, so that a few windows are all
        return float(
            geodeform.segment_scene(scene, model=model, budget=budget, **how).confidence.mean()
        )

    at = reached("0.5%")
    budget = budget_for_confidence(scene, at - 0.005, model=model, **how)
    assert reached(budget) >= at - 0.006
    assert budget.value <= 0.0051
    lower = Budget("share", budget.value / 1.6)
    assert budget.value == 0.001 or reached(lower) < at - 0.004
    with pytest.raises(
        ConfigError, match=r"No budget reaches a mean confidence of 99.9%: the best"
    ):
        budget_for_confidence(scene, 0.999, model=model, **how)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        budget_for_confidence(scene, 1.0, model=model, **how)


def test_one_choice_at_a_time():
    done = CliRunner().invoke(main, ["segment", "scene.tif", "--budget", "1%", "--time-limit", "5"])
    assert done.exit_code == 2
    assert "one of --budget, --time-limit and --target-confidence" in done.output
