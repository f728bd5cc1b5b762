"""The page of a run: what it holds is what the report and the machine say, and a browser shows it without network."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from browser import browser
from graphs import GraphMaker

from accelsim.accounting import price
from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.energy import load_energy
from accelsim.isa import Compute, Unit, to_text
from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.pipeline import run_checked
from accelsim.report import build_report, html_report
from accelsim.report.unit_times import busy_cycles
from accelsim.timing import ArrayShape, pe_macs

HOSTILE = "<img src=x onerror=window.hit=1></script><script>window.hit=1</script>&amp;"
COMMAND = f"accelsim run '{HOSTILE}'"
VERSIONS = {"accelsim": "1", HOSTILE: "2"}


class HostileMaker(GraphMaker):
    """Layers whose names are markup."""

    def name(self, op: str) -> str:
        return f"{super().name(op)} {HOSTILE}"


def ran(sets: tuple[str, ...], telemetry: bool = True) -> SimpleNamespace:
    """A checked run of a small network with hostile names: convolutions, a depthwise one, a pool, a linear layer."""
    fixed = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_UP)
    maker = HostileMaker(np.random.default_rng(1), fixed)
    node = maker.conv(maker.input(8, 8, 3), 10, (3, 3), padding=(1, 1, 1, 1))
    node = maker.pool(node, "max", (2, 2), (2, 2))
    node = maker.conv(node, 10, (3, 3), padding=(1, 1, 1, 1), groups=10)
    node = maker.pool(maker.conv(node, 6, (3, 3), width=12), "avg", (2, 2), (1, 1))
    maker.linear(node, 5)
    graph = replace(maker.graph(), name=HOSTILE)
    hardware = load_hardware("edge_8x8", ["name=" + HOSTILE, *sets])
    outcome = run_checked(compile_graph(graph, hardware, 2), graph, maker.codes(2), telemetry=telemetry)
    report = build_report(outcome, graph, price(outcome, graph, load_energy("horowitz_45nm")))
    page = html_report(outcome, graph, report, COMMAND, VERSIONS)
    return SimpleNamespace(outcome=outcome, graph=graph, report=json.loads(json.dumps(report)), page=page)


@pytest.fixture(scope="module")
def run():
    return ran(("accumulator.width_bits=16", "array.psum_bits=14"))


def embedded(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


def unpacked(page: str) -> dict:
    return json.loads(zlib.decompress(base64.b64decode(re.search(r'id="packed">(.*?)</script>', page)[1])))


# --- what the page holds -----------------------------------------------------------------------------------


def test_the_page_holds_the_report_without_outputs_and_the_same_run_gives_the_same_bytes(run):
    outcome, graph = run.outcome, run.graph
    held = embedded(run.page)
    assert held["report"] == {key: value for key, value in run.report.items() if key != "outputs"}
    assert (held["command"], held["versions"]) == (COMMAND, VERSIONS)
    assert html_report(outcome, graph, run.report, COMMAND, VERSIONS) == run.page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", run.page)  # an XML namespace is no address


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_products_of_pes_add_up_instruction_by_instruction(dataflow, run):
    one = run if dataflow == "ws" else ran(("array.dataflow=os",))
    shape = ArrayShape.of(one.outcome.program.hardware)
    pes = shape.rows, shape.columns
    held = embedded(one.page)["layers"]
    assert any(group["diagonal"] for layer in held for group in layer["activity"])
    for label, layer in enumerate(one.report["layers"]):
        mine = [c for c in one.outcome.program.instructions if isinstance(c, Compute) and c.label == label]
        expected = sum((pe_macs(compute, shape) for compute in mine), np.zeros(pes, dtype=np.int64))
        grid = np.zeros(pes, dtype=np.int64)
        for group in held[label]["activity"]:
            rows = np.repeat([value for _, value in group["rows"]], [many for many, _ in group["rows"]])
            for row, column in np.ndindex(pes):
                used = row == column if group["diagonal"] else column < group["lanes"]
                grid[row, column] += rows[row] * used
        assert (grid == expected).all()
        assert grid.sum() == layer["macs"]
        assert grid.max() <= layer["array_span_cycles"]  # a PE multiplies at most once a cycle


def test_the_timeline_holds_every_cycle_and_every_field(run):
    held = unpacked(run.page)
    for unit in Unit:
        mine = [issued for issued in run.outcome.timed.timeline if issued.unit is unit]
        lane = held[unit.name]
        assert np.cumsum(lane["index"]).tolist() == [issued.index for issued in mine]
        assert np.cumsum(lane["issue"]).tolist() == [issued.issue for issued in mine]
        assert lane["cycles"] == [issued.done - issued.issue + 1 for issued in mine]
        assert lane["label"] == [issued.label for issued in mine]
        stalls = [(place, *stall) for place, issued in enumerate(mine) for stall in issued.stalls]
        assert list(zip(*[iter(lane["stalls"])] * 3, strict=True)) == stalls
        assert lane["text"].split("\n") == [to_text(run.outcome.program.instructions[one.index]) for one in mine]


def test_a_very_long_program_keeps_its_cycles_and_leaves_its_fields_out(run, monkeypatch):
    monkeypatch.setattr("accelsim.report.run_page.MOST_TEXTS", 3)
    held = unpacked(html_report(run.outcome, run.graph, run.report, COMMAND, VERSIONS))
    assert [lane["text"] for lane in held.values()] == [None] * 4
    assert len(held["COMPUTE"]["cycles"]) == sum(one.unit is Unit.COMPUTE for one in run.outcome.timed.timeline)


def test_no_layer_is_above_its_roof_since_its_cycles_are_those_in_which_any_unit_works_on_it(run):
    bandwidth = run.outcome.program.hardware.dram.bandwidth_bytes_per_cycle
    for label, layer in enumerate(run.report["layers"]):
        mine = [one for one in run.outcome.timed.timeline if one.label == label]
        active = {cycle for one in mine for cycle in range(one.issue, one.done + 1)}
        assert embedded(run.page)["layers"][label]["active_cycles"] == len(active) == busy_cycles(mine)
        assert layer["macs"] <= len(active) * 64
        assert max(layer["dram_bytes_read"], layer["dram_bytes_written"]) <= len(active) * bandwidth


def test_limits_of_partial_sums_are_those_of_the_layer(run):
    held = [layer["sums"] for layer in embedded(run.page)["layers"]]
    has_products = [layer["macs"] > 0 for layer in run.report["layers"]]
    assert [sums is not None for sums in held] == has_products
    widths = {(sums["width_bits"], sums["psum_bits"]) for sums in held if sums}
    assert widths == {(16, 14), (12, 12)}  # one layer runs at 12 bits
    for layer, sums in zip(run.report["layers"], held, strict=True):
        if sums:
            half = 1 << sums["seen_bits"] - 1
            assert -half <= layer["psum_min"] <= layer["psum_max"] < half
            assert sums["seen_bits"] <= sums["l1_bits"] <= sums["type_bits"]


# --- the command -------------------------------------------------------------------------------------------


def test_run_and_simulate_write_the_page_and_where_it_lies_changes_nothing(tmp_path, capsys):
    options = ["lenet5_digits", "--set", "array.dataflow=os", "--telemetry"]
    first, second = tmp_path / "a.html", tmp_path / "deep" / "b.html"
    second.parent.mkdir()
    assert main(["run", *options, "--html", str(first)]) == 0
    assert main(["run", *options, f"--html={second}", "--json", str(tmp_path / "r.json")]) == 0
    assert first.read_bytes() == second.read_bytes()
    held = embedded(first.read_text(encoding="utf-8"))
    assert held["command"] == "accelsim run lenet5_digits --set array.dataflow=os --telemetry"
    assert {"accelsim", "python", "numpy", "simpy", "torch"} == held["versions"].keys()
    report = json.loads((tmp_path / "r.json").read_text())
    assert held["report"] == {key: value for key, value in report.items() if key != "outputs"}
    assert main(["compile", *options[:3], "-o", str(tmp_path / "program")]) == 0
    assert main(["simulate", str(tmp_path / "program"), "--html", str(second)]) == 0
    held = embedded(second.read_text(encoding="utf-8"))
    assert held["command"].startswith("accelsim simulate ")
    assert held["report"]["totals"] == report["totals"]
    capsys.readouterr()
    assert main(["run", "lenet5_digits", "--html", str(tmp_path / "none" / "a.html")]) == 2
    assert capsys.readouterr().err.startswith(f"accelsim: error: {tmp_path}/none/a.html: there is no folder ")


# --- in a browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    options = {"viewport": {"width": 1280, "height": 900}, "offline": True, "has_touch": True}
    with browser(tmp_path_factory.mktemp("profile"), **options) as opened:
        yield opened


@pytest.fixture(scope="module")
def path(run, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("page") / "run.html"
    file.write_text(run.page, encoding="utf-8")
    return file


@pytest.fixture
def page(context, path):
    """The page, opened and unpacked; whatever the browser complains of, or asks for, fails the test."""
    opened, complaints, asked = context.new_page(), [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(path.as_uri())
    opened.wait_for_selector("html[data-ready]")
    yield opened
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert opened.evaluate("window.hit") is None
    opened.close()


def number(text: str) -> float | None:
    return None if text == "–" else float(re.sub(r"[,%<]", "", text))


def column(page, name: str) -> list[float | None]:
    heads = [re.sub(r" [▲▼]$", "", text) for text in page.locator("#head th").all_text_contents()]
    cells = page.locator(f"#body tr > :nth-child({heads.index(name) + 1})").all_text_contents()
    return [number(text) for text in cells]


def cards(page) -> dict[str, list[str]]:
    return {
        one.locator("dt").text_content(): one.locator("dd").all_text_contents()
        for one in page.locator("#cards div").all()
    }


def test_numbers_shown_are_those_of_the_report(page, run):
    totals, layers = run.report["totals"], run.report["layers"]
    shown = cards(page)
    assert shown["Cycles"][0] == f"{totals['cycles']:,}"
    assert shown["Utilisation"][0] == f"{100 * totals['utilization']:.1f} %"
    assert number(shown["Energy"][1].removesuffix("pJ a batch")) == pytest.approx(totals["energy"], abs=0.05)
    assert shown["Products"][0] == f"{totals['macs']:,} MACs"
    assert column(page, "cycles") == [layer["cycles"] for layer in layers]
    assert column(page, "MACs") == [layer["macs"] for layer in layers]
    assert column(page, "stalls") == [sum(layer["stall_cycles"].values()) for layer in layers]
    assert column(page, "DRAM read") == [layer["dram_bytes_read"] for layer in layers]
    assert column(page, "energy (pJ)") == pytest.approx([layer["energy"] for layer in layers], abs=0.05)
    assert column(page, "least sum") == [layer["psum_min"] for layer in layers]
    assert column(page, "overflows") == [layer["overflows"] for layer in layers]
    over = sum(layer["overflows"] for layer in layers)
    assert over
    assert f"{over:,} additions overflowed" in page.locator("#badges").text_content()
    spent = {op: entry["energy"] for op, entry in run.report["energy_by_op"].items() if entry["energy"]}
    operations = zip(
        page.locator("#opbody th").all_text_contents(),
        page.locator("#opbody td:nth-child(2)").all_text_contents(),
        strict=True,
    )
    assert {op: number(text) for op, text in operations} == pytest.approx(spent, abs=0.05)


def test_the_table_sorts_by_click_and_by_key(page, run):
    cycles = sorted(layer["cycles"] for layer in run.report["layers"])
    button = page.locator("#head th:nth-child(3) button")
    button.click()  # numbers begin with the largest
    assert column(page, "cycles") == cycles[::-1]
    assert page.locator("#head th[aria-sort]").get_attribute("aria-sort") == "descending"
    button.focus()
    page.keyboard.press("Enter")
    assert column(page, "cycles") == cycles
    assert page.locator("#head th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.locator("#head th:nth-child(11) button").click()  # what is not there comes last
    assert column(page, "least sum")[-1] is None
    page.locator("#head th:first-child button").click()
    assert column(page, "cycles") == [layer["cycles"] for layer in run.report["layers"]]


def shown_range(page) -> tuple[int, int]:
    page.wait_for_timeout(50)  # a frame
    found = re.match(r"cycles ([\d,]+) to ([\d,]+) of", page.locator("#range").text_content())
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def settled(page, holds) -> None:
    """Wait at most two seconds: the browser scrolls in its own time, and the page's policy forbids Playwright's way."""
    for _ in range(40):
        if holds():
            return
        page.wait_for_timeout(50)
    pytest.fail("the page did not settle")


def test_the_timeline_zooms_by_button_wheel_key_and_drag(page, run):
    last = run.report["totals"]["cycles"] - 1
    assert shown_range(page) == (0, last)
    page.click("#in")
    low, high = shown_range(page)
    assert high - low == pytest.approx(last / 2, abs=2)
    page.click("#right")
    assert shown_range(page)[0] > low
    page.click("#fit")
    assert shown_range(page) == (0, last)
    canvas = page.locator("#time")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + 90
    page.mouse.move(x, y)
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 40)  # before a click the wheel belongs to the page
    settled(page, lambda: page.evaluate("scrollY") != before)
    assert shown_range(page) == (0, last)
    page.mouse.wheel(0, -40)
    settled(page, lambda: page.evaluate("scrollY") == before)
    page.mouse.click(x, y)
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(100)
    low, high = shown_range(page)
    assert high - low < 0.6 * last
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 100, y, steps=3)
    page.mouse.up()
    assert shown_range(page)[0] > low
    page.keyboard.press("0")
    assert shown_range(page) == (0, last)
    page.keyboard.press("+")
    assert shown_range(page)[1] < last


def fields(page) -> tuple[int, str]:
    """The chosen instruction's place in the program, and its fields as assembler text."""
    unit, index = re.match(r"(\w+): instruction ([\d,]+) of", page.locator("#instruction h3").text_content()).groups()
    words = ["=".join(one.split(" ", 1)) for one in page.locator("#instruction li").all_text_contents()]
    return int(index.replace(",", "")), f"{unit:<7} " + " ".join(words)


