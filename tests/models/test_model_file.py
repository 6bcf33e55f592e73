"""The model file: exact round trips, clear errors, and never a pickle."""

from __future__ import annotations

import ast
import contextlib
import copy
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import geodeform
from geodeform.errors import ModelFileError, OutputError
from geodeform.models import model_file
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.model_file import METADATA_KEY, load_model, read_spec, save_model


@pytest.fixture(scope="session")
def saved(model: DeformSegmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(model, tmp_path_factory.mktemp("saved") / "model.safetensors")


def rewrite(
    source: Path,
    target: Path,
    *,
    tensors: dict[str, torch.Tensor | None] | None = None,
    spec: dict[str, Any] | None = None,
) -> Path:
    """Copy a model file with some tensors replaced (None: left out) and settings changed."""
    with safetensors.safe_open(source, framework="pt") as file:
        settings = json.loads(file.metadata()[METADATA_KEY]) | (spec or {})
    all_tensors = safetensors.torch.load_file(source) | (tensors or {})
    safetensors.torch.save_file(
        {k: v for k, v in all_tensors.items() if v is not None},
        target,
        metadata={METADATA_KEY: json.dumps(settings)},
    )
    return target


def logits(model: DeformSegmenter, size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    image = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(image, size).logits


def test_round_trip_is_bit_for_bit(model: DeformSegmenter, saved: Path) -> None:
    loaded = load_model(saved)
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(model))
    state = model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items())


def test_spec_survives_and_names_the_version(model: DeformSegmenter, saved: Path) -> None:
    read = read_spec(saved)
    assert read == load_model(saved).spec
    assert read.geodeform_version
    assert read.classes == model.spec.classes
    assert read.metrics == {"miou": {"learned": 0.5}}


def test_half_is_close_and_half_the_size(
    model: DeformSegmenter, saved: Path, tmp_path: Path
) -> None:
    path = save_model(model, tmp_path / "half.safetensors", half=True)
    loaded = load_model(path)
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    full = logits(model)
    assert float((logits(loaded) - full).abs().max()) < 0.01 * float(full.std())
    assert 0.45 < path.stat().st_size / saved.stat().st_size < 0.55
    assert path.stat().st_size < 12e6


def test_half_keeps_what_float16_cannot_say(model: DeformSegmenter, tmp_path: Path) -> None:
    model = copy.deepcopy(model)
    bn = model.density_net.layers[1]
    bn.running_var.fill_(1e-9)  # 0 in float16
    bn.weight.data.fill_(1e6)  # infinite in float16
    path = save_model(model, tmp_path / "half.safetensors", half=True)
    raw = safetensors.torch.load_file(path)
    assert raw["density_net.layers.1.running_var"].dtype == torch.float32
    assert raw["density_net.layers.1.weight"].dtype == torch.float32
    assert raw["density_net.layers.1.bias"].dtype == torch.float16
    assert raw["density_net.layers.1.num_batches_tracked"].dtype == torch.int64
    loaded = load_model(path).density_net.layers[1]
    assert float(loaded.running_var[0]) == pytest.approx(1e-9)
    assert float(loaded.weight.detach()[0]) == 1e6


def test_saving_again_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = save_model(load_model(saved), tmp_path / "again.safetensors")
    assert again.read_bytes() == saved.read_bytes()


