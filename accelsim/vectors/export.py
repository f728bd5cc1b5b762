"""vectors export: layers of a network or the directed cases, written as a pack with its benches and coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from accelsim.config import Hardware
from accelsim.errors import InputError, did_you_mean
from accelsim.ir import IntegerGraph, refuse_host_operators, refuse_matmul
from accelsim.vectors import corners
from accelsim.vectors.coverage import Coverage, coverage_text, measure
from accelsim.vectors.layers import Layer, make_layers, policy_of
from accelsim.vectors.manifest import ArrayEntry, Level, Manifest, Policy
from accelsim.vectors.pack import element_bits, write_pack
from accelsim.vectors.target import check_target

Int64 = npt.NDArray[np.int64]

COVERAGE = "coverage.toml"
BENCH_FILES = ("tile_bench.sv", "ppu_bench.sv", "example_array.sv", "example_ppu.sv", "cocotb_bench.py", "README.txt")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a pack is to hold.

    Attributes:
        level: layer, tile or cycle.
        policy: of the sums; None is the hardware's.
        layers: names of those wanted; empty is all.
        simple: only layers without zero points and with one multiplier.
        command, versions: recorded in the manifest.
    """

    level: Level = "layer"
    policy: Policy | None = None
    layers: Sequence[str] = ()
    simple: bool = False
    command: str
    versions: dict[str, str]


def export_network(
    graph: IntegerGraph, hardware: Hardware, codes: Int64, folder: Path, request: Request
) -> tuple[Manifest, Coverage]:
    """Write a pack of a network's layers on one batch of inputs.

    Args:
        codes: int64 (images, H, W, C).
    Raises:
        InputError: a layer or mode that cannot be exported, or a folder that cannot be written.
    """
    check_target(folder)
    refuse_host_operators(graph, "cannot be exported as vectors")
    refuse_matmul(graph, "cannot be exported as vectors")
    _check_names([node.name for node in graph.nodes[1:]], graph.name, request)
    policy = policy_of(hardware, request.policy)
    layers = make_layers(graph, hardware, codes, policy=policy, only=request.layers)
    return _export(layers, graph.name, len(codes), hardware, folder, request)


def export_corners(hardware: Hardware, folder: Path, request: Request) -> tuple[Manifest, Coverage]:
    """Write the directed cases for a machine."""
    check_target(folder)
    policy = policy_of(hardware, request.policy)
    layers: list[Layer] = []
    for case in corners.cases(hardware):
        layers += make_layers(
            case.graph, hardware, case.codes, policy=policy, first_number=len(layers) + 1, covers=case.covers
        )
    _check_names([layer.entry.name for layer in layers], corners.NAME, request)
    return _export(layers, corners.NAME, 0, hardware, folder, request)


def _export(
    layers: list[Layer], name: str, images: int, hardware: Hardware, folder: Path, request: Request
) -> tuple[Manifest, Coverage]:
    chosen = _chosen(layers, name, request)
    coverage = measure(chosen)
    if request.level == "cycle" and (hardware.array.mac_latency_cycles, hardware.array.mac_interval_cycles) != (1, 1):
        raise InputError(
            "--level cycle: cycle vectors are those of a PE that multiplies and adds in one cycle; use "
            "array.mac_latency_cycles = 1 and array.mac_interval_cycles = 1, or --level tile"
        )
    array = ArrayEntry(
        hardware=hardware.name,
        rows=hardware.array.rows,
        columns=hardware.array.columns,
        dataflow="os" if hardware.array.dataflow == "os" else "ws",
    )
    extra = {COVERAGE: coverage_text(coverage)}
    if request.level != "layer":
        extra |= bench_files()
        extra["layers.sv"] = _tops(chosen)
    manifest = write_pack(
        folder,
        chosen,
        name=name,
        level=request.level,
        images=images,
        command=request.command,
        versions=request.versions,
        array=array,
        extra=extra,
    )
    return manifest, coverage


