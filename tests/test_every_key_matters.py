"""Every key of a hardware, quantisation or energy file changes some result: a number, a bit, a line or a refusal."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import numpy as np
import pytest
from pydantic import BaseModel

from accelsim.accounting import price
from accelsim.compiler import compile_graph
from accelsim.config import Hardware, QuantizationScheme, load_hardware, load_quantization
from accelsim.energy import LayerCounts, load_energy
from accelsim.energy import evaluate as evaluate_energy
from accelsim.energy.entries import KINDS, CapacityPoint, ProductPoint, WidthPoint
from accelsim.energy.table import Header, OpsPerMac, OpsPerMacSection, energy_from_dict
from accelsim.errors import InputError
from accelsim.ir import (
    ChannelStatistics,
    FloatActivation,
    FloatAvgPool2d,
    FloatConv2d,
    FloatFlatten,
    FloatGraph,
    FloatInput,
    FloatLinear,
    FloatMaxPool2d,
    IntegerGraph,
    quantize_input,
)
from accelsim.pipeline import run_checked
from accelsim.report import build_report
from accelsim.timing import Counts, OpKey

pytest.importorskip("torch")

OPEN_ROWS = [
    *("dram.model=open_rows", "dram.row_bytes=64", "dram.banks=4"),
    *("dram.t_rcd_cycles=5", "dram.t_rp_cycles=6", "dram.t_cas_cycles=7"),
]
TIMES = ("t_rcd_cycles", "t_rp_cycles", "t_cas_cycles")
REFRESH = ["dram.refresh_interval_cycles=80", "dram.refresh_cycles=8"]
# A change of each key from the small machine below.
HARDWARE: dict[str, list[str]] = {
    "name": ["name=other"],
    "clock_mhz": ["clock_mhz=100.0"],
    "array.rows": ["array.rows=4"],
    "array.columns": ["array.columns=4"],
    "array.dataflow": ["array.dataflow=os"],
    "array.arithmetic": ["array.arithmetic=float32xint8"],
    "array.psum_bits": ["array.psum_bits=10"],
    "array.serial_tiles": ["array.serial_tiles=true"],
    "array.mac_latency_cycles": ["array.mac_latency_cycles=2"],
    "array.mac_interval_cycles": ["array.mac_interval_cycles=4"],
    "array.add_latency_cycles": ["array.add_latency_cycles=1"],
    "accumulator.width_bits": ["accumulator.width_bits=16"],
    "accumulator.memory_bytes": ["accumulator.memory_bytes=512"],
    "accumulator.overflow": ["accumulator.overflow=wrap"],
    "accumulator.saturate_at": ["accumulator.saturate_at=end"],
    "activation.memory_bytes": ["activation.memory_bytes=600"],
    "weight.memory_bytes": ["weight.memory_bytes=300"],
    "parameter.memory_bytes": ["parameter.memory_bytes=256"],
    "table.memory_bytes": ["table.memory_bytes=65536"],
    "dram.bandwidth_bytes_per_cycle": ["dram.bandwidth_bytes_per_cycle=8"],
    "dram.latency_cycles": ["dram.latency_cycles=7"],
    "dram.memory_bytes": ["dram.memory_bytes=1024"],
    "dram.model": [*OPEN_ROWS],
    "dram.row_bytes": ["dram.row_bytes=48"],
    "dram.banks": ["dram.banks=1"],
    "dram.t_rcd_cycles": ["dram.t_rcd_cycles=9"],
    "dram.t_rp_cycles": ["dram.t_rp_cycles=9"],
    "dram.t_cas_cycles": ["dram.t_cas_cycles=9"],
    "dram.refresh_interval_cycles": ["dram.refresh_interval_cycles=90"],
    "dram.refresh_cycles": ["dram.refresh_cycles=9"],
    "supports.dataflows": ["supports.dataflows=['os']"],
    "supports.overflows": ["supports.overflows=['wrap']"],
    "supports.saturate_at": ["supports.saturate_at=['end']"],
    "supports.zero_points": ["supports.zero_points=['subtracted']"],
    "supports.bias_at": ["supports.bias_at=['accumulator']"],
    "supports.schemes": ["supports.schemes=['power_of_two']"],
    "supports.roundings": ["supports.roundings=['floor']"],
}
# What has to be set for a key to be legal or in use.
NEEDED: dict[str, list[str]] = {
    "array.arithmetic": ["accumulator.width_bits=32"],
    "array.mac_interval_cycles": ["array.mac_latency_cycles=4"],
    "array.add_latency_cycles": ["array.mac_latency_cycles=4"],
    **dict.fromkeys((f"dram.{key}" for key in ("row_bytes", "banks", *TIMES)), OPEN_ROWS),
    **{key: [*OPEN_ROWS, *REFRESH] for key in ("dram.refresh_interval_cycles", "dram.refresh_cycles")},
}
ADAROUND = ["weight.bits=3", "weight.rounding=adaround", "weight.adaround_iterations=50"]
QUANTIZATION: dict[str, tuple[list[str], list[str]]] = {  # key: (what it needs, the change)
    "activation.bits": ([], ["activation.bits=6"]),
    "activation.signed": (["activation.symmetric=false"], ["activation.signed=false"]),
    "activation.symmetric": ([], ["activation.symmetric=false"]),
    "activation.range": ([], ["activation.range=mse"]),
    "activation.percentile": (["activation.range=percentile"], ["activation.percentile=90.0"]),
    "activation.momentum": (["activation.range=moving_average"], ["activation.momentum=0.9"]),
    "activation.logits": ([], ["activation.logits=cross_entropy"]),
    "activation.full_range": ([], ["activation.full_range=false"]),
    "activation.power_of_two": ([], ["activation.power_of_two=true"]),
    "activation.fraction_bits": ([], ["activation.fraction_bits=3"]),
    "weight.bits": ([], ["weight.bits=5"]),
    "weight.range": ([], ["weight.range=mse"]),
    "weight.percentile": (["weight.range=percentile"], ["weight.percentile=90.0"]),
    "weight.rounding": (["weight.bits=3"], ["weight.rounding=adaround", "weight.adaround_iterations=50"]),
    "weight.adaround_iterations": (ADAROUND, ["weight.adaround_iterations=100"]),
    "weight.adaround_samples": (ADAROUND, ["weight.adaround_samples=8"]),
    "weight.seed": (ADAROUND, ["weight.seed=1"]),
    "bias.correction": (["weight.bits=3"], ["bias.correction=empirical"]),
    "equalization.weights": ([], ["equalization.weights=true"]),
    "equalization.absorb_bias": ([], ["equalization.absorb_bias=true"]),
    "equalization.relu6": (["equalization.weights=true"], ["equalization.relu6=replace"]),
    "weight.symmetric": (["zero_points=subtracted", "weight.granularity=tensor"], ["weight.symmetric=false"]),
    "weight.granularity": ([], ["weight.granularity=tensor"]),
    "weight.full_range": ([], ["weight.full_range=true"]),
    "weight.power_of_two": ([], ["weight.power_of_two=true"]),
    "weight.fraction_bits": ([], ["weight.fraction_bits=5"]),
    "bias.bits": ([], ["bias.bits=8"]),
    "requantization.scheme": ([], ["requantization.scheme=reciprocal"]),
    "requantization.rounding": ([], ["requantization.rounding=floor"]),
    "requantization.multiplier_bits": ([], ["requantization.multiplier_bits=8"]),
    "requantization.order": (["requantization.rounding=floor"], ["requantization.order=shift_first"]),
    "requantization.guard_bits": (["requantization.order=shift_first"], ["requantization.guard_bits=9"]),
    "requantization.output_overflow": (["activation.bits=4"], ["requantization.output_overflow=wrap"]),
    "requantization.multiplier_arithmetic": (
        ["scale_format=float32"],
        ["requantization.multiplier_arithmetic=float32"],
    ),
    "zero_points": (["activation.symmetric=false"], ["zero_points=subtracted"]),
    "bias_at": ([], ["bias_at=accumulator"]),
    "scale_format": ([], ["scale_format=float32"]),
    "accumulator_width_bits": ([], ["accumulator_width_bits.conv=10"]),
    "layers.weight_bits": ([], ["layers.conv2.weight_bits=3"]),
    "layers.weight_granularity": ([], ["layers.conv2.weight_granularity=tensor"]),
    "layers.weight_fraction_bits": ([], ["layers.conv2.weight_fraction_bits=4"]),
    "layers.activation_bits": ([], ["layers.conv2.activation_bits=5"]),
    "layers.activation_signed": (
        ["activation.symmetric=false", "activation.bits=4"],
        ["layers.conv2.activation_signed=false"],
    ),
    "layers.activation_fraction_bits": ([], ["layers.conv2.activation_fraction_bits=2"]),
}

# Keys that move a multiplier by less than 2**-23 of itself: what is stored for the machine changes, codes rarely do.
LAST_BITS = {"scale_format", "requantization.multiplier_arithmetic"}


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of every leaf; of sections under names of the user's own, without these."""
    for name, field in model.model_fields.items():
        kind = get_args(field.annotation)[1] if get_origin(field.annotation) is dict else field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.fixture(scope="module")
