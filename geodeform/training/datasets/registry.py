"""Datasets by name."""

from __future__ import annotations

from pathlib import Path

from geodeform.errors import ConfigError
from geodeform.models.spec import nearest_names
from geodeform.training.datasets.base import DatasetOptions, LabelledDataset
from geodeform.training.datasets.camvid import CamVid
from geodeform.training.datasets.cityscapes import Cityscapes
from geodeform.training.datasets.deepglobe import DeepGlobeLandCover
from geodeform.training.datasets.dubai import DubaiScenes
from geodeform.training.datasets.folder import FolderScenes
from geodeform.training.datasets.histo import HistologyImages
from geodeform.training.datasets.torchgeo_sets import (
    GID15,
    LandCoverAI,
    LoveDA,
    Potsdam,
    Vaihingen,
)

DATASETS: dict[str, type[LabelledDataset]] = {
    kind.info.name: kind
    for kind in (
        DeepGlobeLandCover,
        Cityscapes,
        HistologyImages,
        CamVid,
        DubaiScenes,
        LoveDA,
        LandCoverAI,
        Potsdam,
        Vaihingen,
        GID15,
        FolderScenes,
    )
}
"""Every dataset that ``geodeform train --dataset`` takes, by name."""


def open_dataset(
    name: str, root: str | Path, options: DatasetOptions | None = None
) -> LabelledDataset:
    """Open a dataset's folder.

    Raises:
        ConfigError: If there is no such dataset.
        DatasetError: If the folder has another layout.
    """
    if name not in DATASETS:
        raise ConfigError(
            f"There is no dataset '{name}'{nearest_names(name, list(DATASETS))}; "
            f"known are {', '.join(DATASETS)}."
        )
    return DATASETS[name](root, options)
