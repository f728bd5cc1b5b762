"""The accumulator study: its figures against direct evaluations, its search, and what an interruption loses."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from graphs import GraphMaker

from accelsim.accounting import cost
from accelsim.config import load_hardware
from accelsim.energy import load_area, load_energy
from accelsim.engine import exact_arithmetic, execute, first_overflow, uniform, watch
from accelsim.errors import InputError
from accelsim.explore import Question, Study, parse_widths
from accelsim.explore import accumulator as module
from accelsim.explore.accumulator import search
from accelsim.ir import IntegerGraph, Mac, with_accumulator_widths
from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.report import show_study

WIDTHS = (10, 12, 14, 16, 20)


def classifier(**options: object) -> GraphMaker:
    """A convolution, a max pool and a linear layer with 4 outputs; the linear layer brings a width of its own."""
    maker = GraphMaker(
        np.random.default_rng(3), Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN), **options
    )
    maker.input(8, 8, 2)
    maker.conv("input", 5, (3, 3))
    maker.pool(maker.last().name, "max", (2, 2), (2, 2))
    maker.linear(maker.last().name, 4, width=18)
    return maker


def question(*, sets: tuple[str, ...] = (), labelled: bool = True, **changes: object) -> Question:
    maker = classifier()
    graph = dataclasses.replace(maker.graph(), output_shape=(4,))
    codes = maker.codes(30)
    hardware = load_hardware("edge_8x8", ["array.rows=4", *sets])
    exact = execute(with_accumulator_widths(graph, {"linear3": None}), codes, exact_arithmetic(hardware.arithmetic()))
    labels = exact[graph.output].reshape(30, -1).argmax(axis=1)
    labels[:3] = (labels[:3] + 1) % 4  # not all right, so that accuracy and agreement differ
    plain = Question(
        graph=graph,
        codes=codes,
        labels=labels if labelled else None,
        hardware=hardware,
        table=load_energy("horowitz_45nm"),
        area=load_area(),
        widths=WIDTHS,
    )
    return dataclasses.replace(plain, **changes)


def without_widths(graph: IntegerGraph) -> IntegerGraph:
    return with_accumulator_widths(graph, {node.name: None for node in graph.nodes if isinstance(node, Mac)})


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("array.dataflow=os",),
        ("accumulator.overflow=wrap",),
        ("accumulator.saturate_at=end",),
        ("array.psum_bits=11",),
    ],
    ids=["ws", "os", "wrap", "end", "psum"],
)
def test_every_figure_of_a_width_is_that_of_a_direct_evaluation(tmp_path, sets):
    asked = question(sets=sets)
    found = Study(asked, tmp_path).run()
    graph = without_widths(asked.graph)
    hardware = asked.hardware
    exact = execute(graph, asked.codes, exact_arithmetic(hardware.arithmetic()))[graph.output]
    assert found["exact"]["correct"] == 27
    for row in found["widths"]:
        narrow = hardware.with_accumulator(row["width_bits"])
        output = execute(graph, asked.codes, narrow.arithmetic())[graph.output]
        predictions = output.reshape(30, 4).argmax(axis=1)
        assert row["correct"] == (predictions == asked.labels).sum()
        assert row["accuracy"] == row["correct"] / 30
        assert row["outputs_changed"] == (output != exact).reshape(30, 4).any(axis=1).sum()
        assert row["predictions_changed"] == (predictions != exact.reshape(30, 4).argmax(axis=1)).sum()
        costs = cost(graph, narrow, asked.table)
        assert (row["cycles"], row["infeasible"]) == (costs.cycles, None)
        # The shipped curve begins at 12 bits; nothing is extrapolated.
        known = min(narrow.psum_bits, row["width_bits"]) >= 12
        assert row["area_transistors"] == (asked.area.machine_transistors(narrow) if known else None)
        assert row["energy"] == pytest.approx(float(costs.energy.energy), rel=1e-12)  # one rounding to a float
        assert sum(row["energy_by_place"].values()) == pytest.approx(row["energy"], rel=1e-12)
        scenario = uniform(graph, narrow.arithmetic())
        seen = watch(graph, asked.codes, scenario)
        for name, layer in row["layers"].items():
            telemetry = seen.layers[name].layer()
            assert layer["overflows"] == telemetry.overflows[0]
            if sets != ("accumulator.saturate_at=end",) or layer["overflows"]:
                assert (layer["psum_min"], layer["psum_max"]) == (telemetry.minimum[0], telemetry.maximum[0])
            witness = first_overflow(graph, asked.codes, scenario, name)
            assert (layer["first_overflow"] is None) == (witness is None)
            if witness is not None:
                assert layer["first_overflow"].items() >= json.loads(json.dumps(dataclasses.asdict(witness))).items()
                assert (layer["first_overflow"]["cycle"] is None) == (witness.where == "end")
                assert layer["first_overflow"]["cycle"] is None or 0 < layer["first_overflow"]["cycle"] < row["cycles"]
    assert found["widths"][0]["outputs_changed"] > 0, "the study must see something"
    if hardware.array.psum_bits is None:
        assert found["widths"][-1]["outputs_changed"] == 0


def test_partial_sums_that_stay_narrow_leave_no_width_that_changes_nothing(tmp_path):
    asked = question(sets=("array.psum_bits=11",), per_layer=True)
    found = Study(asked, tmp_path).run()
    assert found["smallest"]["no_change"]["uniform"]["width_bits"] is None
    assert found["per_layer"] == {"no_change": None, "tolerance": None}
    assert "none, for partial sums are limited to 11 bits" in show_study(found)


def test_a_layer_alone_has_exact_sums_everywhere_else(tmp_path):
    asked = question()
    found = Study(asked, tmp_path).run()
    graph = without_widths(asked.graph)
    wide = asked.hardware.with_accumulator(40)
    for row in found["widths"]:
        for name, layer in row["layers"].items():
            alone = with_accumulator_widths(graph, {name: row["width_bits"]})
            output = execute(alone, asked.codes, wide.arithmetic())[graph.output]
            assert layer["alone"]["correct"] == (output.reshape(30, 4).argmax(axis=1) == asked.labels).sum()


def test_bounds_hold_what_they_promise(tmp_path):
    found = Study(question(), tmp_path).run()
    for layer in found["exact"]["layers"].values():
        bounds = layer["bounds"]
        assert bounds["observed"] <= bounds["l1"] <= bounds["type"]
        low, high = -(1 << (bounds["observed"] - 1)), (1 << (bounds["observed"] - 1)) - 1
        assert low <= layer["psum_min"] <= layer["psum_max"] <= high
        assert not (low // 2 <= layer["psum_min"] and layer["psum_max"] <= high // 2), "no bit to spare"


def test_the_smallest_widths_are_those_from_which_on_nothing_fails(tmp_path):
    asked = question(tolerance=4.0)  # of 30 images, one
    found = Study(asked, tmp_path).run()
    graph = without_widths(asked.graph)
    exact = execute(graph, asked.codes, exact_arithmetic(asked.hardware.arithmetic()))[graph.output]

    def output(width: int) -> np.ndarray:
        return execute(graph, asked.codes, asked.hardware.with_accumulator(width).arithmetic())[graph.output]

    smallest = found["smallest"]["no_change"]["uniform"]["width_bits"]
    assert all(np.array_equal(output(width), exact) for width in range(smallest, 26))
    assert not np.array_equal(output(smallest - 1), exact)
    smallest = found["smallest"]["tolerance"]["uniform"]["width_bits"]
    right = [(output(width).reshape(30, 4).argmax(axis=1) == asked.labels).sum() for width in (smallest - 1, smallest)]
    assert right[0] < 26 <= right[1]  # 27 right, one may be lost


def test_without_labels_what_exact_sums_predict_is_right(tmp_path):
    found = Study(question(labelled=False), tmp_path).run()
    assert found["exact"]["accuracy"] == 1
    assert all(row["correct"] == 30 - row["predictions_changed"] for row in found["widths"])


def test_per_layer_widths_are_verified_and_none_can_be_narrower(tmp_path):
    asked = question(per_layer=True)
    found = Study(asked, tmp_path).run()
    graph = without_widths(asked.graph)
    exact = execute(graph, asked.codes, exact_arithmetic(asked.hardware.arithmetic()))[graph.output]
    for criterion, best in found["per_layer"].items():

        def good(widths: dict[str, int], criterion: str = criterion) -> bool:
            arithmetic = asked.hardware.with_accumulator(max(widths.values())).arithmetic()
            output = execute(with_accumulator_widths(graph, widths), asked.codes, arithmetic)[graph.output]
            if criterion == "no_change":
                return np.array_equal(output, exact)
            return bool((output.reshape(30, 4).argmax(axis=1) == asked.labels).sum() >= 27)

        assert good(best["widths"])
        for name in best["widths"]:
            narrower = {**best["widths"], name: best["widths"][name] - 1}
            assert min(narrower.values()) < 8 or not good(narrower), (criterion, name)
        assert max(best["widths"].values()) <= best["uniform"]["width_bits"]
        assert best["cost"]["energy"] <= best["uniform"]["cost"]["energy"] <= best["own"]["cost"]["energy"]
        assert best["own"]["width_bits"] == asked.hardware.accumulator.width_bits


def test_a_layer_that_alone_never_meets_the_criterion_does_not_stop_the_search(tmp_path, monkeypatch):
    """With narrow partial sums one layer alone may do worse than all together; the search then begins at its limit."""
    asked = question(sets=("array.psum_bits=13",), per_layer=True, tolerance=60.0)
    study = Study(asked, tmp_path)
    smallest = study._smallest

    def worse(criterion, outputs, exact, highest):
        found = smallest(criterion, outputs, exact, highest)
        found["alone"]["conv1"]["width_bits"] = None
        return found

    monkeypatch.setattr(study, "_smallest", worse)
    found = study.run()["per_layer"]["tolerance"]
    assert found is not None
    assert found["correct"] >= 27 - 18


def test_a_network_without_accumulators_is_refused(tmp_path):
    maker = GraphMaker(np.random.default_rng(0), Requantization(scheme=Scheme.FLOAT64, rounding=Rounding.HALF_EVEN))
    maker.clip(maker.input(1, 1, 4))
    graph = dataclasses.replace(maker.graph(), output_shape=(4,))
    with pytest.raises(InputError, match=r"has no convolution or linear layer, and so no accumulator to study$"):
        Study(question(graph=graph), tmp_path)


def test_the_search_assumes_nothing_to_be_monotone():
    """A criterion with a hole: (3 layers) met where the widths' sum is 32 or at least 34, and 12 is never enough."""

    def judge(widths: tuple[int, ...]) -> bool:
        return sum(widths) != 33 and sum(widths) >= 32 and min(widths) > 9

    asked: list[tuple[int, ...]] = []

    def evaluate(candidates):
        asked.extend(candidates)
        return [{"good": judge(widths), "bad": abs(34 - sum(widths))} for widths in candidates]

    found = search((9, 9, 9), (14, 14, 14), (5, 9, 2), evaluate, lambda j: j["good"], lambda j: j["bad"])
    assert judge(found)
    for layer, step in itertools.product(range(3), (-1,)):
        assert not judge(tuple(bits + (step if layer == other else 0) for other, bits in enumerate(found)))


