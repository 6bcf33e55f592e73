"""ClassScheme: what the numbers of a class raster mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodeform.errors import ConfigError, DatasetError

NODATA_CLASS = 255
"""Value of pixels without a class, in every class raster and every label array: never a class."""

RGB = tuple[int, int, int]

# M. Okabe, K. Ito, Color Universal Design, 2008; black last, as it looks like no data
_OKABE_ITO: tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (0, 0, 0),
)


def to_hex(colour: RGB) -> str:
    """``#RRGGBB``.

    >>> to_hex((255, 0, 16))
    '#FF0010'
    """
    return "#{:02X}{:02X}{:02X}".format(*colour)


def from_hex(colour: str) -> RGB:
    """The reverse of :func:`to_hex`.

    >>> from_hex("#FF0010")
    (255, 0, 16)
    """
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def distinct_colours(n: int, taken: Sequence[RGB] = ()) -> list[RGB]:
    """Choose n colours that are not taken: the colour-blind-safe ones of Okabe and Ito first.

    They are eight; matplotlib's qualitative maps of 20 colours follow, then steps through turbo.
    That is enough for 255 classes, the taken ones among them.

    >>> distinct_colours(2, taken=[(230, 159, 0)])
    [(86, 180, 233), (0, 158, 115)]
    """
    every = dict.fromkeys(chain(_OKABE_ITO, _map_colours()))
    return [colour for colour in every if colour not in taken][:n]


def _map_colours() -> Iterator[RGB]:
    """Colours of matplotlib's maps; of turbo, neighbours in turn are far apart."""
    from matplotlib import colormaps  # slow to import, and seldom needed

    steps = {name: range(20) for name in ("tab20", "tab20b", "tab20c")}
    for name, levels in {**steps, "turbo": (97 * k % 256 for k in range(256))}.items():
        for level in levels:
            r, g, b, _ = colormaps[name](level, bytes=True)
            yield int(r), int(g), int(b)


@dataclass(frozen=True)
class ClassScheme:
    """Ids, names and colours of the classes that a model predicts.

    A network's channel ``k`` predicts class ``k``: ids are 0…n-1 by position. Labels of unknown
    pixels are :data:`NODATA_CLASS` (255) everywhere.

    Attributes:
        names: One name a class, in channel order.
        colours: One (red, green, blue) a class, each 0…255.
    """

    names: tuple[str, ...]
    colours: tuple[RGB, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= NODATA_CLASS:
            raise ConfigError(f"A class scheme needs 1 to 255 classes, not {len(self.names)}.")
        if len(self.names) != len(self.colours):
            raise ConfigError(
                f"A class scheme has {len(self.names)} names but {len(self.colours)} colours."
            )
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"Class names must differ, got {', '.join(self.names)}.")
        if any(len(c) != 3 or not all(0 <= v <= 255 for v in c) for c in self.colours):
            raise ConfigError("Class colours must be three values of 0 to 255 each.")

    def __len__(self) -> int:
        return len(self.names)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form; :meth:`from_dict` reads it back."""
        return {"names": list(self.names), "colours": [list(c) for c in self.colours]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClassScheme:
        """Build from :meth:`to_dict`'s form.

        Raises:
            ConfigError: If names or colours are missing or do not fit together.
        """
        try:
            names = tuple(str(n) for n in data["names"])
            colours = tuple((int(r), int(g), int(b)) for r, g, b in data["colours"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"A class scheme needs 'names' and 'colours' ({error}).") from error
        return cls(names, colours)

    def palette(self) -> NDArray[np.uint8]:
        """Return (256, 3) RGB: the classes' colours, black elsewhere."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colours
        return table

    def encode_rgb(
        self, mask: NDArray[np.uint8], *, ignore: tuple[RGB, ...] = (), where: str = "mask"
    ) -> NDArray[np.uint8]:
        """Turn a coloured mask into class ids.

        Args:
            mask: (H, W, 3) RGB.
            ignore: Colours that mean "unknown" and become :data:`NODATA_CLASS`.
            where: What the mask is called in the error, normally its path.

        Returns:
            (H, W) ids of 0…n-1, or 255 where ignored.

        Raises:
            DatasetError: If a pixel has a colour that is neither a class nor ignored; an unlisted
                colour never becomes a class in silence.
        """
        packed = mask.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        labels = np.full(mask.shape[:2], NODATA_CLASS, np.uint8)
        known = np.zeros(mask.shape[:2], bool)
        for value, (r, g, b) in [*enumerate(self.colours), *((NODATA_CLASS, c) for c in ignore)]:
            hit = packed == (r << 16 | g << 8 | b)
            labels[hit] = value
            known |= hit
        if not known.all():
            strange = int(packed[~known][0])
            count = int((~known).sum())
            raise DatasetError(
                f"{where} has {count} pixels of unlisted colours such as #{strange:06X}; "
                "list the colour as a class or as ignored."
            )
        return labels
