"""A matrix product on the array, cycle by cycle: which operand is in which register, and what every PE adds.

All values are the register-level grid's (`accelsim.machine.pe_grid`). The grid moves numbers and does not know which
operand they are; that is followed here, by delaying what the ports read by as many cycles as there are registers on
the way, and every number found is compared with the operand it should be.

A box shows what its register takes at the end of the cycle, as the worked cases of docs/microarchitecture.md do: an
operand is in one place at a time, and a PE shows the sum that it forms in this cycle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from accelsim.isa import Compute, pack_rows
from accelsim.machine import pe_grid
from accelsim.machine.pe_grid import FIRST, LAST, GridConfig, Registers, Wires

Int64 = npt.NDArray[np.int64]
Dataflow = Literal["ws", "os"]


@dataclass(frozen=True, kw_only=True)
class Product:
    """What is computed, and the array that computes it.

    Attributes:
        activations: int64 (M, K), -128..127.
        weights: int64 (K, N), -128..127; N above the columns takes several COMPUTEs.
        array: its shape and its additions.
        width_bits: of the accumulator memory, at least `array.psum_bits`.
    """

    activations: Int64
    weights: Int64
    array: GridConfig
    width_bits: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """M, K and N."""
        return *self.activations.shape, self.weights.shape[1]

    @property
    def exact(self) -> Int64:
        """int64 (M, N), the product without any fitting."""
        return self.activations @ self.weights

    def computes(self, dataflow: Dataflow) -> list[Compute]:
        """One COMPUTE for each block of at most C columns of the weights."""
        m, k, n = self.shape
        return [
            Compute(
                act_base=0,
                weight_base=k * first,
                width=self.width_bits,
                acc_base=block * m,
                lanes=min(self.array.columns, n - first),
                run_bytes=k,
                x_count=m,
                x_step=k,
                in_row_bytes=m * k,
                output_stationary=int(dataflow == "os"),
            )
            for block, first in enumerate(range(0, n, self.array.columns))
        ]


@dataclass(kw_only=True)
class Tile:
    """What the array works off at a time: ws, a chunk of K for all words; os, all of K for at most R words.

    Attributes:
        block: number of the COMPUTE.
        first_k, length: its positions of K.
        first_word, words: its words.
        first_n, lanes: its columns of the weights.
        load, stream: L and T, the cycles of its first weight load (ws) and its first activation word.
    """

    block: int
    first_k: int
    length: int
    first_word: int
    words: int
    first_n: int
    lanes: int
    load: int | None = None
    stream: int | None = None


class Token(NamedTuple):
    """One number in one place.

    Attributes:
        kind: "a" an activation X[row, column], "w" a weight W[row, column], "s" a sum of Y[row, column], "d" one on
            its way out (os).
        place: "X.i.r" and "T.j.r", skew register r of row i and of column j; "P.i.j", "W.i.j", "H.i.j" and "D.i.j",
            activation or sum, weight, shadow and drain register of PE(i, j); "L.j.r", deskew register r of column j;
            "A.j", the register of what has arrived; "M.a.j", accumulator word a.
        tile: whose.
        before, exact: of an addition in this cycle, the sum before it and after it without fitting.
    """

    kind: str
    place: str
    tile: int
    row: int
    column: int
    value: int
    before: int | None = None
    exact: int | None = None

    @property
    def overflows(self) -> bool:
        """Whether fitting has changed the sum."""
        return self.exact is not None and self.exact != self.value


class Fetch(NamedTuple):
    """What the activation port works for; position: ws, the word; os, the byte of row 0's piece."""

    tile: int
    piece: int
    position: int


class Load(NamedTuple):
    """The weight row that the weight port works for (ws)."""

    tile: int
    row: int


class Word(NamedTuple):
    """os: the word register of a row: X[m, first_k ...], and the byte its first PE uses; None, none."""

    m: int
    first_k: int
    values: list[int]
    byte: int | None


