"""The labelled scenes that a model is evaluated on: which items of a dataset, decoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from geodeform.classes import ClassScheme
from geodeform.config import DataConfig, TrainConfig
from geodeform.deform.coords import Size
from geodeform.errors import ConfigError, DatasetError
from geodeform.models.spec import ModelSpec
from geodeform.training.cache import CachedScene, SceneCache
from geodeform.training.datasets.base import DatasetOptions, listed
from geodeform.training.datasets.registry import open_dataset

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
"""Parts of a dataset."""

_SETTINGS = (
    "classes", "label_column", "bands", "nodata", "val_items", "split_seed", "crop", "cache",
)  # fmt: skip
"""Settings of :class:`geodeform.config.DataConfig` that say which data these are."""


@dataclass(frozen=True)
class EvaluationData:
    """Labelled items of a dataset; one is in memory at a time.

    Attributes:
        dataset: Name of the dataset.
        split: Part that the items are, "" where they were named.
        items: Names of the items.
        classes: Names and colours of the label ids.
        bands: Names of the images' bands.
        gsd_m: Ground sampling distance in metres, None where it is unknown or varies.
        crop: Central part (H, W) of every image that is used; None for all.
        trained_on: Those of the items that the model was trained on, as far as its recipe says.
        cache: Gives the items decoded.
    """

    dataset: str
    split: str
    items: tuple[str, ...]
    classes: ClassScheme
    bands: tuple[str, ...]
    gsd_m: float | None
    crop: Size | None
    trained_on: tuple[str, ...]
    cache: SceneCache

    def scene(self, item: str) -> CachedScene:
        """Return an item, decoded now where it is not cached.

        Raises:
            DatasetError: If it cannot be decoded.
        """
        return self.cache.scene(item)


def open_evaluation_data(
    dataset: str,
    root: str | Path,
    *,
    split: SplitName = "val",
    items: Sequence[str] = (),
    spec: ModelSpec | None = None,
    settings: Mapping[str, Any] | None = None,
) -> EvaluationData:
    """Find the items of a dataset to evaluate on.

    A model remembers which items of its dataset were held out: where it was trained on the same
    one, its own split is taken, so that ``val`` never means images that it learned from.

    Args:
        dataset: Name of the dataset.
        root: Its folder.
        split: Part of it.
        items: Items by name, instead of a part.
        spec: The model's specification, with the recipe that it was trained by.
        settings: ``data.KEY`` → value: ``classes``, ``label_column``, ``bands``, ``nodata``,
            ``val_items``, ``split_seed``, ``crop`` or ``cache`` of
            :class:`geodeform.config.DataConfig`. They go before the model's recipe.

    Raises:
        ConfigError: If a setting is unknown, out of range, or says nothing about the data.
        DatasetError: If the folder has another layout, an item is not there, or the part is empty.
    """
    recipe = dict(spec.recipe.get("data") or {}) if spec is not None else {}
    known = recipe.get("dataset") == dataset
    config = _data_config(recipe if known else {}, settings or {})
    opened = open_dataset(dataset, root, DatasetOptions.of(config))
    elsewhere = [item for item in config.val_items if item not in opened.items]
    if elsewhere and "data.val_items" not in (settings or {}):
        # other images of that name, such as another user's folder: the model's split is not theirs
        known, config = False, replace(config, val_items=())
    absent = [item for item in (*items, *config.val_items) if item not in opened.items]
    if absent:
        raise DatasetError(f"Item {absent[0]} is not in {root}, which has {listed(opened.items)}.")
    chosen = tuple(dict.fromkeys(items))  # an item that is named twice would count twice
    if not chosen and split == "val":
        chosen = config.val_items
    trained: frozenset[str] = frozenset()
    if not chosen or known:
        try:
            parts = opened.split(config.val_items, seed=config.split_seed)
        except DatasetError:
            if not chosen:  # else nothing depends on the split: as where only held-out items lie
                raise
        else:
            trained = frozenset(parts.train if known else ())
            chosen = chosen or tuple(parts.to_dict()[split])
    if not chosen:
        raise DatasetError(
            f"{root} has no items for the part '{split}'; choose another with --split, or name "
            f"some with --items: it has {listed(opened.items)}."
        )
    return EvaluationData(
        dataset=dataset,
        split="" if items else split,
        items=chosen,
        classes=opened.classes,
        bands=opened.bands,
        gsd_m=opened.gsd_m,
        crop=config.crop,
        trained_on=tuple(item for item in chosen if item in trained),
        cache=SceneCache.by_setting(opened, config.cache),
    )


def band_numbers(data: EvaluationData, spec: ModelSpec) -> tuple[int, ...]:
    """1-based bands of the images that are the model's, by name.

    Raises:
        ConfigError: If the images lack one.
    """
    missing = [name for name in spec.bands if name not in data.bands]
    if missing:
        raise ConfigError(
            f"The images of {data.dataset} have the bands {', '.join(data.bands)}, the model also "
            f"takes {missing[0]}: choose a model for these bands."
        )
    return tuple(data.bands.index(name) + 1 for name in spec.bands)


def check_classes(data: EvaluationData, spec: ModelSpec) -> None:
    """Check that a model predicts the classes of the labels.

    Raises:
        ConfigError: If they differ in name or order.
    """
    if data.classes.names != spec.classes.names:
        raise ConfigError(
            f"The labels of {data.dataset} are {listed(data.classes.names)}, but the model "
            f"predicts {listed(spec.classes.names)}: evaluate it on the dataset that it was "
            "trained on, or one of the same classes in the same order."
        )


def _data_config(recipe: Mapping[str, Any], settings: Mapping[str, Any]) -> DataConfig:
    """The recipe's settings that say which data these are, and what was given above them."""
    for key in settings:
        section, _, name = key.partition(".")
        if section != "data" or name not in _SETTINGS:
            raise ConfigError(
                f"{key} has no effect on an evaluation; what has one is "
                f"{', '.join(f'data.{known}' for known in _SETTINGS)}."
            )
    # where the classes file lay is not in a recipe, and where data are decoded is no part of them
    kept = {
        f"data.{name}": recipe[name]
        for name in _SETTINGS
        if name in recipe and name not in ("classes", "cache")
    }
    return TrainConfig().merged({**kept, **settings}).data
