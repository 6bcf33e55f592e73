"""LoveDA, LandCover.ai, Potsdam, Vaihingen and GID-15, found by torchgeo in published layouts.

torchgeo says which files belong to a dataset and to its splits. The files are decoded here, because
torchgeo's samples would not do: an unlisted mask colour becomes class 0 in them without a word, ids
of palette masks become grey levels, and as float32 and int64 one Potsdam tile takes a gigabyte.
Nothing is downloaded, unpacked or written.

torchgeo imports torch, so both are imported when a dataset is opened and not before.
"""

from __future__ import annotations

import glob
import logging
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geodeform.classes import ClassScheme
from geodeform.errors import DatasetError
from geodeform.training.datasets.base import (
    DatasetInfo,
    DatasetOptions,
    LabelledDataset,
    LabelledScene,
    Split,
    check_sizes,
    listed,
    map_ids,
    read_ids,
    read_rgb,
)

_LOG = logging.getLogger(__name__)

_Part = Literal["train", "val", "test"]


class _Pair(NamedTuple):
    """Image and mask of an item, and the part of the published split that it belongs to."""

    image: Path
    mask: Path
    part: _Part | None


class TorchgeoDataset(LabelledDataset):
    """What the datasets of this module share.

    Args:
        root: The folder, with the archives unpacked in it.
        options: What the user says beside it.

    Raises:
        DatasetError: If the folder has another layout, or torchgeo is not installed.
    """

    mask_ids: ClassVar[Mapping[int, int]] = {}
    """Value in a mask → class id, for masks of ids."""

    ignored_ids: ClassVar[tuple[int, ...]] = ()
    """Values in a mask that mean "unknown"."""

    def __init__(self, root: str | Path, options: DatasetOptions | None = None) -> None:
        super().__init__(root, options)
        self._pairs = self._find()
        self.items = tuple(sorted(self._pairs))
        for item in self.items:
            for path in self.files(item):
                if not path.is_file():
                    raise self.wrong_layout(f"'{path.relative_to(self.root)}' is missing")

    @abstractmethod
    def _find(self) -> dict[str, _Pair]:
        """Find the labelled items by name; at least one.

        Raises:
            DatasetError: If there is none, or a folder or file is missing.
        """

    def files(self, item: str) -> tuple[Path, ...]:
        """Image and mask of an item."""
        pair = self._pairs[item]
        return pair.image, pair.mask

    def published_split(self) -> Split | None:
        """The dataset's own split; None where the folder has only one part of it."""
        train, val, test = (
            tuple(item for item in self.items if self._pairs[item].part == part)
            for part in ("train", "val", "test")
        )
        # test items must stay out of a seeded split even where no others are there
        return Split(train, val, test) if test or (train and val) else None

    def load(self, item: str) -> LabelledScene:
        """Decode an item.

        Raises:
            DatasetError: If a file cannot be read, image and mask differ in size, or a mask has a
                value or colour that is neither a class nor ignored.
        """
        image_path, mask_path = self.files(item)
        image = _read_bands(image_path, 3) if image_path.suffix == ".tif" else read_rgb(image_path)
        labels = self._labels(item, mask_path)
        check_sizes(image_path, image, mask_path, labels)
        return LabelledScene(item, image, labels)

    def _labels(self, item: str, path: Path) -> NDArray[np.uint8]:
        """Decode a mask as (H, W) class ids; this one is for masks of ids."""
        del item
        return map_ids(read_ids(path), self.mask_ids, self.ignored_ids, str(path))

    def _open(self, kind: str, **arguments: Any) -> Any:
        """Construct the torchgeo dataset ``kind`` on this folder.

        Raises:
            DatasetError: If torchgeo is not installed, or does not find the dataset.
        """
        if glob.escape(str(self.root)) != str(self.root):
            raise DatasetError(
                f"torchgeo cannot search {self.root}, which has one of [, * and ? in its path: "
                "rename the folder, or give a link to it."
            )
        try:
            from torchgeo import datasets
        except ModuleNotFoundError as error:
            raise DatasetError(
                f"The {self.info.name} dataset needs '{error.name}': "
                "pip install 'geodeform[train]'."
            ) from error
        try:
            return getattr(datasets, kind)(root=str(self.root), checksum=False, **arguments)
        except datasets.DatasetNotFoundError as error:
            raise self.wrong_layout(f"torchgeo's {kind} does not find its files") from error
        except (OSError, RuntimeError, ValueError) as error:
            told = " ".join(str(error).split())
            raise self.wrong_layout(f"torchgeo's {kind} cannot open it ({told})") from error

    def _need(self, folder: str, *archives: str) -> None:
        """Check that a folder is there before torchgeo is asked, which would unpack an archive.

        Raises:
            DatasetError: If it is not; the message names an archive that waits to be unpacked.
        """
        if not (self.root / folder).is_dir():
            packed = [name for name in archives if (self.root / name).is_file()]
            hint = f" (unpack {packed[0]} there)" if packed else ""
            raise self.wrong_layout(f"the folder '{folder}' is missing{hint}")