def test_the_widest_layer_by_macs_loses_bits_first():
    def evaluate(candidates):
        return [{"sum": sum(widths)} for widths in candidates]

    # Three bits may go; all go from the layer with 9 MACs until it is at 8, the narrowest accumulator there is.
    found = search((12, 10, 12), (20, 20, 20), (5, 9, 2), evaluate, lambda j: j["sum"] >= 31, lambda j: 0)
    assert found == (11, 8, 12)


# --- interruption ------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for a kill: nothing after it runs."""


def test_an_interrupted_study_repeats_no_finished_width_and_ends_alike(tmp_path, monkeypatch):
    asked = question(per_layer=True)
    whole = Study(asked, tmp_path / "whole").run()
    calls: list[str] = []
    real_watch, real_execute = module.watch, module.execute_scenarios

    def counted(what, limit):
        def call(graph, codes, given, **options):
            if len(calls) >= limit:
                raise Interrupted
            calls.append(what)
            return (real_watch if what == "watch" else real_execute)(graph, codes, given, **options)

        return call

    folder, total, starts = tmp_path / "interrupted", [], 0
    while True:  # each start is killed at its third evaluation
        calls.clear()
        starts += 1
        monkeypatch.setattr(module, "watch", counted("watch", 2))
        monkeypatch.setattr(module, "execute_scenarios", counted("scenarios", 2))
        study = Study(asked, folder)
        try:
            found = study.run()
        except Interrupted:
            total += calls
            continue
        total += calls
        break
    assert starts > 3
    assert found == whole
    monkeypatch.setattr(module, "watch", counted("watch", 1000))
    monkeypatch.setattr(module, "execute_scenarios", counted("scenarios", 1000))
    calls.clear()
    Study(asked, tmp_path / "again").run()
    assert sorted(total) == sorted(calls), "each evaluation was done once in all, however often the study was killed"
    calls.clear()
    study = Study(asked, folder)
    assert study.run() == whole
    assert calls == []
    assert study.parts.reused


