"""evaluate: a model on labelled scenes, through the pipeline that users call.

image → windows → predictions → mosaic → class and confidence, timed as users wait for them; then,
untimed, the same predictions by the nearest reverse map, the labels themselves through both reverse
maps, and the counts of every figure.

Memory holds one image with its labels and maps (about 12 bytes a pixel), and its windows' compact
predictions (4·(classes + 3) bytes a sample).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import pairwise

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from geodeform.allocation import candidate_sizes
from geodeform.budget import Budget
from geodeform.classes import NODATA_CLASS
from geodeform.deform.reverse import ReverseMap
from geodeform.deform.sample import sample_labels
from geodeform.device import describe_device, resolve_device
from geodeform.errors import ConfigError
from geodeform.evaluation.boundaries import add_boundaries, diagonal_tolerance, trimap_bands
from geodeform.evaluation.calibration import Calibration
from geodeform.evaluation.cost import MemoryWatch, window_flops
from geodeform.evaluation.data import EvaluationData, band_numbers, check_classes
from geodeform.evaluation.metrics import Confusion
from geodeform.evaluation.result import Cost, Evaluation, MapScores, Unit
from geodeform.evaluation.ways import Way, find_way, window_of
from geodeform.geo.mosaic import Mosaic
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.model_file import load_model
from geodeform.planning import SegmentationPlan
from geodeform.predict import Block, WindowPrediction
from geodeform.run import PathLike, Progress, Run, begin_run, check_allocation
from geodeform.training.windows import used_area

logger = logging.getLogger("geodeform")

_UNIT_SIDE = 1024  # pixels of a bootstrap's blocks, about
_UNKNOWN_VOTE = 1e-3  # of a sample on unknown ground: it counts where no known one does
_SAME_SCALE = 1.25  # pixels a sample, at most, of a network that was trained at full resolution
_Labels = NDArray[np.uint8]


def evaluate(
    model: PathLike | DeformSegmenter | None,
    data: EvaluationData,
    *,
    budget: str | float | Budget | None = None,
    sampler: str | Way | None = None,
    overlap: float | None = None,
    gsd: float | None = None,
    device: str | torch.device = "auto",
    allocation: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model on labelled scenes with one sampler and budget.

    Args:
        model: Model file, name of a packaged model, or a loaded model; the packaged one if None.
        data: The scenes, see :func:`geodeform.evaluation.data.open_evaluation_data`.
        budget: As for :func:`geodeform.segment_scene`; the model's own if None.
        sampler: A name of :data:`geodeform.evaluation.ways.WAYS`, or a way of the caller's; the
            model's own if None.
        overlap: Part of a window shared with each neighbour, 0…0.5; the way's own if None, which is
            an eighth, as for users, and a quarter for full-resolution crops.
        gsd: Ground sampling distance of the images in metres; the dataset's if None, and the
            model's where that is unknown.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.
        allocation: As for :func:`geodeform.segment_scene`; what it takes is in the cost.
        progress: Called with (windows done, windows in all, supposing images of one size).

    Returns:
        Counts and figures.

    Raises:
        ConfigError: If the model predicts other classes, takes other bands, or cannot be used with
            the sampler, or if a setting is out of range.
        GeodeformError: If the model or an item cannot be read.
    """
    settings = Settings.of(
        model,
        data,
        budget=budget,
        sampler=sampler,
        overlap=overlap,
        gsd=gsd,
        device=device,
        allocation=allocation,
    )
    network, way, spec = settings.network, settings.way, settings.network.spec
    counts = _Counts(spec.n_classes)
    with ThreadPoolExecutor(torch.get_num_threads()) as painters:
        for number, item in enumerate(data.items):
            _evaluate_item(settings, data, item, number, counts, painters, progress)
    notes = [*counts.notes, *_notes(data, settings)]
    return Evaluation(
        model=network.name or "not from a file",
        architecture=spec.architecture,
        dataset=data.dataset,
        split=data.split,
        items=data.items,
        classes=spec.classes.names,
        sampler=way.name,
        oracle=way.sees_labels,
        budget=counts.budget,
        allocation=settings.allocation,
        overlap=settings.overlap,
        sizes=tuple(sorted(counts.flops_of)),
        notes=tuple(dict.fromkeys(notes)),
        version=version("geodeform"),
        soft=counts.soft,
        nearest=counts.nearest,
        deformed=counts.deformed,
        intrinsic=counts.intrinsic,
        intrinsic_nearest=counts.intrinsic_nearest,
        calibration=counts.calibration,
        cost=Cost(
            scene_pixels=counts.scene_pixels,
            sampled_pixels=counts.sampled_pixels,
            windows=counts.windows,
            flops=counts.flops,
            seconds=counts.seconds,
            cpu_seconds=counts.cpu_seconds,
            seconds_reading=counts.seconds_reading,
            peak_memory_bytes=counts.peak_memory_bytes,
            device_memory_bytes=counts.device_memory_bytes,
            parameters=sum(p.numel() for p in network.parameters()),
            device=describe_device(settings.device),
        ),
        units=tuple(counts.units),
    )