class LoveDA(TorchgeoDataset):
    """LoveDA: 1024 px images of cities and countryside in eastern China.

    Items are ``Train/Urban/1366`` and so on; the labels of ``Test`` are not published. Masks hold 1
    to 7 for the classes and 0 for no data. A folder may lack a scene type or one of ``Train`` and
    ``Val``, as the archives are separate.

    Source: Wang et al. 2021, LoveDA (NeurIPS Datasets and Benchmarks); ids and colours by its
    repository.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="loveda",
        title="LoveDA, Wuhan University: Nanjing, Changzhou and Wuhan, urban and rural",
        layout=(
            "  Train/Urban/images_png/1366.png …\n"
            "  Train/Urban/masks_png/1366.png …\n"
            "  Train/Rural/ … as Train/Urban\n"
            "  Val/Urban/ …, Val/Rural/ … as Train"
        ),
        classes=("Background", "Building", "Road", "Water", "Barren", "Forest", "Agriculture"),
        licence=(
            "CC BY-NC-SA 4.0: non-commercial use with attribution; what is made from the data is "
            "shared alike. The images are from Google Earth, whose terms hold as well."
        ),
        get=(
            "Train.zip and Val.zip of the Zenodo record 5706578 (doi 10.5281/zenodo.5706578), "
            "unpacked into one folder."
        ),
        purpose=(
            "Land cover of Chinese cities and countryside in RGB imagery of about 0.3 m. Fails on "
            "landscapes without its kinds of fields and villages, and on coarser imagery. The "
            "images are 1024 px, so windows cannot be larger."
        ),
    )
    gsd_m = 0.3
    classes = ClassScheme(
        names=info.classes,
        colours=(
            (255, 255, 255),
            (255, 0, 0),
            (255, 255, 0),
            (0, 0, 255),
            (159, 129, 183),
            (0, 255, 0),
            (255, 195, 128),
        ),
    )
    mask_ids: ClassVar[Mapping[int, int]] = {value: value - 1 for value in range(1, 8)}
    ignored_ids = (0,)

    def _find(self) -> dict[str, _Pair]:
        if not (self.root / "Val").is_dir():
            self._need("Train", "Train.zip")
        pairs = {}
        parts: tuple[_Part, ...] = ("train", "val")
        for part in parts:
            folder = self.root / part.capitalize()
            scenes = [s for s in ("urban", "rural") if (folder / s.capitalize()).is_dir()]
            if not scenes:
                continue
            for entry in self._open("LoveDA", split=part, scene=scenes, download=False).files:
                image = Path(entry["image"])
                scene = image.parent.parent
                # torchgeo's own mask path is wrong where the root's name has "images_png" in it
                mask = scene / "masks_png" / image.name
                pairs[f"{folder.name}/{scene.name}/{image.stem}"] = _Pair(image, mask, part)
        if not pairs:
            raise self.wrong_layout("no image such as 'Train/Urban/images_png/1366.png' is there")
        return pairs


class LandCoverAI(TorchgeoDataset):
    """LandCover.ai version 1: orthophotos of the Polish countryside, or the tiles cut from them.

    The published archive holds 41 orthophotos of up to 9500 px, the natural scenes for geodeform:
    where ``images`` and ``masks`` are there, items are whole orthophotos. The published split is
    one of 512 px tiles, drawn from all orthophotos, so whole ones have none; a seeded split holds
    out whole orthophotos. Without ``images``, items are the tiles in ``output`` (made by the
    archive's ``split.py``, or torchgeo's download), split as published.

    Source: Boguszewski et al. 2021, LandCover.ai (CVPR Workshops).
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="landcoverai",
        title="LandCover.ai version 1: orthophotos of rural Poland",
        layout=(
            "  images/M-33-20-D-c-4-2.tif … masks/M-33-20-D-c-4-2.tif …  (whole orthophotos)\n"
            "  or, without images/:\n"
            "  output/M-33-20-D-c-4-2_0.jpg … output/M-33-20-D-c-4-2_0_m.png …\n"
            "  train.txt, val.txt, test.txt  (tiles and the published split)"
        ),
        classes=("Background", "Building", "Woodland", "Water", "Road"),
        licence=(
            "CC BY-NC-SA 4.0: non-commercial use with attribution; what is made from the data is "
            "shared alike. Imagery of the Polish Head Office of Geodesy and Cartography."
        ),
        get=(
            "landcover.ai.v1.zip from landcover.ai.linuxpolska.com, unpacked. For the published "
            "split, run the archive's split.py and give a folder that has only output/ and the "
            "three lists."
        ),
        purpose=(
            "Buildings, woodland, water and roads of Central European countryside in RGB imagery "
            "of 0.25 to 0.5 m. Everything else is background. Fails in dense cities and on "
            "coarser imagery."
        ),
    )
    # torchgeo's palette; its transparent background is white here, as a map has no transparency
    classes = ClassScheme(
        names=info.classes,
        colours=((255, 255, 255), (97, 74, 74), (38, 115, 0), (0, 197, 255), (207, 207, 207)),
    )
    mask_ids: ClassVar[Mapping[int, int]] = {value: value for value in range(5)}

    _archives = ("landcover.ai.v1.zip", "output.zip")

    def _find(self) -> dict[str, _Pair]:
        if not (self.root / "images").is_dir():
            return self._tiles()
        if (self.root / "output").is_dir():
            _LOG.warning(
                "%s has whole orthophotos and tiles; the orthophotos are taken. For the tiles and "
                "their published split give a folder with output and the three lists only.",
                self.root,
            )
        return self._orthophotos()

    def _orthophotos(self) -> dict[str, _Pair]:
        self._need("masks", *self._archives)
        folder = self.root / "images"
        images = {path.stem for path in folder.glob("*.tif")}
        masks = {path.stem for path in (self.root / "masks").glob("*.tif")}
        self._check_paired(images, masks, "images/{}.tif", "masks/{}.tif")
        resolutions = {_resolution(folder / f"{name}.tif") for name in images}
        self.gsd_m = resolutions.pop() if len(resolutions) == 1 else None
        pairs = {}
        for path in map(Path, self._open("LandCoverAIGeo", download=False).files):
            if path.parent == folder:  # torchgeo searches folders within the root, too
                pairs[path.stem] = _Pair(path, self.root / "masks" / path.name, None)
        return pairs

    def _tiles(self) -> dict[str, _Pair]:
        self._need("output", *self._archives)
        parts: tuple[_Part, ...] = ("train", "val", "test")
        for part in parts:
            if not (self.root / f"{part}.txt").is_file():
                raise self.wrong_layout(f"'{part}.txt' is missing")
        folder = self.root / "output"
        images = {path.stem for path in folder.glob("*_*.jpg")}
        masks = {path.stem.removesuffix("_m") for path in folder.glob("*_*_m.png")}
        self._check_paired(images, masks, "output/{}.jpg", "output/{}_m.png")
        pairs = {}
        for part in parts:
            for line in self._open("LandCoverAI", split=part, download=False).ids:
                if name := line.strip():
                    pairs[name] = _Pair(folder / f"{name}.jpg", folder / f"{name}_m.png", part)
        return pairs

    def _check_paired(
        self, images: set[str], masks: set[str], image_path: str, mask_path: str
    ) -> None:
        """Check that names of images and masks are the same, and some.

        torchgeo only counts them, and unpacks an archive that it finds where the counts differ.

        Raises:
            DatasetError: If they are not.
        """
        if not images:
            raise self.wrong_layout(f"no '{image_path.format('*')}' is there")
        for name in sorted(images ^ masks):
            missing = (mask_path if name in images else image_path).format(name)
            raise self.wrong_layout(f"'{missing}' is missing")

    def _labels(self, item: str, path: Path) -> NDArray[np.uint8]:
        ids = _read_bands(path, 1)[..., 0] if path.suffix == ".tif" else _read_grey(path)
        return map_ids(ids, self.mask_ids, self.ignored_ids, str(path))


