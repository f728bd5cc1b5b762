"""What happens in a cycle of the array, in words, each with the rule of docs/microarchitecture.md that says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from accelsim.report.animation_frames import Frame, Recording, Tile, Token

MOST_NAMED = 3
"""Overflows or PEs named in one sentence; the others are counted."""
OVERFLOW_RULE = "numerics.md, 2.2 The add"


class Caption(NamedTuple):
    """One thing that happens.

    Attributes:
        part: what it is about, which decides its colour: "load", "stream", "switch", "add", "overflow", "drain",
            "write", "wait" or "end".
        text: one or two sentences.
        rule: where docs/microarchitecture.md says so, and the cycle by that rule; empty for the end.
    """

    part: str
    text: str
    rule: str


def captions(recording: Recording, frame: Frame) -> list[Caption]:
    """What happens in a frame, in the order data flow."""
    found = list(
        _weight_stationary(recording, frame) if recording.dataflow == "ws" else _output_stationary(recording, frame)
    )
    if frame is recording.frames[-1]:
        found.append(_end(recording))
    return found


def compared(recording: Recording, recordings: Sequence[Recording]) -> list[Caption]:
    """For the end: where another dataflow gives other results of the same product."""
    found = []
    for other in recordings:
        differing = int((recording.result != other.result).sum())
        if differing:
            name = {"ws": "weight-stationary", "os": "output-stationary"}[other.dataflow]
            found.append(
                Caption(
                    "end",
                    f"The {name} array gives another result in {differing} of {recording.result.size} places: once "
                    "sums overflow, the order of additions is part of the result.",
                    "9.10 Overflow",
                )
            )
    return found


def number(value: int) -> str:
    """With a true minus sign."""
    return f"−{-value}" if value < 0 else str(value)


# --- weight stationary -------------------------------------------------------------------------------------


def _weight_stationary(recording: Recording, frame: Frame) -> Iterator[Caption]:
    t, tiles = frame.cycle, recording.tiles
    rows = recording.product.array.rows
    if frame.load is not None:
        q, i = frame.load
        rule = f"4.2 Load: L{_sub(q)} + i = {_first(tiles[q].load)} + {i} = {t}"
        if i < tiles[q].length:
            weights = _slice("W", tiles[q].first_k + i, tiles[q].first_n, tiles[q].lanes)
            text = f"Weight row {i} of tile {q}, {weights}, is read; lane j reaches its shadow register j cycles later."
        else:
            text = f"Tile {q} has {tiles[q].length} weight rows, the array {rows}: row {i}'s PEs are gated."
        yield Caption("load", text, rule)
    elif waiting := _waiting(tiles, t, "load"):
        q, next_ = waiting
        yield Caption(
            "wait",
            f"The weight port waits: the shadows hold tile {q - 1} until its first word enters in cycle {next_}.",
            f"4.2 Load: L{_sub(q)} = max(L{_sub(q - 1)} + R, T{_sub(q - 1)}) = "
            f"max({_first(tiles[q - 1].load) + rows}, {_first(tiles[q - 1].stream)}) = {next_}",
        )
    if frame.fetch is not None:
        q, _, m = frame.fetch
        yield Caption(
            "stream",
            f"Word {m} of tile {q}, {_slice('X', m, tiles[q].first_k, tiles[q].length)}, enters; lane i waits in i "
            "skew registers, to meet the sum from above.",
            f"4.2 Stream: T{_sub(q)} + m = {_first(tiles[q].stream)} + {m} = {t}",
        )
    elif waiting := _waiting(tiles, t, "stream"):
        q, next_ = waiting
        load = _first(tiles[q].load)
        text = f"No word enters: tile {q}'s weights are complete in cycle {next_}."
        if q:
            free = _first(tiles[q - 1].stream) + tiles[q - 1].words
            rule = f"T{_sub(q)} = max(L{_sub(q)} + R, T{_sub(q - 1)} + M) = max({load + rows}, {free}) = {next_}"
        else:
            rule = f"T₀ = L₀ + R = {load} + {rows} = {next_}"
        yield Caption("wait", text, f"4.2 Stream: {rule}")
    if frame.switched:
        held = {token.place: token.tile for token in frame.tokens if token.place[0] == "W"}
        groups = _by_tile([(held[_at("W", place)], place) for place in frame.switched])
        said = ", ".join(
            f"{_pes(places)} {('switches' if len(places) == 1 else 'switch') + ' ' if not n else ''}to tile {tile}"
            for n, (tile, places) in enumerate(groups)
        )
        yield Caption("switch", f"{said}: the shadow becomes the weight.", f"4.2 Stream: {_wave(tiles, groups, t)}")
    yield from _additions(frame, "each adds to the sum from above", "4.2 Add: fit(p + a · w) in T + m + i + j")
    yield from _below(recording, frame)


# --- output stationary -------------------------------------------------------------------------------------


def _output_stationary(recording: Recording, frame: Frame) -> Iterator[Caption]:
    t, tiles = frame.cycle, recording.tiles
    rows, depth = recording.product.array.rows, recording.product.shape[1]
    if frame.fetch is not None:
        q, piece, byte = frame.fetch
        tile, k = tiles[q], piece * rows + byte
        start = _first(tile.stream)
        # Row i reads i cycles after row 0: in this cycle, the row of the number of row 0's byte.
        word = frame.words[byte] if byte < len(frame.words) else None
        if word is not None and word.first_k == piece * rows:
            activations = _slice("X", word.m, word.first_k, len(word.values))
            yield Caption(
                "stream",
                f"Row {byte} reads piece {piece} of word {word.m}, {activations}, and uses its first byte at once.",
                f"4.3 Activations: T{_sub(q)} + q · R + i = {start} + {piece * rows} + {byte} = {t}",
            )
        if k < min((piece + 1) * rows, depth):
            yield Caption(
                "load",
                f"Weight row {k}, {_slice('W', k, tile.first_n, tile.lanes)}, enters and goes down a row a cycle; "
                "lane j is j cycles late.",
                f"4.3 Weights: T{_sub(q)} + q · R + b = {start} + {piece * rows} + {byte} = {t}",
            )
        else:
            slots = -(-depth // rows) * rows
            yield Caption(
                "wait",
                f"No weight is read: piece {piece} has {depth - piece * rows} bytes, and its slot on the port {rows} "
                "cycles.",
                f"4.3 Next tile: T′ = T{_sub(q)} + Q · R = {start} + {slots} = {start + slots}",
            )
    started = [one for one in frame.tokens if one.kind == "s" and _is_first(recording, frame, one)]
    if started:
        groups = _by_tile([(token.tile, _position(token)) for token in started])
        places = [place for _, group in groups for place in group]
        what = "begins a new sum" if len(places) == 1 else "begin new sums"
        yield Caption("switch", f"{_pes(places)} {what} from 0.", f"4.3 Activations: {_wave(tiles, groups, t)}")
    yield from _additions(frame, "each adds to its own sum", "4.3 Activations: fit(p + a · w) in T + q · R + b + i + j")
    captured = [
        token for token in frame.tokens if token.kind == "d" and token.place[0] == "D" and _captured(frame, token)
    ]
    if captured:
        places = [_position(token) for token in captured]
        what = "has its sum complete: a copy goes" if len(places) == 1 else "have their sums complete: copies go"
        end = _first(tiles[captured[0].tile].stream) + max(rows, depth) - 1
        rule = f"4.3 Tile duration: E{_sub(captured[0].tile)} + i + j = {end} + {t - end} = {t}"
        yield Caption("drain", f"{_pes(places)} {what} to the drain register.", rule)
    elif any(token.place[0] == "D" for token in frame.tokens):
        yield Caption(
            "drain",
            "Finished sums move down their column, bottom row first.",
            "4.3 Drain: row R − 1 − c leaves column j in E + R + j + c",
        )
    yield from _below(recording, frame)


def _is_first(recording: Recording, frame: Frame, token: Token) -> bool:
    """os: whether a sum's tile has just come to its PE."""
    start = recording.tiles[token.tile].stream
    return token.place[0] == "P" and start is not None and start + sum(_position(token)) == frame.cycle


