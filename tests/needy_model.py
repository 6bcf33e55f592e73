"""A model that expects errors, without a training: for tests of allocation."""

from __future__ import annotations

from dataclasses import replace

import torch

from geodeform.models.deform_segmenter import DeformSegmenter


def needy_model(model: DeformSegmenter) -> DeformSegmenter:
    """The packaged model, which expects errors where views vary, by how far apart samples lie."""
    spec = replace(model.spec, error_net=True, window_px=(512, 512), sample_size=(64, 64))
    spec = replace(spec, low_res_size=(32, 32), budgets=((32, 32), (64, 64), (128, 128)))
    grown = DeformSegmenter(spec)
    grown.load_state_dict(model.state_dict(), strict=False)

    def expected_errors(views: torch.Tensor, sizes: list[tuple[int, int]]) -> torch.Tensor:
        spread = views.std((1, 2, 3)) ** 8
        return torch.stack([spread * 8 / h for h, _ in sizes], 1)[..., None, None, None]

    grown.expected_errors = expected_errors  # type: ignore[method-assign]
    return grown.eval()


def without_error_net(model: DeformSegmenter) -> DeformSegmenter:
    """The same model, without what expects its errors."""
    simple = DeformSegmenter(replace(model.spec, error_net=False))
    state = model.state_dict()
    simple.load_state_dict({k: v for k, v in state.items() if not k.startswith("error_net.")})
    return simple.eval()
