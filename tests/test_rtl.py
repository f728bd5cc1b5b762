"""The RTL against the SimPy machine: bits, cycles, stalls and counts, on LeNet-5 and on random programs.

Where a simulator is missing these tests skip and say so; with ACCELSIM_SIMULATORS=all, as in CI, they fail instead.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from directed import changing_lanes, directed, full_counter
from equivalence import LENET, by_hand, chains, check_build, compiled, describe, lenet, machine, shrink
from graphs import random_graph
from mutations import FAULTS, caught, judge, small_machine
from simulators import need

from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.config import load_hardware, preset_names
from accelsim.errors import InputError
from accelsim.isa import Compute, Post, Program, Start, Store, Unit
from accelsim.machine import Accelerator
from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.pipeline import save_compiled
from accelsim.rtl import (
    COUNTERS,
    Parameters,
    RtlRun,
    build,
    cache_folder,
    check_supported,
    compare,
    cosimulate,
    sources,
)
from accelsim.rtl.build import lint
from accelsim.rtl.simulation import read_trace

RTL = Path(sources()[0]).parent


# --- LeNet-5 ----------------------------------------------------------------------------------------------------------


def rtl_8x8():
    """One build for 32 and for 16 bits: an instruction carries its width."""
    return Parameters.of(load_hardware("rtl_8x8"))


@pytest.mark.parametrize("flow, width, batch", LENET)
def test_lenet5_is_equal_in_every_bit_and_cycle(flow, width, batch):
    pytest.importorskip("torch")
    need("verilator")
    program = lenet("rtl_8x8", flow, width, batch)
    assert {i.width for i in program.instructions if isinstance(i, Compute)} == {width}
    result = cosimulate(program, "verilator", built=build(rtl_8x8(), "verilator"))
    assert result.difference is None, str(result.difference)
    assert result.instructions == len(result.rtl.timeline) > 50


def test_lenet5_is_equal_in_icarus_too():
    pytest.importorskip("torch")
    need("icarus")
    result = cosimulate(lenet("rtl_8x8", "ws", 32, 1), "icarus", built=build(rtl_8x8(), "icarus"))
    assert result.difference is None, str(result.difference)


def test_a_dram_that_delays_at_random_changes_cycles_and_never_a_bit():
    pytest.importorskip("torch")
    need("verilator")
    program = lenet("rtl_8x8", "os", 32, 1)
    built = build(rtl_8x8(), "verilator")
    cycles = set()
    for seed in (1, 2, 3):
        result = cosimulate(program, built=built, jitter=seed)
        assert result.difference is None, str(result.difference)
        assert result.rtl.cycles > result.model.cycles
        cycles.add(result.rtl.cycles)
    assert len(cycles) == 3


# --- tiles of larger networks -----------------------------------------------------------------------------------------


def narrow_network(name: str, flow: str) -> Program:
    """A network of 224 x 224 images, its channels fewer and its image smaller, its layers the same.

    A strided 7x7 convolution with padding, an overlapping padded max pool, residual sums and projections; depthwise
    convolutions of both strides, ReLU6 and linear bottlenecks. On 4 KiB most tensors stream through DRAM in bands.
    """
    import torch
    from accelsim.workloads import imagenet_models

    import accelsim

    torch.manual_seed(3)
    module = getattr(imagenet_models, name)(width=8, classes=10).eval()
    images = np.random.default_rng(3).uniform(0, 1, (2, 3, 48, 48)).astype(np.float32)
    captured = accelsim.capture(module, torch.from_numpy(images))
    graph = accelsim.quantize(captured, images, accelsim.load_quantization("int8"))
    hardware = load_hardware("rtl_8x8", [f"array.dataflow={flow}"])
    return compile_graph(graph, hardware).with_input(accelsim.quantize_input(graph, images[:1]))


@pytest.mark.parametrize("flow", ["ws", "os"])
@pytest.mark.parametrize("name", ["ResNet18", "MobileNetV2"])
def test_narrow_networks_are_equal_in_every_bit_and_cycle(name, flow):
    pytest.importorskip("torch")
    need("verilator")
    program = narrow_network(name, flow)
    computes = [i for i in program.instructions if isinstance(i, Compute)]
    posts = [i for i in program.instructions if isinstance(i, Post)]
    assert any(i.stride_y == 2 for i in computes)
    assert any(i.y_first < 0 and i.x_first < 0 for i in computes)
    assert any(i.residual_on for i in posts)
    assert any(i.diagonal for i in computes) == (name == "MobileNetV2")
    assert any(i.window == 9 and i.y_first < 0 for i in posts) == (name == "ResNet18")
    assert sum(type(i) is Store for i in program.instructions) > 10
    result = cosimulate(program, "verilator", built=build(rtl_8x8(), "verilator"))
    assert result.difference is None, str(result.difference)


# --- random programs --------------------------------------------------------------------------------------------------

BUILDS = {
    "8x8, 32 bits": (load_hardware("rtl_8x8"), 55),
    "3x5, 20 of 64 bits, wrapping": (
        machine(3, 5, "accumulator.width_bits=64", "array.psum_bits=20", "accumulator.overflow=wrap"),
        55,
    ),
    "4x2, 9 of 20 bits": (
        machine(
            4, 2, "accumulator.width_bits=20", "array.psum_bits=9", "dram.bandwidth_bytes_per_cycle=3",
            "activation.memory_bytes=451", "weight.memory_bytes=333",
        ),
        60,
    ),
    "1x3, 12 bits": (machine(1, 3, "accumulator.width_bits=12", "dram.bandwidth_bytes_per_cycle=16"), 60),
}  # fmt: skip


@pytest.mark.parametrize("name", BUILDS)
def test_random_programs_are_equal(name):
    """230 programs on four builds; `make cosim-full` runs more on more."""
    need("verilator")
    hardware, count = BUILDS[name]
    outcome = check_build(hardware, count, seed=11)
    assert outcome.failure is None, outcome.failure
    assert outcome.programs == count


def test_random_programs_are_equal_in_icarus_too():
    """Four states: what is never set shows as X, and an address beyond a memory does not wrap."""
    need("icarus")
    outcome = check_build(BUILDS["4x2, 9 of 20 bits"][0], 20, seed=12, simulator="icarus")
    assert outcome.failure is None, outcome.failure


def test_the_programs_hold_what_is_hard():
    """Every flag and mode, saturation and waiting, in the programs of one build."""
    hardware, count = BUILDS["4x2, 9 of 20 bits"]
    seen, overflows, stalls = set(), 0, 0
    for seed in range(count):
        program = (by_hand, chains)[seed % 3 == 2](seed, hardware)
        run = Accelerator(program).run(telemetry=True)
        overflows += sum(s.overflows for s in run.statistics.values())
        stalls += sum(cycles for issued in run.timeline for _, cycles in issued.stalls)
        how = program.modes.requantization
        seen |= {how.scheme, how.rounding, how.order, how.output_overflow, program.modes.zero_points}
        for i in program.instructions:
            if isinstance(i, Compute):
                kind = "os" if i.output_stationary else "diagonal" if i.diagonal else "ws"
                seen |= {(kind, i.start), (kind, "serial", i.serial), ("bits", i.weight_bits)}
            elif isinstance(i, Post):
                seen |= {(i.source, i.reduce), ("table", i.table_on), ("residual", i.residual_on, i.source)}
                seen.add(("broadcast", i.broadcast))
    wanted = {(kind, start) for kind in ("ws", "os", "diagonal") for start in range(3)}
    wanted |= {(kind, "serial", on) for kind in ("ws", "os", "diagonal") for on in range(2)}
    wanted |= {("bits", n) for n in range(2, 9)} | {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)}
    wanted |= {("table", 1), ("residual", 1, 0), ("residual", 1, 1), ("broadcast", 1)}
    wanted |= {Scheme.FIXED_POINT, Scheme.POWER_OF_TWO, "shift_first", "multiply_first", "saturate", "wrap"}
    wanted |= {"folded", "subtracted", *load_hardware("rtl_4x4").supports.roundings}
    assert wanted <= seen, wanted - seen
    assert overflows > 100
    assert stalls > 100


# --- hand-made programs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1x3, 12 bits", "4x2, 9 of 20 bits"])
def test_hand_made_programs_are_equal(name):
    """Full token counters of all twelve pairs, and the bypass with lanes that change."""
    need("verilator")
    hardware, _ = BUILDS[name]
    made = build(Parameters.of(hardware), "verilator")
    several = list(directed(hardware))
    assert len(several) == 13
    for which, program in several:
        difference = cosimulate(program, built=made).difference
        assert difference is None, f"{which}: {difference}"


@pytest.mark.parametrize("giver, taker", list(itertools.permutations(Unit, 2)))
def test_a_hand_made_program_fills_its_token_counter(giver, taker):
    """A counter holds the tokens given in earlier cycles less those taken by then."""
    program = full_counter(giver, taker, BUILDS["4x2, 9 of 20 bits"][0])
    timeline = {issued.index: issued for issued in Accelerator(program).run().timeline}
    given = [timeline[n].done for n, i in enumerate(program.instructions) if i.UNIT is giver and i.signal >> taker & 1]
    taken = [timeline[n].issue for n, i in enumerate(program.instructions) if i.UNIT is taker and i.wait >> giver & 1]
    held = max(sum(done < cycle for done in given) - sum(issue < cycle for issue in taken) for cycle in taken)
    assert held == 255


def test_a_hand_made_program_reads_what_is_being_written_with_other_lanes():
    """Consecutive COMPUTEs, on one word, that are done one cycle after the other: the second read in the first's write
    (section 2)."""
    program = changing_lanes(BUILDS["1x3, 12 bits"][0])
    done = {issued.index: issued.done for issued in Accelerator(program).run().timeline}
    computes = [(n, i) for n, i in enumerate(program.instructions) if isinstance(i, Compute)]
    seen = {
        (before.lanes, after.lanes, before.start)
        for (n, before), (m, after) in itertools.pairwise(computes)
        if after.start == Start.ACCUMULATE and after.acc_base == before.acc_base and done[m] == done[n] + 1
    }
    assert {(few, 3, start) for few in (1, 2, 3) for start in Start} <= seen
    assert {(3, 1, Start.ACCUMULATE), (3, 2, Start.ACCUMULATE)} <= seen


# --- what is found ----------------------------------------------------------------------------------------------------


SOON = [fault for fault in FAULTS if fault.soon]


@pytest.mark.parametrize("fault", SOON, ids=lambda fault: fault.name)
def test_a_fault_in_the_rtl_is_found(fault, tmp_path):
    """Those of tests/mutations.py that few programs find; `make cosim-full` tries all."""
    need("icarus")
    assert caught(fault, "icarus", tmp_path, programs_at_most=10) is not None


@pytest.mark.parametrize("rows", sorted({fault.rows for fault in FAULTS}))
def test_the_rtl_without_a_fault_passes_what_finds_them(rows):
    """The control: else any difference would count as a find."""
    need("icarus")
    hardware = small_machine(rows)
    made = build(Parameters.of(hardware), "icarus")
    assert judge(hardware, made, "icarus", programs_at_most=10) is None


def test_every_fault_can_still_be_put_in():
    for fault in FAULTS:
        text = (RTL / fault.where).read_text()
        assert text.count(fault.old) == 1, fault
        assert fault.new != fault.old
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 12


def small_run():
    """A program that ran on the model alone, and what the RTL would have shown had it done the same."""
    program = by_hand(1, BUILDS["4x2, 9 of 20 bits"][0])
    accelerator = Accelerator(program)
    model = accelerator.run()
    counts = dict.fromkeys(COUNTERS, 0)
    for by_label in accelerator.counts().values():
        for key, number in by_label.items():
            if key.op in counts:
                counts[key.op] += number
    timeline = sorted(model.timeline, key=lambda issued: issued.index)
    rtl = RtlRun(dram=model.dram.copy(), cycles=model.cycles, timeline=timeline, counts=counts)
    return program, accelerator, model, rtl


def test_the_first_difference_is_named_with_its_instruction_and_both_values():
    program, accelerator, model, rtl = small_run()
    assert compare(program, accelerator, model, rtl) is None
    late = max(rtl.timeline, key=lambda issued: issued.issue)
    other = replace(late, done=late.done + 3)
    changed = replace(rtl, timeline=[other if i is late else i for i in rtl.timeline])
    found = str(compare(program, accelerator, model, changed))
    assert re.fullmatch(
        rf"done cycle, instruction {late.index} of a \([A-Z]+ .*\): model {late.done}, RTL {late.done + 3}", found
    )
    assert compare(program, accelerator, model, changed, cycles=False) is None
    dram = rtl.dram.copy()
    dram[7] ^= 0xFF
    found = str(compare(program, accelerator, model, replace(rtl, dram=dram)))
    assert found.startswith("DRAM, byte 7, written by instruction ")
    assert f"model 0x{model.dram[7]:02x}, RTL 0x{dram[7]:02x} (1 bytes differ)" in found
    found = str(compare(program, accelerator, model, replace(rtl, unknown=9)))
    assert "byte 9" in found
    assert "X, a value that was never set" in found
    counts = {**rtl.counts, "mul": rtl.counts["mul"] + 1}
    found = str(compare(program, accelerator, model, replace(rtl, counts=counts)))
    assert found == f"operations, mul: model {rtl.counts['mul']}, RTL {rtl.counts['mul'] + 1}"
    stuck = replace(rtl, timeline=[i for i in rtl.timeline if i is not late], stuck=99, cycles=None, dram=None)
    assert f"instruction {late.index} of a" in str(compare(program, accelerator, model, stuck))


def trace_of(model):
    """The bench's lines for what the machine did."""
    lines = []
    for issued in model.timeline:
        stalls = [dict(issued.stalls).get(unit, 0) for unit in Unit]
        lines.append((issued.issue, 0, issued.unit, f"issue {issued.unit} {issued.issue} {' '.join(map(str, stalls))}"))
        lines.append((issued.done, 1, issued.unit, f"done {issued.unit} {issued.done}"))
    return [line for *_, line in sorted(lines)]


