"""Choosing a budget: what fits into a time, or what makes a map sure enough.

Both look at a few windows of the scene, as :func:`geodeform.estimate` does, and write nothing. They
try budgets evenly shared out; by need the same pixels are better spent, at the price of a look at
all windows, which a time limit allows for.
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
_EVENLY = {"allocation": "even", "followed": True}
"""How budgets are tried: an allocation would look at the whole scene for each."""


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
    allocation = settings.pop("allocation", None)
    # What it costs to look at all windows for an allocation does not depend on the budget, but of
    # very small ones all windows get the same, without a look: the model's own tells.
    wanted = estimate(source, budget=None, allocation=allocation, **settings)
    settings |= _EVENLY
    looking = 0.0
    if wanted.plan.sizes:
        looking = max(0.0, wanted.seconds - estimate(source, budget=None, **settings).seconds)
    even = estimate(source, budget=_PROBED[0], **settings)
    seconds -= looking
    probed = [even]
    if even.seconds > seconds:
        raise ConfigError(
            f"{even.plan.scene} takes about {even.seconds + looking:.1f} s at a budget of "
            f"{_PROBED[0]:.1%} on {even.device}: allow more time, or map a part of it (--bbox, "
            "--aoi)."
        )
    for share in _PROBED[1:]:
        if len(probed) > 1 and _line(probed, seconds) < share:
            break  # it would take longer than it may: the line says enough
        plan = probed[-1].plan
        if math.prod(plan.sample_size) * share / plan.share > MOST_SAMPLES:
            return _rounded(plan.share)
        probed.append(estimate(source, budget=share, **settings))
        if probed[-1].seconds > seconds:
            break
    return _rounded(min(1.0, _line(probed, seconds)))


def _line(probed: list[Estimate], seconds: float) -> float:
    """The share that takes so long, on the straight line through the last two estimates."""
    one, other = probed[-2:]
    more, longer = other.plan.share - one.plan.share, other.seconds - one.seconds
    # A small scene has some fewest samples; and of a few windows more may cost nothing measurable.
    if more <= 0 or longer <= 0:
        return math.inf if seconds >= other.seconds else one.plan.share
    return one.plan.share + (seconds - one.seconds) * more / longer


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
    defaults = {"model": None, "device": "auto", "bands": None, "nodata": None}
    settings = defaults | settings | _EVENLY
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
