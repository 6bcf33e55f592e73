"""Settings: round trips, and errors that name the key and the nearest one."""

from __future__ import annotations

from pathlib import Path

import pytest

from geodeform.config import DATASET_RECIPES, TrainConfig
from geodeform.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))
RECIPE_OF = {
    "deepglobe": "deepglobe/joint_100.yaml",
    "cityscapes": "cityscapes/joint_64x128.yaml",
    "pca-histo": "pca-histo/joint_80x800.yaml",
    "camvid": "camvid.yaml",
}


def test_dictionary_and_yaml_round_trips(tmp_path):
    config = TrainConfig.from_dict(
        {"model": {"sizes": [64, 80], "sigma": 4}, "data": {"scale": [1, 1.5], "val_items": [7, 8]}}
    )
    assert config.model.sigma == 4.0
    assert config.model.sizes == ((64, 64), (80, 80))
    assert TrainConfig.from_dict(config.to_dict()) == config
    path = tmp_path / "recipe.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert TrainConfig.from_yaml(path) == config


def test_there_is_a_recipe():
    assert [path.name for path in RECIPES].count("dubai.yaml") == 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_is_valid(path):
    config = TrainConfig.from_yaml(path)
    assert TrainConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": {"learning_rate": 1}}, "Unknown setting 'optim.learning_rate'"),
        ({"optim": {"step": 1}}, "did you mean 'optim.steps'"),
        ({"optin": {}}, "did you mean 'optim'"),
        ({"model": {"batch_size": 4}}, "did you mean 'optim.batch_size'"),
        (
            {"model": {"sampler": "edges"}},
            "'model.sampler' must be one of joint, single, uniform, edge,",
        ),
        ({"model": {"sizes": []}}, "'model.sizes' needs at least one"),
        (
            {"model": {"sizes": ["big"]}},
            "'model.sizes' must be a size such as 128, 40x400 .*, got 'big'",
        ),
        ({"model": {"sampler": "uniform", "uniform_share": 0.5}}, "has no effect"),
        ({"model": {"sampler": "fixed", "uniform_share": 0.5}}, "has no effect .* 'fixed'"),
        (
            {"data": {"extra_windows": [128]}},
            "needs one window for each of the 0 model",
        ),
        ({"data": {"extra_windows": [16]}}, "data.extra_windows.* at least 32 pixels"),
        ({"model": {"extra_sizes": [4]}}, "model.extra_sizes.* must lie in 8"),
        (
            {"data": {"extra_windows": [64]}, "model": {"extra_sizes": [64], "sampler": "fixed"}},
            "which the sampler 'fixed' never does",
        ),
        (
            {
                "data": {"window": None, "scale": [1, 1], "balance": 0, "extra_windows": [64]},
                "model": {"extra_sizes": [64]},
            },
            "go with windows of one size",
        ),
        ({"model": {"density_kernel": 4}}, "'model.density_kernel' must be odd, got 4"),
        ({"model": {"density_kernel": -3}}, "'model.density_kernel' must be odd"),
        ({"model": {"density_context": -1}}, "'model.density_context' must lie in 0…8"),
        (
            {"model": {"sampler": "uniform", "density_context": 2}},
            "'model.density_context' has no effect with the sampler 'uniform'",
        ),
        ({"model": {"density_coords": 1}}, "'model.density_coords' must be true or false"),
        ({"model": {"sigma_start": 0}}, "'model.sigma_start' must be positive"),
        ({"loss": {"gamma_end": -1}}, "'loss.gamma_end' must be ≥ 0"),
        ({"loss": {"edge_weights": "root"}}, "'loss.edge_weights' must be one of none, sqrt, inv"),
        ({"optim": {"lr": "fast"}}, "'optim.lr' must be a number"),
        ({"optim": {"lr": -1}}, "'optim.lr' must be positive, got -1.0"),
        ({"optim": {"steps": True}}, "'optim.steps' must be a whole number"),
        ({"data": {"scale": [1]}}, "'data.scale' needs 2 values"),
        ({"data": {"scale": [2, 1]}}, "'data.scale' must be"),
        ({"data": 3}, "'data' must be a section"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_dict(values)


def test_overrides_replace_single_settings():
    config = TrainConfig().merged({"optim.lr": 3e-4, "model.sizes": [32]})
    assert config.optim.lr == 3e-4
    assert config.model.size == (32, 32)
    assert config.data == TrainConfig().data
    with pytest.raises(ConfigError, match=r"did you mean 'optim\.lr'"):
        config.merged({"optim.lrr": 1})
    with pytest.raises(ConfigError, match="Unknown setting"):
        config.merged({"lr": 1})


def test_numbers_without_a_dot_are_numbers(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("optim:\n  lr: 1e-3\n", encoding="utf-8")
    assert TrainConfig.from_yaml(path).optim.lr == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "must hold sections"),
        ("a: 2020-13-45", "not valid YAML"),
        ("optim: {lrr: 1}", "optim.lr'"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        TrainConfig.from_yaml(path)
    assert "bad.yaml" in str(caught.value)
    path.write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(ConfigError, match=r"bad\.yaml is not a text file"):
        TrainConfig.from_yaml(path)
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        TrainConfig.from_yaml(tmp_path / "absent.yaml")


def test_the_packaged_models_recipe_is_that_of_its_dataset():
    recipe = Path(__file__).parents[1] / "configs" / "dubai.yaml"
    written = TrainConfig.from_yaml(recipe).to_dict()
    default = TrainConfig.for_dataset("dubai").to_dict()
    # of the sizes, the largest by default
    assert written["model"].pop("default_size") == [128, 128]
    default["model"].pop("default_size")
    assert written["data"].pop("val_items") == ["7"]  # the dataset's own split
    default["data"].pop("val_items")
    assert written == default
    assert not TrainConfig().loss.jacobian  # no gain was measured


@pytest.mark.parametrize("dataset", sorted(set(DATASET_RECIPES) - {"dubai"}))
def test_a_datasets_recipe_is_that_of_its_file(dataset):
    path = CONFIGS / RECIPE_OF[dataset]
    written, built_in = (
        TrainConfig.from_yaml(path).to_dict(),
        TrainConfig.for_dataset(dataset).to_dict(),
    )
    assert built_in["run"].pop("out") == f"runs/{dataset}"
    assert written["run"].pop("out") == f"runs/{RECIPE_OF[dataset].removesuffix('.yaml')}"
    assert written == built_in


def test_new_options_are_off():
    config = TrainConfig()
    model, loss = config.model, config.loss
    assert (model.density_kernel, model.density_coords, model.density_context) == (3, False, 0)
    assert (model.sigma_start, loss.gamma_end, loss.edge_weights) == (None, None, "none")
    fixed = config.merged({"model.sampler": "fixed", "model.sigma_start": "8", "loss.gamma_end": 1})
    assert (fixed.model.learns_where, fixed.model.uniform_part) == (False, 0.0)
    assert (fixed.model.sigma_start, fixed.loss.gamma_end) == (8.0, 1.0)
