"""Priorities that nothing can follow: what of them is said, and what stays in the plan."""

from __future__ import annotations

import geopandas as gpd
import pytest
from planned_scenes import UTM, model_of_equal_needs, noise_scene, plan_of
from shapely.geometry import box

import geodeform
from geodeform.errors import ConfigError

SPOT = box(*UTM * (50, 200), *UTM * (200, 50))


@pytest.fixture(scope="module")
def model():
    return model_of_equal_needs()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return noise_scene(tmp_path_factory.mktemp("scene") / "noise.tif", 600, 1024)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A scene of one window."""
    return noise_scene(tmp_path_factory.mktemp("scene") / "single.tif", 512, 512)


def test_what_several_windows_can_follow_is_kept(scene, model):
    plan = plan_of(scene, model, budget="48", focus=SPOT, focus_classes=["road"])
    assert plan.allocation()["priority"] == "an area counts 4 times; Road count 4 times"
    assert not any("no effect" in note for note in plan.notes)
    passes = {"allocation": "even", "followed": True}  # a refinement's
    assert (
        plan_of(scene, model, focus_classes=["road"], **passes).priority
        == plan_of(scene, model, focus_classes=["road"], budget="48").priority
    )


@pytest.mark.parametrize("budget", ["16", "256"])
def test_uniform_samples_follow_nothing_where_all_windows_get_the_same(scene, model, budget):
    plan = plan_of(scene, model, budget=budget, focus_classes=["road", "water"], sampler="uniform")
    assert plan.notes[-1] == (
        "Every window gets the same samples, so this has no effect: Road, Water count 4 times."
    )
    assert "priority" not in plan.allocation()
    plan = plan_of(scene, model, budget=budget, focus=SPOT, sampler="uniform")
    assert plan.notes[-1].endswith("so this has no effect: an area counts 4 times.")
    assert "priority" not in plan.allocation()
    plan = plan_of(scene, model, budget=budget, focus_classes=["road"], focus=SPOT)
    assert plan.allocation()["priority"] == "an area counts 4 times; Road count 4 times"
    assert not any("no effect" in note for note in plan.notes)  # by the warp


@pytest.mark.parametrize("how", [{}, {"allocation": "even", "followed": True}])
def test_one_window_has_nobody_to_take_from(single, model, how):
    for focus in ({"focus_classes": ["road"]}, {"focus": SPOT}):
        plan = plan_of(single, model, budget="48", sampler="uniform", **focus, **how)
        assert plan.notes[-1].startswith("Only one window is mapped, so this has no effect: ")
        assert plan.priority is None
        plan = plan_of(single, model, budget="48", **focus, **how)
        assert plan.priority is not None
        assert not any("no effect" in note for note in plan.notes)


def test_one_window_with_data_is_one_window(model, tmp_path):
    scene = noise_scene(tmp_path / "s.tif", 512, 1024, data_until=400)
    plan = plan_of(
        scene, model, overlap=0.0, budget="48", focus_classes=["road"], sampler="uniform"
    )
    assert len(plan.active) == 2
    assert plan.notes[-1].startswith("Only one window is mapped")


def test_what_nothing_can_follow_is_an_error(scene, model):
    for focus in ({"focus": SPOT}, {"focus_classes": ["road"]}):
        with pytest.raises(ConfigError, match="it needs a learned density, or the allocation"):
            plan_of(scene, model, allocation="even", sampler="uniform", **focus)
        assert plan_of(scene, model, allocation="even", **focus).priority is not None


@pytest.mark.parametrize("name", ["building", "road", "vegetation", "water"])
@pytest.mark.parametrize("allocation", ["even", "need"])
def test_samples_go_where_a_class_in_focus_is(demo_density, name, allocation):
    """On the packaged scene and its labels, with the packaged model."""
    labels = gpd.read_file(geodeform.demo_labels(), layer=0)
    ground = labels[labels["class_name"].str.lower() == name].geometry
    plain, focused = (demo_density(allocation, classes) for classes in ((), (name,)))
    there = [float(one.density.rio.clip(ground).mean()) for one in (plain, focused)]
    assert there[1] > 1.1 * there[0]
    assert focused.plan.sampled_pixels == pytest.approx(plain.plan.sampled_pixels, rel=0.01)


@pytest.fixture(scope="module")
def demo_density():
    found = {}

    def density(allocation, classes):
        key = (allocation, classes)
        if key not in found:
            found[key] = geodeform.density_map(
                geodeform.demo_scene(), budget="1%", allocation=allocation, focus_classes=classes
            )
        return found[key]

    return density
