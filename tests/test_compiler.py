"""The compiler: how layers are cut to fit, what is fused, what is refused, and that none of it changes a bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from graphs import GraphMaker, random_graph

from accelsim.compiler import compile_graph
from accelsim.compiler.allocation import RING_BLOCKS, DramImage, Lifetime, Ring, place, smallest
from accelsim.compiler.emission import Emitter
from accelsim.compiler.lowering import lower
from accelsim.compiler.tiling import Rectangle, Runs, even_spans, parts_of, rectangles, source_extent, spans
from accelsim.config import Hardware, load_hardware
from accelsim.errors import InputError
from accelsim.ir import Add, Conv2d, IntegerGraph, Linear, MaxPool2d, evaluate
from accelsim.isa import Compute, Load, Memory, Post, Program, Reduce, Source, Start, Store, encode_all
from accelsim.machine import Accelerator
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme

HOW = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)


def maker(seed: int = 0, how: Requantization = HOW, **fields: object) -> GraphMaker:
    return GraphMaker(np.random.default_rng(seed), how, **fields)


def edge(*overrides: str) -> Hardware:
    return load_hardware("edge_8x8", list(overrides))


def lenet() -> GraphMaker:
    """LeNet-5's shapes on 28x28 images: C1 6@28x28, S2, C3 16@10x10, S4, C5 120, F6 84, 10 classes."""
    made = maker(1)
    node = made.conv(made.input(28, 28, 1), 6, (5, 5), padding=(2, 2, 2, 2))
    node = made.conv(made.pool(node, "max", (2, 2), (2, 2)), 16, (5, 5))
    node = made.conv(made.pool(node, "max", (2, 2), (2, 2)), 120, (5, 5))
    made.linear(made.linear(node, 84), 10)
    return made


