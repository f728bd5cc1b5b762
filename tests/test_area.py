"""The area table: what it holds, what it refuses, and that the script measures it again where yosys is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from refusals import refusal
from simulators import need

from accelsim.config import load_hardware
from accelsim.energy import load_area

ROOT = Path(__file__).resolve().parents[1]


def script():
    spec = importlib.util.spec_from_file_location("area_curve", ROOT / "benchmarks" / "area_curve.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["area_curve"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_table_has_every_width_and_area_grows_with_it():
    area = load_area()
    for points in (area.pe_points, area.ppu_lane_points):
        assert [point.width_bits for point in points] == list(range(12, 33))
        transistors = [point.transistors for point in points]
        assert transistors == sorted(transistors)
        assert transistors[0] < 0.8 * transistors[-1]
    # Registers of a PE: activation, weight and shadow of 9 bits, the partial sum; of a lane: value of W + 1 bits,
    # product of W + 33, rounded of W + 34, code of 8.
    assert all(point.flip_flops == 27 + point.width_bits for point in area.pe_points)
    assert all(point.flip_flops == 3 * point.width_bits + 76 for point in area.ppu_lane_points)
    assert area.tool.startswith("Yosys ")


def test_a_machine_is_its_pes_and_lanes():
    area = load_area()
    hardware = load_hardware("edge_8x8", ["accumulator.width_bits=24", "array.psum_bits=18"])
    assert area.machine_transistors(hardware) == 64 * area.pe(18).transistors + 8 * area.ppu_lane(24).transistors


def test_widths_that_were_not_measured_are_refused(tmp_path):
    assert "has no width 11; it has 12, 13, " in refusal(load_area().pe, 11)
    path = tmp_path / "mine.toml"
    point = "width_bits = {}\ncells = 5\nflip_flops = 2\ntransistors = 20\n"
    head = 'tool = "t"\nsource = "s"\n'
    path.write_text(head + "".join(f"[[{key}_points]]\n{point.format(16)}" for key in ("pe", "ppu_lane")))
    assert load_area(path).pe(16).cells == 5
    path.write_text(path.read_text() + f"[[pe_points]]\n{point.format(14)}")
    assert "pe_points: widths [16, 14] must rise" in refusal(load_area, path)
    path.write_text(head + f"[[pe_points]]\n{point.format(16)}")
    assert "key 'ppu_lane_points' is missing; add it" in refusal(load_area, path)
    assert "presets: generic_cells" in refusal(load_area, "generic")


def test_the_script_measures_a_pe_as_the_table_says():
    area_curve = script()
    yosys = area_curve.find_yosys()
    if yosys is None:
        pytest.skip("yosys is not installed")
    pe = area_curve.Design((ROOT / "accelsim" / "rtl" / "area" / "area_pe.sv",), "area_pe", "PSUM")
    small, large = (area_curve.synthesise(yosys, pe, width) for width in (12, 32))
    assert (small.flip_flops, large.flip_flops) == (27 + 12, 27 + 32)
    if area_curve.version(yosys) == load_area().tool:
        for point in (small, large):
            shipped = load_area().pe(point.width)
            assert (point.cells, point.transistors) == (shipped.cells, shipped.transistors)


@pytest.mark.parametrize(
    "widths", ["a:b", "12", "12:", "32:12", "12:32:0", "12:32:-4", "-4:12", "4:12", "12:65", "12:16:2:1", "1²:16", ""]
)
def test_widths_that_are_no_range_are_one_line(widths, capsys):
    with pytest.raises(SystemExit) as left:
        script().main([f"--widths={widths}"])
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{Path(sys.argv[0]).name}: error: argument --widths: {widths!r} is not FIRST:LAST or FIRST:LAST:STEP with "
        "8 <= FIRST <= LAST <= 64 and STEP >= 1, as in 12:32:4"
    )


def test_a_table_names_the_command_that_wrote_it(tmp_path, monkeypatch):
    """yosys is put aside: the widths, options and files of this call, not those of the shipped table."""
    area_curve = script()
    monkeypatch.setattr(area_curve, "find_yosys", lambda: "yosys")
    monkeypatch.setattr(area_curve, "version", lambda yosys: "Yosys 1")
    monkeypatch.setattr(
        area_curve, "synthesise", lambda yosys, design, width: area_curve.Point(width, 5, 2, 10 * width)
    )
    path = tmp_path / "mine.toml"

    def written(*options):
        assert area_curve.main([*options, "--output", str(path)]) == 0
        return path.read_text().splitlines()[1].removeprefix("# Written by: python benchmarks/area_curve.py ")

    assert written("--widths", "12:32") == "--widths 12:32 --output FILE.toml"
    shipped = (ROOT / "configs" / "area" / "generic_cells.toml").read_text().splitlines()[1]
    assert shipped == path.read_text().splitlines()[1]
    assert written("--widths", "16:24:8") == "--widths 16:24:8 --output FILE.toml"
    assert [point.width_bits for point in load_area(path).pe_points] == [16, 24]
    own = ROOT / "accelsim" / "rtl"
    sources = [str(own / name) for name in ("fit.sv", "processing_element.sv")]
    assert written("--widths", "16:16", "--pe", *sources, "--pe-top", "processing_element") == (
        "--widths 16:16 --pe accelsim/rtl/fit.sv accelsim/rtl/processing_element.sv "
        "--pe-top processing_element --output FILE.toml"
    )


def test_what_is_measured_computes(tmp_path):
    """A PE that saturates at 12 bits, and a lane that rounds halves to even: area of something that works."""
    need("icarus")
    import subprocess

    bench = tmp_path / "bench.sv"
    bench.write_text("""
module bench;
    reg clk = 0, live = 1, first = 1, load = 1; reg signed [8:0] x = 100, w = 20; reg signed [11:0] p = 100;
    wire signed [11:0] psum; wire signed [8:0] passed;
    area_pe #(.PSUM(12)) pe (.clk(clk), .live(live), .first(first), .shadow_load(load), .shadow_in(w),
                             .activation_in(x), .psum_in(p), .activation(passed), .psum(psum));
    reg signed [15:0] sum; wire [7:0] code;
    area_ppu_lane #(.WIDTH(16)) lane (.clk(clk), .sum(sum), .bias(16'sd1), .m0(31'd1 << 30), .shift(6'd32),
        .zero_point(9'sd3), .low(-9'sd128), .high(9'sd127), .code(code));
    task tick; begin #1 clk = 1; #1 clk = 0; end endtask
    initial begin
        tick; tick; $display("%0d", psum);               // 100 + 2000 > 2047
        x = -100; p = -100; tick; $display("%0d", psum); // -2100 < -2048
        p = 5; x = 3; tick; $display("%0d", psum);       // 65
        sum = 9; repeat (4) tick; $display("%0d", $signed(code));    // 10 / 4 = 2.5 -> 2, + 3
        sum = 13; repeat (4) tick; $display("%0d", $signed(code));   // 14 / 4 = 3.5 -> 4, + 3
        sum = -11; repeat (4) tick; $display("%0d", $signed(code));  // -10 / 4 = -2.5 -> -2, + 3
        sum = 30000; repeat (4) tick; $display("%0d", $signed(code));
    end
endmodule
""")
    sources = [str(path) for path in sorted((ROOT / "accelsim" / "rtl" / "area").glob("*.sv"))]
    program = str(tmp_path / "bench.vvp")
    subprocess.run(["iverilog", "-g2012", "-s", "bench", "-o", program, str(bench), *sources], check=True)
    done = subprocess.run(["vvp", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["2047", "-2048", "65", "5", "7", "1", "127"]