def test_a_click_or_a_key_shows_an_instruction_with_all_its_fields(page, run):
    program, timeline = run.outcome.program, run.outcome.timed.timeline
    total = run.report["totals"]["cycles"]
    longest = max((one for one in timeline if one.unit is Unit.LOAD), key=lambda one: one.done - one.issue)
    box = page.locator("#time").bounding_box()
    left, width = 76, box["width"] - 76 - 6
    at = left + (longest.issue + longest.done + 1) / 2 / total * width
    page.locator("#time").click(position={"x": at, "y": 48})
    assert fields(page) == (longest.index, to_text(program.instructions[longest.index]))
    assert f"issue {longest.issue:,}, done {longest.done:,}" in page.locator("#instruction p").text_content()
    page.keyboard.press("ArrowRight")
    loads = [one.index for one in timeline if one.unit is Unit.LOAD]
    following = loads[min(loads.index(longest.index) + 1, len(loads) - 1)]
    assert fields(page) == (following, to_text(program.instructions[following]))
    page.keyboard.press("ArrowDown")
    index, text = fields(page)
    assert text.startswith("COMPUTE")
    assert text == to_text(program.instructions[index])
    page.mouse.move(box["x"] + 300, box["y"] + 98)
    assert re.match(r"COMPUTE \d+, layer |$", page.locator("#tip").text_content())


