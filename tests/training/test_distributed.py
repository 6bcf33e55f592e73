"""Several processes take the very steps that one would: sums, BatchNorm, losses, whole trainings.

What Lightning is needed for is imported where it is used: a process needs seconds to import it, and
the quick tests start two without it.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from processes import run_together
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from geodeform.classes import ClassScheme
from geodeform.config import TrainConfig
from geodeform.errors import ConfigError
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.spec import ModelSpec, default_scaling
from geodeform.training.collectives import gathered, together, total
from geodeform.training.losses import DeformLoss

# --- what the processes do -----------------------------------------------------------------------


def quick(rank, world):
    return {
        "sums": sums_and_concatenations(rank),
        "losses": losses(rank, world, DistributedDataParallel),
    }


def slow(rank, world):
    return {
        "norms": normalised(rank, world, DistributedDataParallel),
        "varying": images_of_varying_size(rank),
    }


def sums_and_concatenations(rank):
    value = torch.arange(3.0) + 10 * rank
    value.requires_grad_()
    summed = total(value)
    # processes that use the sum differently each have a part in the gradient
    (summed * (rank + 2)).sum().backward()
    features = (torch.arange(12.0).view(2, 3, 2) + 100 * rank).requires_grad_()
    joined = gathered(features.transpose(1, 2))  # not contiguous
    (joined * torch.arange(len(joined)).view(-1, 1, 1) * (rank + 1)).sum().backward()
    return {
        "together": together(),
        "summed": summed.detach(),
        "grad": value.grad,
        "value": value.detach(),
        "joined": joined.detach(),
        "features_grad": features.grad,
    }


def normalised(rank, world, wrap):
    """Two steps of a small network with both kinds of BatchNorm on a share of eight images."""
    from geodeform.training.sync import BatchNormSync

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        nn.Conv2d(5, 4, 3),
        BatchNormAct2d(4, act_layer=nn.LeakyReLU),
        nn.Conv2d(4, 2, 1),
    ).double()
    with torch.no_grad():
        network[1].weight.uniform_(0.5, 2)
        network[3].bias.uniform_(-1, 1)
    images = torch.randn(2, 8, 3, 7, 8, dtype=torch.float64) * 3 + 1
    images[:, :4] += 2  # the shares have other statistics than the whole
    share = slice(rank * 8 // world, (rank + 1) * 8 // world)
    found = {}
    wrapped = wrap(BatchNormSync("cpu").apply(network))
    for step in range(2):
        mine = images[step, share].clone().requires_grad_()
        out = wrapped(mine)
        network.zero_grad()
        (total(out.pow(3).sum()) / 100).backward()
        found[f"out {step}"] = out.detach()
        found[f"input grad {step}"] = mine.grad
        for name, parameter in network.named_parameters():
            found[f"grad {step} {name}"] = parameter.grad.clone()
    for name, buffer in network.named_buffers():
        found[f"state {name}"] = buffer.clone()
    # processes validate different numbers of windows, each on its own
    network.eval()
    if rank == 0:
        found["alone"] = network(images[0, :1]).detach()
    return found


def images_of_varying_size(rank):
    from geodeform.training.sync import BatchNormSync

    norm = BatchNormSync("cpu").apply(nn.BatchNorm2d(2)).train()
    try:
        norm(torch.zeros(1, 2, 4, 4 + rank))
    except ConfigError as error:
        return str(error)
    return "no error"


LOSSES = {
    "focal": {"focal_gamma": 2.0, "class_weights": torch.tensor([0.5, 1.0, 3.0])},
    "dice": {"kind": "dice", "class_weights": torch.tensor([0.5, 1.0, 3.0])},
    "jacobian": {"focal_gamma": 1.0, "jacobian": True},
    "dice and jacobian": {"kind": "dice", "jacobian": True},
    "edge divergence": {"kind": "cross_entropy", "gamma": 10.0, "edge_share": 0.75},
    "edge loss": {"kind": "cross_entropy", "gamma": 100.0},
    "grid": {"kind": "cross_entropy", "gamma": 10.0},
    "teacher": {"focal_gamma": 1.0, "distill": 2.0},
}


def model_of(downsampler):
    spec = ModelSpec(
        architecture="lite0",
        in_channels=3,
        classes=ClassScheme(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (99, 99, 99))),
        bands=("red", "green", "blue"),
        scaling=default_scaling("lite0", 3),
        window_px=(64, 64),
        low_res_size=(16, 16),
        sample_size=(24, 32),
        kernel_sigma=2.0,
        downsampler=downsampler,
    )
    torch.manual_seed(1)
    model = DeformSegmenter(spec).double().eval()
    with torch.no_grad():  # samples really move
        if model.grid_net is None:
            model.density_net.layers[-1].weight.mul_(1000)
        else:
            model.grid_net.head.weight.mul_(60)
    return model


def windows_of_a_step():
    """Six windows: of the first three half is unknown, and two have no edge at all."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 3, (6, 4, 4), generator=generator, dtype=torch.uint8)
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[:3, :, 32:] = 255
    labels[1:3] = torch.where(labels[1:3] == 255, labels[1:3], 1)
    noise = torch.randn(6, 3, 64, 64, generator=generator, dtype=torch.float64)
    image = noise + labels.clamp(max=3).unsqueeze(1)
    teacher = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64).softmax(1)
    return image, labels, teacher


