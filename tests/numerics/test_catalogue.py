"""The presets that name existing hardware and libraries: cases by hand, and each source's own statements.

The preset `onnx` meets onnxruntime itself in test_against_onnxruntime.py. Every case below is a sum v (bias included),
a multiplier M and the int8 code; its comment derives it from the rule of the source that the preset's file cites.
"""

from __future__ import annotations

import numpy as np
import pytest
from numerics import catalogue, oracle

from accelsim.config import load_quantization
from accelsim.numerics import IntFormat, requantize, to_output

INT8 = IntFormat(8)
TOP, BOTTOM = 2**31 - 1, -(2**31)


def coded(preset: str, v: int, multiplier: float, zero_point: int = 0, clip: tuple[int, int] = (-128, 127)) -> int:
    """The preset's code of one sum."""
    how = load_quantization(preset).requantization.numerics()
    m0, shift = how.derive(multiplier)
    (code,) = to_output(requantize(np.array([v]), m0, shift, how), zero_point, clip, INT8, how.output_overflow).tolist()
    return code


# h = the high multiply: v * m rounded, ties up; then h / 2**n, ties away from zero.
TFLITE = [
    # M = 1/4: m = 1/2, n = 1; h = round(v / 2)
    (0, 0.25, 0),
    (1, 0.25, 1),  # h = 0.5 -> 1; 1/2 -> 1: one rounding would give 0
    (2, 0.25, 1),  # h = 1; 1/2 -> 1
    (3, 0.25, 1),  # h = 1.5 -> 2; 1
    (4, 0.25, 1),
    (5, 0.25, 2),  # h = 2.5 -> 3; 3/2 -> 2: one rounding would give 1
    (6, 0.25, 2),  # h = 3; 3/2 -> 2
    (7, 0.25, 2),  # h = 3.5 -> 4; 2
    (9, 0.25, 3),  # h = 4.5 -> 5; 5/2 -> 3
    (10, 0.25, 3),  # h = 5; 5/2 -> 3
    (-1, 0.25, 0),  # h = -0.5 -> 0
    (-2, 0.25, -1),  # h = -1; -1/2 -> -1
    (-3, 0.25, -1),  # h = -1.5 -> -1; -1/2 -> -1
    (-5, 0.25, -1),  # h = -2.5 -> -2; -1
    (-6, 0.25, -2),  # h = -3; -3/2 -> -2
    (-7, 0.25, -2),  # h = -3.5 -> -3; -3/2 -> -2
    (-9, 0.25, -2),  # h = -4.5 -> -4; -2
    (-10, 0.25, -3),  # h = -5; -5/2 -> -3
    (506, 0.25, 127),  # h = 253; 126.5 -> 127
    (508, 0.25, 127),
    (510, 0.25, 127),  # h = 255; 127.5 -> 128, saturated
    (-510, 0.25, -128),  # h = -255; -127.5 -> -128
    (-512, 0.25, -128),
    (-514, 0.25, -128),  # h = -257; -128.5 -> -129, saturated
    (TOP, 0.25, 127),
    (BOTTOM, 0.25, -128),
    # M = 3/16: m = 3/4, n = 2
    (2, 3 / 16, 1),  # h = 1.5 -> 2; 2/4 -> 1: exactly 0.375
    (10, 3 / 16, 2),  # h = 7.5 -> 8; 2
    (-10, 3 / 16, -2),  # h = -7.5 -> -7; -7/4 -> -2
    # M = 3/4: m = 3/4, n = 0: the first rounding alone
    (2, 0.75, 2),  # 1.5 -> 2
    (-2, 0.75, -1),  # -1.5 -> -1
    # M = 2: m = 1/2, n = -2: v * 4 first
    (3, 2.0, 6),
    (-3, 2.0, -6),
]

