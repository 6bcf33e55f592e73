"""A small dataset of real pixels in the published layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def small_dubai(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles 1, 2 and 7 with nine parts of 96×90 px each (one row 91), cut from real parts."""
    root = tmp_path_factory.mktemp("dubai")
    for tile, real in ((1, 2), (2, 6), (7, 8)):
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            folder = root / f"Tile {tile}" / kind
            folder.mkdir(parents=True)
            for part in range(1, 10):
                name = f"image_part_{part:03d}.{suffix}"
                height = 91 if part in (4, 5, 6) else 90
                with Image.open(shared_data / "dubai" / f"Tile {real}" / kind / name) as source:
                    cut = source.convert("RGB").crop((200, 150, 200 + 96, 150 + height))
                cut.save(folder / name, quality=95)
    return root