def test_an_issue_or_done_too_many_is_a_difference():
    program, accelerator, model, whole = small_run()

    def compared(lines):
        rtl = read_trace(program, "\n".join(lines))
        rest = {"dram": whole.dram, "cycles": whole.cycles, "counts": whole.counts}
        return [compare(program, accelerator, model, replace(rtl, **rest), cycles=on) for on in (True, False)]

    lines = trace_of(model)
    assert compared(lines) == [None, None]
    stores = sum(i.UNIT is Unit.STORE for i in program.instructions)
    for extra, what in (("issue 3 9999 0 0 0 0", "issue"), ("done 3 9999", "done")):
        said = f"{what}, STORE: model {stores} instructions, RTL one more, in cycle 9999"
        assert list(map(str, compared([*lines, extra]))) == [said, said]
    # A done of a unit with nothing under way, though its queue is not empty.
    assert str(compared(["done 1 0", *lines])[0]).startswith("done, COMPUTE: model ")


def test_an_issue_is_compared_where_the_instruction_is_never_done():
    program, accelerator, model, _ = small_run()
    lines = trace_of(model)
    last = max((i for i in model.timeline), key=lambda issued: issued.issue)
    cut = [line for line in lines if line != f"done {last.unit} {last.done}"]
    (at,) = (n for n, line in enumerate(cut) if line.startswith(f"issue {last.unit} {last.issue} "))
    cut[at] = cut[at].replace(f" {last.issue} ", f" {last.issue + 2} ", 1)
    found = str(compare(program, accelerator, model, read_trace(program, "\n".join([*cut, "stuck 5000"]))))
    assert found.startswith(f"issue cycle, instruction {last.index} of a ")
    assert found.endswith(f": model {last.issue}, RTL {last.issue + 2}")