def network() -> tuple[FloatGraph, np.ndarray]:
    """conv, tanh, max pool, conv, ReLU6, average pool, flatten, linear, ReLU, linear, on 12x12 images of 3 channels.

    The first linear layer has a folded batch norm's statistics.
    """
    rng = np.random.default_rng(5)

    def conv(name: str, source: str, channels: int, inputs: int, size: int) -> FloatConv2d:
        return FloatConv2d(
            name=name,
            inputs=(source,),
            shape=(channels, size, size),
            weight=rng.normal(0, 0.6, (channels, inputs, 3, 3)),
            bias=rng.normal(0, 0.5, channels),
            stride=(1, 1),
            padding=(1, 1, 1, 1),
            dilation=(1, 1),
            groups=1,
        )

    def pool(kind: type[Any], name: str, source: str, shape: tuple[int, int, int], **more: Any) -> Any:
        zero = (0, 0, 0, 0)
        return kind(name=name, inputs=(source,), shape=shape, kernel=(2, 2), stride=(2, 2), padding=zero, **more)

    graph = FloatGraph(
        "keys",
        (
            FloatInput(name="input", inputs=(), shape=(3, 12, 12)),
            conv("conv", "input", 10, 3, 12),
            FloatActivation(name="tanh", inputs=("conv",), shape=(10, 12, 12), kind="tanh"),
            pool(FloatMaxPool2d, "max", "tanh", (10, 6, 6)),
            conv("conv2", "max", 12, 10, 6),
            FloatActivation(name="relu6", inputs=("conv2",), shape=(12, 6, 6), kind="relu6"),
            pool(FloatAvgPool2d, "mean", "relu6", (12, 3, 3), count_include_pad=True),
            FloatFlatten(name="flat", inputs=("mean",), shape=(108,)),
            FloatLinear(
                name="hidden",
                inputs=("flat",),
                shape=(9,),
                weight=rng.normal(0, 0.1, (9, 108)),
                bias=np.full(9, 4.0),
                statistics=ChannelStatistics(np.full(9, 4.0), np.ones(9)),
            ),
            FloatActivation(name="relu", inputs=("hidden",), shape=(9,), kind="relu"),
            FloatLinear(name="end", inputs=("relu",), shape=(9,), weight=rng.normal(0, 1, (9, 9)), bias=None),
        ),
        "end",
    )
    return graph, rng.normal(0, 1, (40, 3, 12, 12))


