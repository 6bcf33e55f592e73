from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import geodeform

PUBLIC = {
    "Budget", "ClassScheme", "DeformSegmenter", "DensityNet", "GeodeformError", "GridKernel",
    "ModelSpec", "Mosaic", "ReverseMap", "Scene", "SegmentationResult", "__version__",
    "budget_curve", "budget_for_confidence", "budget_for_time", "demo_labels",
    "demo_scene", "density_map", "density_to_grid", "estimate",
    "load_model", "plan_segmentation", "plan_windows", "polygonize", "read_spec", "sample_image",
    "sample_labels", "save_model", "segment_scene",
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert set(geodeform.__all__) == PUBLIC
    assert set(dir(geodeform)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_every_public_name_loads_and_is_documented(name: str) -> None:
    value = getattr(geodeform, name)
    assert len(inspect.getdoc(value) or "") > 40


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_every_public_name_is_annotated(name: str) -> None:
    value = getattr(geodeform, name)
    call = value.__init__ if inspect.isclass(value) else value
    if inspect.isclass(value) and issubclass(value, Exception):
        return
    for parameter in list(inspect.signature(call).parameters.values()):
        if parameter.name != "self" and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            assert parameter.annotation is not parameter.empty, parameter.name


def test_type_checkers_see_the_same_names_as_the_interpreter() -> None:
    tree = ast.parse(Path(geodeform.__file__).read_text())
    declared = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("geodeform.")
        for alias in node.names
    }
    assert declared == PUBLIC - {"__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segmnt_scene'"):
        geodeform.segmnt_scene  # noqa: B018
