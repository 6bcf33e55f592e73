"""Every recipe below configs/: it says what its name says, and it trains."""

from __future__ import annotations

import csv
import ctypes
import gc
import itertools
import math
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from PIL import Image

from geodeform.budget import within_sides
from geodeform.cli.train import command
from geodeform.config import TrainConfig, parse_settings
from geodeform.models.model_file import load_model, read_spec
from geodeform.training.datasets.deepglobe import DeepGlobeLandCover
from geodeform.training.datasets.dubai import DubaiScenes
from geodeform.training.task import GeodeformTask
from geodeform.training.train import train
from geodeform.training.windows import to_network

CONFIGS = Path(__file__).parents[2] / "configs"
SAMPLERS = (
    "joint",
    "single",
    "uniform",
    "uniform_area",
    "edge",
    "edge_learned",
    "interpolation",
)
SIZES = {
    "deepglobe": ("", ("50", "100", "200", "300")),
    "cityscapes": ("", ("16x32", "32x64", "64x128", "128x256")),
    "cityscapes, PSPNet": ("pspnet_", ("64", "128", "256")),
    "pca-histo": ("", ("40x400", "80x800")),
}
RUNS = [
    f"{dataset.partition(',')[0]}/{prefix}{sampler}_{size}.yaml"
    for dataset, (prefix, sizes) in SIZES.items()
    for sampler, size in itertools.product(SAMPLERS, sizes)
]
BASES = {
    "deepglobe/base.yaml": "deepglobe/joint_100.yaml",
    "cityscapes/base.yaml": "cityscapes/joint_64x128.yaml",
    "cityscapes/pspnet_base.yaml": "cityscapes/pspnet_joint_64.yaml",
    "pca-histo/base.yaml": "pca-histo/joint_80x800.yaml",
}
SMALL = ("camvid.yaml", "dubai.yaml")
ALL = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob("*.yaml")
    if path.parent.name != "compare"  # experiments, see tests/evaluation/test_experiment.py
)

# Full width at half maximum of the paper's kernel, and the rows of the density that it is for.
PAPERS_WIDTH = {"deepglobe": (25, 100), "cityscapes": (15, 96), "pca-histo": (25, 100)}

MEANT = {
    "joint": {"low_res", "sigma"},
    "single": {"low_res", "sigma"},
    "uniform": set(),
    "uniform_area": {"sample_mode"},
    "edge": {"low_res", "sigma", "edge_radius"},
    "edge_learned": {"low_res"},
    "interpolation": {"resizer_blocks", "resizer_filters"},
}
"""Settings of the model that a sampler's runs may change besides itself and the size."""


def name_of(path):
    """(sampler, (h, w)) that a run's name says."""
    name = Path(path).stem.removeprefix("pspnet_")
    sampler, _, size = name.rpartition("_")
    height, _, width = size.partition("x")
    return sampler, (int(height), int(width or height))


def differences(first, second):
    """Dotted keys that two recipes disagree on."""
    one, other = first.to_dict(), second.to_dict()
    return {f"{s}.{key}" for s in one for key in one[s] if one[s][key] != other[s][key]}


@cache
def recipe(path):
    return TrainConfig.from_yaml(CONFIGS / path)


@cache
def head(path):
    """The comment that a recipe begins with, as one text."""
    lines = (CONFIGS / path).read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.lstrip("# ").removesuffix("\\").rstrip() for line in comment)


def test_every_experiment_has_its_recipe():
    assert len(RUNS) == 91
    assert sorted([*RUNS, *BASES, *SMALL]) == ALL


def test_every_run_has_a_folder_of_its_own():
    for path in ALL:
        assert recipe(path).run.out == f"runs/{path[: -len('.yaml')]}"


