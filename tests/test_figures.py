"""The figures of a run: what is drawn is what the report and the counters say, and the files come out alike."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from graphs import GraphMaker, random_graph

from accelsim.accounting import price
from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.energy import PLACES, load_energy
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, Mac, bits_for, proved_overflow_free, width_bounds
from accelsim.isa import Unit
from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.pipeline import Outcome, run_checked
from accelsim.report import build_report
from accelsim.report.drawing import LAYER_COLOURS, PLACE_COLOURS, render
from accelsim.report.figures import (
    energy_figure,
    partial_sum_figure,
    timeline_figure,
    utilization_figure,
    write_figures,
)

matplotlib = pytest.importorskip("matplotlib")

FIXED = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_UP)


def small_network() -> GraphMaker:
    maker = GraphMaker(np.random.default_rng(1), FIXED)
    node = maker.input(8, 8, 3)
    node = maker.conv(node, 10, (3, 3), padding=(1, 1, 1, 1))
    node = maker.pool(node, "max", (2, 2), (2, 2))
    node = maker.conv(node, 6, (3, 3), width=12)
    maker.linear(node, 5)
    return maker


def run(maker: GraphMaker, sets: tuple[str, ...] = (), batch: int = 1, telemetry: bool = True):
    """A checked run on the small machine, with its graph, its report and its priced energy."""
    graph = maker.graph()
    hardware = load_hardware("edge_8x8", list(sets))
    outcome = run_checked(compile_graph(graph, hardware, batch), graph, maker.codes(batch), telemetry=telemetry)
    energy = price(outcome, graph, load_energy("horowitz_45nm"))
    report = json.loads(json.dumps(build_report(outcome, graph, energy)))  # as read back from a file
    return outcome, graph, report, energy


@pytest.fixture(scope="module")
def narrow():
    return run(small_network(), ("accumulator.width_bits=16", "array.psum_bits=14"))


@pytest.fixture(scope="module")
def interleaved():
    """Two images that go through all layers one after the other."""
    return run(small_network(), ("activation.memory_bytes=600",), batch=2)


def texts(figure) -> list[str]:
    found = [*figure.texts, figure._suptitle, *(text for axes in figure.axes for text in axes.texts)]
    return [text.get_text() for text in found]


def by_gid(axes, gid: str) -> list:
    return [artist for artist in axes.get_children() if artist.get_gid() == gid]


def spans(collection) -> list[tuple[float, float]]:
    """(first cycle, cycles) of the bars of a `broken_barh`."""
    edges = [path.vertices[:, 0] for path in collection.get_paths()]
    return [(float(x.min()), float(x.max() - x.min())) for x in edges]


# --- energy ------------------------------------------------------------------------------------------------


def test_bars_are_the_energies_of_the_report_by_place(narrow):
    _, _, report, energy = narrow
    everything, without_dram, _ = energy_figure(report).axes
    for axes in (everything, without_dram):
        for bars in axes.containers:
            place = bars.get_label()
            expected = [
                sum(float(layer.by_op[op].energy) for op in PLACES[place] if op in layer.by_op)
                for layer in energy.layers
            ]
            assert [bar.get_width() for bar in bars] == pytest.approx(expected, rel=1e-12)
            assert {matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in bars} == {PLACE_COLOURS[place]}
    drawn = [[bars.get_label() for bars in axes.containers] for axes in (everything, without_dram)]
    assert drawn[0] == [place for place in PLACES if place != "idle"]  # Horowitz prices idle at zero
    assert drawn[1] == [place for place in drawn[0] if place != "DRAM"]
    ends = [max(bars[row].get_x() + bars[row].get_width() for bars in everything.containers) for row in range(3)]
    assert ends == pytest.approx([layer["energy"] for layer in report["layers"]], rel=1e-12)


def test_dots_are_the_energies_of_the_report_by_operation(narrow):
    _, _, report, _ = narrow
    axes = energy_figure(report).axes[2]
    names = [label.get_text() for label in axes.get_yticklabels()]
    (dots,) = axes.collections
    assert dict(zip(names, dots.get_offsets()[:, 0], strict=True)) == {
        op: entry["energy"] for op, entry in report["energy_by_op"].items() if entry["energy"]
    }


def test_the_energy_figure_names_table_unit_and_zeros(narrow):
    outcome, graph, report, _ = narrow
    figure = energy_figure(report)
    assert any("energy table horowitz_45nm; counted as zero: idle" in text for text in texts(figure))
    assert [axes.get_xlabel() for axes in figure.axes] == ["energy (nJ)", "energy (nJ)", "energy (pJ), logarithmic"]
    relative = build_report(outcome, graph, price(outcome, graph, load_energy("eyeriss_relative")))
    assert "relative units" in energy_figure(relative).axes[0].get_xlabel()


def test_a_table_that_prices_arithmetic_only_gets_one_panel(narrow):
    _, _, report, _ = narrow
    kept = {"mul", "add.array"}

    def only(energies):
        return {op: entry if op in kept else {**entry, "energy": 0} for op, entry in energies.items()}

    layers = [{**layer, "energy_by_op": only(layer["energy_by_op"])} for layer in report["layers"]]
    figure = energy_figure({**report, "layers": layers, "energy_by_op": only(report["energy_by_op"])})
    bars, dots = figure.axes
    assert [container.get_label() for container in bars.containers] == ["multipliers", "adders"]
    assert len(dots.get_yticks()) == 2
    nothing = energy_figure({**report, "layers": [{**x, "energy_by_op": {}} for x in layers], "energy_by_op": {}})
    assert [len(axes.containers) for axes in nothing.axes] == [0, 0]


# --- utilization -------------------------------------------------------------------------------------------


def test_bars_and_diamonds_are_cycles_and_utilization_of_the_report(narrow):
    _, _, report, _ = narrow
    cycles, shares = utilization_figure(report).axes
    layers, pes = report["layers"], 64
    assert [bar.get_width() for bar in cycles.containers[0]] == [layer["array_span_cycles"] for layer in layers]
    assert cycles.lines[0].get_xdata().tolist() == [layer["cycles"] for layer in layers]
    assert [bar.get_width() for bar in shares.containers[0]] == pytest.approx(
        [100 * layer["macs"] / (layer["array_span_cycles"] * pes) for layer in layers]
    )
    diamonds, mean = shares.lines
    assert diamonds.get_xdata() == pytest.approx([100 * layer["utilization"] for layer in layers])
    assert mean.get_xdata()[0] == pytest.approx(100 * report["totals"]["utilization"])
    assert (cycles.get_xlabel(), shares.get_xlabel()[-3:]) == ("cycles", "(%)")


def test_no_bar_exceeds_100_percent_where_images_run_one_after_another(interleaved):
    _, _, report, _ = interleaved
    assert all(layer["utilization"] <= 1 for layer in report["layers"])  # a layer's passes are added up
    _, shares = utilization_figure(report).axes
    assert max(bar.get_width() for bar in shares.containers[0]) <= 100


# --- timeline ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["narrow", "interleaved"])
def test_every_bar_of_the_timeline_is_an_instruction_from_issue_to_done(request, which):
    outcome, _, _, _ = request.getfixturevalue(which)
    (axes,) = timeline_figure(outcome).axes
    drawn = 0
    for unit in Unit:
        for label, layer in enumerate(outcome.program.layers):
            mine = [x for x in outcome.timed.timeline if (x.unit, x.label) == (unit, label)]
            bars = by_gid(axes, f"busy {unit.name} {layer.name}")
            assert [span for bar in bars for span in spans(bar)] == [(x.issue, x.done + 1 - x.issue) for x in mine]
            for bar in bars:
                assert matplotlib.colors.to_hex(bar.get_facecolor()[0]).upper() == LAYER_COLOURS[label]
            drawn += len(mine)
    assert drawn == len(outcome.program.instructions)


@pytest.mark.parametrize("which", ["narrow", "interleaved"])
def test_stall_strips_add_up_to_the_counters_and_end_at_an_issue(request, which):
    outcome, _, report, _ = request.getfixturevalue(which)
    (axes,) = timeline_figure(outcome).axes
    counted: dict[str, int] = {}
    for layer in report["layers"]:
        for cause, cycles in layer["stall_cycles"].items():
            counted[cause] = counted.get(cause, 0) + cycles
    found = {}
    for unit in Unit:
        stalls = []
        for source in Unit:
            for strip in by_gid(axes, f"stall {unit.name} {source.name}"):
                found[f"{unit.name.lower()}_waits_for_{source.name.lower()}"] = sum(n for _, n in spans(strip))
                stalls += spans(strip)
        ends = {first + cycles for first, cycles in stalls}
        issues = {x.issue for x in outcome.timed.timeline if x.unit is unit}
        assert ends <= issues | {first for first, _ in stalls}  # or the next cause takes over
        stalls.sort()
        assert all(first + n <= after for (first, n), (after, _) in pairwise(stalls))
    assert found == counted


def test_busy_shares_count_overlapping_computes_once(narrow):
    outcome, _, _, _ = narrow
    figure = timeline_figure(outcome)
    total = outcome.timed.cycles
    for unit in Unit:
        mine = [x for x in outcome.timed.timeline if x.unit is unit]
        busy = np.zeros(total, bool)
        for x in mine:
            busy[x.issue : x.done + 1] = True
        stalled = sum(n for x in mine for _, n in x.stalls)
        shown = f"busy {100 * busy.sum() / total:.1f} %\nstalled {100 * stalled / total:.1f} %"
        assert shown in texts(figure), unit


def test_the_ribbon_covers_every_cycle_once_in_the_order_of_the_array(interleaved):
    outcome, _, _, _ = interleaved
    (axes,) = timeline_figure(outcome).axes
    parts = sorted(
        (*span, artist.get_gid())
        for artist in axes.collections
        if (artist.get_gid() or "").startswith("layer ")
        for span in spans(artist)
    )
    assert [first for first, _, _ in parts] == [0, *(first + took for first, took, _ in parts[:-1])]
    assert parts[-1][0] + parts[-1][1] == outcome.timed.cycles
    names = [f"layer {layer.name}" for layer in outcome.program.layers]
    assert [name for _, _, name in parts] == 2 * names


def test_a_run_without_a_clock_has_no_timeline(narrow):
    outcome, _, _, _ = narrow
    without = Outcome(outcome.program, outcome.machine, outcome.machine.run(clock=False, values=False))
    with pytest.raises(ValueError, match="no clock"):
        timeline_figure(without)


# --- partial sums ------------------------------------------------------------------------------------------


def test_ranges_limits_and_overflows_are_those_of_the_report(narrow):
    _, graph, report, _ = narrow
    figure = partial_sum_figure(report, graph)
    values, widths = figure.axes
    for container, layer in zip(values.containers, report["layers"], strict=True):
        (bar,) = container
        assert (bar.get_x(), bar.get_x() + bar.get_width()) == (layer["psum_min"], layer["psum_max"])
        node = graph.by_name[layer["name"]]
        wide = node.accumulator_width_bits or 16
        bits = [wide, min(14, wide)] if wide > 14 else [wide]
        limits = [line.get_xdata()[0] for line in by_gid(values, f"limit {layer['name']}")]
        assert limits == [limit for b in bits for limit in (-(2 ** (b - 1)), 2 ** (b - 1) - 1)]
        assert [line.get_xdata()[0] for line in by_gid(widths, f"width {layer['name']}")] == bits
        (seen,) = by_gid(widths, f"observed {layer['name']}")
        assert seen.get_xdata()[0] == bits_for(layer["psum_min"], layer["psum_max"])
        bounds = width_bounds(graph, node)
        for name, expected in (("l1", bounds.l1), ("type", bounds.type)):
            (mark,) = by_gid(widths, f"{name} {layer['name']}")
            assert mark.get_xdata()[0] == expected
        assert f"{layer['overflows']:,}" in texts(figure)
    assert sum(layer["overflows"] for layer in report["layers"]) > 0


@pytest.mark.parametrize(
    "sets, said",
    [
        ((), "zero points folded, saturating at every add, bias in the PPU"),
        (("accumulator.saturate_at=end",), "zero points folded, saturating at the end of the sum, bias in the PPU"),
        (("accumulator.overflow=wrap",), "zero points folded, wrapping at every add, bias in the PPU"),
    ],
)
def test_the_title_says_zero_points_and_what_an_overflow_does(sets, said):
    _, graph, report, _ = run(small_network(), sets)
    assert any(said in text for text in texts(partial_sum_figure(report, graph)))


def test_sums_that_were_not_watched_are_said_so_and_bounds_stay():
    _, graph, report, _ = run(small_network(), ("accumulator.width_bits=16",), telemetry=False)
    figure = partial_sum_figure(report, graph)
    values, widths = figure.axes
    assert not values.containers
    assert "not watched" in texts(figure)
    assert any("--telemetry" in text for text in texts(figure))
    assert by_gid(widths, f"l1 {report['layers'][0]['name']}")


def test_a_network_without_products_gets_a_figure_that_says_so():
    maker = GraphMaker(np.random.default_rng(1), FIXED)
    maker.pool(maker.input(6, 6, 4), "max", (2, 2), (2, 2))
    outcome, graph, report, _ = run(maker)
    assert "no layer of this network adds products" in texts(partial_sum_figure(report, graph))
    assert all(bar.get_width() == 0 for bar in utilization_figure(report).axes[1].containers[0])
    assert timeline_figure(outcome).axes


@pytest.mark.parametrize("k, bits", [(25, 20), (150, 23), (400, 24), (120, 22), (84, 22)])
def test_bounds_by_type_of_lenet5_are_those_of_the_literature(k, bits):
    """25 products of at most 128 * 128 are 409,600 at most, which 20 bits hold and 19 do not; and so on."""
    maker = GraphMaker(np.random.default_rng(0), FIXED)
    maker.linear(maker.input(1, 1, k), 3)
    assert width_bounds(maker.graph(), maker.nodes[1]).type == bits


@pytest.mark.parametrize("seed", range(10))
def test_the_l1_bound_is_the_narrowest_width_the_weights_prove_safe_and_no_sum_needs_more(seed):
    maker = random_graph(np.random.default_rng(seed))
    graph = maker.graph()
    hardware = load_hardware("edge_8x8", ["accumulator.width_bits=32", "activation.memory_bytes=65536"])
    outcome = run_checked(compile_graph(graph, hardware, 1), graph, maker.codes(1), telemetry=True)
    report = build_report(outcome, graph, price(outcome, graph, load_energy("horowitz_45nm")))
    for layer in report["layers"]:
        node = graph.by_name[layer["name"]]
        if isinstance(node, Mac):
            bounds = width_bounds(graph, node)
            assert bits_for(layer["psum_min"], layer["psum_max"]) <= bounds.l1 <= bounds.type
            assert [proves(graph, node, bounds.l1 - less) for less in (0, 1)] == [True, bounds.l1 <= 8]


def proves(graph: IntegerGraph, node: Mac, bits: int) -> bool:
    """Whether the pipeline's own proof holds at this width."""
    arithmetic = load_hardware("edge_8x8", [f"accumulator.width_bits={max(bits, 8)}"]).arithmetic()
    return proved_overflow_free(graph, replace(node, accumulator_width_bits=None), arithmetic)


