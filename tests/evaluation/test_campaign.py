"""Campaigns: really trained and evaluated, by the commands, on cuts of the packaged scene."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from evaluation_scenes import write_dubai
from rasterio.windows import Window

from geodeform.evaluation.campaign import Done, plan_campaign, read_results, run_campaign
from geodeform.evaluation.experiment import read_experiment
from geodeform.training.datasets.registry import open_dataset

TILES = {
    "tile1": Window(1536, 1024, 480, 480),
    "tile2": Window(2016, 1024, 480, 480),
    "tile7": Window(1536, 1504, 480, 480),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dubai")
    write_dubai(folder, **TILES)
    return folder


def an_experiment(folder: Path, **settings):
    recipe = {
        "data": {"dataset": "dubai", "window": 256, "val_items": [7], "cache": "none"},
        "model": {"pretrained": "none", "low_res": 16, "sigma": 2.0, "uniform_share": 0},
        "optim": {"steps": 2, "batch_size": 2, "warmup": 0, "ema": 0},
        "run": {"val_windows": 1, "val_every": 2, "checkpoint_every": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    values = {
        "recipe": "recipe.yaml",
        "settings": settings,
        "budgets": [32],
        "seeds": [0],
        "baseline": "uniform",
        "methods": {
            "uniform": {"settings": {"model.sampler": "uniform"}},
            "joint": {"settings": {"model.sampler": "joint"}},
            "bound": {"network_of": "joint", "sampler": "oracle"},
        },
    }
    (folder / "e.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return read_experiment(folder / "e.yaml")


@pytest.mark.slow
def test_what_is_there_is_not_done_again(tmp_path, root):
    experiment = an_experiment(tmp_path)
    works = plan_campaign(experiment, tmp_path / "out")
    assert len(works) == 2
    told: list[Done] = []
    assert run_campaign(works, root, processes=2, report=told.append) == []
    assert all(work.is_done() for work in works)
    assert [done.failure for done in told] == [""] * 5  # two trainings, three evaluations
    assert sum(done.trial is None for done in told) == 2
    assert max(done.finished for done in told) == 2
    results = read_results(works, experiment.entries())
    assert len(results) == 3
    assert {e.method: (r.sampler, r.oracle) for e, r in results.items()} == {
        "uniform": ("uniform", False),
        "joint": ("learned", False),
        "bound": ("oracle", True),
    }
    for work in works:
        assert not (work.folder / "run" / "checkpoints").exists()
        assert (work.folder / "run" / "config.yaml").is_file()

    told.clear()
    assert run_campaign(works, root, report=told.append) == []
    assert told == []
    lost = works[1].result(works[1].trials[0])
    lost.unlink()
    assert len(works[1].commands(root)) == 1
    run_campaign(works, root, report=told.append)
    assert [(done.work.key, done.trial) for done in told] == [(works[1].key, works[1].trials[0])]
    assert lost.is_file()


def test_results_count_without_their_networks(tmp_path):
    works = plan_campaign(an_experiment(tmp_path), tmp_path / "out")
    for work in works:
        work.folder.mkdir(parents=True)
        for trial in work.trials:
            work.result(trial).touch()
    assert all(work.is_done() and work.commands(tmp_path) == [] for work in works)
    told: list[Done] = []
    assert run_campaign(works, tmp_path, report=told.append) == []
    assert told == []
    works[0].result(works[0].trials[0]).unlink()  # which needs its network again
    assert [command[0] for command in works[0].commands(tmp_path)] == ["train", "evaluate"]


@pytest.mark.slow
def test_a_failure_leaves_the_others_and_says_where(tmp_path, root):
    experiment = an_experiment(tmp_path)
    works = plan_campaign(experiment, tmp_path / "out")
    (works[0].folder / "run").mkdir(parents=True)
    (works[0].folder / "run" / "config.yaml").write_text("nonsense: [")
    failures = run_campaign(works, root)
    assert len(failures) == 1
    assert "uniform, seed 0" in failures[0]
    assert "log.txt" in failures[0]
    assert not works[0].is_done()
    assert works[1].is_done()


def test_a_process_that_could_not_say_why_it_ended(tmp_path, root, monkeypatch):
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\necho a warning\nkill -9 $$\n")
    killed.chmod(0o755)
    works = plan_campaign(an_experiment(tmp_path), tmp_path / "out")
    monkeypatch.setattr(sys, "executable", str(killed))
    failures = run_campaign(works[:1], root)
    assert len(failures) == 1
    assert "ended by SIGKILL, as when memory runs out" in failures[0]
    assert "a warning" not in failures[0]


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["SIGTERM", "SIGKILL"])
def test_a_campaign_that_is_ended_goes_on(tmp_path, root, sent):
    if sent == "SIGKILL" and not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a process that its parent was killed")
    experiment = an_experiment(tmp_path, **{"optim.steps": 40})
    works = plan_campaign(experiment.on(open_dataset("dubai", root)), tmp_path / "out")
    command = [sys.executable, "-m", "geodeform", "compare", str(tmp_path / "e.yaml")]
    command += ["--root", str(root), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    checkpoint = works[0].folder / "run" / "checkpoints" / "last.ckpt"
    end = time.monotonic() + 120
    while not checkpoint.is_file():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    steps = psutil.Process(process.pid).children(recursive=True)
    assert steps
    process.send_signal(getattr(signal, sent))
    assert process.wait(60) != 0
    assert not psutil.wait_procs(steps, timeout=60)[1]  # nothing runs on
    assert not works[0].model.exists()
    assert checkpoint.is_file()
    assert works[0].commands(root)[0][:2] == ["train", "--resume"]
    assert run_campaign(works[:1], root) == []
    assert works[0].is_done()
    log = (works[0].folder / "log.txt").read_text()
    assert log.count("$ geodeform train") == 2
    assert "--resume" in log