def _captured(frame: Frame, token: Token) -> bool:
    """os: whether a sum in a drain register is that of the PE's own register, of this very cycle."""
    own = frame.at(_at("P", _position(token)), "s")
    return own is not None and (own.tile, own.row) == (token.tile, token.row)


# --- both --------------------------------------------------------------------------------------------------


def _additions(frame: Frame, what: str, rule: str) -> Iterator[Caption]:
    adding = [token for token in frame.tokens if token.place[0] == "P" and token.exact is not None]
    if not adding:
        return
    many = f"{len(adding)} PEs multiply; {what}." if len(adding) > 1 else f"1 PE multiplies; it {what[5:]}."
    yield Caption("add", many, rule)
    over = [token for token in adding if token.overflows]
    if over:
        named = "; ".join(_overflow(frame, token) for token in over[:MOST_NAMED])
        more = f"; and {len(over) - MOST_NAMED} more" if len(over) > MOST_NAMED else ""
        yield Caption("overflow", f"{named}{more}.", OVERFLOW_RULE)


def _overflow(frame: Frame, token: Token) -> str:
    i, j = _position(token)
    activation, weight = frame.at(f"P.{i}.{j}", "a"), frame.at(f"W.{i}.{j}", "w")
    assert activation is not None
    assert weight is not None
    return f"PE({i}, {j}) overflows: {_fitted(token, f'{_factor(activation.value)} · {_factor(weight.value)}')}"


def _fitted(token: Token, term: str) -> str:
    """An addition that overflows."""
    assert token.before is not None
    assert token.exact is not None
    return f"{number(token.before)} + {term} = {number(token.exact)} becomes {number(token.value)}"


