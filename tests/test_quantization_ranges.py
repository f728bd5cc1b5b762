"""Range setting: every observer and every weight range against NumPy written from its definition."""

import dataclasses
import math

import numpy as np
import pytest

from accelsim.config import QuantizationScheme, load_quantization
from accelsim.errors import InputError
from accelsim.ir import (
    ChannelStatistics,
    FloatActivation,
    FloatAdd,
    FloatConv2d,
    FloatGraph,
    FloatInput,
    FloatLinear,
    FloatMaxPool2d,
)
from accelsim.quantization import Range, calibrate, observe, quantize
from accelsim.quantization.histogram import Histogram
from accelsim.quantization.observers import MovingAverageObserver, PercentileObserver, scaled_tensors
from accelsim.quantization.post_training import choose_ranges
from accelsim.quantization.scales import quantize_weight
from accelsim.quantization.statistics import clipped_normal, propagate

RNG = np.random.default_rng


def scheme(**sections):
    return QuantizationScheme.model_validate(sections)


def identity(values, *, relu=False, name="net"):
    """A network whose layer gives its input: one element for each value, 32-bit floats so that nothing is rounded."""
    fc = FloatLinear(name="fc", inputs=("x",), shape=(values.shape[1],), weight=np.eye(values.shape[1]), bias=None)
    nodes = [FloatInput(name="x", inputs=(), shape=(values.shape[1],)), fc]
    if relu:
        nodes.append(FloatActivation(name="relu", inputs=("fc",), shape=fc.shape, kind="relu"))
    return FloatGraph(name, tuple(nodes), nodes[-1].name)