# floor(v * M + 1/2), of the exact product.
SINGLE_ROUNDING = [
    (0, 0.25, 0),
    (1, 0.25, 0),  # 0.25
    (2, 0.25, 1),  # 0.5 -> up
    (3, 0.25, 1),
    (4, 0.25, 1),
    (5, 0.25, 1),  # 1.25
    (6, 0.25, 2),  # 1.5 -> up
    (7, 0.25, 2),
    (9, 0.25, 2),  # 2.25
    (10, 0.25, 3),  # 2.5 -> up
    (-1, 0.25, 0),
    (-2, 0.25, 0),  # -0.5 -> up
    (-3, 0.25, -1),
    (-5, 0.25, -1),  # -1.25
    (-6, 0.25, -1),  # -1.5 -> up
    (-7, 0.25, -2),
    (-9, 0.25, -2),
    (-10, 0.25, -2),  # -2.5 -> up
    (506, 0.25, 127),  # 126.5 -> up
    (508, 0.25, 127),
    (510, 0.25, 127),  # 127.5 -> 128, saturated
    (-510, 0.25, -127),  # -127.5 -> up
    (-512, 0.25, -128),
    (-514, 0.25, -128),  # -128.5 -> -128
    (-516, 0.25, -128),  # -129, saturated
    (TOP, 0.25, 127),
    (BOTTOM, 0.25, -128),
    (2, 3 / 16, 0),  # 0.375
    (8, 3 / 16, 2),  # 1.5 -> up
    (-8, 3 / 16, -1),  # -1.5 -> up
]

# float32(float32(v) * float32(M)), ties to even, saturated.
GEMMINI = [
    (0, 0.25, 0),
    (1, 0.25, 0),
    (2, 0.25, 0),  # 0.5 -> even
    (3, 0.25, 1),
    (5, 0.25, 1),
    (6, 0.25, 2),  # 1.5 -> even
    (7, 0.25, 2),
    (10, 0.25, 2),  # 2.5 -> even
    (14, 0.25, 4),  # 3.5 -> even
    (-1, 0.25, 0),
    (-2, 0.25, 0),
    (-3, 0.25, -1),
    (-6, 0.25, -2),
    (-10, 0.25, -2),
    (-14, 0.25, -4),
    (506, 0.25, 126),  # 126.5 -> even
    (508, 0.25, 127),
    (510, 0.25, 127),  # 127.5 -> 128, saturated
    (-510, 0.25, -128),  # -127.5 -> even
    (-514, 0.25, -128),  # -128.5 -> even
    (TOP, 0.25, 127),
    (BOTTOM, 0.25, -128),
    # 2**24 + 1 is no float32: the conversion takes 2**24, and an exact 0.50000003 becomes the tie 0.5.
    (2**24 + 1, 2.0**-25, 0),
    (-(2**24) - 1, 2.0**-25, 0),
    (2**24 + 3, 2.0**-25, 1),  # a tie of the conversion: 2**24 + 4, the even one; 0.5000001
    # float32(0.1) = 0.100000001490116: products 0.50000000745.., 1.5000000223.. are not float32s either
    (5, 0.1, 0),  # 0.5 -> even
    (15, 0.1, 2),  # 1.5 -> even
    (25, 0.1, 2),  # 2.5 -> even
    (-15, 0.1, -2),
    (-25, 0.1, -2),
]

# (v >> n) + (the bit below & (a lower one | the lowest bit kept)), saturated: ties to even.
GEMMINI_SHIFT = [
    (0, 0.25, 0),
    (1, 0.25, 0),
    (2, 0.25, 0),  # 0b10 >> 2 = 0, below 1, lower 0, kept 0
    (3, 0.25, 1),  # below 1, lower 1
    (5, 0.25, 1),
    (6, 0.25, 2),  # 0b110 >> 2 = 1, below 1, kept 1
    (10, 0.25, 2),
    (14, 0.25, 4),
    (-1, 0.25, 0),  # ...1111 >> 2 = -1, below 1, lower 1
    (-2, 0.25, 0),  # ...1110 >> 2 = -1, below 1, lower 0, kept 1
    (-3, 0.25, -1),  # ...1101 >> 2 = -1, below 0
    (-5, 0.25, -1),
    (-6, 0.25, -2),  # ...1010 >> 2 = -2, below 1, lower 0, kept 0
    (-10, 0.25, -2),
    (-14, 0.25, -4),
    (506, 0.25, 126),
    (510, 0.25, 127),  # 127.5 -> 128, saturated
    (-510, 0.25, -128),
    (-514, 0.25, -128),  # -128.5 -> -128
    (-518, 0.25, -128),  # -129.5 -> -130, saturated
    (TOP, 0.25, 127),
    (BOTTOM, 0.25, -128),
    (1, 0.5, 0),  # a shift by 1 has no lower bits
    (3, 0.5, 2),
    (5, 0.5, 2),
    (-1, 0.5, 0),
    (-3, 0.5, -2),
    (5, 1.0, 5),
    (3, 4.0, 12),  # to the left
    (40, 4.0, 127),
    (-40, 4.0, -128),
]