def integer_graph(network: tuple[FloatGraph, np.ndarray], overrides: list[str]) -> IntegerGraph:
    from accelsim.quantization import CalibrationWarning, quantize

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)  # of biases that saturate, as they shall
        return quantize(*network, load_quantization("int8", overrides))


def result(graph: IntegerGraph, network: tuple[FloatGraph, np.ndarray], overrides: list[str]) -> object:
    """Everything a run reports, or the refusal. 13-bit accumulators, so that modes of overflow show."""
    base = ["accumulator.width_bits=13", "parameter.memory_bytes=512"]
    try:
        hardware = load_hardware("edge_8x8", [*base, *overrides])
        program = compile_graph(graph, hardware, 2)
        outcome = run_checked(program, graph, quantize_input(graph, network[1][:2]))
        assert outcome.mismatch is None
        report = build_report(outcome, graph, price(outcome, graph, load_energy("horowitz_45nm")))
    except InputError as error:
        return str(error)
    if overrides and not overrides[0].startswith(("name=", "clock_mhz=")):
        report["hardware"] = None  # that a file is echoed is no effect
    else:
        report["hardware"] = {key: report["hardware"][key] for key in ("name", "clock_mhz")}
    return report


@pytest.mark.parametrize("key", list(keys(Hardware)))
def test_every_hardware_key_changes_some_result(network, key):
    graph = integer_graph(network, [])
    needed = NEEDED.get(key, [])
    plain, changed = result(graph, network, needed), result(graph, network, [*needed, *HARDWARE[key]])
    assert isinstance(plain, dict)
    if isinstance(changed, dict) and changed["hardware"] is None:
        plain = {**plain, "hardware": None}
    assert plain != changed


