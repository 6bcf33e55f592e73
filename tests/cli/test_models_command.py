"""`geodeform models` as a user meets it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from geodeform.cli.main import main
from geodeform.cli.options import SizeType
from geodeform.config import TrainConfig
from geodeform.models.model_file import load_model, locate_model, read_spec, save_model


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["models", *map(str, args)])


def rewritten(target: Path, **changes: object) -> Path:
    """The packaged model with another description."""
    model = load_model("dubai")
    model.spec = replace(model.spec, **changes)
    target.parent.mkdir(parents=True, exist_ok=True)
    return save_model(model, target, half=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one below the other, and files that are not models."""
    folder = tmp_path_factory.mktemp("work") / "runs"
    rewritten(
        folder / "u64" / "model.safetensors",
        sampler="uniform",
        window_px=(512, 768),
        sample_size=(64, 96),
    )
    rewritten(folder / "old" / "second[1]" / "model.safetensors", metrics={})
    (folder / "u64" / "config.yaml").write_text("data: {}")
    return folder


# ---- list ----------------------------------------------------------------------------------------


def rows(done: Result) -> dict[str, list[str]]:
    """The table's cells by the first one."""
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    return {words[0]: words[1:] for words in lines if len(words) > 1}


def test_the_packaged_model_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no runs here
    done = run("list")
    assert done.exit_code == 0, done.output
    assert rows(done)["dubai"] == [
        "lite0", "density/learned", "5", "1024x1024", "128x128", "56.4%", "packaged",
    ]  # fmt: skip
    assert done.stderr == ""


def test_models_below_a_folder_are_listed(runs: Path) -> None:
    done = run("list", runs)
    assert done.exit_code == 0, done.output
    found = rows(done)
    assert list(found)[1:] == ["dubai", "old/second[1]", "u64"]  # after the headings
    assert found["u64"] == [
        "lite0", "density/uniform", "5", "512x768", "64x96", "55.4%",
        str(runs / "u64" / "model.safetensors"),
    ]  # fmt: skip
    assert found["old/second[1]"][-2:] == [
        "128x128", str(runs / "old" / "second[1]" / "model.safetensors"),
    ]  # fmt: skip


def test_runs_are_the_default_and_json_says_the_same(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs.parent)
    models = json.loads(run("list", "--json").stdout)["models"]
    assert [m["name"] for m in models] == ["dubai", "old/second[1]", "u64"]
    assert [m["packaged"] for m in models] == [True, False, False]
    assert [m["val_miou"] for m in models] == [0.5644, None, 0.554]
    assert models[2] == {
        "name": "u64",
        "packaged": False,
        "path": "runs/u64/model.safetensors",
        "architecture": "lite0",
        "downsampler": "density",
        "sampler": "uniform",
        "classes": ["Building", "Land", "Road", "Vegetation", "Water"],
        "window_px": [512, 768],
        "sample_size": [64, 96],
        "val_miou": 0.554,
    }
    for model in models[1:]:
        assert read_spec(model["path"]).architecture == "lite0"


