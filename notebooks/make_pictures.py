"""The README's pictures, from the packaged scene: ``python notebooks/make_pictures.py``.

They come into ``notebooks/pictures`` (or the folder that is given as argument), the same ones each
time but for what the versions of matplotlib and torch change, and the times in one of them. About
two minutes on a CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import geopandas as gpd
import matplotlib as mpl
import rioxarray
import xarray as xr
from matplotlib.figure import Figure
from rasterio.features import rasterize

import geodeform
from geodeform import plot
from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.plot.layers import class_handles
from geodeform.result import SegmentationResult

WIDTH = 1600  # pixels
DPI = 160
CROP = (318_950, 2_767_330, 319_974, 2_768_354)  # one window: lakes, villas, a road, the desert
BUDGETS = ("0.4%", "0.7%", "1%", "1.5%", "3%")


def main(folder: Path) -> None:
    """Write the pictures."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    scene = geodeform.demo_scene()
    part = geodeform.segment_scene(scene, budget="1%", bbox=CROP, samples=True)
    save(hero(scene, part), folder / "hero.jpg")
    # dense there and sparse here: the road around the golf course, and the sand beside it
    window = plot.warp_window(scene, budget="1%", at=(319_700, 2_767_700))
    save(plot.warp(window, figure=new_figure(9.6)), folder / "warp.jpg")
    save(charts(scene), folder / "charts.png")
    save(curve(scene), folder / "budget.png")


def new_figure(height: float) -> Figure:
    """A figure of the README's width, ``height`` in inches."""
    return Figure(figsize=(WIDTH / DPI, height), dpi=DPI, layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a picture; photographs as JPEG, or each would be some megabytes."""
    if path.suffix == ".jpg":
        figure.savefig(path, pil_kwargs={"quality": 78, "optimize": True, "progressive": True})
    else:
        figure.savefig(path, metadata={"Software": None})


def hero(scene: Path, result: SegmentationResult) -> Figure:
    """Scene, sampling density with the sampled points, and land cover, side by side."""
    figure = new_figure(3.95)
    left, middle, right = figure.subplots(1, 3)
    plot.scene(scene, bbox=CROP, ax=left)
    left.set_title("Scene")
    plot.scene(scene, bbox=CROP, ax=middle)
    plot.density(result, bbox=CROP, colorbar=False, alpha=0.55, ax=middle)
    points = result.samples.geometry
    middle.scatter(points.x, points.y, s=1.3, c="white", linewidths=0)
    middle.set_title(f"Density, {result.facts.sampled_share:.0%} of the pixels")
    plot.land_cover(result, bbox=CROP, legend=False, ax=right)
    right.set_title("Land cover, every pixel")
    for ax in (left, middle, right):
        ax.set_axis_off()
    figure.legend(
        handles=class_handles(result.classes, nodata=None),
        loc="outside lower center",
        ncols=len(result.classes),
        frameon=False,
    )
    return figure


def charts(scene: Path) -> Figure:
    """What gets the samples, and what a budget buys, against the packaged labels."""
    classes = geodeform.read_spec().classes
    labels = burn_labels(scene, classes)
    density = geodeform.density_map(scene, budget="1%", samples=True)
    # from memory: the packaged file's compressed overviews would cost uniform sampling more
    image = rioxarray.open_rasterio(scene).load()
    runs = [
        geodeform.segment_scene(
            image, bands=(1, 2, 3), budget=budget, sampler=sampler, allocation=allocation
        )
        for sampler, allocation in (("learned", "need"), ("uniform", "even"))
        for budget in BUDGETS
    ]
    table = plot.budget_table(runs, labels).drop(columns="seconds")  # not the same each time
    figure = new_figure(3.6)
    frequency, curves = figure.subfigures(1, 2, width_ratios=(1, 1.35))
    ax = frequency.subplots()
    plot.class_frequency(density, labels, classes=classes, ax=ax)
    plot.budgets(table, figure=curves)
    return figure


def curve(scene: Path) -> Figure:
    """What every budget buys, as ``geodeform budget`` draws it."""
    labels = burn_labels(scene, geodeform.read_spec().classes)
    found = geodeform.budget_curve(scene, labels=labels, windows=None)
    shown = found.table.drop(columns=["confidence", "peak_memory_bytes"])
    return plot.budgets(shown, knee=found.knee, figure=new_figure(3.4))


def burn_labels(scene: Path, classes: ClassScheme) -> xr.DataArray:
    """The packaged labels on the scene's grid, 255 where there is none."""
    polygons = gpd.read_file(geodeform.demo_labels())
    ids = {name.lower(): k for k, name in enumerate(classes.names)}
    grid = rioxarray.open_rasterio(scene).isel(band=0, drop=True)
    burnt = rasterize(
        zip(polygons.geometry, polygons["class_name"].str.lower().map(ids), strict=True),
        out_shape=grid.shape,
        transform=grid.rio.transform(),
        fill=NODATA_CLASS,
        dtype="uint8",
    )
    return grid.copy(data=burnt).rio.write_nodata(NODATA_CLASS)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
