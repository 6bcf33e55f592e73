from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import psutil
import pytest
import rasterio
from click.testing import CliRunner
from shapely.geometry import box

from geodeform.cli.main import main
from geodeform.demo import demo_scene
from geodeform.geo.style import confidence_style, embed_style, polygon_style
from geodeform.models.model_file import read_spec
from geodeform.qgis_plugin.command import SETTING

pytestmark = pytest.mark.qgis

InQgis = Callable[..., str]
FakeProgram = Callable[..., Path]
BBOX = (317000.0, 2768000.0, 317640.0, 2768512.0)
EXTENT = f"{BBOX[0]},{BBOX[2]},{BBOX[1]},{BBOX[3]} [EPSG:32640]"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The geodeform of this environment, and an environment as bad as QGIS's can be."""
    monkeypatch.setenv(SETTING, str(Path(sysconfig.get_path("scripts")) / "geodeform"))
    monkeypatch.setenv("PROJ_LIB", "/usr/share/proj")


@pytest.fixture(scope="module")
def scene() -> Path:
    return Path(demo_scene())


def words_of(tmp_path: Path) -> list[str]:
    return list(json.loads((tmp_path / "argv.json").read_text()))


def test_the_provider_is_there_with_algorithms_help_and_icons(in_qgis: InQgis) -> None:
    told = json.loads(
        in_qgis(
            """
            shown = {}
            for algorithm in provider.algorithms():
                definitions = algorithm.parameterDefinitions()
                shown[algorithm.id()] = [
                    algorithm.displayName(), algorithm.canExecute()[0],
                    algorithm.icon().pixmap(32, 32).toImage().pixelColor(16, 16).alpha(),
                    [d.name() for d in definitions if not d.help()],
                    all(d.description() in algorithm.shortHelpString() for d in definitions),
                ]
            from processing.core.ProcessingConfig import ProcessingConfig
            shown["settings"] = [s.name for s in ProcessingConfig.getSettings()["geodeform"]]
            plugin.unload()
            registry = QgsApplication.processingRegistry()
            shown["left"] = [p.id() for p in registry.providers() if p.id() == "geodeform"]
            plugin.initProcessing()
            print(json.dumps(shown))
            """
        )
    )
    assert told == {
        "geodeform:segment": ["Segment scene", True, 255, [], True],
        "geodeform:density": ["Sampling density", True, 255, [], True],
        "geodeform:budget": ["Compare budgets", True, 255, [], True],
        "settings": [SETTING],
        "left": [],
    }


