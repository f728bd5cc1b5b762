"""Traces: the format's schema, what viewers ask beyond it, and every figure against a second way to it.

The second ways use sets of cycles and dictionaries of bytes: slow, and with nothing in common with the writer.
"""

from __future__ import annotations

import copy
import gzip
import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from graphs import random_graph, random_hardware
from programs import Chains, Maker, assembled

from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.config.hardware import hardware_from_dict
from accelsim.errors import InputError
from accelsim.isa import Load, Modes, Program, Unit, accesses, assemble, from_text
from accelsim.machine import Accelerator
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme
from accelsim.pipeline import Outcome, save_compiled
from accelsim.report import write_trace
from accelsim.report.document import stalls
from accelsim.report.unit_times import busy_cycles

SCHEMA = jsonschema.Draft202012Validator(json.loads(Path(__file__).with_name("trace_event.schema.json").read_text()))
MEMORIES = {
    "activation buffer": "activation",
    "weight buffer": "weight",
    "parameter buffer": "parameter",
    "table memory": "table",
    "accumulator memory": "accumulator",
}


def timed(program: Program) -> Outcome:
    machine = Accelerator(program)
    return Outcome(program, machine, machine.run(values=False))


def strict(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def traced(outcome: Outcome, folder: Path) -> dict:
    write_trace(outcome, folder / "trace.json")
    return strict((folder / "trace.json").read_text())


def of(trace: dict, **wanted: object) -> list[dict]:
    return [e for e in trace["traceEvents"] if all(e.get(key) == value for key, value in wanted.items())]


def tracks(trace: dict) -> dict[str, list[dict]]:
    """Slices by the name of their track, in time."""
    names = {e["tid"]: e["args"]["name"] for e in of(trace, ph="M", name="thread_name")}
    found = defaultdict(list)
    for event in of(trace, ph="X"):
        found[names[event["tid"]]].append(event)
    return {name: sorted(found[name], key=lambda e: e["ts"]) for name in names.values()}


def counters(trace: dict) -> dict[str, list[tuple[int, float]]]:
    found = defaultdict(list)
    for event in of(trace, ph="C"):
        (value,) = event["args"].values()
        found[event["name"]].append((event["ts"], value))
    return dict(found)


def faults(trace: dict) -> list[str]:
    """What is wrong with a trace: the schema, and what no schema can say."""
    found = [error.message for error in SCHEMA.iter_errors(trace)]
    if found:
        return found
    threads = Counter((e["pid"], e["tid"]) for e in of(trace, ph="M", name="thread_name"))
    found += [f"thread {thread} named twice" for thread, count in threads.items() if count > 1]
    if len({tid for _, tid in threads}) < len(threads):
        found.append("two processes share a thread's number")
    processes = {e["pid"] for e in of(trace, ph="M", name="process_name")}
    slices = defaultdict(list)
    for event in of(trace, ph="X"):
        slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for thread, spans in slices.items():
        if thread not in threads or thread[0] not in processes:
            found.append(f"thread {thread} has no name")
        open_until: list[int] = []
        for first, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= first:
                open_until.pop()
            if open_until and end > open_until[-1]:
                found.append(f"slices of {thread} overlap without nesting at {first}")
            open_until.append(end)
    ends: dict[int, dict[str, dict]] = defaultdict(dict)
    for event in of(trace, cat="token"):
        if event["ph"] in ends[event["id"]]:
            found.append(f"flow {event['id']} has two {event['ph']}")
        ends[event["id"]][event["ph"]] = event
        inside = [1 for first, end in slices[event["pid"], event["tid"]] if first <= event["ts"] < end]
        if not inside or (event["ph"] == "f" and event.get("bp") != "e"):
            found.append(f"flow {event['id']} binds to no slice")
    for number, pair in ends.items():
        if pair.keys() != {"s", "f"} or pair["s"]["ts"] >= pair["f"]["ts"]:
            found.append(f"flow {number} does not lead from earlier to later")
    for name, points in counters(trace).items():
        if any(a >= b for (a, _), (b, _) in itertools.pairwise(points)):
            found.append(f"counter {name} goes back in time")
        if points[0][0] != 0 or points[-1][1] != 0 or any(value < 0 for _, value in points):
            found.append(f"counter {name} does not go from cycle 0 to an end at 0")
    return found


# --- a case by hand -----------------------------------------------------------------------------------------------

TWO_RECTANGLES = """
LOAD    memory=WEIGHT dram_address=0 buffer_address=0 row_bytes=4
LOAD    signal=COMPUTE memory=ACTIVATION dram_address=4 buffer_address=0 row_bytes=8
LOAD    signal=POST memory=PARAMETER dram_address=20 buffer_address=0 row_bytes=32
LOAD    signal=COMPUTE label=1 memory=ACTIVATION dram_address=12 buffer_address=8 row_bytes=8
COMPUTE wait=LOAD signal=POST act_base=0 weight_base=0 width=32 acc_base=0 lanes=2 run_bytes=2 x_count=4 x_step=2 in_row_bytes=8
COMPUTE wait=LOAD signal=POST label=1 act_base=8 weight_base=0 width=32 acc_base=4 lanes=2 run_bytes=2 x_count=4 x_step=2 in_row_bytes=8
POST    wait=LOAD,COMPUTE signal=STORE lanes=2 src_base=0 src_x_step=1 x_count=4 dst_base=16 dst_x_step=2 param=0 qmin=-128 qmax=127
POST    wait=COMPUTE signal=STORE label=1 lanes=2 src_base=4 src_x_step=1 x_count=4 dst_base=24 dst_x_step=2 param=0 qmin=-128 qmax=127
STORE   wait=POST dram_address=52 buffer_address=16 row_bytes=8
STORE   wait=POST label=1 dram_address=60 buffer_address=24 row_bytes=8
"""  # noqa: E501


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory) -> tuple[Outcome, dict]:
    """Case 9.6 of docs/microarchitecture.md, whose cycles that page derives, at 300 MHz."""
    hardware = hardware_from_dict(
        {
            "array": {"rows": 2, "columns": 2},
            "accumulator": {"width_bits": 32, "memory_bytes": 256},
            **{name: {"memory_bytes": 256} for name in ("activation", "weight", "parameter", "table")},
            "dram": {"bandwidth_bytes_per_cycle": 4, "latency_cycles": 3},
            "clock_mhz": 300.0,
        },
        "9.6",
    )
    modes = Modes(
        activation=IntFormat(8),
        zero_points="folded",
        requantization=Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.FLOOR),
    )
    outcome = timed(assembled(assemble(TWO_RECTANGLES), bytes(68), modes, hardware))
    return outcome, traced(outcome, tmp_path_factory.mktemp("trace"))


