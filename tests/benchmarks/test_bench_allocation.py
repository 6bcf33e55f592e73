"""What tells best which windows of Dubai tile 7 need the budget: regression or end to end.

The packaged model's sizes for every window by what its error net expects (a regression beside the
segmenter's training), by two small networks trained afterwards on what the model measurably gets
wrong in the training tiles, one by regression of the gain from each size to the next, one end to
end (the errors of its own choice, relaxed to shares of all sizes, at random prices of a sample),
and by the measured errors of tile 7 themselves, which nobody has. All maps are made by the very
call that users make.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_scenes import as_scene
from numpy.typing import NDArray
from torch import Tensor, nn

import geodeform
from geodeform import run as runs
from geodeform.allocation import allocate, candidate_sizes, weighed_errors
from geodeform.classes import NODATA_CLASS
from geodeform.evaluation.metrics import Confusion
from geodeform.models.error_net import ErrorNet, at_spacing, spacing_in_view
from geodeform.planning import SegmentationPlan
from geodeform.predict import WindowPredictor
from geodeform.training.datasets.dubai import DubaiScenes

pytestmark = pytest.mark.benchmark

TRAINING = ("1", "2", "3", "5", "6", "8")
BUDGETS = ("0.4%", "1%", "1.5%", "3%")
SHIFTS = (0, 250)  # windows of the training tiles also begin so many pixels further on
SEEDS = (0, 1, 2)
STEPS = 1500


@dataclass(frozen=True)
class Measured:
    """What a model gets wrong in windows.

    Attributes:
        views: (N, C, hd, wd) what an error net sees.
        wrong: (N, S) share of wrong pixels at each size.
        expected: (N, S) what the model's error net says.
        sizes: The S sizes, rising.
    """

    views: Tensor
    wrong: NDArray[np.float64]
    expected: NDArray[np.float64]
    sizes: list[tuple[int, int]]


def measure(
    model: geodeform.DeformSegmenter, image: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> Measured:
    with (
        runs.begin_run(
            as_scene(image), model=model, device="cpu", bands=None, nodata=None, allocation="even"
        ) as run,
        run.predictor() as predictor,
    ):
        plan = run.plan
        sizes = candidate_sizes(plan, model.spec)
        wrong = np.zeros((len(plan.active), len(sizes)))
        for k, size in enumerate(sizes):
            even = replace(plan, sample_size=size)
            with WindowPredictor(run.scene, run.network, even, run.device) as at_size:
                for index, prediction in at_size.predict(plan.active):
                    window = plan.windows[index]
                    rows, cols = window.toslices()
                    truth = labels[rows, cols]
                    found, _ = prediction.labels((0, truth.shape[0]), (0, truth.shape[1]))
                    wrong[index, k] = np.mean((found != truth) & (truth != NODATA_CLASS))
        expected = np.concatenate([e for _, e in weighed_errors(predictor, plan.active, sizes)])
        views = torch.cat(list(views_of(predictor)))
    return Measured(views, wrong, expected, sizes)


def views_of(predictor: WindowPredictor) -> Iterator[Tensor]:
    """The low-resolution views that :meth:`WindowPredictor.expect` gives the error net."""
    seen: list[Tensor] = []
    hook = predictor.model.error_net.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    for _ in predictor.expect(predictor.plan.active, [predictor.plan.sample_size]):
        yield seen.pop()
    hook.remove()


class WindowErrors(nn.Module):
    """The error net's layers, for whole windows and all classes together."""

    def __init__(self, model: geodeform.DeformSegmenter, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.net = ErrorNet(len(model.spec.bands), 1)
        self.spacings = [spacing_in_view(model.spec.low_res_size, size) for size in sizes]

    def forward(self, views: Tensor) -> Tensor:
        """(B, C, hd, wd) → (B, S) share of wrong pixels at each size."""
        log_shares = self.net(views)
        at = [at_spacing(log_shares, spacing).exp().mean((1, 2, 3)) for spacing in self.spacings]
        return torch.stack(at, 1)


def by_gain(errors: Tensor, wrong: Tensor, costs: Tensor) -> Tensor:
    """How far the expected gains from size to size are from those measured."""
    return F.mse_loss(errors.diff(dim=1), wrong.diff(dim=1))


def end_to_end(errors: Tensor, wrong: Tensor, costs: Tensor) -> Tensor:
    """What is wrong, and what is paid, with the sizes that the expected errors choose.

    For a price drawn anew each time, as any budget has one (Everett 1963); the choice is relaxed to
    shares of all sizes, which become one as the differences outgrow the temperature.
    """
    price = 0.002 * 250 ** torch.rand(())
    paid = price * costs / costs[-1]
    shares = torch.softmax((-(errors + paid)) / 0.003, 1)
    return (shares * (wrong + paid)).sum(1).mean()


def trained(
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor],
    model: geodeform.DeformSegmenter,
    data: list[Measured],
    seed: int,
) -> WindowErrors:
    torch.manual_seed(seed)
    net = WindowErrors(model, data[0].sizes)
    views = torch.cat([part.views for part in data])
    wrong = torch.from_numpy(np.concatenate([part.wrong for part in data])).float()
    costs = torch.tensor([float(math.prod(size)) for size in data[0].sizes])
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    for _ in range(STEPS):
        batch = torch.randint(len(views), (32,))
        turns = int(torch.randint(8, ()))
        seen = torch.rot90(views[batch], turns % 4, (2, 3))
        if turns >= 4:
            seen = seen.flip(3)
        loss = loss_of(net(seen), wrong[batch], costs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def choose(
    predictor: WindowPredictor,
    errors: NDArray[np.float64] | None,
    sizes: list[tuple[int, int]],
) -> SegmentationPlan:
    """Stands in for :func:`geodeform.allocation.allocate_windows`; evenly without errors."""
    plan = predictor.plan
    if errors is None:
        return plan
    costs = np.array([math.prod(size) for size in sizes])
    picks = allocate(errors, costs, len(errors) * math.prod(plan.sample_size))
    return replace(plan, sizes=tuple(sizes[k] for k in picks))


def test_what_shares_out_a_budget(
    shared_data: Path, report: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.getLogger("geodeform").setLevel(logging.ERROR)
    dataset, model = DubaiScenes(shared_data / "dubai"), geodeform.load_model().eval()
    tile7 = dataset.load("7")
    held_out = measure(model, tile7.image, tile7.labels)
    data = []
    for tile in TRAINING:
        scene = dataset.load(tile)
        for shift in SHIFTS:
            data.append(measure(model, scene.image[shift:, shift:], scene.labels[shift:, shift:]))
    assert all(part.sizes == held_out.sizes for part in data)
    windows = sum(len(part.views) for part in data)
    report(f"\n{windows} windows of tiles {', '.join(TRAINING)}; {len(held_out.views)} of tile 7")
    report("sizes " + ", ".join(f"{h}x{w}" for h, w in held_out.sizes))
    mean = np.concatenate([part.wrong for part in data]).mean(0)
    report("wrong in training tiles, % " + " ".join(f"{100 * v:.1f}" for v in mean))
    mean = held_out.wrong.mean(0)
    report("wrong in tile 7, %         " + " ".join(f"{100 * v:.1f}" for v in mean))

    ways: dict[str, list[NDArray[np.float64] | None]] = {
        "evenly": [None],
        "error net": [held_out.expected],
        "measured": [held_out.wrong],
    }
    for name, loss_of in (("regression", by_gain), ("end to end", end_to_end)):
        nets = [trained(loss_of, model, data, seed) for seed in SEEDS]
        with torch.inference_mode():
            ways[name] = [net(held_out.views).double().numpy() for net in nets]

    report(f"mIoU (accuracy) over {len(SEEDS)} seeds of what is trained afterwards, %")
    report(f"{'':>12} " + " ".join(f"{budget:>15}" for budget in BUDGETS))
    for name, all_errors in ways.items():
        shown = []
        for budget in BUDGETS:
            found = []
            for errors in all_errors:
                chooser = partial(choose, errors=errors, sizes=held_out.sizes)
                monkeypatch.setattr(runs, "allocate_windows", chooser)
                result = geodeform.segment_scene(
                    as_scene(tile7.image), model=model, budget=budget, allocation="need"
                )
                confusion = Confusion(len(model.spec.classes))
                confusion.add(tile7.labels, result.labels.to_numpy())
                found.append((100 * confusion.miou(), 100 * confusion.accuracy()))
            miou, accuracy = np.mean(found, 0)
            shown.append(f"{miou:.1f}±{np.std(found, 0)[0]:.1f} ({accuracy:.1f})")
            assert 0 < miou < 100
        report(f"{name:>12} " + " ".join(f"{text:>15}" for text in shown))
