"""The accelerator a second time, in plain integers, written from docs/ alone: microarchitecture, numerics, formats.

It shares no line with accelsim, imports nothing of it, and reads only a program directory: program.bin, dram.bin and
program.json. Values are computed one addition at a time, times tile by tile from the rules of section 4. Sections in
comments are those of docs/microarchitecture.md, or of docs/numerics.md and docs/formats.md where they are named.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

LOAD, COMPUTE, POST, STORE = range(4)
UNITS = ("LOAD", "COMPUTE", "POST", "STORE")
D_ACC, D_POST = 2, 5

# Sections 5, 5.1, 5.2 and 5.3: word high low name kind. A kind in brackets is the field that makes the byte unsigned.
_WORD_0 = "0 27 24 wait u, 0 23 20 signal u, 0 11 0 label u, "
_TRANSFER = (
    _WORD_0 + "0 13 12 memory u, 1 31 0 dram_address u, 2 23 0 buffer_address u, 3 23 0 row_bytes count, "
    "4 15 0 rows count, 5 31 0 dram_step s, 6 23 0 buffer_step s"
)
_COMPUTE = (
    _WORD_0 + "0 19 19 last u, 0 18 18 weight_unsigned u, 0 17 17 act_unsigned u, 0 16 16 output_stationary u, "
    "0 15 15 serial u, 0 14 14 diagonal u, 0 13 12 start choice, 1 31 24 z_x [act_unsigned], 1 23 0 act_base s, "
    "2 31 24 z_w [weight_unsigned], 2 23 0 weight_base u, 3 31 24 width u, 3 23 0 acc_base u, 4 31 24 lanes minus_one, "
    "4 23 0 run_bytes count, 5 31 16 x_count count, 5 15 0 y_count count, 6 31 24 r_count count, 6 23 0 x_step s, "
    "7 31 24 s_count count, 7 23 0 y_step s, 8 31 24 images count, 8 23 0 image_step s, 9 31 24 stride_y u, "
    "9 23 0 r_step s, 10 31 24 dilation_y u, 10 23 0 s_step s, 11 23 20 activation_bits u, "
    "11 19 16 weight_bits u, 11 15 0 param u, "
    "12 23 0 in_row_bytes u, 13 23 0 x_first s, 14 31 16 y_first s, 14 15 0 in_height u"
)
_POST = (
    _WORD_0 + "0 19 19 count_padding u, 0 18 18 act_unsigned u, 0 17 17 broadcast u, 0 16 16 residual_on u, "
    "0 15 15 table_on u, 0 14 13 reduce choice, 0 12 12 source u, 1 31 24 lanes minus_one, 1 23 0 src_base s, "
    "2 31 24 z_src [act_unsigned], 2 23 0 dst_base s, 3 31 24 z_dst [act_unsigned], 3 23 0 residual_base s, "
    "4 31 16 param u, 4 15 0 dst_x_step s, 5 31 16 x_count count, 5 15 0 y_count count, 6 31 24 r_count count, "
    "6 23 0 src_x_step s, 7 31 24 s_count count, 7 23 0 src_y_step s, 8 31 24 images count, 8 23 0 src_image_step s, "
    "9 31 24 stride_y u, 9 23 0 r_step s, 10 31 24 z_residual [act_unsigned], 10 23 0 s_step s, "
    "11 31 24 qmin [act_unsigned], 11 23 0 dst_y_step s, 12 31 24 qmax [act_unsigned], 12 23 0 in_row_bytes u, "
    "13 31 24 table u, 13 23 0 x_first s, 14 31 16 y_first s, 14 15 0 in_height u, 15 23 0 dst_image_step s"
)
_FIELDS = {1: (LOAD, _TRANSFER), 2: (COMPUTE, _COMPUTE), 3: (POST, _POST), 4: (STORE, _TRANSFER)}
_ZERO, _ACCUMULATE, _BIAS = range(3)  # COMPUTE's start
_NONE, _MAX, _SUM = range(3)  # POST's reduce


def signed(value: int, bits: int) -> int:
    """The low `bits` of a value as two's complement: what wrapping leaves."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def decode(raw: bytes) -> SimpleNamespace:
    """One instruction of 64 bytes. An unused bit that is set, or a value outside its kind, is refused."""
    words = struct.unpack("<16I", raw)
    unit, fields = _FIELDS[words[0] >> 28]
    out, left = SimpleNamespace(unit=unit), list(words)
    left[0] &= 0x0FFFFFFF
    for line in fields.split(", "):
        word, high, low, name, kind = line.split()
        high, low, word = int(high), int(low), int(word)
        bits = high - low + 1
        value = words[word] >> low & ((1 << bits) - 1)
        left[word] &= ~(((1 << bits) - 1) << low)
        if kind == "s" or (kind[0] == "[" and not getattr(out, kind[1:-1])):
            value = signed(value, bits)
        elif kind == "minus_one":
            value += 1
        if (kind == "count" and value == 0) or (kind == "choice" and value == 3):
            raise ValueError(f"{name} is {value}")
        setattr(out, name, value)
    if any(left):
        raise ValueError("an unused bit is set")
    return out