def refusal(function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def of(program: Program, kind: type, layer: int) -> list:
    return [i for i in program.instructions if type(i) is kind and i.label == layer]


def weight_loads(program: Program, layer: int) -> list[int]:
    return [i.row_bytes for i in of(program, Load, layer) if i.memory == Memory.WEIGHT]


def agrees(program: Program, graph: IntegerGraph, codes: np.ndarray) -> bool:
    expected = evaluate(graph, codes, program.hardware.arithmetic()).tensors[graph.output]
    return np.array_equal(Accelerator(program).run(codes, clock=False).output, expected)


# --- LeNet-5 on the small presets ---------------------------------------------------------------------------------


def test_the_shipped_c1_runs_as_five_runs_of_five_bytes_on_16x16():
    program = compile_graph(lenet().graph(), load_hardware("default_16x16"))
    computes = of(program, Compute, 0)
    # 256 words of accumulators, half at a time: 128 // 28 = 4 rows, two pooling windows; 28 / 4 = 7 rectangles.
    assert [(c.r_count, c.s_count, c.run_bytes) for c in computes] == [(5, 1, 5)] * 7
    assert [(c.y_count, c.x_count, c.lanes) for c in computes] == [(4, 28, 6)] * 7
    # One chunk a run, because 5 <= 16: five tiles of 784 words in all, 3,920 cycles of streaming.
    assert sum(c.words * c.r_count * -(-c.run_bytes // 16) for c in computes) == 3920
    assert weight_loads(program, 0) == [25 * 6]


def test_c5s_48000_bytes_of_weights_come_in_8_loads_on_default_16x16():
    program = compile_graph(lenet().graph(), load_hardware("default_16x16"))
    # Half of 16 KiB holds one block: 400 rows of 16 channels. 120 = 7 * 16 + 8.
    assert weight_loads(program, 2) == [6400] * 7 + [3200]
    assert [(c.r_count, c.run_bytes, c.lanes, c.start) for c in of(program, Compute, 2)] == (
        [(5, 80, 16, Start.ZERO)] * 7 + [(5, 80, 8, Start.ZERO)]
    )


def test_c5s_48000_bytes_of_weights_come_in_30_loads_on_edge_8x8():
    program = compile_graph(lenet().graph(), edge())
    # Half of 4 KiB holds 256 rows of 8 channels, 3 of the 5 kernel rows of 80: parts of 3 and 2 rows, 15 blocks.
    assert weight_loads(program, 2) == [1920, 1280] * 15
    assert sum(weight_loads(program, 2)) == 48_000
    computes = of(program, Compute, 2)
    assert [(c.r_count, c.run_bytes) for c in computes] == [(3, 80), (2, 80)] * 15
    assert [(c.start, c.last) for c in computes] == [(Start.ZERO, 0), (Start.ACCUMULATE, 1)] * 15
    assert len(of(program, Post, 2)) == 15


def test_a_long_run_is_cut_at_multiples_of_the_rows():
    made = maker()
    made.linear(made.input(5, 5, 16), 120)
    program = compile_graph(made.graph(), edge())
    # 400 bytes are 50 chunks of 8; 256 rows hold 32; two parts of 25 chunks.
    assert [(c.act_base - program_input(program), c.run_bytes) for c in of(program, Compute, 0)] == (
        [(0, 200), (200, 200)] * 15
    )
    assert weight_loads(program, 0) == [1600, 1600] * 15


def program_input(program: Program) -> int:
    """Where the input tensor lies in the activation buffer."""
    return next(i.buffer_address for i in program.instructions if isinstance(i, Load) and i.memory == Memory.ACTIVATION)


@pytest.mark.parametrize("preset", ["edge_8x8", "default_16x16"])
@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_lenet_computes_the_references_bits_on_the_small_presets(preset, dataflow):
    made = lenet()
    program = compile_graph(made.graph(), load_hardware(preset, [f"array.dataflow={dataflow}"]), 3)
    assert agrees(program, made.graph(), made.codes(3))


def test_rectangles_hold_whole_pooling_windows_and_half_the_accumulators():
    for bits, counts in ((32, [2] * 14), (16, [4] * 7), (8, [8, 8, 8, 4])):
        machine = edge(f"accumulator.width_bits={bits}")
        half = machine.accumulator_depth // 2
        program = compile_graph(lenet().graph(), machine)
        computes, posts = of(program, Compute, 0), of(program, Post, 0)
        # Rows of 28 sums: 64, 128 and 256 words hold 2, 4 and 9 rows, so 1, 2 and 4 rows of pooled results.
        assert [c.y_count for c in computes] == counts
        assert [p.y_count for p in posts] == [count // 2 for count in counts]
        assert all(c.words <= half for c in computes)
        assert [c.acc_base for c in computes] == [(n % 2) * half for n in range(len(computes))]
        assert all((p.r_count, p.s_count, p.reduce) == (2, 2, Reduce.MAX) for p in posts)


def test_a_batch_that_does_not_fit_runs_in_groups_as_large_as_fit():
    made = lenet()
    program = compile_graph(made.graph(), edge(), 5)
    # Input 784 and S2 1,176 bytes live together: 4,096 hold two images.
    loads = [i for i in program.instructions if isinstance(i, Load) and i.memory == Memory.ACTIVATION]
    loads = [i for i in loads if not isinstance(i, Store)]
    assert [i.row_bytes for i in loads] == [2 * 784, 2 * 784, 784]
    stores = [i for i in program.instructions if isinstance(i, Store)]
    assert [i.row_bytes for i in stores] == [20, 20, 10]
    assert [i.dram_address - program.output.address for i in stores] == [0, 20, 40]
    assert agrees(program, made.graph(), made.codes(5))
    # Constants are in the image once: C5's 48,000 bytes and the rest, not three times.
    assert program.dram.size < 75_000


def test_compiling_twice_gives_the_same_bytes(tmp_path):
    for graph, batch in ((lenet().graph(), 3), (random_graph(np.random.default_rng(4)).graph(), 2)):
        for name in ("a", "b"):
            compile_graph(graph, edge(), batch).save(tmp_path / name)
        for file in ("program.bin", "dram.bin", "program.json"):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


# --- cutting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(200))
def test_parts_cover_k_in_order_and_end_at_chunk_edges(seed):
    rng = np.random.default_rng(seed)
    runs = Runs(*(int(v) for v in rng.integers(1, [6, 6, 60])))
    rows, most = int(rng.integers(1, 17)), int(rng.integers(1, 200))
    parts = parts_of(runs, rows, most)
    if parts is None:
        assert most < min(rows, runs.length)
        return
    k = 0
    for part in parts:
        assert part.rows <= most
        assert part.first_k == k
        assert part.offset % rows == 0
        assert part.length % rows == 0 or part.offset + part.length == runs.length
        if part.r_count > 1:
            assert (part.s, part.s_count, part.offset, part.length) == (0, runs.s_count, 0, runs.length)
        if part.s_count > 1:
            assert (part.offset, part.length) == (0, runs.length)
        k += part.rows
    assert k == math.prod(runs)


@pytest.mark.parametrize("seed", range(200))
def test_rectangles_tile_the_result_exactly_and_their_sums_fit(seed):
    rng = np.random.default_rng(seed)
    images, height, width = (int(v) for v in rng.integers(1, [5, 12, 12]))
    window = tuple(int(v) for v in rng.integers(1, 4, 2))
    stride = tuple(size + int(rng.integers(0, 2)) for size in window)
    words = int(rng.integers(math.prod(window), 150))
    pool = MaxPool2d(name="p", inputs=(), output=None, kernel=window, stride=stride)
    first, y, x = (int(v) for v in rng.integers(0, 4, 3))
    covered = np.zeros((first + images, y + height, x + width), dtype=int)
    for r in rectangles(Rectangle(first, images, y, height, x, width), window, stride, words):
        covered[r.image : r.image + r.images, r.y : r.y + r.y_count, r.x : r.x + r.x_count] += 1
        _, tall, _, broad = source_extent(r, pool)
        assert r.images * tall * broad <= words
    assert (covered[first:, y:, x:] == 1).all()
    assert covered.sum() == images * height * width


@pytest.mark.parametrize("total, most", [(5, 3), (50, 32), (7, 7), (1, 9), (120, 16), (255, 254)])
def test_even_spans_are_as_few_as_spans_and_differ_by_little(total, most):
    even = even_spans(total, most)
    assert len(even) == len(spans(total, most)) == -(-total // most)
    assert [start for start, _ in even] == [sum(n for _, n in even[:i]) for i in range(len(even))]
    assert sum(n for _, n in even) == total
    assert max(n for _, n in even) == -(-total // len(even)) <= most


def test_tensors_that_live_together_do_not_overlap_and_others_share():
    tensors = [
        Lifetime(name="a", size=10, first=0, last=1),
        Lifetime(name="b", size=6, first=1, last=2),
        Lifetime(name="c", size=10, first=2, last=3),
    ]
    assert smallest(tensors) == 16
    assert place(tensors, 15) is None
    addresses = place(tensors, 16)
    assert addresses == {"a": 0, "b": 10, "c": 0}


def test_a_ring_reuses_its_oldest_bytes_and_never_wraps_a_block():
    ring = Ring(10)
    assert [ring.take(4) for _ in range(4)] == [0, 4, 0, 4]
    assert [ring.take(n) for n in (2, 1, 10)] == [8, 0, 0]
    large = Ring(1 << 20)
    assert [large.take(1) for _ in range(RING_BLOCKS + 2)] == [*range(RING_BLOCKS), 0, 1]


# --- fusion -------------------------------------------------------------------------------------------------------


def fused(made: GraphMaker, hardware: Hardware | None = None, output: str | None = None) -> list[tuple[str, ...]]:
    graph = made.graph()
    if output:
        shape = graph.by_name[output].output
        graph = replace(graph, output=output, output_shape=(shape.channels, shape.height, shape.width))
    operations = lower(graph, hardware or edge())
    program = compile_graph(graph, hardware or edge(), 2)
    assert agrees(program, graph, made.codes(2))
    return [tuple(node.op for node in operation.nodes) for operation in operations]


def pooled(
    kernel: tuple[int, int] = (2, 2),
    stride: tuple[int, int] = (2, 2),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    kind: str = "max",
    how: Requantization = HOW,
    table: str = "",
) -> GraphMaker:
    made = maker(3, how)
    node = made.conv(made.input(6, 6, 2), 3, (3, 3), padding=(1, 1, 1, 1))
    if table:
        node = made.table(node, monotone=table == "monotone")
    made.pool(node, kind, kernel, stride, padding)
    return made


def test_a_max_pool_of_disjoint_unpadded_windows_joins_the_convolution_before_it():
    assert fused(pooled()) == [("conv2d", "max_pool2d")]
    assert fused(pooled((2, 2), (3, 2))) == [("conv2d", "max_pool2d")]  # with rows between the windows left out
    assert fused(pooled((1, 3), (1, 3))) == [("conv2d", "max_pool2d")]


@pytest.mark.parametrize(
    "made",
    [
        pooled((3, 2), (2, 2)),  # windows overlap
        pooled((2, 2), (2, 2), (1, 0, 0, 0)),  # padding
        pooled(kind="avg"),
        pooled(how=replace(HOW, output_overflow="wrap")),  # codes that wrap are not monotone in the sums
    ],
)
def test_other_pools_are_layers_of_their_own(made):
    assert [names[0] for names in fused(made)] == ["conv2d", made.graph().nodes[-1].op]


def test_a_window_that_exceeds_half_the_accumulators_is_not_fused():
    # 8 x 32 bits: 2 * 128 bytes hold 8 words; a 2x2 window fits the 4 of one half, a 3x2 one does not.
    machine = edge("accumulator.memory_bytes=256")
    assert fused(pooled((2, 2), (2, 2)), machine) == [("conv2d", "max_pool2d")]
    assert fused(pooled((3, 2), (3, 2)), machine) == [("conv2d",), ("max_pool2d",)]


def test_a_table_joins_the_layer_before_it_and_a_pool_behind_it_only_if_it_is_monotone():
    assert fused(pooled(table="monotone")) == [("conv2d", "table", "max_pool2d")]
    assert fused(pooled(table="any")) == [("conv2d", "table"), ("max_pool2d",)]
    made = pooled()
    made.table("max2", monotone=False)
    assert fused(made) == [("conv2d", "max_pool2d"), ("table",)]
    made = pooled((3, 2), (2, 2))
    made.table("max2", monotone=False)
    assert fused(made) == [("conv2d",), ("max_pool2d", "table")]


def test_a_left_shift_of_tflite_double_may_wrap_so_its_pool_is_not_fused():
    how = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.TFLITE_DOUBLE)
    made = pooled(how=how)
    assert fused(made) == [("conv2d", "max_pool2d")]
    conv = made.nodes[1]
    made.nodes[1] = replace(conv, multiplier=made.fixed(np.array([0.01, 1.5, 0.01])))
    assert made.nodes[1].multiplier.shift.min() < 0
    assert fused(made) == [("conv2d",), ("max_pool2d",)]


def test_a_tensor_that_is_the_result_or_is_read_twice_is_written():
    made = pooled(table="monotone")
    assert fused(made, output="table2") == [("conv2d", "table"), ("max_pool2d",)]
    assert fused(made, output="conv1") == [("conv2d",), ("table",), ("max_pool2d",)]
    made = pooled()
    made.sum("conv1", "conv1")
    assert fused(made, output="max2") == [("conv2d",), ("max_pool2d",), ("add",)]


def test_a_chain_of_tables_is_not_fused_into_one():
    made = maker()
    made.table(made.table(made.linear(made.input(1, 1, 4), 3)))
    assert fused(made) == [("linear", "table"), ("table",)]


# --- what streams through small buffers ---------------------------------------------------------------------------


def test_records_of_an_addition_with_a_ragged_last_block_do_not_overwrite_one_another():
    # 11 channels on 8 columns: 2 * 8 records for the first block, 2 * 3 for the last; the buffer holds 24 of 16 bytes.
    for size in range(22 * 16, 40 * 16, 16):
        made = maker(5)
        node = made.conv(made.input(3, 3, 2), 11, (1, 1))
        made.sum(node, made.conv(node, 11, (1, 1)))
        program = compile_graph(made.graph(), edge(f"parameter.memory_bytes={size}"), 2)
        assert agrees(program, made.graph(), made.codes(2)), size
        adds = [p for p in of(program, Post, 2) if p.residual_on]
        assert adds[0].lanes == 8
        assert {p.param for p in adds if p.lanes == 3} == {adds[0].param - 6}


def test_records_and_tables_beyond_what_a_field_can_name_are_not_used():
    # 8 MiB hold 524,288 records and 32,768 tables; `param` names 65,536 and `table` 256.
    made = maker()
    made.table(made.input(1, 1, 1))
    machine = edge("parameter.memory_bytes=8388608", "table.memory_bytes=8388608")
    emitter = Emitter(made.graph(), machine, DramImage())
    assert emitter.most_records == 32768
    assert max(emitter.load_records(0, 0, 8000) for _ in range(20)) == 7 * 8000  # 8 of 8,000 are 64,000
    assert max(emitter.load_table(0, made.nodes[1]) for _ in range(600)) <= 255


def test_a_network_of_hundreds_of_small_layers_overflows_no_token_counter():
    # Nothing but its ring holds LOAD back here: every table and every weight of 300 layers would fit at once.
    made = maker()
    node = made.input(1, 1, 2)
    for _ in range(140):
        node = made.table(made.clip(made.linear(node, 2)))
    program = compile_graph(made.graph(), load_hardware("tpu_like_32x32", ["table.memory_bytes=8388608"]))
    assert len(program.layers) == 280
    assert agrees(program, made.graph(), made.codes(1))


def test_accumulators_beyond_what_a_field_can_name_are_not_used():
    # 64 MiB of one column of 8 bits are 2**26 words; a signed 24-bit address ends at 2**23 - 1.
    made = maker()
    made.conv(made.input(4, 4, 1), 1, (1, 1))
    machine = edge("array.columns=1", "accumulator.width_bits=8", "accumulator.memory_bytes=67108864")
    program = compile_graph(made.graph(), machine, 300)
    assert {p.src_base for p in of(program, Post, 0)} == {0, (1 << 23) - 1}


# --- refusals -----------------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_refused_with_the_size_that_does():
    # Two tiles of 8 rows of 8 channels; and two of a run of 5 bytes, 6 channels.
    made = maker()
    made.linear(made.input(1, 1, 40), 8)
    assert refusal(compile_graph, made.graph(), edge("weight.memory_bytes=127")) == (
        "layer linear1 does not fit: two of its smallest weight tiles need 128 bytes of the weight buffer, 127 there; "
        "use weight.memory_bytes >= 128 or fewer array.rows"
    )
    compile_graph(made.graph(), edge("weight.memory_bytes=128"))
    made = maker()
    made.conv(made.input(8, 8, 1), 6, (5, 5))
    assert refusal(compile_graph, made.graph(), edge("weight.memory_bytes=59")) == (
        "layer conv1 does not fit: two of its smallest weight tiles need 60 bytes of the weight buffer, 59 there; "
        "use weight.memory_bytes >= 60 or fewer array.rows"
    )
    assert agrees(compile_graph(made.graph(), edge("weight.memory_bytes=60")), made.graph(), made.codes(1))


def test_a_depthwise_layer_needs_all_its_taps_at_once():
    made = maker()
    made.conv(made.input(6, 6, 8), 8, (3, 3), groups=8)
    assert refusal(compile_graph, made.graph(), edge("weight.memory_bytes=143")) == (
        "layer conv1 does not fit: two of its smallest weight tiles need 144 bytes of the weight buffer, 143 there; "
        "use weight.memory_bytes >= 144 or fewer array.rows"
    )
    compile_graph(made.graph(), edge("weight.memory_bytes=144"))


@pytest.mark.parametrize("bias_at, need", [("ppu", 256), ("accumulator", 512)])
def test_parameters_that_do_not_fit_are_refused_with_the_size_that_does(bias_at, need):
    made = maker(bias_at=bias_at)
    made.linear(made.input(1, 1, 4), 20)
    # Two blocks of 8 records of 16 bytes, and as many biases where COMPUTE takes them.
    assert refusal(compile_graph, made.graph(), edge(f"parameter.memory_bytes={need - 1}")) == (
        f"layer linear1 does not fit: 8 output channels at once need {need} bytes of the parameter buffer, {need - 1} "
        f"there; use parameter.memory_bytes >= {need}"
    )
    compile_graph(made.graph(), edge(f"parameter.memory_bytes={need}"))


def test_scales_of_an_addition_that_do_not_fit_are_refused_with_the_size_that_does():
    made = maker()
    made.sum(made.input(2, 2, 11), "input")
    assert refusal(compile_graph, made.graph(), edge("parameter.memory_bytes=351")) == (
        "layer add1 does not fit: its scales need 352 bytes of the parameter buffer, 351 there; "
        "use parameter.memory_bytes >= 352"
    )
    compile_graph(made.graph(), edge("parameter.memory_bytes=352"))


@pytest.mark.parametrize(
    "fields, override, key, value, supported",
    [
        ({"zero_points": "subtracted"}, "supports.zero_points=['folded']", "zero_points", "subtracted", "'folded'"),
        ({"bias_at": "accumulator"}, "supports.bias_at=['ppu']", "bias_at", "accumulator", "'ppu'"),
        ({}, "supports.schemes=['power_of_two', 'float32']", "requantization.scheme", "fixed_point",
         "'power_of_two', 'float32'"),
        ({}, "supports.roundings=[]", "requantization.rounding", "half_even", "nothing"),
    ],
)  # fmt: skip
def test_a_mode_the_machine_does_not_implement_is_refused(fields, override, key, value, supported):
    made = maker(**fields)
    made.linear(made.input(1, 1, 4), 2)
    assert refusal(compile_graph, made.graph(), edge(override)) == (
        f"random: {key} = {value!r} is not implemented by machine edge_8x8, which supports {supported}; quantize with "
        "one of them or use another machine"
    )
    compile_graph(made.graph(), edge())


def test_a_layers_accumulator_may_not_be_wider_than_the_machines():
    made = maker()
    made.linear(made.input(1, 1, 4), 2, width=20)
    assert refusal(compile_graph, made.graph(), edge("accumulator.width_bits=19")) == (
        "layer linear1: accumulator_width_bits = 20 exceeds accumulator.width_bits = 19 of machine edge_8x8; lower one "
        "or raise the other"
    )
    compile_graph(made.graph(), edge("accumulator.width_bits=20"))


@pytest.mark.parametrize("batch", [0, -1, 65536])
def test_a_batch_outside_its_range_is_refused(batch):
    assert refusal(compile_graph, lenet().graph(), edge(), batch) == f"batch = {batch} is outside 1..65535"


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
def test_a_graph_that_computes_nothing_is_refused(dataflow):
    made = maker()
    made.input(2, 2, 2)
    expected = "random: the graph computes nothing; its output is its input"
    machine = edge(f"array.dataflow={dataflow}")
    assert refusal(compile_graph, made.graph(), machine) == expected
    made.linear("input", 3)
    graph = replace(made.graph(), output="input", output_shape=(2, 2, 2))
    assert refusal(compile_graph, graph, machine) == expected


def test_a_size_no_field_can_hold_is_refused_by_the_layers_name():
    made = maker()
    made.pool(made.input(300, 1, 1), "avg", (256, 1), (1, 1))
    assert refusal(compile_graph, made.graph(), edge()) == (
        "layer avg1 is too large for POST: r_count = 256 is outside 1..255, its 8-bit field"
    )


# --- input-stationary ---------------------------------------------------------------------------------------------


def test_input_stationary_refuses_a_network_in_one_line():
    assert refusal(compile_graph, lenet().graph(), edge("array.dataflow=is")) == (
        "random: array.dataflow = 'is' runs a single linear layer, or a 1x1 convolution over one row, without a "
        "table, because it takes its inputs from DRAM in columns; this graph has 5 layers, the first a conv2d; use "
        "'ws' or 'os'"
    )
    made = maker()
    made.table(made.linear(made.input(1, 1, 4), 2))
    assert refusal(compile_graph, made.graph(), edge("array.dataflow=is")).endswith("a linear; use 'ws' or 'os'")
    made = maker(bias_at="accumulator")
    made.linear(made.input(1, 1, 4), 2)
    assert refusal(compile_graph, made.graph(), edge("array.dataflow=is")) == (
        "random: array.dataflow = 'is' needs bias_at = 'ppu', because its lanes are images; set it"
    )


def test_input_stationary_names_the_buffer_that_is_too_small():
    made = maker()
    made.linear(made.input(1, 1, 40), 6)
    assert refusal(compile_graph, made.graph(), edge("array.dataflow=is", "weight.memory_bytes=100"), 9) == (
        "layer linear1 does not fit: two tiles of its inputs need 128 bytes of the weight buffer, 100 there; "
        "use weight.memory_bytes >= 128"
    )
    compile_graph(made.graph(), edge("array.dataflow=is", "weight.memory_bytes=128"), 9)
    assert refusal(compile_graph, made.graph(), edge("array.dataflow=is", "activation.memory_bytes=48"), 9) == (
        "layer linear1 does not fit: one weight row and its results need 49 bytes of the activation buffer, 48 there; "
        "use activation.memory_bytes >= 49"
    )
    compile_graph(made.graph(), edge("array.dataflow=is", "activation.memory_bytes=49"), 9)


@pytest.mark.parametrize("seed", range(40))
def test_input_stationary_gives_weight_stationarys_bits(seed):
    rng = np.random.default_rng(seed)
    subtracted = bool(rng.random() < 0.5)
    made = GraphMaker(
        rng,
        HOW,
        activation=IntFormat(8, signed=bool(rng.random() < 0.6)),
        zero_points="subtracted" if subtracted else "folded",
        affine_weights=subtracted,
    )
    made.input(int(rng.integers(1, 3)), 1, int(rng.integers(1, 60)), made.zero_point())
    # Narrow saturating accumulators, so that every change of K order or of a chunk would show.
    made.linear("input", int(rng.integers(1, 40)), weight_bits=int(rng.integers(2, 9)), width=int(rng.integers(10, 16)))
    rows, columns = (int(v) for v in rng.integers(1, 7, 2))
    shape = [f"array.rows={rows}", f"array.columns={columns}"]
    small = [f"weight.memory_bytes={2 * rows * columns + 20}", f"accumulator.memory_bytes={8 * 4 * columns}"]
    batch = int(rng.integers(1, 3 * columns + 2))
    codes = made.codes(batch)
    stationary = compile_graph(made.graph(), edge(*shape, *small, "array.dataflow=is"), batch)
    weights = compile_graph(made.graph(), edge(*shape), batch)
    first, second = (Accelerator(program).run(codes, clock=False).output for program in (stationary, weights))
    assert np.array_equal(first, second)
    assert agrees(stationary, made.graph(), codes)


def test_input_stationary_holds_images_in_the_array_and_streams_weights():
    made = maker()
    made.linear(made.input(1, 1, 40), 10)
    program = compile_graph(made.graph(), edge("array.dataflow=is", "weight.memory_bytes=128"), 11)
    computes = of(program, Compute, 0)
    # 11 images: blocks of 8 and 3. 64 bytes hold 8 rows of 8 lanes: 5 chunks of 8 inputs each, loaded for each block.
    assert [(c.lanes, c.run_bytes, c.x_count) for c in computes] == [(8, 8, 10)] * 5 + [(3, 8, 10)] * 5
    assert weight_loads(program, 0) == [64] * 5 + [24] * 5
    assert [(p.lanes, p.broadcast, p.words) for p in of(program, Post, 0)] == [(8, 1, 10), (3, 1, 10)]
    assert (program.input.layout, program.input.block, program.output.layout) == ("columns", 8, "columns")


# --- every compiled program ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(300, 315))
def test_compiled_programs_encode_and_their_pieces_cover_every_written_tensor(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng).graph()
    program = compile_graph(graph, edge("accumulator.width_bits=32"), 2)
    assert len(encode_all(program.instructions)) == 64 * len(program.instructions)
    covered = {name: np.zeros((2, *shape), dtype=int) for name, shape in program.shapes.items()}
    for piece in program.pieces:
        assert isinstance(program.instructions[piece.instruction], Post)
        covered[piece.node][
            piece.image : piece.image + piece.images,
            piece.y : piece.y + piece.y_count,
            piece.x : piece.x + piece.x_count,
            piece.channel : piece.channel + piece.lanes,
        ] += 1
    assert all((count == 1).all() for count in covered.values())
    macs = {node.name: 2 * graph.macs(node) for node in graph.nodes if isinstance(node, Conv2d | Linear)}
    assert {layer.name: layer.macs for layer in program.layers if layer.macs} == macs
    assert all(p.source == Source.ACTIVATION for p in program.instructions if isinstance(p, Post) and p.residual_on)
    assert sum(isinstance(node, Add) for node in graph.nodes) == sum(layer.op == "add" for layer in program.layers)
