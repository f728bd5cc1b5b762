"""The accumulator study: accuracy, cycles and energy against accumulator width, and which layer breaks first.

Everything is counted on the images given, in integers, with the hardware's order of additions. docs/accumulator.md
states what each figure is and how the smallest widths are searched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.accounting import cost
from accelsim.config import Hardware
from accelsim.energy import AreaTable, EnergyTable, by_place
from accelsim.energy.evaluation import as_number
from accelsim.engine import (
    Scenario,
    ScenarioOutcome,
    Telemetry,
    Witness,
    exact_arithmetic,
    execute,
    execute_scenarios,
    first_overflow,
    uniform,
    watch,
)
from accelsim.errors import InputError
from accelsim.explore.locate import overflow_cycle
from accelsim.explore.parts import Parts, study_key
from accelsim.ir import (
    IntegerGraph,
    Mac,
    bits_for,
    graph_digest,
    refuse_host_operators,
    refuse_matmul,
    width_bounds,
    with_accumulator_widths,
)
from accelsim.numerics import Arithmetic

FORMAT, VERSION = "accelsim-accumulator-study", 1
NARROWEST = 8
"""Bits of the narrowest accumulator of the hardware description."""
WIDTHS_AT_ONCE = 4
"""Widths evaluated in one pass and then kept: an interruption loses no more."""

Progress = Callable[[str, int, int], object]
"""Is told what is being done, and how many images of how many are done."""
Widths = tuple[int, ...]
"""Accumulator widths of the layers, in graph order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What is asked.

    Attributes:
        graph: a classifier; widths that its layers bring along are set aside, since the study chooses them.
        codes: integers (N, H, W, C), the images, quantised.
        labels: int64 (N,), or None: then a prediction is right where it is that of exact sums.
        hardware: everything but the accumulator's width.
        table: energy of each operation.
        area: what PEs and PPU lanes take at each width, a proxy.
        widths: bits, ascending, each 8..64.
        per_layer: whether to search widths for each layer.
        tolerance: accuracy that may be lost, percentage points.
        threads, memory_bytes: as for `engine.execute`.
    """

    graph: IntegerGraph
    codes: npt.NDArray[np.integer[Any]]
    labels: npt.NDArray[np.int64] | None
    hardware: Hardware
    table: EnergyTable
    area: AreaTable
    widths: Widths
    per_layer: bool = False
    tolerance: float = 0.0
    threads: int | None = None
    memory_bytes: int = 1 << 29


def parse_widths(text: str) -> Widths:
    """Read ``10:32:2`` (from, to, step; both ends included), ``16`` or ``10,12,16``.

    Raises:
        InputError: it is nothing of these, or a width is outside 8..64.

    >>> parse_widths("10:16:2"), parse_widths("12,10"), parse_widths("16")
    ((10, 12, 14, 16), (10, 12), (16,))
    """
    try:
        parts = [[int(number) for number in part.split(":")] for part in text.split(",")]
    except ValueError:
        parts = [[]]
    widths: set[int] = set()
    for part in parts:
        if not 1 <= len(part) <= 3 or (len(part) == 3 and part[2] < 1):
            raise InputError(f"--widths {text}: is not FROM:TO:STEP, one width, or widths with commas; use 10:32:2")
        first, last, step = part[0], part[1] if len(part) > 1 else part[0], part[2] if len(part) == 3 else 1
        if last < first:
            raise InputError(f"--widths {text}: {first}:{last} names no width; write the smaller end first")
        if not NARROWEST <= min(first, last) <= max(first, last) <= 64:
            raise InputError(f"--widths {text}: {first}..{last} leaves 8..64 bits; use 10:32:2")
        widths.update(range(first, last + 1, step))
    return tuple(sorted(widths))


class Study:
    """One question being answered, part by part."""

    def __init__(self, question: Question, folder: Path, progress: Progress = lambda *_: None):
        self.question = question
        self.progress = progress
        refuse_host_operators(question.graph, "has no cycles to study")
        refuse_matmul(question.graph, "accumulator study")
        if len(question.graph.output_shape) != 1:
            raise InputError(
                f"{question.graph.name}: its output has shape {question.graph.output_shape}; "
                "an accumulator study needs a classifier, whose output is a vector"
            )
        self.layers = [node.name for node in question.graph.nodes if isinstance(node, Mac)]
        if not self.layers:
            raise InputError(
                f"{question.graph.name}: has no convolution or linear layer, and so no accumulator to study"
            )
        self.graph = with_accumulator_widths(question.graph, dict.fromkeys(self.layers))
        self.exact_arithmetic = exact_arithmetic(question.hardware.arithmetic())
        self.parts = Parts(folder, _key(question, self.graph))
        self._exact_output: npt.NDArray[np.int16] | None = None

    def run(self) -> dict[str, Any]:
        """Make what is missing and return the whole study (docs/formats.md)."""
        exact = self.parts.finished("exact", self._exact)
        safe = {name: max(layer["bounds"]["observed"], NARROWEST) for name, layer in exact["layers"].items()}
        highest = max(safe.values())
        scanned = sorted({*range(NARROWEST, highest + 1), *self.question.widths})
        outputs = self._outputs(scanned)
        widths = [
            {**outputs[width], **self.parts.finished(f"width-{width}", partial(self._width, width, exact))}
            for width in self.question.widths
        ]
        question = self.question
        return {
            "format": FORMAT,
            "version": VERSION,
            "workload": question.graph.name,
            "images": len(question.codes),
            "labelled": question.labels is not None,
            "hardware": question.hardware.model_dump(mode="json"),
            "energy_table": question.table.name,
            "energy_unit": question.table.unit,
            "energy_title": question.table.title,
            "area_title": f"area table {question.area.name}: {question.area.tool}, generic cells",
            "zero_points": question.graph.zero_points,
            "bias_at": question.graph.bias_at,
            "tolerance": question.tolerance,
            "layers": self.layers,
            "exact": exact,
            "widths": [self._row(row) for row in widths],
            "smallest": {
                criterion: self._smallest(criterion, outputs, exact, highest)
                for criterion in ("no_change", "tolerance")
            },
            "per_layer": {
                criterion: self._searched(criterion, outputs, exact, safe) for criterion in ("no_change", "tolerance")
            }
            if question.per_layer
            else None,
        }

    # Parts ------------------------------------------------------------------------------------------------------

    def _exact(self) -> dict[str, Any]:
        """Exact sums: accuracy, and every layer's partial sums and bounds."""
        scenario = uniform(self.graph, self.exact_arithmetic)
        seen = self._watch(scenario, "exact sums").layers
        layers = {}
        for name in self.layers:
            node = self.graph.by_name[name]
            assert isinstance(node, Mac)
            bounds = width_bounds(self.graph, node)
            telemetry = seen[name].layer()
            observed = bits_for(int(telemetry.minimum[0]), int(telemetry.maximum[0]))
            layers[name] = {
                "macs": self.graph.macs(node),
                "bounds": {"type": bounds.type, "l1": bounds.l1, "observed": observed},
                **_statistics(telemetry),
                "channels": [_statistics(one) for one in _channels(seen[name])],
            }
        right = self._right(self.exact_output)
        return {"correct": right, "accuracy": right / len(self.question.codes), "layers": layers}

    def _outputs(self, widths: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What each width does to the outputs, in all layers at once and in each layer alone."""
        found = {width: self.parts.get(f"outputs-{width}") for width in widths}
        missing = [width for width in widths if found[width] is None]
        for first in range(0, len(missing), WIDTHS_AT_ONCE):
            group = missing[first : first + WIDTHS_AT_ONCE]
            scenarios = [
                self._scenario(dict.fromkeys(names, width)) for width in group for names in self._all_and_each()
            ]
            results = iter(self._execute(scenarios, f"widths {', '.join(map(str, group))}"))
            for width in group:
                together, *alone = (next(results) for _ in self._all_and_each())
                judged = {
                    "width_bits": width,
                    **self._judged(together.output),
                    "images_changed": {name: together.changed[name] for name in self.layers},
                    "alone": {
                        name: self._judged(result.output) for name, result in zip(self.layers, alone, strict=True)
                    },
                }
                found[width] = self.parts.put(f"outputs-{width}", judged)
        return found

    def _all_and_each(self) -> list[list[str]]:
        return [self.layers, *([name] for name in self.layers)]

    def _width(self, width: int, exact: dict[str, Any]) -> dict[str, Any]:
        """Statistics of every addition, the first overflows, cycles and energy at one width."""
        scenario = self._scenario(dict.fromkeys(self.layers, width))
        inside = all(
            bits_for(layer["psum_min"], layer["psum_max"]) <= scenario[name].psum_bits
            for name, layer in exact["layers"].items()
        )
        layers: dict[str, dict[str, Any]] = {}
        witnesses: dict[str, Witness] = {}
        if inside:  # no exact prefix leaves the range, so every addition is the exact one
            layers = {name: {key: layer[key] for key in _STATISTICS} for name, layer in exact["layers"].items()}
        else:
            seen = self._watch(scenario, f"additions at {width} bits")
            layers = {name: _statistics(seen.layers[name].layer()) for name in self.layers}
            for name, images in seen.overflowing.items():
                found = first_overflow(self.graph, self.question.codes[images], scenario, name)
                assert found is not None
                witnesses[name] = replace(found, image=found.image + images.start)
        priced = self._cost(dict.fromkeys(self.layers), width)
        runs = priced["infeasible"] is None
        cycles = overflow_cycle(self.graph, self._hardware(width)) if runs else None
        return {
            "cost": priced,
            "layers": layers,
            "first_overflow": {
                name: None
                if name not in witnesses
                else {**asdict(witnesses[name]), "cycle": None if cycles is None else cycles(witnesses[name])}
                for name in self.layers
            },
        }

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        """One width as the study shows it: figures of each layer together."""
        layers = {
            name: {
                **row["layers"][name],
                "images_changed": row["images_changed"][name],
                "alone": row["alone"][name],
                "first_overflow": row["first_overflow"][name],
            }
            for name in self.layers
        }
        kept = ("width_bits", "correct", "accuracy", "predictions_changed", "outputs_changed")
        return {**{key: row[key] for key in kept}, **row["cost"], "layers": layers}

    # Smallest widths --------------------------------------------------------------------------------------------

    def _meets(self, criterion: str, judged: Mapping[str, Any], exact: Mapping[str, Any]) -> bool:
        if criterion == "no_change":
            return bool(judged["outputs_changed"] == 0)
        lost = 100 * (exact["correct"] - judged["correct"]) / len(self.question.codes)
        return bool(lost <= self.question.tolerance + 1e-9)  # two quotients of integers may differ by a rounding

    def _smallest(
        self, criterion: str, outputs: Mapping[int, dict[str, Any]], exact: Mapping[str, Any], highest: int
    ) -> dict[str, Any]:
        """Smallest width from which on the criterion holds at every width, uniform and of each layer alone.

        None where it does not even hold at a width that every exact sum fits.
        """

        def smallest(judged: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
            good = [width for width in range(NARROWEST, highest + 1) if self._meets(criterion, judged[width], exact)]
            if highest not in good:  # array.psum_bits, which no accumulator width changes, is too narrow
                return {"width_bits": None, "also_holds_at": good}
            bits = highest
            while bits - 1 in good:
                bits -= 1
            return {"width_bits": bits, "also_holds_at": [width for width in good if width < bits]}

        return {
            "uniform": smallest(outputs),
            "alone": {
                name: smallest({width: found["alone"][name] for width, found in outputs.items()})
                for name in self.layers
            },
        }

    def _searched(
        self,
        criterion: str,
        outputs: Mapping[int, dict[str, Any]],
        exact: Mapping[str, Any],
        safe: Mapping[str, int],
    ) -> dict[str, Any] | None:
        """Widths of each layer such that no layer can lose another bit, verified, with their cost.

        None where the criterion does not even hold at widths that every exact sum fits, array.psum_bits being narrow.
        """
        smallest = self._smallest(criterion, outputs, exact, max(safe.values()))
        tried: dict[Widths, dict[str, Any]] = {}

        def evaluate(candidates: list[Widths]) -> list[dict[str, Any]]:
            new = [widths for widths in dict.fromkeys(candidates) if widths not in tried]
            if new:
                scenarios = [self._scenario(dict(zip(self.layers, widths, strict=True))) for widths in new]
                name = f"{criterion}-{len(tried)}"
                results = self.parts.finished(
                    f"search-{name}",
                    lambda: [
                        [list(widths), self._judged(result.output)]
                        for widths, result in zip(new, self._execute(scenarios, "widths per layer"), strict=True)
                    ],
                )
                tried.update({tuple(widths): judged for widths, judged in results})
            return [tried[widths] for widths in candidates]

        limits = tuple(safe[name] for name in self.layers)
        if not self._meets(criterion, evaluate([limits])[0], exact):
            return None
        start = tuple(min(smallest["alone"][name]["width_bits"] or safe[name], safe[name]) for name in self.layers)
        macs = [exact["layers"][name]["macs"] for name in self.layers]
        widths = search(
            start, limits, macs, evaluate, lambda judged: self._meets(criterion, judged, exact), _badness(criterion)
        )
        chosen = dict(zip(self.layers, widths, strict=True))
        again = self.parts.finished(f"verified-{criterion}", lambda: self._verified(chosen))
        if again != tried[widths]:
            raise AssertionError(f"widths {chosen}: evaluated directly {again}, in the search {tried[widths]}")
        return {
            "widths": chosen,
            **again,
            "combinations": len(tried),
            "cost": self._cost(dict(chosen), max(widths)),
            "uniform": self._costed(smallest["uniform"]["width_bits"] or max(safe.values())),
            "own": self._costed(self.question.hardware.accumulator.width_bits),
        }

    def _costed(self, width: int) -> dict[str, Any]:
        """One width in all layers, with its cost."""
        return {"width_bits": width, "cost": self._cost(dict.fromkeys(self.layers), width)}

    def _verified(self, widths: dict[str, int]) -> dict[str, Any]:
        """The same judgement by one direct evaluation, without the exact pass that the search shares."""
        graph = with_accumulator_widths(self.graph, widths)
        arithmetic = self._hardware(max(widths.values())).arithmetic()
        output = execute(
            graph,
            self.question.codes,
            arithmetic,
            threads=self.question.threads,
            memory_bytes=self.question.memory_bytes,
            progress=lambda done: self.progress("verification", done, len(self.question.codes)),
        )[graph.output]
        return self._judged(output)

    # Evaluation -------------------------------------------------------------------------------------------------

    @property
    def exact_output(self) -> npt.NDArray[np.int16]:
        """Codes of the graph's output with exact sums, int16 (N, H, W, C)."""
        if self._exact_output is None:
            self._exact_output = execute(
                self.graph,
                self.question.codes,
                self.exact_arithmetic,
                threads=self.question.threads,
                memory_bytes=self.question.memory_bytes,
            )[self.graph.output]
        return self._exact_output

    def _judged(self, output: npt.NDArray[np.int16]) -> dict[str, Any]:
        """How outputs compare with labels and with those of exact sums."""
        differ = (output != self.exact_output).reshape(len(output), -1).any(axis=1)
        right = self._right(output)
        return {
            "correct": right,
            "accuracy": right / len(output),
            "predictions_changed": int(np.sum(self._predictions(output) != self._predictions(self.exact_output))),
            "outputs_changed": int(differ.sum()),
        }

    def _predictions(self, output: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
        return np.asarray(self.graph.to_pytorch(output).argmax(axis=1), dtype=np.int64)

    def _right(self, output: npt.NDArray[np.int16]) -> int:
        labels = self._predictions(self.exact_output) if self.question.labels is None else self.question.labels
        return int(np.sum(self._predictions(output) == labels))

    def _hardware(self, width: int) -> Hardware:
        return self.question.hardware.with_accumulator(width)

    def _scenario(self, widths: Mapping[str, int]) -> Scenario:
        """The hardware's arithmetic at these widths; layers not named have exact sums."""
        given = self.question.hardware.arithmetic()

        def at(width: int) -> Arithmetic:
            return replace(
                given, width_bits=width, psum_bits=min(self.question.hardware.array.psum_bits or width, width)
            )

        return {name: at(widths[name]) if name in widths else self.exact_arithmetic for name in self.layers}

    def _execute(self, scenarios: Sequence[Scenario], what: str) -> list[ScenarioOutcome]:
        return execute_scenarios(
            self.graph,
            self.question.codes,
            scenarios,
            threads=self.question.threads,
            memory_bytes=self.question.memory_bytes,
            progress=lambda done: self.progress(what, done, len(self.question.codes)),
        )

    def _watch(self, scenario: Scenario, what: str) -> Any:
        return watch(
            self.graph,
            self.question.codes,
            scenario,
            threads=self.question.threads,
            memory_bytes=self.question.memory_bytes,
            progress=lambda done: self.progress(what, done, len(self.question.codes)),
        )

    def _cost(self, widths: Mapping[str, int | None], memory_bits: int) -> dict[str, Any]:
        """Cycles, energy and area of one image on a machine of `memory_bits`, for JSON.

        Null with the reason where it does not run there, and the area where the table has no such width.
        """
        found: dict[str, Any] = {"cycles": None, "energy": None, "energy_by_place": None, "area_transistors": None}
        try:
            hardware = self._hardware(memory_bits)
            priced = cost(with_accumulator_widths(self.graph, dict(widths)), hardware, self.question.table)
        except InputError as error:
            return {**found, "infeasible": str(error)}
        found |= {
            "cycles": priced.cycles,
            "energy": as_number(priced.energy.energy),
            "energy_by_place": {place: as_number(value) for place, value in by_place(priced.energy.by_op).items()},
            "infeasible": None,
        }
        with suppress(InputError):
            found["area_transistors"] = self.question.area.machine_transistors(hardware)
        return found


def search(
    start: Widths,
    limits: Widths,
    macs: Sequence[int],
    evaluate: Callable[[list[Widths]], list[dict[str, Any]]],
    meets: Callable[[dict[str, Any]], bool],
    badness: Callable[[dict[str, Any]], int],
) -> Widths:
    """Widths of each layer that meet a criterion, and of which no single one can be a bit narrower.

    Nothing is assumed to be monotone. Widths begin at what each layer bears alone. While they do not meet the criterion
    together, one layer gets one bit more: that which leaves the least damage; of equal ones that with the fewest MACs.
    The `limits` meet them, so this ends. Then one layer at a time loses a bit, the one with the most MACs
    of those that may, until none may.

    Args:
        start, limits: bits, by layer; at `limits` the criterion is met.
        macs: of each layer.
        evaluate: judges combinations.
        meets, badness: whether a judgement is good enough; how bad it is.
    """
    widths = start

    def moved(step: int) -> list[tuple[int, Widths]]:
        """Each layer that may move by `step` bits, with the widths then."""
        return [
            (layer, (*widths[:layer], bits + step, *widths[layer + 1 :]))
            for layer, bits in enumerate(widths)
            if NARROWEST <= bits + step <= limits[layer]
        ]

    while not meets(evaluate([widths])[0]):
        wider = moved(1)
        judged = evaluate([candidate for _, candidate in wider])
        best = min(zip(wider, judged, strict=True), key=lambda one: (badness(one[1]), macs[one[0][0]], one[0][0]))
        widths = best[0][1]
    while True:
        narrower = moved(-1)
        judged = evaluate([candidate for _, candidate in narrower])
        good = [one for one, found in zip(narrower, judged, strict=True) if meets(found)]
        if not good:
            return widths
        widths = max(good, key=lambda one: (macs[one[0]], -one[0]))[1]


def _badness(criterion: str) -> Callable[[dict[str, Any]], int]:
    """How far a judgement is from the criterion: images."""
    if criterion == "no_change":
        return lambda judged: int(judged["outputs_changed"])
    return lambda judged: -int(judged["correct"])


_STATISTICS = ("additions", "overflows", "psum_min", "psum_max", "mean", "deviation", "bits_needed")


def _statistics(telemetry: Telemetry) -> dict[str, Any]:
    """Statistics of one channel, or of a layer as one, for JSON; `bits_needed` counts s + p by the bits they need."""
    (histogram,) = telemetry.histogram
    return {
        "additions": int(telemetry.additions[0]),
        "overflows": int(telemetry.overflows[0]),
        "psum_min": int(telemetry.minimum[0]),
        "psum_max": int(telemetry.maximum[0]),
        "mean": telemetry.mean[0],
        "deviation": telemetry.deviation[0],
        "bits_needed": {str(bits): int(count) for bits, count in enumerate(histogram) if count},
    }


def _channels(telemetry: Telemetry) -> Iterable[Telemetry]:
    for n in range(len(telemetry.additions)):
        one = slice(n, n + 1)
        yield Telemetry(
            telemetry.additions[one],
            telemetry.overflows[one],
            telemetry.minimum[one],
            telemetry.maximum[one],
            telemetry.total[one],
            telemetry.squares[one],
            telemetry.histogram[one],
        )


def _key(question: Question, graph: IntegerGraph) -> str:
    table = question.table
    return study_key(
        [
            graph_digest(graph).encode(),
            np.ascontiguousarray(question.codes, dtype=np.int64).tobytes(),
            b"" if question.labels is None else question.labels.astype(np.int64).tobytes(),
            question.hardware.model_dump_json().encode(),
            table.header.model_dump_json().encode(),
            *(entry.model_dump_json().encode() for entry in table.entries),
            question.area.model_dump_json().encode(),
            repr(question.tolerance).encode(),
        ]
    )
