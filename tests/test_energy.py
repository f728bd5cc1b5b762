"""E = sum of N * B * S: the coursework's figures to the digit, every operation priced, every rule told or refused."""

from __future__ import annotations

import copy
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from accelsim.config import load_hardware, preset_names
from accelsim.config.presets import find_preset
from accelsim.energy import (
    PLACES,
    EnergyTable,
    LayerCounts,
    OpEnergy,
    add_energies,
    by_place,
    evaluate,
    load_energy,
    memory_capacities,
)
from accelsim.energy.table import energy_from_dict
from accelsim.errors import InputError
from accelsim.timing import FLOAT_OPS, OPS, Counts, OpKey

ENERGY_TABLES = preset_names("energy")
HARDWARE = preset_names("hardware")
PRODUCTS = ("mul", "requant_mul")
KIB = 1024


def message(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


def table(*entries: dict, **header) -> EnergyTable:
    """A table called t.toml with these entries."""
    data = {"name": "t", "unit": "relative", "source": "made up", **header, "entry": list(entries)}
    return energy_from_dict(data, "t.toml")


def layer(counts: Counts, name: str = "c1", op: str = "conv2d", outputs: int = 0, bits: int = 32) -> LayerCounts:
    return LayerCounts(name=name, op=op, counts=counts, outputs=outputs, accumulator_bits=bits)


def price(energy_table: EnergyTable, key: OpKey, count: int = 1, **capacities: int) -> OpEnergy:
    """The energy of `count` operations of one kind."""
    report = evaluate(energy_table, [layer(Counter({key: count}))], capacities)
    return report.by_op[key.op]


def every_op(bits: int = 16) -> Counts:
    """Seven operations of every type."""
    return Counter({OpKey(op, 8 if op in PRODUCTS else bits, 8 if op in PRODUCTS else 1): 7 for op in OPS})


# --- the coursework study ----------------------------------------------------------------------------------

BATCH = 4
# name, kind, MACs per image, outputs per image
LENET = [
    ("c1", "conv2d", 117_600, 6 * 28 * 28),
    ("c3", "conv2d", 240_000, 16 * 10 * 10),
    ("c5", "conv2d", 48_000, 120),
    ("f6", "linear", 10_080, 84),
    ("output", "linear", 840, 10),
]
# multiplications, additions, from the study's table; the machine itself counts one and one for each MAC
STUDY = [(1411200, 1411200), (2880000, 2880000), (576000, 576000), (40320, 40320), (3360, 3400)]
UNIFORM = [(18, 115718400), (18, 236160000), (18, 47232000), (18, 3306240), (18, 276240)]
PER_LAYER = [(18, 115718400), (16, 230400000), (16, 46080000), (18, 3306240), (16, 269440)]


def lenet(widths: list[int]) -> list[LayerCounts]:
    """LeNet-5's MACs at these accumulator widths, with other work beside them that the study left out."""
    layers = []
    for (name, kind, macs, outputs), width in zip(LENET, widths, strict=True):
        counts: Counts = Counter({OpKey("mul", 8, 8): BATCH * macs, OpKey("add.array", width): BATCH * macs}) + Counter(
            {key: n for key, n in every_op().items() if key.op not in ("mul", "add.array")}
        )
        layers.append(layer(counts, name, kind, BATCH * outputs, width))
    return layers


@pytest.mark.parametrize("study, total", [(UNIFORM, 402692880), (PER_LAYER, 395774080)])
def test_the_coursework_table_comes_out_to_the_digit(study, total):
    report = evaluate(load_energy("lenet_coursework"), lenet([width for width, _ in study]), {})
    assert report.energy == total
    assert [part.energy for part in report.layers] == [energy for _, energy in study]
    for part, (width, _), (products, additions) in zip(report.layers, study, STUDY, strict=True):
        assert part.by_op["mul"] == OpEnergy(products, 8 * products, Fraction(64 * products))
        assert part.by_op["add.array"] == OpEnergy(additions, width * additions, Fraction(width * additions))
        assert {op for op, energy in part.by_op.items() if energy.energy} == {"mul", "add.array"}


def test_the_coursework_report_holds_whole_numbers_and_says_how_it_counts():
    report = evaluate(load_energy("lenet_coursework"), lenet([18] * 5), {})
    assert report.layers[0].by_op["mul"].as_numbers() == {
        "count": 1411200,
        "bits": 8,
        "energy_per_bit": 8,
        "energy": 90316800,
    }
    numbers = report.by_op["add.array"].as_numbers()
    assert all(type(value) is int for value in numbers.values())
    told = (
        "conv2d: 3 multiplications and 3 additions are counted for each MAC, as the table asks; "
        "the machine does one and one"
    )
    assert told in report.notes
    assert "output: 1 additions are counted beside each output's MACs, as the table asks" in report.notes
    assert "counted as zero: idle: the study has no clock, so a processing element is never idle in it" in report.notes


def test_the_coursework_table_refuses_a_network_without_its_output_layer():
    assert message(evaluate, load_energy("lenet_coursework"), lenet([18] * 5)[:4], {}) == (
        "lenet_coursework [extra_adds]: 'output' is no layer of this workload; remove the key, or use another table"
        "; its layers: c1, c3, c5, f6"
    )


def test_without_ops_per_mac_one_and_one_is_counted():
    energy_table = table({"ops": ["mul"], "kind": "product", "energy_per_product_bit": 1})
    assert price(energy_table, OpKey("mul", 8, 8), 117_600) == OpEnergy(117_600, 8 * 117_600, Fraction(64 * 117_600))


# --- shipped tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENERGY_TABLES)
@pytest.mark.parametrize("op", OPS)
def test_every_operation_has_an_entry_or_a_zero_with_a_reason(name, op):
    energy_table = load_energy(name)
    entry = energy_table.by_op[op]
    assert energy_table.provenance(op)
    if entry.kind == "zero":
        assert len(entry.reason) > 20
    else:
        assert evaluate_one(energy_table, op) > 0


def evaluate_one(energy_table: EnergyTable, op: str) -> Fraction:
    key = OpKey(op, 8, 8 if op in PRODUCTS else 1)
    extras = [layer(Counter(), name) for name in energy_table.header.extra_adds]
    capacities = memory_capacities(load_hardware())
    return evaluate(energy_table, [layer(Counter({key: 1})), *extras], capacities).by_op[op].energy


@pytest.mark.parametrize("name", ENERGY_TABLES)
def test_a_shipped_table_can_be_copied_and_so_sent_to_another_process(name):
    energy_table = load_energy(name)
    assert copy.deepcopy(energy_table) == energy_table


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("width", [8, 17, 32, 64])
def test_horowitz_prices_every_shipped_machine_at_every_width(hardware, width):
    counts = every_op(width)
    counts[OpKey("add.ppu", width + 1)] = counts[OpKey("mul", 8, 2)] = 3
    counts[OpKey("requant_mul", 65, 32)] = counts[OpKey("requant_shift", 97)] = 3
    report = evaluate(load_energy("horowitz_45nm"), [layer(counts)], memory_capacities(load_hardware(hardware)))
    assert list(report.by_op) == list(OPS)
    assert sum(by_place(report.by_op).values()) == report.energy > 0


def test_horowitz_says_in_its_notes_what_is_assumed_outside_its_source():
    counts: Counts = Counter(
        {
            OpKey("read.parameter", 8): 5,
            OpKey("read.table", 8): 5,
            OpKey("write.activation", 8): 5,
            OpKey("requant_mul", 33, 32): 5,
            OpKey("compare", 33): 5,
            OpKey("idle", 1): 5,
        }
    )
    capacities = memory_capacities(load_hardware("edge_8x8")) | {"activation": 2048 * KIB}
    notes = evaluate(load_energy("horowitz_45nm"), [layer(counts)], capacities).notes
    reach = "the table's points (8192 to 1048576 bytes)"
    assert (
        f"read.table at 512, read.parameter at 2048: below {reach}: the figure at 8192 bytes is held, as the table asks"
        in notes
    )
    assert f"write.activation at 2097152: above {reach}: extrapolated (power), as the table asks" in notes
    assert (
        "requant_mul at 1056: above the table's points (64 to 1024 product bits): extrapolated (power), "
        "as the table asks" in notes
    )
    assert "compare: assumed: a comparison is a subtraction and costs what an addition of that width costs" in notes
    assert any(note.startswith("counted as zero: idle: ") for note in notes)
    assert not any("register" in note for note in notes)  # nothing is said of what did not occur


def test_horowitz_figures_are_those_of_the_paper():
    horowitz = load_energy("horowitz_45nm")
    for op in ("add.array", "add.accumulator", "add.ppu"):
        assert price(horowitz, OpKey(op, 8)).energy == Fraction("0.03")
        assert price(horowitz, OpKey(op, 32)).energy == Fraction("0.1")
    assert price(horowitz, OpKey("mul", 8, 8)).energy == Fraction("0.2")
    assert price(horowitz, OpKey("mul", 32, 32)).energy == Fraction("3.1")
    for capacity, energy in ((8 * KIB, 10), (32 * KIB, 20), (KIB * KIB, 100)):
        assert price(horowitz, OpKey("read.weight", 8), 8, weight=capacity).energy == energy
    assert price(horowitz, OpKey("dram.read", 8), 8).energy == 1300


@pytest.mark.parametrize(
    "op, words, energy",
    [
        ("register.psum", 1, 2),  # to the neighbouring element
        ("register.activation", 1, 2),
        ("register.weight", 1, 2),
        ("register.skew", 1, 1),  # a register file
        ("read.activation", 1, 6),  # a buffer
        ("write.weight", 3, 18),
        ("read.parameter", 1, 6),
        ("write.table", 1, 6),
        ("read.accumulator", 1, 6),
        ("dram.read", 1, 200),
        ("dram.write", 2, 400),
    ],
)
def test_eyeriss_figures_are_those_of_the_paper_for_16_bit_words(op, words, energy):
    capacities = memory_capacities(load_hardware())
    assert price(load_energy("eyeriss_relative"), OpKey(op, 16), words, **capacities).energy == energy
    assert price(load_energy("eyeriss_relative"), OpKey(op, 8), 2 * words, **capacities).energy == energy


def test_eyeriss_unit_is_one_16_bit_mac_with_a_32_bit_addition():
    eyeriss = load_energy("eyeriss_relative")
    product, addition = price(eyeriss, OpKey("mul", 16, 16)).energy, price(eyeriss, OpKey("add.array", 32)).energy
    assert (product, addition) == (Fraction("0.89"), Fraction("0.11"))
    # The split follows the number of full adders, 256 and 32, and Horowitz's figures, to two digits.
    horowitz = load_energy("horowitz_45nm")
    theirs = [price(horowitz, key).energy for key in (OpKey("mul", 16, 16), OpKey("add.array", 32))]
    assert round(float(theirs[1] / sum(theirs)), 2) == round(32 / 288, 2) == float(addition)


def test_eyeriss_says_what_it_assumes():
    eyeriss = load_energy("eyeriss_relative")
    assert (eyeriss.unit, eyeriss.header.node_nm, eyeriss.header.voltage_v) == ("relative", 65, None)
    assert eyeriss.title.endswith("ISCA 2016, table IV (a commercial 65 nm process), 65 nm")
    report = evaluate(eyeriss, [layer(every_op())], memory_capacities(load_hardware()))
    assert any("one sixteenth for each bit" in note for note in report.notes)
    assert any(note.startswith("mul, requant_mul: 0.89 of a 16-bit MAC") for note in report.notes)
    free = {op for op, entry in eyeriss.by_op.items() if entry.kind == "zero"}
    assert free == {"requant_shift", "table_lookup", "idle"}


def test_narrowing_the_accumulator_from_32_to_17_bits_saves_15_percent_of_a_mac():
    horowitz = load_energy("horowitz_45nm")

    def mac(width: int) -> Fraction:
        return price(horowitz, OpKey("mul", 8, 8)).energy + price(horowitz, OpKey("add.array", width)).energy

    # 0.2 + 0.1 pJ against 0.2 + 0.03 + 9/24 * 0.07 pJ
    assert (mac(32), mac(17)) == (Fraction("0.3"), Fraction("0.25625"))
    assert 1 - mac(17) / mac(32) == Fraction(7, 48)  # 14.6 %


def test_adders_partial_sum_registers_and_buffers_are_shown_apart():
    assert sorted(op for ops in PLACES.values() for op in ops) == sorted((*OPS, *FLOAT_OPS))
    place = {op: place for place, ops in PLACES.items() for op in ops}
    shown = ("mul", "add.array", "register.psum", "write.accumulator", "read.activation", "dram.read")
    assert len({place[op] for op in shown}) == len(shown)
    energies = {"add.array": OpEnergy(1, 8, Fraction(2)), "add.accumulator": OpEnergy(1, 8, Fraction(3))}
    assert by_place(energies) == dict.fromkeys(PLACES, 0) | {"adders": 5}


def test_provenance_is_the_entrys_or_the_tables():
    horowitz = load_energy("horowitz_45nm")
    assert horowitz.title == (
        "energy table horowitz_45nm: pJ; M. Horowitz, Computing's energy problem (and what we can do about it), "
        "ISSCC 2014, fig. 1.1.9, 45 nm, 0.9 V"
    )
    assert horowitz.title.endswith(horowitz.provenance("mul"))
    # Aladdin's own node, and no supply, because that source states none
    assert horowitz.provenance("requant_shift").endswith("commercial 40G library, supply not stated, 40 nm")
    assert horowitz.provenance("idle").startswith("zero: the source has no figure for leakage")
    made_up = table(
        {"ops": ["idle"], "kind": "constant", "energy_per_bit": 1, "voltage_v": 0.8},
        unit="pJ", node_nm=28, voltage_v=0.9,
    )  # fmt: skip
    assert made_up.provenance("idle") == "made up, 28 nm, 0.8 V"


# --- kinds of entries --------------------------------------------------------------------------------------


def test_a_products_energy_grows_with_both_operands():
    energy_table = table({"ops": list(PRODUCTS), "kind": "product", "energy_per_product_bit": 0.5})
    assert price(energy_table, OpKey("mul", 8, 8)).energy == 32
    assert price(energy_table, OpKey("mul", 9, 2)).energy == 9
    product = price(energy_table, OpKey("mul", 8, 4), 3)
    assert (product.bits, product.energy_per_bit, product.energy) == (8, 2, 48)


def test_one_tenth_is_one_tenth():
    energy_table = table({"ops": ["idle"], "kind": "constant", "energy_per_bit": 0.1})
    assert price(energy_table, OpKey("idle", 1), 3).as_numbers() == {
        "count": 3,
        "bits": 1,
        "energy_per_bit": 0.1,
        "energy": 0.3,  # 3 * 0.1 in floats is 0.30000000000000004
    }


def by_width(**keys) -> dict:
    points = [{"bits": 8, "energy": 1}, {"bits": 16, "energy": 2.5}, {"bits": 32, "energy": 4}]
    return {"ops": ["add.array"], "kind": "by_width", "interpolation": "linear", "points": points, **keys}


@pytest.mark.parametrize(
    "bits, energy",
    [(8, 1), (12, Fraction(7, 4)), (16, Fraction(5, 2)), (24, Fraction(13, 4)), (32, 4)],
)
def test_linear_interpolation_between_widths(bits, energy):
    assert price(table(by_width()), OpKey("add.array", bits)).energy == energy


@pytest.mark.parametrize(
    "rule, bits, energy",
    [
        ("hold", 4, 1),
        ("hold", 40, 4),
        ("extrapolate", 4, Fraction(1, 4)),  # 1 - 4 * 1.5 / 8
        ("extrapolate", 40, Fraction(19, 4)),  # 4 + 8 * 1.5 / 16
    ],
)
def test_outside_the_points_the_stated_rule_is_used_and_told(rule, bits, energy):
    energy_table = table(by_width(below=rule, above=rule))
    report = evaluate(energy_table, [layer(Counter({OpKey("add.array", bits): 1}))], {})
    assert report.energy == energy
    (note,) = report.notes
    side, end = ("below", 8) if bits < 8 else ("above", 32)
    what = f"the figure at {end} bits is held" if rule == "hold" else "extrapolated (linear)"
    assert note == f"add.array at {bits}: {side} the table's points (8 to 32 bits): {what}, as the table asks"


def test_products_are_interpolated_by_a_power_law():
    points = [{"bits": 8, "by_bits": 8, "energy": 0.2}, {"bits": 32, "by_bits": 32, "energy": 3.1}]
    entry = {"ops": ["mul"], "kind": "by_product", "interpolation": "power", "points": points}
    # 16 x 16 lies in the middle of the logarithms of 64 and 1024: the geometric mean
    assert float(price(table(entry), OpKey("mul", 16, 16)).energy) == pytest.approx(math.sqrt(0.2 * 3.1), rel=1e-12)
    # proportional to the product of the widths, whichever is wider
    assert price(table(entry), OpKey("mul", 16, 8)).energy == price(table(entry), OpKey("mul", 8, 16)).energy


def test_memories_are_interpolated_over_their_capacity():
    points = [{"bytes": 1024, "energy": 2}, {"bytes": 4096, "energy": 6}, {"bytes": 65536, "energy": 24}]
    entry = {"ops": ["read.weight", "read.accumulator"], "kind": "by_capacity", "access_bits": 64, "points": points}
    line, law = (table(entry | {"interpolation": rule}) for rule in ("linear", "power"))
    # 2560 bytes: half of the way from 1024 to 4096, so 4 for 64 bits and 0.5 for 8
    assert price(line, OpKey("read.weight", 8), weight=2560).energy == Fraction(1, 2)
    # 16 KiB: half of the way from 4 KiB to 64 KiB in logarithms, so sqrt(6 * 24) = 12 for 64 bits and 6 for 32
    assert float(price(law, OpKey("read.accumulator", 32), accumulator=16384).energy) == pytest.approx(6, rel=1e-12)
    assert price(law, OpKey("read.weight", 8), weight=4096).energy == Fraction(6, 8)


def test_the_mean_width_makes_n_b_s_exact():
    energy_table = table(by_width(), {"ops": ["mul"], "kind": "product", "energy_per_product_bit": 0.3})
    counts: Counts = Counter(
        {
            OpKey("add.array", 9): 5,
            OpKey("add.array", 17): 2,
            OpKey("add.array", 32): 4,
            OpKey("mul", 8, 3): 7,
            OpKey("mul", 9, 9): 2,
        }
    )
    by_op = evaluate(energy_table, [layer(counts)], {}).by_op
    assert by_op["add.array"].bits == Fraction(5 * 9 + 2 * 17 + 4 * 32, 11)
    for energy in by_op.values():
        assert energy.count * energy.bits * energy.energy_per_bit == energy.energy
        told = energy.as_numbers()
        product = told["count"] * told["bits"] * told["energy_per_bit"]
        assert product == pytest.approx(told["energy"], rel=1e-15)
    assert by_op["mul"].energy == Fraction("0.3") * (7 * 24 + 2 * 81)


@pytest.mark.parametrize("name", ENERGY_TABLES)
def test_energy_of_a_sum_of_counts_is_the_sum_of_energies(name):
    energy_table = load_energy(name)
    capacities = memory_capacities(load_hardware())
    first, second = every_op(16), every_op(27)
    names = [*energy_table.header.extra_adds, "c1"]

    def energies(counts: Counts) -> dict[str, OpEnergy]:
        return evaluate(energy_table, [layer(counts, name) for name in names], capacities).by_op

    assert energies(first + second) == add_energies([energies(first), energies(second)])


def test_the_total_is_the_sum_of_the_layers_and_an_operation_that_does_not_occur_is_absent():
    energy_table = table(by_width(), {"ops": ["idle"], "kind": "constant", "energy_per_bit": 2})
    layers = [
        layer(Counter({OpKey("add.array", 8): 3, OpKey("idle", 1): 0}), "a"),
        layer(Counter({OpKey("idle", 1): 5}), "b"),
        layer(Counter(), "c"),
    ]
    report = evaluate(energy_table, layers, {})
    assert [(part.name, part.energy, list(part.by_op)) for part in report.layers] == [
        ("a", 3, ["add.array"]),
        ("b", 10, ["idle"]),
        ("c", 0, []),
    ]
    assert report.energy == 13
    assert list(report.by_op) == ["add.array", "idle"]


# --- refused -----------------------------------------------------------------------------------------------


def test_an_operation_without_an_entry_is_an_error_never_zero():
    counts: Counts = Counter({OpKey("add.array", 16): 2, OpKey("add.ppu", 33): 400})
    assert message(evaluate, table(by_width()), [layer(counts)], {}) == (
        "t.toml: no entry for 'add.ppu', which occurs 400 times in layer 'c1'; add it to an [[entry]], "
        "with kind = 'zero' and a reason if it is to cost nothing"
    )
    # One that does not occur needs no entry.
    assert evaluate(table(by_width()), [layer(Counter({OpKey("add.ppu", 33): 0}))], {}).energy == 0


@pytest.mark.parametrize("bits, side", [(7, "below"), (33, "above")])
def test_a_width_outside_the_points_without_a_rule_is_an_error(bits, side):
    counts: Counts = Counter({OpKey("add.array", bits): 1})
    assert message(evaluate, table(by_width()), [layer(counts)], {}) == (
        f"t.toml: 'add.array' in layer 'c1': {bits} bits lies {side} its points (8 to 32 bits); "
        f"add a point there, or state {side} = 'extrapolate' or 'hold' in the entry"
    )


def test_an_extrapolation_below_zero_is_an_error():
    energy_table = table(by_width(below="extrapolate"))
    assert message(evaluate, energy_table, [layer(Counter({OpKey("add.array", 2): 1}))], {}) == (
        "t.toml: 'add.array' in layer 'c1': at 2 bits the line through its points (8 to 32 bits) falls below 0; "
        "add a point there, or state below = 'hold' in the entry"
    )


@pytest.mark.parametrize("bits", [12, 10_000])
def test_an_energy_beyond_reason_is_an_error(bits):
    points = [{"bits": 8, "energy": 1}, {"bits": 9, "energy": 1e6}]
    energy_table = table(by_width(interpolation="power", points=points, above="extrapolate"))
    assert message(evaluate, energy_table, [layer(Counter({OpKey("add.array", bits): 1}))], {}) == (
        f"t.toml: 'add.array' in layer 'c1': at {bits} bits the curve through its points (8 to 9 bits) rises above "
        "1e+15; correct the points"
    )


def test_a_missing_capacity_or_a_negative_count_is_the_callers_error():
    horowitz = load_energy("horowitz_45nm")
    with pytest.raises(ValueError, match=r"^capacities must hold 'weight', in bytes; use memory_capacities$"):
        price(horowitz, OpKey("read.weight", 8))
    with pytest.raises(ValueError, match=r"^layer 'c1': -1 operations OpKey\(op='idle', bits=1, by_bits=1\);"):
        price(horowitz, OpKey("idle", 1), -1)


CONSTANT = {"ops": ["idle"], "kind": "constant", "energy_per_bit": 1}
KINDS = "'zero', 'constant', 'product', 'action', 'by_width', 'by_product', 'by_capacity'"


@pytest.mark.parametrize(
    "entry, expected",
    [
        (CONSTANT | {"ops": ["add.aray"]}, "(add.aray): ops: unknown operation 'add.aray'; did you mean 'add.array'?"),
        (CONSTANT | {"ops": []}, ": ops = [] must name an operation; add one, or remove the entry"),
        (CONSTANT | {"ops": ["idle", "idle"]}, "(idle): ops: 'idle' has an entry already; keep one of them"),
        ({"ops": ["idle"], "energy_per_bit": 1}, f"(idle): key 'kind' is missing; add one of {KINDS}"),
        (CONSTANT | {"kind": "constnt"}, f"(idle): kind = 'constnt' is not one of {KINDS}; did you mean 'constant'?"),
        (CONSTANT | {"kind": 7}, f"(idle): kind = 7 is not one of {KINDS}; use one of them"),
        ({"ops": ["idle"], "kind": "zero"}, "(idle): key 'reason' is missing; add it"),
        (
            {"ops": ["idle"], "kind": "zero", "reason": " "},
            "(idle): reason = ' ': string should have at least 1 character",
        ),
        (CONSTANT | {"energy_per_bit": -0.5}, "(idle): energy_per_bit = -0.5 must be at least 0.0"),
        (CONSTANT | {"energy_per_bit": math.inf}, "(idle): energy_per_bit = inf: input should be a finite number"),
        (CONSTANT | {"energy_per_bit": "1"}, "(idle): energy_per_bit = '1' must be a number, written without quotes"),
        (CONSTANT | {"enrgy_per_bit": 1}, "(idle): unknown key 'enrgy_per_bit'; did you mean 'energy_per_bit'?"),
        (
            CONSTANT | {"ops": ["mul"]},
            "(mul): kind = 'constant': 'mul' is a product, whose energy grows with both operands' widths; "
            "use kind = 'product' or 'by_product'",
        ),
        (
            {"ops": ["idle"], "kind": "product", "energy_per_product_bit": 1},
            "(idle): kind = 'product': 'idle' is no product; kind = 'product' is for mul, requant_mul, mul.float32",
        ),
        (
            {
                "ops": ["dram.read"], "kind": "by_capacity", "interpolation": "linear", "access_bits": 64,
                "points": [{"bytes": 1, "energy": 1}, {"bytes": 2, "energy": 1}],
            },
            "(dram.read): kind = 'by_capacity': 'dram.read' is no access to an on-chip memory, so it has no capacity; "
            "kind = 'by_capacity' is for read.* and write.*",
        ),
        (by_width(points=[{"bits": 8, "energy": 1}]), "(add.array): one point gives no line; add another, "
         "or use kind = 'constant'"),
        (
            by_width(points=[{"bits": 8, "energy": 1}, {"bits": 8, "energy": 2}]),
            "(add.array): points must ascend, but 8 bits follow 8; sort them",
        ),
        (
            by_width(interpolation="power", points=[{"bits": 8, "energy": 0}, {"bits": 9, "energy": 2}]),
            "(add.array): interpolation = 'power' needs energies above 0 for their logarithms; use 'linear'",
        ),
        (
            by_width(points=[{"bits": 8, "energy": -1}, {"bits": 9, "energy": 2}]),
            "(add.array) [points[0]]: energy = -1 must be at least 0.0",
        ),
        (
            by_width(below="clamp"),
            "(add.array): below = 'clamp' is not one of 'error', 'hold' or 'extrapolate'; choose one of them",
        ),
        (
            {"ops": ["add.array"], "kind": "by_width", "points": by_width()["points"]},
            "(add.array): key 'interpolation' is missing; add it",
        ),
    ],
)  # fmt: skip
def test_a_broken_entry_is_one_line_that_names_it(entry, expected):
    separator = "" if expected.startswith(":") else " "
    assert message(table, entry) == f"t.toml entry 1{separator}{expected}"


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"unit": None}, "t.toml: key 'unit' is missing; add it"),
        ({"source": None}, "t.toml: key 'source' is missing; add it"),
        ({"unit": "nJ"}, "t.toml: unit = 'nJ' is not one of 'relative' or 'pJ'; choose one of them"),
        ({"unit": "pJ"}, "t.toml: unit = 'pJ' needs node_nm, without which a figure in pJ means nothing; add it"),
        (
            {"unit": "pJ", "node_nm": 45},
            "t.toml: unit = 'pJ' needs voltage_v, without which a figure in pJ means nothing; add it",
        ),
        ({"node_nm": 0}, "t.toml: node_nm = 0 must be above 0.0"),
        ({"voltage": 0.9}, "t.toml: unknown key 'voltage'; did you mean 'voltage_v'?"),
        (
            {"x": 1},
            "t.toml: unknown key 'x'; known here: entry, ert, name, unit, node_nm, voltage_v, source, notes, "
            "ops_per_mac, extra_adds",
        ),
        ({"extra_adds": {"output": -1}}, "t.toml: extra_adds.output = -1 must be at least 0"),
        (
            {"ops_per_mac": {"conv2d": {"multiplications": 0}}},
            "t.toml [ops_per_mac.conv2d]: multiplications = 0 must be at least 1",
        ),
        ({"entry": {"ops": ["idle"]}}, "t.toml: entry must be an array of tables; write [[entry]] above each"),
        ({"entry": [1]}, "t.toml: entry must be an array of tables; write [[entry]] above each"),
    ],
)
def test_a_broken_header_is_one_line_that_names_the_key(change, expected):
    data = {"name": "t", "unit": "relative", "source": "made up", "entry": [CONSTANT], **change}
    data = {key: value for key, value in data.items() if value is not None}
    assert message(energy_from_dict, data, "t.toml") == expected