# --- files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(narrow, tmp_path_factory):
    outcome, graph, _, energy = narrow
    return write_figures(outcome, graph, energy, tmp_path_factory.mktemp("figures") / "a" / "b")


def test_files_are_the_same_byte_for_byte_whatever_the_users_settings(narrow, files, tmp_path):
    outcome, graph, _, energy = narrow
    names = ["energy", "utilization", "timeline", "partial_sums"]
    assert [path.name for path in files] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30, "svg.hashsalt": None}):
        mine = dict(matplotlib.rcParams)
        again = write_figures(outcome, graph, energy, tmp_path)
        assert dict(matplotlib.rcParams) == mine
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files}


def test_noise_in_the_layout_solver_reaches_no_file(narrow, monkeypatch):
    """kiwisolver's sums differ in their last bits from process to process."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    report = narrow[2]
    plain = render(energy_figure(report), "svg")
    execute = ConstrainedLayoutEngine.execute

    def noisy(self, figure):
        solved = execute(self, figure)
        for axes in figure.axes:
            axes._set_position([edge * (1 + 1e-11) for edge in axes.get_position(original=True).bounds])
        return solved

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", noisy)
    assert render(energy_figure(report), "svg") == plain


def test_files_tell_neither_date_nor_version_nor_folder(narrow, files):
    pdf = render(utilization_figure(narrow[2]), "pdf")
    for content in (pdf, *(path.read_bytes() for path in files)):
        for trace in (b"<dc:date>", b"CreationDate", b"Matplotlib", str(files[0].parent).encode()):
            assert trace not in content


def test_a_layers_name_is_text_and_a_long_one_keeps_its_end(narrow):
    """Dollar signs would start a formula; module paths of deep networks are long."""
    report = narrow[2]
    names = ["$x_{", "very.long." * 8 + "conv", "linear"]
    report = {**report, "layers": [{**x, "name": n} for x, n in zip(report["layers"], names, strict=True)]}
    figure = energy_figure(report)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["$x_{", "…ery.long.very.long.conv", "linear"]
    assert render(figure, "svg")


def test_an_unknown_format_or_folder_is_one_line_and_nothing_is_written(narrow, tmp_path):
    outcome, graph, _, energy = narrow
    with pytest.raises(InputError, match=r"^'pgn' is not a format of figures; did you mean 'png'\?$"):
        write_figures(outcome, graph, energy, tmp_path / "a", ("pgn",))
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make this folder: File exists; name another"):
        write_figures(outcome, graph, energy, tmp_path / "file", ("svg",))


def test_without_matplotlib_the_remedy_is_one_line(narrow, tmp_path, monkeypatch):
    outcome, graph, _, energy = narrow
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError) as caught:
        write_figures(outcome, graph, energy, tmp_path / "a")
    assert str(caught.value) == (
        "figures need matplotlib, which is not installed; install it with pip install 'accelsim[plot]'"
    )
    assert not (tmp_path / "a").exists()


def test_neither_matplotlib_nor_pyplot_is_loaded_before_it_is_needed():
    script = (
        "import sys, accelsim.report.figures as f\n"
        "assert 'matplotlib' not in sys.modules\n"
        "f.energy_figure\n"
        "with f.style(): from matplotlib.figure import Figure\n"
        "f.render(Figure(), 'png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])


def test_neighbouring_layers_have_colours_of_their_own():
    assert len(set(LAYER_COLOURS)) == len(LAYER_COLOURS) >= 7
    assert PLACE_COLOURS.keys() == PLACES.keys()
    assert len(set(PLACE_COLOURS.values())) == len(PLACES)


def test_a_network_with_branches_and_pools_can_be_drawn(tmp_path):
    outcome, graph, _, energy = run(random_graph(np.random.default_rng(3)), ("array.dataflow=os",))
    assert len(write_figures(outcome, graph, energy, tmp_path, ("svg",))) == 4
