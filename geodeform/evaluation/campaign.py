"""Campaign: do what an experiment asks for, each training and evaluation in a process of its own.

Everything is kept in one folder, that several experiments can share::

    FOLDER/networks/KEY/recipe.yaml           the resolved recipe, KEY is its hash
                        /log.txt              what the commands said
                        /run/                 the training; model.safetensors, when it is done
                        /val-learned-64x64.json   an evaluation, when it is done
    FOLDER/times/NAME.json                    what the methods of the experiment NAME take
    FOLDER/NAME/                              its report

What is there is not done again; a training that was stopped goes on from its last checkpoint. A
network is not trained where its evaluations are all there, so results can travel without networks:
only times and pictures of blocks need those, and a report keeps its own where they are gone. Two
campaigns on one folder wait for each other where they want the same network.
"""

from __future__ import annotations

import logging
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from geodeform.config import TrainConfig
from geodeform.errors import OutputError
from geodeform.evaluation.experiment import Entry, Experiment, Trial, shown_size
from geodeform.evaluation.result import Evaluation, read_evaluation
from geodeform.training.train import CONFIG_NAME, MODEL_NAME

_LOG = logging.getLogger("geodeform")

NETWORKS, TIMES = "networks", "times"
_RECIPE, _SAID, _RUN = "recipe.yaml", "log.txt", "run"
_LOOK_S = 0.5  # between two looks at a lock
_SPARE = ("checkpoints", "logs")  # of a finished training: large, and of no more use


@dataclass(frozen=True)
class Work:
    """One network: its training, then its evaluations, in one process after the other.

    Attributes:
        key: Of the training.
        config: Its resolved recipe.
        title: What it is called in messages.
        trials: Evaluations.
        folder: Where all of it is kept.
    """

    key: str
    config: TrainConfig
    title: str
    trials: tuple[Trial, ...]
    folder: Path

    @property
    def model(self) -> Path:
        """The trained network's file."""
        return self.folder / _RUN / MODEL_NAME

    def result(self, trial: Trial) -> Path:
        """File of an evaluation."""
        return self.folder / trial.file_name

    def open_trials(self) -> list[Trial]:
        """Evaluations that are not done yet."""
        return [trial for trial in self.trials if not self.result(trial).is_file()]

    def is_done(self) -> bool:
        """Whether nothing is left to do: every evaluation is there, with or without its network."""
        return not self.open_trials()

    def write_recipe(self) -> None:
        """Write the recipe that the training's command names.

        Raises:
            OutputError: If the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _RECIPE).write_text(self.config.to_yaml(), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"Cannot write {self.folder} ({error.strerror}); choose another folder with -o."
            ) from error

    def commands(self, root: str | Path) -> list[list[str]]:
        """The commands that are left, as a reader would type them."""
        found = [_evaluate_command(self, trial, root) for trial in self.open_trials()]
        if found and not self.model.is_file():
            found.insert(0, _train_command(self, root))
        return found


@dataclass(frozen=True)
class Done:
    """A step that a campaign reports.

    Attributes:
        work: What it belongs to.
        trial: The evaluation; None for the training.
        seconds: It took.
        finished: Networks that are done now, with their evaluations.
        networks: Networks in all.
        failure: What went wrong, "" where nothing did.
    """

    work: Work
    trial: Trial | None
    seconds: float
    finished: int
    networks: int
    failure: str = ""


Report = Callable[[Done], None]


def plan_campaign(experiment: Experiment, folder: Path) -> list[Work]:
    """Return everything that an experiment needs, done or not, network by network.

    Args:
        experiment: With its folds filled in.
        folder: Of the campaign.
    """
    configs = experiment.trainings()
    titles: dict[str, str] = {}
    trials: dict[str, dict[str, Trial]] = {key: {} for key in configs}
    for entry in experiment.entries():
        key = entry.trial.training
        titles.setdefault(key, _title(experiment, entry))
        trials[key].setdefault(entry.trial.file_name, entry.trial)
    return [
        Work(key, config, titles[key], tuple(trials[key].values()), folder / NETWORKS / key)
        for key, config in configs.items()
    ]


def run_campaign(
    works: Sequence[Work],
    root: str | Path,
    *,
    processes: int = 1,
    devices: Sequence[str] = ("auto",),
    report: Report | None = None,
) -> list[str]:
    """Train and evaluate what is not there yet.

    Args:
        works: See :func:`plan_campaign`.
        root: The dataset's folder.
        processes: How many networks are worked on at a time.
        devices: As ``--device`` takes them; processes take turns on several.
        report: Called after each step, from one thread at a time.

    Returns:
        What failed, a sentence for each network; everything else was done all the same.
    """
    campaign = _Campaign(list(works), Path(root), report)
    slots: queue.SimpleQueue[str] = queue.SimpleQueue()
    for index in range(processes):
        slots.put(devices[index % len(devices)])
    environment = dict(os.environ)
    # else each process takes all cores, and they wait for each other
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))

    def one(work: Work) -> None:
        device = slots.get()
        try:
            campaign.work_off(work, device, environment)
        finally:
            slots.put(device)

    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(one, work) for work in works if not work.is_done()]
        try:
            for future in futures:
                future.result()
        except BaseException:
            campaign.stop()  # first: a thread that waits for a process or a lock ends by it
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return campaign.failures


def read_results(works: Sequence[Work], entries: Sequence[Entry]) -> dict[Entry, Evaluation]:
    """Read the evaluations that are there.

    Raises:
        ConfigError: If a file is damaged or of another version.
    """
    folders = {work.key: work for work in works}
    found: dict[Path, Evaluation] = {}
    results = {}
    for entry in entries:
        path = folders[entry.trial.training].result(entry.trial)
        if path not in found and path.is_file():
            found[path] = read_evaluation(path)
        if path in found:
            results[entry] = found[path]
    return results


@dataclass
class _Campaign:
    """What the threads of a campaign share."""

    works: list[Work]
    root: Path
    report: Report | None
    failures: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _stopped: bool = False

    def work_off(self, work: Work, device: str, environment: dict[str, str]) -> None:
        """Train a network and evaluate it, as far as that is not done."""
        try:
            work.folder.parent.mkdir(parents=True, exist_ok=True)  # of the lock
            with self._lock_of(work):
                if self._stopped or work.is_done():  # another campaign may have done it meanwhile
                    return
                work.write_recipe()
                if not work.model.is_file():
                    command = _train_command(work, self.root, device)
                    if not self._run(work, None, command, environment):
                        return
                for name in _SPARE:
                    shutil.rmtree(work.folder / _RUN / name, ignore_errors=True)
                for trial in work.open_trials():
                    command = _evaluate_command(work, trial, self.root, device)
                    if not self._run(work, trial, command, environment):
                        return
        except (OSError, OutputError) as error:
            with self._lock:
                self.failures.append(f"{work.title}: {error}")

    @contextmanager
    def _lock_of(self, work: Work) -> Iterator[None]:
        """Hold a network, waiting for another campaign that does; not once this one is stopped."""
        lock = FileLock(work.folder.with_suffix(".lock"))
        said = False
        while not self._stopped:
            try:
                lock.acquire(timeout=_LOOK_S)
            except Timeout:
                if not said:
                    _LOG.warning("%s: waiting for another campaign that works on it.", work.title)
                said = True
                continue
            break
        try:
            yield
        finally:
            lock.release()

    def stop(self) -> None:
        """End the processes: a training keeps its last checkpoint."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            process.wait()

    def _run(
        self, work: Work, trial: Trial | None, command: list[str], environment: dict[str, str]
    ) -> bool:
        began = time.monotonic()
        log = work.folder / _SAID
        with log.open("ab") as file:
            file.write(f"$ {shlex.join(['geodeform', *command])}\n".encode())
            file.flush()
            with self._lock:
                if self._stopped:
                    return False
                process = subprocess.Popen(
                    [sys.executable, "-m", "geodeform.cli.step", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**environment, "GEODEFORM_CAMPAIGN": str(os.getpid())},
                )
                self._running.append(process)
            code = process.wait()
        failure = ""
        with self._lock:
            self._running.remove(process)
            if code != 0 and not self._stopped:
                failure = f"{work.title}: {_why(code, log)} (all of it in {log})"
                self.failures.append(failure)
            if self.report is not None and not self._stopped:
                finished = sum(one.is_done() for one in self.works)
                seconds = time.monotonic() - began
                self.report(Done(work, trial, seconds, finished, len(self.works), failure))
        return code == 0