def test_a_failing_program_shrinks_to_what_fails():
    """A made-up fault: a COMPUTE with a run of more than two bytes and a table, anywhere behind it."""

    def fails(program):
        runs = [n for n, i in enumerate(program.instructions) if isinstance(i, Compute) and i.run_bytes > 2]
        return any(isinstance(i, Post) and i.table_on for i in program.instructions[runs[0] :]) if runs else False

    program = next(p for seed in range(50) if fails(p := by_hand(seed, machine(3, 3))))
    smallest = shrink(program, fails)
    compute, post = smallest.instructions
    assert (compute.run_bytes, compute.x_count, compute.r_count, post.table_on, post.words) == (3, 1, 1, 1, 1)
    assert "COMPUTE" in describe(smallest, "difference")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_the_rtl_does_not_implement_is_refused_by_name():
    program = compiled(3, machine(2, 2))
    check_supported(program)
    how = Requantization(scheme=Scheme.RECIPROCAL, rounding=Rounding.FLOOR)
    other = replace(program, modes=replace(program.modes, requantization=how))
    with pytest.raises(InputError, match=re.escape("requantization.scheme = 'reciprocal' is not in the RTL; use one")):
        cosimulate(other)
    accumulator = program.hardware.accumulator.model_copy(update={"saturate_at": "end"})
    other = replace(program, hardware=program.hardware.model_copy(update={"accumulator": accumulator}))
    with pytest.raises(InputError, match=r"accumulator\.saturate_at = 'end' needs exact sums"):
        cosimulate(other)
    dram = program.hardware.dram.model_copy(update={"model": "open_rows"})
    other = replace(program, hardware=program.hardware.model_copy(update={"dram": dram}))
    with pytest.raises(InputError, match=r"dram\.model = 'open_rows' is not in the bench"):
        cosimulate(other)
    array = program.hardware.array.model_copy(update={"mac_latency_cycles": 3})
    other = replace(program, hardware=program.hardware.model_copy(update={"array": array}))
    with pytest.raises(InputError, match=r"mac_latency_cycles = 3 and array\.mac_interval_cycles = 1 are not"):
        cosimulate(other)


