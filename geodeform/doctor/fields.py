"""Checks of rasters that hold a measured quantity: confidence and sampling density."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from geodeform.doctor.facts import RasterFacts
from geodeform.doctor.findings import Finding, counted, error, hint, ok, quoted, warning


def check_confidence(path: Path, facts: RasterFacts) -> Iterator[Finding]:
    """Check a confidence raster: 0…1 by its scale, and its nodata."""
    if facts.minimum is None or facts.maximum is None:
        yield warning("confidence.empty", f"{path.name} holds no value: every pixel is nodata.")
        return
    low, high = (v * facts.scale + facts.offset for v in (facts.minimum, facts.maximum))
    whole = facts.dtype != "float32" and facts.dtype != "float64"
    if whole and facts.scale == 1 and facts.maximum > 1:
        yield warning(
            "confidence.no-scale",
            f"{path.name} stores {facts.minimum:g} to {facts.maximum:g} without a scale, so "
            "nothing says what is certain.",
            f"For 0…255: gdal_edit.py -scale {1 / 255!r} -offset 0 {quoted(path)}",
        )
    elif low < -1e-6 or high > 1 + 1e-6:
        yield error(
            "confidence.range",
            f"{path.name} holds {low:g} to {high:g} (by its scale {facts.scale:g} and offset "
            f"{facts.offset:g}); a probability is 0 to 1.",
            "Divide by what is certain, or set the scale: gdal_edit.py -scale S -offset O "
            f"{quoted(path)}",
        )
    else:
        yield ok("confidence.range", f"Confidence is {low:.3f} to {high:.3f}.")
        if low == high:
            yield hint(
                "confidence.constant",
                f"{path.name} is {low:g} everywhere, which says nothing about the map.",
            )
    yield from _check_infinite(path, facts)
    if facts.nodata is None and whole:
        yield hint(
            "confidence.no-nodata",
            f"{path.name} declares no nodata value, so pixels without a class count as uncertain.",
            f"If it is 0: gdal_edit.py -a_nodata 0 {quoted(path)}",
        )


def check_density(path: Path, facts: RasterFacts) -> Iterator[Finding]:
    """Check a density raster: positive, finite, with a unit."""
    if facts.minimum is None or facts.maximum is None:
        yield warning("density.empty", f"{path.name} holds no value: every pixel is nodata.")
        return
    low, high = (v * facts.scale + facts.offset for v in (facts.minimum, facts.maximum))
    if low < 0:
        yield error(
            "density.negative",
            f"{path.name} holds densities down to {low:g}; there are no fewer than no samples.",
            "Make it again; where it was resampled, use no cubic or lanczos kernel.",
        )
    elif low == 0:
        yield hint(
            "density.zero",
            f"{path.name} is 0 in places: nothing was sampled there, and the map rests on its "
            "neighbours.",
        )
    else:
        yield ok("density.range", f"Density is {low:.4g} to {high:.4g}.")
    yield from _check_infinite(path, facts)
    if not facts.unit:
        yield hint(
            "density.no-unit",
            f"{path.name} names no unit, so nobody knows what its samples are counted for.",
            "Set the band's unit, such as 'samples per source pixel'.",
        )


def _check_infinite(path: Path, facts: RasterFacts) -> Iterator[Finding]:
    if facts.infinite > 0:
        yield error(
            "raster.infinite",
            f"{path.name} holds {counted(facts.infinite, 'infinite value')}, which break averages "
            "and stretches.",
            "Make them nodata.",
        )