@pytest.mark.parametrize("path", RUNS)
def test_a_run_changes_what_its_name_says_and_no_more(path):
    sampler, size = name_of(path)
    base = "pspnet_base.yaml" if "pspnet_" in path else "base.yaml"
    written = yaml.safe_load((CONFIGS / path).read_text(encoding="utf-8"))
    assert written["extends"] == base
    config = recipe(path)
    model = config.model
    assert model.sampler == ("uniform" if sampler == "uniform_area" else sampler)
    assert (model.sizes, model.size) == ((size,), size)
    assert model.sample_mode == ("area" if sampler == "uniform_area" else "bilinear")
    changed = differences(config, recipe(Path(path).with_name(base).as_posix()))
    meant = {f"model.{key}" for key in {"sampler", "sizes", *MEANT[sampler]}}
    assert changed <= {*meant, "run.out"}


@pytest.mark.parametrize("path", [p for p in RUNS if name_of(p)[0] in ("joint", "single", "edge")])
def test_the_kernel_has_the_papers_width_on_the_ground(path):
    config = recipe(path)
    size, low_res = config.model.size, config.model.low_res
    twice = path.startswith("deepglobe/") and size == (50, 50)  # table 4
    assert low_res == ((100, 100) if twice else size)
    width, rows = PAPERS_WIDTH[config.data.dataset]
    assert config.model.sigma == round(width / 2.355 * min(low_res) / rows, 1)


@pytest.mark.parametrize("path", BASES)
def test_a_base_is_the_run_that_it_says_it_is(path):
    assert f"this file is {Path(BASES[path]).name}" in head(path)
    assert differences(recipe(path), recipe(BASES[path])) == {"run.out"}


@pytest.mark.parametrize("path", ALL)
def test_what_a_head_says_can_be_done(path):
    text = head(path)
    said = re.search(r"geodeform train ((?:--[\w-]+ [\w./-]+ ?)+)", text)
    assert said is not None
    given = command.make_context("train", said[1].split()).params
    assert given["root"] is not None
    if path in RUNS or path == "camvid.yaml":
        assert given["config_path"] == Path("configs", path)
    needs_weights = path in RUNS and "pspnet" not in path
    assert (given["pretrained"] == "HRNET") == (needs_weights or path.endswith("/base.yaml"))
    # further options to try, and settings that they would change
    known = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"--[a-z][\w-]*", text)) <= known
    for setting in re.findall(r"--set (\S+=\d+)", text):
        assert differences(recipe(path).merged(parse_settings([setting])), recipe(path))


@pytest.mark.parametrize("path", [p for p in RUNS if name_of(p)[0] == "edge"])
def test_edge_runs_name_a_range_of_blurs(path):
    config = recipe(path)
    said = re.search(r"--set model\.edge_radius=R -o (\S+)_rR for R = ([\d., and]+)\.$", head(path))
    assert said is not None
    assert said[1] == config.run.out
    others = [float(word) for word in re.findall(r"[\d.]+\d|\d", said[2])]
    radii = sorted([config.model.edge_radius, *others])
    assert radii[1] == config.model.edge_radius  # the others are one smaller and some larger ones
    assert all(b == 2 * a for a, b in itertools.pairwise(radii))
    # from what the kernel hardly sees to where sampling is nearly even
    assert 0.5 <= radii[0] <= 0.032 * min(config.model.low_res)
    assert 0.12 <= radii[-1] / min(config.model.low_res) <= 0.21


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture(scope="module")
def deepglobe(shared_data, tmp_path_factory):
    """Three crops of 384 px of the real pairs, with the split in lists; and the pairs decoded."""
    root = tmp_path_factory.mktemp("deepglobe")
    crops = {"11": ("119", 0, 0), "22": ("266", 1200, 300), "33": ("119", 900, 1500)}
    for item, (real, row, column) in crops.items():
        box = (column, row, column + 384, row + 384)
        for suffix in ("sat.jpg", "mask.png"):
            with Image.open(shared_data / "deepglobe_sample" / f"{real}_{suffix}") as picture:
                cut = np.asarray(picture.convert("RGB").crop(box))
            save(root / "train" / f"{item}_{suffix}", cut, quality=95)
    for name, items in (("train", "11\n22\n"), ("val", "33\n")):
        (root / f"{name}.txt").write_text(items, encoding="utf-8")
    return root