def test_parts_of_other_inputs_are_not_used(tmp_path):
    first = Study(question(), tmp_path)
    first.run()
    for changed in (
        question(sets=("array.dataflow=os",)),
        question(labelled=False),
        question(tolerance=1.0),
        dataclasses.replace(question(), table=load_energy("eyeriss_relative")),
        dataclasses.replace(question(), codes=question().codes[::-1]),
    ):
        other = Study(changed, tmp_path)
        assert other.parts.get("exact") is None
        assert other.parts.reused == []


def test_parts_made_by_other_code_are_not_used(tmp_path, monkeypatch):
    from accelsim.explore import parts

    Study(question(), tmp_path).run()
    monkeypatch.setattr(parts, "code_digest", lambda: b"a rule of the arithmetic has changed")
    assert Study(question(), tmp_path).parts.get("exact") is None


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda text: text.replace('"correct": ', '"correct": 1'), "was altered since it was written; remove it"),
        (lambda text: text[:100], "is not a part of a study; remove it"),
        (lambda text: "[]", "is not a part of a study; remove it"),
    ],
)
def test_a_damaged_part_is_refused_in_one_line(tmp_path, damage, message):
    Study(question(), tmp_path).run()
    path = tmp_path / "parts" / "exact.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError) as refused:
        Study(question(), tmp_path).run()
    assert str(refused.value) == f"{path}: {message} and repeat the command"


