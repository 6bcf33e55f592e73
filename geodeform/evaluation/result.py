"""Evaluation: what came out, as counts; every figure follows from them, and JSON keeps them.

Counts of all images are added before any ratio is taken. So results are exact to merge, to compare
and to draw again, and nothing has to be predicted twice.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodeform.errors import ConfigError
from geodeform.evaluation.boundaries import COUNTS, BoundaryScore, Trimap
from geodeform.evaluation.calibration import Calibration
from geodeform.evaluation.metrics import Confusion

FORMAT_VERSION = 1
"""Version of the JSON that this geodeform writes and reads."""

ORACLE_MARK = "oracle: sees the labels at test time"
"""What marks the figures of a sampler that looks at labels."""

TOLERANCES = ("0.75% of the diagonal", "3 px")
"""Tolerances of the boundary F1: Csurka et al.'s, and one that does not grow with the scene."""


@dataclass(frozen=True)
class MapScores:
    """A full-resolution map against the labels.

    Attributes:
        confusion: Labels against classes, every pixel.
        boundary: Boundary scores, one for each of :data:`TOLERANCES`.
        trimap: Accuracy near the borders of the labels.
    """

    confusion: Confusion
    boundary: tuple[BoundaryScore, ...]
    trimap: Trimap

    @classmethod
    def empty(cls, n_classes: int) -> MapScores:
        """Nothing counted yet."""
        return cls(
            Confusion(n_classes), tuple(BoundaryScore(n_classes) for _ in TOLERANCES), Trimap()
        )

    def mean_f1(self) -> float:
        """Mean F1 (Dice) over the classes that occur in the labels, 0…1; NaN without one."""
        values = self.confusion.f1()[self.confusion.evaluated()]
        return float(values.mean()) if values.size else float("nan")

    def figures(self) -> dict[str, Any]:
        """JSON-ready figures, 0…1."""
        return {
            "miou": _plain(self.confusion.miou()),
            "accuracy": _plain(self.confusion.accuracy()),
            "kappa": _plain(self.confusion.kappa()),
            "mean_f1": _plain(self.mean_f1()),
            "boundary_f1": {
                name: _plain(score.mean_f1())
                for name, score in zip(TOLERANCES, self.boundary, strict=True)
            },
            "trimap_accuracy": {
                str(width): _plain(value)
                for width, value in zip(self.trimap.widths, self.trimap.accuracy(), strict=True)
            },
        }

    def counts(self) -> dict[str, Any]:
        """JSON-ready counts; :meth:`of` reads them back."""
        return {
            "confusion": self.confusion.counts.tolist(),
            "boundary": [
                {name: getattr(score, name).tolist() for name in COUNTS} for score in self.boundary
            ],
            "trimap": {
                "widths": list(self.trimap.widths),
                "pixels": self.trimap.pixels.tolist(),
                "right": self.trimap.right.tolist(),
            },
        }

    @classmethod
    def of(cls, counts: Mapping[str, Any]) -> MapScores:
        """Read :meth:`counts`."""
        confusion = Confusion.of(counts["confusion"])
        boundary = []
        for one in counts["boundary"]:
            score = BoundaryScore(confusion.n_classes)
            for name in COUNTS:
                setattr(score, name, np.array(one[name], np.int64))
            boundary.append(score)
        trimap = Trimap(tuple(counts["trimap"]["widths"]))
        trimap.pixels = np.array(counts["trimap"]["pixels"], np.int64)
        trimap.right = np.array(counts["trimap"]["right"], np.int64)
        return cls(confusion, tuple(boundary), trimap)


