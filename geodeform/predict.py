"""From the windows of a scene to compact predictions: read, look, sample, segment.

A window's prediction stays small: its sampling grid and the scores at the sampled pixels. The
mosaic rasterises it when its rows are written, so memory follows the budget, not the scene.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from geodeform.deform.coords import grid_to_pixels
from geodeform.deform.grid import magnification, uniform_grid
from geodeform.deform.reverse import ReverseMap
from geodeform.deform.sample import mip_level, sample_image
from geodeform.geo.scene import Scene
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.planning import SegmentationPlan

Block = tuple[int, int]
Found = TypeVar("Found")

_BATCH_SAMPLES = 1 << 18  # sampled pixels that go through the network at once (16 of 128²)
_BATCH_BYTES = 128 << 20  # full-resolution pixels that a batch may hold
_SORTED_WINDOWS = 64  # whole rows of about so many are sorted by size
_MEAN_FLOATS = 1 << 20  # scores that are held at once where a window has several looks
_MAX_READ_LEVEL = 5  # reads are decimated by at most 2⁵


@dataclass(frozen=True)
class View:
    """The low-resolution view of a window.

    Attributes:
        pixels: (C, hd, wd) float32 values of 0…1.
        valid: (hd, wd) where it shows data; None for everywhere.
    """

    pixels: NDArray[np.float32]
    valid: NDArray[np.bool_] | None


@dataclass(frozen=True)
class WindowSamples:
    """Where a window is sampled.

    Attributes:
        positions: (h, w, 2) float32 pixel coordinates (x, y) in the window.
        magnification: (h, w) float32 sampled pixels per scene pixel.
    """

    positions: NDArray[np.float32]
    magnification: NDArray[np.float32]


@dataclass(frozen=True)
class WindowPrediction:
    """What is known of one window; a :class:`geodeform.geo.mosaic.WindowScores`.

    Attributes:
        reverse: Maps window pixels (H, W) back to the sampled image (h, w).
        probabilities: (C, h, w) float32 class probabilities of the sampled pixels.
        magnification: (h, w) float32 sampled pixels per scene pixel.
        earlier: Coarser looks at the same window, by which the scores are means, each look weighed
            by its number of samples.
        valid: (hd, wd) where the window's low-resolution view shows data; None for everywhere.
    """

    reverse: ReverseMap
    probabilities: NDArray[np.float32]
    magnification: NDArray[np.float32]
    earlier: tuple[WindowPrediction, ...] = ()
    valid: NDArray[np.bool_] | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return int(self.probabilities.shape[0])

    def scores(self, rows: Block, cols: Block) -> NDArray[np.float32]:
        """Probabilities (C, rows, cols) of a block of window pixels."""
        scores = self.reverse.interpolate_scores(self.probabilities, rows=rows, cols=cols)
        seen = self.magnification.size
        for look in self.earlier:
            part = look.magnification.size
            seen += part
            scores += (look.scores(rows, cols) - scores) * np.float32(part / seen)
        return scores

    def labels(self, rows: Block, cols: Block) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Labels and confidence (0…255) of a block of window pixels, in one pass."""
        if not self.earlier:
            return self.reverse.reverse_scores(self.probabilities, rows=rows, cols=cols)
        shape = (rows[1] - rows[0], cols[1] - cols[0])
        labels, confidence = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        step = max(1, _MEAN_FLOATS // (self.n_classes * shape[1]))
        for top in range(rows[0], rows[1], step):
            scores = self.scores((top, min(top + step, rows[1])), cols)
            part = slice(top - rows[0], top - rows[0] + scores.shape[1])
            labels[part] = scores.argmax(0)
            confidence[part] = np.rint(scores.max(0) * np.float32(255))
        return labels, confidence

    @property
    def looks(self) -> tuple[WindowPrediction, ...]:
        """All looks at the window, the last first, each by itself."""
        return (replace(self, earlier=()), *self.earlier)

    @property
    def samples(self) -> WindowSamples:
        """Where the last look sampled the window."""
        return WindowSamples(
            grid_to_pixels(self.reverse.grid, self.reverse.size), self.magnification
        )


@dataclass(frozen=True)
class Look:
    """A batch after the look at its low-resolution views: where each window will be sampled.

    Attributes:
        indices: The windows' numbers in the plan.
        grid: (B, h, w, 2) where each sample reads, on the model's device.
        levels: Image reads are decimated by 2^level.
        valid: Where each view (hd, wd) shows data, None for everywhere; empty where nobody asks.
    """

    indices: list[int]
    grid: torch.Tensor
    levels: list[int]
    valid: tuple[NDArray[np.bool_] | None, ...] = ()


class WindowPredictor:
    """Predicts the windows of a plan, reading ahead in a thread of its own.

    While the network works on one batch, the next one is read and scaled.
    """

    def __init__(
        self, scene: Scene, model: DeformSegmenter, plan: SegmentationPlan, device: torch.device
    ) -> None:
        self.scene = scene
        self.model = model.to(device)
        self.plan = plan
        self.device = device
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="geodeform-read")
        spec = model.spec
        self._mean = torch.tensor(spec.scaling.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(spec.scaling.std, device=device).view(1, -1, 1, 1)
        self._sampler = plan.sampler

    def __enter__(self) -> WindowPredictor:
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.shutdown(cancel_futures=True)

    def batches(self, indices: Sequence[int]) -> list[list[int]]:
        """Windows that go through the network at once: of one size, and no batch too large.

        Where sizes differ, a few rows of windows are sorted by size, so that batches are full and
        still near each other: the mosaic waits for complete rows.
        """
        H, W = self.plan.window_size
        most = _BATCH_BYTES // (H * W * len(self.model.spec.bands) * 4)
        found: list[list[int]] = []
        groups = [list(indices)]
        if len(self.plan.sizes_used) > 1:
            columns = self.plan.windows.grid_shape[1]
            rows = max(1, _SORTED_WINDOWS // columns)
            groups = [list(group) for _, group in groupby(indices, lambda i: i // columns // rows)]
        for group in groups:
            for size in self.plan.sizes_used:
                same = [index for index in group if self.plan.size_of(index) == size]
                n = max(1, min(_BATCH_SAMPLES // math.prod(size), most))
                found += [same[i : i + n] for i in range(0, len(same), n)]
        return found

    def predict(self, indices: Sequence[int]) -> Iterator[tuple[int, WindowPrediction | None]]:
        """Yield (index, prediction) for the windows ``indices``, in order.

        A window without a single pixel of data gives None: it is skipped, not predicted.
        While a batch is segmented, the next one is read.
        """
        yield from _in_order(indices, self._predict(self.batches(indices)))

    def _predict(self, batches: list[list[int]]) -> Iterator[tuple[int, WindowPrediction | None]]:
        """Yield (index, prediction) batch after batch."""
        if not batches:
            return
        look_read = self._reader.submit(self._read_views, batches[0])
        waiting: deque[tuple[Look, Future[list[NDArray[np.float32]]], list[int]]] = deque()
        for number, batch in enumerate(batches):
            views = look_read.result()
            seen = {i: view for i, view in zip(batch, views, strict=True) if view is not None}
            look = self.look(list(seen), [view.pixels for view in seen.values()])
            look = replace(look, valid=tuple(view.valid for view in seen.values()))
            images = self._reader.submit(self._read_images, look)
            if number + 1 < len(batches):
                look_read = self._reader.submit(self._read_views, batches[number + 1])
            waiting.append((look, images, batch))
            if len(waiting) > 1:
                yield from self._finish(*waiting.popleft())
        while waiting:
            yield from self._finish(*waiting.popleft())

    def place(self, indices: Sequence[int]) -> Iterator[tuple[int, WindowSamples | None]]:
        """Yield (index, where it would be sampled) for the windows ``indices``, in order.

        Only low-resolution views are read. A window without a single pixel of data gives None.
        """
        yield from _in_order(indices, self._place(self.batches(indices)))

    def _place(self, batches: list[list[int]]) -> Iterator[tuple[int, WindowSamples | None]]:
        """Yield (index, where it would be sampled) batch after batch."""
        size = self.plan.window_size
        for batch, seen in self._views(batches):
            look = self.look(list(seen), [view.pixels for view in seen.values()])
            samples = {
                index: WindowSamples(
                    grid_to_pixels(grid, size).cpu().numpy(), magnified.cpu().numpy()
                )
                for index, grid, magnified in zip(
                    look.indices, look.grid, magnification(look.grid, size), strict=True
                )
            }
            for index in batch:
                yield index, samples.get(index)

    def expect(
        self, indices: Sequence[int], sizes: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Yield (indices, expected errors) for batches of the windows ``indices``.

        Only low-resolution views are read. Windows without a single pixel of data are left out.

        Args:
            indices: The windows' numbers in the plan.
            sizes: Samples (h, w) to consider.

        Returns:
            For B windows (B, S, n_classes, gy, gx) as of
            :meth:`geodeform.models.deform_segmenter.DeformSegmenter.expected_errors`, but of pixels
            with data: what a view is filled in with beyond its data is not mapped.
        """
        for _, seen in self._views(self.batches(indices)):
            if not seen:
                continue
            with torch.inference_mode():
                views = self._normalise(self._to_device([view.pixels for view in seen.values()]))
                shares = self.model.expected_errors(views, sizes)
                cells = (shares.shape[-2], shares.shape[-1])
                shares = shares * self._shares_with_data(list(seen.values()), cells)
            yield list(seen), shares.cpu().numpy()

    def _shares_with_data(self, views: list[View], cells: tuple[int, int]) -> torch.Tensor:
        """How much of each cell (gy, gx) of B views has data, (B, 1, 1, gy, gx) or just 1."""
        if all(view.valid is None for view in views):
            return torch.ones((), device=self.device)
        masks = [
            np.ones(self.plan.low_res_size, np.float32)
            if view.valid is None
            else view.valid.astype(np.float32)
            for view in views
        ]
        shares = F.adaptive_avg_pool2d(self._to_device(masks).unsqueeze(1), cells)
        return shares.unsqueeze(1)

    def _views(self, batches: list[list[int]]) -> Iterator[tuple[list[int], dict[int, View]]]:
        """Yield batches with the low-resolution views of their windows with data, reading ahead."""
        views = [self._reader.submit(self._read_views, batch) for batch in batches[:1]]
        for number, batch in enumerate(batches):
            read = zip(batch, views.pop().result(), strict=True)
            if number + 1 < len(batches):
                views.append(self._reader.submit(self._read_views, batches[number + 1]))
            yield batch, {index: view for index, view in read if view is not None}

    def _read_views(self, indices: list[int]) -> list[View | None]:
        """Low-resolution views, or None for windows without data."""
        views: list[View | None] = []
        for index in indices:
            window = self.plan.scene_window(index)
            low_res = self.plan.low_res_size
            data, valid = self.scene.read(window, low_res)
            # A decimated mask may miss a lone valid pixel: only the full one proves emptiness.
            empty = not valid.any() and not self.scene.any_valid(window)
            shown = None if valid.all() else valid
            views.append(None if empty else View(self.plan.scaling.apply(data), shown))
        return views

    def look(self, indices: list[int], views: list[NDArray[np.float32]]) -> Look:
        """Decide where windows are sampled; what samples otherwise overrides this.

        Args:
            indices: The windows' numbers in the plan.
            views: Their low-resolution views, each (C, hd, wd) of 0…1.
        """
        if not indices:
            return Look([], torch.empty(0, *self.plan.sample_size, 2), [])
        size = self.plan.size_of(indices[0])  # of all of a batch
        if self._sampler != "learned":
            grid = uniform_grid(len(indices), size, device=self.device)
            return Look(indices, grid, [0] * len(indices))
        with torch.inference_mode():
            low_res = self._normalise(self._to_device(views))
            priority = self._priority(indices, low_res)
            grid = self.model.place(low_res, size, priority=priority).grid
            levels = [0] * len(indices)
            if self.model.spec.sample_mode == "area":
                # The mip level that the densest place needs is the finest worth reading.
                finest = mip_level(grid, self.plan.window_size).flatten(1).amin(1)
                levels = [min(max(math.floor(v), 0), _MAX_READ_LEVEL) for v in finest.tolist()]
        return Look(indices, grid, levels)

    def _priority(self, indices: list[int], views: torch.Tensor) -> torch.Tensor | None:
        """Weights (B, 1, hd, wd) of the views' pixels; None where all count the same."""
        plan, weights = self.plan, None
        if plan.priority is None:
            return None
        if not plan.priority.is_even:
            of_place = [plan.priority.weights(plan.windows[k], plan.low_res_size) for k in indices]
            weights = self._to_device(of_place).unsqueeze(1)
        if plan.priority.classes:
            of_class = self._class_priority(views)
            weights = of_class if weights is None else weights * of_class
        return weights

    def _class_priority(self, views: torch.Tensor) -> torch.Tensor:
        """What an error counts in each place (B, 1, hd, wd), by the classes that a view shows.

        The view is segmented as if it were the sampled image.
        """
        assert self.plan.priority is not None
        counts = self.plan.priority.of_classes(self.model.spec.classes.names)
        grid = uniform_grid(len(views), self.plan.low_res_size, device=self.device)
        probabilities = self.model.segment(views, grid).softmax(1)
        of_class = torch.from_numpy(counts).to(probabilities).view(1, -1, 1, 1)
        return (of_class * probabilities).sum(1, keepdim=True)

    def _read_images(self, look: Look) -> list[NDArray[np.float32]]:
        images = []
        for index, level in zip(look.indices, look.levels, strict=True):
            if self._averaged:
                shape = self.plan.size_of(index)
            else:
                H, W = self.plan.window_size
                shape = (math.ceil(H / 2**level), math.ceil(W / 2**level))
            data, _ = self.scene.read(self.plan.scene_window(index), shape)
            images.append(self.plan.scaling.apply(data))
        return images

    def _finish(
        self, look: Look, images: Future[list[NDArray[np.float32]]], batch: list[int]
    ) -> Iterator[tuple[int, WindowPrediction | None]]:
        predictions: dict[int, WindowPrediction] = {}
        if look.indices:
            with torch.inference_mode():
                sampled = self._sample(look, images.result())
                probabilities = self.model.segment(sampled, look.grid).softmax(1)
                magnified = magnification(look.grid, self.plan.window_size)
            for k, index in enumerate(look.indices):
                predictions[index] = WindowPrediction(
                    self._reverse_map(look.grid[k]),
                    probabilities[k].float().cpu().numpy(),
                    magnified[k].cpu().numpy(),
                    valid=look.valid[k],
                )
        for index in batch:
            yield index, predictions.get(index)

    def _reverse_map(self, grid: torch.Tensor) -> ReverseMap:
        """The reverse map of one grid (h, w, 2), computed where the network is."""
        size = self.plan.window_size
        if self.device.type == "cpu":
            return ReverseMap(grid.numpy(), size)
        return ReverseMap(grid.cpu().numpy(), size, backend="torch", device=str(self.device))

    @property
    def _averaged(self) -> bool:
        """Whether the reader itself makes the sampled image, by averaging over each sample."""
        return self._sampler == "uniform" and self.model.spec.sample_mode == "area"

    def _sample(self, look: Look, images: list[NDArray[np.float32]]) -> torch.Tensor:
        """Sampled images (B, C, h, w), normalised."""
        if self._averaged:
            return self._normalise(self._to_device(images))
        if self._sampler == "interpolation":
            resized = [
                self.model.resize(
                    self._normalise(self._to_device([image])), self.plan.size_of(index)
                )
                for index, image in zip(look.indices, images, strict=True)
            ]
            return torch.cat(resized)
        sampled = [
            sample_image(
                self._to_device([image]), look.grid[k : k + 1], mode=self.model.spec.sample_mode
            )
            for k, image in enumerate(images)
        ]
        return self._normalise(torch.cat(sampled))

    def _to_device(self, images: list[NDArray[np.float32]]) -> torch.Tensor:
        return torch.from_numpy(np.stack(images)).to(self.device)

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Values of 0…1 → the model's mean and deviation."""
        return (images - self._mean) / self._std


def _in_order(
    indices: Sequence[int], found: Iterator[tuple[int, Found]]
) -> Iterator[tuple[int, Found]]:
    """Yield what comes by index in the order of ``indices``, as soon as it is there."""
    waiting: dict[int, Found] = {}
    wanted = iter(indices)
    following = next(wanted, None)
    for index, one in found:
        waiting[index] = one
        while following is not None and following in waiting:
            yield following, waiting.pop(following)
            following = next(wanted, None)