@dataclass(frozen=True)
class Settings:
    """What is the same for every item.

    Attributes:
        network: The model.
        device: Where it runs.
        bands: 1-based bands of the images that are the model's.
        budget: As for :func:`geodeform.segment_scene`; None for the model's own.
        way: How windows are predicted.
        overlap: Part of a window shared with each neighbour.
        gsd: Ground sampling distance in metres; None for the model's.
        allocation: How the budget is shared out over windows, ``"even"`` or ``"need"``.
    """

    network: DeformSegmenter
    device: torch.device
    bands: tuple[int, ...]
    budget: str | float | Budget | None
    way: Way
    overlap: float
    gsd: float | None
    allocation: str

    @classmethod
    def of(
        cls,
        model: PathLike | DeformSegmenter | None,
        data: EvaluationData,
        *,
        budget: str | float | Budget | None = None,
        sampler: str | Way | None = None,
        overlap: float | None = None,
        gsd: float | None = None,
        device: str | torch.device = "auto",
        allocation: str | None = None,
    ) -> Settings:
        """Resolve and check what :func:`evaluate` takes."""
        target = device if isinstance(device, torch.device) else resolve_device(device)
        network = model if isinstance(model, DeformSegmenter) else load_model(model)
        spec = network.spec
        way = sampler if isinstance(sampler, Way) else find_way(sampler or spec.sampler)
        check_classes(data, spec)
        way.fits(spec)
        if way.every_pixel and budget is not None:
            raise ConfigError(f"The sampler '{way.name}' reads every pixel: give no budget.")
        if way.every_pixel and allocation is not None:
            raise ConfigError(f"The sampler '{way.name}' reads every pixel: give no allocation.")
        if spec.n_classes >= NODATA_CLASS:
            raise ConfigError(f"At most {NODATA_CLASS - 1} classes can be evaluated.")
        return cls(
            network=network,
            device=target,
            bands=band_numbers(data, spec),
            budget=budget,
            way=way,
            overlap=way.overlap if overlap is None else overlap,
            gsd=data.gsd_m if gsd is None else gsd,
            allocation="even" if way.every_pixel else check_allocation(allocation, network),
        )


