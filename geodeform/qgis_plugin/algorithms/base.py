"""What the algorithms share: parameters of scene, model and area, and the call of geodeform."""

# ruff: noqa: N802 — QGIS calls these methods by their names

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from processing.core.ProcessingConfig import ProcessingConfig
from processing.gui.RenderingStyles import RenderingStyles
from qgis.core import (
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterFile,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
)
from qgis.PyQt import sip
from qgis.PyQt.QtGui import QIcon

from ..command import (
    SETTING,
    CommandError,
    build_arguments,
    child_environment,
    find_program,
    read_results,
    run_program,
    split_list,
)
from ..scene import LayerScene

_FOLDER = Path(__file__).parent.parent
_MODELS = "geodeform models (*.safetensors);;All files (*)"  # the second lets names through

Parameters = Mapping[str, Any]


class _DefaultStyle(QgsProcessingLayerPostProcessorInterface):
    """Gives a loaded output the style that geodeform wrote with it.

    Processing opens outputs without the style that lies beside or in their file.
    """

    kept: ClassVar[list[_DefaultStyle]] = []

    @classmethod
    def new(cls) -> _DefaultStyle:
        """Return one that lives until the context, which it is given to, deletes it.

        QGIS tells sip neither that the context takes it over nor that it needs its Python half.
        """
        cls.kept[:] = [one for one in cls.kept if not sip.isdeleted(one)]
        processor = cls()
        sip.transferto(processor, None)
        cls.kept.append(processor)
        return processor

    def postProcessLayer(
        self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Load the style and show it."""
        layer.loadDefaultStyle()
        layer.triggerRepaint()


class GeodeformAlgorithm(QgsProcessingAlgorithm):
    """Base of the algorithms.

    Subclasses set the class attributes and add their parameters in ``initAlgorithm``.

    Attributes:
        ID: Id of the algorithm, after ``geodeform:``.
        TITLE: Name in the toolbox.
        TAGS: Words that the toolbox's search finds it by.
        ABOUT: Paragraphs of help, before those of the parameters.
    """

    ID = ""
    TITLE = ""
    TAGS: Sequence[str] = ()
    ABOUT: Sequence[str] = ()

    def name(self) -> str:
        """Id after the colon."""
        return self.ID

    def displayName(self) -> str:
        """Name in the toolbox."""
        return self.TITLE

    def tags(self) -> list[str]:
        """Words for the toolbox's search."""
        return ["land cover", "segmentation", "deep learning", "remote sensing", *self.TAGS]

    def icon(self) -> QIcon:
        """The provider's icon."""
        return QIcon(self.svgIconPath())

    def svgIconPath(self) -> str:
        """The icon's file."""
        return str(_FOLDER / "icon.svg")

    def createInstance(self) -> GeodeformAlgorithm:
        """A new object, as QGIS wants for each run."""
        return type(self)()

    def shortHelpString(self) -> str:
        """Help beside the dialog: what it does, then each parameter and output."""
        about = "".join(f"<p>{text}</p>" for text in self.ABOUT)
        parts = "".join(
            f"<h3>{html.escape(definition.description())}</h3><p>{definition.help()}</p>"
            for definition in self.parameterDefinitions()
        )
        return about + parts

    def canExecute(self) -> tuple[bool, str]:
        """Whether geodeform is there; else what to do, which QGIS shows instead of the dialog."""
        try:
            find()
        except CommandError as error:
            return False, str(error)
        return True, ""

    # ---- parameters ------------------------------------------------------------------------------

    def add(
        self, parameter: QgsProcessingParameterDefinition, about: str, *, advanced: bool = False
    ) -> None:
        """Add a parameter with its help.

        Args:
            parameter: Handed over to QGIS.
            about: Help, HTML.
            advanced: Whether it is folded away at first.
        """
        parameter.setHelp(about)
        if advanced:
            parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
        self.addParameter(parameter)

    def add_scene_and_model(self) -> None:
        """Add ``INPUT`` and ``MODEL``."""
        self.add(
            QgsProcessingParameterRasterLayer("INPUT", "Scene"),
            "A raster layer that comes from a file. It is read window by window, so it may be far "
            "larger than the memory.",
        )
        self.add(
            QgsProcessingParameterFile(
                "MODEL", "Model", fileFilter=_MODELS, defaultValue="dubai", optional=True
            ),
            "A packaged model's name, or a .safetensors file that geodeform trained. The packaged "
            "<i>dubai</i> is for RGB imagery of about 1 m of arid cities, and for nothing else.",
        )

    def add_budget(self) -> None:
        """Add ``BUDGET``."""
        self.add(
            QgsProcessingParameterString("BUDGET", "Budget", optional=True),
            "Pixels to sample: a share of the scene (1.5%), samples a window (128 for 128x128), or "
            "a total (2MP). Empty: the model's own.",
        )

    def add_bands(self) -> None:
        """Add ``BANDS``."""
        self.add(
            QgsProcessingParameterString("BANDS", "Bands", optional=True),
            "Bands that the model's bands are read from, counted from 1, in the model's order: "
            "3,2,1. Empty: by the colours that the file states, else in order.",
        )

    def add_area(self) -> None:
        """Add ``EXTENT`` and ``AOI``."""
        self.add(
            QgsProcessingParameterExtent("EXTENT", "Extent", optional=True),
            "Map only this rectangle; it is brought to the scene's CRS. Empty: the whole scene.",
        )
        self.add(
            QgsProcessingParameterFeatureSource(
                "AOI", "Area of interest", [QgsProcessing.TypeVectorPolygon], optional=True
            ),
            "Map only inside these polygons (or the selected ones), in any CRS.",
        )

    def add_focus(self) -> None:
        """Add ``FOCUS``, ``FOCUS_CLASS``, ``PRIORITY`` and ``ALLOCATION``."""
        self.add(
            QgsProcessingParameterFeatureSource(
                "FOCUS", "Focus", [QgsProcessing.TypeVectorPolygon], optional=True
            ),
            "More of the budget goes inside these polygons (or the selected ones), in any CRS.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterString("FOCUS_CLASS", "Focus on class", optional=True),
            "More of the budget goes where this class is expected, such as Road; for models that "
            "allocate by need.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterRasterLayer("PRIORITY", "Priority", optional=True),
            "A raster of weights of 0 or more, in any CRS: what an error counts at each place.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterEnum(
                "ALLOCATION",
                "Allocation",
                ["even", "need"],
                optional=True,
                usesStaticStrings=True,
            ),
            "Whether every window gets the same number of samples, or the windows where they are "
            "expected to take away most errors get more. Not set: by need, where the model can.",
            advanced=True,
        )

    def add_sampler(self) -> None:
        """Add ``SAMPLER``."""
        self.add(
            QgsProcessingParameterEnum(
                "SAMPLER",
                "Sampler",
                ["learned", "uniform", "interpolation"],
                optional=True,
                usesStaticStrings=True,
            ),
            "Where to sample: as the model learned to, uniformly, or by a learned resizer; a model "
            "knows those it was trained with. Not set: the model's own.",
            advanced=True,
        )

    def add_reading(self) -> None:
        """Add ``NODATA``, ``STRETCH``, ``GSD`` and ``OVERLAP``."""
        double = QgsProcessingParameterNumber.Double
        self.add(
            QgsProcessingParameterNumber("NODATA", "Value without data", double, optional=True),
            "Where the file does not say it. What is set in the layer's properties does not count.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterString("STRETCH", "Stretch", optional=True),
            "How values become 0 to 1: <i>auto</i> (the model's range for 8-bit scenes, else "
            "percentiles), <i>none</i>, or two percentiles such as 2,98. Empty: auto.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterNumber(
                "GSD", "Ground sampling distance [m]", double, optional=True, minValue=0
            ),
            "Of the scene, where the file does not say it, or says it wrongly.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterNumber(
                "OVERLAP", "Overlap of windows", double, optional=True, minValue=0, maxValue=0.5
            ),
            "Part of a window shared with each neighbour, 0 to 0.5; scores blend there. Not set: "
            "0.125.",
            advanced=True,
        )

    def add_device(self) -> None:
        """Add ``DEVICE``."""
        self.add(
            QgsProcessingParameterString("DEVICE", "Device", defaultValue="auto"),
            "Where to compute: <i>auto</i> (the first NVIDIA GPU where there is one), <i>cpu</i>, "
            "<i>cuda</i> or <i>cuda:1</i>.",
            advanced=True,
        )

    def add_overwrite(self) -> None:
        """Add ``OVERWRITE``."""
        self.add(
            QgsProcessingParameterBoolean(
                "OVERWRITE", "Replace outputs that exist", defaultValue=True
            ),
            "As QGIS's own algorithms do. Otherwise an output that exists is an error, before any "
            "work. Outputs appear complete, or not at all.",
            advanced=True,
        )

    # ---- from parameters to options --------------------------------------------------------------

    def scene(self, parameters: Parameters, context: QgsProcessingContext) -> LayerScene:
        """Return the scene.

        Raises:
            QgsProcessingException: If there is none, or it is no file.
        """
        layer = self.parameterAsRasterLayer(parameters, "INPUT", context)
        if layer is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, "INPUT"))
        return LayerScene.of(layer)

    def shared_options(
        self, scene: LayerScene, parameters: Parameters, context: QgsProcessingContext
    ) -> dict[str, Any]:
        """Return the options of geodeform for the parameters that this algorithm has and were set.

        Raises:
            QgsProcessingException: If an area or the priority cannot be read or written.
        """
        options: dict[str, Any] = {}
        for name in (
            "MODEL", "BUDGET", "SAMPLER", "ALLOCATION", "FOCUS_CLASS", "STRETCH", "DEVICE",
        ):  # fmt: skip
            if self._given(name, parameters):
                text = self.parameterAsString(parameters, name, context).strip()
                options[name.lower().replace("_", "-")] = text
        for name in ("NODATA", "GSD", "OVERLAP"):
            if self._given(name, parameters):
                options[name.lower()] = self.parameterAsDouble(parameters, name, context)
        if self._given("BANDS", parameters):
            options["bands"] = split_list(self.parameterAsString(parameters, "BANDS", context))
        if self._given("EXTENT", parameters):
            extent = self.parameterAsExtent(parameters, "EXTENT", context, scene.crs)
            if not extent.isNull():
                options["bbox"] = scene.bbox(extent)
        for name in ("AOI", "FOCUS"):
            if self._given(name, parameters):
                source = self.parameterAsSource(parameters, name, context)
                if source is None:
                    raise QgsProcessingException(self.invalidSourceError(parameters, name))
                options[name.lower()] = scene.write_area(source, context)
        if self._given("PRIORITY", parameters):
            layer = self.parameterAsRasterLayer(parameters, "PRIORITY", context)
            if layer is None:
                raise QgsProcessingException(self.invalidRasterError(parameters, "PRIORITY"))
            options["priority"] = LayerScene.of(layer).path
        return options

    def _given(self, name: str, parameters: Parameters) -> bool:
        """Whether a parameter of this algorithm has a value, its default counting as one."""
        definition = self.parameterDefinition(name)
        if definition is None:
            return False
        value = parameters.get(name, definition.defaultValue())
        return value is not None and value != ""

    def output_file(self, parameters: Parameters, name: str, context: QgsProcessingContext) -> str:
        """Return an output's path, styled once it is loaded; empty where it is to be skipped.

        A style that the user chose for this output in Processing is left to him.
        """
        if not self._given(name, parameters):
            return ""
        path = str(self.parameterAsOutputLayer(parameters, name, context))
        own_style = RenderingStyles.getStyle(self.id(), name)
        if context.willLoadLayerOnCompletion(path) and not own_style:
            context.layerToLoadOnCompletionDetails(path).setPostProcessor(_DefaultStyle.new())
        return path

    def call(
        self,
        command: str,
        scene: LayerScene,
        options: Mapping[str, Any],
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        """Run a command of geodeform on the scene and return its result.

        Raises:
            Cancelled: If the user cancelled.
            CommandError: If geodeform is missing or fails.
        """
        words = [*find(), *build_arguments(command, scene.path, options)]
        return read_results(run_program(words, feedback, environ=child_environment(os.environ)))[0]


def find() -> list[str]:
    """Return the words that start geodeform, by setting, environment, path or record.

    Raises:
        CommandError: If it is not found.
    """
    return find_program(ProcessingConfig.getSetting(SETTING), os.environ)


def cancelled(context: QgsProcessingContext) -> dict[str, Any]:
    """Return a cancelled algorithm's results: none, and nothing to load."""
    context.setLayersToLoadOnCompletion({})
    return {}