@dataclass(kw_only=True)
class Frame:
    """One cycle.

    Attributes:
        words: os, of each row; None where a row is idle.
        write: the accumulator word written, if one is.
        weight_read, word_read: whether the weight buffer gives a row, and the activation buffer a word.
        macs, overflows: so far, this cycle included.
    """

    cycle: int
    load: Load | None
    fetch: Fetch | None
    tokens: list[Token]
    switched: list[tuple[int, int]]
    words: list[Word | None]
    write: int | None
    macs: int
    overflows: int
    weight_read: bool
    word_read: bool

    def at(self, place: str, kind: str) -> Token | None:
        """The token of a kind in a place."""
        return next((token for token in self.tokens if token.place == place and token.kind == kind), None)


@dataclass(kw_only=True)
class Recording:
    """A product on the array with one dataflow.

    Attributes:
        result: int64 (M, N), what the accumulator memory holds at the end.
        overflows: additions whose exact result did not fit.
    """

    product: Product
    dataflow: Dataflow
    tiles: list[Tile]
    frames: list[Frame]
    result: Int64
    overflows: int


def record(product: Product, dataflow: Dataflow) -> Recording:
    """Step the product through the register-level grid and follow its operands.

    Raises:
        RuntimeError: a register holds another number than the operand followed to it: an error of ours.
    """
    computes = product.computes(dataflow)
    (m, _, n), array = product.shape, product.array
    recorder = _Recorder(product, dataflow)
    run = pe_grid.run(
        computes,
        array,
        activation=product.activations.astype(np.int8).view(np.uint8).ravel(),
        weight=np.concatenate(
            [pack_rows(product.weights[:, c : c + array.columns], 8).ravel() for c in range(0, n, array.columns)]
        ),
        accumulators=np.zeros((m * len(computes), array.columns), dtype=np.int64),
        bias=np.zeros(0, dtype=np.int64),
        probe=recorder.see,
    )
    blocks = run.accumulators.reshape(len(computes), m, array.columns)
    if recorder.overflows != run.overflows or recorder.macs != run.captures["mul"]:
        raise RuntimeError("animation: what is shown is not all that the grid has added")
    return Recording(
        product=product,
        dataflow=dataflow,
        tiles=recorder.tiles,
        frames=recorder.frames,
        result=np.concatenate(list(blocks), axis=1)[:, :n],
        overflows=run.overflows,
    )


def _tiles(product: Product, dataflow: Dataflow) -> list[Tile]:
    (m, k, n), rows, columns = product.shape, product.array.rows, product.array.columns
    tiles = []
    for block, first_n in enumerate(range(0, n, columns)):
        lanes = min(columns, n - first_n)
        for first in range(0, k if dataflow == "ws" else m, rows):
            if dataflow == "ws":
                part = {"first_k": first, "length": min(rows, k - first), "first_word": 0, "words": m}
            else:
                part = {"first_k": 0, "length": k, "first_word": first, "words": min(rows, m - first)}
            tiles.append(Tile(block=block, first_n=first_n, lanes=lanes, **part))
    return tiles