def test_case_by_hand_slices(by_hand):
    _, trace = by_hand
    assert faults(trace) == []
    found = {name: [(e["name"], e["ts"], e["ts"] + e["dur"]) for e in slices] for name, slices in tracks(trace).items()}
    assert found == {
        "layers": [("a", 0, 20), ("a", 20, 51)],
        "LOAD": [("a weight", 0, 4), ("a activation", 4, 9), ("a parameter", 9, 20), ("a activation", 20, 25)],
        "COMPUTE": [("a", 9, 19), ("a", 25, 35)],
        "POST": [("a", 20, 31), ("a", 35, 46)],
        "STORE": [("a", 31, 36), ("a", 46, 51)],
        "LOAD waits": [],
        "COMPUTE waits": [("waits for LOAD", 0, 9), ("waits for LOAD", 11, 25)],
        "POST waits": [("waits for LOAD", 0, 20), ("waits for COMPUTE", 31, 35)],
        "STORE waits": [("waits for POST", 0, 31), ("waits for POST", 36, 46)],
    }
    assert trace["otherData"]["cycles"] == 51
    assert trace["otherData"]["clock_mhz"] == 300


def test_case_by_hand_args_hold_cycles_nanoseconds_and_every_field(by_hand):
    outcome, trace = by_hand
    (second,) = [e for e in of(trace, cat="instruction") if e["args"]["index"] == 5]
    args = second["args"]
    assert {key: args[key] for key in ("instruction", "layer", "issue", "done", "cycles", "stalls")} == {
        "instruction": "COMPUTE",
        "layer": "a",
        "issue": 25,
        "done": 34,
        "cycles": 10,
        "stalls": {"LOAD": 14},
    }
    assert args["ns"] == pytest.approx(10 / 0.3)
    assert args["issue_ns"] == pytest.approx(25 / 0.3)
    for event in of(trace, cat="instruction"):
        args = event["args"]
        fields = " ".join(f"{name}={value}" for name, value in args["fields"].items())
        instruction = outcome.program.instructions[args["index"]]
        assert from_text(f"{args['instruction']} {fields}") == instruction
        assert len(args["fields"]) == len(instruction.LAYOUT)


