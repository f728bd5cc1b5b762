"""What a user loads and compiles: presets and files by name or path, graphs and programs from their directories.

`import accelsim` has all of it, with `capture`, `quantize`, `simulate`, `run_checked` and `evaluate`; docs/api.md
shows them at work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accelsim import compiler, config, energy, ir, isa
from accelsim.config import Hardware, QuantizationScheme
from accelsim.energy import EnergyTable
from accelsim.errors import InputError
from accelsim.files import FilePath
from accelsim.ir import IntegerGraph
from accelsim.isa import Program


def load_hardware(name_or_path: FilePath = "default_16x16", overrides: Sequence[str] = ()) -> Hardware:
    """Load the description of a machine.

    Args:
        name_or_path: a preset (``accelsim list`` names them) or a TOML file.
        overrides: ``section.key=value`` each, in TOML's notation; they win over the file. Sizes are bytes, widths
            bits, latencies cycles, the clock MHz.
    Raises:
        InputError: no such preset or file, an unknown key, or a value against a rule; one line with the remedy.

    >>> hardware = load_hardware("edge_8x8", ["array.dataflow=os", "accumulator.width_bits=20"])
    >>> hardware.array.rows, hardware.array.dataflow, hardware.accumulator.width_bits
    (8, 'os', 20)
    >>> load_hardware("edge_8x8", ["array.rows=0"])
    Traceback (most recent call last):
    accelsim.errors.InputError: edge_8x8 [array]: rows = 0 must be at least 1
    """
    return config.load_hardware(Path(name_or_path), _listed(overrides))


def load_quantization(name_or_path: FilePath = "int8", overrides: Sequence[str] = ()) -> QuantizationScheme:
    """Load a quantisation scheme (docs/numerics.md, section 5).

    Args:
        name_or_path: a preset or a TOML file.
        overrides: ``section.key=value`` each; ``accumulator_width_bits.NODE=16`` narrows one layer.
    Raises:
        InputError: as for `load_hardware`.

    >>> scheme = load_quantization("affine", ["accumulator_width_bits.c3=16"])
    >>> scheme.activation.symmetric, scheme.weight.granularity, scheme.accumulator_width_bits
    (False, 'channel', {'c3': 16})
    """
    return config.load_quantization(Path(name_or_path), _listed(overrides))


def load_energy(name_or_path: FilePath = "horowitz_45nm") -> EnergyTable:
    """Load an energy table (docs/energy.md).

    Args:
        name_or_path: a preset or a TOML file.
    Returns:
        The table; `unit` is ``pJ`` or ``relative``, and `provenance` names the source of each figure.
    Raises:
        InputError: as for `load_hardware`.

    >>> table = load_energy("lenet_coursework")
    >>> table.name, table.unit
    ('lenet_coursework', 'relative')
    """
    return energy.load_energy(Path(name_or_path))


def load_graph(folder: FilePath) -> IntegerGraph:
    """Read an integer graph that `IntegerGraph.save` or ``accelsim quantize`` wrote; torch is not needed.

    Args:
        folder: holds ``graph.json`` and ``graph.safetensors`` (docs/formats.md).
    Raises:
        InputError: a file is missing, altered, of another version, or breaks a legality rule.

    >>> load_graph("nowhere")
    Traceback (most recent call last):
    accelsim.errors.InputError: nowhere/graph.json: no such file; check the path
    """
    return ir.load_graph(Path(folder))


def load_program(folder: FilePath) -> Program:
    """Read a program that `Program.save` or ``accelsim compile`` wrote; neither torch nor the graph is needed.

    Args:
        folder: holds ``program.bin``, ``dram.bin`` and ``program.json`` (docs/formats.md).
    Raises:
        InputError: a file is missing or altered, or a version is not this one's; nothing is executed.

    >>> load_program("nowhere")
    Traceback (most recent call last):
    accelsim.errors.InputError: nowhere: is not a program directory; make one with 'accelsim compile WORKLOAD -o DIR'
    """
    return isa.load_program(Path(folder))


def compile(graph: IntegerGraph, hardware: Hardware, batch: int = 1) -> Program:
    """Compile a graph for one machine.

    Args:
        graph: from `quantize` or `load_graph`.
        hardware: from `load_hardware`.
        batch: images of one run, 1..65535. It changes cycles and energy, never a bit of an image's result. Where the
            tensors of all do not fit the activation buffer, they run in groups as large as fit.
    Raises:
        InputError: the machine does not support a mode of the graph, or a layer cannot fit; the line names the
            buffer, the need and the remedy.

    >>> import numpy as np
    >>> from accelsim.ir import FloatGraph, FloatInput, FloatLinear
    >>> from accelsim.quantization import quantize
    >>> layer = FloatLinear(name="fc", inputs=("x",), shape=(3,), weight=np.eye(3, 4), bias=None)
    >>> model = FloatGraph(name="model", nodes=(FloatInput(name="x", inputs=(), shape=(4,)), layer), output="fc")
    >>> graph = quantize(model, np.eye(4), load_quantization())
    >>> program = compile(graph, load_hardware("edge_8x8"), batch=2)
    >>> program.batch, [(layer.name, layer.op, layer.macs) for layer in program.layers]
    (2, [('fc', 'linear', 24)])
    """
    return compiler.compile_graph(graph, hardware, batch)


def _listed(overrides: Sequence[str]) -> list[str]:
    if isinstance(overrides, str):  # a sequence too, of letters
        raise InputError(f"overrides = {overrides!r} is one text; give a list of them: [{overrides!r}]")
    return list(overrides)
