"""Configuration files: every key's type and range, the rules across them, and errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from refusals import refusal

from accelsim.config import (
    Hardware,
    find_preset,
    load_hardware,
    load_quantization,
    preset_folder,
    preset_names,
)
from accelsim.numerics import IntFormat, Rounding, Scheme

EDGE = (preset_folder("hardware") / "edge_8x8.toml").read_text()
INTEGER = "must be an integer, written without quotes or a point"
ARRAY = "must be an array in brackets, such as"


def edge(*overrides: str) -> Hardware:
    return load_hardware("edge_8x8", list(overrides))


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


# --- presets ------------------------------------------------------------------------------------------------------


def test_every_preset_loads_and_is_named_after_its_file():
    assert preset_names("hardware") == [
        *("default_16x16", "edge_8x8", "rtl_16x16", "rtl_4x4", "rtl_8x8"),
        *("scalesim_128x128", "scalesim_16x16", "scalesim_32x32", "scalesim_8x8", "tpu_like_32x32"),
    ]
    for name in preset_names("hardware"):
        assert load_hardware(name).name == name
    for name in preset_names("quantization"):
        load_quantization(name)


def test_the_default_machine_is_default_16x16():
    assert load_hardware() == load_hardware("default_16x16")


def test_edge_8x8_has_4_kib_of_everything_and_4_bytes_a_cycle():
    machine = edge()
    sizes = (machine.activation.memory_bytes, machine.weight.memory_bytes, machine.accumulator.memory_bytes)
    assert sizes == (4096, 4096, 4096)
    assert (machine.parameter.memory_bytes, machine.table.memory_bytes) == (2048, 512)
    assert (machine.dram.bandwidth_bytes_per_cycle, machine.dram.latency_cycles) == (4, 100)
    assert machine.accumulator_depth == 4096 * 8 // (8 * 32) == 128
    assert (machine.psum_bits, machine.bank_count) == (32, 8)
    assert machine.peak_tops == pytest.approx(2 * 64 * 200e6 / 1e12)


def test_default_16x16_has_64_16_and_16_kib_16_bytes_a_cycle_and_latency_100():
    machine = load_hardware("default_16x16")
    sizes = (machine.activation.memory_bytes, machine.weight.memory_bytes, machine.accumulator.memory_bytes)
    assert sizes == (65536, 16384, 16384)
    assert (machine.dram.bandwidth_bytes_per_cycle, machine.dram.latency_cycles) == (16, 100)
    assert machine.accumulator_depth == 256
    assert machine.bank_count == 16


def test_scalesim_presets_differ_in_the_array_alone():
    machines = [load_hardware(name) for name in preset_names("hardware") if name.startswith("scalesim_")]
    for machine in machines:
        rows = machine.array.rows
        assert machine.name == f"scalesim_{rows}x{machine.array.columns}"
        assert machine.array.serial_tiles
        same = [f"name={machine.name}", f"array.rows={rows}", f"array.columns={rows}"]
        assert load_hardware("scalesim_8x8", same) == machine


def test_tpu_like_32x32_has_2048_words_of_accumulators():
    machine = load_hardware("tpu_like_32x32")
    assert (machine.accumulator_depth, machine.bank_count) == (2048, 64)  # 64 B a cycle need 64 banks


def test_a_narrower_accumulator_makes_a_deeper_memory():
    depths = {bits: edge(f"accumulator.width_bits={bits}").accumulator_depth for bits in (8, 15, 16, 20, 32, 64)}
    assert depths == {8: 512, 15: 273, 16: 256, 20: 204, 32: 128, 64: 64}


@pytest.mark.parametrize("widest, banks", [(1, 1), (2, 2), (3, 4), (9, 16), (17, 32), (256, 256)])
def test_banks_are_the_next_power_of_two_of_the_widest_client(widest, banks):
    small = ["array.rows=1", "array.columns=1", "dram.bandwidth_bytes_per_cycle=1"]
    for key in ("array.rows", "array.columns", "dram.bandwidth_bytes_per_cycle"):
        machine = load_hardware("tpu_like_32x32", [*small, f"{key}={widest}"])
        assert machine.bank_count == banks


def test_the_arithmetic_is_the_machines():
    machine = edge("array.psum_bits=20", "accumulator.overflow=wrap", "array.dataflow=os")
    arithmetic = machine.arithmetic()
    assert (arithmetic.psum_bits, arithmetic.width_bits, arithmetic.rows) == (20, 32, 8)
    assert (arithmetic.overflow, arithmetic.saturate_at, arithmetic.dataflow) == ("wrap", "every_add", "os")


# --- hardware keys ------------------------------------------------------------------------------------------------

KEYS = {  # key: lowest, highest
    "array.rows": (1, 256),
    "array.columns": (1, 256),
    "array.psum_bits": (8, 64),
    "array.mac_latency_cycles": (1, 64),
    "array.mac_interval_cycles": (1, 64),
    "array.add_latency_cycles": (1, 64),
    "accumulator.width_bits": (8, 64),
    "accumulator.memory_bytes": (1, 1 << 26),
    "activation.memory_bytes": (1, 1 << 23),
    "weight.memory_bytes": (1, 1 << 23),
    "parameter.memory_bytes": (1, 1 << 23),
    "table.memory_bytes": (1, 1 << 23),
    "dram.bandwidth_bytes_per_cycle": (1, 256),
    "dram.latency_cycles": (0, 65535),
    "dram.memory_bytes": (1, 1 << 32),
    "dram.row_bytes": (1, 1 << 20),
    "dram.banks": (1, 1024),
    "dram.t_rcd_cycles": (0, 4095),
    "dram.t_rp_cycles": (0, 4095),
    "dram.t_cas_cycles": (0, 4095),
    "dram.refresh_interval_cycles": (1, 1 << 24),
    "dram.refresh_cycles": (1, 1 << 20),
}
OPEN_ROWS = [
    *("dram.model=open_rows", "dram.row_bytes=64", "dram.banks=4"),
    *("dram.t_rcd_cycles=5", "dram.t_rp_cycles=6", "dram.t_cas_cycles=7"),
]
TIMES = ("t_rcd_cycles", "t_rp_cycles", "t_cas_cycles")
REFRESH = ["dram.refresh_interval_cycles=80", "dram.refresh_cycles=8"]
CHOICES = {
    "array.dataflow": ("'ws', 'os' or 'is'", "WS"),
    "accumulator.overflow": ("'saturate' or 'wrap'", "clip"),
    "accumulator.saturate_at": ("'every_add' or 'end'", "never"),
    "array.arithmetic": ("'int8xint8', 'float32xint8' or 'float32xfloat32'", "float16"),
    "dram.model": ("'simple' or 'open_rows'", "ddr4"),
}


@pytest.mark.parametrize("key", KEYS)
def test_an_integer_outside_its_range_is_refused_with_the_limit(key):
    section, name = key.split(".")
    low, high = KEYS[key]
    assert refusal(edge, f"{key}={low - 1}") == f"edge_8x8 [{section}]: {name} = {low - 1} must be at least {low}"
    assert refusal(edge, f"{key}={high + 1}") == f"edge_8x8 [{section}]: {name} = {high + 1} must be at most {high}"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value, shown", [("'8'", "'8'"), ("8.0", "8.0"), ("true", "true"), ("[8]", "[8]")])
def test_an_integer_of_another_type_is_refused_and_never_converted(key, value, shown):
    section, name = key.split(".")
    assert refusal(edge, f"{key}={value}") == f"edge_8x8 [{section}]: {name} = {shown} {INTEGER}"


@pytest.mark.parametrize("key", CHOICES)
def test_a_word_that_is_no_choice_is_refused_with_the_choices(key):
    section, name = key.split(".")
    choices, wrong = CHOICES[key]
    for value, shown in ((wrong, repr(wrong)), ("3", "3"), ("true", "true"), ("['ws']", "['ws']")):
        assert refusal(edge, f"{key}={value}") == (
            f"edge_8x8 [{section}]: {name} = {shown} is not one of {choices}; choose one of them"
        )


@pytest.mark.parametrize(
    "value, expected",
    [
        ("0", "clock_mhz = 0 must be above 0.0"),
        ("-1.5", "clock_mhz = -1.5 must be above 0.0"),
        ("100001", "clock_mhz = 100001 must be at most 100000.0"),
        ("nan", "clock_mhz = nan: input should be a finite number"),
        ("inf", "clock_mhz = inf: input should be a finite number"),
        ("fast", "clock_mhz = 'fast' must be a number, written without quotes"),
        ("true", "clock_mhz = true must be a number, written without quotes"),
    ],
)
def test_a_clock_that_is_no_frequency_is_refused(value, expected):
    assert refusal(edge, f"clock_mhz={value}") == f"edge_8x8: {expected}"


def test_a_whole_number_is_a_frequency_too():
    assert edge("clock_mhz=250").clock_mhz == 250.0


@pytest.mark.parametrize(
    "change, expected",
    [
        ("name=''", "name = '': string should have at least 1 character"),
        ("name=3", "name = 3 must be text in quotes"),
    ],
)
def test_a_name_is_text(change, expected):
    assert refusal(edge, change) == f"edge_8x8: {expected}"


SUPPORTS = {
    "dataflows": "'ws', 'os' or 'is'",
    "overflows": "'saturate' or 'wrap'",
    "saturate_at": "'every_add' or 'end'",
    "zero_points": "'folded' or 'subtracted'",
    "bias_at": "'ppu' or 'accumulator'",
    "schemes": "'fixed_point', 'power_of_two', 'reciprocal', 'float32' or 'float64'",
    "roundings": "'floor', 'half_up', 'half_even', 'half_away', 'toward_zero' or 'tflite_double'",
}


@pytest.mark.parametrize("key", SUPPORTS)
def test_a_list_of_what_the_machine_supports_names_its_wrong_element(key):
    expected = f"is not one of {SUPPORTS[key]}; choose one of them"
    good = SUPPORTS[key].split(",")[0].split(" ")[0]
    assert refusal(edge, f"supports.{key}=[{good}, 'x']") == f"edge_8x8 [supports]: {key}[1] = 'x' {expected}"
    assert refusal(edge, f"supports.{key}=[1]") == f"edge_8x8 [supports]: {key}[0] = 1 {expected}"
    assert refusal(edge, f"supports.{key}={good}") == f"edge_8x8 [supports]: {key} = {good} {ARRAY} [{good}]"
    assert refusal(edge, f"supports.{key}=3") == f"edge_8x8 [supports]: {key} = 3 {ARRAY} [3]"


def test_a_machine_supports_everything_unless_it_says_otherwise():
    supports = edge().supports
    assert supports.schemes == tuple(scheme.value for scheme in Scheme)
    assert supports.roundings == tuple(rounding.value for rounding in Rounding)
    assert supports.dataflows == ("ws", "os", "is")


# --- unknown, missing and duplicate keys --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("rows = 8", "row = 8", " [array]: unknown key 'row'; did you mean 'rows'?"),
        (
            "rows = 8",
            "rows = 8\nx = 1",
            " [array]: unknown key 'x'; known here: rows, columns, dataflow, arithmetic, psum_bits, serial_tiles, "
            "mac_latency_cycles, mac_interval_cycles, add_latency_cycles",
        ),
        ("rows = 8", "", " [array]: key 'rows' is missing; add it"),
        ("[table]", "[tables]", ": unknown key 'tables'; did you mean 'table'?"),
        ("[table]\nmemory_bytes = 512", "", ": section [table] is missing; add it"),
        ("clock_mhz = 200.0", "", ": key 'clock_mhz' is missing; add it"),
        ("clock_mhz = 200.0", "clock_mhz = 200.0\nzebra = 1", ": unknown key 'zebra'; known here: name, clock_mhz, "
         "array, accumulator, activation, weight, parameter, table, dram, supports"),
        ("rows = 8", "rows = 8\nrows = 9", ": not valid TOML: Cannot overwrite a value (at line 6, column 9)"),
        ("[table]", "[array]", ": not valid TOML: Cannot declare ('array',) twice (at line 24, column 7)"),
        ("[array]", "[[array]]", ": array = [{'rows': 8, 'columns': 8, 'dataflow': 'ws'}] must be a table of keys"),
        ("[supports]", "", ""),
    ],
)  # fmt: skip
def test_a_key_that_is_unknown_missing_or_twice_there_is_named(file, old, new, expected):
    path = file(EDGE.replace(old, new, 1))
    if not expected:
        load_hardware(path)
        return
    assert refusal(load_hardware, path) == f"{path}{expected}"


def test_text_that_is_not_toml_is_refused_in_one_line(file, tmp_path):
    path = file("rows = ")
    assert refusal(load_hardware, path) == f"{path}: not valid TOML: Invalid value (at end of document)"
    path = file("a = " + "[" * 5000 + "]" * 5000)
    assert refusal(load_hardware, path) == f"{path}: nested too deeply"
    path.write_bytes(b"clock_mhz = \xff")
    assert refusal(load_hardware, path) == (f"{path}: byte 12 is 0xff, which is not UTF-8 text; save the file as UTF-8")
    assert refusal(load_hardware, tmp_path / "other.toml").startswith(f"{tmp_path}/other.toml: no such file")


def test_an_unknown_preset_is_refused_with_the_nearest_and_all():
    presets = (
        "presets: default_16x16, edge_8x8, rtl_16x16, rtl_4x4, rtl_8x8, scalesim_128x128, scalesim_16x16, "
        "scalesim_32x32, scalesim_8x8, tpu_like_32x32"
    )
    assert refusal(load_hardware, "edge_8x9") == (
        f"hardware 'edge_8x9' is neither a preset nor a file; did you mean 'edge_8x8'?; {presets}"
    )
    assert refusal(load_hardware, "zzz") == f"hardware 'zzz' is neither a preset nor a file; {presets}"
    assert find_preset("hardware", "edge_8x8").name == "edge_8x8.toml"


# --- --set --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "assignment, expected",
    [
        ("array.rows", "must be section.key=value, for example array.dataflow=os"),
        ("=3", "must be section.key=value, for example array.dataflow=os"),
        ("array..rows=3", "must be section.key=value, for example array.dataflow=os"),
        (".rows=3", "must be section.key=value, for example array.dataflow=os"),
        ("array.row=3", "unknown key 'array.row'; did you mean 'rows'?"),
        ("rows=3", "unknown key 'rows'; did you mean 'array.rows'?"),
        (
            "array.zzz=3",
            "unknown key 'array.zzz'; known here: rows, columns, dataflow, arithmetic, psum_bits, serial_tiles, "
            "mac_latency_cycles, mac_interval_cycles, add_latency_cycles",
        ),
        ("arry.rows=3", "unknown key 'arry'; did you mean 'array'?"),
        ("array=3", "'array' is a section; set one of its keys, such as array.rows"),
        ("array.rows.x=3", "'rows' holds a value, not keys"),
    ],
)
def test_a_malformed_override_is_refused_as_it_was_written(assignment, expected):
    assert refusal(edge, assignment) == f"--set {assignment}: {expected}"


def test_an_override_is_toml_or_a_bare_word():
    assert edge("array.dataflow=os").array.dataflow == "os"
    assert edge("array.dataflow='os'").array.dataflow == "os"
    assert edge(" array . rows = 0x10 ").array.rows == 16
    assert edge("array.rows=4", "array.rows=5").array.rows == 5
    assert edge("supports.dataflows=['ws', 'os']").supports.dataflows == ("ws", "os")
    assert edge("name=my machine").name == "my machine"


def test_an_override_sets_one_key_and_nothing_behind_a_line_break():
    assert refusal(edge, "array.rows=1\n[array2]\nx=1") == (f"edge_8x8 [array]: rows = '1\\n[array2]\\nx=1' {INTEGER}")


def test_overrides_name_layers_with_dots():
    scheme = load_quantization(
        "int8", ["accumulator_width_bits.c1=12", "accumulator_width_bits.features.0=14", "weight.bits=4"]
    )
    assert scheme.accumulator_width_bits == {"c1": 12, "features.0": 14}
    assert scheme.weight.bits == 4
    assert refusal(load_quantization, "int8", ["accumulator_width_bits=12"]) == (
        "int8: accumulator_width_bits = 12 must be a table of keys"
    )


# --- rules across keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (
            ["array.psum_bits=33"],
            "array.psum_bits = 33 must not exceed accumulator.width_bits = 32, because a sum the memory cannot hold "
            "would be cut when stored; use array.psum_bits <= 32, or leave it out",
        ),
        (
            ["accumulator.memory_bytes=63"],
            "accumulator.memory_bytes = 63 must hold two words of 8 x 32 bits, so that one fills while one drains; "
            "use at least 64",
        ),
        (
            ["accumulator.width_bits=9", "array.columns=3", "accumulator.memory_bytes=6"],
            "accumulator.memory_bytes = 6 must hold two words of 3 x 9 bits, so that one fills while one drains; "
            "use at least 7",
        ),
        (
            ["array.mac_latency_cycles=3", "array.mac_interval_cycles=4"],
            "array.mac_interval_cycles = 4 must not exceed array.mac_latency_cycles = 3, because a unit that has given "
            "its sum takes the next operands; use at most 3, or a longer latency",
        ),
        (
            ["array.add_latency_cycles=2"],
            "array.add_latency_cycles = 2 must not exceed array.mac_latency_cycles = 1, because the addition is the "
            "end of the multiply-add; use at most 1, or a longer latency",
        ),
        (
            ["array.arithmetic=float32xint8", "accumulator.width_bits=20"],
            "accumulator.width_bits = 20 does not go with array.arithmetic = 'float32xint8', whose sums are float32 "
            "and know no other; use 32",
        ),
        (
            ["array.arithmetic=float32xfloat32", "accumulator.overflow=wrap"],
            "accumulator.overflow = 'wrap' does not go with array.arithmetic = 'float32xfloat32', whose sums are "
            "float32 and know no other; use 'saturate'",
        ),
        (
            ["array.arithmetic=float32xfloat32", "array.dataflow=is"],
            "array.dataflow = 'is' does not go with array.arithmetic = 'float32xfloat32'; use 'ws' or 'os'",
        ),
        (["dram.banks=4"], "dram.banks = 4 is read by dram.model = 'open_rows' alone; set that, or leave it out"),
        (
            ["dram.model=open_rows", "dram.banks=4", "dram.t_rp_cycles=0"],
            "dram.model = 'open_rows' needs dram.row_bytes, dram.t_rcd_cycles, dram.t_cas_cycles; add what is missing",
        ),
        (
            [*OPEN_ROWS, "dram.refresh_cycles=8"],
            "refresh needs interval and duration, but dram.refresh_interval_cycles is missing; set both or none",
        ),
        (
            [*OPEN_ROWS, "dram.refresh_interval_cycles=20", "dram.refresh_cycles=8"],
            "dram.refresh_interval_cycles = 20 must be at least 21, so that after a refresh a row can be opened and a "
            "beat moved before the next",
        ),
        (["weight.memory_bytes=15"], "weight.memory_bytes = 15 must hold two rows of one byte a column; "
                                     "use at least 16"),
        (["parameter.memory_bytes=31"], "parameter.memory_bytes = 31 must hold two records of 16 bytes; "
                                        "use at least 32"),
        (["table.memory_bytes=255"], "table.memory_bytes = 255 must hold one table of 256 entries; use at least 256"),
        (
            ["supports.dataflows=['ws', 'is']", "array.dataflow=os"],
            "array.dataflow = 'os' is not implemented by this machine, which supports 'ws', 'is'; choose one of them "
            "or another machine",
        ),
        (
            ["supports.overflows=['wrap']"],
            "accumulator.overflow = 'saturate' is not implemented by this machine, which supports 'wrap'; choose one "
            "of them or another machine",
        ),
        (
            ["supports.saturate_at=[]"],
            "accumulator.saturate_at = 'every_add' is not implemented by this machine, which supports nothing; choose "
            "one of them or another machine",
        ),
    ],
)  # fmt: skip
def test_a_broken_rule_across_keys_names_them_the_reason_and_the_remedy(overrides, expected):
    assert refusal(edge, *overrides) == f"edge_8x8: {expected}"


@pytest.mark.parametrize(
    "overrides",
    [
        ["array.psum_bits=32"],
        ["accumulator.memory_bytes=64"],
        ["accumulator.width_bits=9", "array.columns=3", "accumulator.memory_bytes=7"],
        ["weight.memory_bytes=16", "parameter.memory_bytes=32", "table.memory_bytes=256"],
        ["array.mac_latency_cycles=3", "array.mac_interval_cycles=3", "array.add_latency_cycles=3"],
        [*OPEN_ROWS, "dram.refresh_interval_cycles=21", "dram.refresh_cycles=8"],
    ],
)
def test_the_remedies_of_those_errors_work(overrides):
    assert edge(*overrides).accumulator_depth >= 2


# --- a description is a value -------------------------------------------------------------------------------------


def test_models_are_frozen():
    machine, scheme = edge(), load_quantization("int8")
    for model, key in ((machine, "name"), (machine.array, "rows"), (scheme, "bias_at"), (scheme.weight, "bits")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, key, getattr(model, key))


def test_the_fingerprint_ignores_name_clock_and_what_else_the_machine_could_do():
    same = [["name=other"], ["clock_mhz=999"], ["supports.dataflows=['ws']"], []]
    assert len({edge(*overrides).fingerprint() for overrides in same}) == 1


def test_the_fingerprint_depends_on_every_other_key():
    changes = [f"{key}={low + 9 if key != 'array.psum_bits' else 20}" for key, (low, _) in KEYS.items()]
    slow, rows = ["array.mac_latency_cycles=10"], [*OPEN_ROWS, *REFRESH]
    needing = {  # other keys
        "array.mac_interval_cycles": [*slow, "array.mac_interval_cycles=2"],
        "array.add_latency_cycles": [*slow, "array.add_latency_cycles=2"],
        "dram.model": OPEN_ROWS,
        "array.arithmetic": ["array.arithmetic=float32xint8"],
        **{f"dram.{key}": [*rows, f"dram.{key}=9"] for key in ("row_bytes", "banks", *TIMES, "refresh_cycles")},
        "dram.refresh_interval_cycles": [*rows, "dram.refresh_interval_cycles=90"],
    }
    changes = [c for c in changes if ".memory_bytes" not in c and c.partition("=")[0] not in needing]
    changes += [f"{s}.memory_bytes=3333" for s in ("accumulator", "activation", "weight", "parameter", "table", "dram")]
    changes += ["array.dataflow=os", "accumulator.overflow=wrap", "accumulator.saturate_at=end"]
    prints = {edge(change).fingerprint() for change in changes}
    prints |= {edge(*changed).fingerprint() for changed in needing.values()}
    assert len(changes) + len(needing) == len(KEYS) + len(CHOICES)
    assert len(prints | {edge().fingerprint()}) == len(changes) + len(needing) + 1


# --- quantisation -------------------------------------------------------------------------------------------------


def test_an_empty_file_is_symmetric_int8_per_channel(file):
    scheme = load_quantization(file(""))
    assert scheme.activation.format == IntFormat(8)
    assert (scheme.weight.bits, scheme.weight.granularity, scheme.weight.symmetric) == (8, "channel", True)
    assert scheme.requantization.numerics().rounding is Rounding.HALF_EVEN
    assert (scheme.zero_points, scheme.bias_at, scheme.accumulator_width_bits) == ("folded", "ppu", {})


@pytest.mark.parametrize(
    "text, expected",
    [
        ("[activation]\nbits = 1", ": activation.bits = 1 must be at least 2, because a sign alone has no scale; "
         "use 2, or fixed point with activation.fraction_bits"),
        ("[activation]\nbits = 9", " [activation]: bits = 9 must be at most 8"),
        ("[activation]\nbits = '8'", f" [activation]: bits = '8' {INTEGER}"),
        ("[activation]\nsigned = 1", " [activation]: signed = 1 must be true or false, written without quotes"),
        ("[activation]\nsymmetric = 'no'",
         " [activation]: symmetric = 'no' must be true or false, written without quotes"),
        ("[weight]\nbits = 1", ": weight.bits = 1 must be at least 2, because a sign alone has no scale; use 2, or "
         "fixed point with weight.fraction_bits"),
        ("[weight]\nbits = 9", " [weight]: bits = 9 must be at most 8"),
        ("[weight]\nfull_range = 0", " [weight]: full_range = 0 must be true or false, written without quotes"),
        ("[weight]\nsymmetric = 0", " [weight]: symmetric = 0 must be true or false, written without quotes"),
        ("[weight]\ngranularity = 'row'",
         " [weight]: granularity = 'row' is not one of 'tensor' or 'channel'; choose one of them"),
        ("[weight]\nbit = 3", " [weight]: unknown key 'bit'; did you mean 'bits'?"),
        ("[weights]", ": unknown key 'weights'; did you mean 'weight'?"),
        ("[requantization]\nscheme = 'fixed'", " [requantization]: scheme = 'fixed' is not one of 'fixed_point', "
         "'power_of_two', 'reciprocal', 'float32' or 'float64'; choose one of them"),
        ("[requantization]\nrounding = 'up'", " [requantization]: rounding = 'up' is not one of 'floor', 'half_up', "
         "'half_even', 'half_away', 'toward_zero' or 'tflite_double'; choose one of them"),
        ("[requantization]\nmultiplier_bits = 7", " [requantization]: multiplier_bits = 7 must be at least 8"),
        ("[requantization]\nmultiplier_bits = 33", " [requantization]: multiplier_bits = 33 must be at most 32"),
        ("[requantization]\nguard_bits = -1", " [requantization]: guard_bits = -1 must be at least 0"),
        ("[requantization]\nguard_bits = 17", " [requantization]: guard_bits = 17 must be at most 16"),
        ("[requantization]\norder = 'both'", " [requantization]: order = 'both' is not one of 'multiply_first' or "
         "'shift_first'; choose one of them"),
        ("[requantization]\noutput_overflow = 'x'", " [requantization]: output_overflow = 'x' is not one of "
         "'saturate' or 'wrap'; choose one of them"),
        ("[requantization]\nmultiplier_arithmetic = 'x'", " [requantization]: multiplier_arithmetic = 'x' is not one "
         "of 'float64' or 'float32'; choose one of them"),
        ("[requantization]\nmultiplier_arithmetic = 'float32'", ": requantization.multiplier_arithmetic = 'float32' "
         "needs scale_format = 'float32', because products of float32 take float32 factors; set scale_format = "
         "'float32'"),
        ("scale_format = 'float16'", ": scale_format = 'float16' is not one of 'float64' or 'float32'; "
         "choose one of them"),
        ("zero_points = 'x'", ": zero_points = 'x' is not one of 'folded' or 'subtracted'; choose one of them"),
        ("bias_at = 1", ": bias_at = 1 is not one of 'ppu' or 'accumulator'; choose one of them"),
        ("weight = 2", ": weight = 2 must be a table of keys"),
        ("accumulator_width_bits = 3", ": accumulator_width_bits = 3 must be a table of keys"),
        ("[accumulator_width_bits]\nc1 = '8'", f" [accumulator_width_bits]: c1 = '8' {INTEGER}"),
        ("[accumulator_width_bits]\nc1 = 7", ": accumulator_width_bits.c1 = 7 is outside 8..64"),
        ("[accumulator_width_bits]\nc1 = 65", ": accumulator_width_bits.c1 = 65 is outside 8..64"),
        ("bias_at = 'ppu'\nbias_at = 'ppu'\n", ": not valid TOML: Cannot overwrite a value (at line 2, column 16)"),
        ("[requantization]\nguard_bits = 3", " [requantization]: guard_bits needs order = 'shift_first'; "
         "multiply_first keeps every bit anyway"),
        ("[requantization]\norder = 'shift_first'\nscheme = 'reciprocal'", " [requantization]: order = 'shift_first' "
         "needs scheme = 'fixed_point', not 'reciprocal'"),
        ("[requantization]\nrounding = 'tflite_double'\nmultiplier_bits = 16", " [requantization]: rounding = "
         "'tflite_double' needs scheme = 'fixed_point', multiplier_bits = 32, order = 'multiply_first'"),
        ("[weight]\nsymmetric = false", ": weight.symmetric = false needs zero_points = 'subtracted', because folding "
         "a weight zero point would need every input summed; set zero_points = 'subtracted'"),
        ("zero_points = 'subtracted'\n[weight]\nsymmetric = false", ": weight.symmetric = false needs "
         "weight.granularity = 'tensor', because the array holds one Z_w; set weight.granularity = 'tensor'"),
        ("[activation]\nsigned = false", ": activation.signed = false needs activation.symmetric = false, because "
         "symmetric codes need negatives; set activation.symmetric = false"),
    ],
)  # fmt: skip
def test_every_quantisation_key_refuses_what_it_cannot_mean(file, text, expected):
    path = file(text)
    assert refusal(load_quantization, path) == f"{path}{expected}"


def test_every_key_that_an_error_above_names_has_a_legal_value(file):
    path = file(
        "zero_points = 'subtracted'\nbias_at = 'accumulator'\n[activation]\nbits = 2\nsigned = false\n"
        "symmetric = false\n[weight]\nbits = 2\nsymmetric = false\ngranularity = 'tensor'\n[requantization]\n"
        "order = 'shift_first'\nguard_bits = 16\nmultiplier_bits = 8\noutput_overflow = 'wrap'\n"
        "[accumulator_width_bits]\nc1 = 8\n'features.0' = 64\n"
    )
    scheme = load_quantization(path)
    assert scheme.activation.format == IntFormat(2, signed=False)
    assert scheme.requantization.numerics().guard_bits == 16
    assert scheme.accumulator_width_bits == {"c1": 8, "features.0": 64}
