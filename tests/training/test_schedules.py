"""Schedules: hand-computed values, and few different kernels."""

from __future__ import annotations

import pytest

from geodeform.training.schedules import SIGMA_STAGES, gamma_at, sigma_at


def test_gamma_runs_linearly():
    found = [gamma_at(step, 5, start=10.0, end=2.0) for step in range(5)]
    assert found == [10.0, 8.0, 6.0, 4.0, 2.0]
    assert gamma_at(0, 1, start=10.0, end=2.0) == 10.0
    assert gamma_at(2, 3, start=0.0, end=7.0) == 7.0


def test_sigma_runs_geometrically_in_stages():
    steps = 160
    found = [sigma_at(step, steps, start=32.0, end=4.0) for step in range(steps)]
    assert len(set(found)) == SIGMA_STAGES == 16
    assert found == sorted(found, reverse=True)
    assert found[:10] == [32.0] * 10
    assert found[-10:] == [4.0] * 10
    # a factor of 8 in 15 equal ones: 2 to the power of 1/5 each
    assert found[10] == pytest.approx(32 / 2**0.2)
    assert found[55] == pytest.approx(16)
    assert found[109] == pytest.approx(8)
    assert sigma_at(159, steps, start=1.0, end=2.7) == 2.7  # exactly: its matrices are there


def test_sigma_stays_where_no_start_is_given():
    assert {sigma_at(step, 7, start=None, end=3.3) for step in range(7)} == {3.3}


def test_short_trainings_skip_stages():
    found = [sigma_at(step, 3, start=8.0, end=1.0) for step in range(3)]
    # of 0…15 the stages 0, 5 and 10
    assert found == pytest.approx([8.0, 4.0, 2.0])
