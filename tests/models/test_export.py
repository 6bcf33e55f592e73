"""Exported files: the library's own answers, on real windows, whole or not at all."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor, nn

import geodeform
from geodeform.deform.density import normalise
from geodeform.deform.grid import (
    GridKernel,
    density_to_grid,
    folded_cells,
    repair_folds,
    uniform_grid,
)
from geodeform.deform.sample import sample_image
from geodeform.errors import ConfigError, GeodeformError, OutputError
from geodeform.models import export
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.density_net import FixedDensity
from geodeform.models.export import ExportReport, export_model
from geodeform.models.model_file import METADATA_KEY, load_model
from geodeform.models.segmenters import Segmenter
from geodeform.models.spec import ModelSpec

WINDOW, LOW_RES, SIZE = (258, 250), (32, 30), (48, 44)  # nothing divides anything
SHARP: dict[str, Any] = {"kernel_sigma": 9.0, "kernel_support": 1.0, "density_temperature": 0.15}
UNIFORM: dict[str, Any] = {"downsampler": "none", "sampler": "uniform"}
NO_ONNX = "ONNX needs geodeform[export]"


@pytest.fixture(scope="module")
def windows() -> NDArray[np.uint8]:
    """(3, 3, 258, 250) real windows: houses and pools, a border of desert, desert."""
    with rasterio.open(geodeform.demo_scene()) as scene:
        cuts = [
            scene.read(window=Window(column, row, WINDOW[1], WINDOW[0]))
            for column, row in ((1200, 900), (2000, 2000), (300, 3000))
        ]
    return np.stack(cuts)


@pytest.fixture(scope="module")
def packaged() -> DeformSegmenter:
    return load_model("dubai")


@pytest.fixture(scope="module")
def variant(packaged: DeformSegmenter) -> Callable[..., DeformSegmenter]:
    """Build a model of small windows with the packaged weights, as far as it has such parts.

    ``tiny`` gives it a segmenter of two convolutions: what is before it is then all the time.
    """

    def build(*, tiny: bool = True, **changes: Any) -> DeformSegmenter:
        torch.manual_seed(0)
        small = {"window_px": WINDOW, "low_res_size": LOW_RES, "sample_size": SIZE}
        model = DeformSegmenter(replace(packaged.spec, **(small | changes)))
        own, state = model.state_dict(), packaged.state_dict()
        model.load_state_dict(
            {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}, strict=False
        )
        if tiny:
            channels = 5 if model.spec.scale_aware else 3
            layers = (
                nn.Conv2d(channels, 8, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(8, 5, 3, padding=1),
            )
            model.segmenter = Segmenter(nn.Sequential(*layers), divisor=8)
        if model.grid_net is not None:  # untrained it would move nothing
            nn.init.normal_(model.grid_net.head.weight, std=0.3)
        if isinstance(model.density_net, FixedDensity):  # uniform it would move nothing
            columns = torch.arange(1.0, LOW_RES[1] + 1).expand(1, 1, *LOW_RES)
            model.density_net.density.copy_(columns / columns.sum())
        with torch.no_grad():  # running statistics as after some training, not 0 and 1
            for name, part in model.named_children():
                if not any(key.startswith(f"{name}.") for key in state) or not tiny:
                    part.train()
            model(torch.randn(4, 3, *WINDOW))
        return model.eval()

    return build


def answers(model: DeformSegmenter, images: NDArray[Any]) -> list[NDArray[np.float32]]:
    """What the library says of raw windows, spelt out."""
    scaling = model.spec.scaling
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (scaling.mean, scaling.std))
    scaled = (images.astype(np.float32) / scaling.max_value - mean) / std
    with torch.no_grad():
        found = model(torch.from_numpy(scaled))
    return [t.numpy() for t in (found.logits.softmax(1), found.grid, found.density)]


Runner = Callable[[NDArray[Any]], list[NDArray[np.float32]]]


def onnx_session(path: Path) -> Any:
    runtime = pytest.importorskip("onnxruntime", reason=NO_ONNX)
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"])


def open_file(path: Path) -> Runner:
    """What somebody without geodeform would write."""
    if path.suffix == ".onnx":
        session = onnx_session(path)
        return lambda images: session.run(None, {"image": images.astype(np.float32)})
    module = torch.export.load(path).module()
    return lambda images: [t.numpy() for t in module(torch.from_numpy(images.astype(np.float32)))]


def check_file(path: Path, model: DeformSegmenter, images: NDArray[Any], *sizes: int) -> None:
    """The file's answers, in batches of these sizes, are the library's."""
    run, expected = open_file(path), answers(model, images)
    for size in sizes:
        for start in range(0, len(images), size):
            told = run(images[start : start + size])
            for found, wanted in zip(told, expected, strict=True):
                assert found.dtype == np.float32
                wanted = wanted[start : start + size]
                np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-4)


# ---- graphs that are traced give the numbers of the eager functions ------------------------------


class Traced(nn.Module):
    """A function of tensors as what torch.export takes."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


