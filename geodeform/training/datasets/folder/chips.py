"""The folder for torchgeo's samplers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS
from geodeform.errors import DatasetError
from geodeform.geo.affine import apply_to, compose
from geodeform.training.datasets.base import DatasetOptions, listed
from geodeform.training.datasets.folder.grids import SAME_GRID, WARP_TOLERANCE, Grid
from geodeform.training.datasets.folder.scenes import FolderScenes

if TYPE_CHECKING:
    from torchgeo.datasets import IntersectionDataset


def torchgeo_dataset(
    root: str | Path, options: DatasetOptions | None = None, *, items: Sequence[str] = ()
) -> IntersectionDataset:
    """Give a folder to torchgeo: an IntersectionDataset of images and labels for its samplers.

    Chips of images on the dataset's own grid are pixel by pixel what :meth:`FolderScenes.load`
    returns: ``image`` float32 (C, h, w) of 0…255, scaled as for training, ``mask`` int64 (h, w) of
    class ids. Beyond the images and where they have no data, ``mask`` is 255, and ``image`` 0 or a
    fill value. Images in other CRSs, of other resolutions or with rotated grids are warped to the
    CRS and resolution of the first, images bilinearly and labels by the nearest pixel of the
    image's own grid. Where images overlap, the first with data wins, for image and labels alike.

    Both sides are torchgeo RasterDatasets whose pixels geodeform reads, because torchgeo's own
    reading of masks and polygons fills with 0, which is a class, and knows neither masks without
    georeference nor file-wise scaling.

    Args:
        root: See :class:`FolderScenes`.
        options: See :class:`FolderScenes`.
        items: Items to take, such as those of ``FolderScenes.split().train``; all where empty.

    Raises:
        DatasetError: If the folder is wrong, an item is not there, or an image has no CRS.
    """
    from torchgeo.datasets import IntersectionDataset as Intersection

    scenes = FolderScenes(root, options)
    chosen = tuple(items) or scenes.items
    for item in chosen:
        if item not in scenes.items:
            raise DatasetError(f"{item} is not in {scenes.root}, which has {listed(scenes.items)}.")
        if scenes.grid(item).crs is None:
            raise DatasetError(
                f"{scenes.image_path(item)} has no CRS, so torchgeo cannot place it; give it its "
                "georeference, or train with geodeform, which needs none."
            )
    layer = _layer_type()
    return Intersection(layer(scenes, chosen, True), layer(scenes, chosen, False))


@functools.cache
def _layer_type() -> Any:
    """Make the class of the two sides, which torchgeo must be imported for.

    Raises:
        DatasetError: If this torchgeo reads its files in a way that is not known here.
    """
    from geopandas import GeoDataFrame
    from torch import from_numpy
    from torchgeo.datasets import RasterDataset

    # 0.8 calls it _merge_files, 0.9 and later _merge_or_stack
    hooks = [name for name in ("_merge_files", "_merge_or_stack") if hasattr(RasterDataset, name)]
    if not hooks:
        raise DatasetError("This version of torchgeo is not supported; install 0.8 to 0.10.")

    class FolderLayer(RasterDataset):
        """Images or labels of a folder, for torchgeo."""

        def __init__(self, scenes: FolderScenes, items: Sequence[str], is_image: bool) -> None:
            self.is_image = is_image
            self._scenes = scenes
            self._items = {str(scenes.image_path(item)): item for item in items}
            first = scenes.grid(items[0])
            t = first.transform
            super().__init__(
                list(self._items),
                crs=pyproj.CRS(first.wkt),
                res=(math.hypot(t.a, t.d), math.hypot(t.b, t.e)),
                cache=False,
            )
            # torchgeo's own outlines are of the warped files, with all of their empty corners
            shapes = [
                scenes.grid(self._items[path]).outline(self.crs) for path in self.index.filepath
            ]
            frame = GeoDataFrame(
                {"filepath": list(self.index.filepath)}, geometry=shapes, crs=self.index.crs
            )
            frame.index = self.index.index
            self.index = frame

        def __reduce__(self) -> Any:
            # the class is made in a function: workers that are not forked make it anew
            return _new_layer, (), self.__dict__

        def _read_chip(self, filepaths: Iterable[str], query: Any, *_: Any, **__: Any) -> Any:
            x, y, _t = self._disambiguate_slice(query)
            shape = (
                max(round((y.stop - y.start) / y.step), 1),
                max(round((x.stop - x.start) / x.step), 1),
            )
            transform = Affine(x.step, 0, x.start, 0, -y.step, y.stop)
            grid = Grid(shape, transform, _rasterio_crs(self._scenes, self._items, self.crs))
            items = [self._items[path] for path in filepaths]
            chip = _chip(self._scenes, items, grid, self.is_image, self.resampling)
            return from_numpy(chip)

    for name in hooks:
        setattr(FolderLayer, name, FolderLayer._read_chip)
    return FolderLayer


def _new_layer() -> Any:
    """An empty layer, for pickle to fill."""
    kind = _layer_type()
    return kind.__new__(kind)


def _rasterio_crs(scenes: FolderScenes, items: Mapping[str, str], crs: Any) -> CRS:
    """The CRS that torchgeo uses, as rasterio's; an image's own one where it is the same."""
    for grid in map(scenes.grid, items.values()):
        if pyproj.CRS(grid.wkt) == pyproj.CRS(crs):
            return grid.crs
    return CRS.from_user_input(crs)


def _chip(
    scenes: FolderScenes, items: Sequence[str], grid: Grid, is_image: bool, resampling: Resampling
) -> NDArray[Any]:
    """(C, h, w) float32 of images or (1, h, w) int64 of labels on any grid."""
    count = len(scenes.bands) if is_image else 1
    chip = np.full((count, *grid.shape), 0 if is_image else NODATA_CLASS, np.float32)
    empty = np.ones(grid.shape, bool)
    for item in items:
        values, valid = _on_chip(scenes, item, grid, is_image, resampling)
        fresh = empty & valid
        chip[:, fresh] = values[:, fresh]
        empty &= ~valid
        if not empty.any():
            break
    return chip if is_image else chip.astype(np.int64)


def _on_chip(
    scenes: FolderScenes, item: str, grid: Grid, is_image: bool, resampling: Resampling
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(C, h, w) values of one item on a grid, and where it has data."""
    own = scenes.grid(item)
    window = _covering(own, grid)
    count = len(scenes.bands) if is_image else 1
    values = np.zeros((count, *grid.shape), np.float32)
    valid = np.zeros(grid.shape, bool)
    if window is None:
        return values, valid
    with scenes.reading(item) as reader:
        if is_image:
            pixels, known = reader.image(window)
            source = np.moveaxis(pixels, -1, 0).astype(np.float32)
        else:
            source = reader.labels(window)[None].astype(np.float32)
            known = reader.valid(window)
    shift = own.whole_shift(grid)
    if shift is not None:
        top, left = window.row_off - shift[0], window.col_off - shift[1]
        here = (slice(top, top + window.height), slice(left, left + window.width))
        values[:, here[0], here[1]] = source
        valid[here] = known
        return values, valid
    place = {
        "src_transform": compose(own.transform, Affine.translation(window.col_off, window.row_off)),
        "src_crs": own.crs,
        "dst_transform": grid.transform,
        "dst_crs": grid.crs,
        "tolerance": WARP_TOLERANCE,
    }
    reproject(source, values, resampling=resampling, **place)
    reached = np.zeros(grid.shape, np.uint8)
    reproject(known.astype(np.uint8), reached, resampling=Resampling.nearest, **place)
    return values, reached > 0


def _covering(own: Grid, grid: Grid) -> Window | None:
    """The window of one grid that covers another, with a margin to interpolate; None if apart."""
    ring = grid.outline(None if own.crs == grid.crs else own.wkt)
    points = apply_to(~own.transform, shapely.get_coordinates(ring))
    coarser = np.ptp(points, axis=0) / grid.shape[::-1]  # kernels grow with it
    margin = 0.0 if own.whole_shift(grid) is not None else 1 + 2 * np.maximum(coarser, 1)
    low = np.maximum(np.floor(points.min(axis=0) - margin + SAME_GRID), 0)
    high = np.minimum(np.ceil(points.max(axis=0) + margin - SAME_GRID), own.shape[::-1])
    if not np.isfinite(points).all() or (high <= low).any():
        return None
    left, top, width, height = (int(v) for v in (*low, *(high - low)))
    return Window(left, top, width, height)