@dataclass
class _Recorder:
    """Follows the operands while the grid steps."""

    product: Product
    dataflow: Dataflow
    frames: list[Frame] = field(default_factory=list)
    macs: int = 0
    overflows: int = 0

    def __post_init__(self) -> None:
        self.tiles = _tiles(self.product, self.dataflow)
        rows, columns = self.product.array.rows, self.product.array.columns
        self._rows, self._columns = rows, columns
        self._fetched: list[Fetch | None] = []
        self._loaded: list[Load | None] = []
        # Whose what is: tiles of shadows and weights (ws), words of sums in drain registers (os) and deskew lines.
        self._shadow: dict[tuple[int, int], int] = {}
        self._weight: dict[tuple[int, int], int] = {}
        self._drain: dict[tuple[int, int], int] = {}
        self._deskew: dict[tuple[int, int], int] = {}

    def see(self, cycle: int, registers: Registers, wires: Wires) -> None:
        """The grid's probe: one frame."""
        now = _Now(registers, wires)
        fetch = Fetch(*(now.number(f"fetch.{name}") for name in Fetch._fields)) if "fetch.tile" in wires else None
        load = Load(*(now.number(f"load.{name}") for name in Load._fields)) if "load.tile" in wires else None
        self._fetched.append(fetch)
        self._loaded.append(load)
        if fetch is not None and self.tiles[fetch.tile].stream is None:
            self.tiles[fetch.tile].stream = cycle
        if load is not None and self.tiles[load.tile].load is None:
            self.tiles[load.tile].load = cycle
        tokens, switched, words = [], [], []
        if self.dataflow == "ws":
            switched = self._switch(now)
            tokens += self._skewed_activations(now) + self._held_weights(now)
        else:
            words = self._words(now)
        tokens += self._skewed_weights(now) + self._operands(now) + self._sums(now)
        if self.dataflow == "os":
            tokens += self._drained(now)
        tokens += self._leaving(now)
        tokens += self._arrived(now) + self._written(now)
        self.macs += int(np.count_nonzero(now.wire("pe.on"))) if "pe.on" in wires else 0
        self.overflows += sum(token.overflows for token in tokens)
        self.frames.append(
            Frame(
                cycle=cycle,
                load=load,
                fetch=fetch,
                tokens=tokens,
                switched=switched,
                words=words,
                write=now.number("write.address") if "write.address" in wires else None,
                macs=self.macs,
                overflows=self.overflows,
                **self._ports(load, fetch),
            )
        )

    def _ports(self, load: Load | None, fetch: Fetch | None) -> dict[str, bool]:
        """Which buffers are read; both ports may be held without a read."""
        if self.dataflow == "ws":
            weight = load is not None and load.row < self.tiles[load.tile].length
            return {"weight_read": weight, "word_read": fetch is not None}
        if fetch is None:
            return {"weight_read": False, "word_read": False}
        left = self.product.shape[1] - fetch.piece * self._rows
        # Row i reads i cycles after row 0: in this cycle, the row of the number of row 0's byte.
        return {"weight_read": fetch.position < left, "word_read": fetch.position < self.tiles[fetch.tile].words}

    # --- operands ------------------------------------------------------------------------------------------

    def _fetch(self, late: int) -> Fetch | None:
        """What was fetched so many cycles ago; it is now so many registers away."""
        return self._fetched[-1 - late] if late < len(self._fetched) else None

    def _activation(self, place: str, row: int, fetch: Fetch, value: int) -> Token:
        tile = self.tiles[fetch.tile]
        if self.dataflow == "ws":
            m, k = fetch.position, tile.first_k + row
        else:
            m, k = tile.first_word + row, fetch.piece * self._rows + fetch.position
        self._check(value, int(self.product.activations[m, k]), place)
        return Token("a", place, fetch.tile, m, k, value)

    def _weight_token(self, place: str, tile: int, k: int, lane: int, value: int) -> Token:
        n = self.tiles[tile].first_n + lane
        self._check(value, int(self.product.weights[k, n]), place)
        return Token("w", place, tile, k, n, value)

    def _check(self, value: int, operand: int, place: str) -> None:
        if value != operand:
            raise RuntimeError(f"animation: {place} holds {value} in cycle {len(self.frames)}, not {operand}")

    def _skewed_activations(self, now: _Now) -> list[Token]:
        tokens = []
        for i in range(self._rows):
            for r in range(i):
                fetch = self._fetch(r)
                if fetch is not None and now.register("skew.activation_wave")[r, i] >= 0:
                    value = int(now.register("skew.activation")[r, i])
                    tokens.append(self._activation(f"X.{i}.{r}", i, fetch, value))
        return tokens

    def _skewed_weights(self, now: _Now) -> list[Token]:
        tokens = []
        for j in range(self._columns):
            for r in range(j):
                row = int(now.register("skew.weight_row")[r, j])
                if not 0 <= row < self._rows:
                    continue  # empty, or control of a gated PE
                value = int(now.register("skew.weight")[r, j])
                load, fetch = self._loaded[-1 - r], self._fetched[-1 - r]
                if self.dataflow == "ws" and load is not None:
                    k = self.tiles[load.tile].first_k + load.row
                    tokens.append(self._weight_token(f"T.{j}.{r}", load.tile, k, j, value))
                elif self.dataflow == "os" and fetch is not None:
                    k = fetch.piece * self._rows + fetch.position
                    tokens.append(self._weight_token(f"T.{j}.{r}", fetch.tile, k, j, value))
        return tokens

    def _switch(self, now: _Now) -> list[tuple[int, int]]:
        """Shadows become weights where a tile's first word is, then shadows take what comes."""
        flags, wave = now.register("pe.flags"), now.register("pe.wave")
        switched = []
        for i, j in np.argwhere((wave >= 0) & (flags & FIRST > 0)).tolist():
            self._weight.pop((i, j), None)
            if (i, j) in self._shadow:
                self._weight[i, j] = self._shadow.pop((i, j))
                switched.append((i, j))
        for j in range(self._columns):
            load = self._loaded[-1 - j] if j < len(self._loaded) else None
            if load is not None:
                tile = self.tiles[load.tile]
                self._shadow.pop((load.row, j), None)
                if load.row < tile.length and j < tile.lanes:
                    self._shadow[load.row, j] = load.tile
        return switched

    def _held_weights(self, now: _Now) -> list[Token]:
        return [
            self._weight_token(f"{zone}.{i}.{j}", tile, self.tiles[tile].first_k + i, j, int(now.register(name)[i, j]))
            for zone, name, held in (("W", "pe.weight", self._weight), ("H", "pe.shadow", self._shadow))
            for (i, j), tile in sorted(held.items())
        ]

    def _words(self, now: _Now) -> list[Word | None]:
        """os: the word registers; a row's control is as many cycles late as its number."""
        words: list[Word | None] = []
        for i in range(self._rows):
            fetch = self._fetch(i)
            if fetch is None or i >= self.tiles[fetch.tile].words:
                words.append(None)
                continue
            first = fetch.piece * self._rows
            length = min(self._rows, self.product.shape[1] - first)
            m = self.tiles[fetch.tile].first_word + i
            values = now.register("row.word")[i, :length].tolist()
            for b, value in enumerate(values):
                self._check(value, int(self.product.activations[m, first + b]), f"row {i}, byte {b}")
            words.append(Word(m, first, values, fetch.position if fetch.position < length else None))
        return words

    # --- PEs -----------------------------------------------------------------------------------------------

    def _operands(self, now: _Now) -> list[Token]:
        """Activations where they are used, and in os the weights."""
        if "pe.on" not in now.wires:
            return []
        tokens = []
        for i, j in np.argwhere(now.wire("pe.on")).tolist():
            fetch = self._fetch(i + j)
            if fetch is None:
                raise RuntimeError(f"animation: PE({i}, {j}) adds in cycle {len(self.frames)}, yet nothing was read")
            tokens.append(self._activation(f"P.{i}.{j}", i, fetch, int(now.wire("pe.activation")[i, j])))
            weight = int(now.wire("pe.weight")[i, j])
            if self.dataflow == "os":
                k = fetch.piece * self._rows + fetch.position
                tokens.append(self._weight_token(f"W.{i}.{j}", fetch.tile, k, j, weight))
            else:
                self._check(weight, int(now.register("pe.weight")[i, j]), f"PE({i}, {j})")
        return tokens

    def _sums(self, now: _Now) -> list[Token]:
        """ws, sums on their way down, also through rows without a weight; os, sums that stay."""
        tokens = []
        wave = now.register("pe.wave")
        for i, j in np.argwhere(wave >= 0).tolist():
            number = int(wave[i, j])
            tile, fetch = self.tiles[number], self._fetch(i + j)
            if j >= tile.lanes or (self.dataflow == "os" and i >= tile.words):
                continue
            m = tile.first_word + i
            if self.dataflow == "ws" and fetch is not None:
                m = fetch.position
            value, place = int(now.register("pe.psum")[i, j]), f"P.{i}.{j}"
            if "pe.on" in now.wires and now.wire("pe.on")[i, j]:
                before, exact = (int(now.wire(f"pe.{name}")[i, j]) for name in ("psum", "exact"))
                tokens.append(Token("s", place, number, m, tile.first_n + j, value, before, exact))
            else:
                tokens.append(Token("s", place, number, m, tile.first_n + j, value))
        return tokens

    def _drained(self, now: _Now) -> list[Token]:
        """os: finished sums, from their PE's drain register down."""
        wave, moves = now.register("pe.drain_wave"), now.register("pe.drain_moves")
        last = (now.register("pe.wave") >= 0) & (now.register("pe.flags") & LAST > 0)
        before, self._drain = self._drain, {}
        self._bottom = {j: before[i, j] for i, j in before if i == self._rows - 1}
        tokens = []
        for i, j in np.argwhere(wave >= 0).tolist():
            number = int(wave[i, j])
            if last[i, j]:
                m = self.tiles[number].first_word + i
            else:
                m = before[i - 1, j] if moves[i, j] else before[i, j]
            self._drain[i, j] = m
            value = int(now.register("pe.drain")[i, j])
            tokens.append(Token("d", f"D.{i}.{j}", number, m, self.tiles[number].first_n + j, value))
        return tokens

    # --- below the array -----------------------------------------------------------------------------------

    def _leaving(self, now: _Now) -> list[Token]:
        """Sums in the deskew registers."""
        wave, before = now.register("deskew.wave"), self._deskew
        self._deskew = {}
        kind, tokens = "s" if self.dataflow == "ws" else "d", []
        for j in range(self._columns):
            for r in range(self._columns - 1 - j):
                if wave[r, j] < 0:
                    continue
                if r:
                    m = before[r - 1, j]
                elif self.dataflow == "os":
                    m = self._bottom[j]
                else:
                    fetch = self._fetch(self._rows + j)
                    if fetch is None:
                        raise RuntimeError("animation: a sum leaves the array, yet nothing was read")
                    m = fetch.position
                self._deskew[r, j] = m
                number = int(wave[r, j])
                value = int(now.register("deskew.psum")[r, j])
                tokens.append(Token(kind, f"L.{j}.{r}", number, m, self.tiles[number].first_n + j, value))
        return tokens

    def _arrived(self, now: _Now) -> list[Token]:
        """The word that has arrived whole."""
        number = now.number("accumulator.wave")
        if number < 0:
            return []
        tile, kind = self.tiles[number], "s" if self.dataflow == "ws" else "d"
        m = now.number("accumulator.address") - tile.block * self.product.shape[0]
        psum = now.register("accumulator.psum")
        return [Token(kind, f"A.{j}", number, m, tile.first_n + j, int(psum[j])) for j in range(tile.lanes)]

    def _written(self, now: _Now) -> list[Token]:
        """The word that the accumulator memory writes."""
        if "write.tile" not in now.wires:
            return []
        number, address = now.number("write.tile"), now.number("write.address")
        tile, kind = self.tiles[number], "s" if self.dataflow == "ws" else "d"
        m = address - tile.block * self.product.shape[0]
        operand, psum, result = (now.wire(f"write.{name}") for name in ("operand", "sum", "result"))
        return [
            Token(
                kind, f"M.{address}.{j}", number, m, tile.first_n + j,
                int(result[j]), int(operand[j]), int(operand[j] + psum[j]),
            )
            for j in range(tile.lanes)
        ]  # fmt: skip


class _Now(NamedTuple):
    """What the grid shows of a cycle, typed."""

    registers: Registers
    wires: Wires

    def register(self, name: str) -> Int64:
        return np.asarray(self.registers[name], dtype=np.int64)

    def wire(self, name: str) -> Any:
        return np.asarray(self.wires[name])

    def number(self, name: str) -> int:
        found = self.wires[name] if name in self.wires else self.registers[name]
        return int(found)