def test_a_layer_is_taken_into_every_part(page, run):
    held = embedded(run.page)["layers"]
    label = next(label for label, layer in enumerate(run.report["layers"]) if layer["macs"] and label)
    layer = run.report["layers"][label]
    page.locator("#body button").nth(label).click()
    low, high = shown_range(page)
    assert low <= held[label]["first"]
    assert held[label]["last"] <= high
    assert f"{sum(layer['stall_cycles'].values()):,}" in page.locator("#stalled").text_content()
    waits = page.locator("#matrix tbody td").all_text_contents()
    expected = [
        "" if unit is source else f"{layer['stall_cycles'].get(f'{unit.name}_waits_for_{source.name}'.lower(), 0):,}"
        for unit in Unit
        for source in Unit
    ]
    assert [text for place, text in enumerate(waits) if place % 5 < 4] == expected
    page.locator("#grid").focus()
    page.keyboard.press("ArrowRight")
    shape = ArrayShape.of(run.outcome.program.hardware)
    computes = [one for one in run.outcome.program.instructions if isinstance(one, Compute) and one.label == label]
    macs = sum(int(pe_macs(compute, shape)[0, 0]) for compute in computes)
    assert page.locator("#pe").text_content().startswith(f"PE(0, 0): {macs:,} products, ")
    page.click("#whole")
    assert shown_range(page) == (0, run.report["totals"]["cycles"] - 1)


