"""The model file: one safetensors file that holds the weights and, as metadata, the ModelSpec.

The metadata's one entry, ``geodeform-model``, is :meth:`ModelSpec.to_json`, an integer
``format_version`` inside. (One entry, because safetensors writes several in random order, and equal
models should be equal files.) Never a pickle: a pickle can run code when read.

The header (8 bytes of little-endian length, then JSON; https://github.com/huggingface/safetensors)
is read here by hand, so that :func:`read_spec` needs no torch and a damaged file is told apart from
one of another kind.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geodeform.errors import ModelFileError, OutputError
from geodeform.models.spec import ModelSpec, nearest_names

if TYPE_CHECKING:
    import torch

    from geodeform.models.deform_segmenter import DeformSegmenter

METADATA_KEY = "geodeform-model"
"""The metadata entry that makes a safetensors file a geodeform model."""

DEFAULT_MODEL = "dubai"
PACKAGED = {"dubai": "dubai.safetensors"}
"""Models inside the package, by name."""

_MAX_HEADER = 100_000_000  # safetensors' own limit, bytes
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_AGAIN = "get or train it again"
_NEVER_HALF = ("running_mean", "running_var", "density_net.density")


@contextlib.contextmanager
def locate_model(model: str | Path | None) -> Iterator[Path]:
    """Give the path of a model file: a packaged name, None for the default, or a path as it is.

    Raises:
        ModelFileError: If there is no such file.
    """
    name = DEFAULT_MODEL if model is None else str(model)
    if name in PACKAGED and not Path(name).is_file():
        packaged = resources.files("geodeform").joinpath("data", PACKAGED[name])
        if not packaged.is_file():
            raise ModelFileError(
                f"This installation lacks its packaged model '{name}' (geodeform/data/"
                f"{PACKAGED[name]}); install geodeform again, or give the path of a model file."
            )
        with resources.as_file(packaged) as path:
            yield path
        return
    path = Path(name)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        near = nearest_names(name, list(PACKAGED))
        raise ModelFileError(
            f"{path} {what}{near}; give the path of a .safetensors file that geodeform train "
            f"wrote, or a packaged model's name ({', '.join(PACKAGED)})."
        )
    yield path


def read_spec(model: str | Path | None = None) -> ModelSpec:
    """Read what a model is without loading its weights, and without importing torch.

    Args:
        model: Path of a model file, a packaged name, or None for the packaged default.

    Raises:
        ModelFileError: If the file is missing, truncated, of another kind, or of a newer version.
    """
    with locate_model(model) as path:
        return _read_spec(path)


def _read_spec(path: Path) -> ModelSpec:
    meta = _read_header(path).get("__metadata__")
    if not isinstance(meta, dict) or not isinstance(meta.get(METADATA_KEY), str):
        raise ModelFileError(
            f"{path} is a safetensors file but not a geodeform model; "
            "give a file that geodeform train wrote."
        )
    return ModelSpec.from_json(meta[METADATA_KEY], where=str(path))


def _read_header(path: Path) -> dict[str, Any]:
    """Read and check a safetensors header: a whole JSON object whose tensors fill the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start.startswith(_PICKLES):
            raise ModelFileError(
                f"{path} is a PyTorch checkpoint (a pickle), which geodeform never opens because "
                "it can run code; give the .safetensors file that geodeform train wrote beside it."
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > _MAX_HEADER or length < 2:
            raise ModelFileError(
                f"{path} is not a safetensors file; give a file that geodeform train wrote."
            )
        if length > size - 8:
            raise ModelFileError(f"{path} is cut off inside its header; {_AGAIN}.")
        text = file.read(length)
    try:
        header = json.loads(text)
        ends = [int(t["data_offsets"][1]) for k, t in header.items() if k != "__metadata__"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is not a safetensors file, or its header is damaged; "
            "give a file that geodeform train wrote."
        ) from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        what = "cut off" if size < expected else "followed by strange bytes"
        raise ModelFileError(
            f"{path} is {what}: it has {size} bytes where its header says {expected}; {_AGAIN}."
        )
    return dict(header)


def save_model(model: DeformSegmenter, path: str | Path, *, half: bool = False) -> Path:
    """Write a model file; it appears under its name only once it is whole.

    Args:
        model: The model; its spec is stored with the version of geodeform that runs.
        path: Where to write; an existing file is replaced.
        half: Store weights as float16. BatchNorm's running statistics, a fixed density (its values
            are near float16's smallest), and any tensor with a value beyond float16's range, stay
            float32; integers stay as they are.

    Returns:
        The path.

    Raises:
        ModelFileError: If a weight is not finite.
        OutputError: If the folder does not exist.
    """
    from safetensors.torch import save

    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(
            f"The folder {path.parent} is not there; make it before saving {path.name}."
        )
    spec = replace(model.spec, geodeform_version=_version())
    tensors = {}
    for name, value in model.state_dict().items():
        _check_finite(path, name, value)
        kept = value.detach().cpu().contiguous()
        tensors[name] = _to_half(name, kept) if half else kept
    meta = {METADATA_KEY: spec.to_json()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # not save_file(): it makes files that only their owner may read
        partial.write_bytes(save(tensors, metadata=meta))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load_model(
    model: str | Path | None = None, device: str | torch.device = "cpu"
) -> DeformSegmenter:
    """Load a model, ready to predict.

    Args:
        model: Path of a model file, a packaged name, or None for the packaged default.
        device: Where the model goes. Weights are float32 there, however they were stored.

    Returns:
        The model in evaluation mode; its ``spec`` says what it was trained for.

    Raises:
        ModelFileError: If the file is missing, truncated, of another kind, of a newer version,
            lacks tensors or has others, or holds weights that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from geodeform.models.deform_segmenter import DeformSegmenter

    with locate_model(model) as path:
        spec = _read_spec(path)
        try:
            state = load_file(path)
        except SafetensorError as error:
            raise ModelFileError(f"{path} is damaged ({error}); {_AGAIN}.") from error
        network = DeformSegmenter(spec)
        _check_tensors(path, network.state_dict(), state)
        for name, value in state.items():
            _check_finite(path, name, value)
        # load_state_dict copies into float32 parameters, so float16 is widened here.
        network.load_state_dict(state)
    name = DEFAULT_MODEL if model is None else str(model)
    network.name, network.file = (name if name in PACKAGED else Path(name).name), path
    return network.to(device).eval()


def _check_tensors(
    path: Path, wanted: dict[str, torch.Tensor], found: dict[str, torch.Tensor]
) -> None:
    for names, what in ((set(wanted) - set(found), "lacks"), (set(found) - set(wanted), "has")):
        if names:
            extra = "" if what == "lacks" else " that its architecture does not have"
            raise ModelFileError(
                f"{path} {what} {len(names)} tensors{extra}, such as '{min(names)}'; {_AGAIN}."
            )
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise ModelFileError(
                f"{path} has '{name}' of shape {tuple(found[name].shape)} where its architecture "
                f"has {tuple(value.shape)}; {_AGAIN}."
            )
        if found[name].is_floating_point() != value.is_floating_point():
            raise ModelFileError(
                f"{path} has '{name}' as {found[name].dtype} where its architecture has "
                f"{value.dtype}; {_AGAIN}."
            )


def _check_finite(path: Path, name: str, value: torch.Tensor) -> None:
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise ModelFileError(
            f"{path}: the weights '{name}' are not finite; the training diverged, train it again."
        )


def _to_half(name: str, value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point() or name.endswith(_NEVER_HALF):
        return value
    small = value.half()
    return small if bool(small.isfinite().all()) else value


def _version() -> str:
    try:
        return metadata.version("geodeform")
    except metadata.PackageNotFoundError:
        return "unknown"