# v >> n, low 8 bits.
VTA = [
    (0, 0.25, 0),
    (1, 0.25, 0),
    (2, 0.25, 0),
    (3, 0.25, 0),
    (4, 0.25, 1),
    (6, 0.25, 1),
    (7, 0.25, 1),
    (-1, 0.25, -1),
    (-2, 0.25, -1),
    (-3, 0.25, -1),
    (-4, 0.25, -1),
    (-5, 0.25, -2),
    (-6, 0.25, -2),
    (508, 0.25, 127),
    (511, 0.25, 127),  # 127.75
    (512, 0.25, -128),  # 128 = 0x80
    (516, 0.25, -127),  # 129 = 0x81
    (1020, 0.25, -1),  # 255 = 0xff
    (1024, 0.25, 0),  # 256 = 0x100
    (1028, 0.25, 1),
    (-512, 0.25, -128),
    (-513, 0.25, 127),  # -129 = ..0x7f
    (-1024, 0.25, 0),  # -256 = ..0x00
    (-1028, 0.25, -1),  # -257 = ..0xff
    (TOP, 0.25, -1),  # 0x1fffffff
    (BOTTOM, 0.25, 0),  # -2**29
    (3, 4.0, 12),
    (40, 4.0, -96),  # 160 = 0xa0
]

# v * M0 / 2**(15 + n), ties away from zero, saturated; M0 has 16 bits.
NVDLA = [
    (0, 0.25, 0),
    (1, 0.25, 0),
    (2, 0.25, 1),  # 0.5 -> away
    (3, 0.25, 1),
    (5, 0.25, 1),
    (6, 0.25, 2),
    (10, 0.25, 3),
    (14, 0.25, 4),
    (-1, 0.25, 0),
    (-2, 0.25, -1),
    (-3, 0.25, -1),
    (-6, 0.25, -2),
    (-10, 0.25, -3),
    (-14, 0.25, -4),
    (506, 0.25, 127),  # 126.5 -> away
    (508, 0.25, 127),
    (510, 0.25, 127),  # 127.5 -> 128, saturated
    (-510, 0.25, -128),
    (-512, 0.25, -128),
    (-514, 0.25, -128),  # -128.5 -> -129, saturated
    (TOP, 0.25, 127),
    (BOTTOM, 0.25, -128),
    # M = 0.1: m = 0.8, n = 3, M0 = 26214 of 26214.4: below 0.1, so that 0.5 and 1.5 are not reached
    (5, 0.1, 0),  # 131070 / 262144 = 0.49999
    (15, 0.1, 1),  # 393210 / 262144 = 1.49998
    (-15, 0.1, -1),
    # M = 0.3: m = 0.6, n = 1, M0 = 19661 of 19660.8: above
    (5, 0.3, 2),  # 98305 / 65536 = 1.50002
    (15, 0.3, 5),  # 294915 / 65536 = 4.50005
    (-15, 0.3, -5),
    # M = 0.7: m = 0.7, n = 0, M0 = 22938 of 22937.6
    (5, 0.7, 4),  # 114690 / 32768 = 3.50006
]

HAND = {
    "tflite": TFLITE,
    "cmsis_nn": TFLITE,
    "cmsis_nn_single_rounding": SINGLE_ROUNDING,
    "gemmini": GEMMINI,
    "gemmini_shift": GEMMINI_SHIFT,
    "vta": VTA,
    "nvdla": NVDLA,
}


@pytest.mark.parametrize("preset", HAND)
def test_cases_by_hand(preset):
    cases = HAND[preset]
    assert len(cases) >= 25
    assert [coded(preset, v, m) for v, m, _ in cases] == [code for _, _, code in cases]


def test_vta_keeps_low_bits_unless_clipped():
    assert coded("vta", -513, 0.25, clip=(0, 127)) == 0  # MAX with 0 comes before the low bits are taken
    assert coded("vta", 512, 0.25, clip=(0, 127)) == -128  # it says nothing above
    assert coded("vta", 512, 0.25, clip=(0, 100)) == 100
    assert coded("vta", -513, 0.25, clip=(0, 127)) == catalogue.vta_alu(-513, 2, relu=True)


def test_onnx_adds_the_zero_point_after_rounding():
    # 0.5 -> 0, then 3; rounded after the addition, 3.5 would give 4.
    assert [coded("onnx", v, 0.25, 3) for v in (2, 6, 10, -2, -6)] == [3, 5, 5, 3, 1]


# --- the sources' statements --------------------------------------------------------------------------------------


