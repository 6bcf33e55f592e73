"""The reverse map against scipy's nearest neighbours and against grid_sample, one thread.

Times are medians over rounds in which every method runs once, so that all of them see the same
load; ours include the set-up for a new grid unless the line says otherwise.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reverse_grids import real_grid, softmax_scores, synthetic_grid
from scipy.interpolate import NearestNDInterpolator

from geodeform.deform.coords import grid_to_pixels
from geodeform.deform.reverse import ReverseMap

pytestmark = pytest.mark.benchmark

N = (300, 300)
CLASSES = 7
Report = Callable[[str], None]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each call, after one round that compiles."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


@pytest.mark.parametrize(
    ("density", "side", "rounds"), [("edge", 2448, 5), ("peak", 2448, 5), ("edge", 4096, 3)]
)
def test_against_scipy_and_grid_sample(
    shared_data: Path, report: Report, density: str, side: int, rounds: int
) -> None:
    size = (side, side)
    grid = real_grid(shared_data, 7, N) if density == "edge" else synthetic_grid("peak", N)
    scores = softmax_scores(CLASSES, N, blur=8)
    noise = np.random.default_rng(0).dirichlet(np.ones(CLASSES), N).transpose(2, 0, 1)
    noise = np.ascontiguousarray(noise, np.float32)
    labels = scores.argmax(0).astype(np.uint8)
    points = grid_to_pixels(grid.astype(np.float64), size).reshape(-1, 2)
    y, x = np.mgrid[:side, :side] + 0.5
    ready = ReverseMap(grid, size)
    ready.nearest_labels(labels, rows=(0, 1))
    inverse = torch.from_numpy(ready.inverse_coordinates())[None].contiguous()

    def sampled_maximum(at: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(torch.from_numpy(scores)[None], at, align_corners=False).max(1)[1]

    def by_inverse() -> torch.Tensor:
        found = ReverseMap(grid, size).inverse_coordinates()
        return sampled_maximum(torch.from_numpy(found)[None])

    calls: dict[str, Callable[[], object]] = {
        "scipy NearestNDInterpolator": lambda: NearestNDInterpolator(points, labels.ravel())(x, y),
        "B label": lambda: ReverseMap(grid, size).nearest_labels(labels),
        "B label, set up": lambda: ready.nearest_labels(labels),
        "B index": lambda: ReverseMap(grid, size).nearest_index(),
        "B index, set up": lambda: ready.nearest_index(),
        "C inverse coordinates": lambda: ReverseMap(grid, size).inverse_coordinates(),
        "D label + confidence": lambda: ReverseMap(grid, size).reverse_scores(scores),
        "D, scores of pure noise": lambda: ReverseMap(grid, size).reverse_scores(noise),
        "all 7 channels": lambda: ReverseMap(grid, size).interpolate_scores(scores),
        "grid_sample + max (C given)": lambda: sampled_maximum(inverse),
        "C + grid_sample + max": by_inverse,
    }
    found = medians(calls, rounds)
    scipy, sampled = found["scipy NearestNDInterpolator"], found["C + grid_sample + max"]
    fused = found["D label + confidence"]
    report(f"\nreverse map, {N[0]}² {density} → {side}², {CLASSES} classes, one thread")
    for name, ms in found.items():
        report(f"  {name:30s}{ms:9.1f} ms  {scipy / ms:6.1f}x scipy")
    report(f"  D is {sampled / fused:.1f}x as fast as C + grid_sample + max")
    index = ready.nearest_index()
    expected = NearestNDInterpolator(points, np.arange(len(points)))(x, y)
    other = index != expected
    report(f"  pixels where B and scipy name different samples (ties): {other.sum()}")


def test_small_blocks(shared_data: Path, report: Report) -> None:
    """What the mosaic does: one window, many blocks."""
    size = (1024, 1024)
    report("\nreverse map, windows of 1024² in blocks, D, one thread")
    for n in (32, 128, 300):
        grid, scores = real_grid(shared_data, 7, (n, n)), softmax_scores(CLASSES, (n, n), blur=8)
        calls: dict[str, Callable[[], object]] = {}
        for block in (1024, 256, 64):
            spans = [(k, k + block) for k in range(0, 1024, block)]

            def paint(
                grid: np.ndarray = grid,
                scores: np.ndarray = scores,
                spans: list[tuple[int, int]] = spans,
            ) -> None:
                back = ReverseMap(grid, size)
                for rows in spans:
                    for cols in spans:
                        back.reverse_scores(scores, rows=rows, cols=cols)

            calls[f"{block}²"] = paint
        found = medians(calls, 9)
        report(f"  {n}²: " + ", ".join(f"blocks of {k} {ms:.1f} ms" for k, ms in found.items()))


def test_torch_backend(shared_data: Path, report: Report) -> None:
    size = (1024, 1024)
    grid, scores = real_grid(shared_data, 7, N), softmax_scores(CLASSES, N, blur=8)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    report("\nreverse map, 300² → 1024², torch backend (CPU: one thread)")
    for device in devices:
        back = ReverseMap(grid, size, backend="torch", device=device)
        on_device = torch.from_numpy(scores).to(device)
        found = medians(
            {
                "B index": back.nearest_index,
                "C": back.inverse_coordinates,
                "D": lambda back=back, on_device=on_device: back.reverse_scores(on_device),
            },
            3,
        )
        report(f"  {device}: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in found.items()))


LARGE = """
import json, sys, threading, time
import numpy as np, psutil
from geodeform.deform.reverse import ReverseMap

