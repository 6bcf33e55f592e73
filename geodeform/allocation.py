"""Allocation: how many samples each window of a scene gets, of one budget for all of them.

A window of desert needs almost none, a suburb or a shore many. What a model expects to get wrong in
a window at each of a few sampled sizes decides: samples go where one more sample takes away most
errors, until the budget is spent. This is geodeform's own step beyond the paper, which gives every
window the same number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geodeform.budget import Budget
from geodeform.deform.coords import Size
from geodeform.errors import ConfigError
from geodeform.models.spec import ModelSpec
from geodeform.planning import SegmentationPlan
from geodeform.predict import WindowPredictor

_STEP = 32  # sides of the lightest network's input are padded to multiples of this
_REACH = 4 / 3  # of the sides of trained sizes


def allocate_windows(predictor: WindowPredictor) -> SegmentationPlan:
    """Give every window of a plan the sampled size that serves the whole scene best.

    All low-resolution views are looked at first. The budget is what the plan would spend evenly.

    Args:
        predictor: Of the even plan; its model must have an error net.

    Returns:
        The plan, with :attr:`SegmentationPlan.sizes` and the windows without data; the even plan
        with a note where its windows have more samples than any other candidate, or fewer.

    Raises:
        ConfigError: If the model has no error net.
    """
    plan, spec = predictor.plan, predictor.model.spec
    candidates = candidate_sizes(plan, spec)
    costs = np.array([math.prod(size) for size in candidates])
    even = math.prod(plan.sample_size)
    if even in (costs[0], costs[-1]):
        why = (
            "of so many the model does not know where they are needed"
            if even == costs[-1]
            else "of so few the model does not know which windows could do with fewer"
        )
        note = f"Every window gets the same {plan.shown_size()} samples: {why}."
        return replace(plan, notes=(*plan.notes, note))
    errors = np.zeros((len(plan.active), len(candidates)))
    seen = np.zeros(len(plan.active), bool)
    position = {index: k for k, index in enumerate(plan.active)}
    for indices, expected in weighed_errors(predictor, plan.active, candidates):
        at = [position[index] for index in indices]
        errors[at], seen[at] = expected, True
    chosen = np.zeros(len(plan.active), np.intp)  # windows without data are never predicted
    chosen[seen] = allocate(errors[seen], costs, int(seen.sum()) * even)
    plan = replace(plan, sizes=tuple(candidates[k] for k in chosen))
    return plan.knowing_empty(np.array(plan.active)[~seen].tolist())


def weighed_errors(
    predictor: WindowPredictor, indices: Sequence[int], sizes: Sequence[Size]
) -> Iterator[tuple[list[int], NDArray[np.float64]]]:
    """Yield (indices, expected errors (B, S)) of windows with data, by what errors count.

    Args:
        predictor: Its model must have an error net.
        indices: The windows' numbers in the plan.
        sizes: S of (h, w) samples to consider.
    """
    plan = predictor.plan
    of_class = class_weights(plan, predictor.model.spec)
    for batch, shares in predictor.expect(indices, sizes):
        cells = shares.shape[-2:]
        of_cell = np.stack([cell_weights(plan, index, cells) for index in batch])
        yield batch, np.einsum("bscyx,c,byx->bs", shares, of_class, of_cell) / math.prod(cells)


def candidate_sizes(plan: SegmentationPlan, spec: ModelSpec) -> list[Size]:
    """Sampled sizes that windows may get, from few samples to many.

    From three quarters of the sides of the smallest size that the model was trained with to four
    thirds of the largest's, which is as far as a training with scales from 0.75 to 1.33 has seen:
    these two, the trained ones, and steps that leave its network no padding (sides of the model's
    window divisible by 32). And always the even size.
    """
    trained = [math.prod(size) for size in spec.trained_sizes]
    low, high = min(trained) / _REACH**2, max(trained) * _REACH**2
    tall, wide = spec.sample_size
    steps = {low, *trained, high}
    for side in range(_STEP, math.ceil(math.sqrt(high * tall / wide)), _STEP):
        samples = side * round(side * wide / tall)
        if low <= samples <= high:
            steps.add(samples)
    return rising({size_of(plan, samples) for samples in steps} | {plan.sample_size})


def rising(sizes: Iterable[Size]) -> list[Size]:
    """Sizes from few samples to many, one of each number: an allocation needs rising costs."""
    return sorted({math.prod(size): size for size in sizes}.values(), key=math.prod)


def size_of(plan: SegmentationPlan, samples: float) -> Size:
    """(h, w) of so many samples in a full window of the model, as a window of the plan has them."""
    return Budget("window", max(samples, 64.0)).sample_size(
        plan.window_size,
        full_window=plan.full_window,
        windows=1,
        scene_pixels=math.prod(plan.window_size),
    )


def class_weights(plan: SegmentationPlan, spec: ModelSpec) -> NDArray[np.float64]:
    """What an error counts of each class (n_classes,)."""
    names = spec.classes.names
    return np.ones(len(names)) if plan.priority is None else plan.priority.of_classes(names)


def cell_weights(plan: SegmentationPlan, index: int, shape: Size) -> NDArray[np.float32]:
    """What an error counts in each cell (h, w) of a window.

    As much of it as the area of interest covers, times the priority. Which pixels have data is the
    views' to say: :meth:`geodeform.predict.WindowPredictor.expect` counts no others.
    """
    window = plan.windows[index]
    weights = np.ones(shape, np.float32)
    if plan.priority is not None:
        weights = plan.priority.weights(window, shape)
    inside = plan.inside_share(window, shape)
    return weights if inside is None else weights * inside


def allocate(
    errors: NDArray[np.float64],
    costs: NDArray[np.float64] | NDArray[np.int64],
    budget: float,
) -> NDArray[np.intp]:
    """Choose the size of every window so that the expected errors are fewest.

    Each window's errors against costs are replaced by their lower convex hull, whose steps get ever
    less worth their samples. All windows' steps are taken in the order of errors saved per sample
    as long as they fit. That is Everett's (1963) Lagrangian solution of the knapsack of choices: no
    allocation of as many samples has fewer errors, but for what the last steps leave over.

    Args:
        errors: (N, S) what is expected to be wrong in each window at each size, such as a share of
            its pixels, or a weighted one.
        costs: (S,) samples of a window at each size, increasing.
        budget: Samples over all windows. Where it is under that of the smallest size everywhere,
            every window gets the smallest: none goes unseen.

    Returns:
        (N,) index of each window's size.

    Raises:
        ConfigError: If the shapes do not fit or costs do not increase.
    """
    errors = np.asarray(errors, np.float64)
    costs = np.asarray(costs, np.float64)
    if errors.ndim != 2 or costs.shape != errors.shape[1:] or (np.diff(costs) <= 0).any():
        raise ConfigError(
            f"Allocation needs errors (N, S) and S increasing costs, not {errors.shape} and "
            f"{costs.shape}."
        )
    n = len(errors)
    windows, targets, rates = _hull_steps(errors, costs)
    order = np.argsort(-rates, kind="stable")  # a window's own steps stay in order
    chosen = np.zeros(n, np.intp)
    left = budget - n * costs[0]
    for step in order:
        window, target = windows[step], targets[step]
        price = costs[target] - costs[chosen[window]]
        # a later step of a window whose former one did not fit is dearer than the former
        if price <= left:
            left -= price
            chosen[window] = target
    return chosen


def _hull_steps(
    errors: NDArray[np.float64], costs: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Steps along the lower convex hulls: of which window, to which size, errors saved a sample.

    Steps that save nothing are none.
    """
    sizes = errors.shape[1]
    windows = np.arange(len(errors))  # those with a step to come
    at = np.zeros(len(errors), np.intp)  # their corner of the hull
    found = [(windows[:0], at[:0], np.zeros(0))]
    for _ in range(sizes - 1):
        left = errors[windows]
        saved = left[np.arange(len(left)), at][:, None] - left
        spent = costs[None] - costs[at][:, None]
        rates = np.where(spent > 0, saved / np.where(spent > 0, spent, 1), -np.inf)
        # of equal rates the largest size: a straight stretch is one step
        best = sizes - 1 - rates[:, ::-1].argmax(1)
        rate = rates.max(1)
        gains = rate > 0
        windows, at = windows[gains], best[gains]
        found.append((windows, at, rate[gains]))
    of, to, worth = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return of, to, worth