def theirs(preset: str, v: int, m0: int, n: int) -> int:
    """A sum's code by the statements of the source, from the stored integers."""
    match preset:
        case "tflite":
            return catalogue.saturate8(oracle.multiply_by_quantized_multiplier(v, m0, -n))
        case "cmsis_nn":
            return catalogue.saturate8(catalogue.arm_nn_requantize(v, m0, -n))
        case "cmsis_nn_single_rounding":
            return catalogue.saturate8(catalogue.arm_nn_requantize_single_rounding(v, m0, -n))
        case "gemmini":
            return catalogue.gemmini_acc_scale(v, m0)
        case "gemmini_shift":
            return catalogue.saturate8(catalogue.gemmini_rounding_right_shift(v, n))
        case "vta":
            return catalogue.vta_alu(v, n, relu=False)
        case "nvdla":
            return catalogue.nvdla_output_converter(v, 0, m0, 15 + n)
    raise AssertionError(preset)


@pytest.mark.parametrize("preset", HAND)
def test_preset_does_what_its_source_states(preset):
    how = load_quantization(preset).requantization.numerics()
    rng = np.random.default_rng(17)
    for i in range(120):
        exponent = int(rng.integers(1, 17))
        shift_only = how.scheme == "power_of_two"
        multiplier = float(2.0**-exponent * (1 if shift_only or i % 3 == 0 else rng.uniform(1, 2)))
        m0, n = how.derive(multiplier)
        aimed = rng.uniform(-160, 160, 20) / multiplier
        halves = (rng.integers(-131, 131, 10) + 0.5) / multiplier
        sums = np.concatenate([aimed, halves, np.ceil(halves), [-1, 0, 1, BOTTOM, BOTTOM + 1, TOP, 2**24 + 1]])
        sums = np.clip(np.rint(sums), BOTTOM, TOP).astype(np.int64)
        if preset == "cmsis_nn_single_rounding":  # its int32 wraps where 2 * |v * M| does not fit, far beyond int8
            sums = sums[np.abs(sums * multiplier) < 2**30 - 1]
        found = to_output(requantize(sums, m0, n, how), 0, INT8.limits, INT8, how.output_overflow)
        assert found.tolist() == [theirs(preset, int(v), m0, n) for v in sums], multiplier


def test_cmsis_nn_and_tflite_are_one_rule():
    """Two sources, written apart: `cmsis_nn` may stay a copy of `tflite`."""
    rng = np.random.default_rng(2)
    for _ in range(3000):
        v = int(rng.integers(BOTTOM, TOP + 1)) >> int(rng.integers(0, 31))
        m0, shift = int(rng.integers(2**30, 2**31)), int(rng.integers(-31, 8))
        expected = oracle.multiply_by_quantized_multiplier(v, m0, shift)
        assert catalogue.arm_nn_requantize(v, m0, shift) == expected
    assert load_quantization("cmsis_nn") == load_quantization("tflite")


# --- what surrounds the requantisation ----------------------------------------------------------------------------


def test_formats_of_the_presets():
    for name in ("tflite", "cmsis_nn", "cmsis_nn_single_rounding", "onnx"):
        scheme = load_quantization(name)
        assert (scheme.activation.symmetric, scheme.weight.granularity) == (False, "channel")
        assert (scheme.zero_points, scheme.scale_format, scheme.weight.full_range) == ("folded", "float32", False)
    for name in ("gemmini", "gemmini_shift", "vta", "nvdla"):
        scheme = load_quantization(name)
        assert (scheme.activation.symmetric, scheme.weight.granularity) == (True, "tensor")
        assert scheme.bias_at == ("accumulator" if name.startswith("gemmini") else "ppu")


def test_torch_s_decomposed_quantisation_is_the_float32_scheme():
    """quantize_per_tensor divides by a scale as a product with its float32 reciprocal: our M is that reciprocal."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch.ao.quantization.fx._decomposed")
    how = load_quantization("gemmini").requantization.numerics()
    rng = np.random.default_rng(4)
    for zero_point in (0, -7):
        for scale in [4.0, 0.37, 0.0311, *rng.uniform(1e-3, 300, 20)]:
            sums = np.concatenate([np.rint(rng.uniform(-150, 150, 400) * scale), np.arange(-600, 601) * 2, [2**24 + 1]])
            expected = torch.ops.quantized_decomposed.quantize_per_tensor(
                torch.tensor(sums, dtype=torch.float32), float(scale), zero_point, -128, 127, torch.int8
            ).numpy()
            scaled = requantize(sums.astype(np.int64), *how.derive(1 / float(scale)), how)
            assert np.array_equal(to_output(scaled, zero_point, INT8.limits, INT8, "saturate"), expected), scale
