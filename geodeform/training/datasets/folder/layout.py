"""Which files of a folder belong together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geodeform.errors import DatasetError
from geodeform.training.datasets.base import LabelledDataset, by_stem, listed

_LOG = logging.getLogger(__name__)

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".vrt", ".img")
"""Files in ``images/`` that are images."""

MASK_SUFFIXES = (".tif", ".tiff", ".png", ".vrt", ".img", ".jp2")
"""Files in ``masks/`` that are masks: JPEG would change their ids."""

POLYGON_SUFFIXES = (".gpkg", ".parquet", ".fgb", ".geojson", ".shp")
"""Files of labelled polygons."""

PARTS = ("train", "val", "test")
"""Subfolders of a published split."""


@dataclass(frozen=True)
class Source:
    """Files of an item: its image, and its mask or the polygons that cover it."""

    image: Path
    mask: Path | None = None
    polygons: Path | None = None


def find_sources(dataset: LabelledDataset) -> dict[str, Source]:
    """The items of a folder and their files, by name: ``NAME``, or ``train/NAME`` of a split.

    Raises:
        DatasetError: If the layout is none of :class:`FolderScenes`'s, or masks are JPEG files.
    """
    root = dataset.root
    if not root.is_dir():
        raise dataset.wrong_layout("there is no such folder")
    parts = [part for part in PARTS if (root / part).is_dir()]
    whole = (root / "images").is_dir()
    if whole and parts:
        raise dataset.wrong_layout(f"it has both images/ and {parts[0]}/; keep one of them")
    if not whole and not parts:
        raise dataset.wrong_layout("there is neither images/ nor train/")
    if whole:
        return _find_part(dataset, root)
    if "train" not in parts:
        raise dataset.wrong_layout(f"there is {parts[0]}/ but no train/")
    return {
        f"{part}/{name}": source
        for part in parts
        for name, source in _find_part(dataset, root / part).items()
    }


def _find_part(dataset: LabelledDataset, folder: Path) -> dict[str, Source]:
    """Items of a folder of layout 1 or 2, by name."""
    shown = "" if folder == dataset.root else f"{folder.name}/"
    images = by_stem(folder / "images", RASTER_SUFFIXES)
    if not images:
        raise dataset.wrong_layout(
            f"'{shown}images/' holds no image ({', '.join(RASTER_SUFFIXES)})"
        )
    mask_folders = [kind for kind in ("masks", "labels") if by_stem(folder / kind, RASTER_SUFFIXES)]
    vectors = _vectors(folder)
    if not mask_folders and not vectors:
        vectors = _vectors(dataset.root)
    sources = [*(f"{kind}/" for kind in mask_folders), *(path.name for path in vectors)]
    where = "it" if not shown else f"'{shown}'"
    if not sources:
        raise dataset.wrong_layout(f"{where} has neither masks nor labelled polygons")
    if len(sources) > 1:
        raise dataset.wrong_layout(
            f"{where} has labels in {' and in '.join(sources)}; keep one of them"
        )
    if vectors:
        return {name: Source(image, polygons=vectors[0]) for name, image in images.items()}
    return _pair(dataset, images, folder / mask_folders[0])


def _pair(dataset: LabelledDataset, images: Mapping[str, Path], masks: Path) -> dict[str, Source]:
    """Images with the masks of their names; says which of them have no partner."""
    found = by_stem(masks, MASK_SUFFIXES)
    lossy = by_stem(masks, (".jpg", ".jpeg"))
    for name in sorted(lossy.keys() & images.keys() - found.keys()):
        raise DatasetError(
            f"{lossy[name]} is a JPEG, which changes ids and colours; save masks as PNG or GeoTIFF."
        )
    pairs = {k: Source(images[k], mask=found[k]) for k in images if k in found}
    if not pairs:
        raise dataset.wrong_layout(
            f"no mask in '{masks.relative_to(dataset.root)}/' has the name of an image "
            f"({next(iter(images))}, for example)"
        )
    for kind, partner, alone in (
        ("Images", "mask", sorted(images.keys() - found.keys())),
        ("Masks", "image", sorted(found.keys() - images.keys())),
    ):
        if alone:
            _LOG.warning(
                "%s without %s of the same name in %s are left out: %s.",
                kind,
                partner,
                masks.parent,
                listed(alone),
            )
    return pairs


def _vectors(folder: Path) -> list[Path]:
    """Files of polygons in a folder or its ``labels``."""
    return sorted(
        path
        for place in (folder, folder / "labels")
        if place.is_dir()
        for path in place.iterdir()
        if path.suffix.lower() in POLYGON_SUFFIXES and not path.name.startswith(".")
    )