def losses(rank, world, wrap):
    """Loss and gradients of each kind on a share of the windows; BatchNorm is left out of it."""
    image, labels, teacher = windows_of_a_step()
    share = slice(rank * 6 // world, (rank + 1) * 6 // world)
    models = {kind: model_of(kind) for kind in ("density", "grid")}
    wrapped = {kind: wrap(model) for kind, model in models.items()}
    found = {}
    for name, settings in LOSSES.items():
        kind = "grid" if name == "grid" else "density"
        models[kind].zero_grad()
        prediction = wrapped[kind](image[share])
        view = teacher[share] if name == "teacher" else None
        parts = DeformLoss(3, **settings)(prediction, labels[share], edge=True, teacher=view)
        parts.total.backward()
        parameters = models[kind].named_parameters()
        found[name] = {
            "parts": [-1.0 if part is None else part.item() for part in parts],
            "moved": (prediction.grid - prediction.grid.mean(0)).abs().max().item(),
            "grads": {key: p.grad.clone() for key, p in parameters if p.grad is not None},
        }
    return found


# --- what is expected of them --------------------------------------------------------------------


def just_so(module):
    return module


@pytest.fixture(scope="module")
def in_two(tmp_path_factory):
    return run_together(quick, tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def in_two_slowly(tmp_path_factory):
    return run_together(slow, tmp_path_factory.mktemp("slow"))


def test_totals_and_their_gradients(in_two):
    features = torch.arange(12.0).view(2, 3, 2).transpose(1, 2)
    for rank, one in enumerate(one["sums"] for one in in_two):
        assert one["together"]
        assert torch.equal(one["value"], torch.arange(3.0) + 10 * rank)  # is left as it was
        assert torch.equal(one["summed"], 2 * torch.arange(3.0) + 10)
        assert torch.equal(one["grad"], torch.full((3,), 2.0 + 3.0))
        assert torch.equal(one["joined"], torch.cat((features, features + 100)))
        place = torch.arange(4.0)[2 * rank : 2 * rank + 2].view(2, 1, 1)
        assert torch.equal(one["features_grad"], (place * (1 + 2)).expand(2, 3, 2))


@pytest.fixture(scope="module")
def step_in_one():
    return losses(0, 1, just_so)


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_step_of_two_processes_is_that_of_one(step_in_one, in_two, name):
    expected = step_in_one[name]
    assert expected["moved"] > 0.02
    nets = {key.split(".")[0] for key in expected["grads"]}
    assert len(nets) == 2
    for one in (one["losses"][name] for one in in_two):
        assert one["parts"] == pytest.approx(expected["parts"], rel=1e-6)
        assert one["grads"].keys() == expected["grads"].keys()
        for net in nets:
            grads = {k: v for k, v in expected["grads"].items() if k.startswith(net)}
            largest = max(float(grad.abs().max()) for grad in grads.values())
            assert largest > 1e-4
            # the losses compute in float32: dice, whose sums come in another order, differs by 6e-8
            for key, grad in grads.items():
                torch.testing.assert_close(one["grads"][key], grad, rtol=0, atol=1e-6 * largest)


def test_without_processes_nothing_is_joined():
    from geodeform.training.sync import BatchNormSync

    value = torch.ones(3, requires_grad=True)
    assert not together()
    assert total(value) is value
    norm = BatchNormSync("cpu").apply(nn.BatchNorm2d(2)).train()
    plain = nn.BatchNorm2d(2).train()
    images = torch.randn(3, 2, 4, 4)
    assert torch.equal(norm(images), plain(images))
    assert list(norm.state_dict()) == list(plain.state_dict())


@pytest.mark.slow
def test_batch_norm_of_two_processes_is_that_of_one(in_two_slowly):
    expected = normalised(0, 1, just_so)
    found = [one["norms"] for one in in_two_slowly]
    for name, value in expected.items():
        if name.startswith(("out", "input grad")):
            # a gradient counts for all processes; DDP halves those of the weights only
            factor = 2 if name.startswith("input") else 1
            both = torch.cat([one[name] for one in found]) / factor
            torch.testing.assert_close(both, value, rtol=1e-10, atol=1e-12)
        elif name == "alone":
            torch.testing.assert_close(found[0][name], value, rtol=1e-10, atol=1e-12)
        else:
            for one in found:
                torch.testing.assert_close(one[name], value, rtol=1e-10, atol=1e-12)
    assert int(found[0]["state 1.num_batches_tracked"]) == 2
    assert "alone" not in found[1]


@pytest.mark.slow
def test_batch_norm_of_varying_sizes_is_one_sentence(in_two_slowly):
    said = "Images of varying size cannot train in several CPU processes: use --devices 1."
    assert [one["varying"] for one in in_two_slowly] == [said, said]


def test_on_gpus_batch_norm_is_converted_once_and_keeps_its_activation():
    from geodeform.training.sync import BatchNormSync

    network = nn.Sequential(nn.BatchNorm2d(2), BatchNormAct2d(3, act_layer=nn.LeakyReLU))
    names = list(network.state_dict())
    sync = BatchNormSync("cuda")
    converted = sync.apply(network)
    assert type(converted[0]) is nn.SyncBatchNorm
    assert type(converted[1]) is SyncBatchNormAct
    assert isinstance(converted[1].act, nn.LeakyReLU)
    assert list(converted.state_dict()) == names
    again = sync.apply(converted)
    assert isinstance(again[1].act, nn.LeakyReLU)
    assert sync.revert(again) is again


def test_a_process_without_a_window_takes_part_and_counts_nothing():
    from geodeform.models.spec import InputScaling
    from geodeform.training.cache import CachedScene
    from geodeform.training.windows import Sizes, ValWindows

    labels = np.ones((40, 70), np.uint8)
    scene = CachedScene("a", np.zeros((3, 40, 70), np.uint8), labels, np.bincount(labels.ravel()))
    scaling, sizes = InputScaling(255.0, (0.0,) * 3, (1.0,) * 3), Sizes((8, 8), (8, 8))
    shares = [ValWindows([scene], (40, 40), scaling, sizes, rank=r, world=4) for r in range(4)]
    assert [len(share) for share in shares] == [1, 1, 1, 1]  # of two windows
    counted = [int((share[0]["labels"] == 1).sum()) for share in shares]
    assert counted == [40 * 40, 40 * 30, 0, 0]
    assert shares[3][0]["image"].shape == (1, 3, 40, 40)


# --- whole trainings -----------------------------------------------------------------------------


def recipe(root, out, **changes):
    config = TrainConfig.from_dict(
        {
            "data": {"root": str(root), "window": 128, "scale": [0.75, 1.5]},
            "model": {"sizes": [64], "low_res": 16, "sigma": 2.0, "pretrained": "none"},
            "optim": {"steps": 4, "batch_size": 8, "warmup": 0, "ema": 0.9},
            "run": {
                "out": str(out),
                "device": "cpu",
                "val_every": 2,
                "val_windows": 3,
                "checkpoint_every": 4,
                "panel_every": 1.0,
            },
        }
    )
    return config.merged({key.replace("__", "."): value for key, value in changes.items()})


def command(config, *arguments):
    """Run ``geodeform train`` on a recipe in processes of its own; they must all come to an end.

    With one thread each: sums in another order are another rounding, which the channels without
    variance blow up. (One process with two threads instead of one: 20 % of the stem's gradient.)
    """
    path = f"{config.run.out}.yaml"
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(config.to_yaml())
    program = [sys.executable, "-m", "geodeform", "train", "--config", path, "--device", "cpu"]
    return subprocess.run(
        [*program, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def figures(run):
    with (run / "logs" / "version_0" / "metrics.csv").open() as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def last_state(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def gradients(run):
    """Adam's moving average of each parameter's gradient."""
    states = last_state(run)["optimizer_states"][0]["state"]
    return {number: state["exp_avg"] for number, state in states.items()}


TIGHT = {
    # Weights stay as they are. Adam's step has one size whatever the gradient's, which sends those
    # without one anywhere, and at the start there are channels without variance, whose bias of
    # zero is a kink: after a step of 1e-7 gradients already differ by 2 %, after 1e-12 by 1e-5.
    "optim__lr": 1e-12,
    "optim__accumulate": 2,
    "model__sampler": "edge_learned",
    "loss__kind": "dice",
    "run__val_windows": 1,  # fewer than processes
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [({}, 0.05), ({**TIGHT, "model__uniform_share": 0.0}, 2e-5)],
    ids=["joint", "edge-learned in parts"],
)
def test_two_processes_train_as_one(small_dubai, tmp_path, changes, tolerance):
    from geodeform.models.model_file import read_spec

    one, two = tmp_path / "one", tmp_path / "two"
    alone = command(recipe(small_dubai, one, **changes))
    assert alone.returncode == 0, alone.stderr
    done = command(recipe(small_dubai, two, **changes), "--devices", "2")
    assert done.returncode == 0, done.stderr
    expected, found = figures(one), figures(two)
    assert len(found) == len(expected) == 4  # two validations, the last step, all held-out windows
    for before, after in zip(expected, found, strict=True):
        assert after == pytest.approx(before, rel=tolerance, abs=tolerance / 10)
    assert {"train_loss", "train_edge", "val_miou", "val_miou_deformed"} <= set().union(*found)
    if tolerance < 1e-3:
        before, after = gradients(one), gradients(two)
        largest = max(float(gradient.abs().max()) for gradient in before.values())
        assert len(before) == len(after) > 100
        for number, gradient in before.items():
            torch.testing.assert_close(after[number], gradient, rtol=0, atol=1e-4 * largest)
    # both say the same of the held-out windows, which are nine: an odd number
    specs = [read_spec(run / "model.safetensors") for run in (one, two)]
    assert specs[1].metrics["learned"] == pytest.approx(
        specs[0].metrics["learned"], rel=tolerance, abs=2e-4
    )
    panels = sorted(path.name for path in (one / "panels").iterdir())
    assert sorted(path.name for path in (two / "panels").iterdir()) == panels
    # one process speaks
    assert done.stdout.count("geodeform segment --model") == 1
    for said in ("Data: 1, 2 for training", "Model: lite0", "step 4/4: segm", "Held out, learned"):
        assert done.stderr.count(said) == 1, done.stderr
    assert "rank" not in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_a_step_that_cannot_be_shared_is_refused_before_anything_is_written(small_dubai, tmp_path):
    config = recipe(small_dubai, tmp_path / "run", optim__batch_size=7)
    done = command(config, "--devices", "2")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if "rror" in line]
    assert error.startswith("Error: A step of 7 windows cannot be shared by 2 processes")
    assert error.endswith("make optim.batch_size a multiple of 2.")
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_every_process(small_dubai, tmp_path):
    config = recipe(small_dubai, tmp_path / "run", optim__lr=1e30, run__val_every=4)
    done = command(config, "--devices", "2")
    assert done.returncode == 1
    assert "at step 1: training diverged. The batch is saved in" in done.stderr
    assert "Traceback" not in done.stderr
    batches = [
        torch.load(tmp_path / "run" / f"nonfinite_step1_rank{rank}.pt", weights_only=True)
        for rank in (0, 1)
    ]
    images = [batch["groups"][0]["image"] for batch in batches]
    assert [len(image) for image in images] == [4, 4]
    assert not torch.equal(*images)
