"""Sums and concatenations over the processes of a DDP training, differentiable.

torch's own differentiable collectives move from version to version
(``torch.distributed.nn.functional`` is deprecated, its successor is private), and two are needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def together() -> bool:
    """Whether several processes share a step."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def total(value: Tensor) -> Tensor:
    """Sum over the processes of a DDP training; the value itself without one.

    A loss is a ratio of such totals, so every process has the loss of the whole step. Its gradient
    then counts each process's share ``world`` times, which DDP's mean over the processes undoes:
    two processes take the very step that one would.
    """
    if not together():
        return value
    summed: Tensor = _Total.apply(value)
    return summed


def mean_of_all(values: Tensor) -> Tensor:
    """Mean of the values of all processes, a scalar; see :func:`total`."""
    return total(values.sum()) / total(values.new_tensor(float(values.numel())))


def gathered(features: Tensor) -> Tensor:
    """Put the (B, …) features of all processes one after the other: (world · B, …).

    All must have one shape.
    """
    joined: Tensor = _Gathered.apply(features)
    return joined


class _Total(torch.autograd.Function):
    """The gradient of each process's value is the sum of all processes' gradients of the total."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        summed = value.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed = grads[0].clone()
        dist.all_reduce(summed)
        return summed


class _Gathered(torch.autograd.Function):
    """Each process's features get the sum of the gradients that all processes have for them."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, features.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed = grads[0].clone()
        dist.all_reduce(summed)
        part = len(summed) // dist.get_world_size()
        return summed.narrow(0, part * dist.get_rank(), part)
