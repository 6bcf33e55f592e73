"""The page of a report: a map's figures, layers and facts in words, tables and charts.

The frame is ``data/report.html``, with its style and script beside it; everything that comes from
files, such as class names, is escaped here.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from importlib.resources import files
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import pyproj
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine

from geodeform.classes import ClassScheme, to_hex
from geodeform.geo.affine import apply, frame_of
from geodeform.geo.ground import ground_size
from geodeform.map_figures import MapFigures
from geodeform.report_charts import (
    Bar,
    Ridge,
    Tick,
    bar_chart,
    histogram,
    ramp_colours,
    ridge_chart,
)
from geodeform.result import format_area

_LON_LAT_NODES = 17
_HISTOGRAM_BARS = 48
_RIDGE_BARS = 64
_TIMES = "\u00d7"  # the multiplication sign, which ruff takes for an x
_UNKNOWN = "\u2013"

# what the tags of geodeform's rasters are called on the page, in its order
_TAG_FACTS = {
    "source": "Scene",
    "model": "Model",
    "model_architecture": "Network",
    "budget": "Budget",
    "sampler": "Sampler",
    "sampled_share": "Pixels sampled",
    "window_px": "Window, px",
    "sample_size": "Samples a window",
    "bands": "Bands",
    "scaling": "Values",
    "TIFFTAG_DATETIME": "Made",
    "TIFFTAG_SOFTWARE": "Software",
    "model_licence": "Model's licence",
    "model_training_data": "Trained on",
}


@dataclass(frozen=True)
class Place:
    """The georeference of a map, as the page needs it."""

    shape: tuple[int, int]
    frame: Affine
    crs: CRS | None
    metres: tuple[float, float, float] | None  # height and width of a pixel, its area in m²

    @classmethod
    def of(cls, source: Any) -> Place:
        """That of an open raster."""
        frame, crs = frame_of(source)
        metres = None if crs is None else ground_size(frame, crs, source.shape)
        return cls(source.shape, frame, crs, metres)

    @property
    def crs_name(self) -> str | None:
        """``EPSG:32640``, or the name of a CRS without a code."""
        if self.crs is None:
            return None
        known = pyproj.CRS.from_user_input(self.crs)
        authority = self.crs.to_authority()
        return ":".join(authority) if authority else str(known.name)

    @property
    def crs_title(self) -> str | None:
        """``WGS 84 / UTM zone 40N (EPSG:32640)``."""
        if self.crs is None:
            return None
        name = pyproj.CRS.from_user_input(self.crs).name
        return name if name == self.crs_name else f"{name} ({self.crs_name})"

    @property
    def spacing(self) -> float | None:
        """Side in metres of a square of a pixel's area."""
        return None if self.metres is None else math.sqrt(self.metres[2])

    def to_json(self) -> dict[str, Any]:
        """What the viewer needs to tell where the pointer is."""
        H, W = self.shape
        a, b, _, d, e, _ = self.frame[:6]
        smallest = min(math.hypot(a, d), math.hypot(b, e))
        digits = 0 if smallest <= 0 else max(0, min(9, math.ceil(1 - math.log10(smallest))))
        north = None
        if self.crs is not None and self.frame.determinant != 0:
            x, y = apply(~self.frame, np.zeros(2), np.array([0.0, 1.0]))
            right, down = float(x[1] - x[0]) * self._aspect, float(y[1] - y[0])
            north = round(math.degrees(math.atan2(right, -down)), 2)
        return {
            "size": [W, H],
            "affine": list(self.frame[:6]),
            "crs": self.crs_name,
            "digits": digits,
            "aspect": self._aspect,
            "metres": None if self.metres is None else self.metres[0],
            "spacing": self.spacing,
            "north": north,
            "lon_lat": self._lon_lat(),
        }

    @property
    def _aspect(self) -> float:
        """How much wider than high a pixel is on the ground."""
        return 1.0 if self.metres is None else self.metres[1] / self.metres[0]

    def _lon_lat(self) -> dict[str, Any] | None:
        """WGS 84 at a grid of nodes, between which the page interpolates; None if that is no help.

        Within one 17th of a scene a projection is as good as linear.
        """
        if self.crs is None or self.crs == CRS.from_epsg(4326):
            return None
        n = _LON_LAT_NODES
        rows, cols = np.mgrid[0:n, 0:n] / (n - 1)
        x, y = apply(self.frame, cols * self.shape[1], rows * self.shape[0])
        try:
            change = pyproj.Transformer.from_crs(self.crs.to_wkt(), "EPSG:4326", always_xy=True)
            lon, lat = change.transform(x, y)
        except pyproj.exceptions.ProjError:
            return None
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()) or np.ptp(lon) > 180:
            return None  # beyond the projection's reach, or over the antimeridian
        return {
            "size": n,
            "lon": np.round(lon.ravel(), 7).tolist(),
            "lat": np.round(lat.ravel(), 7).tolist(),
        }


