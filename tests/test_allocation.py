"""Allocation: samples go where they take away most errors."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from planned_scenes import UTM, model_of_equal_needs, noise_scene, plan_of
from shapely import unary_union
from shapely.geometry import box

from geodeform.allocation import allocate, weighed_errors
from geodeform.errors import ConfigError
from geodeform.run import begin_run

COSTS = np.array([64, 256, 1024, 4096])


def total(errors, chosen):
    return errors[np.arange(len(errors)), chosen].sum()


def best_of_all(errors, costs, budget):
    """Fewest errors of every allocation that fits, by trying them all."""
    n, s = errors.shape
    return min(
        total(errors, np.array(chosen))
        for chosen in product(range(s), repeat=n)
        if costs[list(chosen)].sum() <= budget
    )


def test_a_desert_gets_little_and_a_suburb_much():
    desert, suburb, shore = [0.01, 0.01, 0.01, 0.01], [0.5, 0.4, 0.25, 0.1], [0.2, 0.1, 0.05, 0.04]
    errors = np.array([desert, suburb, shore, desert])
    chosen = allocate(errors, COSTS, 64 + 4096 + 1024 + 64)
    assert chosen.tolist() == [0, 3, 2, 0]
    even = np.full(4, 2)
    assert total(errors, chosen) < total(errors, even)


def test_a_size_off_the_hull_is_passed_over():
    # 64 → 256 saves almost nothing, 64 → 1024 much: the step between is never worth stopping at
    chosen = allocate(np.array([[0.5, 0.49, 0.1, 0.1]]), COSTS, 1024)
    assert chosen.tolist() == [2]


def test_every_window_is_seen_and_none_gets_more_than_there_is():
    errors = np.array([[0.5, 0.4, 0.3, 0.2]] * 3)
    assert allocate(errors, COSTS, 0).tolist() == [0, 0, 0]
    assert allocate(errors, COSTS, 1e9).tolist() == [3, 3, 3]
    assert allocate(errors[:0], COSTS, 100).tolist() == []
    flat = np.full((3, 4), 0.3)  # nothing to gain: nothing is spent
    assert allocate(flat, COSTS, 1e9).tolist() == [0, 0, 0]
    rising = np.array([[0.3, 0.2, 0.25, 0.4]])  # more samples may do harm
    assert allocate(rising, COSTS, 1e9).tolist() == [1]


def test_weights_move_samples():
    errors = np.array([[0.5, 0.4, 0.25, 0.1]] * 2)
    budget = 1024 + 256
    assert allocate(errors * [[1], [4]], COSTS, budget).tolist() == [1, 2]
    assert allocate(errors * [[4], [1]], COSTS, budget).tolist() == [2, 1]
    assert allocate(errors * [[0], [1]], COSTS, 1e9).tolist() == [0, 3]


@given(
    errors=arrays(float, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(0, 1)),
    share=st.floats(0, 1),
)
def test_no_allocation_of_what_is_spent_has_fewer_errors(errors, share):
    budget = len(errors) * (64 + share * (4096 - 64))
    chosen = allocate(errors, COSTS, budget)
    spent = COSTS[chosen].sum()
    assert spent <= max(budget, len(errors) * 64)
    # A hull step that did not fit leaves samples over: the loss is at most one step's saving.
    best = best_of_all(errors, COSTS, budget)
    assert total(errors, chosen) >= best - 1e-9
    saved = errors[:, :1] - errors
    assert total(errors, chosen) - best <= saved.max() + 1e-9


def test_shapes_are_checked():
    with pytest.raises(ConfigError, match="increasing"):
        allocate(np.zeros((2, 4)), COSTS[::-1], 10)
    with pytest.raises(ConfigError, match="not"):
        allocate(np.zeros((2, 3)), COSTS, 10)


@pytest.fixture(scope="module")
def model():
    return model_of_equal_needs()


def test_a_river_gets_the_budget_that_a_plain_would(model, tmp_path):
    scene = noise_scene(tmp_path / "s.tif", 1024, 1500)
    corners = [box(*UTM * (x, y + 4), *UTM * (x + 4, y)) for x in (0, 1496) for y in (0, 1020)]
    # between the centres of cells of 128 px
    river = unary_union([box(*UTM * (0, 370), *UTM * (1500, 340)), *corners])
    plan = plan_of(scene, model, budget="48", aoi=river)
    assert len(plan.active) > 1
    even = len(plan.active) * math.prod(plan.sample_size)
    assert 0.8 * even < plan.sampled_pixels <= even


def test_errors_are_expected_of_data_only(model, tmp_path):
    scene = noise_scene(tmp_path / "s.tif", 1024, 1536, data_until=1024 + 32)
    with (
        begin_run(
            scene, model=model, device="cpu", bands=None, nodata=None, overlap=0.0,
            allocation="even",
        ) as run,
        run.predictor() as predictor,
    ):  # fmt: skip
        expected = {
            index: errors
            for batch, found in weighed_errors(predictor, run.plan.active, [(32, 32), (64, 64)])
            for index, errors in zip(batch, found, strict=True)
        }
    np.testing.assert_array_equal(expected[0], expected[1])
    for partly in (2, 5):  # of two rows of three windows
        np.testing.assert_allclose(expected[partly], expected[0] * 32 / 512, rtol=1e-6)
    plan = plan_of(scene, model, overlap=0.0, budget="64")
    assert max(plan.size_of(2), plan.size_of(5)) < (64, 64)
    assert min(plan.size_of(k) for k in (0, 1, 3, 4)) == (64, 64)


@pytest.mark.parametrize(("budget", "why"), [("16", "so few"), ("256", "so many")])
def test_what_is_shared_out_evenly_is_called_so(model, tmp_path, budget, why):
    scene = noise_scene(tmp_path / "s.tif", 600, 1024)
    plan = plan_of(scene, model, budget=budget)
    assert plan.sizes == ()
    assert plan.way == "learned"
    assert plan.allocation() == {"allocation": "even"}
    assert f"Every window gets the same {plan.shown_size()} samples: " in plan.notes[-1]
    assert why in plan.notes[-1]
    assert plan_of(scene, model, budget="48").way == "learned by need"
