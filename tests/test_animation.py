"""The animated array: what is shown against a step model written from docs/microarchitecture.md, and in a browser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from browser import browser

from accelsim.cli import main
from accelsim.cli.animate import DEFAULT_LARGEST, DEFAULT_SEED, DEFAULT_SHAPE, animate_arguments
from accelsim.machine import pe_grid
from accelsim.machine.pe_grid import GridConfig
from accelsim.report.animation import animation_data, animation_page
from accelsim.report.animation_captions import captions
from accelsim.report.animation_frames import Product, Recording, record

ROOT = Path(__file__).parents[1]


# --- a model of its own: sections 4.2 and 4.3 in plain integers --------------------------------------------


def fit(value: int, bits: int, overflow: str) -> int:
    half = 1 << (bits - 1)
    if overflow == "saturate":
        return max(-half, min(half - 1, value))
    return (value + half) % (2 * half) - half


@dataclass
class Model:
    """All additions and writes of a product, with the cycle of each in closed form.

    Attributes:
        added: (cycle, i, j) -> partial sum before, activation, weight, exact sum, fitted sum.
        held: ws; (cycle, i, j) -> the weight of PE(i, j) from its switch until the next tile's.
        memory: cycle -> the accumulator memory after it, (word, lane) -> value.
    """

    product: Product
    dataflow: str
    added: dict[tuple[int, int, int], tuple[int, int, int, int, int]] = field(default_factory=dict)
    writes: dict[tuple[int, int, int], int] = field(default_factory=dict)
    overflows: int = 0
    done: int = 0

    def __post_init__(self) -> None:
        self.x, self.w = self.product.activations.tolist(), self.product.weights.tolist()
        (self.m, self.k, self.n), array = self.product.shape, self.product.array
        self.rows, self.columns, self.bits = array.rows, array.columns, array.psum_bits
        (self.weight_stationary if self.dataflow == "ws" else self.output_stationary)()

    def fitted(self, exact: int, bits: int) -> int:
        if self.product.array.saturate_at == "end":
            return exact
        value = fit(exact, bits, self.product.array.overflow)
        self.overflows += value != exact
        return value

    def add(self, t: int, i: int, j: int, before: int, m: int, k: int, n: int) -> int:
        assert (t, i, j) not in self.added
        a, w = self.x[m][k], self.w[k][n]
        after = self.fitted(before + a * w, self.bits)
        self.added[t, i, j] = before, a, w, before + a * w, after
        return after

    def write(self, t: int, word: int, lane: int, exact: int, last: bool) -> int:
        width = self.product.width_bits
        value = self.fitted(exact, width)
        if last and self.product.array.saturate_at == "end":
            value = fit(exact, width, self.product.array.overflow)
            self.overflows += value != exact
        self.writes[t, word, lane] = value
        self.done = max(self.done, t)
        return value

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        for number, first in enumerate(range(0, self.n, self.columns)):
            yield number, first, min(self.columns, self.n - first)

    def weight_stationary(self) -> None:
        R, C, M = self.rows, self.columns, self.m
        load = start = None
        for block, first_n, lanes in self.blocks():
            sums: dict[tuple[int, int], int] = {}
            for first_k in range(0, self.k, R):
                length = min(R, self.k - first_k)
                load, start = (
                    (0, R) if load is None else (max(load + R, start), max(max(load + R, start) + R, start + M))
                )
                for m in range(M):
                    for j in range(lanes):
                        psum = 0
                        for i in range(length):
                            psum = self.add(start + m + i + j, i, j, psum, m, first_k + i, first_n + j)
                        before = sums.get((m, j), 0)
                        last = first_k + length == self.k
                        t = start + m + R + C  # arrives in T + m + (R - 1) + (C - 1) + 1, written one later
                        sums[m, j] = self.write(t, block * M + m, j, before + psum, last)

    def output_stationary(self) -> None:
        R, C = self.rows, self.columns
        pieces, start = -(-self.k // R), 0
        for block, first_n, lanes in self.blocks():
            for first in range(0, self.m, R):
                end = start + max(R, self.k) - 1
                for i in range(min(R, self.m - first)):
                    for j in range(lanes):
                        total = 0
                        for k in range(self.k):  # byte b of piece q is used in T + q R + b + i + j, and k = q R + b
                            total = self.add(start + k + i + j, i, j, total, first + i, k, first_n + j)
                        t = end + R + (C - 1) + (R - 1 - i) + 1
                        self.write(t, block * self.m + first + i, j, total, True)
                start += pieces * R

    def memory(self, cycle: int) -> dict[tuple[int, int], int]:
        found = {}
        for (t, word, lane), value in sorted(self.writes.items()):
            if t <= cycle:
                found[word, lane] = value
        return found

    def result(self) -> list[list[int]]:
        final = self.memory(self.done)
        return [[final[n // self.columns * self.m + m, n % self.columns] for n in range(self.n)] for m in range(self.m)]


def make_product(rng: np.random.Generator, **fields: object) -> Product:
    """A random product on a random array; `fields` replace what would be drawn."""
    rows, columns = (int(n) for n in rng.integers(1, 6, 2))
    m, k, n = (int(n) for n in rng.integers(1, 12, 3))
    width = int(rng.integers(8, 12))
    chosen = {
        "rows": rows,
        "columns": columns,
        "psum_bits": int(rng.integers(8, width + 1)),
        "overflow": str(rng.choice(["saturate", "wrap"])),
        "saturate_at": str(rng.choice(["every_add", "every_add", "end"])),
        "subtract_zero_points": False,
        **fields,
    }
    largest = int(rng.choice([9, 40, 127]))
    return Product(
        activations=rng.integers(-largest - 1, largest + 1, (m, k)),
        weights=rng.integers(-largest - 1, largest + 1, (k, n)),
        array=GridConfig(**chosen),  # type: ignore[arg-type]
        width_bits=width,
    )


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_every_addition_and_every_write_is_in_the_cycle_of_the_rules(dataflow):
    overflowed = 0
    for seed in range(15):
        product = make_product(np.random.default_rng(seed))
        recording, model = record(product, dataflow), Model(product, dataflow)
        added, memory = {}, {}
        for frame in recording.frames:
            t = frame.cycle
            for token in frame.tokens:
                zone, *place = token.place.split(".")
                if zone == "P" and token.exact is not None:
                    a, w = frame.at(token.place, "a"), frame.at(f"W.{place[0]}.{place[1]}", "w")
                    added[t, int(place[0]), int(place[1])] = token.before, a.value, w.value, token.exact, token.value
                if zone == "M":
                    memory[t, int(place[0]), int(place[1])] = token.value
        assert added == model.added, (seed, product)
        assert memory == model.writes, (seed, product)
        assert recording.result.tolist() == model.result()
        assert recording.overflows == model.overflows == recording.frames[-1].overflows
        assert len(recording.frames) == model.done + 1
        overflowed += model.overflows
    assert overflowed > 300


def hardware_order(product: Product, dataflow: str) -> np.ndarray:
    """The product with NumPy, a whole matrix at each addition."""
    bits, width = product.array.psum_bits, product.width_bits
    x, w = product.activations, product.weights
    total = np.zeros((x.shape[0], w.shape[1]), dtype=np.int64)
    step = product.array.rows if dataflow == "ws" else x.shape[1]
    for first in range(0, x.shape[1], step):
        psum = np.zeros_like(total)
        for k in range(first, min(first + step, x.shape[1])):
            psum = np.clip(psum + np.outer(x[:, k], w[k]), -(1 << bits - 1), (1 << bits - 1) - 1)
        total = np.clip(total + psum, -(1 << width - 1), (1 << width - 1) - 1)
    return total


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_results_are_numpys_with_saturation_in_hardware_order(dataflow):
    wrong = 0
    for seed in range(25, 35):
        product = make_product(np.random.default_rng(seed), overflow="saturate", saturate_at="every_add")
        recording = record(product, dataflow)
        assert (recording.result == hardware_order(product, dataflow)).all(), seed
        wrong += int((recording.result != product.exact).sum())
    assert wrong > 50  # the order is seen


def test_operands_are_where_the_rules_put_them():
    """Skew, shadow, word, deskew and drain registers of one product, cycle by cycle."""
    product = make_product(np.random.default_rng(3), rows=3, columns=4)
    product = Product(
        activations=product.activations[:5, :7] if product.shape[:2] >= (5, 7) else np.arange(35).reshape(5, 7) - 9,
        weights=np.arange(28).reshape(7, 4) - 13,
        array=product.array,
        width_bits=product.width_bits,
    )
    x, w, (R, C) = product.activations, product.weights, (3, 4)
    ws = record(product, "ws")
    starts = [tile.stream for tile in ws.tiles]
    for q, tile in enumerate(ws.tiles):
        for i in range(tile.length):
            for m in range(5):  # lane i of a word: skew register r in T + m + r, as seen when taken
                for r in range(i):
                    token = ws.frames[tile.stream + m + r].at(f"X.{i}.{r}", "a")
                    assert (token.row, token.column, token.value) == (m, tile.first_k + i, x[m, tile.first_k + i])
            for j in range(C):
                value = w[tile.first_k + i, j]
                for r in range(j):
                    assert ws.frames[tile.load + i + r].at(f"T.{j}.{r}", "w").value == value
                switch = tile.stream + i + j
                for t in range(tile.load + i + j, switch):
                    assert ws.frames[t].at(f"H.{i}.{j}", "w").value == value
                ends = starts[q + 1] + i + j if q + 1 < len(starts) else len(ws.frames)
                for t in range(switch, min(ends, len(ws.frames))):
                    assert ws.frames[t].at(f"W.{i}.{j}", "w").value == value
                assert (i, j) in ws.frames[switch].switched
        for m in range(5):
            for j in range(C):  # below the array in T + m + R + j, then one deskew register a cycle
                for r in range(C - 1 - j):
                    token = ws.frames[tile.stream + m + R + j + r].at(f"L.{j}.{r}", "s")
                    assert (token.tile, token.row, token.column) == (q, m, j)
                assert ws.frames[tile.stream + m + R + C - 1].at(f"A.{j}", "s").row == m
    stationary = record(product, "os")
    for q, tile in enumerate(stationary.tiles):
        end = tile.stream + max(R, 7) - 1
        for i in range(tile.words):
            for k in range(7):
                word = stationary.frames[tile.stream + k + i].words[i]
                first = k // R * R
                assert (word.m, word.first_k, word.byte) == (tile.first_word + i, first, k - first)
                assert word.values == x[word.m, first : first + R].tolist()
            for j in range(C):  # taken by the drain register in E + i + j; row R - 1 - c leaves in E + R + j + c
                assert stationary.frames[end + i + j].at(f"D.{i}.{j}", "d").row == tile.first_word + i
                leaves = end + R + j + (R - 1 - i)
                assert stationary.frames[leaves - 1].at(f"D.{R - 1}.{j}", "d").row == tile.first_word + i
                below = stationary.frames[leaves].at(f"L.{j}.0" if j < C - 1 else f"A.{j}", "d")
                assert (below.tile, below.row, below.column) == (q, tile.first_word + i, j)
        for k in range(7):
            for j in range(C):
                for r in range(j):
                    assert stationary.frames[tile.stream + k + r].at(f"T.{j}.{r}", "w").value == w[k, j]


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_the_probe_changes_nothing_and_shows_every_addition(dataflow):
    product = make_product(np.random.default_rng(5), saturate_at="every_add")
    runs, seen = [], []
    for probe in (None, lambda cycle, registers, wires: seen.append((cycle, registers, wires))):
        runs.append(
            pe_grid.run(
                [product.computes(dataflow)[0]],
                product.array,
                activation=product.activations.astype(np.int8).view(np.uint8).ravel(),
                weight=np.ones(1000, dtype=np.uint8),
                accumulators=np.zeros((product.shape[0], product.array.columns), dtype=np.int64),
                bias=np.zeros(0, dtype=np.int64),
                probe=probe,
            )
        )
    assert runs[0].captures == runs[1].captures
    assert (runs[0].accumulators == runs[1].accumulators).all()
    assert [cycle for cycle, _, _ in seen] == list(range(runs[0].done[0] + 1))
    adds = [wires for _, _, wires in seen if "pe.on" in wires]
    assert sum(int(wires["pe.on"].sum()) for wires in adds) == runs[0].captures["mul"] > 0
    for wires in adds:
        products = (wires["pe.psum"] + wires["pe.activation"] * wires["pe.weight"])[wires["pe.on"]]
        assert (products == wires["pe.exact"][wires["pe.on"]]).all()
    for _, registers, wires in seen:
        if "pe.on" in wires:  # what was on the wire is in the register after
            assert (registers["pe.psum"] == wires["pe.result"])[wires["pe.on"]].all()


# --- in words ----------------------------------------------------------------------------------------------


def example(dataflow: str) -> Recording:
    product = make_product(
        np.random.default_rng(11), rows=3, columns=3, psum_bits=8, overflow="saturate", saturate_at="every_add"
    )
    return record(product, dataflow)


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_captions_name_the_cycle_by_a_rule_that_the_page_has(dataflow):
    recording = example(dataflow)
    pages = {
        "": (ROOT / "docs" / "microarchitecture.md").read_text(),
        "numerics.md, ": (ROOT / "docs" / "numerics.md").read_text(),
    }
    parts = set()
    for frame in recording.frames:
        said = captions(recording, frame)
        assert said
        for caption in said:
            parts.add(caption.part)
            if not caption.rule:
                assert caption.part == "end"
                assert frame is recording.frames[-1]
                continue
            page, section, name = re.match(r"(numerics\.md, |)(\d\.\d) ([A-Z][a-z ]+)(?::|$)", caption.rule).groups()
            assert re.search(rf"^### {section}\b", pages[page], re.MULTILINE), caption.rule
            chapter = pages[page].split(f"### {section}")[1].split("\n##")[0]
            assert name in chapter or f" {name}" in pages[page], caption.rule
            told = re.search(r"= (\d+)$", caption.rule)
            if told and caption.part != "wait":
                assert int(told[1]) == frame.cycle, caption
            elif told:
                assert int(told[1]) > frame.cycle, caption
    assert {"stream", "load", "switch", "add", "overflow", "drain", "write", "end"} <= parts


def test_captions_name_the_operands_that_are_read():
    recording = example("ws")
    words = [c.text for frame in recording.frames for c in captions(recording, frame) if c.part == "stream"]
    m = recording.product.shape[0]
    assert len(words) == m * len(recording.tiles)
    for text in words:
        word, tile, row, first, last = map(
            int, re.match(r"Word (\d+) of tile (\d+), X\[(\d+), (\d+)(?:\.\.(\d+))?\]", text).groups(default="-1")
        )
        chunk = recording.tiles[tile]
        assert (row, first, last) == (word, chunk.first_k, chunk.first_k + chunk.length - 1 if chunk.length > 1 else -1)
    told = sum(
        c.text.count("becomes") + int((re.search(r"and (\d+) more", c.text) or ["", "0"])[1])
        for frame in recording.frames
        for c in captions(recording, frame)
        if c.part == "overflow"
    )
    assert told == recording.overflows > 0


# --- the command -------------------------------------------------------------------------------------------


def test_the_same_words_give_the_same_bytes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        assert main(["animate", "-o", f"{name}.html"]) == 0
    assert capsys.readouterr().out.startswith("a.html: open it in a browser")
    assert Path("a.html").read_bytes() == Path("b.html").read_bytes()
    page = Path("a.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    small = ["--shape", "3", "6", "2"]
    assert main(["animate", *small, "-o", "a.html"]) == 0
    # Every option changes the page.
    for words in (
        *(["--rows", "3"], ["--columns", "3"], ["--dataflow", "ws"], ["--shape", "3", "6", "1"], ["--seed", "4"]),
        *(["--largest", "8"], ["--width-bits", "9"], ["--overflow", "wrap"], ["--saturate-at", "end"]),
        ["--width-bits", "10", "--psum-bits", "9"],
    ):
        assert main(["animate", *small, *words, "-o", "b.html"]) == 0
        assert Path("b.html").read_bytes() != Path("a.html").read_bytes(), words


def test_options_and_defaults_are_those_of_the_page():
    said = (ROOT / "docs" / "animation.md").read_text()
    parser = argparse.ArgumentParser()
    animate_arguments(parser)
    rows = re.findall(r"^\| (`-.*?) \| .* \| (.*?) ?\|$", said, re.MULTILINE)
    options = {option for row, _ in rows for option in re.findall(r"`(-[-\w]+)", row)}
    assert options == {action.option_strings[0] for action in parser._actions} - {"-h"}
    defaults = {action.option_strings[0]: action.default for action in parser._actions}
    defaults |= {"--shape": " ".join(map(str, DEFAULT_SHAPE)), "--largest": DEFAULT_LARGEST, "--seed": DEFAULT_SEED}
    for row, told in rows:
        if told and "`--psum-bits`" not in row:
            wanted = [str(defaults[option]) for option in re.findall(r"`(-[-\w]+)", row)]
            assert told.replace("`", "").split(", ") == wanted, row


def test_operands_come_from_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, w = np.arange(15).reshape(3, 5) - 7, np.arange(10).reshape(5, 2) - 128
    Path("x.csv").write_text("\n".join(", ".join(map(str, row)) for row in x) + "\n\n")
    np.save("w.npy", w.astype(np.int8))
    assert main(["animate", "--activations", "x.csv", "--weights", "w.npy", "-o", "f.html", "--dataflow", "os"]) == 0
    product = Product(
        activations=x,
        weights=w,
        array=GridConfig(
            rows=4, columns=4, psum_bits=8, overflow="saturate", saturate_at="every_add", subtract_zero_points=False
        ),
        width_bits=8,
    )
    assert Path("f.html").read_text() == animation_page(product, ["os"])
    assert animation_data([record(product, "os")])["exact"] == (x @ w).tolist()


@pytest.mark.parametrize(
    "words, line",
    [
        (["--rows", "9"], "--rows 9: must be 1..8, so that every PE can be read; use fewer"),
        (["--columns", "0"], "--columns 0: must be 1..8, so that every PE can be read; use fewer"),
        (["--width-bits", "7"], "--width-bits 7: must be 8..62"),
        (["--psum-bits", "9"], "--psum-bits 9: must be 8..8, since the accumulator memory has to hold the sums"),
        (["--shape", "13", "1", "1"], "--shape 13 1 1: M = 13 must be 1..12, so that every operand can be read"),
        (["--shape", "1", "0", "1"], "--shape 1 0 1: K = 0 must be 1..16, so that every operand can be read"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
        (["--largest", "128"], "--largest 128: must be 1..127, since operands have 8 bits"),
        (["--weights", "w.csv"], "--weights w.csv: is one operand of two; give --activations too"),
        (["--activations", "nowhere/x.csv", "--weights", "w.csv"], "nowhere/x.csv: no such file; check the path"),
        (
            ["--activations", "w.csv", "--weights", "w.csv"],
            "w.csv: has 2 rows, and w.csv 3 columns; both are K and must be equal",
        ),
        (
            ["--activations", "w.csv", "--weights", "w.csv", "--seed", "1"],
            "--seed: the files say which operands; leave --seed out",
        ),
        (
            ["--activations", "ragged.csv", "--weights", "w.csv"],
            "ragged.csv, line 2: has 1 integers, the lines before 2",
        ),
        (
            ["--activations", "word.csv", "--weights", "w.csv"],
            "word.csv, line 1: '1.5' is no integer; write integers with commas",
        ),
        (
            ["--activations", "empty.csv", "--weights", "w.csv"],
            "empty.csv: holds no numbers; write one line of integers with commas for each row",
        ),
        (
            ["--activations", "large.csv", "--weights", "w.csv"],
            "large.csv: 128 in row 0, column 1 must be -128..127, an int8",
        ),
        (
            ["--activations", "long.csv", "--weights", "w.csv"],
            "long.csv: has more than 65,536 bytes; the largest operand has 12 x 16 integers",
        ),
        (
            ["--activations", "wide.npy", "--weights", "w.csv"],
            "wide.npy and w.csv: K = 17 must be 1..16, so that every operand can be read",
        ),
        (
            ["--activations", "float.npy", "--weights", "w.csv"],
            "float.npy: holds float64 of shape (2, 2); a matrix of integers is needed: rows and columns",
        ),
        (
            ["--activations", "x.txt", "--weights", "w.csv"],
            "x.txt: must be named .csv or .npy, which says how it is read",
        ),
        (
            ["--rows", "1", "--columns", "1", "--shape", "12", "16", "12", "--dataflow", "ws"],
            "--dataflow ws: the product takes 2,307 cycles, and a page shows at most 1,000; use a smaller --shape or a "
            "larger array",
        ),
        (["-o", "gone/a.html"], "gone/a.html: there is no folder gone; make it first, or choose another"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    Path("w.csv").write_text("1,2,3\n4,5,6\n" if "17" not in line else "1\n" * 17)
    Path("ragged.csv").write_text("1,2\n3\n")
    Path("word.csv").write_text("1.5,2\n")
    Path("empty.csv").write_text("\n")
    Path("large.csv").write_text("1,128\n")
    Path("long.csv").write_text("1," * 40_000)
    np.save("wide.npy", np.ones((2, 17), dtype=np.int64))
    np.save("float.npy", np.ones((2, 2)))
    if "columns; both" in line:
        Path("w.csv").write_text("1,2,3\n4,5,6\n")
    assert main(["animate", *words]) == 2
    assert capsys.readouterr().err == f"accelsim: error: {line}\n"
    assert not Path("animation.html").exists()


# --- the page in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("animation") / "animation.html"
    assert main(["animate", "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    """Of what the page shows if nothing is said."""
    rng = np.random.default_rng(DEFAULT_SEED)
    array = GridConfig(
        rows=4, columns=4, psum_bits=8, overflow="saturate", saturate_at="every_add", subtract_zero_points=False
    )
    x, w = rng.integers(-9, 10, (6, 10)), rng.integers(-9, 10, (10, 4))
    product = Product(activations=x, weights=w, array=array, width_bits=8)
    return {dataflow: Model(product, dataflow) for dataflow in ("ws", "os")}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile"), viewport={"width": 1280, "height": 900}, offline=True) as opened:
        yield opened


@pytest.fixture
def page(context, written):
    """The page, opened; whatever the browser complains of fails the test, and so does whatever it asks for."""
    opened, complaints, asked = context.new_page(), [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(written.as_uri())
    yield opened
    assert complaints == []
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} == {written.as_uri()}
    opened.close()


SHOWN = """() => ({
    cycle: Number(document.querySelector("#cycle").textContent.replace("cycle ", "")),
    tokens: [...document.querySelectorAll("#array .token[data-place]")].map(
        (one) => [one.dataset.kind, one.dataset.place, one.children[1].textContent, one.classList.contains("over")]),
    pes: [...document.querySelectorAll("#array .pe")].map(
        (one) => [one.dataset.pe, one.getAttribute("aria-label"), one.classList.contains("over")]),
    memory: [...document.querySelectorAll("#array .memory")].map((one) => [one.dataset.cell, one.textContent]),
    y: [...document.querySelectorAll("#matrices .y")].map((one) => [one.dataset.cell, one.children[1].textContent]),
    overflows: document.querySelector("#facts dd:last-child").textContent,
})"""


def number(text: str) -> int:
    return int(text.replace("−", "-"))


def check_shown(page, model: Model, cycle: int) -> None:
    """What stands in PEs and memory, in the drawing and for a screen reader, is the model's."""
    shown = page.evaluate(SHOWN)
    assert shown["cycle"] == cycle
    token = {(kind, place): (number(text), over) for kind, place, text, over in shown["tokens"]}
    said = {place: (label, over) for place, label, over in shown["pes"]}
    for i, j in np.ndindex(4, 4):
        label, over = said[f"{i},{j}"]
        if (cycle, i, j) not in model.added:
            assert "fit" not in label
            assert ("a", f"P.{i}.{j}") not in token
            continue
        before, a, w, exact, value = model.added[cycle, i, j]
        assert token["a", f"P.{i}.{j}"][0] == a
        assert token["w", f"W.{i}.{j}"][0] == w
        assert token["s", f"P.{i}.{j}"] == (value, exact != value)
        assert over == (exact != value)
        assert label.replace("−", "-") == (
            f"PE({i}, {j}): fit({before} + {f'({a})' if a < 0 else a} · {f'({w})' if w < 0 else w}) = "
            + (f"fit({exact}) = " if exact != value else "")
            + f"{value}"
        )
    memory = {tuple(map(int, cell.split(","))): number(text) for cell, text in shown["memory"] if text}
    assert memory == model.memory(cycle)
    assert {tuple(map(int, cell.split(","))): number(text) for cell, text in shown["y"] if text} == memory
    over = sum(exact != value for (t, *_), (*_, exact, value) in model.added.items() if t <= cycle)
    assert int(shown["overflows"].split(" of ")[0]) >= over
    assert int(shown["overflows"].split(" of ")[1]) == model.overflows


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_ten_steps_by_button_and_ten_by_key_show_the_models_values(page, models, dataflow):
    page.locator(f"#dataflows [data-dataflow={dataflow}]").click()
    model = models[dataflow]
    check_shown(page, model, 0)
    for cycle in range(1, 11):
        page.locator("#step").click()
        check_shown(page, model, cycle)
    for cycle in range(11, 21):
        page.keyboard.press("ArrowRight")
        check_shown(page, model, cycle)
    page.keyboard.press("ArrowLeft")
    page.locator("#back").click()
    check_shown(page, model, 18)
    page.keyboard.press("End")
    check_shown(page, model, model.done)
    assert page.locator("#step").is_disabled()
    final = page.evaluate(SHOWN)["y"]
    expected = hardware_order(model.product, dataflow)
    assert {cell: number(text) for cell, text in final} == {
        f"{m},{n}": int(expected[m, n]) for m, n in np.ndindex(expected.shape)
    }
    assert f"{model.overflows} additions overflowed" in page.locator("#caption").text_content()
    page.keyboard.press("Home")
    check_shown(page, model, 0)


