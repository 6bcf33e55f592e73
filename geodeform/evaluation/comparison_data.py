"""A comparison's figures for other programs: a table of all evaluations, and JSON of the means."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import Any

from geodeform.config import Size
from geodeform.evaluation.comparison import LEVEL, RESAMPLES, Cell, Difference, EqualTime
from geodeform.evaluation.comparison_tables import (
    MAPS,
    Findings,
    is_own,
    other_figures,
    study_differences,
    trained_as,
)
from geodeform.evaluation.experiment import Entry, Study, shown_size
from geodeform.evaluation.result import Evaluation

_AMOUNTS = ("sampled_share", "flops_per_megapixel", "scene_pixels", "sampled_pixels")
_COSTS = (
    "sampled_share", "flops_per_megapixel", "seconds_per_megapixel", "scene_pixels",
    "sampled_pixels", "windows", "flops", "seconds", "cpu_seconds", "seconds_reading",
    "peak_memory_bytes", "device_memory_bytes", "parameters", "device",
)  # fmt: skip


def results_csv(found: Findings, results: Mapping[Entry, Evaluation]) -> str:
    """All evaluations, a row each: method, held-out part, seed, budget and every figure.

    Scores are 0…1; cells without a value are empty, as is the budget where every pixel is seen.
    """
    rows = [_row(found, entry, results[entry]) for entry in found.entries if entry in results]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def results_json(found: Findings) -> str:
    """Cells with their figures over the seeds, differences and intervals; scores 0…1.

    Times are those of the report's tables; those of single evaluations are in the CSV.
    """
    comparison, experiment = found.comparison, found.experiment
    one = next(iter(comparison.cells.values()))
    count, what = found.blocks
    data = {
        "name": experiment.name,
        "title": experiment.title,
        "dataset": trained_as(experiment, one.method, one.budget).data.dataset,
        "split": experiment.split,
        "folds": [list(fold) for fold in experiment.folds],
        "seeds": list(experiment.seeds),
        "baseline": experiment.baseline,
        "missing_evaluations": comparison.missing,
        "evaluations": len(found.entries),
        "interval_level": LEVEL,
        "bootstrap_resamples": RESAMPLES,
        "bootstrap_blocks": f"{count} {what}",
        "comparisons": found.compared,
        "timed_side_by_side": comparison.timed,
        "cells": [_cell(found, cell) for cell in comparison.cells.values()],
        "studies": [_study(found, study) for study in experiment.studies],
    }
    return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _row(found: Findings, entry: Entry, one: Evaluation) -> dict[str, Any]:
    method, summary = found.experiment.methods[entry.method], one.summary()
    row: dict[str, Any] = {
        "method": entry.method,
        "title": method.title,
        "study": method.study,
        "sampler": one.sampler,
        "trained_sampler": trained_as(found.experiment, entry.method, entry.budget).model.sampler,
        "oracle": one.oracle,
        "allocation": one.allocation,
        "held_out": " ".join(entry.fold),
        "items": " ".join(one.items),
        "seed": entry.seed,
        "budget": _size(entry.budget),
        "samples": None if entry.budget is None else math.prod(entry.budget),
    }
    for name in ("miou", "deformed_miou", "deformed_accuracy", "intrinsic_miou",
                 "intrinsic_miou_nearest"):  # fmt: skip
        row[name] = summary[name]
    for kind in ("soft", "nearest"):
        for name, value in summary[kind].items():
            if isinstance(value, dict):
                row |= {f"{kind}_{name} ({key})": score for key, score in value.items()}
            else:
                row[f"{kind}_{name}"] = value
    for name in ("ece", "brier_top_class", "mean_confidence"):
        row[name] = summary["calibration"][name]
    row |= {name: summary["cost"][name] for name in _COSTS}
    row["geodeform_version"] = one.version
    return row


def _study(found: Findings, study: Study) -> dict[str, Any]:
    differences = study_differences(found, study)
    return {
        "title": study.title,
        "method": study.method,
        "points": [
            {
                "method": name,
                "budget": _size(cell.budget),
                "is_the_method": is_own(found.experiment, study, name, cell.budget),
                "difference": _difference(differences.get((name, cell.budget))),
            }
            for name in study.points
            for cell in found.comparison.curve(name)
        ],
    }


def _cell(found: Findings, cell: Cell) -> dict[str, Any]:
    one = cell.evaluations[0]
    figures = {
        **MAPS,
        **other_figures(one.soft.trimap.widths),
        **{name: _cost(name) for name in _AMOUNTS},
    }
    return {
        "method": cell.method,
        "title": found.experiment.methods[cell.method].title,
        "study": found.experiment.methods[cell.method].study,
        "oracle": one.oracle,
        "allocation": one.allocation,
        "budget": _size(cell.budget),
        "seeds": list(cell.seeds),
        "figures": {
            name: {
                "values": [_number(value) for value in summary.values],
                "mean": _number(summary.mean),
                "std": _number(summary.std),
            }
            for name, figure in figures.items()
            for summary in (cell.summary(figure),)
        },
        "timed_side_by_side": cell.times is not None,
        "wall_clock_seconds_per_megapixel": cell.seconds_per_megapixel,
        "processor_seconds_per_megapixel": cell.cpu_seconds_per_megapixel,
        "clock": cell.clock,
        "difference": _difference(found.difference(cell.method, cell.budget)),
        "equal_time": _equal_time(found.at_equal_time(cell.method, cell.budget)),
        "equal_wall_clock": _equal_time(
            found.at_equal_time(cell.method, cell.budget, "wall-clock")
            if "wall-clock" in found.clocks
            else None
        ),
        "equal_accuracy": found.equal_accuracy(cell),
    }


def _cost(name: str) -> Any:
    return lambda one: float(getattr(one.cost, name))


def _equal_time(one: EqualTime | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "seconds_per_megapixel": one.seconds_per_megapixel,
        "samples": one.samples,
        "beyond": "longer" if one.longer else "shorter" if one.shorter else None,
        "difference": _difference(one.difference),
        "better": one.better,
        "worse": one.worse,
    }


def _difference(one: Difference | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "values": [_number(value) for value in one.values],
        "mean": _number(one.mean),
        "low": _number(one.low),
        "high": _number(one.high),
        "sure": one.sure,
    }


def _size(budget: Size | None) -> str | None:
    return None if budget is None else shown_size(budget)


def _number(value: float) -> float | None:
    """A number for JSON, which knows no NaN."""
    return float(value) if math.isfinite(value) else None
