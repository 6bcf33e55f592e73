"""The packaged model from a run of its recipe, with what the package says of it.

    geodeform train --dataset dubai --root ../shared/data/dubai
    python .ci/make_packaged_model.py runs/dubai/model.safetensors

Weights stay as they are; licence and data are stated, and the recipe forgets the run's folders.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import geodeform
from geodeform.models.model_file import PACKAGED, save_model

FOLDER = Path(__file__).parents[1] / "geodeform" / "data"


def main(trained: Path) -> None:
    """Write the packaged model."""
    model = geodeform.load_model(trained)
    recipe = {section: dict(values) for section, values in model.spec.recipe.items()}
    recipe["data"]["root"] = None
    recipe["run"]["out"] = "runs/dubai"
    model.spec = replace(
        model.spec,
        licence="Apache-2.0; training data CC0-1.0",
        training_data=model.spec.training_data.replace("; items", " (CC0 1.0); tiles"),
        recipe=recipe,
    )
    save_model(model, FOLDER / PACKAGED["dubai"], half=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