def test_case_by_hand_tokens(by_hand):
    _, trace = by_hand
    names = {e["tid"]: e["args"]["name"] for e in of(trace, ph="M", name="thread_name")}
    ends = defaultdict(list)
    for event in of(trace, cat="token"):
        ends[event["id"]].append((event["ph"], names[event["tid"]], event["ts"]))
    assert sorted(sorted(pair, reverse=True) for pair in ends.values()) == sorted(
        [("s", giver, done), ("f", taker, issue)]
        for giver, done, taker, issue in (
            ("LOAD", 8, "COMPUTE", 9),
            ("LOAD", 24, "COMPUTE", 25),
            ("LOAD", 19, "POST", 20),
            ("COMPUTE", 18, "POST", 20),
            ("COMPUTE", 34, "POST", 35),
            ("POST", 30, "STORE", 31),
            ("POST", 45, "STORE", 46),
        )
    )


def test_case_by_hand_counters(by_hand):
    """Each value from its writer's issue to its last reader's done; DRAM from latency 3 on, 4 bytes a cycle."""
    _, trace = by_hand
    assert counters(trace) == {
        # LOAD 1 until COMPUTE 0 is done; LOAD 3 until COMPUTE 1 is, when POST 1 begins; POST 0 until STORE 0 is.
        "activation buffer": [(0, 0), (4, 8), (19, 0), (20, 16), (36, 8), (51, 0)],
        "weight buffer": [(0, 4), (35, 0)],
        "parameter buffer": [(0, 0), (9, 32), (46, 0)],
        "table memory": [(0, 0)],
        "accumulator memory": [(0, 0), (9, 4), (25, 8), (31, 4), (46, 0)],
        "DRAM read": [(0, 0), (3, 4), (4, 0), (7, 4), (9, 0), (12, 4), (20, 0), (23, 4), (25, 0)],
        "DRAM write": [(0, 0), (34, 4), (36, 0), (49, 4), (51, 0)],
    }
    assert {key for e in of(trace, ph="C") for key in e["args"]} == {
        "live bytes of 256",
        "live words of 32",
        "bytes per cycle of 4",
    }


# --- random programs ----------------------------------------------------------------------------------------------