@pytest.mark.parametrize("key", list(keys(QuantizationScheme)))
def test_every_quantisation_key_changes_some_result(network, key):
    needed, change = QUANTIZATION[key]
    graphs = [integer_graph(network, sets) for sets in (needed, [*needed, *change])]
    if key in LAST_BITS:
        first, second = (compile_graph(graph, load_hardware("edge_8x8"), 1).dram for graph in graphs)
        assert not np.array_equal(first, second)
        return
    plain, changed = (result(graph, network, []) for graph in graphs)
    assert isinstance(plain, dict)
    assert isinstance(changed, dict)
    assert plain["outputs"] != changed["outputs"] or plain["layers"] != changed["layers"]


# --- energy tables ---------------------------------------------------------------------------------------------------

COUNTS: Counts = Counter(
    {
        OpKey("mul", 8, 8): 100,
        OpKey("mul", 8, 4): 10,
        OpKey("add.array", 20): 110,
        OpKey("read.weight", 8): 30,
        OpKey("dram.read", 8): 7,
        OpKey("dram.write", 8): 2,
        OpKey("idle", 1): 5,
        OpKey("requant_mul", 33, 32): 3,
    }
)
TABLE: dict[str, Any] = {
    "name": "mine",
    "unit": "pJ",
    "node_nm": 28.0,
    "voltage_v": 0.9,
    "source": "us",
    "notes": [],
    "ops_per_mac": {"conv2d": {"multiplications": 1, "additions": 1}, "linear": {"multiplications": 1, "additions": 1}}
    | {"matmul": {"multiplications": 1, "additions": 1}},
    "extra_adds": {},
    "entry": [
        {"kind": "product", "ops": ["mul"], "energy_per_product_bit": 0.5},
        {"kind": "by_width", "ops": ["add.array"], "interpolation": "linear", "below": "extrapolate",
         "points": [{"bits": 24, "energy": 2.0}, {"bits": 32, "energy": 3.0}]},
        {"kind": "by_capacity", "ops": ["read.weight"], "interpolation": "power", "access_bits": 64,
         "points": [{"bytes": 1024, "energy": 2.0}, {"bytes": 4096, "energy": 8.0}]},
        {"kind": "constant", "ops": ["dram.read"], "energy_per_bit": 20.0},
        {"kind": "zero", "ops": ["idle"], "reason": "gated"},
        {"kind": "by_product", "ops": ["requant_mul"], "interpolation": "power", "above": "hold",
         "points": [{"bits": 8, "by_bits": 8, "energy": 1.0}, {"bits": 32, "by_bits": 32, "energy": 4.0}]},
        {"kind": "action", "ops": ["dram.write"], "energy_per_action": 4.0, "bits": 64, "share": 0.5},
    ],
}  # fmt: skip
# Where in TABLE a key is, and another value; keys of every model must be here.
ENERGY: dict[str, tuple[list[Any], Any]] = {
    "Header.name": (["name"], "other"),
    "Header.unit": (["unit"], "relative"),
    "Header.node_nm": (["node_nm"], 45.0),
    "Header.voltage_v": (["voltage_v"], 1.1),
    "Header.source": (["source"], "them"),
    "Header.notes": (["notes"], ["rough"]),
    "Header.ops_per_mac": (["ops_per_mac", "conv2d", "multiplications"], 3),
    "Header.extra_adds": (["extra_adds"], {"layer": 2}),
    "OpsPerMac.multiplications": (["ops_per_mac", "conv2d", "multiplications"], 2),
    "OpsPerMac.additions": (["ops_per_mac", "conv2d", "additions"], 2),
    "OpsPerMacSection.conv2d": (["ops_per_mac", "conv2d"], {"multiplications": 5, "additions": 1}),
    "OpsPerMacSection.linear": (["ops_per_mac", "linear"], {"multiplications": 5, "additions": 1}),
    "OpsPerMacSection.matmul": (["ops_per_mac", "matmul"], {"multiplications": 5, "additions": 1}),
    "Constant.kind": (["entry", 3], {"kind": "zero", "ops": ["dram.read"], "reason": "on chip"}),
    "Constant.ops": (["entry", 3, "ops"], ["dram.read", "dram.write"]),
    "Constant.source": (["entry", 3, "source"], "elsewhere"),
    "Constant.node_nm": (["entry", 3, "node_nm"], 65.0),
    "Constant.voltage_v": (["entry", 3, "voltage_v"], 1.0),
    "Constant.note": (["entry", 3, "note"], "low end"),
    "Constant.energy_per_bit": (["entry", 3, "energy_per_bit"], 40.0),
    "Zero.reason": (["entry", 4, "reason"], "left out"),
    "Product.energy_per_product_bit": (["entry", 0, "energy_per_product_bit"], 1.0),
    "ByWidth.interpolation": (["entry", 1, "interpolation"], "power"),
    "ByProduct.above": (["entry", 5, "above"], "extrapolate"),
    "ByWidth.below": (["entry", 1, "below"], "hold"),
    "ByWidth.points": (["entry", 1, "points", 1, "bits"], 40),
    "WidthPoint.bits": (["entry", 1, "points", 0, "bits"], 22),
    "WidthPoint.energy": (["entry", 1, "points", 0, "energy"], 2.5),
    "ByCapacity.access_bits": (["entry", 2, "access_bits"], 32),
    "ByCapacity.points": (["entry", 2, "points", 1, "bytes"], 8192),
    "CapacityPoint.bytes": (["entry", 2, "points", 0, "bytes"], 512),
    "CapacityPoint.energy": (["entry", 2, "points", 0, "energy"], 4.0),
    "ByProduct.points": (["entry", 5, "points", 1, "bits"], 16),
    "ProductPoint.bits": (["entry", 5, "points", 0, "bits"], 4),
    "ProductPoint.by_bits": (["entry", 5, "points", 1, "by_bits"], 64),
    "Action.energy_per_action": (["entry", 6, "energy_per_action"], 5.0),
    "Action.bits": (["entry", 6, "bits"], 32),
    "Action.share": (["entry", 6, "share"], 1.0),
    "ProductPoint.energy": (["entry", 5, "points", 1, "energy"], 8.0),
}