@pytest.mark.parametrize("preset", [name for name in preset_names("hardware") if name.startswith("rtl_")])
def test_rtl_presets_support_what_the_rtl_covers(preset):
    supports = load_hardware(preset).supports
    assert supports.schemes == ("fixed_point", "power_of_two")
    assert supports.saturate_at == ("every_add",)
    with pytest.raises(InputError, match="is not implemented by this machine"):
        load_hardware(preset, ["accumulator.saturate_at=end"])


def test_a_missing_simulator_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["cosim", "lenet5_digits"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no C++ compiler was found" in error or "Verilator is not installed" in error
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["cosim", "lenet5_digits", "--simulator", "icarus"]) == 2
    assert "apt-get install iverilog" in capsys.readouterr().err


def test_a_seed_or_cache_that_cannot_be_is_one_line(tmp_path, capsys, monkeypatch):
    assert main(["cosim", "lenet5_digits", "--jitter", "-1"]) == 2
    assert "--jitter -1: must be 0 (none) or a seed up to 2147483647" in capsys.readouterr().err
    need("icarus")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot keep builds of the RTL there: Not a directory; set XDG_CACHE_HOME"):
        build(Parameters.of(machine(1, 1)), "icarus")


def test_a_relative_cache_home_is_ignored(tmp_path, monkeypatch):
    """As the XDG base directory specification says of XDG_CACHE_HOME."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("cache", "./cache", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache" / "accelsim" / "rtl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "accelsim" / "rtl"


@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_a_cache_that_lost_files_or_holds_a_killed_build_is_made_whole(tmp_path, monkeypatch, simulator):
    """The cache is named by a relative path, which Verilator's compiler reads from another folder."""
    need(simulator)
    monkeypatch.chdir(tmp_path)
    parameters = Parameters.of(machine(1, 1))
    product = Path(build(parameters, simulator, cache=Path("cache")).command[0 if simulator == "verilator" else -1])
    assert product.is_absolute()
    entry = product.parent
    product.unlink()
    (entry / "left").touch()  # the entry is there, without what is run
    for runtime in entry.parent.glob("runtime-*/*.o"):
        runtime.unlink()
        break
    killed = entry.parent / f"build-{entry.name}"
    killed.mkdir()
    (killed / "half").touch()
    build(parameters, simulator, cache=Path("cache"))
    assert product.exists()
    assert not (entry / "left").exists()
    assert not list(entry.parent.glob("build-*"))
    assert len(list(entry.parent.glob("runtime-*/*.o"))) == (2 if simulator == "verilator" else 0)