def sparse_mantissa(values):
    """Values that 11 bits of mantissa hold, so that a histogram is exact."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 1024), exponent - 10)


# --- histogram ---------------------------------------------------------------------------------------------------


def test_histogram_counts_what_numpy_counts_whatever_the_batches():
    values = sparse_mantissa(RNG(0).standard_t(3, 5000))
    values[:3] = 0.0, -0.0, 1e-30
    parts = Histogram()
    for part in np.split(values, [1, 700, 701]):
        parts.add(part)
    found, counts = parts.bins()
    expected, times = np.unique(values.astype(np.float32).astype(np.float64) + 0.0, return_counts=True)
    assert np.allclose(found, expected, rtol=2.0**-12, atol=0)
    assert counts.sum() == 5000
    assert counts.tolist() == times.tolist()


# --- activations -------------------------------------------------------------------------------------------------


def test_moving_average_decays_extremes_of_32_examples_whatever_the_batches(monkeypatch):
    x = RNG(1).normal(size=(80, 3))
    low = high = None
    for first in (0, 32, 64):
        group = x[first : first + 32]
        low = group.min() if low is None else 0.75 * low + 0.25 * group.min()
        high = group.max() if high is None else 0.75 * high + 0.25 * group.max()
    for sizes in ([80], [1, 33, 46], [16] * 5):
        watcher = MovingAverageObserver(0.25)
        for part in np.split(x, np.cumsum(sizes)[:-1]):
            watcher.see(part)
        assert watcher.range() == Range(low, high)
    graph = identity(x)
    how = scheme(activation={"range": "moving_average", "momentum": 0.25})
    whole = choose_ranges(graph, x, how)
    assert whole["fc"] == Range(float(np.float32(low)), float(np.float32(high)))
    monkeypatch.setattr(observe, "BATCH_BYTES", 8 * 6 * 7)  # 7 examples at a time
    assert choose_ranges(graph, x, how) == whole


@pytest.mark.parametrize("percentile", [99.9, 99.0, 60.0, 100.0])
def test_percentile_is_the_nearest_rank_at_either_end(percentile):
    values = sparse_mantissa(RNG(2).standard_t(3, 2000)).reshape(100, 20)
    watcher = PercentileObserver(percentile)
    watcher.see(values[:30])
    watcher.see(values[30:])
    ordered = np.sort(values.ravel())
    rank = math.ceil(round(2000 * percentile) / 100)
    assert watcher.range() == Range(ordered[2000 - rank], ordered[rank - 1])
    if percentile == 60.0:  # NumPy's inverted distribution function is the same definition, but 99.9 % is a rank more
        assert watcher.range().high == np.percentile(values, percentile, method="inverted_cdf")


def fake(values, low, high, *, bits, symmetric):
    """Quantise and back, from docs/numerics.md, section 5."""
    low, high = min(low, 0.0), max(high, 0.0)
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if symmetric:
        s, z = max(-low, high) / qmax, 0
    else:
        s = (high - low) / (qmax - qmin)
        z = min(max(round(qmin - low / s), qmin), qmax)
    return s * (np.clip(np.rint(values / s) + z, qmin, qmax) - z)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 8])
def test_mse_range_is_the_best_of_the_grid(bits, symmetric):
    x = sparse_mantissa(RNG(3).standard_t(3, 6000)).reshape(300, 20)
    x = np.where(x < 0, x / 2, x)
    how = scheme(activation={"bits": bits, "symmetric": symmetric, "range": "mse"})

    def error(low, high):
        return np.square(x - fake(x, low, high, bits=bits, symmetric=symmetric)).sum()

    steps = [f / 100 for f in range(100, 0, -1)]
    best = min(((f * x.min(), f * x.max()) for f in steps), key=lambda ends: error(*ends))
    if not symmetric:
        best = min(((f * x.min(), best[1]) for f in steps), key=lambda ends: error(*ends))
        best = min(((best[0], f * x.max()) for f in steps), key=lambda ends: error(*ends))
    found = choose_ranges(identity(x), x, how)["fc"]
    assert (found.low, found.high) == tuple(float(np.float32(end)) for end in best)
    assert error(found.low, found.high) < (0.5 if bits == 3 else 1.0) * error(x.min(), x.max())


def test_cross_entropy_range_of_logits_is_the_best_of_the_grid_and_nobody_elses():
    x = RNG(4).normal(size=(200, 10)) * 3
    x[:, 0] -= 40.0  # a class that never wins stretches the range
    how = scheme(activation={"bits": 4, "logits": "cross_entropy"})

    def softmax(v):
        e = np.exp(v - v.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def cost(f):
        seen = softmax(fake(x, f * x.min(), f * x.max(), bits=4, symmetric=True))
        return -(softmax(x) * np.log(seen)).sum()

    best = min((f / 100 for f in range(100, 0, -1)), key=cost)
    ranges = choose_ranges(identity(x), x, how)
    assert best < 0.9
    assert ranges["fc"].low == pytest.approx(best * x.min(), rel=1e-6)
    assert ranges["x"] == calibrate(identity(x), x)["x"]


def test_a_range_method_sets_exactly_the_tensors_with_a_scale_of_their_own():
    x = RNG(5).normal(size=(64, 6))
    graph = identity(x, relu=True)
    assert scaled_tensors(graph) == {"x": "x", "relu": "fc"}  # fc's own output is never quantised: its ReLU is fused
    extremes, cut = (
        choose_ranges(graph, x, scheme(activation={"bits": 4, "range": how})) for how in ("min_max", "mse")
    )
    assert extremes["fc"] == cut["fc"]
    assert cut["x"].high < extremes["x"].high


# --- batch norm --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low, high", [(0.0, math.inf), (0.0, 6.0), (-math.inf, math.inf)])
def test_moments_of_a_clipped_normal_are_those_of_samples(low, high):
    mean, deviation = np.array([-1.0, 0.5, 5.0, 2.0]), np.array([1.0, 2.0, 1.5, 0.0])
    samples = np.clip(mean + deviation * RNG(6).normal(size=(400_000, 4)), low, high)
    found = clipped_normal(mean, deviation, low, high)
    assert np.allclose(found[0], samples.mean(axis=0), atol=0.01)  # 3 / sqrt(400000) deviations are 0.0095
    assert np.allclose(found[1], samples.var(axis=0), atol=0.03)


def batch_norm_network():
    """conv with statistics, ReLU, a sum with itself over a 1x1 conv without, and a linear end; all by hand."""
    statistics = ChannelStatistics(np.array([1.0, -2.0]), np.array([0.5, 0.25]))
    fields = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1, "shape": (2, 3, 3)}
    first = FloatConv2d(
        name="c", inputs=("x",), weight=np.ones((2, 1, 1, 1)), bias=None, statistics=statistics, **fields
    )
    plain = FloatConv2d(
        name="p",
        inputs=("r",),
        weight=np.array([[[[2.0]], [[0.0]]], [[[1.0]], [[1.0]]]]),
        bias=np.array([0.0, 1.0]),
        **fields,
    )
    return FloatGraph(
        "bn",
        (
            FloatInput(name="x", inputs=(), shape=(1, 3, 3)),
            first,
            FloatActivation(name="r", inputs=("c",), shape=(2, 3, 3), kind="relu"),
            plain,
            FloatAdd(name="sum", inputs=("p", "r"), shape=(2, 3, 3)),
        ),
        "sum",
    )


def test_batch_norm_ranges_are_six_deviations_and_follow_from_no_data():
    graph = batch_norm_network()
    how = scheme(activation={"range": "batch_norm"})
    x = RNG(7).normal(size=(5, 1, 3, 3))
    ranges = choose_ranges(graph, x, how)
    other = choose_ranges(graph, x * 3, how)
    assert {name for name in ranges if ranges[name] != other[name]} == {"x", "c"}  # c is read through its ReLU
    assert (ranges["r"].low, ranges["r"].high) == (0.0, 1.0 + 6 * 0.5)
    mean, variance = clipped_normal(np.array([1.0, -2.0]), np.array([0.5, 0.25]), 0.0, math.inf)
    p_mean, p_variance = [2 * mean[0], mean.sum() + 1], [4 * variance[0], variance.sum()]
    total = [(p_mean[i] + mean[i], math.sqrt(p_variance[i] + variance[i])) for i in range(2)]
    assert ranges["sum"].high == pytest.approx(max(m + 6 * s for m, s in total), rel=1e-6)
    assert ranges["sum"].low == pytest.approx(min(m - 6 * s for m, s in total), rel=1e-6)


def test_batch_norm_ranges_and_cross_entropy_name_what_they_lack():
    x = RNG(8).normal(size=(4, 3))
    with pytest.raises(InputError) as refused:
        quantize(identity(x), x, scheme(activation={"range": "batch_norm"}))
    assert str(refused.value) == (
        "net: fc: activation.range = 'batch_norm' needs batch-norm statistics of its output, and there are none; "
        "choose another range"
    )
    pool = FloatMaxPool2d(
        name="pool", inputs=("x",), shape=(1, 2, 2), kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0)
    )
    graph = FloatGraph("net", (FloatInput(name="x", inputs=(), shape=(1, 4, 4)), pool), "pool")
    with pytest.raises(InputError, match=r"^net: pool: activation.logits = 'cross_entropy' needs an output with a "):
        quantize(graph, RNG(9).normal(size=(4, 1, 4, 4)), scheme(activation={"logits": "cross_entropy"}))


def test_max_pools_and_layers_on_the_input_have_no_known_moments():
    graph = batch_norm_network()
    known = propagate(graph, np.ones((2, 1, 3, 3)))
    assert known["x"].mean.tolist() == [1.0]
    assert set(known) == {"x", "c", "r", "p", "sum"}
    bare = dataclasses.replace(
        graph, nodes=tuple(dataclasses.replace(n, statistics=None) if n.name == "c" else n for n in graph.nodes)
    )
    assert set(propagate(bare, np.ones((2, 1, 3, 3)))) == {"x"}


# --- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("full_range", [False, True])
def test_symmetric_weight_ranges_by_numpy(granularity, full_range):
    weight = RNG(10).standard_t(3, (4, 6, 3, 3))
    rows = weight.reshape(4 if granularity == "channel" else 1, -1)
    divisor, lowest = (7.5, -8) if full_range else (7, -7)
    base = {"bits": 4, "granularity": granularity, "full_range": full_range}

    def quantised(row, limit):
        s = limit / divisor
        return s * np.clip(np.rint(np.clip(row, -limit, limit) / s), lowest, 7)

    mse = quantize_weight(weight, scheme(weight={**base, "range": "mse"}).weight, if_zero=1.0)
    percentile = scheme(weight={**base, "range": "percentile", "percentile": 90.0}).weight
    cut = quantize_weight(weight, percentile, if_zero=1.0)
    plain = quantize_weight(weight, scheme(weight=base).weight, if_zero=1.0)
    per_scale = 4 // len(rows)
    for index, row in enumerate(rows):
        limits = [f / 100 * np.abs(row).max() for f in range(100, 0, -1)]
        best = min(limits, key=lambda limit: np.square(row - quantised(row, limit)).sum())
        assert mse.scale[index * per_scale] == pytest.approx(best / divisor, rel=1e-12)
        ranked = np.percentile(np.abs(row), 90.0, method="inverted_cdf")
        assert cut.scale[index * per_scale] == pytest.approx(ranked / divisor, rel=1e-12)
    assert cut.values.max() == 7
    assert np.square(weight - mse.reals()).sum() < np.square(weight - plain.reals()).sum()


def test_affine_weight_ranges_cut_either_end():
    weight = np.concatenate([RNG(11).normal(size=990), [-9.0, -8.0, 20.0, 21.0, 22.0]]).reshape(5, 199)
    base = {"bits": 4, "granularity": "tensor", "symmetric": False}
    whole, mse, cut = (
        quantize_weight(weight, scheme(zero_points="subtracted", weight={**base, **more}).weight, if_zero=1.0)
        for more in ({}, {"range": "mse"}, {"range": "percentile", "percentile": 99.0})
    )
    low = np.sort(weight.ravel())[9]  # 985.05 of 995 values, up to 986, do not fall below
    high = np.sort(weight.ravel())[985]
    assert cut.scale[0] == pytest.approx((high - low) / 15, rel=1e-12)
    error = [np.square(weight - one.reals()).sum() for one in (whole, mse)]
    assert error[1] < error[0]


@pytest.mark.parametrize("own", [{"activation_bits": 3}, {"activation_bits": 5, "activation_signed": False}])
def test_a_least_squares_range_is_that_of_the_tensors_own_format(own):
    """A layer's own format, in which the range is searched, is the one it is stored in."""
    x = np.abs(RNG(12).standard_t(3, (300, 20)))
    how = scheme(activation={"range": "mse"}, layers={"fc": own})
    form = how.activation_of("fc").format

    def error(high):
        s = high / form.maximum
        return np.square(x - s * np.clip(np.rint(x / s), form.minimum, form.maximum)).sum()

    best = min((f / 100 * x.max() for f in range(100, 0, -1)), key=error)
    assert choose_ranges(identity(x), x, how)["fc"].high == pytest.approx(best, rel=1e-3)