# --- numerics ---------------------------------------------------------------------------------------------------------

FLOOR, HALF_UP, HALF_EVEN, HALF_AWAY, TOWARD_ZERO, TFLITE_DOUBLE = range(6)
FIXED_POINT, POWER_OF_TWO, RECIPROCAL, FLOAT32, FLOAT64 = range(5)


def rounded(numerator: int, denominator: int, how: int) -> int:
    """numerator / denominator, exact, rounded once (numerics 4). denominator > 0."""
    below, rest = divmod(numerator, denominator)
    if how == FLOOR or rest == 0:
        return below
    if how == TOWARD_ZERO:
        return below + (numerator < 0)
    if 2 * rest != denominator:
        return below + (2 * rest > denominator)
    if how == HALF_UP:
        return below + 1
    if how == HALF_EVEN:
        return below + (below & 1)
    return below + (numerator > 0)  # half_away: a tie below zero goes down


def scaled(value: int, power: int, how: int) -> int:
    """value / 2^power; a negative power is an exact left shift."""
    return rounded(value, 1 << power, how) if power > 0 else value << -power


def float32(value: int) -> float:
    """An integer as the nearest float32, ties to even, in one rounding."""
    power = max(0, abs(value).bit_length() - 24)
    return float(scaled(value, power, HALF_EVEN) << power)


@dataclass
class Modes:
    """Bytes 16 to 23 of the header (formats 1.1)."""

    bits: int
    signed: int
    subtracted: int
    scheme: int
    rounding: int
    multiplier_bits: int
    guard_bits: int
    flags: int

    @property
    def limits(self) -> tuple[int, int]:
        """Of the activation format."""
        return (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)

    def requantise(self, v: int, m0: int, n: int) -> int:
        """numerics 4, one row of its table at a time."""
        how, b = self.rounding, self.multiplier_bits
        if self.scheme == POWER_OF_TWO:
            return scaled(v, n, how)
        if self.scheme == RECIPROCAL:
            return rounded(v, m0, how)
        if self.scheme in (FLOAT32, FLOAT64):
            if self.scheme == FLOAT32:
                (m,) = struct.unpack("<f", struct.pack("<I", m0 & 0xFFFFFFFF))
                (product,) = struct.unpack("<f", struct.pack("<f", float32(v) * m))  # 48 bits: the product is exact
            else:
                (m,) = struct.unpack("<d", struct.pack("<q", m0))
                product = float(v) * m
            return rounded(*product.as_integer_ratio(), how)
        if how == TFLITE_DOUBLE:
            a = signed(v << max(-n, 0), 32)
            return scaled(rounded(a * m0, 1 << 31, HALF_UP), max(n, 0), HALF_AWAY)
        if self.flags & 1:  # shift_first
            return scaled(scaled(v << self.guard_bits, n, how) * m0, b - 1 + self.guard_bits, how)
        return scaled(v * m0, b - 1 + n, how)

    def output(self, u: int, qmin: int, qmax: int) -> int:
        """Section 6, step 6."""
        low, high = self.limits
        if self.flags & 2:
            u = max(u, qmin) if qmin > low else u
            u = min(u, qmax) if qmax < high else u
            return signed(u, self.bits) if self.signed else u & high
        return min(max(u, qmin), qmax)