def check_against_second_ways(outcome: Outcome, trace: dict) -> None:
    program, timeline = outcome.program, outcome.timed.timeline
    found = tracks(trace)
    at_work: dict[Unit, set[int]] = {unit: set() for unit in Unit}
    for issued in timeline:
        at_work[issued.unit].update(range(issued.issue, issued.done + 1))
    for unit in Unit:
        mine = [issued for issued in timeline if issued.unit is unit]
        assert sum(e["dur"] for e in found[unit.name]) == len(at_work[unit]) == busy_cycles(mine)
        assert [e["args"]["index"] for e in found[unit.name]] == [issued.index for issued in mine]
        # A slice and what drains of it are the instruction's cycles, without a gap.
        drains = {
            e["args"]["index"]: e for name in found for e in found[name] if name.startswith(f"{unit.name} draining")
        }
        for event, issued in zip(found[unit.name], mine, strict=True):
            end = event["ts"] + event["dur"]
            if issued.index in drains:
                assert drains[issued.index]["ts"] == end
                end += drains[issued.index]["dur"]
            assert (event["ts"], end) == (issued.issue, issued.done + 1)
        waits: Counter[str] = Counter()
        for event in found[f"{unit.name} waits"]:
            waits[event["name"].removeprefix("waits for ")] += event["dur"]
        said: Counter[str] = Counter()
        for causes in stalls(timeline).values():
            for cause, cycles in causes.items():
                waiting, _, source = cause.partition("_waits_for_")
                said[source.upper()] += cycles if waiting == unit.name.lower() else 0
        assert +waits == +said
    assert sum(e["dur"] for e in found["layers"]) == outcome.timed.cycles
    # Tokens: the k-th that A gives B is the k-th that B takes from A.
    times = {issued.index: issued for issued in timeline}
    pairs = Counter()
    there: dict[int, dict[str, int]] = defaultdict(dict)  # by taker, from which cycle each unit's token is there
    for a in Unit:
        for b in Unit:
            gives = [i for i, x in enumerate(program.instructions) if x.UNIT is a and x.signal >> b & 1]
            takes = [i for i, x in enumerate(program.instructions) if x.UNIT is b and x.wait >> a & 1]
            pairs.update((times[g].done, times[t].issue) for g, t in zip(gives, takes, strict=True))
            there |= {t: {**there[t], a.name: times[g].done + 1} for g, t in zip(gives, takes, strict=True)}
    ends: dict[int, dict[str, int]] = defaultdict(dict)
    for event in of(trace, cat="token"):
        ends[event["id"]][event["ph"]] = event["ts"]
    assert Counter((pair["s"], pair["f"]) for pair in ends.values()) == pairs
    # In each cycle of a stall the unit named is the first whose token is missing, and the last ends at the issue.
    for unit in Unit:
        until = {}
        for event in found[f"{unit.name} waits"]:
            index, source = event["args"]["index"], event["name"].removeprefix("waits for ")
            for cycle in range(event["ts"], event["ts"] + event["dur"]):
                assert next(name for name, first in there[index].items() if first > cycle) == source
            assert until.get(index, event["ts"]) == event["ts"]
            until[index] = event["ts"] + event["dur"]
        assert all(times[index].issue == end for index, end in until.items())
    check_occupancy(outcome, trace)
    check_dram(outcome, trace)


def check_occupancy(outcome: Outcome, trace: dict) -> None:
    """Every byte by itself: the cycles in which it holds something that is still to be read, or is being written."""
    assert outcome.timed.cycles is not None
    value: dict[tuple[str, int], list[int]] = {}  # (memory, address) -> [issue of its writer, done of its last reader]
    live: dict[str, np.ndarray] = {space: np.zeros(outcome.timed.cycles + 1, np.int64) for space in MEMORIES.values()}

    def ends(place: tuple[str, int], by: int) -> None:
        born, last = value.pop(place, (0, -1))
        live[place[0]][born : max(born, min(last + 1, by))] += 1

    for issued in sorted(outcome.timed.timeline, key=lambda issued: issued.issue):
        found = accesses(outcome.program.instructions[issued.index])
        for write in (False, True):
            places = {
                (access.space, address)
                for access in found
                if access.write is write and access.space != "dram"
                for start, stop in zip(access.starts.tolist(), access.stops.tolist(), strict=True)
                for address in range(start, stop)
            }
            for place in places:
                if write:
                    ends(place, issued.issue)
                    value[place] = [issued.issue, -1]
                elif place in value:
                    value[place][1] = max(value[place][1], issued.done)
    for place in list(value):
        ends(place, outcome.timed.cycles)
    shown = counters(trace)
    for name, space in MEMORIES.items():
        steps = np.zeros(outcome.timed.cycles + 1, np.int64)
        for cycle, amount in shown[name]:
            steps[cycle:] = amount
        assert steps.tolist() == live[space].tolist(), name