def test_it_plays_pauses_and_plays_from_the_start_again(page, models):
    page.select_option("#speed", "8")
    page.keyboard.press("Home")
    page.locator("#play").click()
    page.locator("#cycle", has_text=re.compile(r"^cycle ([4-9]|\d\d)$")).wait_for()
    assert page.locator("#play").text_content() == "Pause"
    page.locator("#play").click()
    stopped = page.locator("#cycle").text_content()
    page.wait_for_timeout(300)
    assert page.locator("#cycle").text_content() == stopped
    page.keyboard.press("End")
    page.locator("#name").click()
    page.keyboard.press("Space")
    page.locator("#cycle", has_text=re.compile(r"^cycle ([1-9]|1\d)$")).wait_for()
    page.keyboard.press("Space")
    assert page.locator("#play").text_content() == "Play"
    check_shown(page, models["ws"], int(page.locator("#cycle").text_content().removeprefix("cycle ")))


def test_tokens_move_where_motion_is_welcome_and_jump_where_it_is_not(page):
    page.locator("#step").click()
    assert page.evaluate("getComputedStyle(document.querySelector('#array')).getPropertyValue('--move')") != "0s"
    page.emulate_media(reduced_motion="reduce")
    page.locator("#step").click()
    assert page.evaluate("getComputedStyle(document.querySelector('#array')).getPropertyValue('--move')") == "0s"
    assert page.evaluate("getComputedStyle(document.querySelector('#array .token')).transitionProperty") == "none"
    before = page.evaluate("document.documentElement.classList.contains('dark')")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.classList.contains('dark')") != before