@dataclass
class Sums:
    """What is watched of one label's partial sums (numerics 2.5)."""

    minimum: int | None = None
    maximum: int | None = None
    overflows: int = 0

    def see(self, value: int) -> None:
        self.minimum = value if self.minimum is None or value < self.minimum else self.minimum
        self.maximum = value if self.maximum is None or value > self.maximum else self.maximum


class Adder:
    """Additions fitted to one width (numerics 2.2), or exact ones (bits None)."""

    def __init__(self, bits: int | None, wrap: bool, sums: Sums) -> None:
        self.bits, self.wrap, self.sums = bits, wrap, sums
        self.low, self.high = (0, 0) if bits is None else (-(1 << bits - 1), (1 << bits - 1) - 1)

    def fit(self, value: int) -> int:
        if self.bits is None or self.low <= value <= self.high:
            return value
        return signed(value, self.bits) if self.wrap else min(max(value, self.low), self.high)

    def add(self, s: int, p: int) -> int:
        exact = s + p
        self.sums.see(exact)
        fitted = self.fit(exact)
        self.sums.overflows += fitted != exact
        return fitted


# --- machine ----------------------------------------------------------------------------------------------------------


class OpenRows:
    """One channel of a DRAM with open rows (section 4.1), one cycle after the other."""

    def __init__(self, dram: dict) -> None:
        self.dram, self.bus, self.banks = dram, dram["bandwidth_bytes_per_cycle"], dram["banks"]
        self.open: dict[int, int] = {}  # bank → row
        self.cycle = 0  # the next that has not been looked at

    def beats(self, this: SimpleNamespace) -> list[tuple[int, bool]]:
        """(row, is it the first of a segment) of each beat, byte by byte."""
        found: list[tuple[int, bool]] = []
        for number in range(this.rows):
            row, room = None, 0
            for byte in range(this.row_bytes):
                at = (this.dram_address + number * this.dram_step + byte) // self.dram["row_bytes"]
                if at != row:
                    found.append((at, True))
                    row, room = at, self.bus
                elif room == 0:
                    found.append((at, False))
                    room = self.bus
                room -= 1
        return found

    def refreshing(self) -> bool:
        every = self.dram["refresh_interval_cycles"]
        return every is not None and self.cycle >= every and self.cycle % every < self.dram["refresh_cycles"]

    def commands(self, row: int) -> int:
        """Cycles from a segment's first command to its first beat, as its bank is now."""
        there = self.open.get(row % self.banks)
        cycles = self.dram["t_cas_cycles"]
        if there != row:
            cycles += self.dram["t_rcd_cycles"] + (0 if there is None else self.dram["t_rp_cycles"])
        return cycles

    def done(self, this: SimpleNamespace, issue: int) -> int:
        """The cycle of the last beat of a transfer."""
        beats = self.beats(this)
        at, left, ahead = 0, None, None  # the next beat; cycles until it and until the next segment's, once commanded
        while at < len(beats):
            if self.refreshing():
                self.open.clear()
                left = ahead = None
            elif self.cycle >= issue + self.dram["latency_cycles"]:
                row, _ = beats[at]
                if left is None:
                    left = self.commands(row)
                    begins = True
                if left == 0:
                    self.open[row % self.banks] = row
                    following = next((r for r, first in beats[at + 1 :] if first), None)
                    if begins and following is not None and following % self.banks != row % self.banks:
                        ahead, begins = self.commands(following), False
                    at += 1
                    if at < len(beats) and beats[at][1]:
                        begins = True
                        known = self.open.get(beats[at][0] % self.banks) == beats[at][0]
                        left, ahead = (1 if known else ahead), None
                        if left is not None:
                            left = max(left, 1)
                    else:
                        left = 1
                if left is not None:
                    left -= 1
                if ahead is not None:
                    ahead -= 1
            self.cycle += 1
        return self.cycle - 1


@dataclass
class Result:
    """What a run leaves: memories, times and what was watched, indices being those of the program."""

    dram: bytearray = field(default_factory=bytearray)
    issue: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    stalls: list[dict[int, int]] = field(default_factory=list)  # for each instruction: source → cycles
    sums: dict[int, Sums] = field(default_factory=dict)  # by label
    spans: list[tuple[int, int] | None] = field(default_factory=list)  # COMPUTE: first and last cycle of the array

    @property
    def cycles(self) -> int:
        return max(self.done, default=-1) + 1


