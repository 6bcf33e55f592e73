"""Budget: how many pixels of a scene may be sampled, in any of the three ways users say it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from geodeform.errors import ConfigError

_SHARE = re.compile(r"^(\d+(?:\.\d+)?)\s*%$")
_SIDE = re.compile(r"^(\d+)(?:\s*x\s*(\d+))?$")
_TOTAL = re.compile(r"^(\d+(?:\.\d+)?)\s*(k|m|g)px?$", re.IGNORECASE)
_FACTOR = {"k": 1e3, "m": 1e6, "g": 1e9}
BY_NEED = " by need"
"""What is said after a sampler whose windows get what they need."""

MOST_SAMPLES = 1 << 20
"""Samples of a window that looks for a budget put through a network at once, 1 GiB and more."""

_MIN_SIDE = 8  # fewer samples a side than this leave a network nothing to look at


@dataclass(frozen=True)
class Budget:
    """A number of sampled pixels.

    Attributes:
        kind: ``"share"`` of the scene's pixels (0…1], ``"window"``: samples in one full window
            of the model, or ``"total"`` samples over the scene.
        value: The number that belongs to ``kind``.
    """

    kind: Literal["share", "window", "total"]
    value: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise ConfigError(f"A budget must be more than nothing, not {self.value:g}.")
        if self.kind == "window" and self.value < _MIN_SIDE**2:
            raise ConfigError(
                f"A window needs at least {_MIN_SIDE}x{_MIN_SIDE} samples, got {self.value:g}."
            )
        if self.kind == "share" and self.value > 1:
            raise ConfigError(f"A budget cannot exceed 100% of the pixels, got {self.value:.0%}.")

    @classmethod
    def parse(cls, text: str | float | Budget) -> Budget:
        """Read a budget as users write it.

        ``"1.5%"`` is a share of the scene's pixels (as is a float of at most 1), ``"128"`` or
        ``"128x96"`` the samples of one full window (128² or 128·96), ``"2MP"`` (``kP``, ``MP``,
        ``GP``) a total.

        Raises:
            ConfigError: If the text is none of these.

        >>> Budget.parse("1.5%")
        Budget(kind='share', value=0.015)
        >>> Budget.parse("128")
        Budget(kind='window', value=16384)
        >>> Budget.parse("2MP")
        Budget(kind='total', value=2000000.0)
        """
        if isinstance(text, Budget):
            return text
        if isinstance(text, float):
            return cls("share", text)
        word = str(text).strip()
        if match := _SHARE.match(word):
            return cls("share", float(match[1]) / 100)
        if match := _SIDE.match(word):
            return cls("window", int(match[1]) * int(match[2] or match[1]))
        if match := _TOTAL.match(word):
            return cls("total", float(match[1]) * _FACTOR[match[2].lower()])
        raise ConfigError(
            f"Cannot read the budget '{word}': write a share such as 1.5%, "
            "samples a window such as 128 (for 128x128), or a total such as 2MP."
        )

    def __str__(self) -> str:
        if self.kind == "share":
            return f"{100 * self.value:g}%"
        if self.kind == "window":
            side = math.isqrt(round(self.value))
            square = side * side == round(self.value)
            return f"{side}x{side} a window" if square else f"{self.value:g} a window"
        return f"{self.value / 1e6:g}MP"

    def sample_size(
        self,
        window: tuple[int, int],
        *,
        full_window: tuple[float, float],
        windows: int,
        scene_pixels: int,
    ) -> tuple[int, int]:
        """Sampled image size (h, w) of every window.

        Args:
            window: Window size (H, W) in scene pixels.
            full_window: The model's window (H, W) in scene pixels; ``window`` is smaller where
                the scene is smaller, and then gets its part of a per-window budget.
            windows: Number of windows that will be sampled; overlaps count as often as they are
                sampled, so the whole scene stays within a share or total.
            scene_pixels: Pixels of the mapped region.

        Returns:
            (h, w) with the window's aspect, at least 8 a side (more than a tiny budget) and at
            most the window itself; all windows together sample at most the scene's pixels.
        """
        H, W = window
        if self.kind == "window":
            samples = self.value * (H * W) / (full_window[0] * full_window[1])
        else:
            total = self.value * scene_pixels if self.kind == "share" else self.value
            samples = total / windows
        # Overlapping windows of a coarse scene could sample more pixels than there are.
        scale = math.sqrt(min(samples, scene_pixels / windows) / (H * W))
        # Floors keep the promise "no more than the budget"; the small minimum may break it, and
        # the share that was really sampled is reported.
        h, w = (max(_MIN_SIDE, math.floor(side * scale + 1e-9)) for side in (H, W))
        return min(h, H), min(w, W)


def within_sides(shape: tuple[int, int], sides: tuple[int, int]) -> tuple[int, int]:
    """Sampled size of an image of any shape: the paper's rule for images of varying size (A.6).

    Of "the short side becomes the budget's short side" and "the long side becomes the budget's long
    side", both keeping the aspect ratio, the one with fewer pixels. The other side is rounded down,
    which is what the paper's example does: 368×7986 gives 36×800, from 36.9. (The other candidate
    of that example, printed as 40×868, follows from a short side of 40; of 80 it is 80×1736, with
    the same outcome.) An image is never enlarged, and no side is below 1.

    Args:
        shape: (height, width) of the image in pixels, in either orientation.
        sides: The budget's two sides in pixels, in any order.

    Returns:
        (height, width) in the image's orientation.

    Raises:
        ConfigError: If a side is below 1.

    >>> within_sides((368, 7986), (80, 800)), within_sides((7986, 368), (80, 800))
    ((36, 800), (800, 36))
    >>> within_sides((2000, 4000), (80, 800))
    (80, 160)
    """
    if min(*shape, *sides) < 1:
        raise ConfigError(
            f"An image of {shape[0]} x {shape[1]} px cannot be sampled at {sides[0]} x "
            f"{sides[1]} px: sides must be at least 1."
        )
    short, long = sorted(shape)
    short_budget, long_budget = sorted(sides)
    by_short = (short_budget, long * short_budget // short)
    by_long = (max(1, short * long_budget // long), long_budget)
    best = min(by_short, by_long, key=lambda size: size[0] * size[1])
    fitting = (min(best[0], short), min(best[1], long))
    return fitting if shape[0] <= shape[1] else (fitting[1], fitting[0])


def view_size(
    low_res: tuple[int, int], window: tuple[int, int], full_window: tuple[float, float]
) -> tuple[int, int]:
    """Size of the low-resolution view of a window that is smaller than the model's.

    Args:
        low_res: View (hd, wd) of the model's window.
        window: Window (H, W).
        full_window: The model's window (H, W) in the same pixels.

    Returns:
        (hd, wd) in proportion, at least 8 a side and at most the window.
    """
    height, width = (
        min(max(_MIN_SIDE, round(n * part / whole)), part)
        for n, part, whole in zip(low_res, window, full_window, strict=True)
    )
    return height, width
