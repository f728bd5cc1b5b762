"""`accelsim explain`: every cycle has one cause, the bound is the true one, and each what-if is what it says."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import GraphMaker, random_graph, random_hardware
from programs import Maker, assembled

from accelsim.accounting import layer_cycles
from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.errors import InputError
from accelsim.explore import explanation
from accelsim.explore.changes import CHANGES, RELIEF, Subject
from accelsim.explore.explanation import explain, find_layer
from accelsim.explore.measured import Bound, measure, weight_loads
from accelsim.ir import save_graph
from accelsim.isa import Load, Memory, Modes, Start, Unit, assemble
from accelsim.machine import Accelerator
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme
from accelsim.pipeline import Outcome, save_compiled
from accelsim.report.explanation import build_explanation
from accelsim.report.explanation_text import show_explanation
from accelsim.timing import ArrayShape, compute_times, cycles, longest_path
from accelsim.timing.attribution import Attribution, Cause, Step, stream_of

HALF_EVEN = Requantization(
    scheme=Scheme.FIXED_POINT,
    rounding=Rounding.HALF_EVEN,
    multiplier_bits=16,
    order="multiply_first",
    guard_bits=0,
    output_overflow="saturate",
)
BY_KEY = {change.key: change for change in CHANGES}


def maker() -> GraphMaker:
    return GraphMaker(np.random.default_rng(0), HALF_EVEN)


def machine(*settings: str):
    """A 16x16 array whose memories never bind, unless a setting says otherwise."""
    roomy = [
        "activation.memory_bytes=1048576",
        "weight.memory_bytes=1048576",
        "parameter.memory_bytes=65536",
        "accumulator.memory_bytes=1048576",
        "dram.bandwidth_bytes_per_cycle=128",
        "dram.latency_cycles=0",
    ]
    return load_hardware("default_16x16", roomy + list(settings))


# --- six layers, each limited by one thing -----------------------------------------------------------------


def dense(channels: int, height: int = 24):
    """A 3x3 convolution of 16 channels: 9 tiles of full rows, and full columns where `channels` are 16s."""
    graph = maker()
    graph.conv(graph.input(height, height, 16), channels, (3, 3))
    return graph.graph()


def pooled():
    """A 3x3 average pool: nine reads a result, and no product."""
    graph = maker()
    graph.pool(graph.input(24, 24, 16), "avg", (3, 3), (1, 1))
    return graph.graph()


def fully_connected():
    """One image: 512 x 256 weights, each used once."""
    graph = maker()
    graph.linear(graph.input(1, 1, 512), 256)
    return graph.graph()


SIX = {
    Bound.ARRAY: (dense(32), machine()),
    Bound.FILLING: (dense(4), machine()),
    Bound.DRAM: (dense(16), machine("dram.bandwidth_bytes_per_cycle=1")),
    Bound.WEIGHTS: (fully_connected(), machine("dram.bandwidth_bytes_per_cycle=2")),
    Bound.POST: (pooled(), machine()),
    Bound.LATENCY: (dense(16, 5), machine("dram.latency_cycles=3000")),
}


REMEDIES = {**RELIEF, Bound.WEIGHTS: ("resident_weights",)}  # more columns are a remedy of the array, too
del REMEDIES[Bound.NOTHING]
NAMES = {**{bound: str(bound) for bound in Bound}, Bound.WEIGHTS: "weight-load-bound (DRAM)"}


@pytest.mark.parametrize("bound", SIX, ids=lambda bound: bound.replace(" ", "-"))
def test_a_layer_is_limited_by_what_helps_it_most_when_relieved(bound):
    graph, hardware = SIX[bound]
    program = compile_graph(graph, hardware)
    found = explain(program, graph)
    assert found.mismatch is None  # each change simulated, too
    assert found.time(0).bound is bound
    best = {other: max(_savings(found, keys), default=0) for other, keys in REMEDIES.items()}
    assert best[bound] > 0.3 * found.time().cycles, best
    for other, saved in best.items():
        assert other is bound or saved < 0.7 * best[bound], (other, best)
    assert found.best(0).keys[0] in REMEDIES[bound]
    assert show_explanation(build_explanation(found, 0)).splitlines()[2].endswith(f"(100.0 %), {NAMES[bound]}")


def _savings(found, keys):
    return [found.saved(one, 0) for one in found.what_ifs if one.keys[0] in keys and one.impossible is None]


def test_relief_by_hand():
    """The array-bound case on paper: 2 blocks of 9 tiles of M = 22 * 22 words, and what halves them."""
    graph, hardware = SIX[Bound.ARRAY]
    program = compile_graph(graph, hardware)
    found = explain(program, graph)
    words = 22 * 22
    assert found.time(0).causes[Cause.ARRAY_STREAM] == 2 * 9 * words
    wide = next(one for one in found.what_ifs if one.keys == ("double_columns",))
    assert wide.layers[0].causes[Cause.ARRAY_STREAM] == 9 * words
    tall = next(one for one in found.what_ifs if one.keys == ("double_rows",))
    assert tall.layers[0].causes[Cause.ARRAY_STREAM] == 2 * 3 * 2 * words  # runs of 48 bytes: 2 tiles each, not 3
    assert found.time(0).fill == pytest.approx(2 * 9 * words / (2 * 9 * words + 32))


def test_a_tie_shows_when_both_are_relieved():
    """LOAD and COMPUTE as slow as each other: weights come at the pace at which they enter the array."""
    graph, _ = SIX[Bound.WEIGHTS]
    # A tile is 16 rows of 16 weights: 16 cycles on 16 bytes a cycle, and 16 cycles into the array. Blocks are loaded
    # two by two, while the array has the two before.
    hardware = machine("dram.bandwidth_bytes_per_cycle=16", "weight.memory_bytes=32768")
    program = compile_graph(graph, hardware)
    found = explain(program, graph, layer=0)
    single = found.best(0)
    (pair,) = [one for one in found.what_ifs if len(one.keys) == 2]
    assert pair.keys == ("resident_weights", "double_columns")
    assert found.saved(pair, 0) > found.saved(single, 0) + 0.1 * found.time(0).cycles
    text = show_explanation(build_explanation(found, 0))
    assert "Together, weights on chip already and twice the columns" in text


# --- causes ------------------------------------------------------------------------------------------------


def test_every_cycle_of_every_layer_has_one_cause():
    """On random programs: overlapping layers, several passes, both modes, serial tiles."""
    seen: Counter[Cause] = Counter()
    for seed in range(25):
        program = Maker(seed).program()
        measured = measure(program, paths=True)
        machine = Accelerator(program)
        run = machine.run(values=False)
        assert [time.cycles for time in measured.layers] == layer_cycles(Outcome(program, machine, run))
        for time in (*measured.layers, measured.run):
            assert sum(time.causes.values()) == sum(time.units.values()) == time.cycles
            assert sum(last + 1 - first for first, last in time.passes) == time.cycles
            assert 0 <= (time.fill or 0) <= 1
        longest = max(measured.layers, key=lambda time: time.cycles)
        assert all(later.first == step.last + 1 for step, later in zip(longest.path, longest.path[1:], strict=False))
        seen += measured.run.causes
    assert set(seen) == set(Cause)


def test_a_path_is_as_long_as_it_says(monkeypatch):
    """Delay every transfer, or every POST: each end moves by as much for each of them on its path, at least."""
    delay = 1000
    for seed in range(40):
        program = Maker(seed).program()
        instructions, hardware = program.instructions, program.hardware
        schedule = longest_path(instructions, hardware)
        attribution = Attribution(instructions, hardware, schedule)
        dram = hardware.dram.model_copy(update={"latency_cycles": hardware.dram.latency_cycles + delay})
        slow_dram = longest_path(instructions, hardware.model_copy(update={"dram": dram})).done
        with monkeypatch.context() as patch:
            patch.setattr(cycles, "D_POST", cycles.D_POST + delay)
            slow_post = longest_path(instructions, hardware).done
        for last, done in enumerate(schedule.done):
            path = attribution.path(last, 0)
            assert path[0].first == 0
            assert sum(step.cycles for step in path) == done + 1
            units = Counter(instructions[step.instruction].UNIT for step in path)
            assert slow_dram[last] >= done + delay * (units[Unit.LOAD] + units[Unit.STORE])
            assert slow_post[last] >= done + delay * units[Unit.POST]


@pytest.mark.parametrize(
    "words, path",
    [
        (200, [(0, 21), (2, 2 + 200), (3, 200 + 4)]),  # the weights lay waiting: the stream before decided
        (22, [(0, 21), (2, 2 + 22), (3, 22 + 4)]),
        (21, [(0, 21), (1, 21), (3, 2 + 21 + 4)]),  # both at once
        (20, [(0, 21), (1, 21), (3, 2 + 20 + 4)]),  # the stream before ends while they enter: the LOAD decided
        (5, [(0, 21), (1, 21), (3, 2 + 5 + 4)]),
    ],
)
def test_a_load_is_blamed_only_where_its_weights_did_not_lie_waiting(words, path):
    """R = C = 2, LOADs of 21 cycles. COMPUTE 2: L = 21, T = 23; COMPUTE 3 issues in 42, T = max(44, 23 + M)."""
    loop = f"width=8 acc_base=0 lanes=2 run_bytes=2 x_count={words} in_row_bytes=2"
    text = f"""
        LOAD    signal=COMPUTE memory=WEIGHT dram_address=0 buffer_address=0 row_bytes=4
        LOAD    signal=COMPUTE memory=WEIGHT dram_address=0 buffer_address=4 row_bytes=4
        COMPUTE wait=LOAD act_base=0 weight_base=0 {loop}
        COMPUTE wait=LOAD act_base=0 weight_base=4 {loop}
    """
    hardware = load_hardware("edge_8x8", ["array.rows=2", "array.columns=2", "dram.latency_cycles=20"])
    program = assembled(assemble(text), bytes(64), MODES, hardware)
    measured = measure(program, paths=True)
    assert measured.schedule.cause[3] == 1  # whatever the stream, the LOAD decided the issue
    assert [(step.instruction, step.cycles) for step in measured.layers[0].path] == path


MODES = Modes(activation=IntFormat(8), zero_points="folded", requantization=HALF_EVEN)


def test_phases_of_a_compute_are_those_of_the_rules():
    """A second implementation, cycle by cycle, from docs/microarchitecture.md 4.2 to 4.4, on random COMPUTEs."""
    for seed in range(30):
        source = Maker(seed)
        shape = ArrayShape.of(source.hardware)
        for _ in range(4):
            compute = source.compute()
            times = compute_times(compute, shape, None, 0)
            expected = phases(compute, shape, times.done)
            schedule = longest_path([compute], source.hardware)
            attribution = Attribution([compute], source.hardware, schedule)
            for first, last in ((0, times.done), (times.done // 3, times.done // 2), (times.done, times.done)):
                found = attribution.causes(Step(0, first, last))
                assert found == Counter(expected[first : last + 1]), (seed, compute)
            streamed = expected.count(Cause.ARRAY_STREAM)
            assert streamed == stream_of(compute, shape).cycles


def phases(compute, shape, done):
    """What each cycle from issue to done goes to."""
    rows, columns = shape.rows, shape.columns
    tiles = compute.r_count * compute.s_count * -(-compute.run_bytes // rows)
    result = [Cause.ARRAY_DRAIN] * (done + 1)
    if compute.output_stationary:
        start = rows if compute.start != Start.ZERO else 0
        last_piece = (compute.run_bytes - 1) % rows + 1
        products = (tiles - 1) * rows + last_piece
        duration = max(rows, products)
        for group in range(-(-compute.words // rows)):
            ends = start + (duration if (group + 1) * rows >= compute.words else tiles * rows)
            result[start:ends] = [Cause.ARRAY_STREAM] * (ends - start)
            start += max(tiles * rows, products + rows + columns - 2 if compute.serial else 0)
        return result
    load, stream = 0, rows
    result[:stream] = [Cause.WEIGHT_FILL] * stream
    for tile in range(tiles):
        if tile:
            after = stream + compute.words
            passed = after + rows + columns - 2
            load = passed if compute.serial else max(load + rows, stream)
            stream = max(load + rows, after)
            begin = passed if compute.serial else after
            result[begin:stream] = [Cause.WEIGHT_FILL] * (stream - begin)
        result[stream : stream + compute.words] = [Cause.ARRAY_STREAM] * compute.words
    return result


# --- what-ifs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_what_ifs_are_simulated_on_random_networks(dataflow):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng).graph()
        program = compile_graph(graph, random_hardware(rng, graph, dataflow), 3)
        found = explain(program, graph, layer=len(program.layers) - 1)
        assert found.mismatch is None
        assert {one.keys[0] for one in found.what_ifs} <= set(BY_KEY)
        for one in found.what_ifs:
            if one.impossible is None:
                assert sum(time.cycles for time in one.layers) == one.run.cycles
        for label in range(len(program.layers)):
            document = build_explanation(found, label)
            json.dumps(document, allow_nan=False)
            assert show_explanation(document)


def test_weights_on_chip_take_no_transfer_and_nothing_else():
    graph, _ = SIX[Bound.WEIGHTS]
    program = compile_graph(graph, machine())
    changed = BY_KEY["resident_weights"].apply(Subject(program, None)).program
    kept = [x for x in program.instructions if not (type(x) is Load and x.memory == Memory.WEIGHT)]
    assert [replace(x, wait=0, signal=0) for x in changed.instructions] == [replace(x, wait=0, signal=0) for x in kept]
    # 16 blocks of 32 tiles of one word follow one another: R cycles before the first, R - 1 between two.
    causes = measure(changed).layers[0].causes
    assert causes[Cause.WEIGHT_TRANSFER] == 0
    assert causes[Cause.WEIGHT_FILL] == 16 + (16 * 32 - 1) * 15


def test_operands_of_a_product_of_two_tensors_are_no_weights():
    """What a STORE wrote, or the input, is loaded into the weight buffer, too; without it nothing would wait for it."""
    text = """
        STORE   signal=LOAD dram_address=20 buffer_address=0 row_bytes=4 rows=2 dram_step=6
        LOAD    wait=STORE memory=WEIGHT dram_address=29 buffer_address=0 row_bytes=4
        LOAD    memory=WEIGHT dram_address=30 buffer_address=8 row_bytes=4
        LOAD    memory=WEIGHT dram_address=16 buffer_address=16 row_bytes=4
        LOAD    memory=WEIGHT dram_address=0 buffer_address=24 row_bytes=1
        LOAD    memory=ACTIVATION dram_address=40 buffer_address=24 row_bytes=1
    """
    program = assembled(assemble(text), bytes(64), MODES, load_hardware("edge_8x8"))
    assert weight_loads(program) == {2, 3}


def test_short_posts_take_seven_cycles():
    program = compile_graph(*SIX[Bound.POST])
    changed = BY_KEY["short_posts"].apply(Subject(program, None)).program
    posts = [issued for issued in Accelerator(changed).run(values=False).timeline if issued.unit is Unit.POST]
    assert posts
    assert all(issued.done + 1 - issued.issue == 7 for issued in posts)


def test_a_batch_in_groups_has_a_pass_for_each_and_is_compared_by_image():
    graph = maker()
    graph.conv(graph.input(8, 8, 4), 8, (3, 3))
    graph.pool(graph.last().name, "avg", (2, 2), (2, 2))
    graph = graph.graph()
    program = compile_graph(graph, machine("activation.memory_bytes=800"), 4)
    found = explain(program, graph, layer=0)
    assert len(found.time(0).passes) == 4  # 256 and 288 bytes an image
    double = next(one for one in found.what_ifs if one.keys == ("double_batch",))
    assert len(double.layers[0].passes) == 8
    assert double.cycles(0) == double.layers[0].cycles / 2
    assert "4 passes" in show_explanation(build_explanation(found, 0))


def test_a_pool_that_another_machine_fuses_counts_where_its_first_node_does():
    """With half the accumulators a window of 2 x 2 does not fit behind the convolution any more."""
    graph = maker()
    graph.conv(graph.input(8, 8, 4), 4, (3, 3))
    graph.pool(graph.last().name, "max", (2, 2), (2, 2))
    graph = graph.graph()
    program = compile_graph(graph, machine("accumulator.memory_bytes=448"))  # 7 words: 3 in each half
    assert len(program.layers) == 2
    found = explain(program, graph)
    double = next(one for one in found.what_ifs if one.keys == ("double_buffers",))
    assert double.layers[1].cycles == 0
    assert double.layers[0].cycles == double.run.cycles


def test_swapped_operands_keep_weights_in_the_activation_buffer():
    graph, _ = SIX[Bound.WEIGHTS]
    program = compile_graph(graph, machine("array.dataflow=is", "dram.bandwidth_bytes_per_cycle=2"), 4)
    found = explain(program, graph, layer=0)
    assert found.mismatch is None
    assert found.time(0).bound is Bound.WEIGHTS
    assert found.time(0).causes[Cause.WEIGHT_TRANSFER] == 512 * 256 // 2
    resident = next(one for one in found.what_ifs if one.keys == ("resident_weights",))
    assert resident.change == "no LOAD of weights (131,072 bytes; activation buffer: 1,048,576)"
    assert "inputs into the array" in show_explanation(build_explanation(found, 0))


def test_a_change_that_is_not_possible_says_why():
    graph, _ = SIX[Bound.ARRAY]
    found = explain(compile_graph(graph, machine("parameter.memory_bytes=512")), graph)
    wide = next(one for one in found.what_ifs if one.keys == ("much_wider",))
    assert "parameter.memory_bytes >= 1024" in wide.impossible
    assert f"Not possible: array 4 times as wide: {wide.impossible}"[:100] in show_explanation(build_explanation(found))


def test_a_machine_that_disagrees_is_reported(monkeypatch, tmp_path, capsys):
    graph, _ = SIX[Bound.LATENCY]
    save_graph(graph, tmp_path / "graph")
    lie = "accelsim.explore.explanation.Accelerator"
    true = explanation.Accelerator
    monkeypatch.setattr(lie, lambda program: true(replace(program, hardware=machine("dram.latency_cycles=9"))))
    assert main(["explain", str(tmp_path / "graph"), "--quick"]) == 1
    assert "DIFFERENT: instruction 0: the machine has it in cycles 0.." in capsys.readouterr().out


# --- what is said ------------------------------------------------------------------------------------------


SLOW = "array.mac_latency_cycles=5", "array.mac_interval_cycles=3", "array.add_latency_cycles=2"


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("array.dataflow=os",),
        ("dram.latency_cycles=7", "array.rows=5"),
        ("array.serial_tiles=true",),
        SLOW,
        (*SLOW, "array.dataflow=os"),
        (*SLOW, "array.serial_tiles=true"),
    ],
)
def test_the_closed_form_adds_up_to_the_cycles(settings):
    graph = maker()
    node = graph.conv(graph.input(9, 7, 6), 20, (3, 2), padding=(1, 1, 0, 0))
    node = graph.conv(node, 20, (3, 3), groups=20)
    graph.sum(node, graph.conv(node, 20, (1, 1)))
    graph.pool(graph.last().name, "avg", (2, 2), (1, 1))
    graph = graph.graph()
    program = compile_graph(graph, machine(*settings), 2)
    document = build_explanation(explain(program, None))
    kinds = [kind for layer in document["layers"] for kind in layer["instructions"]]
    assert {kind["unit"] for kind in kinds} == {"load", "compute", "post", "store"}
    for kind in kinds:
        sum_of = kind["closed_form"].rpartition(":")[2].replace(",", "")
        sum_of = re.sub(r"ceil\((\d+) B / (\d+) B\)", r"-(-\1 // \2)", sum_of).replace(" x ", " * ")
        sum_of = re.sub(r"[a-z]+", "", sum_of)
        assert eval(sum_of) == kind["cycles"], kind["closed_form"]
    assert sum(kind["count"] for kind in kinds) == len(program.instructions)


def test_a_single_instruction_and_a_layer_behind_others():
    """Layer 1 is done before layer 0, which precedes it: no cycle is its own."""
    text = """
        LOAD    label=0 memory=ACTIVATION dram_address=0 buffer_address=0 row_bytes=32
        STORE   label=1 dram_address=40 buffer_address=64 row_bytes=1
    """
    program = assembled(assemble(text), bytes(64), MODES, load_hardware("edge_8x8"))
    found = explain(program, None, layer=1, why_not_compiled="by hand")
    assert found.mismatch is None
    assert found.time(1).bound is Bound.NOTHING
    assert found.best(1) is None
    assert "no cycles of its own" in show_explanation(build_explanation(found, 1))
    assert found.time(0).cycles == found.time().cycles
    assert found.time(0).bound is Bound.LATENCY
    text = show_explanation(build_explanation(found, 0))
    assert "Left out: changes that need another compilation (array, dataflow, buffers, batch): by hand" in text
    assert "1 x" in text


def test_hostile_names_are_shown_and_found(tmp_path, capsys):
    graph = maker()
    node = graph.input(4, 4, 2)
    graph.nodes.append(replace(graph.conv(node, 2, (1, 1)) and graph.nodes.pop(), name="a\x1b[31m\nb,\u202e"))
    graph.nodes.append(replace(graph.conv(graph.last().name, 2, (1, 1)) and graph.nodes.pop(), name="conv2"))
    program = compile_graph(graph.graph(), machine())
    for label in (None, 0):
        text = show_explanation(build_explanation(explain(program, None, layer=label, why_not_compiled="x"), label))
        assert "a\\x1b[31m\\nb,\\u202e" in text
        assert "\x1b" not in text
        assert all(line.isprintable() for line in text.splitlines())
    assert find_layer(program, "a\x1b[31m\nb,\u202e") == 0
    with pytest.raises(InputError, match=r"--layer conv3: random has no such layer; did you mean 'conv2'\?; layers: a"):
        find_layer(program, "conv3")
    with pytest.raises(InputError, match=re.escape(r"--layer \x1b[31m: random has no such layer")):
        find_layer(program, "\x1b[31m")


def test_a_fused_node_names_its_layer():
    graph = maker()
    graph.conv(graph.input(8, 8, 4), 4, (3, 3))
    pool = graph.pool(graph.last().name, "max", (2, 2), (2, 2))
    assert find_layer(compile_graph(graph.graph(), machine()), pool) == 0


# --- docs/explain.md ---------------------------------------------------------------------------------------

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "explain.md").read_text(encoding="utf-8")


def test_the_page_shows_what_is_printed(capsys):
    pytest.importorskip("torch")
    assert main(["explain", "lenet5_digits", "--layer", "c5"]) == 0
    printed = iter(capsys.readouterr().out.splitlines())
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in shown.splitlines():  # in order; the page leaves lines out, and changes none
        assert line in printed, line


def test_the_page_names_every_cause_bound_change_and_field():
    def column(number):
        rows = [line.strip("|").split(" |") for line in PAGE.splitlines() if line.startswith("| ")]
        return {word for row in rows if len(row) > number for word in re.findall(r"`(\w+)`|^ ?([^`]+)", row[number])}

    first = {word for pair in column(0) for word in pair}
    second = {word for pair in column(1) for word in pair}
    assert set(map(str, Cause)) | set(BY_KEY) <= second
    assert set(map(str, Bound)) <= {word.strip() for word in first}
    program = compile_graph(*SIX[Bound.LATENCY])
    document = build_explanation(explain(program, None, layer=0), 0)
    (layer,) = document["layers"]
    assert set(document) | set(layer) - set(document["run"]) <= first
    named = set(re.findall(r"`(\w+)`", PAGE))
    parts = (document["run"], document["changes"][0], layer["what_if"][0], layer["critical_path"][0], layer["fill"])
    for part in (*parts, layer["units"]["load"], layer["instructions"][0]):
        assert set(part) <= named


# --- the command -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A graph directory and a program directory made from it."""
    place = tmp_path_factory.mktemp("explain")
    graph = dense(8, 6)
    save_graph(graph, place / "graph")
    program = compile_graph(graph, load_hardware("edge_8x8"), 2)
    save_compiled(program, graph, np.zeros((2, 6, 6, 16), dtype=np.int64), place / "program")
    return place