def test_the_slider_the_timeline_and_the_address_lead_to_a_cycle(page, models, written):
    page.locator("#scrub").fill("13")
    check_shown(page, models["ws"], 13)
    box = page.locator("#timeline").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 20.5 / (models["ws"].done + 1), box["y"] + 20)
    check_shown(page, models["ws"], 20)
    page.locator("#scrub").blur()
    for key, cycle in (("PageDown", 21), (".", 22), (",", 21), ("PageUp", 20)):
        page.keyboard.press(key)
        assert page.locator("#cycle").text_content() == f"cycle {cycle}"
    for key, speed in (("+", "2"), ("-", "1"), ("-", "0.5")):
        page.keyboard.press(key)
        assert page.locator("#speed").input_value() == speed
    page.keyboard.press("d")
    check_shown(page, models["os"], 20)
    assert page.evaluate("location.hash") == "#os-20"
    page.reload()
    check_shown(page, models["os"], 20)


def test_overflows_are_found_one_after_the_other(page, models):
    page.keyboard.press("d")
    model = models["os"]
    cycles = sorted({t for (t, *_), (*_, exact, value) in model.added.items() if exact != value})
    page.keyboard.press("Home")
    for cycle in [*cycles, cycles[0]]:
        page.locator("#overflow").click()
        check_shown(page, model, cycle)
        place = page.locator("#array .pe.chosen").get_attribute("data-pe")
        i, j = map(int, place.split(","))
        *_, exact, value = model.added[cycle, i, j]
        assert exact != value
        assert f"fit({exact})" in page.locator("#equation").text_content().replace("−", "-")


