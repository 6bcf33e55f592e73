"""geodeform seen from outside: find the program, build its arguments, run it, read its answer.

Nothing here needs QGIS, so it is tested without. What QGIS calls feedback is the small
:class:`Feedback` below.
"""

from __future__ import annotations

import configparser
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Protocol

    class Feedback(Protocol):
        """The part of ``QgsProcessingFeedback`` that is used here, under QGIS's names."""

        def pushInfo(self, info: str) -> None: ...  # noqa: D102, N802
        def pushWarning(self, warning: str) -> None: ...  # noqa: D102, N802
        def pushCommandInfo(self, info: str) -> None: ...  # noqa: D102, N802
        def setProgress(self, progress: float) -> None: ...  # noqa: D102, N802
        def isCanceled(self) -> bool: ...  # noqa: D102, N802


SETTING = "GEODEFORM_EXECUTABLE"
"""Name of the Processing setting, and of the environment variable, that say where geodeform is."""

WHERE_TO_SET = "Settings > Options > Processing > Providers > geodeform"
"""How the setting is reached in QGIS."""

RECORD = "installed.json"
"""File of the plugin that says which environment made the ZIP; ``--portable`` leaves it out."""

# QGIS on Windows and macOS sets these for the libraries that it brings along; those of geodeform's
# environment would read another version's files.
_FOREIGN = re.compile(r"PYTHON|GDAL_(DATA|DRIVER_PATH)$|PROJ_(LIB|DATA)$|QT_PLUGIN_PATH$")
_PROGRESS = re.compile(r"progress (\d+)/(\d+)$")
_POLL_S = 0.1
_GRACE_S = 30.0  # to remove what is half-written; a network file system may be slow


class CommandError(Exception):
    """geodeform is missing or failed; the message is what the user should read."""


class Cancelled(Exception):  # noqa: N818 — it is no error
    """The user cancelled; the program has ended and removed what it had begun."""


# ---- where it is ---------------------------------------------------------------------------------


def find_program(
    setting: str | None, environ: Mapping[str, str], folder: Path | None = None
) -> list[str]:
    """Return the words that start geodeform.

    Tried in turn: the Processing setting, the environment variable ``GEODEFORM_EXECUTABLE``, the
    ``PATH``, and the environment that made the plugin's ZIP. The first two may name geodeform, or
    the Python of an environment that it is installed in. One that is set but wrong is an error:
    another geodeform is not taken in its place.

    Args:
        setting: Value of the Processing setting, if any.
        environ: The environment.
        folder: Folder of the plugin, with the record of where it was made.

    Raises:
        CommandError: If it is not found; the message says what to do.
    """
    told = (
        (setting, f"The setting in {WHERE_TO_SET}"),
        (environ.get(SETTING), f"The environment variable {SETTING}"),
    )
    for value, who in told:
        if value and value.strip():
            path = Path(value.strip()).expanduser()
            if not path.is_file() or not os.access(path, os.X_OK):
                raise CommandError(
                    f"{who} says that geodeform is {path}, but no program is there: correct it, "
                    "or clear it so that geodeform is looked for."
                )
            return _words(path)
    found = shutil.which("geodeform", path=environ.get("PATH", ""))
    if found is not None:
        return _words(Path(found))
    recorded = _recorded(folder or Path(__file__).parent)
    if recorded is not None:
        return _words(recorded)
    raise CommandError(
        "geodeform was not found. Install it outside QGIS (in an environment of its own: pip "
        "install geodeform), then choose its executable, bin/geodeform or Scripts\\geodeform.exe "
        f"of that environment, in {WHERE_TO_SET}."
    )


def _words(path: Path) -> list[str]:
    # -P: a folder called geodeform where QGIS happens to be running must not be imported
    python = path.name.lower().startswith("python")
    return [str(path), "-P", "-m", "geodeform"] if python else [str(path)]


def _recorded(folder: Path) -> Path | None:
    """The Python of the environment that made the ZIP, if it is still there."""
    try:
        path = Path(json.loads((folder / RECORD).read_text(encoding="utf-8"))["python"])
    except (OSError, ValueError, KeyError, TypeError):  # no record, or edited by hand
        return None
    return path if path.is_file() else None


def plugin_version() -> str:
    """Return the version in ``metadata.txt``: the one of the geodeform that made the plugin."""
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(Path(__file__).with_name("metadata.txt"), encoding="utf-8")
    return metadata["general"]["version"]


