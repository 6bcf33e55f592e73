"""Make the packaged demo scene and its labels: a cut of tile 7 of the CC0 Dubai imagery.

    python .ci/make_demo_data.py ../shared/data/dubai SCENE.tif LABELS.gpkg

The imagery has no georeference. The cut is placed by hand: the clubhouse of Jumeirah Golf Estates
(pixel 1815, 3235 of the stitched tile) at 25.0203° N, 55.2014° E, north up, with 1 m pixels (the
400 m running track at pixel 3965, 1030 measures 174 x 98 px).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from geodeform.geo.vector import polygonize, write_polygons
from geodeform.training.datasets.dubai import DubaiScenes

TILE = "7"
LEFT, TOP, WIDTH, HEIGHT = 0, 640, 3840, 4160  # pixels of the stitched tile
CLUBHOUSE_PIXEL = (1815, 3235)
CLUBHOUSE_LON_LAT = (55.2014, 25.0203)
GSD = 1.0
DESCRIPTION = (
    "Jumeirah Golf Estates, Dubai: cut of tile 7 of 'Semantic segmentation of aerial imagery' "
    "(Humans in the Loop, imagery by MBRSC), CC0 1.0. THE GEOREFERENCE IS APPROXIMATE: placed by "
    "hand at 1 m pixels, north up; expect errors of tens to hundreds of metres."
)


MIN_AREA_M2, SIMPLIFY_M = 25, 3  # of the labels: 1.6 MB instead of 20, 99.2 % of the pixels alike


def main(root: str, target: str, labels: str) -> None:
    """Write the scene and its labels."""
    scene = DubaiScenes(root).load(TILE)
    cut = np.s_[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    image = scene.image[cut]
    east, north = Transformer.from_crs("EPSG:4326", "EPSG:32640", always_xy=True).transform(
        *CLUBHOUSE_LON_LAT
    )
    column, row = CLUBHOUSE_PIXEL[0] - LEFT, CLUBHOUSE_PIXEL[1] - TOP
    transform = Affine(GSD, 0, round(east - column * GSD), 0, -GSD, round(north + row * GSD))
    drawn = polygonize(
        np.ascontiguousarray(scene.labels[cut]),
        scheme=DubaiScenes.classes,
        transform=transform,
        crs=CRS.from_epsg(32640),
        min_area=MIN_AREA_M2,
        simplify=SIMPLIFY_M,
    )
    write_polygons(drawn[["class_id", "class_name", "geometry"]], Path(labels))
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            height=HEIGHT,
            width=WIDTH,
            count=3,
            dtype="uint8",
            crs="EPSG:32640",
            transform=transform,
            photometric="RGB",
        ) as dataset:
            dataset.write(np.moveaxis(image, 2, 0))
            dataset.update_tags(
                TIFFTAG_IMAGEDESCRIPTION=DESCRIPTION,
                TIFFTAG_COPYRIGHT="CC0 1.0",
            )
        rasterio.shutil.copy(
            memory.name,
            target,
            driver="COG",
            COMPRESS="JPEG",
            QUALITY="70",
            BLOCKSIZE="512",
            OVERVIEW_RESAMPLING="AVERAGE",
            OVERVIEW_QUALITY="70",
            NUM_THREADS="ALL_CPUS",
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