def _below(recording: Recording, frame: Frame) -> Iterator[Caption]:
    """What arrives below the array, and what the accumulator memory writes."""
    tiles, t = recording.tiles, frame.cycle
    weight_stationary = recording.dataflow == "ws"
    arrived = next((token for token in frame.tokens if token.place[0] == "A"), None)
    if arrived is not None:
        q = arrived.tile
        if not weight_stationary:
            text = f"Word {arrived.row}'s sums have arrived whole."
            rule = "4.3 Drain: a = E + R + (C − 1) + (R − 1 − i)"
        else:
            read = (
                "the accumulator memory reads what it is added to"
                if tiles[q].first_k
                else "nothing is read: it is the first"
            )
            text = f"Word {arrived.row}'s sums of tile {q} have arrived whole; {read}."
            delay = recording.product.array.rows + recording.product.array.columns - 1
            rule = (
                f"4.2 Drain: a = T{_sub(q)} + m + R + C − 1 = {_first(tiles[q].stream)} + {arrived.row} + {delay} = {t}"
            )
        yield Caption("drain", text, rule)
    written = [token for token in frame.tokens if token.place[0] == "M"]
    if written:
        m, first = written[0].row, tiles[written[0].tile].first_k == 0
        if not weight_stationary:
            text = f"Accumulator word {_address(written[0])} gets word {m}'s sums, complete: nothing is added."
        elif first:
            text = f"Accumulator word {_address(written[0])} gets word {m}'s first sums."
        else:
            text = f"Accumulator word {_address(written[0])} gets fit(old + new): word {m} with tile {written[0].tile}."
        yield Caption("write", text, f"{'4.2' if weight_stationary else '4.3'} Drain: written in a + 1")
        over = [token for token in written if token.overflows]
        if over:
            sums = "; ".join(
                f"column {_position(token)[1]}: {_fitted(token, _factor((token.exact or 0) - (token.before or 0)))}"
                for token in over[:MOST_NAMED]
            )
            more = f"; and {len(over) - MOST_NAMED} more" if len(over) > MOST_NAMED else ""
            yield Caption(
                "overflow",
                f"The accumulator memory overflows, {sums}{more}.",
                OVERFLOW_RULE,
            )


def _end(recording: Recording) -> Caption:
    wrong = int((recording.result != recording.product.exact).sum())
    total = recording.result.size
    cycles = len(recording.frames)
    if recording.overflows:
        additions = f"{recording.overflows} {'addition' if recording.overflows == 1 else 'additions'} overflowed"
        told = (
            f"{additions}, and {wrong} of {total} results differ from the exact product"
            if wrong
            else (f"{additions}, yet all {total} results equal the exact product")
        )
    else:
        told = f"no addition overflowed, and all {total} results are exact"
    return Caption("end", f"Done after {cycles} cycles: {told}.", "")


def _by_tile(found: Sequence[tuple[int, tuple[int, int]]]) -> list[tuple[int, list[tuple[int, int]]]]:
    """PEs by tile, earlier tiles first."""
    tiles = sorted({tile for tile, _ in found})
    return [(tile, [place for its, place in found if its == tile]) for tile in tiles]


def _wave(tiles: Sequence[Tile], groups: Sequence[tuple[int, list[tuple[int, int]]]], cycle: int) -> str:
    """The cycle a tile's first wave is at PE(i, j)."""
    return (
        ", ".join(
            f"T{_sub(q)} + i + j = {_first(tiles[q].stream)} + {cycle - _first(tiles[q].stream)}" for q, _ in groups
        )
        + f" = {cycle}"
    )


def _waiting(tiles: Sequence[Tile], cycle: int, port: str) -> tuple[int, int] | None:
    """The tile a port will work for next, and from when on; None if it has nothing left."""
    for q, tile in enumerate(tiles):
        start = _first(tile.load if port == "load" else tile.stream)
        if start > cycle:
            return q, start
    return None


def _first(cycle: int | None) -> int:
    assert cycle is not None  # every tile of a finished recording was loaded and streamed
    return cycle


def _position(token: Token) -> tuple[int, int]:
    _, i, j = token.place.split(".")
    return int(i), int(j)


def _address(token: Token) -> str:
    return token.place.split(".")[1]


def _at(zone: str, place: tuple[int, int]) -> str:
    return f"{zone}.{place[0]}.{place[1]}"


def _pes(places: Sequence[tuple[int, int]]) -> str:
    named = ", ".join(f"PE({i}, {j})" for i, j in places[:MOST_NAMED])
    return f"{named} and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else named


def _slice(matrix: str, row: int, first: int, length: int) -> str:
    return f"{matrix}[{row}, {first}]" if length == 1 else f"{matrix}[{row}, {first}..{first + length - 1}]"


def _sub(value: int) -> str:
    """As a subscript."""
    return str(value).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _factor(value: int) -> str:
    return f"({number(value)})" if value < 0 else str(value)
