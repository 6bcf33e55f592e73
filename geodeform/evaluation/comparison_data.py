"""A comparison's figures for other programs: a table of all evaluations, and JSON of the means."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import Any

from geodeform.config import Size
from geodeform.evaluation.comparison import LEVEL, RESAMPLES, Cell, Difference
from geodeform.evaluation.comparison_tables import (
    MAPS,
    Findings,
    other_figures,
    study_differences,
)
from geodeform.evaluation.experiment import Entry, shown_size
from geodeform.evaluation.result import Evaluation

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
    """Cells with their figures over the seeds, differences and intervals; scores 0…1."""
    comparison, experiment = found.comparison, found.experiment
    data = {
        "name": experiment.name,
        "title": experiment.title,
        "dataset": experiment.recipe.data.dataset,
        "split": experiment.split,
        "folds": [list(fold) for fold in experiment.folds],
        "seeds": list(experiment.seeds),
        "baseline": experiment.baseline,
        "missing_evaluations": comparison.missing,
        "evaluations": len(found.entries),
        "interval_level": LEVEL,
        "bootstrap_resamples": RESAMPLES,
        "cells": [_cell(found, cell) for cell in comparison.cells.values()],
        "studies": [
            {
                "title": study.title,
                "method": study.method,
                "points": [
                    {"method": name, "budget": _size(budget), "difference": _difference(one)}
                    for (name, budget), one in study_differences(found, study).items()
                ],
            }
            for study in experiment.studies
        ],
    }
    return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _row(found: Findings, entry: Entry, one: Evaluation) -> dict[str, Any]:
    method, summary = found.experiment.methods[entry.method], one.summary()
    row: dict[str, Any] = {
        "method": entry.method,
        "title": method.title,
        "study": method.study,
        "sampler": one.sampler,
        "oracle": one.oracle,
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


def _cell(found: Findings, cell: Cell) -> dict[str, Any]:
    one = cell.evaluations[0]
    figures = {
        **MAPS,
        **other_figures(one.soft.trimap.widths),
        **{name: _cost(name) for name in _COSTS[:5]},
        "cpu_seconds": _cost("cpu_seconds"),
    }
    timed = found.at_equal_time(cell.method, cell.budget)
    return {
        "method": cell.method,
        "title": found.experiment.methods[cell.method].title,
        "study": found.experiment.methods[cell.method].study,
        "oracle": one.oracle,
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
        "difference": _difference(found.difference(cell.method, cell.budget)),
        "equal_time": None
        if timed is None
        else {
            "cpu_seconds_per_megapixel": timed.cpu_seconds_per_megapixel,
            "samples": timed.samples,
            "beyond": bool(timed.beyond),
            "difference": _difference(timed.difference),
        },
        "equal_accuracy": found.equal_accuracy(cell),
    }


def _cost(name: str) -> Any:
    return lambda one: float(getattr(one.cost, name))


def _difference(one: Difference | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "values": [_number(value) for value in one.values],
        "mean": _number(one.mean),
        "low": _number(one.low),
        "high": _number(one.high),
        "leaves_out_0": one.sure,
    }


def _size(budget: Size | None) -> str | None:
    return None if budget is None else shown_size(budget)


def _number(value: float) -> float | None:
    """A number for JSON, which knows no NaN."""
    return float(value) if math.isfinite(value) else None