@dataclass(frozen=True)
class Cost:
    """What the predictions cost.

    Attributes:
        scene_pixels: Pixels of all images.
        sampled_pixels: Pixels that the network saw; those of overlapping windows as often as it
            did.
        windows: Windows predicted.
        flops: Floating-point operations, see :func:`geodeform.evaluation.cost.window_flops`.
        seconds: From images in memory to class and confidence at full resolution, after a warm-up.
        cpu_seconds: Processor time of that, over all threads: on a busy machine the steadier one.
        seconds_reading: Besides, from the decoded cache into memory.
        peak_memory_bytes: Largest resident memory of the process while it predicted, with the
            image, the labels and all libraries.
        device_memory_bytes: Largest memory held on the GPU; None on a CPU.
        parameters: Numbers that the whole model has learned.
        device: Where, in words.
    """

    scene_pixels: int
    sampled_pixels: int
    windows: int
    flops: int
    seconds: float
    cpu_seconds: float
    seconds_reading: float
    peak_memory_bytes: int
    device_memory_bytes: int | None
    parameters: int
    device: str

    @property
    def sampled_share(self) -> float:
        """Sampled pixels over all pixels; above 1 where crops overlap and each is seen whole."""
        return self.sampled_pixels / self.scene_pixels

    @property
    def flops_per_megapixel(self) -> float:
        """Floating-point operations for a million pixels of the scene."""
        return self.flops / self.scene_pixels * 1e6

    @property
    def seconds_per_megapixel(self) -> float:
        """Seconds, without reading, for a million pixels of the scene."""
        return self.seconds / self.scene_pixels * 1e6

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with what follows from the attributes."""
        return {
            **vars(self),
            "sampled_share": self.sampled_share,
            "flops_per_megapixel": self.flops_per_megapixel,
            "seconds_per_megapixel": self.seconds_per_megapixel,
            "seconds_with_reading": self.seconds + self.seconds_reading,
        }


@dataclass(frozen=True)
class Unit:
    """A block of an image, what a bootstrap over the test data draws.

    Blocks depend on the image's size alone, so two evaluations of the same items pair up.

    Attributes:
        item: The image.
        row: Its first pixel row.
        column: Its first pixel column.
        counts: As :attr:`Confusion.counts`, of the map that users get.
    """

    item: str
    row: int
    column: int
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """How well a model does on labelled scenes with one sampler and budget, and what it costs.

    Attributes:
        model: What its file is called.
        architecture: Its segmenter.
        dataset: Name of the dataset.
        split: Part of it, "" where items were named.
        items: What was evaluated.
        classes: Names of the classes.
        sampler: Way to predict, see :data:`geodeform.evaluation.ways.WAYS`.
        oracle: Whether the sampler looked at the labels.
        budget: What was asked for, in words.
        allocation: How it was shared out over windows: ``"even"``, or by ``"need"``.
        overlap: Part of a window shared with each neighbour.
        sizes: (window H, W, sampled h, w) that occurred.
        notes: What a reader of the figures has to know.
        version: geodeform's.
        soft: The map that users get: scores interpolated by the reverse map, then decided.
        nearest: The map that takes the nearest sample's scores instead (the paper's).
        deformed: Labels at the samples against the classes there.
        intrinsic: Labels against themselves, sampled and mapped back as ``soft`` does: what
            sampling allows at best.
        intrinsic_nearest: The same, mapped back as ``nearest`` does: the paper's IoU(Y′, Y).
        calibration: Confidence that users get against accuracy.
        cost: What it cost.
        units: Counts of ``soft`` by block.
    """

    model: str
    architecture: str
    dataset: str
    split: str
    items: tuple[str, ...]
    classes: tuple[str, ...]
    sampler: str
    oracle: bool
    budget: str
    allocation: str
    overlap: float
    sizes: tuple[tuple[int, int, int, int], ...]
    notes: tuple[str, ...]
    version: str
    soft: MapScores
    nearest: MapScores
    deformed: Confusion
    intrinsic: Confusion
    intrinsic_nearest: Confusion
    calibration: Calibration
    cost: Cost
    units: tuple[Unit, ...]

    @property
    def miou(self) -> float:
        """THE figure: full-resolution mIoU of the map that users get, 0…1."""
        return self.soft.confusion.miou()

    def per_class(self) -> list[dict[str, Any]]:
        """A row of figures (0…1) for each class; None where the class does not occur."""
        full, sampled = self.soft.confusion, self.deformed
        pixels, samples = full.frequencies(), sampled.frequencies()
        columns: dict[str, Sequence[float] | NDArray[np.float64]] = {
            "iou": full.iou(),
            "iou_nearest": self.nearest.confusion.iou(),
            "iou_deformed": sampled.iou(),
            "iou_intrinsic": self.intrinsic.iou(),
            "iou_intrinsic_nearest": self.intrinsic_nearest.iou(),
            "precision": full.precision(),
            "recall": full.recall(),
            "f1": full.f1(),
            "boundary_f1": self.soft.boundary[0].f1(),
            "boundary_f1_3px": self.soft.boundary[1].f1(),
            "share_of_pixels": pixels,
            "share_of_samples": samples,
            "frequency_change": [
                s / p if p > 0 else math.nan for s, p in zip(samples, pixels, strict=True)
            ],
        }
        return [
            {"id": k, "class": name, **{key: _plain(v[k]) for key, v in columns.items()}}
            for k, name in enumerate(self.classes)
        ]

    def summary(self) -> dict[str, Any]:
        """JSON-ready figures, without the counts; shares and scores 0…1, None for none."""
        pixels, confidence, accuracy = self.calibration.bins()
        return {
            "model": self.model,
            "architecture": self.architecture,
            "dataset": self.dataset,
            "split": self.split,
            "items": list(self.items),
            "sampler": self.sampler,
            "oracle": self.oracle,
            "mark": ORACLE_MARK if self.oracle else "",
            "budget": self.budget,
            "allocation": self.allocation,
            "overlap": self.overlap,
            "sizes": [list(size) for size in self.sizes],
            "notes": list(self.notes),
            "geodeform_version": self.version,
            "miou": _plain(self.miou),
            "soft": self.soft.figures(),
            "nearest": self.nearest.figures(),
            "deformed_miou": _plain(self.deformed.miou()),
            "deformed_accuracy": _plain(self.deformed.accuracy()),
            "intrinsic_miou": _plain(self.intrinsic.miou()),
            "intrinsic_miou_nearest": _plain(self.intrinsic_nearest.miou()),
            "calibration": {
                "ece": _plain(self.calibration.error()),
                "brier_top_class": _plain(self.calibration.brier()),
                "mean_confidence": _plain(self.calibration.mean_confidence()),
                "bins": [
                    {"pixels": int(n), "confidence": _plain(c), "accuracy": _plain(a)}
                    for n, c, a in zip(pixels, confidence, accuracy, strict=True)
                ],
            },
            "cost": self.cost.to_dict(),
            "classes": self.per_class(),
        }

    def to_dict(self) -> dict[str, Any]:
        """:meth:`summary` and all counts, JSON-ready; :meth:`from_dict` reads it back."""
        return {
            "format_version": FORMAT_VERSION,
            **self.summary(),
            "counts": {
                "soft": self.soft.counts(),
                "nearest": self.nearest.counts(),
                "deformed": self.deformed.counts.tolist(),
                "intrinsic": self.intrinsic.counts.tolist(),
                "intrinsic_nearest": self.intrinsic_nearest.counts.tolist(),
                "calibration": {
                    "pixels": self.calibration.pixels.tolist(),
                    "right": self.calibration.right.tolist(),
                },
                "units": [
                    {
                        "item": unit.item,
                        "row": unit.row,
                        "column": unit.column,
                        "counts": unit.counts.tolist(),
                    }
                    for unit in self.units
                ],
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "evaluation") -> Evaluation:
        """Read :meth:`to_dict`'s form.

        Args:
            data: The form.
            where: What is read, normally the file's path, for the error.

        Raises:
            ConfigError: If something is missing or it is of another version.
        """
        if data.get("format_version") != FORMAT_VERSION:
            raise ConfigError(
                f"{where} is no evaluation of this version of geodeform; evaluate again."
            )
        try:
            counts, cost = data["counts"], data["cost"]
            calibration = counts["calibration"]
            return cls(
                **{name: data[name] for name in _PLAIN},
                allocation=data.get("allocation", "even"),  # older files know no other
                items=tuple(data["items"]),
                notes=tuple(data["notes"]),
                classes=tuple(row["class"] for row in data["classes"]),
                sizes=tuple((a, b, c, d) for a, b, c, d in data["sizes"]),
                version=data["geodeform_version"],
                soft=MapScores.of(counts["soft"]),
                nearest=MapScores.of(counts["nearest"]),
                deformed=Confusion.of(counts["deformed"]),
                intrinsic=Confusion.of(counts["intrinsic"]),
                intrinsic_nearest=Confusion.of(counts["intrinsic_nearest"]),
                calibration=Calibration(
                    np.array(calibration["pixels"], np.int64),
                    np.array(calibration["right"], np.int64),
                ),
                cost=Cost(**{name: cost[name] for name in Cost.__dataclass_fields__}),
                units=tuple(
                    Unit(u["item"], u["row"], u["column"], np.array(u["counts"], np.int64))
                    for u in counts["units"]
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{where} is damaged ({error!r}); evaluate again.") from error

    def write_json(self, path: str | Path) -> None:
        """Write :meth:`to_dict` to a file."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def long_table(self) -> list[dict[str, Any]]:
        """All figures of :meth:`summary`, a row each: what :meth:`write_csv` writes.

        Every row says what was evaluated, so that those of several evaluations can be put one below
        the other, and whether an oracle made the map. The columns:

        * ``model``, ``dataset``, ``split``, ``sampler``, ``oracle``, ``allocation``, ``budget``,
          ``overlap``, and ``device`` of :class:`Cost`: as the attributes.
        * ``items``: names with a space between, where they were named; None of a split.
        * ``figure``: such as ``miou``, ``boundary_f1`` or ``peak_memory_bytes``; names are those of
          the JSON.
        * ``map``: ``soft`` (the one that users get), ``nearest``, ``deformed`` (at the samples),
          ``intrinsic`` or ``intrinsic_nearest``; None for what belongs to none of them.
        * ``class_id``, ``class``: None for figures of all classes together.
        * ``at``: tolerance of a boundary score, distance of a trimap from the borders, bin of the
          calibration (mean confidence and accuracy of equal steps of confidence); None for others.
        * ``value``: a number; None where there is none, as for a class that does not occur.
        * ``unit``: ``1`` for scores, shares and ratios (a score of 0…1, not per cent), else ``px``,
          ``s``, ``byte``, ``FLOP``, ``window``, ``parameter``, or one over ``Mpx`` of the scene.
        """
        same = {
            "model": self.model,
            "dataset": self.dataset,
            "split": self.split,
            "items": None if self.split else " ".join(self.items),
            "sampler": self.sampler,
            "oracle": self.oracle,
            "allocation": self.allocation,
            "budget": self.budget,
            "overlap": self.overlap,
            "device": self.cost.device,
        }
        return [{**same, **row} for row in (*self._overall_rows(), *self._class_rows())]

    def _overall_rows(self) -> Iterator[dict[str, Any]]:
        """Rows of :meth:`long_table` that belong to no class."""
        summary = self.summary()
        for kind in ("soft", "nearest"):
            for figure, value in summary[kind].items():
                if not isinstance(value, dict):
                    yield _long_row(figure, value, kind)
                    continue
                unit = " px" if figure == "trimap_accuracy" else ""
                for at, score in value.items():
                    yield _long_row(figure, score, kind, at=f"{at}{unit}")
        yield _long_row("miou", summary["deformed_miou"], "deformed")
        yield _long_row("accuracy", summary["deformed_accuracy"], "deformed")
        yield _long_row("miou", summary["intrinsic_miou"], "intrinsic")
        yield _long_row("miou", summary["intrinsic_miou_nearest"], "intrinsic_nearest")
        calibration = summary["calibration"]
        for figure in ("ece", "brier_top_class", "mean_confidence"):
            yield _long_row(figure, calibration[figure], "soft")
        bins = calibration["bins"]
        for number, one in enumerate(bins, 1):
            at = f"bin {number} of {len(bins)}"
            yield _long_row("bin_pixels", one["pixels"], "soft", at=at, unit="px")
            yield _long_row("bin_confidence", one["confidence"], "soft", at=at)
            yield _long_row("bin_accuracy", one["accuracy"], "soft", at=at)
        for figure, unit in _COST_UNITS.items():
            yield _long_row(figure, summary["cost"][figure], unit=unit)

    def _class_rows(self) -> Iterator[dict[str, Any]]:
        """Rows of :meth:`long_table` that belong to a class."""
        for row in self.per_class():
            which = {"class_id": row["id"], "class": row["class"]}
            for key, (figure, kind, at) in _CLASS_FIGURES.items():
                yield {**_long_row(figure, row[key], kind, at=at), **which}

    def write_csv(self, path: str | Path) -> None:
        """Write :meth:`long_table` to a file, a row a figure; cells of None are empty."""
        rows = self.long_table()
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


