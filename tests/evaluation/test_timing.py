"""Timing: every method in turn, on the same images, the medians kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from evaluation_scenes import VILLAS, data_of, demo_cut

import geodeform
import geodeform.evaluation.timing as timing
from geodeform.errors import ConfigError
from geodeform.evaluation.campaign import plan_campaign
from geodeform.evaluation.experiment import read_experiment
from geodeform.evaluation.timing import (
    Times,
    first_trainings,
    measure_times,
    read_times,
    write_times,
)
from geodeform.models.model_file import PACKAGED


@pytest.fixture
def planned(tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    methods = {
        "uniform": {"settings": {"model.sampler": "uniform"}},
        "joint": {"settings": {"model.sampler": "joint"}},
        "bound": {"network_of": "joint", "sampler": "oracle"},
        "absent": {"settings": {"model.sigma": 9.0}},
    }
    path = tmp_path / "e.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "recipe": "recipe.yaml",
                "budgets": [32, 64],
                "baseline": "uniform",
                "seeds": [0, 1],
                "methods": methods,
            },
            sort_keys=False,
        )
    )
    experiment = read_experiment(path)
    works = plan_campaign(experiment, tmp_path / "out")
    packaged = Path(geodeform.__file__).parent / "data" / PACKAGED["dubai"]
    for work in works:
        if "absent" not in work.title:
            work.model.parent.mkdir(parents=True)
            shutil.copy(packaged, work.model)
    return experiment, works


def test_methods_take_turns_in_changing_order_and_medians_count(planned, monkeypatch):
    experiment, works = planned
    order: list[tuple[str, str | None]] = []
    clock = {"32x32": [9.0, 1.0, 7.0, 2.0], "64x64": [9.0, 4.0, 4.0, 8.0]}  # a warm-up each

    def pretend(settings, image, labels, painters):
        budget, name = settings.budget, settings.way.name
        seconds = clock[budget][sum(one == (name, budget) for one in order)]
        order.append((name, budget))
        return seconds, 2 * seconds

    monkeypatch.setattr(timing, "time_prediction", pretend)
    pixels, labels = demo_cut(VILLAS)
    times = measure_times(experiment, works, data_of(a=(pixels, labels)), rounds=3)
    cells = [(m, b) for m in ("uniform", "joint", "bound") for b in ((32, 32), (64, 64))]
    assert list(times) == cells  # what is not trained is left out
    rounds = [order[k : k + 6] for k in range(0, 24, 6)]
    assert all(sorted(one) == sorted(rounds[0]) for one in rounds)  # all of them, each round
    assert len(set(rounds[0])) == 6
    assert len(set(map(tuple, rounds))) > 2  # nobody always comes after the same
    share = labels.size / 1e6
    for method, budget in cells:
        median = 2.0 if budget == (32, 32) else 4.0
        assert times[method, budget].seconds == pytest.approx(median / share)
        assert times[method, budget].cpu_seconds == pytest.approx(2 * median / share)
        each = np.array(times[method, budget].rounds) * share
        assert each[:, 0] == pytest.approx(clock["32x32" if budget == (32, 32) else "64x64"][1:])


def test_points_of_studies_are_not_timed(planned, tmp_path):
    path = tmp_path / "e.yaml"
    values = yaml.safe_load(path.read_text())
    values["studies"] = {"s": {"method": "joint", "setting": "model.sigma", "values": [1.0, 2.0]}}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    with_studies = read_experiment(path)
    assert len(with_studies.methods) == len(planned[0].methods) + 2
    assert first_trainings(with_studies) == first_trainings(planned[0])


def test_real_times_are_those_of_the_images(planned):
    experiment, works = planned
    data = data_of(a=demo_cut(VILLAS))
    told: list[tuple[int, int]] = []
    times = measure_times(
        experiment, works, data, rounds=1, progress=lambda *step: told.append(step)
    )
    assert all(0 < one.cpu_seconds < 600 and one.seconds > 0 for one in times.values())
    assert told[-1] == (12, 12)


def test_times_are_kept_for_the_same_networks_on_the_same_device(tmp_path):
    times = {
        ("a", (32, 48)): Times(((1.5, 2.5), (1.0, 2.0), (7.0, 9.0))),
        ("full", None): Times(((30.0, 60.0),)),
    }
    assert (times["a", (32, 48)].seconds, times["a", (32, 48)].cpu_seconds) == (1.5, 2.5)
    keys = {("a", (32, 48)): "k1", ("full", None): "k2"}
    path = tmp_path / "t.json"
    write_times(times, path, keys, "CPU (1 thread)")
    assert read_times(path, keys) == times
    assert read_times(path, keys, "CPU (1 thread)") == times
    assert read_times(path, keys, "CPU (2 threads)") == {}
    other = {**keys, ("a", (32, 48)): "k3"}  # another network under the same name
    assert list(read_times(path, other)) == [("full", None)]
    assert read_times(tmp_path / "none.json", keys) == {}
    path.write_text('{"device": "", "cells": [{}]}')
    with pytest.raises(ConfigError, match=r"t\.json is damaged"):
        read_times(path, keys)