class IsprsDataset(TorchgeoDataset):
    """What Potsdam and Vaihingen share: six classes by colour, and the contest's split.

    The contest publishes training and test tiles. Validation tiles are the ones of the training
    tiles that most publications hold out (Volpi and Tuia 2017), so that the test tiles stay unseen.
    """

    classes = ClassScheme(
        names=(
            "Clutter/background",
            "Impervious surfaces",
            "Building",
            "Low vegetation",
            "Tree",
            "Car",
        ),
        colours=(
            (255, 0, 0),
            (255, 255, 255),
            (0, 0, 255),
            (0, 255, 255),
            (0, 255, 0),
            (255, 255, 0),
        ),
    )

    torchgeo_kind: ClassVar[str]
    prefix: ClassVar[str]
    """What torchgeo's names of the tiles begin with."""

    validation_tiles: ClassVar[tuple[str, ...]]
    image_folder: ClassVar[str]
    archives: ClassVar[tuple[str, ...]]

    def _find(self) -> dict[str, _Pair]:
        self._need(self.image_folder, *self.archives)
        pairs: dict[str, _Pair] = {}
        published: list[str] = []
        parts: tuple[_Part, ...] = ("train", "test")
        for part in parts:
            dataset = self._open(self.torchgeo_kind, split=part)
            published += [self._item(name) for name in dataset.splits[part]]
            for entry in dataset.files:
                mask = Path(entry["mask"])
                item = self._item(mask.stem.removesuffix("_label"))
                own = "val" if item in self.validation_tiles else part
                pairs[item] = _Pair(Path(entry["image"]), mask, own)
        if not pairs:
            raise self.wrong_layout("no tile has both an image and labels")
        # torchgeo leaves out tiles without labels or image in silence
        if absent := sorted(set(published) - set(pairs)):
            _LOG.warning(
                "%s has image and labels of %d of the published %d tiles; missing: %s.",
                self.root,
                len(pairs),
                len(published),
                listed(absent),
            )
        return pairs

    def _item(self, name: str) -> str:
        return name.removesuffix(".tif").removeprefix(self.prefix)

    def _labels(self, item: str, path: Path) -> NDArray[np.uint8]:
        return self.classes.encode_rgb(_read_bands(path, 3), where=str(path))