def traced(function: Callable[..., Tensor], *example: Tensor) -> Callable[..., Tensor]:
    """The graph of a function, for any batch, made from the first samples of an example."""
    function(*example)  # fills the caches of constant matrices
    batch = torch.export.Dim("batch", min=1)
    shapes = (tuple({0: batch} for _ in example),)
    with torch.no_grad():
        program = torch.export.export(
            Traced(function), tuple(t[:2] for t in example), dynamic_shapes=shapes, strict=False
        )
    return program.module()


def spiky_densities(count: int) -> Tensor:
    """Densities of rising contrast, from nearly uniform to lone peaks: each mended by its own."""
    noise = torch.randn(count, 1, *LOW_RES, generator=torch.Generator().manual_seed(3))
    return normalise((noise * torch.linspace(0.1, 8, count).view(-1, 1, 1, 1)).exp())


@pytest.mark.parametrize("padding", ["reflect", "replicate"])
def test_a_traced_grid_is_mended_as_the_eager_one(padding: Any) -> None:
    kernel, density = GridKernel(9.0, 1.0, padding), spiky_densities(6)

    def to_grid(density: Tensor) -> Tensor:
        return density_to_grid(density, SIZE, kernel)

    eager, graph = to_grid(density), traced(to_grid, density)
    raw = density_to_grid(density, SIZE, kernel, repair=False)
    assert 0 < int((folded_cells(raw) > 0).sum()) < 6
    assert torch.equal(graph(density), eager)
    for i in range(6):
        torch.testing.assert_close(graph(density[i : i + 1]), eager[i : i + 1], atol=1e-5, rtol=0)


def test_each_sample_of_a_batch_is_mended_as_if_alone() -> None:
    kernel, density = GridKernel(9.0, 1.0), spiky_densities(6)
    batch = density_to_grid(density, SIZE, kernel)
    for i in range(6):
        alone = density_to_grid(density[i : i + 1], SIZE, kernel)
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-5, rtol=0)
    assert folded_cells(batch).sum() == 0


def test_a_traced_blend_is_the_eager_one() -> None:
    grid = uniform_grid(4, (12, 11)).clone()
    grid += torch.randn(grid.shape, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [0.0, 0.01, 0.1, 0.5]
    ).view(-1, 1, 1, 1)
    assert (folded_cells(grid) > 0).tolist() == [False, False, True, True]
    assert torch.equal(traced(repair_folds, grid)(grid), repair_folds(grid))


@pytest.mark.parametrize("mode", ["area", "bilinear"])
def test_traced_sampling_is_the_eager_one(mode: Any, windows: NDArray[np.uint8]) -> None:
    image = torch.from_numpy(windows).float()
    grid = density_to_grid(spiky_densities(3), SIZE, GridKernel(4.0))

    def sample(image: Tensor, grid: Tensor) -> Tensor:
        return sample_image(image, grid, mode=mode)

    assert torch.equal(traced(sample, image, grid)(image, grid), sample(image, grid))


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_mode", ["area", "bilinear"])
def test_a_uniform_model_as_onnx(
    variant: Callable[..., DeformSegmenter],
    windows: NDArray[np.uint8],
    tmp_path: Path,
    sample_mode: str,
) -> None:
    model = variant(**UNIFORM, sample_mode=sample_mode)
    path = tmp_path / "model.onnx"
    pytest.importorskip("onnxruntime", reason=NO_ONNX)
    report = export_model(model, path, check=windows[:2])
    assert report.path == path
    assert (report.format, report.batch, report.checked) == ("onnx", None, 2)
    assert (report.window, report.size, report.low_res) == (WINDOW, SIZE, LOW_RES)
    assert report.file_bytes == path.stat().st_size
    assert report.differences["probabilities"] < 1e-5
    check_file(path, model, windows, 1, 3)