def write_cityscapes(root, scenes):
    """Write (image, labelIds) pairs as Cityscapes does, the last one for validation."""
    for number, (image, ids) in enumerate(scenes):
        part = "val" if number == len(scenes) - 1 else "train"
        name = f"aachen_000000_{number:06d}"
        save(root / "leftImg8bit" / part / "aachen" / f"{name}_leftImg8bit.png", image)
        save(root / "gtFine" / part / "aachen" / f"{name}_gtFine_labelIds.png", ids)
    return root


@pytest.fixture(scope="module")
def cityscapes(shared_data, tmp_path_factory):
    """Three street scenes of 240x480 px, CamVid's classes as Cityscapes' ids."""
    ids_of = np.array([23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 25, 0], np.uint8)
    scenes = []
    for path in sorted((shared_data / "camvid" / "val").iterdir())[:3]:
        with Image.open(path) as picture:
            image = np.asarray(picture.convert("RGB"))[100:340]
        with Image.open(shared_data / "camvid" / "valannot" / f"{path.stem}.png") as mask:
            scenes.append((image, ids_of[np.asarray(mask)[100:340]]))
    return write_cityscapes(tmp_path_factory.mktemp("cityscapes"), scenes)


@pytest.fixture(scope="module")
def cityscapes_to_crop(shared_data, tmp_path_factory):
    """Three images of 1024x1088 px, so that central crops of 1024 fit: roofs, sand and roads."""
    ids_of = {0: 11, 1: 22, 2: 7, 3: 21, 4: 23, 255: 0}
    scene = DubaiScenes(shared_data / "dubai").load("7")
    labels = np.vectorize(ids_of.get, otypes=[np.uint8])(scene.labels[:3072, :1088])
    rows = [slice(top, top + 1024) for top in (0, 1024, 2048)]
    scenes = [(scene.image[part, :1088], labels[part]) for part in rows]
    return write_cityscapes(tmp_path_factory.mktemp("cityscapes_to_crop"), scenes)


@pytest.fixture(scope="module")
def histo(shared_data, tmp_path_factory):
    """Strips of three shapes, lying and upright; DeepGlobe's six classes stand for the paper's."""
    root = tmp_path_factory.mktemp("histo")
    pairs = DeepGlobeLandCover(shared_data / "deepglobe_sample")
    strips = {
        "train/lying": ("119", slice(400, 496), slice(100, 1000)),
        "train/upright": ("266", slice(1000, 1640), slice(400, 528)),
        "val/lying": ("119", slice(900, 1028), slice(1500, 2140)),
    }
    for name, (item, rows, columns) in strips.items():
        part, _, stem = name.partition("/")
        scene = pairs.load(item)
        save(root / part / "images" / f"{stem}.png", scene.image[rows, columns])
        save(root / part / "masks" / f"{stem}.png", scene.labels[rows, columns])
    return root


@pytest.fixture(scope="module")
def camvid(shared_data, tmp_path_factory):
    """Two training images and one held out."""
    root = tmp_path_factory.mktemp("camvid")
    for part, count in (("train", 2), ("val", 1)):
        for path in sorted((shared_data / "camvid" / part).iterdir())[:count]:
            masks = f"{part}annot"
            for folder, name in ((part, path.name), (masks, f"{path.stem}.png")):
                (root / folder).mkdir(exist_ok=True)
                shutil.copy(shared_data / "camvid" / folder / name, root / folder / name)
    return root


@pytest.fixture(scope="module")
def dubai(shared_data, tmp_path_factory):
    """Tiles 1 and 7 of nine parts of 360 px each."""
    root = tmp_path_factory.mktemp("dubai")
    for tile in ("Tile 1", "Tile 7"):
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            for part in range(1, 10):
                name = f"image_part_{part:03d}.{suffix}"
                with Image.open(shared_data / "dubai" / tile / kind / name) as source:
                    cut = np.asarray(source.convert("RGB").crop((60, 60, 420, 420)))
                save(root / tile / kind / name, cut, quality=95)
    return root