class Potsdam(IsprsDataset):
    """ISPRS 2D semantic labelling, Potsdam: 38 true orthophotos of 6000 px at 5 cm.

    Items are ``2_10`` … ``7_13``. The images have a fourth band, near infrared, which is left out.
    The labels of 7_10 are known for errors; they are used as published.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="potsdam",
        title="ISPRS 2D Semantic Labeling, Potsdam",
        layout=("  4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif …\n  top_potsdam_2_10_label.tif …"),
        classes=IsprsDataset.classes.names,
        licence=(
            "ISPRS benchmark terms: for research, with the acknowledgement that the benchmark's "
            "page asks for; not to be passed on. No licence is stated for models made from it."
        ),
        get=(
            "4_Ortho_RGBIR.zip and 5_Labels_all.zip from the ISPRS benchmark page on urban "
            "semantic labelling (Potsdam), both unpacked into one folder."
        ),
        purpose=(
            "Roofs, streets, trees and cars of a Central European city in RGB true orthophotos of "
            "5 cm. Fails on imagery that is much coarser, where cars vanish."
        ),
    )
    gsd_m = 0.05
    torchgeo_kind = "Potsdam2D"
    prefix = "top_potsdam_"
    validation_tiles = ("2_11", "2_12", "4_10", "5_11", "6_7", "7_8", "7_10")
    image_folder = "4_Ortho_RGBIR"
    archives = ("4_Ortho_RGBIR.zip",)

    off_colour_tiles: ClassVar[tuple[str, ...]] = ("4_12", "6_7")
    """Tiles whose published labels are off the palette: 4_12 was compressed with loss and has
    thousands of colours such as (9, 222, 221), 6_7 has cars of (252, 255, 0). All of them are near
    one corner of the colour cube, where the palette is."""

    def _labels(self, item: str, path: Path) -> NDArray[np.uint8]:
        mask = _read_bands(path, 3)
        if item in self.off_colour_tiles:
            mask = np.where(mask < 128, np.uint8(0), np.uint8(255))
        return self.classes.encode_rgb(mask, where=str(path))


class Vaihingen(IsprsDataset):
    """ISPRS 2D semantic labelling, Vaihingen: 33 colour-infrared true orthophotos at 9 cm.

    Items are ``area1`` … ``area38``. The bands are near infrared, red and green, in this order.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="vaihingen",
        title="ISPRS 2D Semantic Labeling, Vaihingen (near infrared, red, green)",
        layout=(
            "  top/top_mosaic_09cm_area1.tif …  (images)\n  top_mosaic_09cm_area1.tif …  (labels)"
        ),
        classes=IsprsDataset.classes.names,
        licence=(
            "ISPRS benchmark terms: for research, with the acknowledgement of the German Society "
            "for Photogrammetry, Remote Sensing and Geoinformation (Cramer 2010); not to be passed "
            "on. No licence is stated for models made from it."
        ),
        get=(
            "ISPRS_semantic_labeling_Vaihingen.zip and "
            "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE.zip from the ISPRS benchmark "
            "page on urban semantic labelling, both unpacked into one folder."
        ),
        purpose=(
            "Roofs, streets, trees and cars of a small Central European town in true orthophotos "
            "of 9 cm with the bands near infrared, red, green. Does not work on RGB."
        ),
    )
    gsd_m = 0.09
    bands = ("nir", "red", "green")
    torchgeo_kind = "Vaihingen2D"
    prefix = "top_mosaic_09cm_"
    validation_tiles = ("area11", "area15", "area28", "area30", "area34")
    image_folder = "top"
    archives = ("ISPRS_semantic_labeling_Vaihingen.zip",)