@dataclass(frozen=True)
class Layer:
    """A picture of the viewer: what the page says of it, and its bytes."""

    about: dict[str, Any]
    payload: bytes


@dataclass(frozen=True)
class Page:
    """Everything that the page shows, and how it is put into words and tables."""

    place: Place
    scheme: ClassScheme
    figures: MapFigures
    polygons: list[int] | None
    layers: dict[str, Layer]
    tags: Mapping[str, str]
    facts: dict[str, str]
    notes: tuple[str, ...]
    title: str
    name: str

    def html(self) -> str:
        """The whole page."""
        parts = files("geodeform") / "data"
        template = (parts / "report.html").read_text(encoding="utf-8")
        table = self._class_rows()
        slots = {
            "generator": escape(f"geodeform {version('geodeform')}"),
            "title": escape(self.title),
            "subtitle": escape(self._subtitle()),
            "css": (parts / "report.css").read_text(encoding="utf-8"),
            "js": (parts / "report.js").read_text(encoding="utf-8"),
            "cards": self._cards(),
            "map_label": escape(self._map_label()),
            "layers": self._layer_rows(),
            "legend": self._legend(),
            "notes": self._notes(),
            "area_chart": self._area_chart(),
            "table_caption": escape(self._caption()),
            "class_table": _class_table(table),
            "csv_name": escape(f"{self.name}_classes.csv"),
            "csv": "data:text/csv;charset=utf-8," + quote(_csv(table)),
            "confidence": self._confidence_section(),
            "budget": self._budget_section(),
            "facts": self._fact_rows(),
            "reading": self._reading(),
            "footer": escape(self._footer()),
            "data": _json(self._viewer_data()),
            "payloads": "\n".join(
                f'<script type="text/plain" id="layer-{name}">'
                f"{base64.b64encode(layer.payload).decode()}</script>"
                for name, layer in self.layers.items()
            ),
        }
        # one pass: what is filled in, such as a class called {{data}}, is not looked at again
        return re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], template)

    def summary(self) -> dict[str, Any]:
        """The page's figures, see :class:`SceneReport`."""
        figures = self.figures
        shares = figures.sample_shares()
        classes = []
        for k, area in enumerate(figures.areas):
            share = None if shares is None else float(shares[k])
            classes.append(
                {
                    **vars(area),
                    "mean_confidence": figures.mean_confidence(k),
                    "doubtful_share": figures.doubtful_share(k),
                    "sample_share": share,
                    "sampling_factor": None
                    if share is None or area.pixels == 0
                    else share / area.share,
                    "polygons": None if self.polygons is None else self.polygons[k],
                }
            )
        spots = {"median": 0.5, "densest_1_percent": 0.99, "sparsest_1_percent": 0.01}
        densities = {name: figures.density_quantile(q) for name, q in spots.items()}
        return {
            "pixels": figures.pixels,
            "nodata_pixels": figures.nodata_pixels,
            "area_m2": figures.area_m2,
            "mean_confidence": figures.mean_confidence(),
            "doubtful_share": figures.doubtful_share(),
            "pixels_per_sample": {
                name: None if density is None else 1 / density
                for name, density in densities.items()
            },
            "classes": classes,
        }

    # ---- the parts, from the top --------------------------------------------------------------

    def _subtitle(self) -> str:
        H, W = self.place.shape
        parts = [f"{W:,} {_TIMES} {H:,} px"]
        if self.place.spacing is not None:
            parts.append(f"{_short(self.place.spacing)} m a pixel")
        parts.append(self.place.crs_title or "no coordinate reference system")
        if "model" in self.tags:
            parts.append(f"model {self.tags['model']}")
        if "TIFFTAG_DATETIME" in self.tags:
            parts.append(_date(self.tags["TIFFTAG_DATETIME"]))
        return " · ".join(parts)

    def _cards(self) -> str:
        figures = self.figures
        cards = []
        if figures.area_m2 is not None:
            cards.append((format_area(figures.area_m2), "mapped area"))
        else:
            cards.append((f"{figures.pixels:,} px", "mapped pixels"))
        found = [area for area in figures.areas if area.pixels > 0]
        if found:
            largest = max(found, key=lambda area: area.pixels)
            cards.append((largest.name, f"largest class, {_percent(largest.share)} of the map"))
        if self._sampled_share() is not None:
            cards.append((_percent(self._sampled_share() or 0), "of the pixels were sampled"))
        mean, doubtful = figures.mean_confidence(), figures.doubtful_share()
        if mean is not None and doubtful is not None:
            cards.append((_percent(mean), "mean confidence"))
            cards.append((_percent(doubtful), "of the map is under 50 % confidence"))
        return "\n".join(
            f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for value, label in cards
        )

    def _sampled_share(self) -> float | None:
        try:
            return float(self.tags["sampled_share"])
        except (KeyError, ValueError):
            return None

    def _map_label(self) -> str:
        found = sorted(
            (area for area in self.figures.areas if area.pixels > 0), key=lambda area: -area.pixels
        )
        return "Map of the land cover: " + (
            ", ".join(f"{area.name} {_percent(area.share)}" for area in found) or "no data"
        )

    def _layer_rows(self) -> str:
        rows = []
        seen = {"confidence": ("Confidence", 90), "density": ("Sampling density", 75)}
        for name, (label, opacity) in seen.items():
            if name in self.layers:
                rows.append(_layer_row(name, label, opacity, shown=False, ramp=self._ramp(name)))
        over = 65 if "scene" in self.layers else 100
        rows = [*reversed(rows), _layer_row("map", "Land cover", over, shown=True)]
        if "scene" in self.layers:
            rows.append(_layer_row("scene", "Scene", 100, shown=True))
            rows.append(
                '<div class="layer single"><label><input type="checkbox" id="show-swipe">Swipe: '
                "scene alone left of the line</label></div>"
            )
        return "\n".join(rows)

    def _ramp(self, name: str) -> str:
        """The legend of a layer that has a ramp of colours."""
        if name == "confidence":
            start = round(100 * self.layers[name].about["from"] / 255)
            low = f"≤ {start} %" if start > 0 else "0 %"
            return _ramp_bar("cividis", [low, "", "100 %"])
        start, end = self.figures.density_range()
        middle = math.sqrt(start * end)
        ends = [f"{_short(1 / density)} px" for density in (start, middle, end)]
        return _ramp_bar("viridis", ends, "scene pixels that one sample stands for")

    def _legend(self) -> str:
        rows = []
        for area, colour in zip(self.figures.areas, self.scheme.colours, strict=True):
            rows.append(
                f'<button type="button" data-class="{area.id}" aria-pressed="false">'
                f'{_swatch(colour)}<span class="name">{escape(area.name)}</span>'
                f'<span class="share">{escape(_percent(area.share))}</span></button>'
            )
        return "\n".join(rows)

    def _notes(self) -> str:
        if not self.notes:
            return ""
        items = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return f'<aside class="note" aria-label="Notes"><h2>Notes</h2><ul>{items}</ul></aside>'

    def _area_chart(self) -> str:
        order = sorted(self.figures.areas, key=lambda area: -area.pixels)
        longest = max(order[0].share, 1e-9)
        bars = []
        for area in order:
            size = "" if area.area_m2 is None else f" · {format_area(area.area_m2)}"
            bars.append(
                Bar(
                    area.name,
                    f"{_percent(area.share)}{size}",
                    area.share / longest,
                    to_hex(self.scheme.colours[area.id]),
                )
            )
        return bar_chart(bars, "Share of each class in the map")

    def _caption(self) -> str:
        known = "Shares are of the pixels that have a class"
        nodata = self.figures.nodata_pixels
        if nodata:
            known += f"; {nodata:,} pixels have none"
        if self.figures.area_m2 is not None:
            known += ". Areas are measured on the ground, row by row of the map"
        return f"{known}. Click a heading to sort."

    def _class_rows(self) -> list[list[_Cell]]:
        """The class table: its head, then a row a class, then the sum."""
        figures = self.figures
        summary = self.summary()
        heads = ["Class", "Pixels", "Share"]
        if figures.area_m2 is not None:
            heads.append("Area")
        if figures.confidence is not None:
            heads += ["Mean confidence", "Under 50 %"]
        if figures.density is not None:
            heads.append("Share of samples")
        if self.polygons is not None:
            heads.append("Polygons")
        rows = [[_Cell(head, head) for head in heads]]
        for entry in (*summary["classes"], {**summary, "name": "All classes", "share": 1.0}):
            colour = self.scheme.colours[entry["id"]] if "id" in entry else None
            row = [_Cell(entry["name"], entry["name"], colour)]
            row.append(_Cell(f"{entry['pixels']:,}", entry["pixels"]))
            row.append(_Cell(_percent(entry["share"]), entry["share"]))
            if figures.area_m2 is not None:
                row.append(_Cell(format_area(entry["area_m2"]), entry["area_m2"]))
            if figures.confidence is not None:
                row += [
                    _Cell.share(entry["mean_confidence"]),
                    _Cell.share(entry["doubtful_share"]),
                ]
            if figures.density is not None:
                known = entry.get("sample_share", 1.0)
                row.append(_Cell.share(known))
            if self.polygons is not None:
                count = entry.get("polygons", sum(self.polygons))
                row.append(_Cell(f"{count:,}", count))
            rows.append(row)
        return rows

    def _confidence_section(self) -> str:
        figures = self.figures
        doubtful = figures.doubtful_share()
        if doubtful is None:
            return ""
        # bars of as many stored values each
        edges = np.linspace(0, 256, _RIDGE_BARS + 1).astype(int)[:-1]
        ridges = []
        for area in sorted(figures.areas, key=lambda area: -area.pixels):
            counts = figures.confidence_counts(area.id)
            if counts is None:
                continue
            heights = np.add.reduceat(counts, edges)
            median = figures.confidence_quantile(0.5, area.id) or 0.0
            low, high = (figures.confidence_quantile(q, area.id) or 0.0 for q in (0.1, 0.9))
            under = figures.doubtful_share(area.id) or 0.0
            ridges.append(
                Ridge(
                    area.name,
                    f"median {_percent(median)} · {_percent(under)} under 50 %",
                    [float(height) for height in heights / heights.max()],
                    to_hex(self.scheme.colours[area.id]),
                    median,
                    f"{area.name}: eight tenths of its pixels are between {_percent(low)} and "
                    f"{_percent(high)}",
                )
            )
        ticks = [Tick(k / 4, f"{25 * k} %") for k in range(5)]
        chart = ridge_chart(ridges, ticks, "Distribution of the confidence of each class")
        return _section(
            "confidence",
            "Confidence",
            f"<p>Confidence is the probability that the model gives the class that it chose. "
            f"<strong>{escape(_percent(doubtful))}</strong> of the map is under 50 %: there the "
            "other classes together are likelier than the one shown. Look at these places first. "
            "It is the model's own belief, not a measured accuracy.</p>"
            f'{chart}<p class="hint">How many pixels of each class have which confidence, each '
            "class to its own height; the line is the median.</p>",
        )

    def _budget_section(self) -> str:
        figures = self.figures
        shares = figures.sample_shares()
        typical, dense, sparse = (figures.density_quantile(q) for q in (0.5, 0.99, 0.01))
        if shares is None or typical is None or dense is None or sparse is None:
            return ""
        sampled = self._sampled_share()
        opening = (
            ""
            if sampled is None
            else f"The network saw as many samples as {_percent(sampled)} of the scene's pixels, "
            "counted in each of its overlapping windows; the map is interpolated between them. "
        )
        text = (
            f"{opening}At the median place of the map, one sample stands for "
            f"{_short(1 / typical)} pixels, so samples are {self._apart(typical)} apart. In the "
            f"densest 1 % of the map it stands for {_short(1 / dense)} pixels or fewer "
            f"({self._apart(dense)} apart), in the sparsest 1 % for {_short(1 / sparse)} or more "
            f"({self._apart(sparse)}). Things much smaller than the distance between samples can "
            "be missed."
        )
        order = sorted(
            (area for area in figures.areas if area.pixels > 0),
            key=lambda area: -shares[area.id] / area.share,
        )
        longest = max(max(area.share, float(shares[area.id])) for area in order)
        bars = [
            Bar(
                area.name,
                f"{float(shares[area.id]) / area.share:.2f}{_TIMES} · "
                f"{_percent(float(shares[area.id]))} of the samples, "
                f"{_percent(area.share)} of the map",
                float(shares[area.id]) / longest,
                to_hex(self.scheme.colours[area.id]),
                area.share / longest,
            )
            for area in order
        ]
        chart = bar_chart(bars, "Share of the samples and of the map that each class has")
        return _section(
            "budget",
            "Where the budget went",
            f"<p>{escape(text)}</p>"
            "<h3>Samples by class</h3>"
            "<p>A factor above 1 says that the class got more samples than its part of the map, "
            "one below 1 that it got fewer.</p>"
            f'{chart}<p class="hint">Coloured: share of the samples. Grey: share of the map.</p>'
            "<h3>Distance between samples</h3>"
            f'{self._spacing_chart()}<p class="hint">How much of the map has which distance '
            "between samples; colours as in the density layer.</p>",
        )

    def _apart(self, density: float) -> str:
        pixels = 1 / math.sqrt(density)
        if self.place.spacing is None:
            return f"{_short(pixels)} px"
        return f"{_short(pixels * self.place.spacing)} m"

    def _spacing_chart(self) -> str:
        """Histogram of the distance between samples, on a logarithmic axis."""
        figures = self.figures
        counts = cast(NDArray[np.int64], figures.density).sum(0)
        ends = [cast(float, figures.density_quantile(q)) for q in (0.999, 0.001)]
        # spacing grows where density falls
        low, high = (-0.5 * math.log2(density) for density in ends)
        middle, half = (low + high) / 2, max((high - low) / 2, 0.2) * 1.02
        low, high = middle - half, middle + half
        octaves = -0.5 * np.log2(figures.densities)
        heights, edges = np.histogram(octaves, _HISTOGRAM_BARS, (low, high), weights=counts)
        start, end = (-0.5 * math.log2(density) for density in figures.density_range())
        ramp = ramp_colours("viridis")
        unit, factor = ("px", 1.0) if self.place.spacing is None else ("m", self.place.spacing)
        colours, titles = [], []
        for height, left, right in zip(heights, edges[:-1], edges[1:], strict=True):
            part = ((left + right) / 2 - start) / (end - start)
            colours.append(to_hex(ramp[round(255 * min(max(part, 0.0), 1.0))]))
            titles.append(
                f"{_short(factor * 2**left)} to {_short(factor * 2**right)} {unit}: "
                f"{_percent(height / counts.sum())} of the map"
            )
        ticks: list[Tick] = []
        for value in _round_values(factor * 2**low, factor * 2**high):
            at = (math.log2(value / factor) - low) / (high - low)
            if not ticks or at - ticks[-1].at > 0.12:  # or they would touch on a phone
                ticks.append(Tick(at, f"{value:g} {unit}"))
        return histogram(
            [float(height) for height in heights / max(heights.max(), 1)],
            colours,
            titles,
            ticks,
            "How much of the map has which distance between samples",
        )

    def _fact_rows(self) -> str:
        H, W = self.place.shape
        rows: dict[str, str] = {}
        for tag, label in _TAG_FACTS.items():
            if self.tags.get(tag):
                rows[label] = self.tags[tag]
        if "TIFFTAG_DATETIME" in self.tags:
            rows["Made"] = _date(self.tags["TIFFTAG_DATETIME"])
        sampled = self._sampled_share()
        if sampled is not None:
            rows["Pixels sampled"] = _percent(sampled)
        rows["Map"] = f"{W:,} {_TIMES} {H:,} px"
        if self.place.metres is not None:
            tall, wide, _ = self.place.metres
            rows["Pixel"] = f"{_short(wide)} {_TIMES} {_short(tall)} m (at the middle of the map)"
        rows["CRS"] = self.place.crs_title or "none"
        rows |= self.facts
        return "\n".join(
            f'<tr><th scope="row">{escape(label)}</th><td>{escape(text)}</td></tr>'
            for label, text in rows.items()
        )

    def _reading(self) -> str:
        view = self.layers["map"].about
        H, W = self.place.shape
        parts = [
            "The map gives each pixel the class that the model finds likeliest. "
            "The layers above can be shown one over the other and made transparent."
        ]
        if (view["height"], view["width"]) != (H, W):
            parts.append(
                f"The viewer shows the map at 1/{_short(H / view['height'])} of its resolution, "
                "where a pixel has the class that most of its pixels have; all figures are counted "
                "at full resolution."
            )
        if "confidence" in self.layers:
            if (field := self.layers["confidence"].about)["height"] != H:
                parts.append(
                    "Confidence in the viewer is the mean of squares of "
                    f"{_short(H / field['height'])} pixels a side."
                )
            parts.append(
                "Confidence near 100 % says that the model has no doubt, not that it is right: "
                "it has no doubt either about things that it has never seen."
            )
        if "density" in self.layers:
            parts.append(
                "The network does not look at every pixel. Sampling density says how many of its "
                "samples fell on a place: high along borders that were expected to be hard, low "
                "where the scene is plain."
            )
        parts.append("This page is one file: it can be sent, kept and printed, and loads nothing.")
        return "\n".join(f"<p>{escape(part)}</p>" for part in parts)

    def _footer(self) -> str:
        parts = [f"Made with {self.tags.get('TIFFTAG_SOFTWARE', 'geodeform')}"]
        if "model" in self.tags:
            licence = self.tags.get("model_licence")
            parts.append(f"model {self.tags['model']}" + (f" ({licence})" if licence else ""))
        return " · ".join(parts)

    def _viewer_data(self) -> dict[str, Any]:
        return {
            **self.place.to_json(),
            "classes": [
                {"name": name, "colour": list(colour)}
                for name, colour in zip(self.scheme.names, self.scheme.colours, strict=True)
            ],
            "layers": {name: layer.about for name, layer in self.layers.items()},
            "figures": self.summary(),
        }