class SecondMachine:
    """One program directory and the machine it was compiled for."""

    def __init__(self, directory: Path) -> None:
        program, dram = (directory / "program.bin").read_bytes(), (directory / "dram.bin").read_bytes()
        text = (directory / "program.json").read_bytes()
        hardware = json.loads(text)["hardware"]
        magic, isa, timing, count, modes, _ = struct.unpack("<8sHHI8s8s", program[:32])
        described = {key: value for key, value in hardware.items() if key not in ("name", "clock_mhz", "supports")}
        fingerprint = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).digest()
        whole = hashlib.sha256(program[:128] + bytes(32) + program[160:]).digest()
        assert (magic, isa, timing, len(program)) == (b"ACCELSIM", 1, 2, 192 + 64 * count)
        assert program[32:64] == fingerprint
        assert program[64:128] == hashlib.sha256(dram).digest() + hashlib.sha256(text).digest()
        assert program[128:192] == whole + bytes(32)
        self.modes = Modes(*modes)
        self.instructions = [decode(program[192 + 64 * n : 256 + 64 * n]) for n in range(count)]
        array, accumulator = hardware["array"], hardware["accumulator"]
        self.R, self.C, self.W = array["rows"], array["columns"], accumulator["width_bits"]
        self.W_p = array.get("psum_bits") or self.W
        self.mac, self.interval = array["mac_latency_cycles"], array["mac_interval_cycles"]
        self.add = array.get("add_latency_cycles") or self.mac
        self.wraps, self.at_end = accumulator["overflow"] == "wrap", accumulator["saturate_at"] == "end"
        self.B, self.latency = hardware["dram"]["bandwidth_bytes_per_cycle"], hardware["dram"]["latency_cycles"]
        opens = hardware["dram"]["model"] == "open_rows"
        self.channels = {unit: OpenRows(hardware["dram"]) for unit in (LOAD, STORE)} if opens else {}
        depth = 8 * accumulator["memory_bytes"] // (self.C * self.W)
        self.accumulator = [[0] * self.C for _ in range(depth)]
        names = ("activation", "weight", "parameter", "table")
        self.buffers = [bytearray(hardware[name]["memory_bytes"]) for name in names]
        self.result = Result(dram=bytearray(dram))

    def run(self) -> Result:
        """Times first; then values, each instruction at the instant of its issue."""
        self.time()
        execute = (self.load, self.compute, self.post, self.store)
        for n in sorted(range(len(self.instructions)), key=lambda n: (self.result.issue[n], n)):
            execute[self.instructions[n].unit](self.instructions[n])
        return self.result

    # --- time -------------------------------------------------------------------------------------------------------

    def time(self) -> None:
        """Each unit's queue in order; an instruction has its place as soon as the tokens it takes have a time."""
        size = len(self.instructions)
        result = self.result
        result.issue, result.done, result.stalls = [0] * size, [0] * size, [{} for _ in range(size)]
        result.spans = [None] * size
        queues = [[n for n in range(size) if self.instructions[n].unit == unit] for unit in range(4)]
        given = {(a, b): [] for a in range(4) for b in range(4)}  # the cycles tokens are given in
        place, taken, free = [0] * 4, Counter(), [0] * 4
        self.previous = None  # the last COMPUTE tile: section 4.2 to 4.4
        progress = True
        while progress:
            progress = False
            for unit in range(4):
                while place[unit] < len(queues[unit]):
                    n = queues[unit][place[unit]]
                    this = self.instructions[n]
                    sources = [a for a in range(4) if this.wait >> a & 1]
                    if any(taken[a, unit] >= len(given[a, unit]) for a in sources):
                        break
                    now = self.earliest_compute(this) if unit == COMPUTE else free[unit]
                    for a in sources:
                        there = given[a, unit][taken[a, unit]] + 1
                        taken[a, unit] += 1
                        if there > now:
                            result.stalls[n][a] = there - now
                            now = there
                    result.issue[n], result.done[n] = now, self.finish(n, this, now)
                    free[unit] = result.done[n] + 1
                    for b in range(4):
                        if this.signal >> b & 1:
                            given[unit, b].append(result.done[n])
                    place[unit] += 1
                    progress = True
        assert all(place[unit] == len(queues[unit]) for unit in range(4)), "deadlock"

    def finish(self, n: int, this: SimpleNamespace, issue: int) -> int:
        """The cycle at whose end the last write of an instruction happens."""
        if this.unit in (LOAD, STORE):
            if self.channels:
                return self.channels[this.unit].done(this, issue)
            return issue + self.latency + this.rows * -(-this.row_bytes // self.B) - 1
        if this.unit == COMPUTE:
            first, done, last_wave = (self.os_tiles if this.output_stationary else self.ws_tiles)(this, issue)
            self.result.spans[n] = (first, last_wave)
            return done
        records = 1 if this.broadcast else this.lanes * (2 if this.residual_on else 1)
        reads = 2 if this.residual_on and this.source else 1
        words = this.images * this.y_count * this.x_count
        return issue + records + words * this.r_count * this.s_count * reads + D_POST - 1

    def earliest_compute(self, this: SimpleNamespace) -> int:
        """The first cycle in which the COMPUTE before lets this one issue."""
        last = self.previous
        if last is None:
            return 0
        if last.output_stationary != this.output_stationary:
            return max(last.done + 1, last.T + last.slots)
        if not this.output_stationary:
            return last.next_load
        issue = last.T + last.slots
        if this.start == _ZERO:
            return max(issue, last.next_T)
        issue = max(issue, last.next_T - self.R)
        return max(issue, last.done + 1) if this.start == _ACCUMULATE else issue

    def ws_tiles(self, this: SimpleNamespace, issue: int) -> tuple[int, int, int]:
        """Section 4.2 tile by tile: L and T of each, and the earliest load of the next."""
        M, R, C = this.images * this.y_count * this.x_count, self.R, self.C
        wave = self.add * (R - 1) + (C - 1) + self.mac - 1
        next_load, stream_free = issue, 0
        if self.previous is not None and not self.previous.output_stationary:
            stream_free = self.previous.T + self.previous.slots
        for _ in self.tiles(this):
            L = next_load
            T = max(L + R, stream_free)
            stream_free = T + M * self.interval
            last_wave = T + (M - 1) * self.interval + wave
            next_load = max(L + R, T + (self.add - 1) * (R - 1), last_wave + 1 if this.serial else 0)
        done = last_wave + D_ACC
        slots = M * self.interval
        self.previous = SimpleNamespace(output_stationary=0, T=T, slots=slots, next_load=next_load, done=done)
        return issue, done, last_wave

    def os_tiles(self, this: SimpleNamespace, issue: int) -> tuple[int, int, int]:
        """Section 4.3 tile by tile."""
        M, R, C = this.images * this.y_count * this.x_count, self.R, self.C
        pieces = self.tiles(this)
        step = max(self.interval, self.add)
        slots = len(pieces) * R * step
        steps = (len(pieces) - 1) * R + pieces[-1][3]
        products = (steps - 1) * step + self.mac
        D = (max(R, steps) - 1) * step + self.mac
        next_T = issue if this.start == _ZERO else issue + R
        for _ in range(-(-M // R)):
            T = next_T
            next_T = T + (max(slots, products + R + C - 2) if this.serial else slots)
        done = T + D - 1 + 2 * R + C - 1
        self.previous = SimpleNamespace(output_stationary=1, T=T, slots=slots, next_T=next_T, done=done)
        return issue, done, T + products - 1 + (R - 1) + (C - 1)

    # --- values -----------------------------------------------------------------------------------------------------

    def load(self, this: SimpleNamespace) -> None:
        self.copy(this, self.result.dram, self.buffers[this.memory], to_dram=False)

    def store(self, this: SimpleNamespace) -> None:
        self.copy(this, self.result.dram, self.buffers[0], to_dram=True)

    @staticmethod
    def copy(this: SimpleNamespace, dram: bytearray, buffer: bytearray, *, to_dram: bool) -> None:
        for row in range(this.rows):
            for byte in range(this.row_bytes):
                outside = this.dram_address + row * this.dram_step + byte
                inside = this.buffer_address + row * this.buffer_step + byte
                assert outside >= 0
                assert inside >= 0
                if to_dram:
                    dram[outside] = buffer[inside]
                else:
                    buffer[inside] = dram[outside]

    def tiles(self, this: SimpleNamespace) -> list[tuple[int, int, int, int]]:
        """(r, s, chunk, length) of each tile or piece, in order."""
        R, run = self.R, this.run_bytes
        return [
            (r, s, q, min(R, run - R * q))
            for r in range(this.r_count)
            for s in range(this.s_count)
            for q in range(-(-run // R))
        ]

    @staticmethod
    def words(this: SimpleNamespace) -> list[tuple[int, int, int]]:
        """(image, y, x) of each word."""
        return [(image, y, x) for image in range(this.images) for y in range(this.y_count) for x in range(this.x_count)]

    def byte(self, address: int, unsigned: int) -> int:
        """One activation."""
        assert address >= 0
        value = self.buffers[0][address]
        return value if unsigned else signed(value, 8)

    def record(self, n: int) -> tuple[int, int, int]:
        """Bias, shift and multiplier of a parameter record."""
        return struct.unpack_from("<ib3xq", self.buffers[2], 16 * n)

    def operands(self, this: SimpleNamespace, word: tuple[int, int, int], tile: tuple[int, int, int, int]) -> list[int]:
        """The activations of one tile's lanes, padding and zero points applied."""
        image, y, x = word
        r, s, q, length = tile
        first = this.act_base + image * this.image_step + y * this.y_step + x * this.x_step
        first += r * this.r_step + s * this.s_step + self.R * q
        position = this.x_first + x * this.x_step + s * this.s_step + self.R * q
        row_inside = 0 <= this.y_first + y * this.stride_y + r * this.dilation_y < this.in_height
        loss = this.z_x if self.modes.subtracted else 0
        padding = 0 if self.modes.subtracted else this.z_x
        return [
            self.byte(first + lane, this.act_unsigned) - loss
            if row_inside and 0 <= position + lane < this.in_row_bytes
            else padding
            for lane in range(length)
        ]

    def weight_row(self, this: SimpleNamespace, k: int) -> list[int]:
        """The operands of all lanes in weight row k."""
        bits = this.weight_bits
        row_bytes = -(-this.lanes * bits // 8)
        first = this.weight_base + k * row_bytes
        assert first + row_bytes <= len(self.buffers[1])
        packed = int.from_bytes(self.buffers[1][first : first + row_bytes], "little")
        codes = [packed >> lane * bits & ((1 << bits) - 1) for lane in range(this.lanes)]
        loss = this.z_w if self.modes.subtracted else 0
        return [(code if this.weight_unsigned else signed(code, bits)) - loss for code in codes]

    def compute(self, this: SimpleNamespace) -> None:
        sums = self.result.sums.setdefault(this.label, Sums())
        array = Adder(None if self.at_end else min(self.W_p, this.width), self.wraps, sums)
        memory = Adder(None if self.at_end else this.width, self.wraps, sums)
        biases = [0] * this.lanes
        if this.start == _BIAS:
            biases = [self.record(this.param + lane)[0] for lane in range(this.lanes)]
        (self.compute_os if this.output_stationary else self.compute_ws)(this, array, memory, biases)
        if self.at_end and this.last:
            fitting = Adder(this.width, self.wraps, Sums())
            for word in range(this.images * this.y_count * this.x_count):
                stored = self.accumulator[this.acc_base + word]
                for lane in range(this.lanes):
                    exact = stored[lane]
                    stored[lane] = fitting.fit(exact)
                    sums.overflows += stored[lane] != exact

    def compute_ws(self, this: SimpleNamespace, array: Adder, memory: Adder, biases: list[int]) -> None:
        """Section 4.2: each tile's partial sums start at 0 and are added to the accumulator memory."""
        words = self.words(this)
        for number, tile in enumerate(self.tiles(this)):
            r, s, q, length = tile
            base = r * this.s_count + s
            if this.diagonal:
                rows = [self.weight_row(this, base)]
            else:
                rows = [self.weight_row(this, base * this.run_bytes + self.R * q + i) for i in range(length)]
            for m, word in enumerate(words):
                operands = self.operands(this, word, tile)
                stored = self.accumulator[this.acc_base + m]
                for lane in range(this.lanes):
                    partial = 0
                    if this.diagonal:
                        partial = array.add(partial, operands[lane] * rows[0][lane])
                    else:
                        for operand, row in zip(operands, rows, strict=True):
                            partial = array.add(partial, operand * row[lane])
                    if number == 0 and this.start == _ZERO:
                        stored[lane] = memory.add(0, partial)
                    elif number == 0 and this.start == _BIAS:
                        start = memory.fit(biases[lane])
                        memory.sums.see(start)
                        stored[lane] = memory.add(start, partial)
                    else:
                        stored[lane] = memory.add(stored[lane], partial)

    def compute_os(self, this: SimpleNamespace, array: Adder, memory: Adder, biases: list[int]) -> None:
        """Section 4.3: one sum for each output stays where it is."""
        for m, word in enumerate(self.words(this)):
            stored = self.accumulator[this.acc_base + m]
            current = [0] * this.lanes
            if this.start != _ZERO:
                current = [array.fit(v) for v in (stored[: this.lanes] if this.start == _ACCUMULATE else biases)]
            if this.start == _BIAS:
                for value in current:
                    array.sums.see(value)
            for tile in self.tiles(this):
                r, s, q, _ = tile
                k = (r * this.s_count + s) * this.run_bytes + self.R * q
                for i, operand in enumerate(self.operands(this, word, tile)):
                    row = self.weight_row(this, k + i)
                    current = [array.add(v, operand * weight) for v, weight in zip(current, row, strict=True)]
            stored[: this.lanes] = current

    def post(self, this: SimpleNamespace) -> None:
        """Section 6, word by word and lane by lane."""
        low = self.modes.limits[0]
        pool = HALF_AWAY if self.modes.rounding == TFLITE_DOUBLE else self.modes.rounding
        for number, (image, y, x) in enumerate(self.words(this)):
            to = image * this.dst_image_step + y * this.dst_y_step + x * this.dst_x_step
            codes = []
            for lane in range(this.lanes):
                inside = self.window(this, image, y, x, lane)
                if this.reduce == _NONE:
                    v = inside[0] if inside else 0
                elif this.reduce == _MAX:
                    v = max(inside, default=-65536)
                else:
                    count = this.r_count * this.s_count if this.count_padding else len(inside)
                    v = rounded(sum(inside), count, pool) if inside else 0
                bias, shift, multiplier = self.record(this.param + (number if this.broadcast else lane))
                value = self.modes.requantise(v + bias, multiplier, shift)
                if this.residual_on:
                    _, shift, multiplier = self.record(this.param + this.lanes + lane)
                    code = self.byte(this.residual_base + to + lane, this.act_unsigned)
                    value += self.modes.requantise(code - this.z_residual, multiplier, shift)
                u = self.modes.output(value + this.z_dst, this.qmin, this.qmax)
                codes.append(self.buffers[3][256 * this.table + u - low] if this.table_on else u & 0xFF)
            assert this.dst_base + to >= 0
            assert this.dst_base + to + this.lanes <= len(self.buffers[0])
            self.buffers[0][this.dst_base + to : this.dst_base + to + this.lanes] = bytes(codes)

    def window(self, this: SimpleNamespace, image: int, y: int, x: int, lane: int) -> list[int]:
        """The source values of one lane that lie inside."""
        values = []
        for r in range(this.r_count):
            for s in range(this.s_count):
                at = this.src_base + image * this.src_image_step + y * this.src_y_step + x * this.src_x_step
                at += r * this.r_step + s * this.s_step
                if not this.source:
                    values.append(self.accumulator[at][lane])
                    continue
                position = this.x_first + x * this.src_x_step + s * this.s_step + lane
                row = this.y_first + y * this.stride_y + r
                if 0 <= position < this.in_row_bytes and 0 <= row < this.in_height:
                    values.append(self.byte(at + lane, this.act_unsigned) - this.z_src)
        return values
