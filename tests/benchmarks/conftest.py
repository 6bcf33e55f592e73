"""What the benchmarks share: `pytest tests/benchmarks` runs them and shows what they print."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch

Report = Callable[[str], None]
Timer = Callable[..., float]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Print a line of the benchmark table although pytest captures the output."""

    def show(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    return show


@pytest.fixture(scope="session")
def median_ms() -> Timer:
    """Median wall-clock of a call in milliseconds, after one warm-up (compilation) call."""

    def measure(call: Callable[[], object], repeats: int = 5) -> float:
        call()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times)

    return measure


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
