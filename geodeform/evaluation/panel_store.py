"""Panels of an earlier report, for one that is made where the networks are not.

Evaluations travel without networks (:mod:`geodeform.evaluation.campaign`), and pictures of blocks
are made from networks. So a report lists its own in ``pictures/panels.json``, with the trainings
that they show, and the next one keeps them as long as it is of the same trainings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from pathlib import Path

from geodeform.errors import ConfigError
from geodeform.evaluation.panels import Panel

PANELS = "panels.json"

_KEPT = (
    " Kept from an earlier report on these networks, as their weights are not at hand: ranks are "
    "of what that one compared."
)


def panels_json(panels: Sequence[Panel], names: Sequence[str]) -> str:
    """What :func:`kept_panels` reads.

    Args:
        panels: Of a report.
        names: Their files, beside this one.
    """
    rows = [
        {
            "file": name,
            "title": panel.title,
            "caption": panel.caption,
            "networks": list(panel.networks),
        }
        for panel, name in zip(panels, names, strict=True)
    ]
    return json.dumps({"panels": rows}, indent=1, ensure_ascii=False) + "\n"


def kept_panels(folder: Path, networks: Set[str]) -> list[Panel]:
    """Read the panels of an earlier report, as far as they are of the same trainings.

    Args:
        folder: Of its pictures.
        networks: Keys of the trainings that the report is of now.

    Returns:
        Panels, whose captions say that they are kept; none where there are none. One whose picture
        is gone is left out.

    Raises:
        ConfigError: If the list is damaged.
    """
    path = folder / PANELS
    if not path.is_file():
        return []
    try:
        rows = [
            (str(row["file"]), str(row["title"]), str(row["caption"]), tuple(row["networks"]))
            for row in json.loads(path.read_text(encoding="utf-8"))["panels"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error!r}); delete it, to go on without the pictures it lists."
        ) from error
    return [
        Panel(title, caption.removesuffix(_KEPT) + _KEPT, (folder / file).read_bytes(), drawn)
        for file, title, caption, drawn in rows
        if networks >= set(drawn) and (folder / file).is_file()
    ]
