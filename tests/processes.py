"""Functions of a test file run in several processes that work together, as a DDP training does."""

from __future__ import annotations

import datetime
import importlib.util
import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import distributed as dist

_LIMIT_S = 120.0  # a collective that one process never joins would hang for ever


def run_together(job: Callable[[int, int], Any], folder: Path, world: int = 2) -> list[Any]:
    """Run ``job(rank, world)`` in processes of one gloo group, on CPUs.

    Args:
        job: A function of a module's top level; what it returns must be tensors and plain values.
        folder: Empty folder for the results.
        world: How many processes.

    Returns:
        What each process returned, by rank.
    """
    source = inspect.getfile(job)
    context = mp.spawn(_begin, (world, source, job.__name__, str(folder)), nprocs=world, join=False)
    end = time.monotonic() + _LIMIT_S
    while not context.join(timeout=1):
        if time.monotonic() > end:
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"{job.__name__} hangs in {world} processes")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _begin(rank: int, world: int, source: str, name: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=_LIMIT_S / 2),
    )
    spec = importlib.util.spec_from_file_location("jobs", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.save(getattr(module, name)(rank, world), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