class GID15(TorchgeoDataset):
    """GID-15: Gaofen-2 scenes of 7200 x 6800 px over China, 15 kinds of land use and cover.

    Items are ``train/GF2_PMS1__L1A0000647767-MSS1`` and so on; the labels of ``test`` are not
    published. Masks hold 1 to 15 for the classes; 0 is what belongs to none of them or was not
    decided, and is ignored.

    Source: Tong et al. 2020, Land-cover classification with high-resolution remote sensing images
    using transferable deep models (Remote Sensing of Environment 237).
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="gid15",
        title="GID-15, Gaofen Image Dataset with 15 classes, Wuhan University",
        layout=(
            "  GID/img_dir/train/GF2_PMS1__L1A0000647767-MSS1.tif …\n"
            "  GID/ann_dir/train/GF2_PMS1__L1A0000647767-MSS1_15label.png …\n"
            "  GID/img_dir/val/ …, GID/ann_dir/val/ … as train"
        ),
        classes=(
            "Industrial land",
            "Urban residential",
            "Rural residential",
            "Traffic land",
            "Paddy field",
            "Irrigated land",
            "Dry cropland",
            "Garden plot",
            "Arbor woodland",
            "Shrub land",
            "Natural grassland",
            "Artificial grassland",
            "River",
            "Lake",
            "Pond",
        ),
        licence=(
            "No licence stated: published for research; ask its authors before any other use of "
            "the data or of models made from it."
        ),
        get=("gid-15.zip from the dataset's page, captain-whu.github.io/GID15 (36 GB), unpacked."),
        purpose=(
            "Land use and cover of China in RGB satellite imagery of about 3 m. Fails on finer "
            "imagery, where a roof or a tree is an object, and on other farming landscapes."
        ),
    )
    # 506 km² in 7200 x 6800 px; Gaofen-2's multispectral camera is specified with 3.24 m
    gsd_m = 3.2
    classes = ClassScheme(
        names=info.classes,
        colours=(
            (200, 0, 0),
            (250, 0, 150),
            (200, 150, 150),
            (250, 150, 150),
            (0, 200, 0),
            (150, 250, 0),
            (150, 200, 150),
            (200, 0, 200),
            (150, 0, 250),
            (150, 150, 250),
            (250, 200, 0),
            (200, 200, 0),
            (0, 0, 200),
            (0, 150, 200),
            (0, 200, 250),
        ),
    )
    mask_ids: ClassVar[Mapping[int, int]] = {value: value - 1 for value in range(1, 16)}
    ignored_ids = (0,)

    def _find(self) -> dict[str, _Pair]:
        self._need("GID", "gid-15.zip")
        pairs = {}
        parts: tuple[_Part, ...] = ("train", "val")
        for part in parts:
            for entry in self._open("GID15", split=part, download=False).files:
                image = Path(entry["image"])
                # torchgeo's own mask path is wrong where the root's name has "img_dir" in it
                mask = self.root / "GID" / "ann_dir" / part / f"{image.stem}_15label.png"
                pairs[f"{part}/{image.stem}"] = _Pair(image, mask, part)
        if not pairs:
            raise self.wrong_layout("no image such as 'GID/img_dir/train/*.tif' is there")
        return pairs


def _read_bands(path: Path, count: int) -> NDArray[np.uint8]:
    """Decode the first bands of a TIFF as (H, W, count).

    By rasterio: Pillow takes the fourth band of an image for its transparency.

    Raises:
        DatasetError: If it cannot be read, has fewer bands, or other than 8-bit ones.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                if source.count < count or set(source.dtypes[:count]) != {"uint8"}:
                    raise DatasetError(
                        f"{path} has {source.count} bands of {source.dtypes[0]} where at least "
                        f"{count} of uint8 are expected."
                    )
                bands = np.empty((source.height, source.width, count), np.uint8)
                for band in range(count):
                    bands[..., band] = source.read(band + 1)
                return bands
    except RasterioError as error:
        raise DatasetError(f"{path} cannot be read as an image ({error}).") from error


def _read_grey(path: Path) -> NDArray[np.uint8]:
    """Decode a mask whose ids are grey levels, (H, W), in one band or three times the same.

    ``split.py`` of LandCover.ai writes three bands.

    Raises:
        DatasetError: If it cannot be read, or is coloured.
    """
    rgb = read_rgb(path)
    if not (rgb == rgb[..., :1]).all():
        raise DatasetError(f"{path} is coloured where a mask of grey class ids is expected.")
    return rgb[..., 0]


def _resolution(path: Path) -> float:
    """Ground sampling distance of an orthophoto in metres, to the millimetre.

    Raises:
        DatasetError: If it cannot be read, or is not georeferenced, which torchgeo needs.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                if source.crs is None:
                    raise DatasetError(
                        f"{path} has no coordinate reference system; the published orthophotos "
                        "have EPSG:2180."
                    )
                return round(float(source.res[0]), 3)
    except RasterioError as error:
        raise DatasetError(f"{path} cannot be read as an image ({error}).") from error
