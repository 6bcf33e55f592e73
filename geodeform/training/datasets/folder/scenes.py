"""The user's own data: a folder of images with masks, or with labelled polygons.

Images are read as ``geodeform segment`` reads them (:class:`~geodeform.geo.scene.Scene` and its
scaling), so a model is trained on what it is fed later. Labels come to the grid of their image,
whatever georeference masks or polygons have. Both are read by windows; nothing of an image's size
is allocated but the result.
"""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS
from geodeform.errors import DatasetError
from geodeform.geo.scene import Scaling, Scene
from geodeform.training.datasets.base import (
    DatasetInfo,
    DatasetOptions,
    LabelledDataset,
    LabelledScene,
    Split,
    listed,
)
from geodeform.training.datasets.folder.class_files import (
    CLASS_FILES,
    find_class_file,
    read_classes,
)
from geodeform.training.datasets.folder.classes import Legend
from geodeform.training.datasets.folder.grids import Grid
from geodeform.training.datasets.folder.layout import PARTS, find_sources
from geodeform.training.datasets.folder.mask_classes import legend_of_masks
from geodeform.training.datasets.folder.masks import mask_labels, open_mask
from geodeform.training.datasets.folder.polygons import (
    Burner,
    Polygons,
    legend_of_polygons,
    on_grid,
    read_polygons,
)
from geodeform.training.datasets.folder.rasters import (
    OPENING,
    is_paletted,
    raster_files,
    row_blocks,
    scene_errors,
)

_LOG = logging.getLogger(__name__)

_MAX_SPREAD = 1.25  # pixel sizes that differ by more have no common one


