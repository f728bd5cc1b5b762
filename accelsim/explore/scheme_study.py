"""A study of quantisation schemes: the same test images through every row of a study file, float and integer.

Integer rows run on the engine with the hardware's order of additions, so each figure is that of the machine. Every
evaluation is a part of its own (`parts`), named by a hash of all it depends on: a study that was interrupted, or to
which a row was added, makes only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from accelsim.config import QuantizationScheme, Row, StudyPlan, Trial
from accelsim.config.study import TrainSection
from accelsim.engine import execute
from accelsim.errors import InputError
from accelsim.explore.parts import Parts, study_key
from accelsim.ir import IntegerGraph, float_graph_digest, quantize_input
from accelsim.sources import Labelled, Network, find_network, load_images, training_images

FORMAT, VERSION = "accelsim-scheme-study", 1
FLOAT_PREDICTIONS_AT_ONCE = 1024
FLOAT_IMAGES_AT_ONCE = 32
"""Images whose every tensor is kept while a float graph is evaluated."""

MOST_KEPT = 8
"""Integer graphs, and sets of calibration images, of the last rows and seeds."""

K = TypeVar("K")
V = TypeVar("V")
Int64 = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], object]
"""Is told what is being done, and how many images of how many are done."""


@dataclass(frozen=True)
class _Loaded:
    """A network and its labelled test images, with the digests that parts are named by."""

    network: Network
    test: Labelled
    digest: str
    test_digest: str

    @property
    def labels(self) -> Int64:
        assert self.test.labels is not None
        return self.test.labels


class SchemeStudy:
    """One study being made, evaluation by evaluation."""

    def __init__(
        self,
        plan: StudyPlan,
        folder: Path,
        *,
        data: str | None = None,
        images: int | None = None,
        threads: int | None = None,
        progress: Progress = lambda *_: None,
    ):
        """Refuse what can be refused before anything is evaluated.

        Args:
            plan: from `config.load_study`.
            folder: gets the finished parts.
            data: a data set's name, or the folder that holds the workloads' own.
            images: instead of the file's.
            threads: of the engine; None takes every core.
        Raises:
            InputError: `folder` cannot be made.
        """
        self.plan = plan
        self.seeds = plan.seeds
        self.images = plan.file.images if images is None else images
        self._data, self._threads, self._progress = data, threads, progress
        self.parts = Parts(folder, study_key([]))
        self._loaded: dict[str, _Loaded] = {}
        self._floats: dict[str, list[int]] = {}
        self._calibrations: dict[tuple[str | None, int | None, int], tuple[Labelled, str]] = {}
        self._graphs: dict[tuple[str, str, str], IntegerGraph] = {}

    def run(self) -> dict[str, Any]:
        """Make what is missing and return the whole study (docs/formats.md)."""
        for workload in dict.fromkeys(row.workload for row in self.plan.rows):
            self._loaded[workload] = self._load(workload)
        rows = [self._row(row) for row in self.plan.rows]
        file = self.plan.file
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.plan.name,
            "title": file.title,
            "calibration_images": file.calibration_images,
            "seeds": list(self.seeds),
            "hardware": self.plan.hardware.model_dump(mode="json"),
            "against": file.against,
            "workloads": {
                workload: {
                    "data": loaded.test.source,
                    "images": len(loaded.labels),
                    "correct": self._right(loaded, self._float(workload)),
                    "accuracy": self._right(loaded, self._float(workload)) / len(loaded.labels),
                }
                for workload, loaded in self._loaded.items()
            },
            "rows": rows,
        }

    # Rows -------------------------------------------------------------------------------------------------------

    def _row(self, row: Row) -> dict[str, Any]:
        found: dict[str, Any] = {
            "label": row.label,
            "series": row.series,
            "axes": row.axes,
            "workload": row.workload,
            "kind": row.kind,
            "best": None,
            "quantization": None,
            "arithmetic": None,
        }
        if row.kind == "float":
            return {**found, **self._judged(row.workload, [(None, {"predictions": self._float(row.workload)})])}
        trial = row.trials[0]
        if row.best_of is not None:
            trial, tried = self._best(row)
            found["best"] = {"axis": row.best_of, "value": trial.axes[row.best_of], "tried": tried}
        found["quantization"] = trial.schemes[self.seeds[0]].model_dump(mode="json")
        if row.kind == "integer":
            found["arithmetic"] = asdict(trial.hardware.arithmetic())
        results = [(seed, self._evaluated(row, trial, seed, "test")) for seed in self.seeds]
        return {**found, **self._judged(row.workload, results)}

    def _judged(self, workload: str, results: Sequence[tuple[int | None, dict[str, Any]]]) -> dict[str, Any]:
        """How predictions compare with labels and with the float network's, seed by seed and on average.

        A seed of None is all of them. What could not be evaluated has the reason in place of figures.
        """
        loaded, judged = self._loaded[workload], []
        count = len(loaded.labels)
        reference = np.array(self._float(workload))
        for seed, result in results:
            if "refused" in result:
                judged.append({"seed": seed, "refused": result["refused"]})
                continue
            predictions = result["predictions"]
            right = self._right(loaded, predictions)
            changed = int(np.sum(np.array(predictions) != reference))
            judged.append({"seed": seed, "correct": right, "accuracy": right / count, "predictions_changed": changed})
        good = [one for one in judged if "refused" not in one]
        if len(good) < len(judged):
            return {"seeds": judged, "accuracy": None, "minus_float": None, "predictions_changed": None}
        correct = sum(one["correct"] for one in good)
        return {
            "seeds": judged,
            "accuracy": correct / (count * len(good)),
            "minus_float": 100 * (correct - len(good) * self._right(loaded, reference.tolist())) / (count * len(good)),
            "predictions_changed": sum(one["predictions_changed"] for one in good) / len(good),
        }

    def _best(self, row: Row) -> tuple[Trial, list[dict[str, Any]]]:
        """The trial that is right most often on the calibration images, over all seeds; of equal ones the first."""
        tried = []
        for trial in row.trials:
            right = 0
            refused = None
            for seed in self.seeds:
                labels = self._calibrated(row.workload, seed)[0].labels
                found = self._evaluated(row, trial, seed, "calibration")
                refused = refused or found.get("refused")
                if refused is None:
                    right += int(np.sum(np.array(found["predictions"]) == labels))
            assert row.best_of is not None
            share = None if refused else right / (len(self.seeds) * self.plan.file.calibration_images)
            tried.append({"value": trial.axes[row.best_of], "calibration_accuracy": share})
        shares = [-1.0 if one["calibration_accuracy"] is None else one["calibration_accuracy"] for one in tried]
        return row.trials[shares.index(max(shares))], tried

    # Evaluations ------------------------------------------------------------------------------------------------

    def _float(self, workload: str) -> list[int]:
        """Classes that the float network gives the test images."""
        from accelsim.frontend import float_predictions

        loaded = self._loaded[workload]

        def make() -> list[int]:
            images = loaded.test.images
            found: list[int] = []
            while len(found) < len(images):
                self._progress(f"{workload}, float", len(found), len(images))
                batch = images[len(found) : len(found) + FLOAT_PREDICTIONS_AT_ONCE]
                found += float_predictions(loaded.network.module, batch).tolist()
            return found

        if workload not in self._floats:
            self._floats[workload] = self.parts.finished(_name("float", loaded.digest, loaded.test_digest), make)
        return self._floats[workload]

    def _evaluated(self, row: Row, trial: Trial, seed: int, on: str) -> dict[str, Any]:
        """`predictions` of one network on the test or calibration images, or why it was `refused`."""
        loaded = self._loaded[row.workload]
        calibration, calibration_digest = self._calibrated(row.workload, seed)
        images, images_digest = loaded.test.images, loaded.test_digest
        if on == "calibration":
            images, images_digest = calibration.images, calibration_digest

        def make() -> dict[str, Any]:
            what = f"{row.label}, seed {seed}" if on == "test" else f"{_choice(row, trial)}, seed {seed}"
            self._progress(what, 0, len(images))
            try:
                with warnings.catch_warnings():
                    # A row of narrow biases asks for this, and its accuracy says what it costs.
                    warnings.filterwarnings("ignore", ".*: biases saturate in ")
                    if row.train is not None:
                        graph = self._trained(loaded, trial.schemes[seed], calibration, row.train, seed, what)
                    else:
                        graph = self._quantized(loaded, trial.schemes[seed], calibration, calibration_digest)
                if row.kind == "weights_only":
                    predictions = self._weights_only(loaded.network, graph, trial.schemes[seed], images, what)
                else:
                    predictions = self._on_integers(graph, trial, images, what)
            except InputError as error:  # a point that does not fit is a result with a reason
                return {"refused": str(error)}
            return {"predictions": predictions.tolist()}

        integers = {} if row.kind == "weights_only" else asdict(trial.hardware.arithmetic())
        train = None if row.train is None else row.train.model_dump(mode="json")
        inputs = (row.kind, loaded.digest, trial.schemes[seed].model_dump(mode="json"), integers, train, seed)
        found: dict[str, Any] = self.parts.finished(_name(*inputs, calibration_digest, images_digest), make)
        return found

    def _quantized(
        self, loaded: _Loaded, scheme: QuantizationScheme, calibration: Labelled, calibration_digest: str
    ) -> IntegerGraph:
        """The integer graph of a scheme; the last ones are kept, for rows that differ in the machine alone."""
        from accelsim.quantization import quantize

        return _kept(
            self._graphs,
            (loaded.digest, calibration_digest, scheme.model_dump_json()),
            lambda: quantize(loaded.network.graph, calibration.images, scheme),
        )

    def _trained(
        self,
        loaded: _Loaded,
        scheme: QuantizationScheme,
        calibration: Labelled,
        train: TrainSection,
        seed: int,
        what: str,
    ) -> IntegerGraph:
        """The integer graph after quantisation-aware training; the seed decides the order of the images."""
        from accelsim.training import QatModule, fine_tune

        images = training_images(loaded.network, self._data, train.images)
        assert images.labels is not None
        module = QatModule.from_module(
            loaded.network.module, calibration.images, scheme, name=loaded.network.graph.name
        )
        fine_tune(
            module,
            images.images,
            images.labels,
            epochs=train.epochs,
            rate=train.learning_rate,
            batch=train.batch,
            seed=seed,
            progress=lambda epoch, _: self._progress(f"{what}, training", epoch, train.epochs),
        )
        return module.to_graph()

    def _on_integers(self, graph: IntegerGraph, trial: Trial, images: Any, what: str) -> Int64:
        output = execute(
            graph,
            quantize_input(graph, images),
            trial.hardware.arithmetic(),
            threads=self._threads,
            progress=lambda done: self._progress(what, done, len(images)),
        )[graph.output]
        return np.asarray(graph.to_pytorch(output).argmax(axis=1), dtype=np.int64)

    def _weights_only(
        self, network: Network, graph: IntegerGraph, scheme: QuantizationScheme, images: Any, what: str
    ) -> Int64:
        from accelsim.quantization import evaluate, with_quantized_weights

        changed = with_quantized_weights(network.graph, graph, scheme)
        predictions = []
        for first in range(0, len(images), FLOAT_IMAGES_AT_ONCE):
            batch = images[first : first + FLOAT_IMAGES_AT_ONCE]
            predictions.append(evaluate(changed, batch)[changed.output].argmax(axis=1))
            self._progress(what, first + len(batch), len(images))
        return np.concatenate(predictions).astype(np.int64)

    # Networks and images ----------------------------------------------------------------------------------------

    def _load(self, workload: str) -> _Loaded:
        network = find_network(workload, data=self._data)
        shape = network.graph.by_name[network.graph.output].shape
        if len(shape) != 1:
            raise InputError(f"{workload}: its output has shape {shape}; a study needs a classifier, with a vector")
        if network.dataset is None:
            raise InputError(f"{workload}: its images have no labels; give --data NAME of a data set")
        if network.seeded:
            raise InputError(f"{workload}: nobody trained its weights, so a study of its accuracy means nothing")
        test = load_images(network, self._data, self.images)
        return _Loaded(network, test, float_graph_digest(network.graph), _digest(test))

    def _calibrated(self, workload: str, seed: int) -> tuple[Labelled, str]:
        """Calibration images of one seed, and their digest."""
        network = self._loaded[workload].network

        def make() -> tuple[Labelled, str]:
            found = training_images(network, self._data, self.plan.file.calibration_images, seed)
            return found, _digest(found)

        return _kept(self._calibrations, (network.dataset, network.input_size, seed), make)

    @staticmethod
    def _right(loaded: _Loaded, predictions: Sequence[int]) -> int:
        return int(np.sum(np.array(predictions) == loaded.labels))


def _kept(cache: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """What is made for a key, kept with the last ones made."""
    if key not in cache:
        if len(cache) == MOST_KEPT:
            del cache[next(iter(cache))]
        cache[key] = make()
    return cache[key]


def _choice(row: Row, trial: Trial) -> str:
    return f"{row.label}, {row.best_of} = {trial.axes[row.best_of or '']}"


def _name(*inputs: Any) -> str:
    """The name of a part: a hash of what it depends on besides the code."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _digest(images: Labelled) -> str:
    digest = hashlib.sha256(repr((images.images.shape, images.images.dtype.str)).encode())
    digest.update(np.ascontiguousarray(images.images).tobytes())
    if images.labels is not None:
        digest.update(images.labels.tobytes())
    return digest.hexdigest()
