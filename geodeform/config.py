"""Settings of a training run: typed, checked, read from YAML or plain dictionaries.

A recipe is a YAML file (see ``configs/``) with the sections of :class:`TrainConfig`. Every key is
checked: one that does not exist is an error that names the nearest one that does, and a value of
another type or out of range is an error that names its key. ``extends: other.yaml`` at the top
takes everything from another recipe, whose path counts from the file's own folder, and changes what
the file says. ``--set section.key=value`` and the flags of the command line override the file
through :meth:`TrainConfig.merged`.

Sizes are (height, width); a recipe writes them ``128`` (for 128×128), ``40x400`` or ``[40, 400]``.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from geodeform.errors import ConfigError

Section = TypeVar("Section")
Size = tuple[int, int]

_EXTENDS = "extends"
_SIDES = re.compile(r"^(\d+)\s*x\s*(\d+)$")


@dataclass(frozen=True)
class DataConfig:
    """Which data are read, and how training windows are cut from them.

    Attributes:
        dataset: Name of the dataset; ``geodeform datasets`` lists them.
        root: Its folder.
        classes: CSV or YAML file with the classes; only ``folder`` needs one.
        label_column: Column of labelled polygons that holds the class; ``folder`` only.
        bands: 1-based bands to read, all where empty; ``folder`` only.
        nodata: Value of pixels without data where the files do not say it; ``folder`` only.
        val_items: Items held out from training; validation runs on them. The dataset's own split
            where empty, else a seeded one. Items are never cut in two.
        split_seed: Of a seeded split.
        window: Size of a window in pixels of the scene; null for whole images.
        extra_windows: Windows of batches beside, one for each of ``model.extra_sizes``.
        crop: Central part of every image that is used, for training and validation; null for all.
        scale: Range of the factor by which a batch's windows are larger than ``window``.
        balance: Share of windows centred on a class drawn evenly over the classes; the others lie
            anywhere, so that a scene comes up in proportion to its area.
        flips: ``horizontal`` mirrors left and right (the paper's), ``all`` also mirrors up and down
            and turns by right angles.
        colour: Strength of the colour jitter, 0 for none.
        workers: Processes that prepare batches beside the training process, 0 for none.
        cache: Where decoded data are kept: ``auto`` for the user's cache folder, ``none`` to decode
            at every start and hold all in memory, or a folder.
    """

    dataset: str = "dubai"
    root: str | None = None
    classes: str | None = None
    label_column: str = "class"
    bands: tuple[int, ...] = ()
    nodata: float | None = None
    val_items: tuple[str, ...] = ()
    split_seed: int = 0
    window: Size | None = (1024, 1024)
    extra_windows: tuple[Size, ...] = ()
    crop: Size | None = None
    scale: tuple[float, float] = (0.75, 1.33)
    balance: float = 0.5
    flips: Literal["none", "horizontal", "all"] = "all"
    colour: float = 1.0
    workers: int = 0
    cache: str = "auto"

    def __post_init__(self) -> None:
        sides = [("data.window", self.window), ("data.crop", self.crop)]
        sides += [("data.extra_windows", size) for size in self.extra_windows]
        for key, size in sides:
            if size is not None:
                _require(min(size) >= 32, key, "must be at least 32 pixels", _shown(size))
        low, high = self.scale
        _require(
            0.25 <= low <= high <= 4, "data.scale", "must be 0.25 ≤ low ≤ high ≤ 4", self.scale
        )
        _require(0 <= self.balance <= 1, "data.balance", "must lie in 0…1", self.balance)
        if self.window is None:
            whole = "has no effect on whole images (window: null); leave it at"
            _require(self.scale == (1, 1), "data.scale", f"{whole} [1, 1]", self.scale)
            _require(self.balance == 0, "data.balance", f"{whole} 0", self.balance)
        _require(self.colour >= 0, "data.colour", "must not be negative", self.colour)
        _require(self.workers >= 0, "data.workers", "must not be negative", self.workers)
        _require(all(b >= 1 for b in self.bands), "data.bands", "count from 1", self.bands)


@dataclass(frozen=True)
class ModelConfig:
    """The network and its sampler.

    Attributes:
        segmenter: Name in the registry of segmenters, e.g. ``lite0`` or ``hrnet_w48``.
        pretrained: Weights file of the encoder; ``auto`` takes the one that an installed package
            brings (``lite0`` only), ``none`` starts from random weights.
        sampler: ``joint`` learns the density with the edge loss, ``single`` with the segmentation
            loss alone; ``uniform`` samples evenly; ``edge`` densely at the labels' edges (the
            paper's simulated edge-based baseline: an oracle, as it sees labels at test time too);
            ``edge_learned`` where a separately trained net predicts the solution of equation 2
            (Marin et al. 2019); ``interpolation`` is the learned resizer of Talebi & Milanfar
            (2021); ``fixed`` samples every window by one density, the mean of what the edge loss
            asks of the training windows (``loss.edge_blur``, ``edge_share`` and ``edge_weights``
            say what that is), and never sees labels of what it samples.
        sizes: Sizes of the sampled image; each batch draws one, so one model serves them all.
        extra_sizes: Sizes of batches whose windows are of ``data.extra_windows`` instead, drawn as
            often as each of ``sizes``: other distances between samples, down to single pixels, so
            that one model serves every budget. They are sampled evenly and teach the segmenter
            alone: where to sample and what will be wrong are learned of the model's own windows.
        default_size: Size that the model file declares as its default, also the one validated.
            The largest of ``sizes`` where it is not given.
        sizing: ``fixed``: every window gets ``sizes``; ``sides``: of "the short side to the
            smaller, the long side to the larger number" the one with fewer pixels, with the image's
            own aspect (the paper's rule for images of varying size).
        low_res: Size of the low-resolution view and of the density; with ``sides`` by that rule.
        sigma: Standard deviation of the grid's kernel in pixels of the density. The paper's "σ" of
            20 to 33 is a full width at half maximum: divide by 2.355.
        sigma_start: Training begins with this width and comes to ``sigma`` geometrically, in 16
            stages of equal length; null for ``sigma`` throughout. Validation and the model file
            always have ``sigma``.
        kernel_support: Where the kernel is cut, in multiples of sigma; the paper's text cuts at 1.
        temperature: Of the density's softmax; above 1 flattens it, below 1 sharpens it.
        density_kernel: ``joint`` and ``single`` only: side of the density net's convolutions, odd;
            3, 5 and 7 in the paper's table 3.
        density_coords: ``joint`` and ``single`` only: whether the density net is told where in the
            window a pixel lies (CoordConv, Liu et al. 2018). Flips move the ground, not the frame.
        density_context: ``joint`` and ``single`` only: dilated convolutions by which the density
            net looks further than the paper's 7 pixels of the view: 1 to 4 see 11, 19, 35 and 67.
        scale_aware: Whether the segmenter also gets how far apart the samples lie, along rows and
            columns: beyond the paper.
        error_net: Whether a small network beside learns what the segmenter gets wrong at which
            budget, so that a scene's budget can be allocated to its windows: beyond the paper. It
            changes nothing else; train with a wide range of ``sizes``.
        sample_mode: ``area`` averages source pixels into a sample (mip-mapped), ``bilinear`` reads
            points.
        uniform_share: Share of batches that a learned sampler trains with uniform sampling, so
            that the model serves both; a half where it is not given.
        edge_radius: ``edge`` only: Gaussian blur of the labels' edges, in pixels of the density.
        edge_weight: ``edge_learned`` only: λ of equation 2.
        resizer_blocks: ``interpolation`` only: residual blocks r, 1 to 4 in the paper.
        resizer_filters: ``interpolation`` only: filters n, 16 or 32 in the paper.
    """

    segmenter: str = "lite0"
    pretrained: str = "auto"
    sampler: Literal[
        "joint", "single", "uniform", "edge", "edge_learned", "interpolation", "fixed"
    ] = "joint"
    sizes: tuple[Size, ...] = ((64, 64), (96, 96), (128, 128))
    extra_sizes: tuple[Size, ...] = ()
    default_size: Size | None = None
    sizing: Literal["fixed", "sides"] = "fixed"
    low_res: Size = (64, 64)
    sigma: float = 4.0
    sigma_start: float | None = None
    kernel_support: float = 6.0
    temperature: float = 1.0
    density_kernel: int = 3
    density_coords: bool = False
    density_context: int = 0
    scale_aware: bool = False
    error_net: bool = False
    sample_mode: Literal["area", "bilinear"] = "area"
    uniform_share: float | None = None
    edge_radius: float = 2.0
    edge_weight: float = 1.0
    resizer_blocks: int = 1
    resizer_filters: int = 16

    def __post_init__(self) -> None:
        _require(len(self.sizes) > 0, "model.sizes", "needs at least one size", "none")
        sizes = [("model.sizes", size) for size in (*self.sizes, self.size)]
        sizes += [("model.extra_sizes", size) for size in self.extra_sizes]
        for key, size in sizes:
            _require(min(size) >= 8 and max(size) <= 4096, key, "must lie in 8…4096", _shown(size))
        _require(
            not self.extra_sizes or self.learns_where or self.sampler == "uniform",
            "model.extra_sizes",
            f"are sampled evenly, which the sampler '{self.sampler}' never does; leave them out",
            list(map(_shown, self.extra_sizes)),
        )
        _require(
            min(self.low_res) >= 8 and max(self.low_res) <= 1024,
            "model.low_res",
            "must lie in 8…1024",
            _shown(self.low_res),
        )
        for key in ("sigma", "kernel_support", "temperature", "edge_radius", "edge_weight"):
            _require(getattr(self, key) > 0, f"model.{key}", "must be positive", getattr(self, key))
        if self.sigma_start is not None:
            _require(
                self.sigma_start > 0, "model.sigma_start", "must be positive", self.sigma_start
            )
        _require(
            self.density_kernel > 0 and self.density_kernel % 2 == 1,
            "model.density_kernel",
            "must be odd",
            self.density_kernel,
        )
        _require(
            0 <= self.density_context <= 8,
            "model.density_context",
            "must lie in 0…8",
            self.density_context,
        )
        if self.sampler not in ("joint", "single"):
            for key, usual in (("kernel", 3), ("coords", False), ("context", 0)):
                _require(
                    getattr(self, f"density_{key}") == usual,
                    f"model.density_{key}",
                    f"has no effect with the sampler '{self.sampler}'; leave it out",
                    getattr(self, f"density_{key}"),
                )
        for key in ("resizer_blocks", "resizer_filters"):
            _require(getattr(self, key) > 0, f"model.{key}", "must be positive", getattr(self, key))
        if self.uniform_share is not None:
            _require(
                0 <= self.uniform_share < 1,
                "model.uniform_share",
                "must lie in 0…1 (below 1)",
                self.uniform_share,
            )
            _require(
                self.learns_where or self.uniform_share == 0,
                "model.uniform_share",
                f"has no effect with the sampler '{self.sampler}'; leave it out",
                self.uniform_share,
            )

    @property
    def learns_where(self) -> bool:
        """Whether the sampler learns where to sample: it can train with uniform batches too."""
        return self.sampler in ("joint", "single", "edge_learned")

    @property
    def uniform_part(self) -> float:
        """Share of the batches that a learned sampler trains with uniform sampling."""
        if not self.learns_where:
            return 0.0
        return 0.5 if self.uniform_share is None else self.uniform_share

    @property
    def size(self) -> Size:
        """The default size: what is asked for, else the largest trained one."""
        if self.default_size is not None:
            return self.default_size
        return max(self.sizes, key=lambda size: size[0] * size[1])


@dataclass(frozen=True)
class LossConfig:
    """What training minimises: ``segmentation + gamma · edge`` (the paper's joint loss).

    Attributes:
        kind: ``focal``, ``cross_entropy`` or ``dice`` (1 − the classes' mean soft Dice).
        focal_gamma: The focal loss's exponent; 0 is the cross-entropy.
        class_weights: ``none``, ``sqrt`` (one over the root of a class's frequency in the training
            scenes) or ``inverse`` (one over it); their mean over the classes is 1.
        gamma: Weight γ of the edge loss; only the joint sampler uses it, and ``edge_learned`` as
            the weight of its grid's distance to the solution of equation 2.
        gamma_end: γ runs linearly from ``gamma`` at the first step to this at the last; null for
            ``gamma`` throughout.
        edge_blur: Blur δ of the edge target, in pixels of the density.
        edge_share: 0: the paper's edge loss, the mean squared difference of both maps stretched to
            0…1, which says nothing about contrast. Above 0: the divergence from a density that puts
            this share of the samples at the edges; γ of 1 to 10 fits it.
        edge_weights: How much a class's side of its borders counts in the edge target: ``none`` for
            all alike, ``sqrt`` or ``inverse`` by its rarity, as in ``class_weights``. Equation 2
            of ``edge_learned`` knows no classes.
        jacobian: Whether a sample's loss counts by the source area that it stands for, which makes
            the loss that of the full resolution. Off by default: no gain was measured on Dubai.
        points: 0: the loss counts samples (the paper's). Above 0: it counts so many random points
            of the full-resolution window for each sample, through the reverse map.
        teacher: Model file whose predictions, sampled uniformly, are learned beside the labels.
        teacher_size: What the teacher samples of a window; its own budget where not given.
        distill: Weight of the divergence from the teacher.
    """

    kind: Literal["focal", "cross_entropy", "dice"] = "focal"
    focal_gamma: float = 1.0
    class_weights: Literal["none", "sqrt", "inverse"] = "sqrt"
    gamma: float = 10.0
    gamma_end: float | None = None
    edge_blur: float = 1.0
    edge_share: float = 0.75
    edge_weights: Literal["none", "sqrt", "inverse"] = "none"
    jacobian: bool = False
    points: float = 0.0
    teacher: str | None = None
    teacher_size: Size | None = None
    distill: float = 1.0

    def __post_init__(self) -> None:
        for key in ("focal_gamma", "gamma", "edge_blur", "points", "distill"):
            _require(getattr(self, key) >= 0, f"loss.{key}", "must be ≥ 0", getattr(self, key))
        if self.gamma_end is not None:
            _require(self.gamma_end >= 0, "loss.gamma_end", "must be ≥ 0", self.gamma_end)
        _require(0 <= self.edge_share < 1, "loss.edge_share", "must lie in 0…1", self.edge_share)
        _require(
            not (self.jacobian and self.points > 0),
            "loss.points",
            "already counts every place of the window alike: set loss.jacobian to false",
            self.points,
        )
        _require(
            self.teacher is not None or self.teacher_size is None,
            "loss.teacher_size",
            "has no effect without loss.teacher",
            self.teacher_size,
        )


@dataclass(frozen=True)
class OptimConfig:
    """How it is minimised.

    Attributes:
        steps: Optimiser steps in all; 0 takes ``epochs``.
        epochs: Passes over the training data, where ``steps`` is 0: every image once, or as many
            windows as cover the scenes' area.
        batch_size: Windows a step, over all devices and accumulated parts together.
        accumulate: Parts that a step's windows are worked off in, one after the other: memory for
            time.
        optimiser: ``adamw`` or ``adam`` (the paper's).
        lr: Highest learning rate.
        weight_decay: Of all parameters but biases and normalisation.
        schedule: ``cosine`` to zero, ``step`` (×0.1 at 60 % and at 85 % of the steps) or
            ``constant``; each after the warm-up.
        warmup: Steps of linear rise.
        clip: Largest norm of the gradient, 0 for no limit.
        ema: Decay of the weights' moving average, which validation and the model file use; 0 for
            none.
        patience: Validations without a better full-resolution mIoU after which training stops, 0
            for never.
        precision: ``auto`` is bf16 where a GPU has it, else fp16 on GPUs and fp32 on CPUs; or one
            of ``32``, ``bf16``, ``16``.
    """

    steps: int = 3500
    epochs: float = 0.0
    batch_size: int = 16
    accumulate: int = 1
    optimiser: Literal["adamw", "adam"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: int = 150
    clip: float = 0.0
    ema: float = 0.998
    patience: int = 0
    precision: Literal["auto", "32", "bf16", "16"] = "auto"

    def __post_init__(self) -> None:
        _require(self.steps >= 0, "optim.steps", "must not be negative", self.steps)
        _require(
            self.steps > 0 or self.epochs > 0,
            "optim.epochs",
            "must be above 0 where optim.steps is 0",
            self.epochs,
        )
        _require(self.batch_size >= 1, "optim.batch_size", "must be at least 1", self.batch_size)
        _require(self.accumulate >= 1, "optim.accumulate", "must be at least 1", self.accumulate)
        _require(
            self.batch_size % self.accumulate == 0,
            "optim.accumulate",
            f"must divide optim.batch_size ({self.batch_size})",
            self.accumulate,
        )
        _require(self.lr > 0, "optim.lr", "must be positive", self.lr)
        _require(self.weight_decay >= 0, "optim.weight_decay", "must be ≥ 0", self.weight_decay)
        _require(self.warmup >= 0, "optim.warmup", "must not be negative", self.warmup)
        _require(self.clip >= 0, "optim.clip", "must not be negative", self.clip)
        _require(0 <= self.ema < 1, "optim.ema", "must lie in 0…1 (below 1)", self.ema)
        _require(self.patience >= 0, "optim.patience", "must not be negative", self.patience)


@dataclass(frozen=True)
class RunConfig:
    """Where it runs, what it writes, how often it looks at itself.

    Attributes:
        out: The run's folder.
        seed: Of the weights and of every window drawn.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        devices: GPUs, or processes on a CPU, of each node; more than one train by DDP.
        nodes: Machines; start the same command on each, by torchrun or a batch system.
        strategy: Lightning's name of how several devices work together: ``auto`` is ``ddp`` for
            more than one.
        val_every: Steps between validations.
        val_windows: Most windows of a validation, spread evenly over the held-out items.
        panel_every: Epochs between pictures of held-out windows (image with sampling points,
            density, target, prediction, labels), 0 for none.
        checkpoint_every: Steps between saves of the last state, for ``--resume``.
        export: Which weights the model file gets: ``last``, or ``best`` by full-resolution
            validation mIoU (which then is no longer a held-out figure).
    """

    out: str = "runs/dubai"
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    val_every: int = 500
    val_windows: int = 12
    panel_every: float = 0.0
    checkpoint_every: int = 100
    export: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        for key in ("val_every", "val_windows", "checkpoint_every", "devices", "nodes"):
            _require(
                getattr(self, key) >= 1, f"run.{key}", "must be at least 1", getattr(self, key)
            )
        _require(self.panel_every >= 0, "run.panel_every", "must be ≥ 0", self.panel_every)
        _require(
            self.devices == 1 or not self.device.startswith("cuda:"),
            "run.device",
            "must be 'cuda', without a number, for several devices",
            self.device,
        )

    @property
    def processes(self) -> int:
        """How many processes share a step."""
        return self.devices * self.nodes


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of two recipes as one, the second one's settings before the first one's."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = {**merged[key], **value} if both else value
    return merged


_PAPER: dict[str, Any] = {
    "data": {
        "window": None,
        "scale": (1.0, 1.0),
        "balance": 0.0,
        "flips": "horizontal",
        "colour": 0.0,
        "workers": 4,
    },
    "model": {"segmenter": "hrnet_w48", "sample_mode": "bilinear", "uniform_share": 0.0},
    "loss": {
        "kind": "focal",
        "focal_gamma": 2.0,
        "class_weights": "none",
        "gamma": 100.0,
        "edge_share": 0.0,
        "jacobian": False,
    },
    "optim": {
        "steps": 0,
        "batch_size": 4,
        "optimiser": "adam",
        "lr": 1e-4,
        "weight_decay": 1e-4,
        "schedule": "step",
        "warmup": 0,
        "ema": 0.0,
    },
    "run": {"val_every": 1000, "val_windows": 500, "panel_every": 10.0, "checkpoint_every": 500},
}
"""The paper's training (A.7); ``configs/deepglobe/base.yaml`` says why each setting is so."""


def _paper(**sections: Mapping[str, Any]) -> dict[str, Any]:
    return _overlaid(_PAPER, sections)


DATASET_RECIPES: dict[str, Mapping[str, Any]] = {
    # as the packaged model was trained
    "dubai": {"model": {"error_net": True}, "loss": {"jacobian": True}},
    "deepglobe": _paper(
        model={"sizes": ((100, 100),), "low_res": (100, 100), "sigma": 10.6},
        optim={"epochs": 200.0},
    ),
    "cityscapes": _paper(
        model={"sizes": ((64, 128),), "low_res": (64, 128), "sigma": 4.2},
        optim={"epochs": 125.0},
        run={"val_every": 3720},
    ),
    "pca-histo": _paper(
        model={"sizes": ((80, 800),), "sizing": "sides", "low_res": (80, 800), "sigma": 8.5},
        optim={"epochs": 250.0, "batch_size": 2},
    ),
    "camvid": {
        "data": {
            "window": None,
            "scale": (1.0, 1.0),
            "balance": 0.0,
            "flips": "horizontal",
        },
        "model": {"sizes": ((72, 96),), "low_res": (72, 96), "sigma": 4.5},
        "optim": {"steps": 1500},
        "run": {"val_windows": 101},
    },
}
"""Recipes of ``geodeform train --dataset NAME``, where they differ from :class:`TrainConfig`'s
defaults, which are nearly the packaged model's (``configs/dubai.yaml``) and serve any scene. Each
is also a file of ``configs/``, which an installed package lacks."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run needs; the defaults are ``configs/dubai.yaml``'s.

    Attributes:
        data: Scenes and windows.
        model: Network and sampler.
        loss: What is minimised.
        optim: How.
        run: Where, and what is written.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        windows, sizes = self.data.extra_windows, self.model.extra_sizes
        _require(
            len(windows) == len(sizes),
            "data.extra_windows",
            f"needs one window for each of the {len(sizes)} model.extra_sizes",
            list(map(_shown, windows)),
        )
        _require(
            not windows or (self.data.window is not None and self.model.sizing == "fixed"),
            "data.extra_windows",
            "go with windows of one size (data.window, model.sizing: fixed)",
            list(map(_shown, windows)),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build from nested dictionaries, missing keys at their defaults.

        Raises:
            ConfigError: If a key is unknown (the nearest one is named) or a value does not fit.
        """
        return _build(cls, values, "")

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrainConfig:
        """Read a YAML recipe.

        Raises:
            ConfigError: If the file or one that it extends is missing, is no YAML mapping, or a
                setting does not fit.
        """
        values = _read_yaml(Path(path), ())
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def for_dataset(cls, name: str) -> TrainConfig:
        """Return what ``geodeform train --dataset NAME`` trains where no recipe is given."""
        values = DATASET_RECIPES.get(name, {})
        return cls.from_dict(
            _overlaid({"data": {"dataset": name}, "run": {"out": f"runs/{name}"}}, values)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain dictionaries (lists, not tuples): YAML- and JSON-ready."""
        return {
            section.name: {
                key: _plain(value)
                for key, value in dataclasses.asdict(getattr(self, section.name)).items()
            }
            for section in dataclasses.fields(self)
        }

    def to_yaml(self) -> str:
        """Return the recipe as YAML; :meth:`from_yaml` reads it back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def merged(self, overrides: Mapping[str, Any]) -> TrainConfig:
        """Return a copy with some settings replaced.

        Args:
            overrides: Dotted keys, e.g. ``{"optim.lr": 3e-4}``.

        Raises:
            ConfigError: If a key is unknown or a value does not fit.
        """
        values = self.to_dict()
        for dotted, value in overrides.items():
            section, _, key = dotted.partition(".")
            if section not in values or not key:
                raise _unknown(dotted, _all_keys())
            values[section] = {**values[section], key: value}
        return TrainConfig.from_dict(values)


def _read_yaml(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Read a recipe and what it extends as nested dictionaries."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the config {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not a text file in UTF-8; give a YAML recipe such as dubai.yaml."
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: dates that do not exist
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} must hold sections such as 'data:' and 'model:'.")
    own = dict(values)
    base = own.pop(_EXTENDS, None)
    if base is None:
        return own
    if not isinstance(base, str):
        raise ConfigError(f"{path}: '{_EXTENDS}' must name one other recipe, got {base!r}.")
    other = path.parent / base
    if other.resolve() in seen or other.resolve() == path.resolve():
        raise ConfigError(f"{path} extends {other}, which extends it in turn.")
    return _overlaid(_read_yaml(other, (*seen, path.resolve())), own)


def parse_settings(words: typing.Iterable[str]) -> dict[str, Any]:
    """Read ``section.key=value`` words; values are YAML.

    >>> parse_settings(["optim.lr=1e-4", "model.sizes=[64, 96]", "data.window=null"])
    {'optim.lr': '1e-4', 'model.sizes': [64, 96], 'data.window': None}

    Raises:
        ConfigError: If a word has another form.
    """
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or "." not in key:
            raise ConfigError(f"Cannot read the setting '{word}': write section.key=value.")
        try:
            settings[key.strip()] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"Cannot read the value of '{word}'.") from error
    return settings


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _shown(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _all_keys() -> list[str]:
    return [f"{section}.{key}" for section, keys in TrainConfig().to_dict().items() for key in keys]


def _require(holds: bool, key: str, rule: str, value: object) -> None:
    if not holds:
        raise ConfigError(f"Setting '{key}' {rule}, got {value}.")


def _unknown(key: str, known: typing.Iterable[str]) -> ConfigError:
    known = list(known)
    # A right name in the wrong section is nearer than any misspelling.
    last = key.rpartition(".")[2]
    near = [name for name in _all_keys() if name.rpartition(".")[2] == last][:1]
    near = near or difflib.get_close_matches(key, known, 1, 0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
    return ConfigError(f"Unknown setting '{key}': {hint}")


def _build(kind: type[Section], values: Any, prefix: str) -> Section:
    """Fill the dataclass ``kind`` from a mapping, whose dotted place is ``prefix``."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"Setting '{prefix.rstrip('.')}' must be a section of settings.")
    hints = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise _unknown(f"{prefix}{key}", [f"{prefix}{name}" for name in hints])
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            arguments[key] = _build(typing.cast(type, hint), value, f"{prefix}{key}.")
        else:
            arguments[key] = _convert(hint, value, f"{prefix}{key}")
    return kind(**arguments)


def _convert(hint: Any, value: Any, key: str) -> Any:
    """Return ``value`` as the annotation asks, or raise a ConfigError that names the key."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint == Size:
        return _convert_size(value, key)
    if origin is types.UnionType:  # only `X | None` is used
        return None if value is None else _convert(parts[0], value, key)
    if origin is Literal:
        if isinstance(value, int) and str(value) in parts:  # precision: 32
            value = str(value)
        if value not in parts:
            raise ConfigError(
                f"Setting '{key}' must be one of {', '.join(map(str, parts))}, got {value}."
            )
        return value
    if origin is tuple:
        items = list(value) if isinstance(value, list | tuple) else [value]
        if parts[-1] is not Ellipsis and len(items) != len(parts):
            raise ConfigError(f"Setting '{key}' needs {len(parts)} values, got {value}.")
        return tuple(_convert(parts[0], item, key) for item in items)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 (no dot) as text; people write it all the time.
        try:
            return float(value)
        except ValueError:
            raise ConfigError(f"Setting '{key}' must be a number, got '{value}'.") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        if hint is str and type(value) is int:  # names of items may look like numbers
            return str(value)
        names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise ConfigError(f"Setting '{key}' must be {names[hint]}, got {value!r}.")
    return value


def _convert_size(value: Any, key: str) -> Size:
    """128, "40x400" or [40, 400] → (height, width)."""
    if isinstance(value, str) and (match := _SIDES.match(value.strip())):
        value = [int(match[1]), int(match[2])]
    sides = [value, value] if isinstance(value, int) else value
    if (
        not isinstance(sides, list | tuple)
        or len(sides) != 2
        or any(not isinstance(side, int) or isinstance(side, bool) for side in sides)
    ):
        raise ConfigError(
            f"Setting '{key}' must be a size such as 128, 40x400 or [40, 400], got {value!r}."
        )
    return sides[0], sides[1]
