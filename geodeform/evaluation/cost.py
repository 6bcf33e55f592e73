"""What a prediction costs: floating-point operations, seconds, memory."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from geodeform.deform.grid import uniform_grid
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.planning import SegmentationPlan

_LOOK_S = 0.02  # between two looks at the memory


def window_flops(
    model: DeformSegmenter, plan: SegmentationPlan, size: tuple[int, int], device: torch.device
) -> int:
    """Count the floating-point operations that a plan's sampler and network do for one window.

    Convolutions and matrix products, a multiplication and an addition each: the segmenter at the
    sampled size (with its padding), and before it the density or grid net with the grid's banded
    products, or the resizer. Reading, sampling, element-wise operations and the reverse map are not
    in it; :attr:`geodeform.evaluation.result.Cost.seconds` has them.

    Args:
        model: In evaluation mode, on the device.
        plan: Sampler and window.
        size: (h, w) samples.
        device: Where to run one window of zeros.
    """
    bands = model.spec.in_channels

    def zeros(size: tuple[int, int]) -> torch.Tensor:
        return torch.zeros(1, bands, *size, device=device)

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if plan.sampler == "learned":
            model.place(zeros(plan.low_res_size), size)
        elif plan.sampler == "interpolation":
            model.resize(zeros(plan.window_size), size)
        if plan.sizes:  # the look that decided it
            model.expected_errors(zeros(plan.low_res_size), plan.sizes_used)
        model.segment(zeros(size), uniform_grid(1, size, device=device))
    return int(counter.get_total_flops())


class MemoryWatch:
    """Watches this process's memory while a ``with`` block runs.

    The operating system keeps a process's peak only since its start, which says nothing of the
    second of two evaluations; so a thread looks at it fifty times a second.

    Attributes:
        peak_bytes: Largest resident memory seen.
        device_bytes: Largest memory that torch held on a GPU; None on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="geodeform-memory", daemon=True)
        self.peak_bytes = 0
        self.device_bytes: int | None = None

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._look()
        if self._device.type == "cuda":
            self.device_bytes = int(torch.cuda.max_memory_allocated(self._device))

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, int(self._process.memory_info().rss))