def test_command_shows_a_table_a_layer_and_json(folders, capfd):
    words = ["explain", str(folders / "graph"), "--hardware", "edge_8x8", "--batch", "2"]
    assert main(words) == 0
    table = capfd.readouterr().out
    assert "helps most" in table
    assert main([*words, "--layer", "conv1"]) == 0
    text = capfd.readouterr().out
    assert "What would help most: " in text
    assert main([*words, "--layer", "conv1", "--json", "/dev/stdout"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["format"], document["version"], document["layer"]) == ("accelsim-explanation", 1, "conv1")
    (layer,) = document["layers"]
    assert sum(layer["causes"].values()) == layer["cycles"] == document["run"]["cycles"]
    assert sum(step["last"] + 1 - step["first"] for step in layer["critical_path"]) == layer["cycles"]
    assert sum(unit["critical_cycles"] for unit in layer["units"].values()) == layer["cycles"]
    assert document["simulated"] is True


def test_command_explains_a_program_directory_as_it_is(folders, capsys):
    assert main(["explain", str(folders / "program"), "--layer", "conv1"]) == 0
    out = capsys.readouterr().out
    assert "edge_8x8: 8x8 ws" in out
    assert "batch 2," in out
    assert "* compiled again" in out
    assert main(["explain", str(folders / "program"), "--layer", "conv1", "--quick"]) == 0
    quick = capsys.readouterr().out
    assert "twice the rows" not in quick
    assert "twice the DRAM bandwidth" in quick
    assert "batch): --quick is given" in quick


def test_command_says_why_a_program_cannot_be_compiled_again(folders, tmp_path, capsys):
    graph = dense(8, 6)
    program = compile_graph(graph, load_hardware("edge_8x8"))
    program.with_input(np.zeros((1, 6, 6, 16), dtype=np.int64)).save(tmp_path / "alone")
    assert main(["explain", str(tmp_path / "alone")]) == 0
    assert f"{tmp_path / 'alone' / 'graph'}" in " ".join(capsys.readouterr().out.split())
    program.save(tmp_path / "other")
    save_graph(dense(16, 6), tmp_path / "other" / "graph")
    assert main(["explain", str(tmp_path / "other")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "does not compile to this program; compile it again" in out
    assert "twice the rows" not in out


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["graph", "--layer", "conv2"],
            "--layer conv2: random has no such layer; did you mean 'conv1'?; layers: conv1",
        ),
        (["graph", "--batch", "0"], "--batch 0: must be at least 1"),
        (["program", "--batch", "3"], "--batch: "),
        (["program", "--set", "array.rows=4"], "is compiled already; give its workload instead; leave --set out"),
        (["graph", "--set", "array.dataflow=is"], "array.dataflow = 'is' runs a single linear layer"),
        (["graph", "--json", "nowhere/x.json"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(folders, monkeypatch, capsys, words, said):
    monkeypatch.chdir(folders)
    assert main(["explain", *words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert said in output.err