@dataclass
class _Counts:
    """What grows with every item."""

    n_classes: int
    soft: MapScores = field(init=False)
    nearest: MapScores = field(init=False)
    deformed: Confusion = field(init=False)
    intrinsic: Confusion = field(init=False)
    intrinsic_nearest: Confusion = field(init=False)
    calibration: Calibration = field(default_factory=Calibration)
    units: list[Unit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    flops_of: dict[tuple[int, int, int, int], int] = field(default_factory=dict)
    budget: str = ""
    scene_pixels: int = 0
    sampled_pixels: int = 0
    windows: int = 0
    flops: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    seconds_reading: float = 0.0
    peak_memory_bytes: int = 0
    device_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        self.soft, self.nearest = (MapScores.empty(self.n_classes) for _ in range(2))
        self.deformed = Confusion(self.n_classes)
        self.intrinsic = Confusion(self.n_classes)
        self.intrinsic_nearest = Confusion(self.n_classes)


@contextmanager
def planned_run(settings: Settings, image: NDArray[np.generic], name: str) -> Iterator[Run]:
    """Plan an image (bands, H, W) in memory as it is evaluated; the run is open within ``with``.

    Its budget is not shared out yet: :meth:`geodeform.run.Run.allocated` does, on the clock.

    Args:
        settings: Model, sampler and budget.
        image: All bands of the dataset.
        name: Of the image in notes: the dataset's, so that what holds for all is said once.
    """
    way, spec = settings.way, settings.network.spec
    with begin_run(
        xr.DataArray(image, dims=("band", "y", "x"), name=name),
        model=settings.network,
        device=settings.device,
        bands=settings.bands,
        nodata=None,
        budget=settings.budget,
        sampler=way.sampler_of_plan(spec),
        gsd=settings.gsd,
        overlap=settings.overlap,
        allocation="even",
    ) as run:
        yield replace(run, plan=way.plan(run.plan, spec, settings.overlap))


def _evaluate_item(
    settings: Settings,
    data: EvaluationData,
    item: str,
    number: int,
    counts: _Counts,
    painters: Executor,
    progress: Progress | None,
) -> None:
    scene = data.scene(item)
    rows, cols = used_area(scene, data.crop)
    labels = np.array(scene.labels[rows, cols])
    began = time.perf_counter()
    image = np.array(scene.image()[:, rows, cols])
    counts.seconds_reading += time.perf_counter() - began
    way, network = settings.way, settings.network
    with planned_run(settings, image, data.dataset) as run:
        counts.budget = str(run.plan.budget)
        if not way.every_pixel:  # its crops are of pixels, whatever was planned
            counts.notes += _telling(run.plan.notes, settings)
        if number == 0:
            _warm_up(run, settings, labels)
        found = _predict(run, settings, labels, painters, counts, _shifted(progress, number, data))
    plan = found.plan
    for h, w in plan.sizes_used:
        size = (*plan.window_size, h, w)
        if size not in counts.flops_of:
            counts.flops_of[size] = window_flops(network, plan, (h, w), settings.device)
    counts.windows += len(plan.active)
    counts.flops += sum(
        counts.flops_of[(*plan.window_size, *plan.size_of(index))] for index in plan.active
    )
    counts.sampled_pixels += plan.sampled_pixels
    counts.scene_pixels += labels.size
    nearest = found.labels
    if way.every_pixel:  # nothing is mapped back: both maps are one, and the labels come back whole
        counts.intrinsic.add(labels, labels)
        counts.intrinsic_nearest.add(labels, labels)
    else:
        nearest = _count_samples(plan, found.windows, labels, painters, counts)
    found.windows.clear()
    bands = trimap_bands(labels, counts.soft.trimap.widths)
    tolerances = (diagonal_tolerance((labels.shape[0], labels.shape[1])), 3.0)
    for unit in _units(item, labels, found.labels, counts.n_classes):
        counts.units.append(unit)
        counts.soft.confusion.counts += unit.counts
    counts.calibration.add(labels, found.labels, found.confidence)
    counts.soft.trimap.add(bands, labels, found.labels)
    add_boundaries(labels, found.labels, counts.soft.boundary, tolerances)
    counts.nearest.confusion.add(labels, nearest)
    counts.nearest.trimap.add(bands, labels, nearest)
    add_boundaries(labels, nearest, counts.nearest.boundary, tolerances)


def time_prediction(
    settings: Settings,
    image: NDArray[np.generic],
    labels: _Labels,
    painters: Executor,
) -> tuple[float, float]:
    """Predict an image and take the time, as :func:`evaluate` does; nothing is counted.

    Args:
        settings: Model, sampler and budget.
        image: (bands, H, W), all bands of the dataset.
        labels: (H, W), which an oracle looks at.
        painters: Threads of the mosaic.

    Returns:
        Seconds, and seconds of processor time over all threads.
    """
    counts = _Counts(settings.network.spec.n_classes)
    with planned_run(settings, image, "timed image") as run:
        _predict(run, settings, labels, painters, counts, None)
    return counts.seconds, counts.cpu_seconds


@dataclass
class _Found:
    """What users would get of an image, and the predictions that it was made of."""

    plan: SegmentationPlan
    labels: _Labels
    confidence: NDArray[np.uint8]
    windows: list[tuple[int, WindowPrediction]]


def _predict(
    run: Run,
    settings: Settings,
    labels: _Labels,
    painters: Executor,
    counts: _Counts,
    progress: Progress | None,
) -> _Found:
    """Predict an image as :class:`geodeform.mapping.SceneMapper` does, into memory, timed."""
    shape, way = run.plan.shape, settings.way
    known, sure = np.full(shape, NODATA_CLASS, np.uint8), np.zeros(shape, np.uint8)
    paused = cpu_paused = 0.0
    with MemoryWatch(run.device) as memory, ExitStack() as stack:
        start, cpu_start = time.perf_counter(), time.process_time()
        run = run.allocated(settings.allocation)
        plan = run.plan
        found = _Found(plan, known, sure, [])
        predictor = stack.enter_context(way.predictor(run, labels))
        mosaic = Mosaic(plan.windows, n_classes=counts.n_classes, executor=painters)

        def emit(final: bool) -> None:
            for window, block, confidence in mosaic.close() if final else mosaic.finished():
                area = window.toslices()
                found.labels[area], found.confidence[area] = block, confidence

        for done, (index, prediction) in enumerate(predictor.predict(plan.active), 1):
            assert prediction is not None  # an image in memory has data everywhere
            mosaic.feed(index, prediction)
            emit(final=False)
            if way.every_pixel:  # too many to keep: counted while the clock stands
                stopped, cpu_stopped = time.perf_counter(), time.process_time()
                _sampled(plan, index, prediction, labels, counts.deformed)
                paused += time.perf_counter() - stopped
                cpu_paused += time.process_time() - cpu_stopped
            else:
                found.windows.append((index, prediction))
            if progress is not None:
                progress(done, len(plan.active))
        emit(final=True)
        counts.seconds += time.perf_counter() - start - paused
        counts.cpu_seconds += time.process_time() - cpu_start - cpu_paused
    counts.peak_memory_bytes = max(counts.peak_memory_bytes, memory.peak_bytes)
    if memory.device_bytes is not None:
        counts.device_memory_bytes = max(counts.device_memory_bytes or 0, memory.device_bytes)
    return found


def _warm_up(run: Run, settings: Settings, labels: _Labels) -> None:
    """Predict and paint a batch, so that nothing is compiled or allocated on the clock."""
    with settings.way.predictor(run, labels) as predictor:
        batch = predictor.batches(run.plan.active)[0]
        if settings.allocation == "need":
            for _ in predictor.expect(batch, candidate_sizes(run.plan, settings.network.spec)):
                pass
        for _, prediction in predictor.predict(batch):
            if prediction is not None:
                height, width = run.plan.window_size
                prediction.labels((0, min(height, 64)), (0, width))
                prediction.scores((0, min(height, 64)), (0, width))


def _count_samples(
    plan: SegmentationPlan,
    windows: list[tuple[int, WindowPrediction]],
    labels: _Labels,
    painters: Executor,
    counts: _Counts,
) -> _Labels:
    """Count what rests on the samples; return the map of the nearest reverse map.

    Windows blend as in the map that users get: the only difference is how each is mapped back.
    """
    n = counts.n_classes
    nearest = np.full(plan.shape, NODATA_CLASS, np.uint8)
    mosaics = [Mosaic(plan.windows, n_classes=k, executor=painters) for k in (n, n + 1, n + 1)]

    def emit(final: bool) -> None:
        blocks = [mosaic.close() if final else mosaic.finished() for mosaic in mosaics]
        for (window, ours, _), (_, soft, _), (_, hard, _) in zip(*blocks, strict=True):
            area = window.toslices()
            nearest[area] = ours
            counts.intrinsic.add(labels[area], soft)  # id n, unknown, is no class
            counts.intrinsic_nearest.add(labels[area], hard)

    for index, prediction in windows:
        truth = _sampled(plan, index, prediction, labels, counts.deformed)
        votes = np.stack([truth == k for k in range(n + 1)]).astype(np.float32)
        votes[n] = _UNKNOWN_VOTE * (truth == NODATA_CLASS)
        reverse = prediction.reverse
        mosaics[0].feed(index, _NearestScores(reverse, prediction.probabilities))
        mosaics[1].feed(index, replace(prediction, probabilities=votes))
        mosaics[2].feed(index, _NearestScores(reverse, votes))
        emit(final=False)
    emit(final=True)
    return nearest


def _sampled(
    plan: SegmentationPlan,
    index: int,
    prediction: WindowPrediction,
    labels: _Labels,
    deformed: Confusion,
) -> _Labels:
    """Labels (h, w) at a window's samples; counts them against the classes predicted there."""
    window = torch.from_numpy(window_of(labels, plan, index))[None]
    grid = torch.from_numpy(prediction.reverse.grid)[None]
    truth: _Labels = sample_labels(window, grid)[0].numpy()
    deformed.add(truth, prediction.probabilities.argmax(0).astype(np.uint8))
    return truth


@dataclass(frozen=True)
class _NearestScores:
    """A window whose pixels take the scores of the nearest sample; the mosaic's scores."""

    reverse: ReverseMap
    probabilities: NDArray[np.float32]

    @property
    def n_classes(self) -> int:
        return int(self.probabilities.shape[0])

    def scores(self, rows: Block, cols: Block) -> NDArray[np.float32]:
        index = self.reverse.nearest_index(rows=rows, cols=cols)
        return np.take(self.probabilities.reshape(self.n_classes, -1), index, axis=1)

    def labels(self, rows: Block, cols: Block) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        classes = self.probabilities.argmax(0).astype(np.uint8)
        labels = self.reverse.nearest_labels(classes, rows=rows, cols=cols)
        return labels, np.zeros_like(labels)  # nobody gets a confidence of this map


def _units(item: str, labels: _Labels, predicted: _Labels, n_classes: int) -> Iterator[Unit]:
    """The image in blocks of about 1024 px, each counted."""
    starts = [
        np.linspace(0, n, max(1, round(n / _UNIT_SIDE)) + 1).round().astype(int)
        for n in labels.shape
    ]
    for top, bottom in pairwise(starts[0]):
        for left, right in pairwise(starts[1]):
            block = Confusion(n_classes)
            block.add(labels[top:bottom, left:right], predicted[top:bottom, left:right])
            yield Unit(item, int(top), int(left), block.counts)


def _shifted(progress: Progress | None, number: int, data: EvaluationData) -> Progress | None:
    """Progress over all items, from that over one."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, len(data.items) * total)


def _telling(notes: Sequence[str], settings: Settings) -> list[str]:
    """The plan's notes that say something about an image in memory, which lies nowhere."""
    # labels say which pixels are empty
    idle = ["has no CRS", "are 0 in every band"]
    # street scenes have no distance on the ground
    if settings.network.spec.gsd_m is None and settings.gsd is None:
        idle.append("does not say its ground sampling distance")
    return [note for note in notes if not any(words in note for words in idle)]


def _notes(data: EvaluationData, settings: Settings) -> list[str]:
    """What a reader of the figures has to know, beside what the plans say."""
    spec, way = settings.network.spec, settings.way
    notes = []
    if data.trained_on:
        notes.append(
            f"The model was trained on {len(data.trained_on)} of these {len(data.items)} items: "
            "the figures are not of held-out data."
        )
    if way.sees_labels and way.name not in spec.samplers:
        notes.append("The network was trained with another sampler than this oracle.")
    spacing = max(w / s for w, s in zip(spec.window_px, spec.sample_size, strict=True))
    if spec.gsd_m is not None and settings.gsd is not None:
        spacing *= spec.gsd_m / settings.gsd
    if way.every_pixel and not 1 / _SAME_SCALE < spacing < _SAME_SCALE:
        h, w = spec.sample_size
        notes.append(
            f"The network was trained on samples {spacing:.3g} pixels apart and sees single pixels "
            "here, another scale: for what full resolution can do, train one on crops of that size "
            f"(geodeform train --sampler uniform --window {h}x{w} --sizes {h}x{w})."
        )
    return notes