grid, scores = np.load(sys.argv[1]), np.load(sys.argv[2])
labels, size = scores.argmax(0).astype(np.uint8), (10000, 10000)
small = ReverseMap(np.ascontiguousarray(grid[:20, :20]), (50, 50))  # compiles
small.nearest_labels(labels[:20, :20])
small.reverse_scores(scores[:, :20, :20])

process, peak, running = psutil.Process(), 0, True
def watch():
    global peak
    while running:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.002)
before = process.memory_info().rss
watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
back = ReverseMap(grid, size)
for y in range(0, size[0], 256):
    rows = (y, min(y + 256, size[0]))
    if sys.argv[3] == "B":
        back.nearest_labels(labels, rows=rows)
    else:
        back.reverse_scores(scores, rows=rows)
seconds = time.perf_counter() - start
running = False
watcher.join()
print(json.dumps([seconds, (peak - before) / 2**20, peak / 2**20]))
"""


def test_ten_thousand_squared(shared_data: Path, report: Report, tmp_path: Path) -> None:
    n = (1000, 1000)
    np.save(tmp_path / "grid.npy", real_grid(shared_data, 7, n))
    np.save(tmp_path / "scores.npy", softmax_scores(CLASSES, n, blur=8))
    report("\nreverse map, 1000² edge → 10000² in blocks of 256 rows, set-up included, one thread")
    files = [str(tmp_path / name) for name in ("grid.npy", "scores.npy")]
    for method in ("B", "D"):
        found = []
        for _ in range(3):
            command = [sys.executable, "-c", LARGE, *files, method]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(result.stdout))
        seconds, extra, peak = (statistics.median(column) for column in zip(*found, strict=True))
        beyond = f"{extra:.0f} MiB beyond grid and scores, peak {peak:.0f} MiB"
        report(f"  {method}: {seconds:.2f} s, {beyond}")


COMPILE = """
import time
import numpy as np
from geodeform.deform.reverse import ReverseMap

y, x = np.meshgrid(np.linspace(-.9, .9, 20), np.linspace(-.9, .9, 21), indexing="ij")
back = ReverseMap(np.stack([x, y], -1).astype(np.float32), (50, 60))
scores = np.ones((3, 20, 21), np.float32)
for name, call in (
    ("reverse_scores", lambda: back.reverse_scores(scores)),
    ("interpolate_scores, inverse_coordinates", lambda: back.interpolate_scores(scores)),
    ("nearest_labels", lambda: back.nearest_labels(np.zeros((20, 21), np.uint8))),
    ("nearest_index", lambda: back.nearest_index()),
):
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"  {name:42s}{cpu:5.1f} s CPU, {wall:5.1f} s")
"""


def test_compilation(report: Report, tmp_path: Path) -> None:
    report("\nfirst call of each, nothing cached, and again from the cache")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, "-c", COMPILE],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        report(result.stdout.rstrip())
