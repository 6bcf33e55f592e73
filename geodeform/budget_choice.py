"""Choosing a budget: what fits into a time, or what makes a map sure enough.

Both look at a few windows of the scene, as :func:`geodeform.estimate` does, and write nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from geodeform.budget import MOST_SAMPLES, Budget
from geodeform.errors import ConfigError
from geodeform.pipeline import Estimate, estimate
from geodeform.run import PathLike, begin_run

_PROBED = (0.001, 0.01, 0.05, 0.25, 1.0)  # shares of the pixels; time is straight between them
_LADDER = tuple(round(0.001 * 1.6**k, 4) for k in range(15))  # up to 0.72
_WINDOWS = 16


def budget_for_time(source: PathLike | xr.DataArray, seconds: float, **settings: Any) -> Budget:
    """Return the largest budget whose run is estimated to take no longer.

    Time for polygons, reports and other outputs beside the rasters is not in the estimate.

    Args:
        source: As for :func:`geodeform.segment_scene`.
        seconds: Wall-clock.
        **settings: Those of :func:`geodeform.estimate`, without ``budget``.

    Returns:
        A share of the pixels; no larger than one at which a window has
        :data:`geodeform.budget.MOST_SAMPLES`.

    Raises:
        ConfigError: If even the smallest budget is estimated to take longer.
        GeodeformError: As :func:`geodeform.estimate`.
    """
    if not seconds > 0:
        raise ConfigError(f"The time limit must be more than 0 seconds, not {seconds:g}.")
    probed: list[Estimate] = []
    for share in _PROBED:
        if len(probed) > 1 and _line(probed, seconds) < share:
            break  # it would take longer than it may: the line says enough
        if probed:
            plan = probed[-1].plan
            if math.prod(plan.sample_size) * share / plan.share > MOST_SAMPLES:
                return _rounded(plan.share)
        probed.append(estimate(source, budget=share, **settings))
        if probed[-1].seconds > seconds:
            break
    first = probed[0]
    if first.seconds > seconds:
        raise ConfigError(
            f"{first.plan.scene} takes about {first.seconds:.1f} s at a budget of {_PROBED[0]:.1%} "
            f"on {first.device}: allow more time, or map a part of it (--bbox, --aoi)."
        )
    return _rounded(min(1.0, _line(probed, seconds)))


def _line(probed: list[Estimate], seconds: float) -> float:
    """The share that takes so long, on the straight line through the last two estimates."""
    one, other = probed[-2:]
    slope = (other.seconds - one.seconds) / (other.plan.share - one.plan.share)
    if slope <= 0:  # of a few windows more samples cost nothing that can be measured
        return math.inf if seconds >= other.seconds else one.plan.share
    return one.plan.share + (seconds - one.seconds) / slope


def budget_for_confidence(
    source: PathLike | xr.DataArray, confidence: float, **settings: Any
) -> Budget:
    """Return the smallest budget at which a map's mean confidence reaches a value.

    Args:
        source: As for :func:`geodeform.segment_scene`.
        confidence: Mean over the pixels, 0…1.
        **settings: Those of :func:`geodeform.run.begin_run`, without ``budget``.

    Returns:
        A share of the pixels, from 0.1 % upwards in steps of 1.6.

    Raises:
        ConfigError: If no budget up to 72 % of the pixels reaches it.
        GeodeformError: For bad input or settings.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"The confidence must lie between 0 and 1, not {confidence:g}.")
    settings = {"model": None, "device": "auto", "bands": None, "nodata": None, **settings}
    best = (0.0, 0.0)
    for share in _LADDER:
        reached = _mean_confidence(source, share, settings)
        if reached is None:  # nothing to be sure of, which the run will say
            return Budget("share", _LADDER[0])
        if reached >= confidence:
            return Budget("share", share)
        best = max(best, (reached, share))
    raise ConfigError(
        f"No budget reaches a mean confidence of {confidence:.1%}: the best is {best[0]:.1%}, at "
        f"{best[1]:.1%} of the pixels. Ask for less."
    )


def _mean_confidence(
    source: PathLike | xr.DataArray, share: float, settings: dict[str, Any]
) -> float | None:
    """Mean confidence of the pixels of a few windows; None where they have no data."""
    with begin_run(source, budget=share, **settings) as run:
        if math.prod(run.plan.sample_size) > MOST_SAMPLES:
            return 0.0
        total = pixels = 0.0
        with run.predictor() as predictor:
            for index, prediction in predictor.predict(run.plan.some_windows(_WINDOWS)):
                if prediction is None:
                    continue
                height, width = run.plan.window_size
                _, sure = prediction.labels((0, height), (0, width))
                known = run.plan.known(run.scene, run.plan.windows[index])
                total += float(sure[known].sum(dtype=np.int64)) / 255
                pixels += int(known.sum())
    return total / pixels if pixels else None


def _rounded(share: float) -> Budget:
    """A share of three digits, rounded down, as people read it."""
    digits = 2 - math.floor(math.log10(share))
    return Budget("share", math.floor(share * 10**digits) / 10**digits)