def test_all_zero_weights_survive_every_range():
    for how in ("percentile", "mse"):
        one = quantize_weight(np.zeros((2, 3)), scheme(weight={"range": how}).weight, if_zero=0.5)
        assert (one.values.tolist(), one.scale.tolist()) == ([[0] * 3] * 2, [0.5, 0.5])


# --- keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "assignment, said",
    [
        (
            "activation.percentile=99.0",
            "activation.percentile = 99.0 is read only where activation.range = 'percentile', which is 'min_max'; "
            "set activation.range = 'percentile' or leave percentile out",
        ),
        (
            "weight.seed=3",
            "weight.seed = 3 is read only where weight.rounding = 'adaround', which is 'nearest'; "
            "set weight.rounding = 'adaround' or leave seed out",
        ),
        (
            "weight.fraction_bits=4 weight.range=mse",
            "weight.range = 'mse' changes nothing with weight.fraction_bits, which fixes every scale; "
            "leave weight.range out",
        ),
        (
            "activation.fraction_bits=4 activation.logits=cross_entropy",
            "activation.logits = 'cross_entropy' changes nothing with activation.fraction_bits, which fixes every "
            "scale; leave activation.logits out",
        ),
        (
            "weight.fraction_bits=4 weight.power_of_two=true",
            "weight.power_of_two = true changes nothing with weight.fraction_bits, which fixes every scale; "
            "leave weight.power_of_two out",
        ),
        (
            "weight.fraction_bits=4 weight.full_range=true",
            "weight.full_range = true changes nothing of fixed-point and of affine codes, which reach down to "
            "-2^(bits-1) in any case; leave weight.full_range out",
        ),
        (
            "equalization.relu6=replace",
            "equalization.relu6 = 'replace' is for networks that are equalised; set equalization.weights = true",
        ),
    ],
)
def test_a_key_that_nothing_would_read_is_refused(assignment, said):
    section = assignment.partition(".")[0]
    with pytest.raises(InputError) as refused:
        load_quantization("int8", assignment.split(" "))
    assert str(refused.value).startswith(f"int8 [{section}]: ")
    assert str(refused.value).endswith(said)
    assert "\n" not in str(refused.value)