def test_header_is_read_without_torch(saved: Path) -> None:
    code = (
        "import sys; from geodeform.models.model_file import read_spec;"
        f"spec = read_spec({str(saved)!r}); assert spec.n_classes == 2;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    model: DeformSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")

    def full_disk(partial: Path, data: bytes) -> None:
        with partial.open("wb") as out:
            out.write(data[: len(data) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_model(model, path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(path.name, b"old")]


def test_others_may_read_the_file(model: DeformSegmenter, tmp_path: Path) -> None:
    path = save_model(model, tmp_path / "model.safetensors")
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_save_refuses_weights_that_are_not_finite(model: DeformSegmenter, tmp_path: Path) -> None:
    model = copy.deepcopy(model)
    model.segmenter.net.head.weight.data[0] = float("nan")
    with pytest.raises(ModelFileError, match=r"net\.head\.weight' are not finite"):
        save_model(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_save_needs_its_folder(model: DeformSegmenter, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is not there"):
        save_model(model, tmp_path / "absent" / "model.safetensors")


def check_refused(path: Path, message: str, *, spec_too: bool = True) -> None:
    """Both readers refuse it in one sentence that names the file."""
    for read in (load_model, read_spec) if spec_too else (load_model,):
        with pytest.raises(ModelFileError, match=message) as caught:
            read(path)
        text = str(caught.value)
        assert str(path) in text
        assert "\n" not in text
        assert text.endswith(".")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    check_refused(tmp_path / "no.safetensors", "is not there")
    check_refused(tmp_path, "is a folder")


def test_near_miss_of_a_packaged_name() -> None:
    with pytest.raises(ModelFileError, match="did you mean 'dubai'"):
        load_model("dubay")


def test_absent_packaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model_file.PACKAGED, "dubai", "absent.safetensors")
    for name in (None, "dubai"):
        with pytest.raises(ModelFileError, match="lacks its packaged model 'dubai'"):
            load_model(name)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_refused(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    data = saved.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut.safetensors"
    path.write_bytes(data[: int(share * len(data))])
    check_refused(path, "cut off|not a safetensors file")


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(1, 20_000))
def test_truncation_near_the_header_is_refused(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "cut.safetensors"
    path.write_bytes(saved.read_bytes()[:cut])
    check_refused(path, "cut off|not a safetensors file")


def test_strange_bytes_at_the_end(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(saved.read_bytes() + b"!")
    check_refused(path, "strange bytes")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 60_000), value=st.integers(0, 255))
def test_a_damaged_header_never_ends_in_another_error(
    saved: Path, tmp_path: Path, position: int, value: int
) -> None:
    data = bytearray(saved.read_bytes())
    length = int.from_bytes(data[:8], "little")
    data[position % (8 + length)] = value
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(data)
    # Reading succeeds where the byte fell into a text, a number or a tensor's name.
    with contextlib.suppress(ModelFileError):
        assert read_spec(path).bands


@given(data=st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelFileError):
        read_spec(path)


@pytest.mark.parametrize(
    "data",
    [
        (1 << 62).to_bytes(8, "little") + b"{}",
        (200_000_000).to_bytes(8, "little") + b"{}",
        (1).to_bytes(8, "little") + b"{",
        (4).to_bytes(8, "little") + b"[[]]",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        b"II*\x00 a TIFF, say",
    ],
)
def test_absurd_headers(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "absurd.safetensors"
    path.write_bytes(data)
    check_refused(path, "not a safetensors file")


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("new", [True, False])
def test_pickles_are_refused_and_not_run(tmp_path: Path, protocol: int, new: bool) -> None:
    path, sprung = tmp_path / "model.safetensors", tmp_path / "sprung"
    torch.save(Trap(sprung), path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    check_refused(path, "a pickle.*never opens")
    path.write_bytes(pickle.dumps(Trap(sprung), protocol=protocol))
    check_refused(path, "a pickle.*never opens")
    assert not sprung.exists()


def test_no_module_reads_pickles() -> None:
    """torch.load only with weights_only=True, and no other unpickler, anywhere in the package."""
    for path in Path(geodeform.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            assert name not in {"pickle.load", "pickle.loads", "joblib.load", "np.load"}, path
            if name == "torch.load":
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert options.get("weights_only") == "True", f"{path}:{node.lineno}"


def test_safetensors_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    check_refused(path, "not a geodeform model")
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, metadata={"format": "pt"})
    check_refused(path, "not a geodeform model")


def test_newer_and_damaged_versions(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    newer = {"format_version": 2, "setting_of_the_future": 1}
    check_refused(rewrite(saved, path, spec=newer), "version 2.*update geodeform")
    for version in ("1", 0, -1, 1.5, True, None):
        check_refused(rewrite(saved, path, spec={"format_version": version}), "format version")


def test_spec_that_does_not_fit(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    check_refused(rewrite(saved, path, spec={"architecture": "lite9"}), "no segmenter 'lite9'")
    other = rewrite(saved, path, spec={"architecture": "hrnet_w18"})
    check_refused(other, r"lacks \d+ tensors", spec_too=False)


def test_tensors_missing_strange_misshapen_or_not_finite(saved: Path, tmp_path: Path) -> None:
    path, name = tmp_path / "model.safetensors", "segmenter.net.head.bias"
    for change, message in (
        ({name: None}, f"lacks 1 tensors, such as '{name}'"),
        ({"zzz": torch.zeros(1)}, "has 1 tensors that .* such as 'zzz'"),
        ({name: torch.zeros(3)}, r"shape \(3,\) where its architecture has \(2,\)"),
        ({name: torch.tensor([0.0, float("inf")])}, f"'{name}' are not finite"),
        ({name: torch.zeros(2, dtype=torch.int32)}, "torch.int32"),
    ):
        check_refused(rewrite(saved, path, tensors=change), message, spec_too=False)


OPTIONS = ("density_kernel", "density_coords", "density_context", "scale_aware")


def test_a_file_from_before_the_options_is_read_alike(
    model: DeformSegmenter, saved: Path, tmp_path: Path
) -> None:
    with safetensors.safe_open(saved, framework="pt") as file:
        written = json.loads(file.metadata()[METADATA_KEY])
    old = tmp_path / "old.safetensors"
    meta = {METADATA_KEY: json.dumps({k: v for k, v in written.items() if k not in OPTIONS})}
    safetensors.torch.save_file(safetensors.torch.load_file(saved), old, metadata=meta)
    assert read_spec(old) == read_spec(saved)
    assert torch.equal(logits(load_model(old)), logits(model))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"downsampler": "fixed"},
        {"density_kernel": 5, "density_coords": True, "density_context": 2},
    ],
    ids=["fixed", "net"],
)
def test_other_densities_come_back(
    model: DeformSegmenter, tmp_path: Path, changes: dict[str, Any], half: bool
) -> None:
    torch.manual_seed(0)
    other = DeformSegmenter(replace(model.spec, **changes)).eval()
    if other.spec.downsampler == "fixed":
        # beyond float16's smallest normal number, where it has few digits
        other.density_net.density.copy_(torch.rand(1, 1, 12, 16) * 1e-6)
    loaded = load_model(save_model(other, tmp_path / "other.safetensors", half=half))
    assert replace(loaded.spec, geodeform_version="") == other.spec
    view = torch.randn(2, 3, 12, 16)
    with torch.no_grad():
        expected, found = other.density(view), loaded.density(view)
    if half and other.spec.downsampler == "density":
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)
    else:
        assert torch.equal(found, expected)
