"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Timings are noisy where cores are shared; what is tested is the answer.
settings.register_profile("geodeform", deadline=None)
settings.load_profile("geodeform")


@pytest.fixture(scope="session", autouse=True)
def decoded_scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of the whole session: tests never touch the user's own."""
    folder = tmp_path_factory.mktemp("decoded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEODEFORM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scenes beside the checkout; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real scenes are not at ../shared/data ({folder.parent.name}/data is absent)")
    return folder
