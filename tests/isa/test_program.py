"""A program directory: what comes back is what was saved, and whatever was altered is refused in one line."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import GraphMaker, random_graph

from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.errors import InputError
from accelsim.isa import Modes, Program, load_program
from accelsim.isa.program import HEADER, HEADER_BYTES
from accelsim.machine import Accelerator
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme

FILES = ("program.bin", "dram.bin", "program.json")


def refusal(function, *arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def small_program() -> tuple[GraphMaker, Program]:
    maker = GraphMaker(np.random.default_rng(3), Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN))
    maker.conv(maker.input(5, 5, 2, 1), 3, (3, 3), padding=(1, 1, 1, 1))
    maker.linear("conv1", 4)
    return maker, compile_graph(maker.graph(), load_hardware("edge_8x8"), 2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("program")
    small_program()[1].save(folder)
    return {name: (folder / name).read_bytes() for name in FILES}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def forged(files: dict[str, bytes], **change: object) -> dict[str, bytes]:
    """The directory with header fields or metadata changed and every digest made to match."""
    names = ["magic", "isa", "timing", "count", "modes", "fingerprint", "image", "metadata", "digest"]
    header = dict(zip(names, HEADER.unpack_from(files["program.bin"]), strict=True))
    text = change.pop("text", files["program.json"])
    code = change.pop("code", files["program.bin"][HEADER_BYTES:])
    header |= {"image": hashlib.sha256(files["dram.bin"]).digest(), "metadata": hashlib.sha256(text).digest()}
    header |= change
    header["digest"] = bytes(32)
    header["digest"] = hashlib.sha256(HEADER.pack(*header.values()) + code).digest()
    return {**files, "program.bin": HEADER.pack(*header.values()) + code, "program.json": text}


@pytest.mark.parametrize("seed", range(6))
def test_a_loaded_program_equals_the_saved_one_and_computes_the_same_bits(tmp_path, seed):
    rng = np.random.default_rng(seed)
    maker = random_graph(rng)
    overrides = ["array.psum_bits=12"] if seed % 2 else []
    program = compile_graph(maker.graph(), load_hardware("edge_8x8", overrides), 1 + seed % 3)
    program.save(tmp_path)
    loaded = load_program(tmp_path)
    for field in fields(Program):
        if field.name != "dram":
            assert getattr(loaded, field.name) == getattr(program, field.name), field.name
    assert loaded.dram.tobytes() == program.dram.tobytes()
    codes = maker.codes(program.batch)
    first, second = (Accelerator(p).run(codes) for p in (program, loaded))
    assert first.output.tolist() == second.output.tolist()
    assert first.cycles == second.cycles


def test_saving_a_loaded_program_gives_the_same_bytes(tmp_path, saved):
    load_program(write(tmp_path / "a", saved)).save(tmp_path / "b")
    assert {name: (tmp_path / "b" / name).read_bytes() for name in FILES} == saved


def test_the_header_is_192_bytes_little_endian(saved):
    data = saved["program.bin"]
    assert HEADER_BYTES == 192
    assert data[:8] == b"ACCELSIM"
    isa, timing, count = struct.unpack_from("<HHI", data, 8)
    assert (isa, timing, 64 * count) == (1, timing, len(data) - 192)
    # modes: 8 bits, signed, folded, fixed_point, half_even, 32-bit multiplier, no guard bits, multiply first
    assert list(data[16:24]) == [8, 1, 0, 0, list(Rounding).index(Rounding.HALF_EVEN), 32, 0, 0]
    assert data[24:32] == bytes(8)
    assert data[32:64] == load_hardware("edge_8x8").fingerprint()
    assert data[64:96] == hashlib.sha256(saved["dram.bin"]).digest()
    assert data[96:128] == hashlib.sha256(saved["program.json"]).digest()
    assert data[128:160] == hashlib.sha256(data[:128] + bytes(64) + data[192:]).digest()
    assert data[160:192] == bytes(32)


def test_every_altered_header_byte_is_refused(tmp_path, saved):
    folder = write(tmp_path, saved)
    digest = f"{folder}/program.bin: its digest does not match its contents; the file was altered, compile it again"
    for position in range(192):
        data = bytearray(saved["program.bin"])
        data[position] ^= 0x41
        (folder / "program.bin").write_bytes(data)
        message = refusal(load_program, folder)
        if position < 8:
            magic = bytes(data[:8])
            assert (
                message == f"{folder}/program.bin: magic {magic!r} is not b'ACCELSIM'; this is not an accelsim program"
            )
        elif position < 10:
            isa = int.from_bytes(data[8:10], "little")
            assert message == f"{folder}/program.bin: ISA version {isa} is not 1; compile the program again"
        else:
            assert message == digest


def test_300_random_flipped_bits_are_all_refused_by_the_file_they_are_in(tmp_path, saved):
    folder = write(tmp_path, saved)
    rng = np.random.default_rng(11)
    for number in range(300):
        name = FILES[number % 3]
        data = bytearray(saved[name])
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (folder / name).write_bytes(data)
        assert refusal(load_program, folder).startswith(f"{folder / name}: ")
        (folder / name).write_bytes(saved[name])
    assert load_program(folder).batch == 2


@pytest.mark.parametrize("name", FILES)
def test_missing_truncated_and_lengthened_files_are_refused(tmp_path, saved, name):
    folder = write(tmp_path, saved)
    for data in (b"", saved[name][:100], saved[name][:-1], saved[name] + b"\0", saved[name] + bytes(64)):
        (folder / name).write_bytes(data)
        assert refusal(load_program, folder).startswith(f"{folder / name}: ")
    (folder / name).unlink()
    assert refusal(load_program, folder).startswith(f"{folder / name}: no such file")
    (folder / name).mkdir()
    assert refusal(load_program, folder) == f"{folder / name}: is a folder; name a file"


def test_what_is_no_directory_is_refused(tmp_path, saved):
    remedy = "is not a program directory; make one with 'accelsim compile WORKLOAD -o DIR'"
    assert refusal(load_program, tmp_path / "none") == f"{tmp_path}/none: {remedy}"
    file = write(tmp_path, saved) / "program.bin"
    assert refusal(load_program, file) == f"{file}: {remedy}"
    file.write_bytes(saved["program.bin"][:191])
    assert refusal(load_program, tmp_path) == (f"{file}: 191 bytes are too few for a header of 192; compile it again")


def test_files_of_two_programs_do_not_mix(tmp_path, saved):
    other = random_graph(np.random.default_rng(0)).graph()
    compile_graph(other, load_hardware("edge_8x8")).save(tmp_path / "other")
    for name in ("dram.bin", "program.json"):
        folder = write(tmp_path / "mixed", {**saved, name: (tmp_path / "other" / name).read_bytes()})
        assert refusal(load_program, folder) == (
            f"{folder / name}: does not match the digest in program.bin; the file was altered, compile it again"
        )


def test_another_isa_or_timing_version_is_refused_before_anything_runs(tmp_path, saved):
    folder = write(tmp_path, forged(saved, isa=2))
    assert refusal(load_program, folder) == (f"{folder}/program.bin: ISA version 2 is not 1; compile the program again")
    timing = struct.unpack_from("<H", saved["program.bin"], 10)[0]
    program = load_program(write(tmp_path, forged(saved, timing=timing + 7)))
    assert refusal(Accelerator, program) == (
        f"program random: timing contract {timing + 7} is not this machine's {timing}; compile it again"
    )


def test_a_program_for_another_machine_is_refused(tmp_path, saved):
    folder = write(tmp_path, forged(saved, fingerprint=load_hardware("default_16x16").fingerprint()))
    assert refusal(load_program, folder) == (
        f"{folder}/program.bin: was compiled for another machine than program.json describes; compile it again"
    )


def test_the_number_of_instructions_and_their_codes_are_checked(tmp_path, saved):
    code = saved["program.bin"][HEADER_BYTES:]
    count = len(code) // 64
    folder = write(tmp_path, forged(saved, code=code[64:]))
    assert refusal(load_program, folder) == (
        f"{folder}/program.bin: holds {count - 1} instructions, its header says {count}"
    )
    write(folder, forged(saved, code=code + b"\0"))
    assert refusal(load_program, folder) == (
        f"{folder}/program.bin: {len(code) + 1} bytes are not a whole number of 64-byte instructions; compile it again"
    )
    write(folder, forged(saved, code=bytes(64) + code[64:]))
    assert refusal(load_program, folder) == (
        f"{folder}/program.bin: instruction 0: opcode 0 is not an instruction; known: 1, 2, 3, 4; compile it again"
    )


@pytest.mark.parametrize(
    "modes",
    [
        Modes(activation=IntFormat(bits, signed=signed), zero_points=zero_points, requantization=how)
        for bits, signed, zero_points, how in [
            (2, True, "folded", Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.FLOOR)),
            (8, False, "subtracted", Requantization(scheme=Scheme.FLOAT32, rounding=Rounding.TOWARD_ZERO)),
            (5, False, "folded", Requantization(scheme=Scheme.RECIPROCAL, rounding=Rounding.HALF_UP)),
            (
                7,
                True,
                "subtracted",
                Requantization(
                    scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_AWAY, multiplier_bits=8, order="shift_first",
                    guard_bits=16, output_overflow="wrap",
                ),
            ),
        ]
    ],
)  # fmt: skip
def test_modes_round_trip_through_eight_bytes(modes):
    assert len(modes.encode()) == 8
    assert Modes.decode(modes.encode()) == modes


@pytest.mark.parametrize(
    "data, reason",
    [
        ((1, 1, 0, 0, 0, 32, 0, 0), "activation bits, sign or flags are out of range"),
        ((9, 1, 0, 0, 0, 32, 0, 0), "activation bits, sign or flags are out of range"),
        ((8, 2, 0, 0, 0, 32, 0, 0), "activation bits, sign or flags are out of range"),
        ((8, 1, 0, 0, 0, 32, 0, 4), "activation bits, sign or flags are out of range"),
        ((8, 1, 2, 0, 0, 32, 0, 0), "tuple index out of range"),
        ((8, 1, 0, 5, 0, 32, 0, 0), "tuple index out of range"),
        ((8, 1, 0, 0, 6, 32, 0, 0), "tuple index out of range"),
        ((8, 1, 0, 0, 0, 33, 0, 0), "multiplier_bits = 33 is outside 8..32"),
        ((8, 1, 0, 0, 0, 32, 17, 1), "guard_bits = 17 is outside 0..16"),
        (
            (8, 1, 0, 0, 0, 32, 1, 0),
            "guard_bits needs order = 'shift_first'; multiply_first keeps every bit anyway",
        ),
    ],
)
def test_modes_without_a_meaning_are_refused(tmp_path, saved, data, reason):
    expected = f"modes {bytes(data).hex()} are not legal: {reason}; compile the program again"
    assert refusal(Modes.decode, bytes(data)) == expected
    assert refusal(load_program, write(tmp_path, forged(saved, modes=bytes(data)))) == expected


def changed(saved: dict[str, bytes], place: tuple[str | int, ...], value: Any) -> dict[str, bytes]:
    data = json.loads(saved["program.json"])
    here = data
    for key in place[:-1]:
        here = here[key]
    here[place[-1]] = value
    return forged(saved, text=json.dumps(data).encode())


@pytest.mark.parametrize(
    "place, value",
    [
        (("format",), "other"),
        (("version",), 1),
        (("hardware",), None),
        (("hardware", "array"), {}),
        (("hardware", "array", "rows"), "8"),
        (("input",), []),
        (("input", "shape"), 5),
        (("input", "colour"), "red"),
        (("input", "address"), -64),
        (("input", "address"), 1 << 40),
        (("input", "address"), 0.5),
        (("input", "batch"), 0),
        (("output", "shape"), [1, 1, 10**6]),
        (("output", "address"), 10**9),
        (("layers",), {}),
        (("layers",), []),
        (("layers", 0), "conv"),
        (("layers", 0, "nodes"), 3),
        (("pieces",), 3),
        (("pieces", 0), [1, 2]),
        (("pieces", 0), {"instruction": 0}),
        (("shapes",), []),
        (("shapes",), {"conv1": 5}),
    ],
)
def test_metadata_that_compile_never_writes_is_refused_even_with_matching_digests(tmp_path, saved, place, value):
    folder = write(tmp_path, changed(saved, place, value))
    assert refusal(load_program, folder).startswith(f"{folder}/program.")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null"])
def test_metadata_that_is_not_an_object_is_refused_even_with_matching_digests(tmp_path, saved, text):
    folder = write(tmp_path, forged(saved, text=text))
    assert refusal(load_program, folder).startswith(f"{folder}/program.json: not as written by compile: ")


def test_an_input_of_the_wrong_shape_or_range_is_refused():
    maker, program = small_program()
    machine = Accelerator(program)
    codes = maker.codes(2)
    assert refusal(machine.run, codes[:1]) == ("input input: shape (1, 5, 5, 2) is not (batch, H, W, C) = (2, 5, 5, 2)")
    assert refusal(machine.run, np.where(codes == codes[0, 0, 0, 0], 128, codes)) == (
        "input input: a code is outside -128..127"
    )


def test_a_program_takes_its_input_along_and_leaves_the_one_it_came_from():
    maker, program = small_program()
    codes = maker.codes(2)
    before = program.dram.copy()
    loaded = program.with_input(codes)
    assert program.dram.tolist() == before.tolist()
    changed = np.flatnonzero(loaded.dram != before)
    assert program.input.unpack(loaded.dram[program.input.slice()], program.modes.activation).tolist() == codes.tolist()
    assert program.input.address <= changed.min()
    assert changed.max() < program.input.address + program.input.size
    assert refusal(program.with_input, codes[:1]).startswith("input input: shape (1, 5, 5, 2) is not")


def test_regions_of_columns_are_blocks_of_images():
    region = replace(small_program()[1].input, batch=3, shape=(1, 1, 4), layout="columns", block=2)
    codes = np.arange(12).reshape(3, 1, 1, 4)
    packed = region.pack(codes, IntFormat(8))
    # Block of images 0 and 1: element k of both, k after k; then image 2 alone.
    assert packed.tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 9, 10, 11]
    assert region.unpack(packed, IntFormat(8)).tolist() == codes.tolist()
    result = replace(region, block=0)  # a result is one matrix (N, batch)
    assert result.unpack(np.arange(12, dtype=np.uint8), IntFormat(8)).reshape(3, 4).tolist() == [
        [0, 3, 6, 9],
        [1, 4, 7, 10],
        [2, 5, 8, 11],
    ]