def _train_command(work: Work, root: str | Path, device: str | None = None) -> list[str]:
    run = work.folder / _RUN
    if (run / CONFIG_NAME).is_file():
        command = ["train", "--resume", str(run), "--root", str(root)]
    else:
        recipe = str(work.folder / _RECIPE)
        command = ["train", "--config", recipe, "--root", str(root), "-o", str(run), "--overwrite"]
    return command + ([] if device is None else ["--device", device])


def _evaluate_command(
    work: Work, trial: Trial, root: str | Path, device: str | None = None
) -> list[str]:
    command = ["evaluate", "-m", str(work.model), "--dataset", work.config.data.dataset]
    command += ["--root", str(root), "--split", trial.split]
    command += ["--sampler", trial.sampler]
    if trial.budget is not None:
        command += ["--budget", shown_size(trial.budget)]
    if trial.allocation is not None:
        command += ["--allocation", trial.allocation]
    command += ["-o", str(work.result(trial)), "--overwrite"]
    if work.config.data.classes is not None:
        command += ["--set", f"data.classes={work.config.data.classes}"]
    command += ["--set", f"data.cache={work.config.data.cache}"]
    return command + ([] if device is None else ["--device", device])


def _title(experiment: Experiment, entry: Entry) -> str:
    """What a network is called: of which method, seed and part."""
    method = experiment.methods[entry.method]
    if method.network_of is not None:
        method = experiment.methods[method.network_of]
    parts = [f"{method.study}: {method.title}" if method.study else method.title]
    alone = experiment.trained_for(method.name, entry.budget)
    if alone is not None:
        parts.append(f"at {shown_size(alone)}")
    if entry.fold:
        parts.append(f"without {', '.join(entry.fold)}")
    return f"{', '.join(parts)}, seed {entry.seed}"


def _why(code: int, log: Path) -> str:
    """Why a command failed: what it said last, unless it could not say it."""
    if code < 0:
        name = signal.Signals(-code).name
        memory = ", as when memory runs out: take a smaller -j or optim.batch_size"
        return f"ended by {name}{memory if name == 'SIGKILL' else ''}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ").rstrip(".") if lines else "it said nothing"
