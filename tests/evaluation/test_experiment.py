"""Experiments: what is trained and evaluated, and what shares a network."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from evaluation_scenes import SHORE, VILLAS, data_of, demo_cut, write_dubai
from rasterio.windows import Window

from geodeform.config import TrainConfig
from geodeform.errors import ConfigError, DatasetError
from geodeform.evaluation.campaign import plan_campaign
from geodeform.evaluation.experiment import read_experiment, training_key
from geodeform.models.model_file import locate_model
from geodeform.training.datasets.registry import open_dataset

TILE = Window(1536, 1024, 480, 480)
CONFIGS = Path(__file__).parents[2] / "configs" / "compare"

BASE = {
    "recipe": "recipe.yaml",
    "settings": {"optim.steps": 10},
    "budgets": [64, 32],
    "seeds": [0, 1],
    "baseline": "uniform",
    "baseline_budgets": [48],
    "methods": {
        "uniform": {"settings": {"model.sampler": "uniform"}},
        "joint": {"title": "learned", "settings": {"model.sampler": "joint"}},
        "bound": {"network_of": "joint", "sampler": "oracle"},
        "full": {
            "sampler": "full",
            "settings": {"model.sampler": "uniform", "data.window": 128, "model.sizes": 128},
        },
    },
}


def experiment(tmp_path: Path, *, asked_split=None, asked_baseline=None, **changes):
    (tmp_path / "recipe.yaml").write_text("data: {dataset: dubai}\noptim: {lr: 0.5}\n")
    values = {k: v for k, v in {**BASE, **changes}.items() if v is not None}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return read_experiment(path, split=asked_split, baseline=asked_baseline)


def test_each_network_is_trained_once_and_evaluated_everywhere(tmp_path):
    one = experiment(tmp_path)
    assert one.name == "mine"
    assert one.budgets == ((32, 32), (64, 64))
    entries = one.entries()
    # uniform at 3 budgets, joint and its oracle at 2, full once; two seeds
    assert len(entries) == 2 * (3 + 2 + 2 + 1)
    trainings = one.trainings()
    assert len(trainings) == 2 * 3  # the oracle has none of its own
    by_method = {(e.method, e.seed): e.trial for e in entries}
    assert by_method["bound", 1].training == by_method["joint", 1].training
    assert by_method["joint", 0].training != by_method["joint", 1].training
    assert {e.trial.sampler for e in entries if e.method == "joint"} == {"learned"}
    assert {e.trial.sampler for e in entries if e.method == "bound"} == {"oracle"}
    (full,) = {e.trial.file_name for e in entries if e.method == "full"}
    assert full == "val-full-all.json"
    config = trainings[by_method["joint", 1].training]
    assert config.model.sizes == ((32, 32), (64, 64))  # not the baseline's further budget
    assert config.run.seed == 1
    assert config.optim.lr == 0.5
    assert config.optim.steps == 10
    assert trainings[by_method["full", 0].training].model.sizes == ((128, 128),)


def test_a_budget_by_need_is_another_evaluation_of_the_same_network(tmp_path):
    methods = {
        "uniform": {"settings": {"model.sampler": "uniform", "model.error_net": True}},
        "need": {"network_of": "uniform", "allocation": "need"},
    }
    one = experiment(tmp_path, methods=methods, budgets=[32], baseline_budgets=[], studies=None)
    even, need = (next(e.trial for e in one.entries() if e.method == m) for m in methods)
    assert even.training == need.training
    assert (even.file_name, need.file_name) == (
        "val-uniform-32x32.json",
        "val-uniform-32x32-need.json",
    )
    work = plan_campaign(one, tmp_path)[0]
    _, *evaluations = [" ".join(command) for command in work.commands("data")]
    assert ["--allocation even" in c for c in evaluations] == [True, False]
    assert ["--allocation need" in c for c in evaluations] == [False, True]


def test_own_networks_are_trained_at_their_budget(tmp_path):
    one = experiment(tmp_path, networks="own", baseline_budgets=[40, 56])
    trainings = one.trainings()
    sizes = {
        (e.method, e.budget): trainings[e.trial.training].model.sizes
        for e in one.entries()
        if e.seed == 0
    }
    assert sizes["joint", (32, 32)] == ((32, 32),)
    assert sizes["joint", (64, 64)] == ((64, 64),)
    assert sizes["uniform", (40, 40)] == ((32, 32),)  # the nearest by samples
    assert sizes["uniform", (56, 56)] == ((64, 64),)


def test_the_baseline_can_have_networks_of_its_own_where_it_is_evaluated_besides(tmp_path):
    shared = experiment(tmp_path, budgets=[64])
    one = experiment(tmp_path, budgets=[64], baseline_networks="own")
    trainings = one.trainings()
    # what the methods are compared with at equal pixels does not change
    assert set(trainings) > set(shared.trainings())
    assert len(trainings) == len(shared.trainings()) + 2  # of two seeds
    sizes = {
        e.budget: trainings[e.trial.training].model.sizes
        for e in one.entries()
        if e.method == "uniform"
    }
    assert sizes == {(48, 48): ((48, 48),), (64, 64): ((64, 64),)}
    titles = {work.title for work in plan_campaign(one, tmp_path / "out")}
    assert {"uniform, at 48x48, seed 0", "uniform, seed 0"} <= titles
    own = experiment(tmp_path, networks="own", baseline_networks="own")
    assert {c.model.sizes for c in own.trainings().values() if c.data.window == (1024, 1024)} == {
        ((32, 32),), ((48, 48),), ((64, 64),),
    }  # fmt: skip


def test_a_network_is_named_by_what_it_is_trained_for_wherever_it_is_evaluated(tmp_path):
    """The baseline at 48x48, by the network of 32x32, which the file evaluates after it."""
    one = experiment(tmp_path, networks="own", budgets=[32, 96], baseline_budgets=[24, 48])
    works = plan_campaign(one, tmp_path / "out")
    titles = {work.title: work.config.model.sizes for work in works}
    assert titles["uniform, at 32x32, seed 0"] == ((32, 32),)
    assert titles["uniform, at 96x96, seed 1"] == ((96, 96),)
    assert {title.split(",")[1] for title in titles if "full" not in title} == {
        " at 32x32", " at 96x96",
    }  # fmt: skip


def test_another_baseline_is_an_experiment_of_its_own_with_the_same_networks(tmp_path):
    one = experiment(tmp_path, asked_baseline="bound")
    assert (one.name, one.baseline) == ("mine-over-bound", "bound")
    assert one.budgets_of("bound") == ((32, 32), (48, 48), (64, 64))
    assert one.budgets_of("uniform") == ((32, 32), (64, 64))
    assert set(one.trainings()) == set(experiment(tmp_path).trainings())
    assert experiment(tmp_path, asked_baseline="uniform").name == "mine"
    with pytest.raises(ConfigError, match="The baseline 'bond' is no method"):
        experiment(tmp_path, asked_baseline="bond")


def test_folds_hold_items_out(tmp_path):
    one = experiment(tmp_path, held_out=[[7], [1, 8]])
    assert {t.data.val_items for t in one.trainings().values()} == {("7",), ("1", "8")}
    whole = experiment(tmp_path, held_out="leave-one-out")
    assert whole.leave_one_out
    data = data_of(villas=demo_cut(VILLAS), shore=demo_cut(SHORE)).cache.dataset
    assert whole.on(data).folds == (("villas",), ("shore",))
    with pytest.raises(DatasetError, match="holds out item 7, which is not in"):
        one.on(data)


def test_the_part_is_looked_up_before_anything_is_trained(tmp_path):
    data = data_of(villas=demo_cut(VILLAS), shore=demo_cut(SHORE)).cache.dataset
    with pytest.raises(DatasetError, match="no items for the part 'test'"):
        experiment(tmp_path, split="test").on(data)


def test_studies_vary_one_method(tmp_path):
    studies = {
        "sigma": {"method": "joint", "budgets": [64], "setting": "model.sigma", "values": [2, 8]},
        "Options": {"method": "joint", "changes": {"sharp": {"model.temperature": 0.5}}},
    }
    one = experiment(tmp_path, studies=studies)
    assert [s.points for s in one.studies] == [("sigma/2", "sigma/8"), ("Options/sharp",)]
    trainings = one.trainings()
    points = {e.method: e for e in one.entries() if e.seed == 1 and e.budget == (64, 64)}
    recipe = trainings[points["sigma/8"].trial.training]
    assert recipe.model.sigma == 8
    assert recipe.model.sampler == "joint"
    assert trainings[points["Options/sharp"].trial.training].model.temperature == 0.5
    assert one.budgets_of("sigma/2") == ((64, 64),)
    # a point at the method's own value is the method's own network
    same = experiment(
        tmp_path,
        studies={"sigma": {"method": "joint", "setting": "model.sigma", "values": [4.0]}},
    )
    training = {e.method: e.trial.training for e in same.entries() if e.seed == 0}
    assert training["sigma/4.0"] == training["joint"]


def test_keys_know_the_data(tmp_path):
    write_dubai(tmp_path / "a", tile1=TILE, tile2=TILE, tile7=TILE)
    write_dubai(tmp_path / "b", tile1=TILE, tile2=TILE, tile7=TILE)
    one = experiment(tmp_path)
    before = set(one.on(open_dataset("dubai", tmp_path / "a")).trainings())
    assert set(one.on(open_dataset("dubai", tmp_path / "b")).trainings()) == before
    mask = next((tmp_path / "b" / "Tile 7" / "masks").iterdir())
    mask.write_bytes(mask.read_bytes() + b"!")
    assert not before & set(one.on(open_dataset("dubai", tmp_path / "b")).trainings())


def test_keys_know_the_split_that_comes_with_the_data(tmp_path):
    """Lists of a dataset's own are neither a setting nor an item's file."""
    for root in (tmp_path / "a", tmp_path / "b"):
        root.mkdir()
        for item in "12345678":
            (root / f"{item}_sat.jpg").touch()
            (root / f"{item}_mask.png").touch()
    one = experiment(tmp_path)

    def keys(root: Path, **lists: str) -> set[str]:
        for name, items in lists.items():
            (root / f"{name}.txt").write_text("\n".join(items))
        return set(one.on(open_dataset("deepglobe", root)).trainings())

    seeded = keys(tmp_path / "a")
    assert keys(tmp_path / "b") == seeded
    listed = keys(tmp_path / "a", train="1234", val="56", test="78")
    assert len(listed) == len(seeded)
    assert not listed & seeded
    # how a list is written changes nothing, nor where it lies
    assert keys(tmp_path / "b", train="4321", val="65", test="87") == listed
    # evaluations lie beside the weights, so a part that is only evaluated counts as well
    for change in ({"train": "123"}, {"val": "5"}, {"test": "7"}):
        assert not keys(tmp_path / "b", **change) & listed
        assert keys(tmp_path / "b", train="1234", val="56", test="78") == listed


def test_keys_know_the_split_of_each_fold(tmp_path):
    """What the dataset keeps for the test never trains, whatever a fold holds out."""
    for item in "12345678":
        (tmp_path / f"{item}_sat.jpg").touch()
        (tmp_path / f"{item}_mask.png").touch()
    one = experiment(tmp_path, held_out=[[1], [2]])
    keys = []
    for test in ("78", "7"):
        for name, items in (("train", "1234"), ("val", "56"), ("test", test)):
            (tmp_path / f"{name}.txt").write_text("\n".join(items))
        keys.append(set(one.on(open_dataset("deepglobe", tmp_path)).trainings()))
    assert len(keys[0]) == 2 * 2 * 3  # folds, seeds, methods that are trained
    assert not keys[0] & keys[1]


def test_keys_know_the_files_that_a_recipe_names(tmp_path):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"one")
    named = TrainConfig().merged({"model.pretrained": str(weights)})
    other = tmp_path / "elsewhere.pth"
    other.write_bytes(b"one")
    assert training_key(named) == training_key(
        TrainConfig().merged({"model.pretrained": str(other)})
    )
    third = tmp_path / "third.pth"
    third.write_bytes(b"two")
    assert training_key(named) != training_key(
        TrainConfig().merged({"model.pretrained": str(third)})
    )
    assert training_key(TrainConfig().merged({"model.pretrained": "none"})) != training_key(named)


def test_a_teachers_weights_count_whatever_its_name(tmp_path):
    config = TrainConfig()
    with locate_model("dubai") as packaged:
        copy = tmp_path / "teacher.safetensors"
        copy.write_bytes(packaged.read_bytes())
    named, same = (config.merged({"loss.teacher": name}) for name in ("dubai", str(copy)))
    assert training_key(named) == training_key(same) != training_key(config)
    other = tmp_path / "other.safetensors"
    other.write_bytes(copy.read_bytes() + b"!")
    assert training_key(config.merged({"loss.teacher": str(other)})) != training_key(named)


def test_validations_count_where_they_choose_the_weights():
    usual = TrainConfig().merged({"run.val_every": 7})
    assert training_key(usual) == training_key(TrainConfig())
    best = TrainConfig().merged({"run.export": "best"})
    assert training_key(best) != training_key(best.merged({"run.val_every": 7}))


def test_the_key_is_of_what_changes_the_weights():
    config = TrainConfig()
    same = config.merged({"data.root": "x", "run.out": "y", "run.val_every": 7, "data.workers": 3})
    assert training_key(same) == training_key(config)
    for change in ({"run.seed": 1}, {"model.sigma": 5.0}, {"data.val_items": ["8"]}):
        assert training_key(config.merged(change)) != training_key(config)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"baseline": "unifrom"}, "did you mean 'uniform'"),
        ({"budget": [3]}, "Unknown setting 'budget' in the experiment .did you mean 'budgets'"),
        ({"budgets": None}, "'budgets' is missing"),
        ({"budgets": ["a"]}, "must be a size"),
        ({"seeds": ["x"]}, "'seeds' must be a list of whole numbers"),
        ({"held_out": "7"}, "leave-one-out"),
        ({"split": "all"}, "'split' must be one of train, val, test"),
        ({"settings": {"model.sigm": 3}}, "did you mean 'model.sigma'"),
        ({"methods": {"uniform": {"settings": {"sigma": 3}}}}, "dotted settings"),
        ({"methods": {"uniform": {"network_of": "x"}}}, "names another method"),
        *(
            (
                {"methods": {**BASE["methods"], "bound": {"network_of": given}}},
                "'methods.bound.network_of' must be the name of one method, got",
            )
            for given in (["joint"], {}, {"joint": 1}, 7, False)
        ),
        ({"seeds": []}, "'seeds' needs at least one"),
        ({"block_items": 0}, "'block_items' must be a whole number from 1"),
        ({"held_out": [[7], [8, 7]]}, "names an item twice"),
        ({"held_out": [[7]], "split": "test"}, "evaluated as 'split: val'"),
        ({"settings": {"run.export": "best"}}, "choose its weights on what is evaluated"),
        ({"baseline_networks": "mine"}, "'baseline_networks' must be one of shared, own"),
        (
            {"baseline_networks": "own"},
            "'baseline_networks: own' needs 'networks: own' where there are several budgets",
        ),
        ({"settings": {"optim.patience": 2}}, "stop its training by what is evaluated"),
        (
            {
                "methods": {
                    "uniform": {"settings": {"model.sampler": "uniform"}, "sampler": "learned"}
                }
            },
            "samples 'learned', which its networks .model.sampler: uniform. cannot",
        ),
        (
            {"methods": {"uniform": {"settings": {"model.sampler": "uniform"}, "allocation": "n"}}},
            "'methods.uniform.allocation' must be one of even, need",
        ),
        (
            {
                "methods": {
                    "uniform": {"settings": {"model.sampler": "uniform"}, "allocation": "need"}
                }
            },
            "set model.error_net",
        ),
        ({"studies": {"s": {"method": "no"}}}, "must be a method that is trained"),
        ({"studies": {"s": {"method": "joint", "setting": "model.sigma"}}}, "needs either"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        experiment(tmp_path, **changes)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "asked", "sentence"),
    [
        (
            {"settings": {"run.export": "best"}, "split": "test"},
            "val",
            "choose its weights on what is evaluated",
        ),
        ({"held_out": [[7]]}, "test", "evaluated as 'split: val'"),
        ({"held_out": "leave-one-out"}, "train", "evaluated as 'split: val'"),
    ],
)
def test_the_part_that_a_caller_asks_for_is_checked_as_the_files_is(
    tmp_path, changes, asked, sentence
):
    experiment(tmp_path, **changes)  # sound as it is written
    with pytest.raises(ConfigError, match=sentence) as caught:
        experiment(tmp_path, asked_split=asked, **changes)
    assert "mine.yaml" in str(caught.value)


def test_a_part_that_a_caller_asks_for_may_mend_the_files(tmp_path):
    one = experiment(tmp_path, asked_split="test", settings={"run.export": "best"}, split="val")
    assert {e.trial.split for e in one.entries()} == {"test"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_experiments_that_are_here_are_sound(path):
    one = read_experiment(path)
    assert len(one.seeds) >= 3
    trainings = one.trainings()
    assert {e.trial.training for e in one.entries()} == set(trainings)
    for entry in one.entries():
        further = entry.method == one.baseline and entry.budget not in one.budgets
        if one.networks == "own" and entry.budget is not None and not further:
            assert trainings[entry.trial.training].model.sizes == (entry.budget,), entry.method


@pytest.mark.parametrize(
    "name", ["deepglobe", "cityscapes", "cityscapes-crop", "cityscapes-crop-96", "pca-histo"]
)
def test_the_papers_experiments_have_the_fair_baseline(name):
    one = read_experiment(CONFIGS / f"{name}.yaml")
    trained = {
        e.method: one.config_of(e.method, e.fold, e.seed, e.budget).model for e in one.entries()
    }
    assert one.baseline == "uniform_area"
    modes = {m: (trained[m].sampler, trained[m].sample_mode) for m in ("uniform_area", "uniform")}
    assert modes == {"uniform_area": ("uniform", "area"), "uniform": ("uniform", "bilinear")}
    assert trained["fixed"].sampler == "fixed"
    for budget in one.budgets:  # where equal time may lie: near every budget, and beyond the last
        above = [math.prod(more) / math.prod(budget) for more in one.baseline_budgets]
        assert any(1 < ratio < 2 for ratio in above)


def studied(one, title):
    """Recipes of a study's points at their budgets, of the first seed."""
    study = next(s for s in one.studies if title in s.title)
    fold, seed = one.folds[0], one.seeds[0]
    return [
        one.config_of(point, fold, seed, budget)
        for point in study.points
        for budget in one.budgets_of(point)
    ]


