"""Class colours that stay apart for colour-blind readers too.

About one man in twelve sees red and green less apart than others do. What a pair of colours looks
like to him is simulated, and its distance taken in CIE Lab. Where a pair of a legend comes too
close, the colours' lightness and saturation are changed until none does, so that water stays blue
and vegetation green.

No library that geodeform depends on simulates this. Of Lab there is kornia's, which comes with
torchgeo and so with datasets only.

References:
    Machado, Oliveira, Fernandes: A physiologically-based model for simulation of color vision
    deficiency. IEEE Transactions on Visualization and Computer Graphics 15(6), 2009.
    CIE 15:2004, Colorimetry: L*a*b* and its Euclidean distance of 1976.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geodeform.classes import RGB, ClassScheme

Values = NDArray[np.float64]

APART = 20
"""CIE Lab distance (ΔE*ab of 1976) from which on two colours of a map are taken to stay apart."""

SIGHTS: dict[str, Values] = {
    "normal sight": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
"""What an eye makes of linear RGB, (3, 3); of the blind ones at severity 1.0 (Machado et al.)."""

_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)  # of linear sRGB (IEC 61966-2-1), for D65
_WHITE = _XYZ.sum(1)
_BEND = 6 / 29  # below it Lab's cube root is a line

_LIGHTNESSES = np.arange(15.0, 96.0, 5.0)  # darker ones have no hue to recognise
_SATURATIONS = (1.0, 0.75, 0.5)  # of a colour's own; of less a class is no longer to recognise
_MOST = 20  # classes for which colours are sought: of more there are not enough
_CHANGE = 1e-7  # weight of all changes together: far below that of one pair that is too close


@dataclass(frozen=True)
class SafeScheme:
    """What :func:`safe_scheme` found.

    Attributes:
        classes: The classes, of the names given.
        changed: Whether a colour is another than given.
        distance: Smallest CIE Lab distance of a pair of colours, of all sights.
    """

    classes: ClassScheme
    changed: bool
    distance: float

    @property
    def apart(self) -> bool:
        """Whether every pair stays apart."""
        return self.distance >= APART


def safe_scheme(classes: ClassScheme, beside: RGB) -> SafeScheme:
    """Change class colours, where some come too close, until all of them stay apart.

    Colours keep their hue (of CIE Lab). Of those that were found to be :data:`APART` in every one
    of :data:`SIGHTS`, the ones nearest to the given are taken; where none were, those whose
    smallest distance is the largest. The search is deterministic and may miss a better choice. For
    more than 20 classes none is made.

    Args:
        classes: Names and colours.
        beside: A colour that they have to stay apart from as well, such as that of no data.

    Returns:
        The classes, their colours as given where these stay apart.
    """
    own = SafeScheme(classes, False, smallest_distance([*classes.colours, beside]))
    if own.apart or len(classes) > _MOST:
        return own
    search = _Search(classes.colours, beside)
    best = own
    for target in range(APART, 0, -1):
        colours = search.run(target)
        distance = smallest_distance([*colours, beside])
        if distance > best.distance:
            best = SafeScheme(replace(classes, colours=colours), True, distance)
        if best.distance >= target:
            break
    return best


def smallest_distance(colours: Sequence[RGB], sights: Sequence[str] = tuple(SIGHTS)) -> float:
    """Return the CIE Lab distance of the two colours that come closest, ≥ 0.

    Args:
        colours: Two or more.
        sights: Of :data:`SIGHTS`, those in which they are seen.

    >>> round(smallest_distance([(214, 72, 62), (76, 153, 67)], ["normal sight"]))  # red, green
    97
    >>> round(smallest_distance([(214, 72, 62), (76, 153, 67)], ["deuteranopia"]))
    8
    """
    seen = _seen(np.array(colours), sights)
    above = np.triu_indices(len(colours), 1)
    return float(_distances(seen, seen)[above].min())


class _Search:
    """Colours of the same hues, and how far apart each two of them are.

    Args:
        colours: One a class.
        beside: Colour that none may come close to.
    """

    def __init__(self, colours: Sequence[RGB], beside: RGB) -> None:
        self._choices = [_same_hue(colour) for colour in colours]
        lab = [_lab(_linear(choices)) for choices in self._choices]
        # the first choice is the colour itself
        self._changes = [_CHANGE * ((one - one[0]) ** 2).sum(-1) for one in lab]
        seen = [_seen(choices, tuple(SIGHTS)) for choices in self._choices]
        other = _seen(np.array([beside]), tuple(SIGHTS))
        self._beside = [_distances(one, other)[:, 0] for one in seen]
        self._between = [[_distances(one, two) for two in seen] for one in seen]

    def run(self, target: float) -> tuple[RGB, ...]:
        """Choose colours of which as few pairs as possible are nearer than ``target``.

        Classes are gone through in several orders, as each leads to an optimum of its own.
        """
        alone = [c + _cost(d, target) for c, d in zip(self._changes, self._beside, strict=True)]
        pairs = [[_cost(distances, target) for distances in row] for row in self._between]
        n = len(alone)
        forward = [[*range(first, n), *range(first)] for first in range(n)]
        found = [_descend(alone, pairs, order) for one in forward for order in (one, one[::-1])]
        chosen = min(found)[1]
        return tuple(
            _rgb(choices[best]) for choices, best in zip(self._choices, chosen, strict=True)
        )


def _descend(
    alone: Sequence[Values], pairs: Sequence[Sequence[Values]], order: Sequence[int]
) -> tuple[float, list[int]]:
    """Improve the choice of one class after the other, then of every two at once, to an optimum.

    Args:
        alone: What each choice of class i costs, (choices of i,).
        pairs: What it costs beside each of class k, (choices of i, choices of k).
        order: The classes as they are gone through.

    Returns:
        The cost of a local optimum, and its choices; the first ones of all are the start.
    """
    chosen = [0] * len(order)

    def beside_rest(i: int, moved: int | None = None) -> Values:
        """Cost of each choice of a class beside the classes that stay."""
        rest = (pairs[i][k][:, chosen[k]] for k in order if k not in (i, moved))
        return np.asarray(np.sum([alone[i], *rest], axis=0))

    def total() -> float:
        between = (pairs[i][k][chosen[i], chosen[k]] for i in order for k in order if k < i)
        return float(sum(alone[i][chosen[i]] for i in order) + sum(between))

    before, now = math.inf, total()
    while now < before:
        for i in order:
            chosen[i] = int(beside_rest(i).argmin())
        for i, k in itertools.combinations(order, 2):
            both = beside_rest(i, k)[:, None] + beside_rest(k, i) + pairs[i][k]
            chosen[i], chosen[k] = (int(v) for v in divmod(both.argmin(), both.shape[1]))
        before, now = now, total()
    return now, chosen


def _cost(distances: Values, target: float) -> Values:
    """Above 1 for a pair that is nearer than the target, the more the nearer; 0 for others."""
    missing = np.maximum(0.0, target - distances)
    return np.asarray(np.where(missing > 0, 1 + missing**2, 0.0))


def _same_hue(colour: RGB) -> NDArray[np.uint8]:
    """The colour itself, then lighter, darker and duller ones of its hue, (n, 3)."""
    own = _lab(_linear(np.array(colour)))
    shares = np.arange(20, -1, -1) / 20  # of its saturation
    lab = np.empty((len(_LIGHTNESSES), len(shares), 3))
    lab[..., 0] = _LIGHTNESSES[:, None]
    lab[..., 1:] = shares[:, None] * own[1:]
    rgb = _of_lab(lab)
    shown = ((rgb > -1e-4) & (rgb < 1 + 1e-4)).all(-1)
    most = shown.argmax(1)  # the most saturated of each lightness that screens can show
    taken = [np.maximum(most, 20 - round(20 * share)) for share in _SATURATIONS]
    others = [rgb[np.arange(len(most)), at] for at in taken]
    return np.concatenate([np.array([colour], np.uint8), *map(_encoded, others)])


def _seen(colours: NDArray[np.integer], sights: Sequence[str]) -> Values:
    """(sights, n, 3) CIE Lab of colours (n, 3) as eyes see them."""
    linear = _linear(colours)
    return np.stack([_lab(np.clip(linear @ SIGHTS[sight].T, 0, 1)) for sight in sights])


def _distances(one: Values, other: Values) -> Values:
    """(n, m) distances of colours (sights, n, 3) and (sights, m, 3), the smallest of all sights."""
    return np.asarray(np.linalg.norm(one[:, :, None] - other[:, None], axis=-1).min(0))


def to_linear(srgb: ArrayLike) -> Values:
    """Linear RGB, 0…1, of sRGB of 0…1 (…, 3), by IEC 61966-2-1."""
    v = np.asarray(srgb, np.float64)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: ArrayLike) -> Values:
    """The reverse of :func:`to_linear`; what lies outside of 0…1 is clipped."""
    v = np.clip(linear, 0, 1)
    return np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)


def _linear(colours: ArrayLike) -> Values:
    """Linear RGB, 0…1, of sRGB of 0…255 (…, 3)."""
    return to_linear(np.asarray(colours, np.float64) / 255)


def _encoded(linear: Values) -> NDArray[np.uint8]:
    """The reverse of :func:`_linear`, rounded."""
    return np.round(255 * to_srgb(linear)).astype(np.uint8)


def _lab(linear: Values) -> Values:
    """CIE L*a*b* under D65 of linear RGB (…, 3)."""
    v = linear @ _XYZ.T / _WHITE
    x, y, z = np.moveaxis(np.where(v > _BEND**3, np.cbrt(v), v / (3 * _BEND**2) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _of_lab(lab: Values) -> Values:
    """The reverse of :func:`_lab`; outside of 0…1 where no screen shows it."""
    y = (lab[..., 0] + 16) / 116
    v = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    v = np.where(v > _BEND, v**3, 3 * _BEND**2 * (v - 4 / 29))
    return np.asarray((v * _WHITE) @ np.linalg.inv(_XYZ).T)


def _rgb(values: NDArray[np.uint8]) -> RGB:
    red, green, blue = (int(v) for v in values)
    return red, green, blue