class FolderScenes(LabelledDataset):
    """The user's own images with masks or polygons.

    Layouts, ``images/`` in each:

    1. ``masks/`` (or ``labels/``) with a raster of the same name for each image (any of
       :data:`MASK_SUFFIXES`). One band holds ids; three hold colours that the classes list, as does
       one band with a colour table where the classes have colours but no ids. Masks with a
       georeference other than the image's are warped to it (nearest pixel), those without must be
       of its size. 255, the mask's nodata value and its transparent pixels are unknown; 0 is an id
       like any other.
    2. One file of labelled polygons (GeoPackage, GeoParquet, FlatGeobuf, GeoJSON or Shapefile, in
       any CRS), in the folder itself or in its ``labels/``. They are rasterised onto each image's
       grid: a pixel is of the class of the polygon that its centre lies in, of the later one in the
       order of the file where polygons overlap (FlatGeobuf's spatial index sorts them). Pixels in
       no polygon are unknown, or of the background where one is declared. Images that no polygon
       touches are left out.
    3. ``train/``, ``val/`` and optionally ``test/``, each of layout 1 or 2: that is the split then,
       and items are called ``train/NAME``. One file of polygons beside them may serve them all.

    Images have any type and number of bands; 8-bit values are taken as they are, others are
    stretched between percentiles 2 and 98 of each image, as ``geodeform segment`` does. Pixels
    without data are unknown.

    **Classes** come from a file: ``options.classes``, or one of :data:`CLASS_FILES` in the folder.
    A CSV file has a header with some of these columns, YAML and JSON a list of mappings with these
    keys, or a mapping ``id: name``, ``name: id``, ``id: {…}`` or ``name: {…}``:

    * ``id``: value in the masks or in the label column; not needed for coloured masks and for
      polygons that are labelled by name. Ids need not be consecutive; in their order they become
      classes 0, 1, ….
    * ``name``.
    * ``colour`` (or ``color``): ``"#RRGGBB"``; or ``r``, ``g`` and ``b`` of 0 to 255. The colour in
      coloured masks and in maps. Where it is missing, a distinct one is assigned.
    * ``ignore``: true for what is to be unknown; it is so without saying for the names unknown,
      unlabelled, void, ignore and nodata.
    * ``background``: true for the class of ground in no polygon; so without saying for the name
      background.

    DeepGlobe's ``class_dict.csv`` (name, r, g, b) is such a file. Without one, classes are what the
    masks say: their category names or attribute tables and colour tables, as in geodeform's own
    class rasters, else the ids that they hold, called "class 5" and so on; or the distinct values
    of the polygons' label column, sorted.

    Raises:
        DatasetError: If the layout is another one, images differ in their number of bands, or
            classes, polygons or an image cannot be read.
    """

    bands: tuple[str, ...] = ()  # the images' own
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="folder",
        title="Your own images with masks, or with labelled polygons",
        layout=(
            "  images/NAME.tif (or .jp2, .png, .jpg, .vrt)\n"
            "  masks/NAME.tif or .png, or one file of labelled polygons such as labels.gpkg\n"
            "  classes.csv (id, name, colour), unless masks or polygons name their classes\n"
            "or train/, val/ and test/, each with images/ and masks/ or polygons"
        ),
        classes=(),
        licence="Your own",
        get=(
            "Put your images and labels into a folder of this layout; --set data.classes, "
            "data.label_column, data.bands and data.nodata say what the files do not."
        ),
        purpose=(
            "Maps of the classes and the kind of imagery that you label. Fails on landscapes, "
            "seasons, resolutions and sensors that your images do not show."
        ),
    )

    def __init__(self, root: str | Path, options: DatasetOptions | None = None) -> None:
        super().__init__(root, options)
        self._sources = find_sources(self)
        self._scalings: dict[str, Scaling] = {}
        self.bands = self._name_bands(next(iter(self._sources.values())).image)
        self._grids, sizes = self._look_at_images()
        self._class_file = self.options.classes or find_class_file(self.root)
        files = sorted({s.polygons for s in self._sources.values() if s.polygons is not None})
        polygons = {path: read_polygons(path, self.options.label_column) for path in files}
        self._legend = self._find_legend(list(polygons.values()))
        self.classes = self._legend.scheme
        self._burners = self._place(polygons)
        self.items = tuple(sorted(self._sources))
        self.gsd_m = self._common_size({item: sizes[item] for item in self.items})

    def published_split(self) -> Split | None:
        """The split by subfolders, or None where there are none."""
        if not any("/" in item for item in self.items):
            return None
        train, val, test = (
            tuple(item for item in self.items if item.startswith(f"{part}/")) for part in PARTS
        )
        return Split(train, val, test)

    def split(self, val_items: Sequence[str] = (), *, seed: int = 0) -> Split:
        """See :meth:`LabelledDataset.split`; a folder with one image cannot be split.

        Raises:
            DatasetError: If there is one image only, an item is not there, or none is left for
                training or validation.
        """
        if len(self.items) == 1:
            raise DatasetError(
                f"{self.root} has one labelled image only, {self.items[0]}, which cannot train and "
                "validate at once; add an image (or cut this one in two), of which data.val_items "
                "may then name those to hold out."
            )
        return super().split(val_items, seed=seed)

    def files(self, item: str) -> tuple[Path, ...]:
        """Image and mask with their side files, or the polygons; and the file of classes."""
        source = self._sources[item]
        rasters = [path for path in (source.image, source.mask) if path is not None]
        found = [file for raster in rasters for file in raster_files(raster)]
        if source.polygons is not None:
            parts = (".shx", ".dbf", ".prj", ".cpg") if source.polygons.suffix == ".shp" else ()
            beside = [source.polygons.with_suffix(part) for part in parts]
            found += [source.polygons, *(path for path in beside if path.is_file())]
        if self._class_file is not None:
            found.append(self._class_file)
        return tuple(dict.fromkeys(found))

    def load(self, item: str) -> LabelledScene:
        """Decode an item, in blocks of rows.

        Raises:
            DatasetError: If a file cannot be read, a mask without georeference is of another size
                than its image, or a mask has an id or colour that is not listed.
        """
        grid = self._grids[item]
        image = np.empty((*grid.shape, len(self.bands)), np.uint8)
        labels = np.empty(grid.shape, np.uint8)
        with self.reading(item) as reader:
            for window in row_blocks(grid.shape, len(self.bands)):
                rows = slice(window.row_off, window.row_off + window.height)
                image[rows], valid = reader.image(window)
                labels[rows] = reader.labels(window)
                labels[rows][~valid] = NODATA_CLASS
        if (labels == NODATA_CLASS).all():
            labelled = self._sources[item].mask or self._sources[item].polygons
            _LOG.warning(
                "%s: no pixel has a label; check that %s lies where the image does.",
                self._sources[item].image,
                labelled,
            )
        return LabelledScene(item, image, labels)

    @contextmanager
    def reading(self, item: str) -> Iterator[Reader]:
        """Open the files of an item, to read windows of what :meth:`load` returns."""
        source = self._sources[item]
        with ExitStack() as stack:
            stack.enter_context(scene_errors())
            scene = stack.enter_context(self._open(source.image))
            if item not in self._scalings:
                self._scalings[item] = Scaling.for_scene(scene, 255.0, "auto")
            if source.mask is None:
                labels = self._burners[item].labels
            else:
                mask = stack.enter_context(open_mask(source.mask, self._grids[item]))
                labels = functools.partial(mask_labels, mask, source.mask, self._legend)
            yield Reader(scene, self._scalings[item], labels)

    def image_path(self, item: str) -> Path:
        """The image file of an item."""
        return self._sources[item].image

    def grid(self, item: str) -> Grid:
        """Where the pixels of an item lie."""
        return self._grids[item]

    # ---- opening ----

    def _open(self, path: Path) -> Scene:
        """Open an image with the dataset's bands."""
        bands, nodata = self.options.bands, self.options.nodata
        with OPENING:
            if bands:
                return Scene.open(path, bands=bands, nodata=nodata)
            return Scene.open(path, want=self.bands, nodata=nodata)

    def _name_bands(self, path: Path) -> tuple[str, ...]:
        """Names of the first image's bands, by which they are found in every other one.

        Red, green and blue come first where all names can be found again by what files say;
        otherwise bands are in file order here, in the other images and when the model is used.
        """
        with scene_errors(), OPENING:
            with Scene.open(path, bands=self.options.bands or None) as scene:
                names = dict(enumerate(scene.band_names))
                numbers = scene.bands
            if len(numbers) == 1 and not self.options.bands and is_paletted(path):
                return ("red", "green", "blue")
            known = []
            for colour in ("red", "green", "blue", "nir"):
                with Scene.open(path, want=(colour,)) as scene:
                    number = None if scene.bands_guessed else scene.bands[0]
                if number in numbers:
                    known.append(numbers.index(number))
                    names[known[-1]] = colour
        counts = Counter(name.lower() for name in names.values())
        names = {k: v if counts[v.lower()] == 1 else f"{v} ({k + 1})" for k, v in names.items()}
        if len(known) == len(names) and not self.options.bands:
            return tuple(names[k] for k in known)
        return tuple(names[k] for k in sorted(names))

    def _look_at_images(self) -> tuple[dict[str, Grid], dict[str, float | None]]:
        """Grid and pixel size in metres of each item's image.

        Raises:
            DatasetError: If an image cannot be read or has another number of bands.
        """
        grids: dict[str, Grid] = {}
        sizes: dict[str, float | None] = {}
        first = next(iter(self._sources.values())).image
        guessed = []
        for item, source in self._sources.items():
            with scene_errors():
                if not self.options.bands:
                    self._check_bands(source.image, first)
                with self._open(source.image) as scene:
                    guessed += [item] * scene.bands_guessed
                    grids[item] = Grid.of(scene)
                    size = scene.pixel_size_m
                    sizes[item] = None if size is None else math.sqrt(size[0] * size[1])
        if guessed and next(iter(self._sources)) not in guessed:
            _LOG.warning(
                "Bands of %s are taken in file order, as nothing says which are %s.",
                listed(guessed),
                ", ".join(self.bands),
            )
        return grids, sizes

    def _check_bands(self, path: Path, first: Path) -> None:
        with OPENING, Scene.open(path) as scene:
            count = scene.n_bands
        if count != len(self.bands) and not (len(self.bands) == 3 and is_paletted(path)):
            raise DatasetError(
                f"{path} has {count} band{'s' * (count != 1)}, but the first image {first.name} "
                f"has {len(self.bands)}; give all images the same bands, or choose some with "
                "data.bands."
            )

    def _find_legend(self, polygons: Sequence[Polygons]) -> Legend:
        """What the labels mean: by the file of classes, else by what the labels say."""
        masks = [s.mask for s in self._sources.values() if s.mask is not None]
        if self._class_file is not None:
            legend = Legend(read_classes(self._class_file), str(self._class_file))
            if legend.ignored:
                names = listed([row.name for row in legend.ignored])
                _LOG.info("%s: taken as unknown: %s.", self._class_file, names)
        elif masks and polygons:
            raise DatasetError(
                f"{self.root} has masks in one part and polygons in another; list their classes in "
                f"{CLASS_FILES[0]}."
            )
        else:
            legend = legend_of_polygons(polygons) if polygons else legend_of_masks(masks)
        legend.warn_if_single()
        return legend

    def _place(self, files: Mapping[Path, Polygons]) -> dict[str, Burner]:
        """Bring polygons to the grids of their images; drops items that none touches."""
        classes = {path: self._classes_of(polygons) for path, polygons in files.items()}
        burners: dict[str, Burner] = {}
        bare = []
        for item, source in self._sources.items():
            if source.polygons is None:
                continue
            if self._grids[item].crs is None:
                raise DatasetError(
                    f"{source.image} has no CRS, so the polygons of {source.polygons.name} cannot "
                    "be laid over it; give it its georeference, or use masks."
                )
            shapes, numbers = on_grid(files[source.polygons], self._grids[item])
            if not len(shapes):
                bare.append(item)
                continue
            burners[item] = Burner(
                shapes, classes[source.polygons][numbers], self._legend.background
            )
        if bare:
            _LOG.warning(
                "%s: no polygon touches %d of %d images, which are left out: %s.",
                self.root,
                len(bare),
                len(self._sources),
                listed(bare),
            )
        self._sources = {k: v for k, v in self._sources.items() if k not in bare}
        if not self._sources:
            raise DatasetError(
                f"No polygon touches any image of {self.root} ({listed(bare)}); check that the "
                "CRS of polygons and images are right."
            )
        return burners

    def _classes_of(self, polygons: Polygons) -> NDArray[np.uint8]:
        """(n,) class of each polygon of a file."""
        where = f"{polygons.path}, column '{self.options.label_column}',"
        known = {key: self._legend.encode_key(key, where) for key in set(polygons.keys)}
        return np.array([known[key] for key in polygons.keys], np.uint8)

    def _common_size(self, sizes: Mapping[str, float | None]) -> float | None:
        """Median of the known pixel sizes in metres, or None where they differ too much."""
        known = {item: size for item, size in sizes.items() if size is not None}
        if not known:
            _LOG.warning(
                "No image of %s says how large its pixels are on the ground: scenes of another "
                "resolution will not be resampled to the model's.",
                self.root,
            )
            return None
        low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
        if known[high] > _MAX_SPREAD * known[low]:
            _LOG.warning(
                "Pixels of %s are of %.3g m (%s) to %.3g m (%s), so the model gets no resolution "
                "of its own: scenes of another one will not be resampled to it.",
                self.root,
                known[low],
                low,
                known[high],
                high,
            )
            return None
        return float(np.median(list(known.values())))


class Reader:
    """Reads windows of an open item; see :meth:`FolderScenes.reading`.

    Args:
        scene: The open image.
        scaling: From its values to 0…1.
        labels: Reads a window of its mask or polygons: (h, w) classes, 255 unknown.
    """

    def __init__(
        self, scene: Scene, scaling: Scaling, labels: Callable[[Window], NDArray[np.uint8]]
    ) -> None:
        self._scene = scene
        self._scaling = scaling
        self._labels = labels

    def image(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """(h, w, C) 8-bit values as a model sees them, and (h, w) which pixels have data."""
        values, valid = self._scene.read(window)
        scaled = self._scaling.apply(values)
        scaled *= 255
        return np.moveaxis(np.rint(scaled, out=scaled).astype(np.uint8), 0, -1), valid

    def labels(self, window: Window) -> NDArray[np.uint8]:
        """(h, w) classes, 255 unknown; pixels without data keep theirs."""
        return self._labels(window)

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """(h, w) which pixels of the image have data."""
        return self._scene.valid_mask(window)