def check_dram(outcome: Outcome, trace: dict) -> None:
    """The area under each curve is what was moved, and no channel carries more than its width."""
    moved = {"DRAM read": 0, "DRAM write": 0}
    for instruction in outcome.program.instructions:
        if isinstance(instruction, Load):
            name = "DRAM read" if instruction.UNIT is Unit.LOAD else "DRAM write"
            moved[name] += instruction.rows * instruction.row_bytes
    width = outcome.program.hardware.dram.bandwidth_bytes_per_cycle
    for name, expected in moved.items():
        points = counters(trace)[name]
        area = sum(value * (b - a) for (a, value), (b, _) in itertools.pairwise(points))
        assert area == pytest.approx(expected, abs=1e-6)
        assert max(value for _, value in points) <= width


@pytest.mark.parametrize("kind", [Maker, Chains])
def test_random_programs(kind, tmp_path):
    draining = 0
    for seed in range(12):
        outcome = timed(kind(seed).program())
        trace = traced(outcome, tmp_path)
        assert faults(trace) == []
        check_against_second_ways(outcome, trace)
        draining = max(draining, sum("draining" in name for name in tracks(trace)))
    assert draining >= 1


def test_several_draining_at_once_get_a_track_each(tmp_path):
    """Four COMPUTEs of one word each on 2 x 16 PEs: they issue every 2 cycles and take 2 + 1 + 15 + 2."""
    hardware = hardware_from_dict(
        {
            "array": {"rows": 2, "columns": 16},
            "accumulator": {"width_bits": 32, "memory_bytes": 4096},
            **{name: {"memory_bytes": 256} for name in ("activation", "weight", "parameter", "table")},
            "dram": {"bandwidth_bytes_per_cycle": 4, "latency_cycles": 3},
            "clock_mhz": 100.0,
        },
        "here",
    )
    modes = Maker(0).modes
    compute = "COMPUTE act_base=0 weight_base=0 width=32 acc_base={} lanes=16 run_bytes=2 in_row_bytes=2"
    code = "\n".join(compute.format(word) + (" signal=STORE" if word == 0 else "") for word in range(4))
    code += "\nSTORE wait=COMPUTE dram_address=0 buffer_address=100 row_bytes=4"
    outcome = timed(assembled(assemble(code), bytes(8), modes, hardware))
    trace = traced(outcome, tmp_path)
    assert faults(trace) == []
    check_against_second_ways(outcome, trace)
    assert [name for name in tracks(trace) if "draining" in name] == [
        "COMPUTE draining",
        "COMPUTE draining 2",
        "COMPUTE draining 3",
    ]
    # The token of the first leads from where it is done: its last cycle, on the draining track.
    (start,) = of(trace, ph="s")
    assert start["ts"] == outcome.timed.timeline[0].done
    assert start["tid"] == of(trace, cat="drain")[0]["tid"]


# --- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """A random network, compiled for a random machine, batch 2."""
    rng = np.random.default_rng(11)
    maker = random_graph(rng)
    graph = maker.graph()
    folder = tmp_path_factory.mktemp("program") / "p"
    save_compiled(compile_graph(graph, random_hardware(rng, graph, "ws"), 2), graph, maker.codes(2), folder)
    return folder


def test_busy_stalls_and_layers_of_the_file_equal_the_report(compiled, tmp_path, capsys):
    report_file, trace_file = tmp_path / "report.json", tmp_path / "trace.json"
    assert main(["simulate", str(compiled), "--json", str(report_file), "--trace", str(trace_file)]) == 0
    assert "bit_exact: true" in capsys.readouterr().out
    report, trace = strict(report_file.read_text()), strict(trace_file.read_text())
    assert faults(trace) == []
    found = tracks(trace)
    busy = {unit.name.lower(): sum(e["dur"] for e in found[unit.name]) for unit in Unit}
    assert busy == report["totals"]["busy_cycles"]
    assert all(busy.values())
    waited: Counter[str] = Counter()
    for unit in Unit:
        for event in found[f"{unit.name} waits"]:
            waited[f"{unit.name.lower()}_{event['name'].replace(' ', '_').lower()}"] += event["dur"]
    said: Counter[str] = Counter()
    for layer in report["layers"]:
        said.update(layer["stall_cycles"])
    assert waited == said
    took: Counter[str] = Counter()
    for event in found["layers"]:
        took[event["name"]] += event["dur"]
    assert took == Counter({layer["name"]: layer["cycles"] for layer in report["layers"] if layer["cycles"]})
    assert len(of(trace, cat="instruction")) == report["totals"]["instructions"]
    for name, key in (("DRAM read", "dram_bytes_read"), ("DRAM write", "dram_bytes_written")):
        points = counters(trace)[name]
        area = sum(value * (b - a) for (a, value), (b, _) in itertools.pairwise(points))
        assert area == pytest.approx(sum(layer[key] for layer in report["layers"]))


