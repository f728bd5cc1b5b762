"""The notebooks: valid, without outputs, and every cell runs and shows what the text around it says.

They are run with nothing but Python: the cells hold no magics, so a kernel would add processes, sockets and some thirty
packages, and check nothing more.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from notebook_cells import run_cells

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass
class Executed:
    """What a notebook left behind: its variables, and by cell the last expression's value and the printed text."""

    variables: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)


def execute(path: Path) -> Executed:
    """Run the code cells in order, as a fresh kernel does."""
    done = Executed()
    for shown in run_cells(read(path), path.name, done.variables):
        done.printed[shown.cell] = shown.printed
        if shown.value is not None:
            done.values[shown.cell] = shown.value
    return done


def pictures(done: Executed) -> list[str]:
    """Cells that show a picture, each of a size worth looking at and different from the others."""
    found = {cell: value._repr_png_() for cell, value in done.values.items() if hasattr(value, "_repr_png_")}
    assert len(set(found.values())) == len(found)
    for cell, png in found.items():
        assert png.startswith(b"\x89PNG\r\n\x1a\n"), cell
        width, height = struct.unpack(">II", png[16:24])
        assert min(width / 400, height / 200) > 1, cell
    return list(found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_valid_format_4_5_without_outputs(path):
    """The keys that the format's schema requires, and no others; what a run leaves behind is not committed."""
    notebook = read(path)
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook["cells"]:
        own = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "id", "metadata", "source", *own}
        assert cell["cell_type"] in ("code", "markdown")
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        assert cell["metadata"] == {}
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert all(line.endswith("\n") for line in cell["source"][:-1])
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_begins_with_what_one_learns_and_ends_with_an_exercise(path):
    cells = [cell for cell in read(path)["cells"] if cell["cell_type"] == "markdown"]
    assert "**You learn**" in "".join(cells[0]["source"])
    assert "".join(cells[-1]["source"]).startswith("## Exercise\n")
    assert cells[-1] == read(path)["cells"][-1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_links_of_a_notebook_lead_to_a_file(path):
    text = "\n".join("".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    targets = re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", text)
    assert targets
    for target, heading in targets:
        page = path.parent / target
        assert page.exists(), target
        headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert not heading or heading in {name.lower().replace(" ", "-") for name in headings}, heading


# --- first_steps: facts about what it left behind ---------------------------------------------------------


def is_bit_exact_and_right_about_its_digits(done: Executed) -> None:
    assert done.values["run"] == (None, 4, 1.0)
    assert "taken for a" in done.printed["run"]
    assert done.values["quantise"][0][1:] == ("input", (32, 32, 1))
    assert len(done.values["quantise"]) == len(done.variables["graph"].nodes)


def shows_cycles_and_energy_that_add_up(done: Executed) -> None:
    report = done.variables["report"]
    assert sum(layer["cycles"] for layer in report["layers"]) == report["totals"]["cycles"]
    assert sum(op["energy"] for op in report["energy_by_op"].values()) == pytest.approx(
        report["totals"]["energy"], rel=1e-12
    )  # each figure is rounded once, to a float
    assert f"{report['totals']['cycles']:,}" in done.printed["report"]


def says_which_layers_wait(done: Executed) -> None:
    """'The second convolution keeps the array busy. The fully connected layers do not.'"""
    use = {layer["name"]: layer["utilization"] for layer in done.variables["report"]["layers"]}
    assert max(use, key=use.__getitem__) == "c3"
    assert use["c3"] > 0.5
    assert max(use[name] for name in ("c5", "f6", "output")) < 0.1


def has_five_pictures(done: Executed) -> None:
    assert pictures(done) == ["utilization", "timeline", "energy", "width-figure", "why"]


def shares_weights_in_a_batch(done: Executed) -> None:
    cycles = done.values["machines"]
    assert cycles["ws", 1] == done.variables["report"]["totals"]["cycles"]
    assert all(cycles[dataflow, 4] < cycles[dataflow, 1] for dataflow in ("ws", "os"))
    assert cycles["ws", 1] != cycles["os", 1]


def finds_the_width_at_which_accuracy_falls(done: Executed) -> None:
    """At 20 bits as good as the float network; at 14 broken; wrapping never better than saturating by more than chance.

    By chance: one image of 48 is 2.1 %, and guessing one class in ten has a standard deviation of 4.3 %.
    """
    accuracy = done.variables["accuracy"]
    widths = done.variables["widths"]
    assert min(accuracy["saturate", 20], accuracy["wrap", 20]) >= 0.98
    assert accuracy["saturate", 14] < 0.75
    assert accuracy["wrap", 14] < accuracy["saturate", 14]
    for wide, narrow in pairwise(widths):
        for overflow in ("saturate", "wrap"):
            assert accuracy[overflow, narrow] <= accuracy[overflow, wide] + 0.08
    assert all(accuracy["wrap", width] <= accuracy["saturate", width] + 0.08 for width in widths)


def says_where_it_breaks_and_stays_bit_exact_there(done: Executed) -> None:
    mismatch, overflows = done.values["saved"]
    assert mismatch is None
    assert overflows.keys() == {layer["name"] for layer in done.variables["report"]["layers"]}
    assert overflows["c3"] > 0
    assert all(layer["overflows"] == 0 for layer in done.variables["report"]["layers"])  # at 32 bits


FIRST_STEPS = (
    is_bit_exact_and_right_about_its_digits,
    shows_cycles_and_energy_that_add_up,
    says_which_layers_wait,
    has_five_pictures,
    shares_weights_in_a_batch,
    finds_the_width_at_which_accuracy_falls,
    says_where_it_breaks_and_stays_bit_exact_there,
)


def test_first_steps_runs_and_shows_what_its_text_says():
    """One test, so that the workers of pytest-xdist do not each run the notebook."""
    done = execute(ROOT / "notebooks" / "1_first_steps.ipynb")
    for fact in FIRST_STEPS:
        fact(done)


# --- from PyTorch to bits ---------------------------------------------------------------------------------


def computes_the_machines_bits_by_hand(done: Executed) -> None:
    """The codes and every output of the layer; real sums as close as eight bits are."""
    assert done.values["calibrate"] is True
    assert done.values["machine"] == (None, True)
    total, real, wanted = done.values["sum"]
    assert total > 0
    assert abs(real - wanted) < 0.01 * abs(wanted)
    held, multiplier, by_hand = done.values["requantise"]
    assert abs(held / multiplier - 1) < 2**-23  # the scales are float32 here
    assert by_hand == done.variables["outcome"].tensors["c1"][0, 10, 10, 0]


def rounds_by_half_a_step_at_most(done: Executed) -> None:
    low, high, error = done.values["scale"]
    assert low >= -127
    assert high == 127
    assert 0.4 < error <= 0.5 + 1e-4  # of float32 weights


def loses_accuracy_with_bits_and_less_with_a_scale_a_channel(done: Executed) -> None:
    accuracy = done.values["bits"]
    assert accuracy["channel", 8] == accuracy["tensor", 8] > 0.98
    assert accuracy["tensor", 2] < 0.5
    assert accuracy["tensor", 3] < accuracy["channel", 3]


def test_from_pytorch_to_bits_runs_and_shows_what_its_text_says():
    pytest.importorskip("torch")
    done = execute(ROOT / "notebooks" / "2_quantization.ipynb")
    assert pictures(done) == ["scale-figure", "machine-figure", "bits-figure"]
    computes_the_machines_bits_by_hand(done)
    rounds_by_half_a_step_at_most(done)
    loses_accuracy_with_bits_and_less_with_a_scale_a_channel(done)


# --- how narrow may the accumulator be? -------------------------------------------------------------------


def wraps_back_to_the_exact_sum_and_saturates_to_another(done: Executed) -> None:
    back, out = done.values["trace"]["comes back"], done.values["trace"]["ends far out"]
    assert back["wraps"] == back["exact"]
    assert back["saturates"] * back["exact"] < 0  # 'even the sign is wrong'
    assert out["saturates"] == -(2**15)  # 'the nearest number it can'
    assert abs(out["wraps"] - out["exact"]) > abs(out["saturates"] - out["exact"])


def makes_the_order_part_of_the_result(done: Executed) -> None:
    exact, different, low, high = done.values["order"]
    assert exact == done.values["trace"]["comes back"]["exact"]
    assert different > 100
    assert low < exact < high


def bounds_from_type_to_accuracy(done: Executed) -> None:
    """Type >= l1 >= observed >= accuracy; and the surprise: one layer alone needs more than all together."""
    needs = done.variables["needs"]
    assert list(needs) == ["c1", "c3", "c5", "f6", "output"]
    assert all(row == sorted(row, reverse=True) for row in needs.values())
    accuracy = done.values["cost"]
    assert accuracy[18] == accuracy[32] > accuracy[17]
    assert done.values["alone"]["c3"] == 19 > 18


def shows_which_energy_depends_on_the_width(done: Executed) -> None:
    parts = done.variables["parts"]
    assert parts[14]["multipliers"] == parts[32]["multipliers"]
    for place in ("adders", "partial-sum registers", "accumulator memory"):
        assert parts[14][place] < parts[18][place] < parts[32][place]


def test_how_narrow_the_accumulator_may_be_runs_and_shows_what_its_text_says():
    pytest.importorskip("torch")
    done = execute(ROOT / "notebooks" / "3_accumulator.ipynb")
    assert pictures(done) == ["trace-figure", "bounds-figure", "cost-figure"]
    wraps_back_to_the_exact_sum_and_saturates_to_another(done)
    makes_the_order_part_of_the_result(done)
    bounds_from_type_to_accuracy(done)
    shows_which_energy_depends_on_the_width(done)


# --- golden vectors ---------------------------------------------------------------------------------------


def test_golden_vectors_runs_and_shows_what_its_text_says():
    pytest.importorskip("torch")
    done = execute(ROOT / "notebooks" / "4_golden_vectors.ipynb")
    assert pictures(done) == ["wave", "map"]
    by_hand, stored = done.values["hex"]
    assert by_hand == stored
    assert done.values["design"] == [True, False]  # the right design passes, the one that wraps does not
    assert "cause: overflow: additions wrap instead of saturating" in done.printed["check"]
    first = done.variables["found"].first
    assert first.expected == -(2**15)
    assert first.got > 0  # it came out at the other end
    assert "tile.weight" in done.printed["tensors"]
    assert "accumulator.back_from_minimum      hit" in done.printed["coverage"]


# --- design_space -----------------------------------------------------------------------------------------


def has_a_front_that_is_narrow(done: Executed) -> None:
    """'Every machine of the front has the narrowest accumulator', and most machines are beaten."""
    best, good = done.values["front"], done.variables["good"]
    assert set(best["hardware.accumulator.width_bits"]) == {18}
    assert 1 < len(best) < len(good) / 2


def keeps_every_point_and_says_why_some_have_no_figures(done: Executed) -> None:
    assert done.values["sweep"] == {"done": 45, "infeasible": 3}
    assert done.values["infeasible"].startswith(
        "constraint not met: hardware.array.rows * hardware.array.columns <= 512"
    )
    assert done.values["store"] == (True, 48)


def shows_energy_that_rises_with_the_width(done: Executed) -> None:
    table = done.values["axes"]
    assert table.shape == (4, 3)
    assert all(low < high for row in table.to_numpy() for low, high in pairwise(row))
    total = done.values["places"].sum()
    assert total.tolist() == sorted(total)
    assert done.values["front-figure"]._repr_png_().startswith(b"\x89PNG\r\n\x1a\n")


def test_design_space_runs_and_shows_what_its_text_says():
    pytest.importorskip("pandas")
    done = execute(ROOT / "notebooks" / "5_design_space.ipynb")
    for fact in (
        has_a_front_that_is_narrow,
        keeps_every_point_and_says_why_some_have_no_figures,
        shows_energy_that_rises_with_the_width,
    ):
        fact(done)