_CLASS_FIGURES: dict[str, tuple[str, str | None, str | None]] = {
    "iou": ("iou", "soft", None),
    "iou_nearest": ("iou", "nearest", None),
    "iou_deformed": ("iou", "deformed", None),
    "iou_intrinsic": ("iou", "intrinsic", None),
    "iou_intrinsic_nearest": ("iou", "intrinsic_nearest", None),
    "precision": ("precision", "soft", None),
    "recall": ("recall", "soft", None),
    "f1": ("f1", "soft", None),
    "boundary_f1": ("boundary_f1", "soft", TOLERANCES[0]),
    "boundary_f1_3px": ("boundary_f1", "soft", TOLERANCES[1]),
    "share_of_pixels": ("share_of_pixels", None, None),
    "share_of_samples": ("share_of_samples", None, None),
    "frequency_change": ("frequency_change", None, None),
}
"""What :meth:`Evaluation.per_class` has: its figure, map and tolerance in the long table."""

_COST_UNITS = {
    "scene_pixels": "px",
    "sampled_pixels": "px",
    "sampled_share": "1",
    "windows": "window",
    "flops": "FLOP",
    "flops_per_megapixel": "FLOP/Mpx",
    "seconds": "s",
    "cpu_seconds": "s",
    "seconds_reading": "s",
    "seconds_with_reading": "s",
    "seconds_per_megapixel": "s/Mpx",
    "peak_memory_bytes": "byte",
    "device_memory_bytes": "byte",
    "parameters": "parameter",
}
"""Units of :meth:`Cost.to_dict`, in the order of the long table."""


