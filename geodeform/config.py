"""Settings of a training run: typed, checked, read from YAML or plain dictionaries.

A recipe is a YAML file (see ``configs/``) with the sections of :class:`TrainConfig`. Every key is
checked: one that does not exist is an error that names the nearest one that does, and a value of
another type or out of range is an error that names its key. Flags of the command line override
the file through :meth:`TrainConfig.merged`.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from geodeform.errors import ConfigError

Section = TypeVar("Section")


@dataclass(frozen=True)
class DataConfig:
    """Which scenes are read, and how training windows are cut from them.

    Attributes:
        dataset: Name of the dataset; only ``dubai`` so far.
        root: Its folder.
        val_tiles: Tiles held out from training; validation runs on them.
        window: Side of a window in pixels of the scene.
        scale: Range of the factor by which a batch's windows are larger than ``window``.
        balance: Share of windows centred on a class drawn evenly over the classes; the others lie
            anywhere, so that a tile comes up in proportion to its area.
        flips: Whether windows are mirrored and turned by right angles.
        colour: Strength of the colour jitter, 0 for none.
        workers: Processes that prepare batches beside the training process, 0 for none.
    """

    dataset: Literal["dubai"] = "dubai"
    root: str | None = None
    val_tiles: tuple[int, ...] = (7,)
    window: int = 1024
    scale: tuple[float, float] = (0.75, 1.33)
    balance: float = 0.5
    flips: bool = True
    colour: float = 1.0
    workers: int = 0

    def __post_init__(self) -> None:
        _require(self.window >= 32, "data.window", "must be at least 32 pixels", self.window)
        low, high = self.scale
        _require(
            0.25 <= low <= high <= 4, "data.scale", "must be 0.25 ≤ low ≤ high ≤ 4", self.scale
        )
        _require(0 <= self.balance <= 1, "data.balance", "must lie in 0…1", self.balance)
        _require(self.colour >= 0, "data.colour", "must not be negative", self.colour)
        _require(self.workers >= 0, "data.workers", "must not be negative", self.workers)
        _require(len(self.val_tiles) > 0, "data.val_tiles", "needs at least one tile", "none")


@dataclass(frozen=True)
class ModelConfig:
    """The network and its sampler.

    Attributes:
        segmenter: Name in the registry of segmenters, e.g. ``lite0`` or ``hrnet_w48``.
        pretrained: Weights file of the encoder; ``auto`` takes the one that an installed package
            brings (``lite0`` only), ``none`` starts from random weights.
        sampler: ``joint`` learns the density with the edge loss, ``single`` with the segmentation
            loss alone, ``uniform`` samples evenly and learns no density.
        sizes: Sides of the sampled image; each batch draws one, so one model serves them all.
        default_size: Side that the model file declares as its default, also the one validated.
            The largest of ``sizes`` where it is not given.
        low_res: Side of the low-resolution view and of the density.
        sigma: Standard deviation of the grid's kernel in pixels of the density.
        sample_mode: How source pixels become a sample: ``area`` averages them (mip-mapped),
            ``bilinear`` reads points.
        uniform_share: Share of batches that a learned sampler trains with uniform sampling, so
            that the model serves both; a half where it is not given.
    """

    segmenter: str = "lite0"
    pretrained: str = "auto"
    sampler: Literal["joint", "single", "uniform"] = "joint"
    sizes: tuple[int, ...] = (64, 96, 128)
    default_size: int | None = None
    low_res: int = 64
    sigma: float = 4.0
    sample_mode: Literal["area", "bilinear"] = "area"
    uniform_share: float | None = None

    def __post_init__(self) -> None:
        _require(len(self.sizes) > 0, "model.sizes", "needs at least one size", "none")
        for size in (*self.sizes, self.size):
            _require(8 <= size <= 4096, "model.sizes", "must lie in 8…4096", size)
        _require(8 <= self.low_res <= 1024, "model.low_res", "must lie in 8…1024", self.low_res)
        _require(self.sigma > 0, "model.sigma", "must be positive", self.sigma)
        if self.uniform_share is not None:
            _require(
                0 <= self.uniform_share <= 1,
                "model.uniform_share",
                "must lie in 0…1",
                self.uniform_share,
            )
            _require(
                self.sampler != "uniform",
                "model.uniform_share",
                "has no effect with the uniform sampler; leave it out",
                self.uniform_share,
            )

    @property
    def uniform_part(self) -> float:
        """Share of the batches that a learned sampler trains with uniform sampling."""
        if self.sampler == "uniform":
            return 0.0
        return 0.5 if self.uniform_share is None else self.uniform_share

    @property
    def size(self) -> int:
        """The default size: what is asked for, else the largest trained one."""
        return max(self.sizes) if self.default_size is None else self.default_size


@dataclass(frozen=True)
class LossConfig:
    """What training minimises: ``segmentation + gamma · edge`` (the paper's joint loss).

    Attributes:
        kind: ``focal`` or ``cross_entropy``.
        focal_gamma: The focal loss's exponent; 0 is the cross-entropy.
        class_weights: ``none``, ``sqrt`` (one over the root of a class's frequency in the training
            scenes) or ``inverse`` (one over it); their mean over the classes is 1.
        gamma: Weight γ of the edge loss; only the joint sampler uses it.
        edge_blur: Blur δ of the edge target, in pixels of the density.
        edge_share: 0: the paper's edge loss, the mean squared difference of both maps stretched to
            0…1, which says nothing about contrast. Above 0: the divergence from a density that puts
            this share of the samples at the edges; γ of 1 to 10 fits it.
        jacobian: Whether a sample's loss counts by the source area that it stands for, which makes
            the loss that of the full resolution.
    """

    kind: Literal["focal", "cross_entropy"] = "focal"
    focal_gamma: float = 1.0
    class_weights: Literal["none", "sqrt", "inverse"] = "sqrt"
    gamma: float = 10.0
    edge_blur: float = 1.0
    edge_share: float = 0.75
    jacobian: bool = True

    def __post_init__(self) -> None:
        _require(self.focal_gamma >= 0, "loss.focal_gamma", "must be ≥ 0", self.focal_gamma)
        _require(self.gamma >= 0, "loss.gamma", "must not be negative", self.gamma)
        _require(self.edge_blur >= 0, "loss.edge_blur", "must not be negative", self.edge_blur)
        _require(0 <= self.edge_share < 1, "loss.edge_share", "must lie in 0…1", self.edge_share)


@dataclass(frozen=True)
class OptimConfig:
    """How it is minimised.

    Attributes:
        steps: Optimiser steps in all.
        batch_size: Windows a step.
        optimiser: ``adamw`` or ``adam`` (the paper's).
        lr: Highest learning rate.
        weight_decay: Of all parameters but biases and normalisation.
        schedule: ``cosine`` to zero, ``step`` (×0.1 at 60 % and at 85 % of the steps) or
            ``constant``; each after the warm-up.
        warmup: Steps of linear rise.
        clip: Largest norm of the gradient, 0 for no limit.
        ema: Decay of the weights' moving average, which validation and the model file use; 0 for
            none.
    """

    steps: int = 3500
    batch_size: int = 16
    optimiser: Literal["adamw", "adam"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: int = 150
    clip: float = 0.0
    ema: float = 0.998

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "optim.steps", "must be at least 1", self.steps)
        # BatchNorm needs two values a channel at the coarsest level, whatever the size.
        _require(self.batch_size >= 2, "optim.batch_size", "must be at least 2", self.batch_size)
        _require(self.lr > 0, "optim.lr", "must be positive", self.lr)
        _require(self.weight_decay >= 0, "optim.weight_decay", "must be ≥ 0", self.weight_decay)
        _require(self.warmup >= 0, "optim.warmup", "must not be negative", self.warmup)
        _require(self.clip >= 0, "optim.clip", "must not be negative", self.clip)
        _require(0 <= self.ema < 1, "optim.ema", "must lie in 0…1 (below 1)", self.ema)


@dataclass(frozen=True)
class RunConfig:
    """Where it runs, what it writes, how often it looks at itself.

    Attributes:
        out: The run's folder.
        seed: Of the weights and of every window drawn.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        val_every: Steps between validations.
        val_windows: Most windows of a validation, spread evenly over the held-out tiles.
        checkpoint_every: Steps between saves of the last state, for ``--resume``.
        export: Which weights the model file gets: ``last``, or ``best`` by full-resolution
            validation mIoU (which then is no longer a held-out figure).
    """

    out: str = "runs/dubai"
    seed: int = 0
    device: str = "auto"
    val_every: int = 500
    val_windows: int = 12
    checkpoint_every: int = 100
    export: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        _require(self.val_every >= 1, "run.val_every", "must be at least 1", self.val_every)
        _require(self.val_windows >= 1, "run.val_windows", "must be at least 1", self.val_windows)
        _require(
            self.checkpoint_every >= 1,
            "run.checkpoint_every",
            "must be at least 1",
            self.checkpoint_every,
        )


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
            ConfigError: If the file is missing, is no YAML mapping, or a setting does not fit.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"Cannot read the config {path}: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{path} is not a text file in UTF-8; give a YAML recipe such as dubai.yaml."
            ) from error
        except (yaml.YAMLError, ValueError) as error:  # ValueError: dates that do not exist
            raise ConfigError(
                f"{path} is not valid YAML: {' '.join(str(error).split())}."
            ) from error
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path} must hold sections such as 'data:' and 'model:'.")
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain dictionaries (lists, not tuples): YAML- and JSON-ready."""
        return {
            section.name: {
                key: list(value) if isinstance(value, tuple) else value
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
    if origin is types.UnionType:  # only `X | None` is used
        return None if value is None else _convert(parts[0], value, key)
    if origin is Literal:
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
        names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise ConfigError(f"Setting '{key}' must be {names[hint]}, got {value!r}.")
    return value
