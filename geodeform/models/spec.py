"""ModelSpec: everything about a model but its weights. Never imports torch, so reading it is cheap.

The spec travels inside the model file (see :mod:`geodeform.models.model_file`) as JSON; the command
line and the pipeline read it to plan windows, bands and budgets before any tensor is loaded.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from geodeform.classes import ClassScheme
from geodeform.errors import ConfigError, ModelFileError

FORMAT_VERSION = 1
"""Version of the JSON that this geodeform writes, and the newest that it reads."""

ARCHITECTURES: dict[str, str] = {
    "lite0": "EfficientNet-Lite0 with a light U-Net decoder; small and fast, the CPU default",
    "hrnet_w18": "HRNetV2-W18",
    "hrnet_w48": "HRNetV2-W48, the paper's network",
    "pspnet_resnet50": "PSPNet on a ResNet-50 dilated to stride 8, the paper's check on Cityscapes",
}
"""Registered segmenters and what they are; any ``smp:ARCH:ENCODER`` is accepted beside them."""

SMP_PREFIX = "smp:"

Sampler = Literal["learned", "uniform", "interpolation", "oracle"]
"""How a window is sampled: where a trained downsampler says, evenly, by a learned resizer, or where
its labels have edges (which only an evaluation can). Of a fixed density "learned" means measured on
the training labels: it is the same for every window, and never sees labels of what it samples."""

Downsampler = Literal["none", "density", "grid", "resizer", "oracle", "fixed"]
"""What a model has to sample with: nothing (uniform), a density net (the paper's), a grid net
(Marin et al. 2019), a resizer (Talebi & Milanfar 2021), the labels (edge-based, simulated), or one
density for every window, the mean of what the training labels ask for."""

SAMPLERS_OF: dict[Downsampler, tuple[Sampler, ...]] = {
    "none": ("uniform",),
    "density": ("learned", "uniform"),
    "grid": ("learned", "uniform"),
    "resizer": ("interpolation",),
    "oracle": ("oracle", "uniform"),
    "fixed": ("learned", "uniform"),
}
"""Samplers that a model can be used with, its own first."""

Sizing = Literal["area", "sides"]
SampleMode = Literal["area", "bilinear"]
Padding = Literal["reflect", "replicate"]
Size = tuple[int, int]


def nearest_names(name: str, known: Sequence[str]) -> str:
    """Return " (did you mean 'x'?)" for the nearest of ``known``, or an empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def check_architecture(name: str) -> None:
    """Check the form of a segmenter's name without building it.

    Raises:
        ConfigError: If the name is neither registered nor of the form ``smp:ARCH:ENCODER``.
    """
    if name in ARCHITECTURES:
        return
    if name.startswith(SMP_PREFIX) and len(name.split(":")) == 3 and all(name.split(":")):
        return
    raise ConfigError(
        f"There is no segmenter '{name}'{nearest_names(name, list(ARCHITECTURES))}; "
        f"use one of {', '.join(ARCHITECTURES)} or smp:ARCH:ENCODER, "
        "such as smp:unet:tu-mobilenetv3_small_100."
    )


@dataclass(frozen=True)
class InputScaling:
    """How raw band values become the network's input: ``(raw / max_value − mean) / std``.

    Attributes:
        max_value: Raw value that becomes 1, such as 255 for 8-bit images.
        mean: One mean a band, of ``raw / max_value``.
        std: One standard deviation a band, of ``raw / max_value``, each above 0.
    """

    max_value: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_value) and self.max_value > 0):
            raise ConfigError(f"scaling.max_value must be above 0, not {self.max_value}.")
        if len(self.mean) != len(self.std):
            raise ConfigError(
                f"scaling has {len(self.mean)} means but {len(self.std)} standard deviations."
            )
        if not all(math.isfinite(v) for v in self.mean):
            raise ConfigError(f"scaling.mean must be finite, not {self.mean}.")
        if not all(math.isfinite(v) and v > 0 for v in self.std):
            raise ConfigError(f"scaling.std must be above 0, not {self.std}.")

    def is_close(self, other: InputScaling) -> bool:
        """Whether both differ by less than a grey level of 8 bits, as rounded constants do."""
        mine, theirs = (*self.mean, *self.std), (*other.mean, *other.std)
        return (
            self.max_value == other.max_value
            and len(mine) == len(theirs)
            and all(abs(a - b) < 1 / 255 for a, b in zip(mine, theirs, strict=True))
        )