def test_gz_holds_the_same_and_standard_output_gets_it_alone(compiled, tmp_path, capfdbinary):
    plain, packed, again = (tmp_path / name for name in ("t.json", "t.json.gz", "u.json.gz"))
    for path in (plain, packed, again):
        assert main(["simulate", str(compiled), "--trace", str(path)]) == 0
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert packed.read_bytes() == again.read_bytes()
    assert packed.stat().st_size < plain.stat().st_size / 5
    capfdbinary.readouterr()
    assert main(["simulate", str(compiled), "--trace", "/dev/stdout"]) == 0
    assert capfdbinary.readouterr().out == plain.read_bytes()


def test_a_place_that_cannot_hold_the_trace_is_refused_before_the_run(compiled, tmp_path, capsys):
    place = tmp_path / "none" / "t.json"
    assert main(["simulate", str(compiled), "--trace", str(place)]) == 2
    out, err = capsys.readouterr()
    line = f"{place}: there is no folder {place.parent}; make it first, or choose another"
    assert (out, err) == ("", f"accelsim: error: {line}\n")


def test_a_run_without_a_clock_has_no_trace(by_hand, tmp_path):
    outcome, _ = by_hand
    without = Outcome(outcome.program, outcome.machine, outcome.machine.run(values=False, clock=False))
    with pytest.raises(ValueError, match="no clock"):
        write_trace(without, tmp_path / "t.json")
    with pytest.raises(InputError, match="cannot write"):
        write_trace(outcome, tmp_path / "none" / "t.json")
    assert list(tmp_path.iterdir()) == []


# --- the checks themselves ----------------------------------------------------------------------------------------


def _with(kind: str, **change: object):
    """Alter the first event of a kind; None removes a key."""

    def alter(trace: dict) -> None:
        event = next(e for e in trace["traceEvents"] if kind in (e["ph"], e.get("cat")))
        event.update(change)
        for key in [key for key, value in change.items() if value is None]:
            del event[key]

    return alter


@pytest.mark.parametrize(
    "alter, fault",
    [
        (lambda trace: trace.pop("traceEvents"), "'traceEvents' is a required property"),
        (lambda trace: trace.update(displayTimeUnit="us"), "'us' is not one of ['ms', 'ns']"),
        (_with("X", ph="Z"), "'Z' is not one of ['X', 'C', 's', 'f', 'M']"),
        (_with("X", dur=None), "'dur' is a required property"),
        (_with("X", ts=-1), "-1 is less than the minimum of 0"),
        (_with("X", tid="LOAD"), "'LOAD' is not of type 'integer'"),
        (_with("X", duration=3), "Additional properties are not allowed ('duration' was unexpected)"),
        (_with("C", args={"live": "8"}), "'8' is not of type 'number'"),
        (_with("s", id=None), "'id' is a required property"),
        (_with("s", bp="e"), "False schema does not allow 'e'"),
        (_with("M", args={"nome": "x"}), "'name' is a required property"),
        (_with("instruction", dur=5), "slices of (1, 100) overlap without nesting at 4"),
        (_with("instruction", tid=77), "thread (1, 77) has no name"),
        (_with("f", ts=7), "flow 0 binds to no slice"),
        (_with("f", bp=None), "flow 0 binds to no slice"),
        (_with("s", id=99), "flow 0 does not lead from earlier to later"),
        (_with("C", ts=100), "counter activation buffer goes back in time"),
    ],
)
def test_the_checks_find_what_they_are_there_to_find(by_hand, alter, fault):
    trace = copy.deepcopy(by_hand[1])
    assert faults(trace) == []
    alter(trace)
    assert fault in faults(trace)