def test_a_study_survives_json(tmp_path):
    found = Study(question(per_layer=True), tmp_path).run()
    assert json.loads(json.dumps(found)) == found


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("10:16:2", (10, 12, 14, 16)),
        ("8:10", (8, 9, 10)),
        ("64", (64,)),
        ("12,10,12", (10, 12)),
        ("10:15:4,20", (10, 14, 20)),
    ],
)
def test_widths_are_read_with_both_ends(text, expected):
    assert parse_widths(text) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("wide", "is not FROM:TO:STEP, one width, or widths with commas; use 10:32:2"),
        ("", "is not FROM:TO:STEP, one width, or widths with commas; use 10:32:2"),
        ("10:32:0", "is not FROM:TO:STEP, one width, or widths with commas; use 10:32:2"),
        ("10:32:2:1", "is not FROM:TO:STEP, one width, or widths with commas; use 10:32:2"),
        ("7:32", "7..32 leaves 8..64 bits; use 10:32:2"),
        ("10:65", "10..65 leaves 8..64 bits; use 10:32:2"),
        ("32:10", "32:10 names no width; write the smaller end first"),
        ("20:10,12", "20:10 names no width; write the smaller end first"),
    ],
)
def test_widths_that_are_none_are_refused(text, message):
    with pytest.raises(InputError) as refused:
        parse_widths(text)
    assert str(refused.value) == f"--widths {text}: {message}".strip()


def test_an_output_that_is_no_vector_is_refused(tmp_path):
    graph = dataclasses.replace(question().graph, output_shape=(4, 1, 1))
    with pytest.raises(InputError, match=r"needs a classifier, whose output is a vector$"):
        Study(question(graph=graph), tmp_path)


def test_a_width_that_does_not_run_on_the_machine_is_a_row_with_its_reason(tmp_path):
    """Two words of 8 x 40 bits are 80 bytes; an accumulator memory of 70 holds two of 32 bits and none of 40."""
    asked = question(sets=("accumulator.memory_bytes=70",), widths=(16, 40))
    narrow, wide = Study(asked, tmp_path).run()["widths"]
    assert narrow["infeasible"] is None
    assert (wide["cycles"], wide["energy"]) == (None, None)
    assert wide["infeasible"].endswith("use at least 80")
    assert wide["accuracy"] == 0.9