def test_a_model_right_in_the_folder_has_the_folders_name(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "u64" in rows(run("list", runs / "u64"))
    monkeypatch.chdir(runs / "u64")
    assert "u64" in rows(run("list", "."))


def test_files_that_are_no_models_are_reported_and_the_others_listed(
    runs: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(runs, tmp_path / "runs")
    broken = folder / "broken" / "model.safetensors"
    broken.parent.mkdir()
    broken.write_bytes((folder / "u64" / "model.safetensors").read_bytes()[:5000])
    done = run("list", folder)
    assert done.exit_code == 1
    assert "u64" in rows(done)
    assert [line for line in done.stderr.splitlines() if line] == [
        f"Error: {broken} is cut off inside its header; get or train it again."
    ]
    told = json.loads(run("list", folder, "--json").stdout)["models"]
    assert [m.get("error") for m in told] == [
        None, f"{broken} is cut off inside its header; get or train it again.", None, None,
    ]  # fmt: skip


def test_a_folder_without_models_and_one_that_is_missing(tmp_path: Path) -> None:
    done = run("list", tmp_path)
    assert done.exit_code == 0
    assert f"no model.safetensors below {tmp_path}" in done.stderr
    done = run("list", tmp_path / "nowhere")
    assert done.exit_code == 1
    assert done.stderr == (
        f"Error: There is no folder {tmp_path / 'nowhere'}; give one that holds training runs.\n"
    )


# ---- show ----------------------------------------------------------------------------------------


def test_show_tells_everything() -> None:
    done = run("show", "dubai")
    assert done.exit_code == 0, done.output
    spec = read_spec("dubai")
    for told in (
        "#D6483E  Building",
        "red, green, blue, values 0 to 255",
        "ground sampling distance 1 m",
        "1024x1024 px (1024 x 1024 m)",
        "samples 128x128 a window, trained with 64x64, 96x96, 128x128",
        "downsampler density; samplers learned, uniform (default learned, area)",
        spec.training_data,
        spec.licence,
        spec.description,
        "val_miou: 0.5644",
        f"6.7 MB, 3,255,986 parameters (F16), written by geodeform {spec.geodeform_version}",
    ):
        assert told in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.splitlines())


def test_parameters_are_counted_from_the_header_alone() -> None:
    told = json.loads(run("show", "dubai", "--json").stdout)
    model = load_model("dubai")
    assert told["parameters"] == sum(p.numel() for p in model.parameters())
    assert told["weights"] == ["F16"]
    with locate_model("dubai") as path:
        assert told["path"] == str(path)
        assert told["file_bytes"] == path.stat().st_size
    description = json.loads(model.spec.to_json())
    assert {key: told[key] for key in description} == description


def test_a_model_of_a_file_and_without_metrics(runs: Path) -> None:
    path = runs / "old" / "second[1]" / "model.safetensors"
    done = run("show", path)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{path}  lite0")
    assert "metrics" not in done.stdout


def test_the_recipe_can_be_trained_again(tmp_path: Path) -> None:
    done = run("show", "dubai", "--recipe")
    assert done.exit_code == 0, done.output
    (tmp_path / "again.yaml").write_text(done.stdout)
    config = TrainConfig.from_yaml(tmp_path / "again.yaml")
    stored, usual = read_spec("dubai").recipe, TrainConfig().to_dict()
    for section, values in json.loads(json.dumps(config.to_dict())).items():
        # settings that came later are at their defaults
        assert values == {**usual[section], **stored[section]}
    as_json = run("show", "dubai", "--recipe", "--json").stdout
    assert json.loads(as_json) == yaml.safe_load(done.stdout)


def test_a_model_without_a_recipe_says_so(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "model.safetensors", recipe={})
    assert "no recipe stored" in run("show", path).stdout
    done = run("show", path, "--recipe")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {path} holds no recipe")
    assert done.stdout == ""


def test_show_of_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_text("this is no model")
    for model, message in (
        (tmp_path / "m.safetensors", "is not a safetensors file"),
        ("dubay", "dubay is not there (did you mean 'dubai'?)"),
        (tmp_path, "is a folder"),
    ):
        done = run("show", model)
        assert done.exit_code == 1
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_list_and_show_need_no_torch(runs: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"  # any import of torch now fails
        "from geodeform.cli.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)"
    )
    for args in (["list", str(runs)], ["show", "dubai"], ["show", "dubai", "--recipe"]):
        subprocess.run(
            [sys.executable, "-c", code, "models", *args],
            check=True,
            capture_output=True,
            timeout=60,
        )


# ---- export --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_export_writes_a_checked_file(tmp_path: Path) -> None:
    path = tmp_path / "dubai.pt2"
    done = run("export", "dubai", "-o", path, "--window", "160x128", "--size", "32")
    assert done.exit_code == 0, done.output
    assert list(tmp_path.iterdir()) == [path]
    assert "model dubai, lite0 · device CPU" in done.stderr
    told = done.stdout
    assert told.startswith(f"{path}  torch.export, 14.")
    assert "image         (B, 3, 160, 128) float32, raw values 0 to 255 of red, green, blue" in told
    assert "probabilities (B, 5, 32, 32)" in told
    assert "density       (B, 1, 10, 8)" in told
    assert "on 2 windows of the packaged scene; largest difference from the model: prob" in told
    module = torch.export.load(path).module()
    probabilities = module(torch.full((1, 3, 160, 128), 120.0))[0]
    np.testing.assert_allclose(probabilities.sum(1).detach().numpy(), 1, atol=1e-5)


def test_existing_files_are_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "dubai.onnx"
    path.write_text("precious")
    done = run("export", "dubai", "-o", path)
    assert done.exit_code == 1
    assert done.stderr == f"Error: {path} exists already; use --overwrite to replace it.\n"
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.safetensors", "-o", "m.onnx"], "missing.safetensors is not there"),
        (["dubai", "-o", "no/m.onnx"], "the folder no does not exist"),
    ],
)
def test_export_of_bad_input_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("export", *arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "dubai"],
        ["export", "dubai", "-o", "m.tflite"],
        ["export", "dubai", "-o", "m.onnx", "--window", "64x0"],
        ["export", "dubai", "-o", "m.onnx", "--size", "big"],
        ["show"],
        ["list", "a", "b"],
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_sizes_are_height_by_width() -> None:
    assert SizeType().convert("512", None, None) == (512, 512)
    assert SizeType().convert("512x768", None, None) == (512, 768)


def test_windows_to_check_on_are_real_and_on_the_models_scale() -> None:
    from geodeform.cli.models import _real_windows

    spec = read_spec("dubai")
    windows = _real_windows(spec, (300, 200))
    assert windows.shape == (2, 3, 300, 200)
    assert windows.std() > 20
    assert 0 <= windows.min() < windows.max() <= 255
    four = replace(
        spec,
        in_channels=4,
        bands=("red", "green", "blue", "nir"),
        scaling=replace(spec.scaling, max_value=10_000, mean=(0.5,) * 4, std=(0.5,) * 4),
    )
    wide = _real_windows(four, (300, 200))
    np.testing.assert_allclose(wide[:, :3], windows * (10_000 / 255), rtol=1e-6)
    np.testing.assert_array_equal(wide[:, 3], wide[:, 0])
    larger = _real_windows(spec, (64, 5000))  # than the scene is wide
    assert larger.shape == (2, 3, 64, 5000)
    assert larger.std() > 20
