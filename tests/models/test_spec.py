"""ModelSpec: JSON round trip, validation, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geodeform.classes import ClassScheme
from geodeform.errors import ConfigError, ModelFileError
from geodeform.models.spec import (
    _PARSERS,
    ARCHITECTURES,
    InputScaling,
    ModelSpec,
    check_architecture,
    default_scaling,
)

SCHEME = ClassScheme(("land", "wäter"), ((132, 41, 246), (226, 169, 41)))


def make_spec(**changes: Any) -> ModelSpec:
    settings: dict[str, Any] = {
        "architecture": "lite0",
        "in_channels": 3,
        "classes": SCHEME,
        "bands": ("red", "green", "blue"),
        "scaling": default_scaling("lite0", 3),
        "window_px": (256, 320),
        "low_res_size": (32, 40),
        "sample_size": (64, 80),
        "kernel_sigma": 8.5,
    }
    return ModelSpec(**settings | changes)


sizes = st.tuples(st.integers(1, 10_000), st.integers(1, 10_000))
positive = st.floats(1e-6, 1e6)


@given(
    spec=st.builds(
        make_spec,
        architecture=st.sampled_from([*ARCHITECTURES, "smp:unet:resnet18"]),
        window_px=sizes,
        low_res_size=sizes,
        sample_size=sizes,
        kernel_sigma=positive,
        kernel_support=positive,
        gsd_m=st.none() | positive,
        kernel_padding=st.sampled_from(["reflect", "replicate"]),
        sampler=st.sampled_from(["learned", "uniform"]),
        sample_mode=st.sampled_from(["area", "bilinear"]),
        density_channels=st.lists(st.integers(1, 64), min_size=1).map(tuple),
        density_kernel=st.integers(0, 9).map(lambda n: 2 * n + 1),
        density_coords=st.booleans(),
        density_context=st.integers(0, 8),
        downsampler=st.sampled_from(["density", "grid", "fixed"]),
        density_temperature=positive,
        budgets=st.lists(sizes).map(tuple),
        training_data=st.text(),
        licence=st.text(),
        metrics=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
        geodeform_version=st.text(),
        description=st.text(),
    )
)
def test_json_round_trip_gives_an_equal_spec(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_every_setting_can_be_read() -> None:
    assert set(_PARSERS) == {f.name for f in fields(ModelSpec)}


def test_window_in_metres_follows_and_is_written() -> None:
    spec = make_spec(gsd_m=0.5)
    assert spec.window_m == (128.0, 160.0)
    assert json.loads(spec.to_json())["window_m"] == [128.0, 160.0]
    assert make_spec().window_m is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "lite1"}, "did you mean 'lite0'"),
        ({"architecture": "smp:unet"}, "smp:ARCH:ENCODER"),
        ({"in_channels": 4}, "3 bands are named"),
        ({"bands": ("red",)}, "1 bands are named"),
        ({"scaling": default_scaling("lite0", 4)}, "4 means for 3 bands"),
        ({"window_px": (0, 5)}, "window_px"),
        ({"low_res_size": (5,)}, "low_res_size"),
        ({"sample_size": (5, -1)}, "sample_size"),
        ({"budgets": ((64, 64), (0, 1))}, "budgets"),
        ({"kernel_sigma": 0.0}, "kernel_sigma"),
        ({"kernel_sigma": float("nan")}, "kernel_sigma"),
        ({"kernel_support": float("inf")}, "kernel_support"),
        ({"density_temperature": -1.0}, "density_temperature"),
        ({"gsd_m": 0.0}, "gsd_m"),
        ({"kernel_padding": "replicat"}, "did you mean 'replicate'"),
        ({"sampler": "uniforme"}, "did you mean 'uniform'"),
        ({"sample_mode": "nearest"}, "sample_mode"),
        ({"density_channels": ()}, "density_channels"),
        ({"density_kernel": 4}, "density_kernel must be odd, not 4"),
        ({"density_kernel": -1}, "density_kernel must be odd, not -1"),
        ({"density_context": -1}, "density_context must not be negative"),
        ({"downsampler": "none"}, "sampler must be one of uniform, not 'learned'"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_spec(**changes)


@pytest.mark.parametrize(
    "arguments",
    [
        (0.0, (0.0,), (1.0,)),
        (float("inf"), (0.0,), (1.0,)),
        (1.0, (0.0,), (0.0,)),
        (1.0, (float("nan"),), (1.0,)),
        (1.0, (0.0, 0.0), (1.0,)),
    ],
)
def test_bad_scaling_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match="scaling"):
        InputScaling(*arguments)


def test_metrics_must_be_json() -> None:
    for metrics in ({"miou": float("nan")}, {"miou": {1, 2}}):
        with pytest.raises(ConfigError, match="metrics"):
            make_spec(metrics=metrics).to_json()


def damaged(**changes: Any) -> str:
    data = json.loads(make_spec().to_json())
    data.update(changes)
    return json.dumps({k: v for k, v in data.items() if v != "DELETE"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged description"),
        ("[1, 2]", "damaged description"),
        ('{"architecture": "lite0"', "damaged description"),
        (damaged(colour="red"), "unknown setting 'colour'"),
        (damaged(window_px="DELETE"), "window_px"),
        (damaged(window_px=[1, 2, 3]), "does not fit"),
        (damaged(window_px=5), "does not fit"),
        (damaged(classes={"names": ["a"]}), "does not fit"),
        (damaged(scaling={"mean": [0], "std": [1]}), "max_value"),
        (damaged(in_channels=1e999), "does not fit"),
        (damaged(metrics=[1]), "no JSON object"),
        (damaged(description=5), "no text"),
        (damaged(downsampler="sieve"), "downsampler must be one of none, density"),
        (damaged(sampler="random"), "sampler"),
    ],
)
def test_damaged_json_is_a_model_file_error_that_names_the_file(text: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        ModelSpec.from_json(text, where="my.safetensors")
    assert str(caught.value).startswith("my.safetensors ")
    assert "\n" not in str(caught.value)


def test_default_scaling_centres_each_architecture() -> None:
    assert default_scaling("lite0", 2).mean == (127 / 255, 127 / 255)
    assert default_scaling("hrnet_w48", 3).mean == (0.485, 0.456, 0.406)
    four = default_scaling("hrnet_w48", 4, max_value=10_000.0)
    assert (four.mean[:3], four.mean[3], four.max_value) == ((0.485, 0.456, 0.406), 0.449, 1e4)
    assert default_scaling("pspnet_resnet50", 1).std == (0.226,)


def test_smp_names_pass_the_form_check() -> None:
    check_architecture("smp:unet:tu-mobilenetv3_small_100")
    with pytest.raises(ConfigError):
        check_architecture("smp::resnet18")


def test_spec_and_model_file_need_no_torch() -> None:
    code = (
        "import sys, geodeform.models.spec, geodeform.models.model_file;"
        "sys.exit(any(m.split('.')[0] in ('torch', 'timm') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_replace_validates_again() -> None:
    with pytest.raises(ConfigError, match="kernel_sigma"):
        replace(make_spec(), kernel_sigma=-1.0)