def test_a_pe_that_is_pointed_at_shows_its_addition_and_its_operands(page, models):
    page.locator("#scrub").fill("12")
    page.locator('#array [data-pe="1,2"]').hover()
    before, a, w, exact, _ = models["ws"].added[12, 1, 2]
    text = page.locator("#equation").text_content().replace("−", "-")
    assert text.startswith(
        f"PE(1, 2)fit({before} + {f'({a})' if a < 0 else a} · {f'({w})' if w < 0 else w})= fit({exact})"
    )
    # T of tile 0 is 4, of tile 1 is 10: in cycle 12, PE(1, 2) uses word 12 - 4 - 1 - 2 = 5 of tile 0.
    chosen = {
        one.get_attribute("class").split()[1]: one.get_attribute("data-cell")
        for one in page.locator("#matrices .chosen").all()
    }
    assert chosen == {"x": "5,1", "w": "1,2", "y": "5,2"}
    page.locator('#array [data-pe="1,2"]').click()
    page.mouse.move(2, 2)
    page.locator("#step").click()
    assert page.locator("#equation b").text_content() == "PE(1, 2)"  # it is followed
    page.locator('#array [data-pe="0,0"]').focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.pe") == "1,1"
    assert page.locator("#equation b").text_content() == "PE(1, 1)"
    assert page.locator("#cycle").text_content() == "cycle 13"


LONGEST = """() => {
    const scrub = document.querySelector("#scrub"), box = document.querySelector("#captions");
    const over = [...Array(Number(scrub.max) + 1).keys()].map((cycle) => {
        scrub.value = cycle;
        scrub.dispatchEvent(new Event("input"));
        return box.scrollHeight - box.clientHeight;
    });
    return Math.max(...over);
}"""


@pytest.mark.parametrize("width, height", [(390, 844), (1440, 900), (1920, 1080)])
def test_nothing_is_cut_off_at_a_phones_a_desktops_and_a_projectors_size(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    for _ in range(2):
        page.keyboard.press("d")
        page.keyboard.press("End")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for place in ("#stage", "#captions"):
            assert page.evaluate(f"(e => e.scrollWidth - e.clientWidth)(document.querySelector('{place}'))") <= 0, place
        if width > 900:
            assert page.evaluate("document.documentElement.scrollHeight") <= height
            assert page.evaluate(LONGEST) <= 0
