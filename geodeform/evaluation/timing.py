"""Timing: what methods cost beside each other, in one process, turn by turn.

Times of evaluations that ran hours apart on a machine that did other work cannot be compared. Here
every method predicts the same images in turn, several rounds, and the median counts: what slows the
machine for a while slows all of them. Each round has an order of its own, so that no method always
comes after the same other one: in a fixed order, the first to read every pixel after one that does
not took up to 1.6 times what it takes elsewhere. The rounds are kept: how much they differ is part
of what is said of equal time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from geodeform.config import Size
from geodeform.errors import ConfigError
from geodeform.evaluation.campaign import Work
from geodeform.evaluation.data import EvaluationData
from geodeform.evaluation.evaluate import Settings, time_prediction
from geodeform.evaluation.experiment import Experiment, shown_size
from geodeform.geo.outputs import OutputSet
from geodeform.models.model_file import load_model
from geodeform.training.windows import used_area

ROUNDS = 7
"""Rounds of all methods."""

_ENOUGH = 8_000_000  # pixels: so many images are predicted
_SIDE = 3072  # of an image, at most: its upper left corner

Clock = Literal["processor", "wall-clock"]

CellKey = tuple[str, Size | None]
"""A method and a budget; None where every pixel is seen."""


@dataclass(frozen=True)
class Times:
    """What a million pixels of a scene take.

    Attributes:
        rounds: (wall-clock seconds, seconds of processor time over all threads) of each round.
            Those of one round are measured beside each other, whatever the method.
    """

    rounds: tuple[tuple[float, float], ...]

    def by(self, clock: Clock) -> NDArray[np.float64]:
        """(rounds,) seconds of each round, by a clock."""
        return np.array(self.rounds)[:, 1 if clock == "processor" else 0]

    @property
    def seconds(self) -> float:
        """Wall-clock time, the median over the rounds."""
        return float(np.median(self.by("wall-clock")))

    @property
    def cpu_seconds(self) -> float:
        """Processor time over all threads, the median over the rounds."""
        return float(np.median(self.by("processor")))


def measure_times(
    experiment: Experiment,
    works: Sequence[Work],
    data: EvaluationData,
    *,
    device: str | torch.device = "auto",
    rounds: int = ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[CellKey, Times]:
    """Measure every method at every budget, each by the network of its first seed and part.

    Points of studies are left out: nothing is said of them at equal time. All networks are in
    memory at once, since loading one would be part of what comes before the next.

    Args:
        experiment: With its folds filled in.
        works: See :func:`geodeform.evaluation.campaign.plan_campaign`.
        data: The images: the first of them, 8 megapixels or more where there are as many, each cut
            to at most 3072x3072 px.
        device: As for :func:`geodeform.evaluation.evaluate.evaluate`.
        rounds: Each is timed so often, after one that does not count.
        progress: Called with (predictions done, in all).

    Returns:
        (method, budget) → times; without methods of which no network is there.
    """
    models = {work.key: work.model for work in works if work.model.is_file()}
    trials = {(e.method, e.budget): e.trial for e in experiment.entries()}
    networks = {}
    chosen: dict[CellKey, Settings] = {}
    for cell, key in first_trainings(experiment).items():
        if key not in models:
            continue
        if key not in networks:
            networks[key] = load_model(models[key])
        chosen[cell] = Settings.of(
            networks[key],
            data,
            budget=None if cell[1] is None else shown_size(cell[1]),
            sampler=trials[cell].sampler,
            allocation=trials[cell].allocation,
            device=device,
        )
    images, pixels = _images(data)
    taken: dict[CellKey, list[tuple[float, float]]] = {cell: [] for cell in chosen}
    cells, rng, steps = list(chosen), np.random.default_rng(0), 0
    with ThreadPoolExecutor(torch.get_num_threads()) as painters:
        for number in range(rounds + 1):
            for k in rng.permutation(len(cells)):
                spent = [time_prediction(chosen[cells[k]], *image, painters) for image in images]
                if number > 0:
                    seconds, cpu_seconds = np.sum(spent, 0) / pixels * 1e6
                    taken[cells[k]].append((float(seconds), float(cpu_seconds)))
                steps += 1
                if progress is not None:
                    progress(steps, (rounds + 1) * len(cells))
    return {cell: Times(tuple(one)) for cell, one in taken.items()}


def write_times(
    times: Mapping[CellKey, Times], path: Path, trainings: Mapping[CellKey, str], device: str
) -> None:
    """Write times to a JSON file, with what they were measured on; whole or not at all.

    Args:
        times: To be kept.
        path: The file.
        trainings: Key of each cell's first training.
        device: In words, with the number of threads.
    """
    rows = [
        {"method": method, "budget": budget, "training": trainings[method, budget], **asdict(one)}
        for (method, budget), one in times.items()
    ]
    with OutputSet(overwrite=True) as outputs:
        staged = outputs.add(path, suffixes=(".json",))
        staged.write_text(json.dumps({"device": device, "cells": rows}) + "\n", encoding="utf-8")


def read_times(
    path: Path, trainings: Mapping[CellKey, str], device: str | None = None
) -> dict[CellKey, Times]:
    """Read what :func:`write_times` wrote.

    Args:
        path: The file.
        trainings: Key of each cell's first training; other networks' times are left out.
        device: Where given, times of another one are left out.

    Returns:
        (method, budget) → times; nothing where there is no such file.

    Raises:
        ConfigError: If the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if device is not None and kept["device"] != device:
            return {}
        found: dict[CellKey, Times] = {}
        for row in kept["cells"]:
            budget = row["budget"]
            cell = row["method"], None if budget is None else (budget[0], budget[1])
            if trainings.get(cell) == row["training"]:
                found[cell] = Times(tuple((float(a), float(b)) for a, b in row["rounds"]))
        return found
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}); delete it, to measure again.") from error


def first_trainings(experiment: Experiment) -> dict[CellKey, str]:
    """Key of the first training of each cell, whose network is timed; no points of studies."""
    found: dict[CellKey, str] = {}
    for entry in experiment.entries():
        if not experiment.methods[entry.method].study:
            found.setdefault((entry.method, entry.budget), entry.trial.training)
    return found


def _images(data: EvaluationData) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
    """Images (bands, h, w) and labels (h, w) to be timed on, and how many pixels they have."""
    images, pixels = [], 0
    for item in data.items:
        scene = data.scene(item)
        rows, cols = used_area(scene, data.crop)
        labels = np.array(scene.labels[rows, cols])[:_SIDE, :_SIDE]
        image = np.array(scene.image()[:, rows, cols][:, :_SIDE, :_SIDE])
        images.append((image, labels))
        pixels += labels.size
        if pixels >= _ENOUGH:
            break
    return images, pixels