# ---- what it is told -----------------------------------------------------------------------------


def build_arguments(command: str, scene: str, options: Mapping[str, Any]) -> list[str]:
    """Return ``command --json --name=value … -- scene``.

    Args:
        command: Subcommand, such as ``segment``.
        scene: Path or GDAL name of the scene.
        options: By name without dashes: text, a path or a number is written; True is a flag; a
            sequence is joined by commas; None, False and empty text are left out.

    >>> build_arguments("segment", "a.tif", {"min-area": 50.0, "bands": [3, 2, 1], "sampler": None})
    ['segment', '--json', '--min-area=50', '--bands=3,2,1', '--', 'a.tif']
    """
    words = [command, "--json"]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False and value != "":
            words.append(f"--{name}={_text(value)}")
    return [*words, "--", scene]


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(_text(part) for part in value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)  # repr loses no digit
    return str(value)


def split_list(text: str) -> list[str]:
    """Return the words of a list with commas, semicolons or spaces between.

    >>> split_list("0.5%, 1%;128x96")
    ['0.5%', '1%', '128x96']
    """
    return [word for word in re.split(r"[\s,;]+", text) if word]


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return QGIS's environment without what belongs to QGIS's own Python, GDAL and PROJ.

    ``GEODEFORM_PROGRESS=lines`` asks for lines such as ``progress 3/25`` on standard error.
    """
    kept = {name: value for name, value in environ.items() if not _FOREIGN.match(name)}
    return {**kept, "PYTHONUTF8": "1", "GEODEFORM_PROGRESS": "lines"}


# ---- what it does --------------------------------------------------------------------------------


@dataclass
class Finished:
    """How a run ended.

    Attributes:
        code: Exit code; negative for the signal that ended it.
        output: Standard output.
        errors: Sentences that standard error had after ``Error: ``.
        lines: Everything else on standard error, by line.
    """

    code: int
    output: str
    errors: list[str]
    lines: list[str]


def run_program(
    words: Sequence[str],
    feedback: Feedback,
    *,
    environ: Mapping[str, str],
    span: tuple[float, float] = (0.0, 100.0),
) -> Finished:
    """Run geodeform to its end, show what it says, and end it where the user cancels.

    Args:
        words: Program and arguments.
        feedback: Gets its messages and progress, and is asked whether the user cancelled.
        environ: The child's environment, see :func:`child_environment`.
        span: Progress in percent where the run begins and where it ends.

    Raises:
        Cancelled: If the user cancelled. geodeform was asked to end (SIGTERM) and has removed its
            half-written files. Windows knows no such request: there the folder ``.geodeform-…``
            beside the outputs may be left, and may be deleted.
        CommandError: If the program cannot be started.
    """
    feedback.pushCommandInfo(command_line(words))
    try:
        child = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=dict(environ),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # no console, on Windows
        )
    except OSError as error:
        raise CommandError(
            f"{words[0]} cannot be started ({error.strerror}): choose another geodeform in "
            f"{WHERE_TO_SET}."
        ) from error
    assert child.stdout is not None
    assert child.stderr is not None
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    output: list[str] = []
    # Both pipes are read beside the loop: a full one would block the child, a read would block us.
    readers = [
        threading.Thread(target=_read_lines, args=(child.stderr, said), daemon=True),
        threading.Thread(target=lambda pipe: output.append(pipe.read()), args=(child.stdout,)),
    ]
    readers[1].daemon = True
    for reader in readers:
        reader.start()
    finished = Finished(0, "", [], [])
    try:
        _follow(said, finished, feedback, span)
        finished.code = child.wait()
    finally:
        if child.poll() is None:  # cancelled, or QGIS itself is ending
            _end(child)
        for reader in readers:
            reader.join(timeout=_GRACE_S)
        child.stdout.close()
        child.stderr.close()
    finished.output = "".join(output)
    return finished


def _read_lines(pipe: IO[str], said: queue.SimpleQueue[str | None]) -> None:
    for line in pipe:
        said.put(line.rstrip())
    said.put(None)


def _follow(
    said: queue.SimpleQueue[str | None],
    finished: Finished,
    feedback: Feedback,
    span: tuple[float, float],
) -> None:
    """Pass on what the child says until it says no more."""
    while True:
        if feedback.isCanceled():
            raise Cancelled
        try:
            line = said.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if line is None:
            return
        progress = _PROGRESS.match(line)
        if progress is not None:
            done, total = int(progress[1]), max(1, int(progress[2]))
            feedback.setProgress(span[0] + (span[1] - span[0]) * min(1.0, done / total))
        elif line.startswith("Error: "):  # shown once, by whoever reads the run's end
            finished.errors.append(line[len("Error: ") :])
        elif line:
            finished.lines.append(line)
            if line.startswith("Note: "):
                feedback.pushWarning(line[len("Note: ") :])
            else:
                feedback.pushInfo(line)


def _end(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def command_line(words: Sequence[str]) -> str:
    """A command as it can be pasted into a terminal."""
    if os.name == "nt":
        return subprocess.list2cmdline(words)
    return " ".join(shlex.quote(word) for word in words)


# ---- what it answers -----------------------------------------------------------------------------


def read_results(finished: Finished) -> list[dict[str, Any]]:
    """Return the ``results`` of a run's JSON.

    Raises:
        CommandError: If the run failed, with geodeform's own sentence, or printed no JSON.
    """
    if finished.code == 0:
        try:
            told = json.loads(finished.output)
        except ValueError as error:
            raise CommandError(
                "geodeform ended without saying what it did: is the program that is set in "
                f"{WHERE_TO_SET} geodeform?"
            ) from error
        results = told.get("results") if isinstance(told, dict) else None
        return results if isinstance(results, list) else [told]
    raise CommandError(_failure(finished))


def _failure(finished: Finished) -> str:
    message = " ".join(finished.errors)
    if message.startswith(("No such command", "No such option")):
        return (
            f"{message} This plugin belongs to geodeform {plugin_version()}, and the one that it "
            f"found is another version: update it, or choose another in {WHERE_TO_SET}."
        )
    if message:
        return message
    if finished.code < 0:
        try:
            name = signal.Signals(-finished.code).name
        except ValueError:
            name = str(-finished.code)
        hint = "; the memory may be too small for it" if name == "SIGKILL" else ""
        return f"geodeform was ended from outside ({name}){hint}."
    last = finished.lines[-1] if finished.lines else "no message"
    return f"geodeform failed with exit code {finished.code}: {last}"


# ---- files ---------------------------------------------------------------------------------------


def beside(output: Path, kind: str) -> Path:
    """Where ``geodeform segment -o output --confidence`` (or ``--density``) writes the raster."""
    return output.with_name(f"{output.stem}_{kind}.tif")


def check_free(
    moves: Mapping[Path, Path], *, others: Sequence[str | Path], overwrite: bool
) -> None:
    """Find, before any work, what would stop :func:`move_raster` after it.

    Args:
        moves: Where geodeform will write a raster → where it shall be.
        others: The other output, and the scene: no raster may replace these.
        overwrite: Whether existing targets may be replaced.

    Raises:
        CommandError: If a target exists and must not be replaced, is another file of the run, has
            no folder, or if geodeform's own place is taken by a file of the user's.
    """
    for source, target in moves.items():
        taken = {Path(other).absolute() for other in others}
        if target.absolute() in taken or list(moves.values()).count(target) > 1:
            raise CommandError(f"Cannot write {target} twice: give each output its own name.")
        if not target.parent.is_dir():
            raise CommandError(f"Cannot write {target}: the folder {target.parent} does not exist.")
        if target.exists() and not overwrite:
            raise CommandError(f"{target} exists already: choose another name, or replace it.")
        if source.exists() and source != target:
            raise CommandError(
                f"{source} exists already, and geodeform would write there first: choose it for "
                "this output, or another name for the class raster."
            )


def move_raster(source: Path, target: Path) -> None:
    """Move a raster with its sidecars (``.tif.aux.xml``, ``.qml``); an existing one is replaced.

    Raises:
        CommandError: If it cannot be moved; it is then still where it was.
    """
    if source == target:
        return
    try:
        for suffix in (".aux.xml", ".ovr", ".msk"):  # of the file that is replaced
            target.with_name(target.name + suffix).unlink(missing_ok=True)
        for old, new in (
            (
                source.with_name(f"{source.name}.aux.xml"),
                target.with_name(f"{target.name}.aux.xml"),
            ),
            (source.with_suffix(".qml"), target.with_suffix(".qml")),
            (source, target),
        ):
            if old.is_file():
                ready = new.with_name(f".{new.name}.part")  # it may come from another file system
                shutil.move(str(old), str(ready))
                ready.replace(new)
    except OSError as error:
        raise CommandError(
            f"{source} is complete but cannot be moved to {target} ({error.strerror})."
        ) from error