@pytest.fixture
def run_folder(tmp_path) -> Iterator[Path]:
    """A run's folder that goes at once: HRNet's checkpoints are gigabytes."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


class Watch:
    """Looks at a training's weights when it starts.

    Attributes:
        task: The task that trained.
        before: Its weights when it started.
    """

    def __init__(self, patch):
        original = GeodeformTask.on_fit_start

        def look(task):
            original(task)
            self.task = task
            self.before = {k: p.detach().clone() for k, p in task.model.named_parameters()}

        patch.setattr(GeodeformTask, "on_fit_start", look)

    def moved(self):
        """Share of the weights' tensors that training has changed, by network."""
        changed = {}
        for name, value in self.task.model.named_parameters():
            network = name.partition(".")[0]
            changed.setdefault(network, []).append(not torch.equal(value, self.before[name]))
        return {network: np.mean(values) for network, values in changed.items()}


def logged(run):
    """name → values of the training's log."""
    found = {}
    with next((run / "logs").glob("*/metrics.csv")).open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    found.setdefault(name, []).append(float(value))
    return found


NETWORKS = {
    "joint": {"segmenter", "density_net"},
    "single": {"segmenter", "density_net"},
    "uniform": {"segmenter"},
    "edge": {"segmenter"},
    "edge_learned": {"segmenter", "grid_net"},
    "interpolation": {"segmenter", "resizer"},
}


def tree_of(config):
    """Fixture with the small data that a recipe trains on."""
    if config.data.crop is not None:
        return "cityscapes_to_crop"
    return "histo" if config.data.dataset == "pca-histo" else config.data.dataset


@pytest.fixture
def memory_given_back():
    """Hand back what training asked glibc to keep: 93 networks would pile up to 14 GB."""
    yield
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@pytest.mark.slow
@pytest.mark.parametrize("path", [*SMALL, *RUNS])
def test_every_recipe_trains(path, run_folder, request, monkeypatch, memory_given_back):
    written = recipe(path)
    overrides = {  # for the cost alone: network, sampler, sizes, losses and optimiser stay
        "data.root": str(request.getfixturevalue(tree_of(written))),
        "data.workers": 0,
        "model.pretrained": "none",
        "optim.steps": 2,
        "optim.batch_size": 2,
        "run.out": str(run_folder),
        "run.device": "cpu",
        "run.val_windows": 1,
        "run.panel_every": 0.0,
    }
    config = written.merged(overrides)
    keeps = path in (*SMALL, *BASES.values())
    if not keeps:  # HRNet's are 1.6 GB a run, 115 GB in all: a few runs show that they are written
        monkeypatch.setattr(Trainer, "save_checkpoint", lambda *_, **__: None)
    watch = Watch(monkeypatch)
    result = train(config)

    assert (run_folder / "checkpoints" / "last.ckpt").is_file() == keeps
    values = logged(run_folder)
    assert all(math.isfinite(v) for column in values.values() for v in column)
    assert values["train_segmentation"][-1] > 0
    if config.model.uniform_part == 0:
        assert ("train_edge" in values) == (config.model.sampler in ("joint", "edge_learned"))
    assert 0 < values["lr"][-1] <= config.optim.lr * 1.001
    moved = watch.moved()
    beside = {"error_net"} if config.model.error_net else set()
    assert set(moved) == NETWORKS[config.model.sampler] | beside
    assert min(moved.values()) > 0.9, moved

    assert TrainConfig.from_yaml(run_folder / "config.yaml") == config
    spec = read_spec(result.model)
    for section, settings in written.to_dict().items():
        for key, value in settings.items():
            if f"{section}.{key}" not in overrides:
                assert spec.recipe[section][key] == value, f"{section}.{key}"
    assert spec.metrics["steps"] == 2

    model = load_model(result.model)
    window = watch.task.trainer.datamodule.val_windows(1)[0]
    shape = window["labels"].shape[1:]
    size = config.model.size
    if config.model.sizing == "sides":
        size = within_sides(tuple(shape), size)
    with torch.inference_mode():
        prediction = model(
            to_network(window["image"], window["table"]),
            window["size"],
            low_res=window["low_res"],
            sampler=spec.samplers[0],
            labels=window["labels"],
        )
    assert prediction.logits.shape == (1, len(spec.classes), *size)
    assert bool(prediction.logits.isfinite().all())
    assert float(prediction.grid.abs().max()) <= 1