def test_central_crops_of_cityscapes_are_the_papers_tables():
    crop = read_experiment(CONFIGS / "cityscapes-crop.yaml")
    larger = read_experiment(CONFIGS / "cityscapes-crop-96.yaml")
    for one in (crop, larger):
        for config in one.trainings().values():
            assert config.model.segmenter == "pspnet_resnet50"
            assert config.data.crop == (1024, 1024)
    for title in ("table 2", "table 3"):
        points = studied(larger, title)
        assert {p.model.sizes for p in points} == {((96, 96),)}
        assert {p.model.low_res for p in points} == {(96, 96)}
    # widths at half maximum
    assert [round(p.model.sigma * 2.355) for p in studied(larger, "table 2")] == [15, 26, 32]
    assert [p.model.density_kernel for p in studied(larger, "table 3")] == [3, 5, 7]
    for title in ("table 4", "table 5", "resizer (table 6)"):
        assert {p.model.sizes for p in studied(crop, title)} == {((64, 64),)}
    views = [(p.model.low_res[0], p.model.sigma) for p in studied(crop, "table 4")]
    assert views == [(n, round(15 / 2.355 * n / 96, 1)) for n in (32, 48, 64, 80, 96)]
    assert [p.loss.gamma for p in studied(crop, "table 5")] == [50, 100, 200]
    resizers = {
        (p.model.sizes[0][0], p.model.resizer_blocks, p.model.resizer_filters)
        for title in ("resizer (table 6)", "larger sizes (table 6)")
        for p in studied(crop, title)
    }
    assert resizers == {
        *((64, r, n) for r in (1, 2, 3, 4) for n in (16, 32)),
        *((size, r, n) for size in (128, 256) for r in (1, 4) for n in (16, 32)),
    }