def _check_names(names: list[str], name: str, request: Request) -> None:
    for wanted in request.layers:
        if wanted not in names:
            hint = did_you_mean(wanted, names) or f"; layers: {', '.join(names)}"
            raise InputError(f"--layer {wanted}: {name} has no such layer{hint}")


def _chosen(layers: list[Layer], name: str, request: Request) -> list[Layer]:
    chosen = [layer for layer in layers if not request.layers or layer.entry.name in request.layers]
    if request.simple:
        chosen = [layer for layer in chosen if layer.entry.simple]
    if not chosen:
        raise InputError(
            f"--simple: no layer of {name} is without zero points and with one multiplier; quantize with "
            "--quantization int8_per_tensor"
        )
    return chosen


def bench_files() -> dict[str, str]:
    """The benches and examples that come with a pack, by name."""
    folder = resources.files("accelsim.vectors") / "bench"
    return {name: (folder / f"{name}.in").read_text(encoding="utf-8") for name in BENCH_FILES}


def _tops(layers: list[Layer]) -> str:
    """One module a layer that instantiates the benches with its sizes."""
    lines = ["// One top for each layer: its sizes and file names, for tile_bench and ppu_bench."]
    for layer in layers:
        entry, sums = layer.entry, layer.entry.sums
        if sums is None:
            continue
        activation, _ = element_bits(layer, "tile.activation")
        weight, _ = element_bits(layer, "tile.weight")
        total, _ = element_bits(layer, "tile.accumulator")
        common = {
            "LAYER": f'"{entry.label}"',
            "ROWS": sums.rows,
            "COLUMNS": sums.columns,
            "WORDS": sums.words,
            "CHUNKS": len(sums.chunks),
            "BLOCKS": len(sums.blocks),
            "ACCUMULATOR_BITS": total,
        }
        array = {
            "SETS": sums.sets,
            "DIAGONAL": int(sums.diagonal),
            "PER_GROUP": _blocks_per_set(sums.blocks, sums.sets),
            "ACTIVATION_BITS": activation,
            "ACTIVATION_SIGNED": int(entry.numerics.activation_signed or activation == 16),
            "WEIGHT_BITS": weight,
            "PSUM_BITS": total if sums.running else element_bits(layer, "tile.psum")[0],
            "PSUM_WIDTH": sums.psum_bits,
            "ACCUMULATOR_WIDTH": sums.width_bits,
            "SATURATE": int(sums.policy == "saturating"),
            "RUNNING": int(sums.running),
        }
        roundings = ("floor", "half_up", "half_even", "half_away", "toward_zero", "tflite_double")
        how = entry.numerics
        fraction = how.multiplier_bits - 1 if how.scheme == "fixed_point" else 0
        ppu = {
            "M0_BITS": element_bits(layer, "tile.m0")[0],
            "FRACTION": fraction,
            "ROUNDING": roundings.index(how.rounding),
            "SHIFT_FIRST": int(how.order == "shift_first"),
            "GUARD": how.guard_bits,
            "Z_Y": how.z_y,
            "LOW": how.clip[0],
            "HIGH": how.clip[1],
            "WRAP": int(how.output_overflow == "wrap"),
            "OUTPUT_SIGNED": int(how.activation_signed),
        }
        lines += ["", _module(f"tile_{entry.label}", "tile_bench", common | array)]
        # The bench's PPU has a shifter and whole bytes; the tensors of other layers are in the pack all the same.
        if how.scheme in ("fixed_point", "power_of_two") and (
            how.activation_bits == 8 or how.output_overflow != "wrap"
        ):
            lines += ["", _module(f"ppu_{entry.label}", "ppu_bench", common | ppu)]
    return "\n".join(lines) + "\n"


def _blocks_per_set(blocks: list[list[int]], sets: int) -> int:
    """Blocks that share one activation set: consecutive, and equally many for each."""
    return len(blocks) // sets


def _module(name: str, bench: str, parameters: dict[str, object]) -> str:
    inside = ",\n".join(f"    .{key}({value})" for key, value in parameters.items())
    return f"module {name};\n  {bench} #(\n{inside}\n  ) bench ();\nendmodule"
