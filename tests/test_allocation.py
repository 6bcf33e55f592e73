"""Allocation: samples go where they take away most errors."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geodeform.allocation import allocate
from geodeform.errors import ConfigError

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