@pytest.mark.parametrize("sample_mode", ["area", "bilinear"])
def test_a_uniform_model_for_torch(
    variant: Callable[..., DeformSegmenter],
    windows: NDArray[np.uint8],
    tmp_path: Path,
    sample_mode: str,
) -> None:
    model = variant(**UNIFORM, sample_mode=sample_mode)
    path = tmp_path / "model.pt2"
    assert export_model(model, path, check=windows[:2]).format == "torch"
    check_file(path, model, windows, 1, 3)


CASES: dict[str, dict[str, Any]] = {
    "density": {},
    "density, bilinear": {"sample_mode": "bilinear"},
    "folding": SHARP,
    "folding and leaving": SHARP | {"kernel_padding": "replicate"},
    "further": {"density_kernel": 5, "density_coords": True, "density_context": 2},
    "fixed": {"downsampler": "fixed"},
    "scale": {"scale_aware": True},
    "grid": {"downsampler": "grid"},
    "resizer": {"downsampler": "resizer", "sampler": "interpolation", "resizer_blocks": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "suffix"),
    [
        *((case, ".onnx") for case in CASES),
        *((case, ".pt2") for case in ("folding", "further", "fixed", "scale", "grid")),
    ],
)
def test_every_sampler(
    variant: Callable[..., DeformSegmenter],
    windows: NDArray[np.uint8],
    tmp_path: Path,
    case: str,
    suffix: str,
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime", reason=NO_ONNX)
    model = variant(**CASES[case])
    path = tmp_path / f"model{suffix}"
    report = export_model(model, path, check=windows[:1])
    assert max(report.differences.values()) < 2e-4
    check_file(path, model, windows, 1, 3)
    if case.startswith("folding"):
        _, grid, density = (torch.from_numpy(t) for t in answers(model, windows))
        raw = density_to_grid(density, SIZE, model.kernel, repair=False)
        assert (folded_cells(raw) > 0).any()
        assert not torch.equal(raw, grid)
        found = torch.from_numpy(open_file(path)(windows)[1])
        assert folded_cells(found).sum() == 0
        assert found.abs().max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "suffix"),
    [
        ("hrnet_w18", ".onnx"),
        ("smp:unet:resnet18", ".onnx"),
        ("smp:unet:resnet18", ".pt2"),
        ("pspnet_resnet50", ".onnx"),
    ],
)
def test_other_architectures(
    variant: Callable[..., DeformSegmenter],
    windows: NDArray[np.uint8],
    tmp_path: Path,
    architecture: str,
    suffix: str,
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime", reason=NO_ONNX)
    model = variant(**UNIFORM, architecture=architecture, tiny=False)
    path = tmp_path / f"model{suffix}"
    export_model(model, path, check=windows[:1])
    check_file(path, model, windows, 3)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_the_packaged_model_at_its_own_window(
    packaged: DeformSegmenter, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime", reason=NO_ONNX)
    with rasterio.open(geodeform.demo_scene()) as scene:
        images = np.stack(
            [scene.read(window=Window(column, 1000, 1024, 1024)) for column in (200, 1300, 2500)]
        )
    path = tmp_path / f"dubai{suffix}"
    report = export_model(packaged, path)  # compared on made-up windows
    assert report.checked == 2
    check_file(path, packaged, images, 2)
    # A class map by the file is the library's, but for pixels that are undecided.
    found, expected = open_file(path)(images)[0], answers(packaged, images)[0]
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9999


@pytest.fixture(scope="module")
def exported(
    variant: Callable[..., DeformSegmenter], tmp_path_factory: pytest.TempPathFactory
) -> tuple[DeformSegmenter, dict[str, Path]]:
    """One uniform model in both formats."""
    pytest.importorskip("onnxruntime", reason=NO_ONNX)
    model, folder = variant(**UNIFORM), tmp_path_factory.mktemp("exported")
    paths = {suffix: folder / f"model{suffix}" for suffix in (".onnx", ".pt2")}
    for path in paths.values():
        export_model(model, path)
    assert sorted(p.name for p in folder.iterdir()) == ["model.onnx", "model.pt2"]
    return model, paths


def test_the_description_travels_in_the_file(
    exported: tuple[DeformSegmenter, dict[str, Path]],
) -> None:
    model, paths = exported
    session = onnx_session(paths[".onnx"])
    extra = {METADATA_KEY: ""}
    torch.export.load(paths[".pt2"], extra_files=extra)
    for text in (session.get_modelmeta().custom_metadata_map[METADATA_KEY], extra[METADATA_KEY]):
        assert ModelSpec.from_json(text) == model.spec
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "image": ["batch", 3, *WINDOW],
        "probabilities": ["batch", 5, *SIZE],
        "grid": ["batch", *SIZE, 2],
        "density": ["batch", 1, *LOW_RES],
    }


def test_no_path_and_no_window_of_this_machine_is_in_the_file(
    exported: tuple[DeformSegmenter, dict[str, Path]],
) -> None:
    here = str(Path(geodeform.__file__).parent).encode()
    for path in exported[1].values():
        data = path.read_bytes()
        assert here not in data
        assert b"site-packages" not in data
        assert len(data) < 2**20  # the two windows alone have 1.5 MB


def test_values_beyond_the_range_are_clipped_as_in_scenes(
    exported: tuple[DeformSegmenter, dict[str, Path]], windows: NDArray[np.uint8]
) -> None:
    wild = windows.astype(np.float32) * 2 - 100
    for path in exported[1].values():
        run = open_file(path)
        for found, expected in zip(run(wild), run(wild.clip(0, 255)), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_fixed_number_of_windows(
    variant: Callable[..., DeformSegmenter],
    windows: NDArray[np.uint8],
    tmp_path: Path,
    suffix: str,
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime", reason=NO_ONNX)
    model = variant(**UNIFORM)
    path = tmp_path / f"model{suffix}"
    report = export_model(model, path, batch=2, check=windows)
    assert (report.batch, report.checked) == (2, 3)
    check_file(path, model, windows[1:], 2)
    with pytest.raises(Exception, match=r"(?i)(got invalid dimensions|guard failed|expected)"):
        open_file(path)(windows)


def test_the_model_stays_as_it_is(variant: Callable[..., DeformSegmenter], tmp_path: Path) -> None:
    model = variant(**UNIFORM).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_model(model, tmp_path / "model.pt2")
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_sizes_follow_the_window(
    variant: Callable[..., DeformSegmenter], tmp_path: Path, packaged: DeformSegmenter
) -> None:
    model = variant(**UNIFORM)
    report = export_model(model, tmp_path / "a.pt2", window=(129, 125), batch=1)
    assert (report.size, report.low_res) == ((23, 22), (16, 15))  # a quarter of the samples
    report = export_model(model, tmp_path / "b.pt2", window=(64, 40), size=(10, 9), batch=1)
    assert (report.size, report.low_res) == ((10, 9), (8, 8))
    sides = variant(**UNIFORM, sizing="sides", sample_size=(40, 80))
    report = export_model(sides, tmp_path / "c.pt2", window=(64, 256), batch=1)
    assert report.size == (20, 80)


# ---- whole or not at all -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_with_other_answers_never_appears(
    variant: Callable[..., DeformSegmenter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime", reason=NO_ONNX)
    path = tmp_path / f"model{suffix}"
    path.write_text("the former file")
    model = variant(**UNIFORM)
    trace = export._trace

    def other(chain: Any, *args: Any, **options: Any) -> Any:
        with torch.no_grad():
            chain.model.segmenter.net[2].bias[0] += 0.1
        return trace(chain, *args, **options)

    monkeypatch.setattr(export, "_trace", other)
    with pytest.raises(OutputError, match=r"not written.*probabilities that differs.* 0\.0"):
        export_model(model, path)
    assert path.read_text() == "the former file"
    assert list(tmp_path.iterdir()) == [path]


def test_answers_that_are_no_numbers_are_refused(
    variant: Callable[..., DeformSegmenter], tmp_path: Path
) -> None:
    model = variant(**UNIFORM)
    with torch.no_grad():
        model.segmenter.net[0].weight[0] = torch.nan
    with pytest.raises(OutputError, match="differs from the model's by nan"):
        export_model(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


class Undecided(nn.Module):
    """A segmenter whose way depends on the values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.mean() > 0) else -x


def test_what_cannot_be_traced_is_said(
    variant: Callable[..., DeformSegmenter], tmp_path: Path
) -> None:
    model = variant(**UNIFORM)
    model.segmenter = Segmenter(Undecided(), divisor=1)
    with pytest.raises(OutputError, match=r"'lite0' cannot be exported in this format \(.+\)"):
        export_model(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        ("model.tflite", {}, OutputError, r"model\.tflite.*\.onnx or \.pt2"),
        ("model.onnx", {"format": "torch"}, OutputError, r"must be \.pt2\."),
        ("no/model.pt2", {}, OutputError, "no is not there"),
        ("model.pt2", {"window": (0, 5)}, ConfigError, "window must be at least 1"),
        ("model.pt2", {"size": (5, -1)}, ConfigError, "size must be at least 1"),
        ("model.pt2", {"batch": 0}, ConfigError, "batch must be at least 1"),
        ("model.pt2", {"check": np.zeros((2, 3, 9, 9))}, ConfigError, r"\(B, 3, 258, 250\), got"),
        ("model.pt2", {"check": np.zeros((0, 3, *WINDOW))}, ConfigError, r"must be \(B, 3"),
        ("model.pt2", {"check": np.full((1, 3, *WINDOW), np.nan)}, ConfigError, "not finite"),
    ],
)
def test_bad_input(
    variant: Callable[..., DeformSegmenter],
    tmp_path: Path,
    name: str,
    options: dict[str, Any],
    kind: type[GeodeformError],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        export_model(variant(**UNIFORM), tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_an_oracle_is_refused(variant: Callable[..., DeformSegmenter], tmp_path: Path) -> None:
    spec = replace(variant(**UNIFORM).spec, downsampler="oracle", sampler="oracle")
    with pytest.raises(ConfigError, match="nobody has labels"):
        export_model(DeformSegmenter(spec), tmp_path / "model.onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages_are_named(
    variant: Callable[..., DeformSegmenter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else json)
    with pytest.raises(GeodeformError, match=rf"needs '{missing}': pip install 'geodeform\[export"):
        export_model(variant(**UNIFORM), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_exporting_warns_of_nothing_and_leaves_the_caches_sound(
    variant: Callable[..., DeformSegmenter], tmp_path: Path, windows: NDArray[np.uint8]
) -> None:
    model = variant(**UNIFORM)
    before = answers(model, windows)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        report: ExportReport = export_model(model, tmp_path / "model.pt2", window=(128, 96))
    assert [str(w.message) for w in said] == []
    for found, expected in zip(answers(model, windows), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert report.differences["probabilities"] == pytest.approx(0, abs=1e-6)


def test_a_fixed_density_is_fitted_to_other_windows(
    variant: Callable[..., DeformSegmenter], windows: NDArray[np.uint8], tmp_path: Path
) -> None:
    model = variant(downsampler="fixed")
    images = windows[:2, :, :130]
    report = export_model(model, tmp_path / "model.pt2", window=(130, 250), check=images)
    assert report.low_res[0] < LOW_RES[0]
    density = open_file(tmp_path / "model.pt2")(images)[2]
    assert density.shape == (2, 1, *report.low_res)
    expected = np.arange(1.0, LOW_RES[1] + 1) / np.arange(1.0, LOW_RES[1] + 1).sum()
    np.testing.assert_allclose(density[1, 0].sum(0), expected, rtol=1e-4)