def _long_row(
    figure: str,
    value: float | None,
    kind: str | None = None,
    *,
    at: str | None = None,
    unit: str = "1",
) -> dict[str, Any]:
    """The columns of :meth:`Evaluation.long_table` that tell figures apart, of no class."""
    return {
        "figure": figure,
        "map": kind,
        "class_id": None,
        "class": None,
        "at": at,
        "value": value,
        "unit": unit,
    }


_PLAIN = (
    "model", "architecture", "dataset", "split", "sampler", "oracle", "budget", "overlap",
)  # fmt: skip


def pooled(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Add evaluations of disjoint items, such as those of a cross-validation's parts, to one.

    Counts and costs are added (memory: the largest), so figures follow as from one evaluation of
    all items; the model is the first one's.

    Raises:
        ConfigError: If an item occurs twice, or dataset, classes or sampler differ.
    """
    first = evaluations[0]
    if len(evaluations) == 1:
        return first
    items = [item for one in evaluations for item in one.items]
    if len(set(items)) < len(items):
        raise ConfigError("The evaluations to be pooled share items; each may occur once.")
    for name in ("dataset", "classes", "sampler", "allocation"):
        if any(getattr(one, name) != getattr(first, name) for one in evaluations):
            raise ConfigError(f"The evaluations to be pooled differ in their {name}.")
    costs = [one.cost for one in evaluations]
    device_memory = [c.device_memory_bytes for c in costs if c.device_memory_bytes is not None]
    return replace(
        first,
        items=tuple(items),
        sizes=tuple(sorted({size for one in evaluations for size in one.sizes})),
        notes=tuple(dict.fromkeys(note for one in evaluations for note in one.notes)),
        soft=_pooled_scores([one.soft for one in evaluations]),
        nearest=_pooled_scores([one.nearest for one in evaluations]),
        deformed=_pooled_confusion([one.deformed for one in evaluations]),
        intrinsic=_pooled_confusion([one.intrinsic for one in evaluations]),
        intrinsic_nearest=_pooled_confusion([one.intrinsic_nearest for one in evaluations]),
        calibration=Calibration(
            np.sum([one.calibration.pixels for one in evaluations], 0),
            np.sum([one.calibration.right for one in evaluations], 0),
        ),
        cost=replace(
            first.cost,
            **{name: sum(getattr(cost, name) for cost in costs) for name in _ADDED_COSTS},
            peak_memory_bytes=max(cost.peak_memory_bytes for cost in costs),
            device_memory_bytes=max(device_memory, default=None),
        ),
        units=tuple(unit for one in evaluations for unit in one.units),
    )


_ADDED_COSTS = (
    "scene_pixels", "sampled_pixels", "windows", "flops", "seconds", "cpu_seconds",
    "seconds_reading",
)  # fmt: skip


def _pooled_confusion(confusions: Sequence[Confusion]) -> Confusion:
    return Confusion.of(np.sum([one.counts for one in confusions], 0))


def _pooled_scores(scores: Sequence[MapScores]) -> MapScores:
    """Scores whose counts are the sums of others'."""
    first = scores[0].counts()
    counts = [one.counts() for one in scores]
    return MapScores.of(
        {
            "confusion": np.sum([one["confusion"] for one in counts], 0),
            "boundary": [
                {name: np.sum([one["boundary"][k][name] for one in counts], 0) for name in COUNTS}
                for k in range(len(first["boundary"]))
            ],
            "trimap": {
                "widths": first["trimap"]["widths"],
                "pixels": np.sum([one["trimap"]["pixels"] for one in counts], 0),
                "right": np.sum([one["trimap"]["right"] for one in counts], 0),
            },
        }
    )


def read_evaluation(path: str | Path) -> Evaluation:
    """Read what :meth:`Evaluation.write_json` wrote.

    Raises:
        ConfigError: If the file cannot be read or holds something else.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the evaluation {path} ({error}).") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is no evaluation.")
    return Evaluation.from_dict(data, where=str(path))


def _plain(value: float) -> float | None:
    """A number for JSON and CSV, which know no NaN."""
    return None if math.isnan(value) else float(value)