def priced(table: dict[str, Any], operands: dict[str, int]) -> object:
    """All that a table decides in a report, or its refusal."""
    try:
        loaded = energy_from_dict(table, "table")
        counts = Counter({key: n for key, n in COUNTS.items() if key.op in operands})
        layers = [
            LayerCounts(name="layer", op="conv2d", counts=counts, outputs=4, accumulator_bits=20),
            LayerCounts(name="other", op="linear", counts=counts, outputs=4, accumulator_bits=20),
            LayerCounts(name="third", op="matmul", counts=counts, outputs=4, accumulator_bits=20),
        ]
        report = evaluate_energy(loaded, layers, {"weight": 2048})
        figures = {op: figure.as_numbers() for op, figure in report.by_op.items()}
        sources = {op: loaded.provenance(op) for op in loaded.by_op}
        return loaded.title, sources, report.notes, figures
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("key", ENERGY)
def test_every_energy_key_changes_some_result(key):
    path, value = ENERGY[key]
    changed = copy.deepcopy(TABLE)
    at = changed
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    everything = {op.op: 1 for op in COUNTS}
    plain = priced(TABLE, everything)
    assert isinstance(plain, tuple), plain
    assert priced(changed, everything) != plain


def test_no_energy_key_is_left_out():
    models = (Header, OpsPerMac, OpsPerMacSection, WidthPoint, ProductPoint, CapacityPoint)
    listed = {key.partition(".")[2] for key in ENERGY}
    for model in (*models, *KINDS.values()):
        missing = set(model.model_fields) - listed
        assert not missing, (model.__name__, missing)