@dataclass(frozen=True)
class _Cell:
    """A cell of the class table: as it is said, as it is sorted, and a class colour."""

    text: str
    value: Any
    colour: tuple[int, int, int] | None = None

    @classmethod
    def share(cls, share: float | None) -> _Cell:
        return cls(_UNKNOWN, -1) if share is None else cls(_percent(share), share)


def _class_table(rows: list[list[_Cell]]) -> str:
    heads = "".join(
        f'<th scope="col"><button type="button">{escape(cell.text)}</button></th>'
        for cell in rows[0]
    )
    body = "\n".join(f"<tr>{_cells(row)}</tr>" for row in rows[1:-1])
    return (
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n"
        f"<tfoot><tr>{_cells(rows[-1])}</tr></tfoot>"
    )


def _cells(row: list[_Cell]) -> str:
    return "".join(
        f'<td data-value="{escape(str(cell.value))}">'
        f"{'' if cell.colour is None else _swatch(cell.colour)}{escape(cell.text)}</td>"
        for cell in row
    )


def _csv(rows: list[list[_Cell]]) -> str:
    """The class table with plain numbers; areas in m², shares of 0…1."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([cell.text.replace("Area", "Area m2") for cell in rows[0]])
    for row in rows[1:-1]:
        writer.writerow(["" if cell.text == _UNKNOWN else cell.value for cell in row])
    return out.getvalue()


def _layer_row(name: str, label: str, opacity: int, *, shown: bool, ramp: str = "") -> str:
    return (
        f'<div class="layer"><label><input type="checkbox" id="show-{name}"'
        f"{' checked' if shown else ''}>{label}</label>"
        f'<input type="range" id="opacity-{name}" min="0" max="100" value="{opacity}" '
        f'aria-label="Opacity of {label}">{ramp}</div>'
    )


def _ramp_bar(name: str, texts: Sequence[str], caption: str = "") -> str:
    stops = ",".join(to_hex(colour) for colour in ramp_colours(name)[::15])
    said = "".join(f"<span>{escape(text)}</span>" for text in texts)
    return (
        f'<div class="ramp"><div class="bar" style="background:linear-gradient(90deg,{stops})">'
        f'</div><div class="ends">{said}</div>{escape(caption)}</div>'
    )


def _swatch(colour: tuple[int, int, int]) -> str:
    return f'<span class="swatch" style="background:{to_hex(colour)}"></span>'


def _section(name: str, title: str, body: str) -> str:
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">\n'
        f'<h2 id="{name}-title">{title}</h2>\n{body}\n</section>'
    )


def _json(value: Any) -> str:
    """JSON that cannot end the script element that it is in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _date(tag: str) -> str:
    """TIFF's 2026:11:24 13:34:43 as people write it."""
    return re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", tag)


