"""Choosing a budget: what fits into a time, or what makes a map sure enough.

Both look at a few windows of the scene, as :func:`geodeform.estimate` does, and write nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from geodeform.budget import Budget
from geodeform.errors import ConfigError
from geodeform.pipeline import estimate
from geodeform.run import PathLike, begin_run

_PROBED = (0.001, 0.01, 0.05, 0.25, 1.0)  # shares of the pixels; time is straight between them
_LADDER = tuple(0.001 * 1.6**k for k in range(15))  # up to 0.72
_WINDOWS = 16


def budget_for_time(source: PathLike | xr.DataArray, seconds: float, **settings: Any) -> Budget:
    """Return the largest budget whose run is estimated to take no longer.

    Time for polygons, reports and other outputs beside the rasters is not in the estimate.

    Args:
        source: As for :func:`geodeform.segment_scene`.
        seconds: Wall-clock.
        **settings: Those of :func:`geodeform.estimate`, without ``budget``.

    Returns:
        A share of the pixels.

    Raises:
        ConfigError: If even the smallest budget is estimated to take longer.
        GeodeformError: As :func:`geodeform.estimate`.
    """
    if not seconds > 0:
        raise ConfigError(f"The time limit must be more than 0 seconds, not {seconds:g}.")
    below = None
    for share in _PROBED:
        above = estimate(source, budget=share, **settings)
        if above.seconds > seconds:
            break
        below = above
    else:
        return Budget("share", 1.0)
    if below is None:
        raise ConfigError(
            f"{above.plan.scene} takes about {above.seconds:.1f} s at a budget of {_PROBED[0]:.1%} "
            f"on {above.device}: allow more time, or map a part of it (--bbox, --aoi)."
        )
    part = (seconds - below.seconds) / (above.seconds - below.seconds)
    return _rounded(below.plan.share + part * (above.plan.share - below.plan.share))


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
        if reached >= confidence:
            return _rounded(share)
        best = max(best, (reached, share))
    raise ConfigError(
        f"No budget reaches a mean confidence of {confidence:.1%}: the best is {best[0]:.1%}, at "
        f"{best[1]:.1%} of the pixels. Ask for less."
    )


def _mean_confidence(
    source: PathLike | xr.DataArray, share: float, settings: dict[str, Any]
) -> float:
    """Mean confidence of the pixels of a few windows."""
    with begin_run(source, budget=share, **settings) as run:
        active = run.plan.active
        picks = np.unique(np.linspace(0, len(active) - 1, _WINDOWS).round().astype(int))
        total = pixels = 0.0
        with run.predictor() as predictor:
            for index, prediction in predictor.predict([active[k] for k in picks]):
                if prediction is None:
                    continue
                height, width = run.plan.window_size
                _, sure = prediction.labels((0, height), (0, width))
                known = run.plan.known(run.scene, run.plan.windows[index])
                total += float(sure[known].sum(dtype=np.int64)) / 255
                pixels += int(known.sum())
    return total / pixels if pixels else 0.0


def _rounded(share: float) -> Budget:
    """A share of three digits, rounded down, as people read it."""
    digits = 2 - math.floor(math.log10(share))
    return Budget("share", math.floor(share * 10**digits) / 10**digits)