@pytest.mark.slow
def test_segment_gives_what_the_command_gives(in_qgis: InQgis, scene: Path, tmp_path: Path) -> None:
    output, polygons = tmp_path / "map.tif", tmp_path / "map.gpkg"
    told = json.loads(
        in_qgis(
            """
            scene, output, polygons, confidence, extent = sys.argv[1:]
            said = Said()
            results = processing.run("geodeform:segment", {
                "INPUT": scene, "EXTENT": extent, "BUDGET": "2%", "OUTPUT": output,
                "POLYGONS": polygons, "CONFIDENCE": confidence, "DENSITY": "TEMPORARY_OUTPUT",
                "TRUST": "TEMPORARY_OUTPUT", "MIN_AREA": 20,
            }, feedback=said)
            layer = QgsRasterLayer(results["OUTPUT"], "map")
            density = QgsRasterLayer(results["DENSITY"], "density")
            areas = QgsVectorLayer(results["POLYGONS"], "polygons")
            extent = layer.extent()
            block = layer.dataProvider().block(1, extent, layer.width(), layer.height())
            print(json.dumps([
                layer.crs().authid(), layer.width(), layer.height(),
                [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()],
                [[block.value(r, c) for c in range(0, 640, 40)] for r in range(0, 512, 40)],
                density.isValid() and QgsRasterLayer(results["TRUST"], "trust").isValid(),
                areas.featureCount(), results["SAMPLED_PIXELS"], said.lines,
            ]))
            """,
            scene, output, polygons, tmp_path / "sure.tif", EXTENT,
        )
    )  # fmt: skip
    direct = tmp_path / "direct.tif"
    done = CliRunner().invoke(
        main,
        [
            "segment", str(scene), "-o", str(direct), "--budget", "2%", "--min-area", "20",
            "--bbox", ",".join(map(str, BBOX)), "--polygons", str(tmp_path / "direct.gpkg"),
            "--confidence", "--json",
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    crs, width, height, bounds, values, density_valid, areas, sampled, said = told
    assert (crs, width, height) == ("EPSG:32640", 640, 512)
    assert bounds == list(BBOX)
    with rasterio.open(direct) as one, rasterio.open(output) as other:
        expected = one.read(1)
        np.testing.assert_array_equal(other.read(1), expected)
        assert one.transform == other.transform
    np.testing.assert_array_equal(values, expected[::40, ::40])
    with (
        rasterio.open(tmp_path / "direct_confidence.tif") as one,
        rasterio.open(tmp_path / "sure.tif") as other,
    ):
        np.testing.assert_array_equal(one.read(1), other.read(1))
    assert not (tmp_path / "map_confidence.tif").exists()
    assert density_valid
    assert areas == len(gpd.read_file(tmp_path / "direct.gpkg", layer="polygons"))
    assert sampled == json.loads(done.stdout)["results"][0]["sampled_pixels"]
    assert any("model dubai" in text for _, text in said)
    assert any(text.startswith("Land: ") for _, text in said)


@pytest.mark.slow
def test_density_and_budget(in_qgis: InQgis, scene: Path, tmp_path: Path) -> None:
    told = json.loads(
        in_qgis(
            """
            scene, extent, output, table, page = sys.argv[1:]
            found = processing.run("geodeform:density", {
                "INPUT": scene, "EXTENT": extent, "BUDGET": "1%", "OUTPUT": output,
                "SAMPLES": "TEMPORARY_OUTPUT",
            })
            points = QgsVectorLayer(found["SAMPLES"], "points")
            costs = processing.run("geodeform:budget", {
                "INPUT": scene, "EXTENT": extent, "BUDGETS": "1%, 64", "OUTPUT": table,
                "OUTPUT_HTML": page,
            })
            layer = QgsVectorLayer(costs["OUTPUT"], "t")
            print(json.dumps([
                QgsRasterLayer(found["OUTPUT"], "d").isValid(), points.featureCount(),
                [field.name() for field in layer.fields()],
                [feature["budget"] for feature in layer.getFeatures()],
                [feature["sampled_pixels"] for feature in layer.getFeatures()],
            ]))
            """,
            scene, EXTENT, tmp_path / "d.tif", tmp_path / "t.gpkg", tmp_path / "t.html",
        )
    )  # fmt: skip
    valid, points, fields, budgets, sampled = told
    assert valid
    assert points == sampled[0] > 1000
    assert fields[0] == "fid"
    assert fields[1:4] == ["budget", "windows", "window_h"]
    assert budgets == ["1%", "64"]
    assert "<td>1%</td>" in (tmp_path / "t.html").read_text()


def test_a_failing_run_raises_geodeforms_sentence(
    in_qgis: InQgis, scene: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.tif"
    kept.write_text("mine")
    told = json.loads(
        in_qgis(
            """
            scene, kept = sys.argv[1:]
            told = []
            for extra in (
                {"BUDGET": "lots"}, {"MODEL": "/none.safetensors"}, {"OVERWRITE": False},
            ):
                try:
                    processing.run("geodeform:segment", {"INPUT": scene, "OUTPUT": kept, **extra})
                except QgsProcessingException as error:
                    told.append(str(error))
            web = QgsRasterLayer("url=http://127.0.0.1:9/{z}/{x}/{y}.png&type=xyz", "web", "wms")
            try:
                processing.run("geodeform:segment", {"INPUT": web, "OUTPUT": kept})
            except QgsProcessingException as error:
                told.append(str(error))
            print(json.dumps(told))
            """,
            scene, kept,
        )
    )  # fmt: skip
    budget, model, overwrite, web = told
    assert "Cannot read the budget 'lots'" in budget
    assert "/none.safetensors" in model
    assert "kept.tif exists already" in overwrite
    assert "not from a file" in web
    assert kept.read_text() == "mine"


def test_where_geodeform_is_missing_qgis_says_what_to_do(
    in_qgis: InQgis, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SETTING)
    monkeypatch.setenv("PATH", str(tmp_path))
    told = json.loads(
        in_qgis(
            """
            told = [provider.algorithm("segment").canExecute()]
            try:
                processing.run("geodeform:segment", {"INPUT": sys.argv[1], "OUTPUT": "/tmp/x.tif"})
            except QgsProcessingException as error:
                told.append(str(error))
            from processing.core.ProcessingConfig import ProcessingConfig
            ProcessingConfig.setSettingValue("GEODEFORM_EXECUTABLE", "/bin/true")
            told.append(provider.algorithm("segment").canExecute()[0])
            print(json.dumps(told))
            """,
            scene,
        )
    )
    assert told[0][0] is False
    assert "pip install geodeform" in told[0][1]
    assert told[1] == told[0][1]
    assert told[2] is True


def test_cancelling_ends_geodeform_and_leaves_nothing(
    in_qgis: InQgis, scene: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    told = json.loads(
        in_qgis(
            """
            import threading, time
            scene, folder = sys.argv[1:]
            said, seen = Said(), []
            def cancel_once_it_writes():
                while not seen:
                    seen.extend(os.listdir(folder))
                    time.sleep(0.02)
                said.cancel()
            threading.Thread(target=cancel_once_it_writes, daemon=True).start()
            results = processing.run("geodeform:segment", {
                "INPUT": scene, "OUTPUT": folder + "/map.tif", "POLYGONS": folder + "/map.gpkg",
            }, feedback=said)
            print(json.dumps([results, seen, os.listdir(folder)]))
            """,
            scene, folder,
        )
    )  # fmt: skip
    results, seen, left = told
    assert results == {}
    assert seen[0].startswith(".geodeform-")
    assert left == []
    running = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    assert not any(str(folder) in word for words in running for word in words if "=" in word)


def test_progress_and_styles_arrive_in_the_project(
    in_qgis: InQgis, fake_program: FakeProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = read_spec("dubai").classes
    made = tmp_path / "made"
    made.mkdir()
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "uint8",
               "crs": "EPSG:32640", "transform": rasterio.Affine(1, 0, 0, 0, -1, 4)}  # fmt: skip
    for name in ("map", "map_confidence"):
        with rasterio.open(made / f"{name}.tif", "w", **profile) as raster:
            raster.write(np.full((1, 4, 4), 1, "uint8"))
    (made / "map_confidence.qml").write_text(confidence_style())
    square = {"class_id": [1], "class_name": ["Land"], "geometry": [box(0, 0, 4, 4)]}
    gpd.GeoDataFrame(square, crs=32640).to_file(made / "p.gpkg", layer="p")
    embed_style(made / "p.gpkg", "p", polygon_style(scheme), name="classes")
    program = fake_program(
        """
        print("progress 1/2", file=sys.stderr)
        output = pathlib.Path(options["output"])
        for made in (here / "made").glob("map*"):
            shutil.copy(made, output.with_name(made.name.replace("map", output.stem, 1)))
        shutil.copy(here / "made" / "p.gpkg", options["polygons"])
        """
    )
    monkeypatch.setenv(SETTING, str(program))
    told = json.loads(
        in_qgis(
            """
            said = Said()
            results = processing.runAndLoadResults("geodeform:segment", {
                "INPUT": sys.argv[1], "OUTPUT": "TEMPORARY_OUTPUT",
                "POLYGONS": "TEMPORARY_OUTPUT", "CONFIDENCE": sys.argv[2],
            }, feedback=said)
            layers = QgsProject.instance().mapLayers().values()
            print(json.dumps([
                {layer.name(): layer.renderer().type() for layer in layers}, said.progress,
            ]))
            """,
            made / "map.tif", tmp_path / "sure.tif",
        )
    )  # fmt: skip
    renderers, progress = told
    assert renderers["Polygons"] == "categorizedSymbol"
    assert renderers["Confidence"] == "singlebandpseudocolor"
    assert "Class raster" in renderers
    assert 50 in progress


def test_areas_of_interest_arrive_in_the_files_coordinates(
    in_qgis: InQgis, fake_program: FakeProgram, scene: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Selected features only, unsaved layers, a CRS that the user set, and no georeference."""
    program = fake_program(
        """
        if "aoi" in options:
            runs = len(list(here.glob("aoi*.gpkg")))
            shutil.copy(options["aoi"], here / f"aoi{runs}.gpkg")
        if "focus" in options:
            shutil.copy(options["focus"], here / "focus.gpkg")
        (here / "bboxes.txt").open("a").write(options.get("bbox", "") + "\\n")
        """
    )
    monkeypatch.setenv(SETTING, str(program))
    plain = tmp_path / "plain.tif"
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(plain, "w", driver="GTiff", width=20, height=10, count=3, dtype="uint8"),
    ):
        pass
    in_qgis(
        """
        scene, plain = sys.argv[1:]
        def layer_of(crs, *rectangles):
            layer = QgsVectorLayer("Polygon" + (f"?crs={crs}" if crs else ""), "a", "memory")
            for rectangle in rectangles:
                feature = QgsFeature()
                feature.setGeometry(QgsGeometry.fromRect(QgsRectangle(*rectangle)))
                layer.dataProvider().addFeature(feature)
            return layer
        def run(source, aoi, **extra):
            processing.run("geodeform:segment", {
                "INPUT": source, "AOI": aoi, "OUTPUT": "TEMPORARY_OUTPUT", **extra})

        two = layer_of("EPSG:4326", (55.1, 25.0, 55.2, 25.1), (55.3, 25.2, 55.4, 25.3))
        two.selectByIds([2])
        QgsProject.instance().addMapLayer(two)
        run(scene, QgsProcessingFeatureSourceDefinition(two.id(), selectedFeaturesOnly=True))

        run(plain, layer_of("", (2, -6, 8, -1)), EXTENT="1,5,-4,-3")

        named = QgsRasterLayer(plain, "named")  # a CRS that only the project knows
        named.setCrs(QgsCoordinateReferenceSystem("EPSG:32640"))
        run(named, layer_of("EPSG:32640", (2, -6, 8, -1)), EXTENT="1,5,-4,-3 [EPSG:32640]")

        degrees = "55.1,55.2,25.0,25.1 [EPSG:4326]"
        run(scene, None, EXTENT=degrees)
        run(scene, None, FOCUS=QgsProcessingFeatureSourceDefinition(two.id(), True))
        """,
        scene,
        plain,
    )
    selected, flipped, named = (gpd.read_file(tmp_path / f"aoi{i}.gpkg") for i in range(3))
    assert selected.crs.to_epsg() == 4326
    assert selected.total_bounds.tolist() == [55.3, 25.2, 55.4, 25.3]
    focus = gpd.read_file(tmp_path / "focus.gpkg")
    assert focus.total_bounds.tolist() == [55.3, 25.2, 55.4, 25.3]
    for area in (flipped, named):
        assert area.crs is None or area.crs.name.startswith("Undefined")
        np.testing.assert_allclose(area.total_bounds, [2, 1, 8, 6], atol=1e-9)
    bboxes = (tmp_path / "bboxes.txt").read_text().splitlines()
    assert bboxes[:3] == ["", "1,3,5,4", "1,3,5,4"]
    corners = gpd.GeoSeries([box(55.1, 25.0, 55.2, 25.1)], crs=4326).to_crs(32640)
    np.testing.assert_allclose(
        [float(x) for x in bboxes[3].split(",")], corners.total_bounds, atol=20
    )


def test_parameters_become_options(
    in_qgis: InQgis, fake_program: FakeProgram, scene: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(SETTING, str(fake_program()))
    script = """
        processing.run("geodeform:segment", {
            "INPUT": sys.argv[1], "OUTPUT": sys.argv[2], **json.loads(sys.argv[3])})
        """
    output = tmp_path / "o.tif"
    in_qgis(script, scene, output, "{}")
    assert words_of(tmp_path) == [
        "segment", "--json", "--model=dubai", "--device=auto", f"--output={output}",
        "--overwrite", "--", str(scene),
    ]  # fmt: skip
    everything = {
        "MODEL": str(tmp_path / "m.safetensors"), "BUDGET": " 128 ", "SAMPLER": "uniform",
        "BANDS": "3, 2 1", "NODATA": 0, "STRETCH": "2,98", "GSD": 0.5, "OVERLAP": 0,
        "DEVICE": "cpu", "MIN_AREA": 20, "SIMPLIFY": 0.5, "SMOOTH": 2, "FILL_HOLES": 9.5,
        "OVERWRITE": False, "SAMPLES": str(tmp_path / "s.fgb"), "FOCUS_CLASS": "Road",
        "PRIORITY": str(scene), "ALLOCATION": "need", "TIME_LIMIT": 30, "REFINE": 2,
    }  # fmt: skip
    in_qgis(script, scene, output, json.dumps(everything))
    assert words_of(tmp_path) == [
        "segment", "--json", f"--model={tmp_path}/m.safetensors", "--budget=128",
        "--sampler=uniform", "--allocation=need", "--focus-class=Road", "--stretch=2,98",
        "--device=cpu", "--nodata=0", "--gsd=0.5", "--overlap=0", "--bands=3,2,1",
        f"--priority={scene}", f"--output={output}", f"--samples={tmp_path}/s.fgb",
        "--min-area=20", "--simplify=0.5", "--smooth=2", "--fill-holes=9.5", "--time-limit=30",
        "--refine=2", "--", str(scene),
    ]  # fmt: skip
