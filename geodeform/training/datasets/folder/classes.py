"""What ids, colours and names in labels mean."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodeform.classes import NODATA_CLASS, RGB, ClassScheme, distinct_colours, to_hex
from geodeform.errors import ConfigError, DatasetError
from geodeform.models.spec import nearest_names

_LOG = logging.getLogger(__name__)

_UNKNOWN_WORDS = {"unknown", "unlabelled", "unlabeled", "void", "ignore", "ignored", "nodata"}

Key = int | str
"""What a label column or a mask holds: an id, or a name."""


@dataclass(frozen=True)
class ClassRow:
    """A row of a file of classes.

    Attributes:
        name: Of the class.
        id: Its value in masks or label columns; None where it is known by name or colour.
        colour: In maps and, where masks are coloured, in masks; None where it is not given.
        ignore: Whether it means "unknown".
        background: Whether ground without a polygon is of this class.
    """

    name: str
    id: int | None = None
    colour: RGB | None = None
    ignore: bool = False
    background: bool = False


class Legend:
    """What the ids, colours or names in the labels of a folder mean.

    Classes are in the order of their ids, or in that of the rows where they have none.

    Args:
        rows: Classes and what is to be ignored.
        where: How messages call the place where they are listed.

    Attributes:
        scheme: The classes; those without a colour get one by :func:`distinct_colours`.
        background: Class of ground without a polygon, 255 where there is none.

    Raises:
        DatasetError: If there is no class, or two have the same name, id or colour.
    """

    def __init__(self, rows: Sequence[ClassRow], where: str) -> None:
        self.where = where
        self.rows = [row for row in rows if not row.ignore]
        self.ignored = [row for row in rows if row.ignore]
        if self.rows and all(row.id is not None for row in self.rows):
            self.rows.sort(key=lambda row: row.id or 0)
        self._check()
        given = [row.colour for row in self.rows if row.colour is not None]
        fresh = iter(distinct_colours(len(self.rows) - len(given), given))
        try:
            self.scheme = ClassScheme(
                tuple(row.name for row in self.rows),
                tuple(row.colour or next(fresh) for row in self.rows),
            )
        except ConfigError as error:
            raise DatasetError(f"{where}: {error}") from error
        grounds = [k for k, row in enumerate(self.rows) if row.background]
        self.background = grounds[0] if grounds else NODATA_CLASS

    def _check(self) -> None:
        if not self.rows:
            raise DatasetError(f"{self.where} lists no class; list at least two.")
        if len(self.rows) > NODATA_CLASS:
            raise DatasetError(
                f"{self.where} lists {len(self.rows)} classes; a map holds 255 at most: join some."
            )
        every = [*self.rows, *self.ignored]
        for what, values in (
            ("name", [row.name for row in every]),
            ("id", [row.id for row in every if row.id is not None]),
            ("colour", [row.colour for row in every if row.colour is not None]),
        ):
            twice = [value for value, count in Counter[Any](values).items() if count > 1]
            if twice:
                shown = to_hex(twice[0]) if what == "colour" else twice[0]
                raise DatasetError(
                    f"{self.where} has two classes of the {what} {shown}; give each its own."
                )
        grounds = [row.name for row in every if row.background]
        if len(grounds) > 1:
            raise DatasetError(
                f"{self.where} has two backgrounds, {' and '.join(grounds[:2])}; keep one."
            )
        if len({row.id is None for row in self.rows}) > 1:
            missing = next(row.name for row in self.rows if row.id is None)
            raise DatasetError(
                f"{self.where} gives ids, but none for the class '{missing}'; give it its own."
            )

    def warn_if_single(self) -> None:
        """Log a warning where there is one class only: nothing can be learnt from it."""
        if len(self.rows) == 1:
            _LOG.warning(
                "%s: '%s' is the only class, so there is nothing to tell apart; list a second one "
                "in a file of classes (255 is unknown unless listed there; for polygons, one with "
                "background = true).",
                self.where,
                self.rows[0].name,
            )

    def encode_ids(
        self, values: NDArray[Any], known: NDArray[np.bool_], where: str
    ) -> NDArray[np.uint8]:
        """Turn ids into classes.

        Args:
            values: (h, w) ids of any real type.
            known: (h, w) which pixels hold one; the others become 255.
            where: What the mask is called in the error.

        Raises:
            DatasetError: If an id is not listed, or there are no ids to compare with.
        """
        if self.rows[0].id is None:
            raise DatasetError(
                f"{where} holds one band of ids, but {self.where} has none; add a column id."
            )
        table = {row.id: k for k, row in enumerate(self.rows)}
        table |= {row.id: NODATA_CLASS for row in self.ignored if row.id is not None}
        table.setdefault(NODATA_CLASS, NODATA_CLASS)
        ids = np.array(sorted(key for key in table if key is not None), np.int64)
        targets = np.array([table[key] for key in ids.tolist()], np.uint8)
        if values.dtype == np.uint8:  # through a table: the frequent case, and the fast one
            classes, found = _look_up(np.arange(256), ids, targets)
            classes, found = classes[values], found[values]
        else:
            classes, found = _look_up(values, ids, targets)
        strange = known & ~found
        if strange.any():
            raise DatasetError(
                f"{where} has pixels of the unlisted id {float(values[strange][0]):g}; list it in "
                f"{self.where}, as a class or with ignore = true."
            )
        classes[~known] = NODATA_CLASS
        return classes

    def encode_colours(
        self, values: NDArray[np.uint8], known: NDArray[np.bool_], where: str
    ) -> NDArray[np.uint8]:
        """Turn (h, w, 3) colours into classes; see :meth:`encode_ids`.

        Raises:
            DatasetError: If a colour is not listed, or a class has none.
        """
        missing = [row.name for row in self.rows if row.colour is None]
        if missing:
            raise DatasetError(
                f"{where} is a coloured mask, but the class '{missing[0]}' has no colour in "
                f"{self.where}; list the masks' colours there, or give masks of one band of ids."
            )
        ignore = tuple(row.colour for row in self.ignored if row.colour is not None)
        filler = self.scheme.colours[0]  # hidden pixels may have any colour
        shown = np.where(known[..., None], values, np.array(filler, np.uint8))
        classes = self.scheme.encode_rgb(shown, ignore=ignore, where=where)
        classes[~known] = NODATA_CLASS
        return classes

    def encode_key(self, key: Key, where: str) -> int:
        """Class of a label in a column of polygons: by name, else by id.

        Raises:
            DatasetError: If it is neither.
        """
        every = [*enumerate(self.rows), *((NODATA_CLASS, row) for row in self.ignored)]
        number = int(key) if is_whole(str(key)) else None
        by_name = [k for k, row in every if row.name == str(key)]
        by_id = [k for k, row in every if row.id is not None and row.id == number]
        # a number is an id first, a text a name first
        found = by_id + by_name if isinstance(key, int) else by_name + by_id
        if found:
            return found[0]
        names = [row.name for _, row in every]
        raise DatasetError(
            f"{where} has the class '{key}', which is not listed in "
            f"{self.where}{nearest_names(str(key), names)}; listed are {', '.join(names)}."
        )


def _look_up(
    values: NDArray[Any], ids: NDArray[np.int64], targets: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Targets of values among sorted ids, and which values are among them."""
    place = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
    return targets[place], np.asarray(ids[place] == values)


def means_unknown(name: str) -> bool:
    """Whether a name says that nothing is known."""
    return name.lower().replace(" ", "") in _UNKNOWN_WORDS


def is_whole(text: str) -> bool:
    """Whether a text is a whole number, as ids are."""
    return text.strip().removeprefix("-").isdecimal()