def _round_values(low: float, high: float) -> list[float]:
    """A few round values of a logarithmic axis.

    >>> _round_values(3.9, 22.0), _round_values(6.2, 10.2)
    ([5.0, 10.0, 20.0], [7.0, 8.0, 9.0, 10.0])
    """
    if high / low < 4:
        locator = MaxNLocator(5, steps=[1, 2, 5, 10])
        values = [float(value) for value in locator.tick_values(low, high)]
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if high / low < 100 else (1,)
        values = [float(f"{step * 10.0**power:g}") for power in decades for step in steps]
    return [value for value in values if low <= value <= high]


def _percent(share: float) -> str:
    """A share with as many digits as say something.

    >>> _percent(0.342), _percent(0.0042), _percent(0.0), _percent(0.00001)
    ('34.2 %', '0.42 %', '0 %', '< 0.01 %')
    """
    if 0 < share < 1e-4:
        return "< 0.01 %"
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    return f"{100 * share:.1f} %" if share >= 0.01 else f"{100 * share:.2f} %"


def _short(value: float) -> str:
    """Three digits, two under ten.

    >>> _short(39.24), _short(6.264), _short(1234.0), _short(0.512)
    ('39.2', '6.3', '1,234', '0.51')
    """
    digits = 3 if value >= 10 else 2
    decimals = max(0, digits - 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{decimals}f}"