def test_hostile_names_are_text(page):
    assert page.locator("#name").text_content() == HOSTILE
    assert HOSTILE in page.locator("#machine").text_content()
    assert HOSTILE in page.locator("#body tr button").first.text_content()
    assert page.locator("#command").text_content() == COMMAND
    assert HOSTILE in page.locator("#versions").text_content()
    assert HOSTILE in page.locator("#ranges").text_content()
    page.locator("#body tr button").first.click()
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3


def test_a_phone_scrolls_only_downwards_and_dark_is_dark(page):
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    page.click("#theme")
    assert page.evaluate(colour) == "rgb(22, 24, 27)"
    page.emulate_media(media="print")
    assert page.evaluate(colour) == "rgb(255, 255, 255)"  # on paper it is light
    assert not page.locator("#nav").is_visible()
    page.emulate_media(media="null")
    assert page.evaluate(colour) == "rgb(22, 24, 27)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")  # before there is a page of paper, drawings have its width
    assert page.evaluate("document.body.clientWidth") == pytest.approx(186 / 25.4 * 96, abs=1)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(colour) == "rgb(22, 24, 27)"
    page.set_viewport_size({"width": 1280, "height": 900})


def test_two_fingers_zoom_and_one_moves(page, context, run):
    canvas = page.locator("#time")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    fingers = context.new_cdp_session(page)

    def touch(kind: str, *across: float) -> None:
        points = [{"x": x, "y": box["y"] + 90, "id": number} for number, x in enumerate(across)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 500, 600)
    for away in range(0, 110, 10):
        touch("touchMove", 500 - away, 600 + away)
    touch("touchEnd")
    low, high = shown_range(page)
    assert high - low == pytest.approx(run.report["totals"]["cycles"] / 3, rel=0.1)
    touch("touchStart", 600)
    for away in range(0, 110, 10):
        touch("touchMove", 600 - away)
    touch("touchEnd")
    assert shown_range(page)[0] > low


def test_sums_that_were_not_watched_say_how_to_watch_them(context, tmp_path):
    (tmp_path / "run.html").write_text(ran((), telemetry=False).page, encoding="utf-8")
    opened = context.new_page()
    opened.goto((tmp_path / "run.html").as_uri())
    assert "--telemetry" in opened.locator("#summed").text_content()
    opened.close()