def default_scaling(architecture: str, n_bands: int, *, max_value: float = 255.0) -> InputScaling:
    """Return the scaling that the architecture's ImageNet weights were trained with.

    lite0's weights come from TensorFlow's (v − 127)/128; the running statistics of its first
    BatchNorm agree (they lie 0.15 σ² off on photographs, against 0.7 with torchvision's values).
    All others use torchvision's mean and standard deviation for red, green and blue, and their
    averages for other bands.
    """
    if architecture == "lite0":
        return InputScaling(max_value, (127 / 255,) * n_bands, (128 / 255,) * n_bands)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    kept = 3 if n_bands >= 3 else 0
    rest = n_bands - kept
    return InputScaling(
        max_value,
        mean[:kept] + (round(sum(mean) / 3, 3),) * rest,
        std[:kept] + (round(sum(std) / 3, 3),) * rest,
    )


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model but its weights.

    Sizes are (height, width) in pixels.

    Attributes:
        architecture: A registered segmenter or ``smp:ARCH:ENCODER``.
        in_channels: Bands that the networks take; equals ``len(bands)``.
        classes: What the output channels mean.
        bands: Names of the bands in input order, such as ("red", "green", "blue").
        scaling: From raw values to network input.
        gsd_m: Ground sampling distance of the training scenes in metres per pixel, or None where
            they had none.
        window_px: Window that one prediction covers, at ``gsd_m``.
        low_res_size: Low-resolution view that the density net looks at, a window.
        sample_size: Default budget: sampled pixels a full window.
        kernel_sigma: σ of equation 3's Gaussian, in density pixels.
        kernel_support: Where the kernel is cut, in multiples of σ.
        kernel_padding: How the density continues beyond the window.
        downsampler: What the model has to sample with.
        sampler: Sampler used unless the caller says otherwise, one of :data:`SAMPLERS_OF` it.
        sample_mode: "area" (mip-mapped, no aliasing) or "bilinear" (the paper's point sampling).
        sizing: How a scene smaller than a window is sampled: "area", its part of the samples by
            area, or "sides", as many as fit in ``sample_size`` with its own aspect (the paper's
            rule for images of varying size, see :func:`geodeform.budget.within_sides`).
        scale_aware: Whether the segmenter also gets how far apart the samples lie.
        error_net: Whether the model also expects its errors at every budget, which allocation over
            a scene's windows needs; see :mod:`geodeform.models.error_net`.
        density_channels: Output channels of the density net's convolutions.
        density_kernel: Side of these convolutions, odd.
        density_coords: Whether the density net gets the coordinates of its pixels too.
        density_context: Dilated convolutions by which the density net looks further, see
            :class:`geodeform.models.density_net.DensityNet`.
        density_temperature: Softmax temperature of the density; above 1 flattens it.
        edge_radius: Blur of the simulated edge density (``downsampler`` "oracle"), in its pixels.
        resizer_blocks: Residual blocks of the resizer.
        resizer_filters: Filters of the resizer.
        budgets: The sample sizes that the model was trained with.
        training_data: What it was trained on, and which part was held out.
        licence: Licence of the weights.
        metrics: Its figures by name, JSON values.
        geodeform_version: Version that wrote the file.
        description: What the model is for and where it fails, in a sentence or two.
        recipe: The resolved settings of its training, see :class:`geodeform.config.TrainConfig`;
            without the paths of the machine that it ran on.
    """

    architecture: str
    in_channels: int
    classes: ClassScheme
    bands: tuple[str, ...]
    scaling: InputScaling
    window_px: Size
    low_res_size: Size
    sample_size: Size
    kernel_sigma: float
    gsd_m: float | None = None
    kernel_support: float = 6.0
    kernel_padding: Padding = "reflect"
    downsampler: Downsampler = "density"
    sampler: Sampler = "learned"
    sample_mode: SampleMode = "area"
    sizing: Sizing = "area"
    scale_aware: bool = False
    error_net: bool = False
    density_channels: tuple[int, ...] = (24, 24, 3)
    density_kernel: int = 3
    density_coords: bool = False
    density_context: int = 0
    density_temperature: float = 1.0
    edge_radius: float = 2.0
    resizer_blocks: int = 1
    resizer_filters: int = 16
    budgets: tuple[Size, ...] = ()
    training_data: str = ""
    licence: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    geodeform_version: str = ""
    description: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_architecture(self.architecture)
        if self.in_channels < 1 or len(self.bands) != self.in_channels:
            raise ConfigError(
                f"in_channels is {self.in_channels} but {len(self.bands)} bands are named "
                f"({', '.join(self.bands) or 'none'})."
            )
        if len(self.scaling.mean) != self.in_channels:
            raise ConfigError(
                f"scaling has {len(self.scaling.mean)} means for {self.in_channels} bands."
            )
        for name in ("window_px", "low_res_size", "sample_size"):
            _check_size(name, getattr(self, name))
        for budget in self.budgets:
            _check_size("budgets", budget)
        for name in ("kernel_sigma", "kernel_support", "density_temperature", "edge_radius"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be above 0, not {value}.")
        if self.gsd_m is not None and not (math.isfinite(self.gsd_m) and self.gsd_m > 0):
            raise ConfigError(f"gsd_m must be above 0 or None, not {self.gsd_m}.")
        _check_choice("kernel_padding", self.kernel_padding, ("reflect", "replicate"))
        _check_choice("downsampler", self.downsampler, tuple(SAMPLERS_OF))
        _check_choice("sampler", self.sampler, self.samplers)
        _check_choice("sample_mode", self.sample_mode, ("area", "bilinear"))
        _check_choice("sizing", self.sizing, ("area", "sides"))
        if self.resizer_blocks < 1 or self.resizer_filters < 1:
            raise ConfigError("resizer_blocks and resizer_filters must be at least 1.")
        if not self.density_channels or min(self.density_channels) < 1:
            raise ConfigError(
                f"density_channels must be positive counts, not {self.density_channels}."
            )
        if self.density_kernel < 1 or self.density_kernel % 2 == 0:
            raise ConfigError(f"density_kernel must be odd, not {self.density_kernel}.")
        if self.density_context < 0:
            raise ConfigError(f"density_context must not be negative, not {self.density_context}.")

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """Samplers that the model can be used with, its own first."""
        return SAMPLERS_OF[self.downsampler]

    @property
    def n_classes(self) -> int:
        """Number of classes, and of output channels."""
        return len(self.classes)

    @property
    def trained_sizes(self) -> tuple[Size, ...]:
        """Sample sizes of the training: :attr:`budgets`, or the one size where it is empty."""
        return self.budgets or (self.sample_size,)

    @property
    def window_m(self) -> tuple[float, float] | None:
        """(height, width) of a window in metres, or None where the distance is unknown."""
        if self.gsd_m is None:
            return None
        return self.window_px[0] * self.gsd_m, self.window_px[1] * self.gsd_m

    @property
    def finest_spacing(self) -> float:
        """Distance in the model's pixels between the samples that lay closest in training."""
        pairs = [(self.window_px, size) for size in self.trained_sizes]
        windows, sizes = (
            self.recipe.get(section, {}).get(key, ())
            for section, key in (("data", "extra_windows"), ("model", "extra_sizes"))
        )
        pairs += zip(windows, sizes, strict=True)
        return min(math.sqrt(math.prod(window) / math.prod(size)) for window, size in pairs)

    def to_json(self) -> str:
        """Return the spec as JSON text; :meth:`from_json` reads it back to an equal spec.

        ``format_version`` comes with it, and ``window_m`` for readers other than geodeform.

        Raises:
            ConfigError: If ``metrics`` holds something that JSON cannot say, NaN included.
        """
        data = {"format_version": FORMAT_VERSION, **asdict(self)}
        data["classes"] = self.classes.to_dict()
        data["window_m"] = self.window_m
        try:
            return json.dumps(data, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"A model's metrics and recipe must be plain JSON values ({error})."
            ) from error

    @classmethod
    def from_json(cls, text: str, *, where: str = "model spec") -> ModelSpec:
        """Read :meth:`to_json`'s text.

        Args:
            text: JSON.
            where: What is read, normally the file's path, for the error.

        Raises:
            ModelFileError: If it is no JSON, of a newer version, lacks a setting, has an unknown
                one, or one is out of range.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ModelFileError(
                f"{where} has a damaged description ({error}); get the model file again."
            ) from error
        if not isinstance(data, dict):
            raise ModelFileError(f"{where} has a damaged description; get the model file again.")
        version = data.pop("format_version", None)
        if type(version) is not int or version < 1:
            raise ModelFileError(
                f"{where} has the damaged format version {version!r}; get the model file again."
            )
        if version > FORMAT_VERSION:
            raise ModelFileError(
                f"{where} has format version {version}, but this geodeform reads up to "
                f"{FORMAT_VERSION}; update geodeform."
            )
        data.pop("window_m", None)  # follows from window_px and gsd_m
        if unknown := sorted(set(data) - set(_PARSERS)):
            raise ModelFileError(
                f"{where} has the unknown setting '{unknown[0]}'; update geodeform to read it."
            )
        try:
            return cls(**{name: _PARSERS[name](value) for name, value in data.items()})
        # TypeError also when a setting is missing: the dataclass says which.
        except (ConfigError, KeyError, TypeError, ValueError, OverflowError) as error:
            detail = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise ModelFileError(
                f"{where} has a description that does not fit this geodeform: {detail}; "
                "get the model file again or train it anew."
            ) from error


def _check_size(name: str, size: Size) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(f"{name} must be (height, width) of at least 1 pixel each, not {size}.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(
            f"{name} must be one of {', '.join(choices)}, not '{value}'"
            f"{nearest_names(str(value), choices)}."
        )


def _size(value: Any) -> Size:
    height, width = value
    return int(height), int(width)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no JSON object")
    return value


def _scaling(value: Any) -> InputScaling:
    mean, std = (tuple(float(v) for v in value[key]) for key in ("mean", "std"))
    return InputScaling(float(value["max_value"]), mean, std)


# How each setting is read from JSON, which knows neither tuples nor the difference of 1 and 1.0.
_PARSERS: dict[str, Callable[[Any], Any]] = {
    "architecture": _text,
    "in_channels": int,
    "classes": ClassScheme.from_dict,
    "bands": lambda value: tuple(_text(v) for v in value),
    "scaling": _scaling,
    "window_px": _size,
    "low_res_size": _size,
    "sample_size": _size,
    "kernel_sigma": float,
    "gsd_m": lambda value: None if value is None else float(value),
    "kernel_support": float,
    "kernel_padding": _text,
    "sampler": _text,
    "downsampler": _text,
    "sample_mode": _text,
    "sizing": _text,
    "scale_aware": _truth,
    "error_net": _truth,
    "density_channels": lambda value: tuple(int(v) for v in value),
    "density_kernel": int,
    "density_coords": _truth,
    "density_context": int,
    "density_temperature": float,
    "edge_radius": float,
    "resizer_blocks": int,
    "resizer_filters": int,
    "budgets": lambda value: tuple(_size(v) for v in value),
    "training_data": _text,
    "licence": _text,
    "metrics": _object,
    "geodeform_version": _text,
    "description": _text,
    "recipe": _object,
}