def test_two_entries_for_one_operation_are_refused():
    assert message(table, CONSTANT, CONSTANT) == (
        "t.toml entry 2 (idle): ops: 'idle' has an entry already; keep one of them"
    )


def test_a_table_is_found_by_name_or_path_and_named_after_its_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('unit = "relative"\nsource = "mine"\n[[entry]]\nops = ["idle"]\nkind = "zero"\nreason = "no"\n')
    mine = load_energy(path)
    assert (mine.name, mine.origin, mine.unit) == ("mine", str(path), "relative")
    assert load_energy("horowitz_45nm").name == "horowitz_45nm"
    assert message(load_energy, "horowitz") == (
        "energy 'horowitz' is neither a preset nor a file; did you mean 'horowitz_45nm'?; presets: "
        + ", ".join(ENERGY_TABLES)
    )


@pytest.fixture
def documented(tmp_path) -> EnergyTable:
    """The example of docs/energy.md, as a user would save it."""
    text = (Path(__file__).parents[1] / "docs" / "energy.md").read_text()
    (tmp_path / "mine.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    return load_energy(tmp_path / "mine.toml")


def test_the_example_in_the_documentation_is_a_table(documented):
    assert price(documented, OpKey("mul", 8, 8), 1000).energy == 64
    assert price(documented, OpKey("add.array", 20), 1000).energy == 20
    assert price(documented, OpKey("read.weight", 8), 16, weight=65536).energy == 11
    counts: Counts = Counter({OpKey("read.weight", 8): 1})
    assert "read.weight: one bank a memory" in evaluate(documented, [layer(counts)], {"weight": 1024}).notes


@pytest.mark.parametrize("hardware", ["default_16x16", "edge_8x8"])
def test_the_example_in_the_documentation_prices_every_operation(documented, hardware):
    counts = every_op(32) + Counter({OpKey("add.ppu", 33): 2, OpKey("requant_mul", 33, 32): 1})
    assert documented.by_op.keys() == set(OPS)
    report = evaluate(documented, [layer(counts)], memory_capacities(load_hardware(hardware)))
    assert list(report.by_op) == list(OPS)
    assert all(by_place(report.by_op)[place] > 0 for place in PLACES if place != "idle")


@pytest.mark.parametrize("name", ENERGY_TABLES)
def test_a_shipped_table_is_in_the_documentation(name):
    text = (Path(__file__).parents[1] / "docs" / "energy.md").read_text()
    assert f"## `{name}`" in text
    assert find_preset("energy", name).is_file()