def test_a_cache_that_cannot_be_written_while_building_is_one_line(tmp_path, monkeypatch):
    need("icarus")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(InputError, match="cannot keep builds of the RTL there: No space left on device; set XDG"):
        build(Parameters.of(machine(1, 1)), "icarus", cache=tmp_path)
    assert not list(tmp_path.glob("build-*"))


def test_sources_that_do_not_compile_are_one_line(tmp_path):
    need("icarus")
    for path in sources():
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "tokens.sv").write_text("module tokens;\n    wire a = ;\nendmodule\n")
    with pytest.raises(InputError, match=r"iverilog: cannot build the RTL: .*tokens\.sv:\d"):
        build(Parameters.of(machine(1, 1)), "icarus", folder=tmp_path, cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_program_directory_is_run_as_it_is(tmp_path, capsys):
    need("icarus")
    for seed in range(100):
        maker = random_graph(np.random.default_rng(seed))
        graph = maker.graph()
        try:
            program = compile_graph(graph, machine(2, 2))
        except InputError:
            continue
        break
    save_compiled(program, graph, maker.codes(1), tmp_path / "p")
    export = tmp_path / "rtl"
    assert main(["cosim", str(tmp_path / "p"), "--simulator", "icarus", "--export", str(export)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"issue, done and stalls of \d+ instructions equal", printed)
    assert (export / "accelsim_config.sv").read_text() == Parameters.of(program.hardware).package()
    assert {path.name for path in export.glob("*.sv")} == {"accelsim_config.sv", *(p.name for p in sources())}
    again = ["cosim", str(tmp_path / "p"), "--simulator", "icarus", "--export"]
    assert main([*again, str(export)]) == 0  # over an earlier export
    before = sorted((tmp_path / "p").iterdir())
    capsys.readouterr()
    assert main([*again, str(tmp_path / "p")]) == 2  # among the files of something else
    said = (
        f"{tmp_path / 'p'}: holds files, and no accelsim_config.sv of an earlier export; choose an empty or new folder"
    )
    assert said in capsys.readouterr().err
    assert sorted((tmp_path / "p").iterdir()) == before
    assert main(["cosim", str(tmp_path / "p"), "--set", "array.rows=3"]) == 2
    assert "is compiled already" in capsys.readouterr().err


# --- the source -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*sources(), *sorted((RTL / "bench").glob("*.*"))], ids=lambda path: path.name)
def test_every_file_is_one_unit_that_says_what_it_is(path):
    text = path.read_text()
    assert max(map(len, text.splitlines())) <= 120
    if path.suffix != ".sv":
        return
    (name,) = re.findall(r"^(?:module|package) (\w+)", text, re.MULTILINE)
    assert name == path.stem
    assert text.startswith("// ")
    if path.parent == RTL and name not in ("delay_line",):  # a row of registers is in no section
        assert re.search(r"docs/\w+\.md,? section", text.replace("\n// ", " ")), name
    assert not re.search(r"\b(struct|interface|modport|class)\b", re.sub("//.*", "", text))


def test_verilator_finds_no_loop_latch_or_multiple_driver():
    """Its full lint; widths and unused bits, which a parameterised design has by its nature, are left out."""
    need("verilator")
    assert lint(rtl_8x8()) == []
