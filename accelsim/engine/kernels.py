"""Compiled loops over lanes: gather, sums clamped at every addition, sums with their running extremes, requantisation.

A lane is one output position of one image; images are innermost, so neighbouring lanes are neighbouring bytes and
every loop below runs along them in vector registers. Sums are floats that hold integers: float32 where no s + p
reaches 2**24 in magnitude, float64 below 2**53, so every addition is exact and a fused multiply-add changes nothing.
The callers in `sums` prove the bound.

Numba compiles a kernel at its first call in a process. Its on-disk cache is not used, because it unpickles.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Exact integers below the bound: contraction cannot change a bit, and there are no NaNs, infinities or -0 to keep.
_EXACT = {"contract", "nnan", "ninf", "nsz"}


@njit(nogil=True)
def gather(source, window, panel, first, count, group):
    """Fill panel[k, j * B + b] with what output position first + j of image b multiplies at k, in (r, s, c) order.

    source: int16 (H, W, C, B). window: see `layer.Window`. panel: float (K, >= count * B).
    """
    height, width, images = source.shape[0], source.shape[1], source.shape[3]
    kernel, stride, dilation, padding, extent, zero, outside = window
    channels = panel.shape[0] // (kernel[0] * kernel[1])
    channel = group * channels
    for j in range(count):
        y, x = (first + j) // extent[1], (first + j) % extent[1]
        lanes = slice(j * images, (j + 1) * images)
        k = 0
        for r in range(kernel[0]):
            row = y * stride[0] + r * dilation[0] - padding[0]
            for s in range(kernel[1]):
                column = x * stride[1] + s * dilation[1] - padding[1]
                inside = 0 <= row < height and 0 <= column < width
                for c in range(channels):
                    target = panel[k, lanes]
                    if inside:
                        taken = source[row, column, channel + c]
                        for b in range(images):
                            target[b] = taken[b] - zero
                    else:
                        target[:] = outside
                    k += 1


@njit(nogil=True)
def clamped(source, window, weight, cuts, start, array, memory, splits, step, out):
    """Sums of a layer, clamped at every addition in hardware order.

    source, window: as `gather`. weight: float (groups, N / groups, K). cuts: int64, edges of the chunks. start: float
    (N,), fitted. array, memory: (low, high) of the partial sum and of the accumulator. splits: whether chunks start
    from 0 and are added to the memory (ws), else all of K is added to `start` in the array (os). step: positions of a
    panel. out: float (positions, N, B).
    """
    groups, channels, depth = weight.shape
    panel = np.empty((depth, step * source.shape[3]), weight.dtype)
    sums = np.empty((4, step * source.shape[3]), weight.dtype)
    for group in range(groups):
        mine = slice(group * channels, (group + 1) * channels)
        for first in range(0, out.shape[0], step):
            count = min(step, out.shape[0] - first)
            gather(source, window, panel, first, count, group)
            _clamped_panel(
                panel, weight[group], cuts, start[mine], array, memory, splits, sums, out[first : first + count, mine]
            )


@njit(nogil=True, fastmath=_EXACT)
def _clamped_panel(panel, weight, cuts, start, array, memory, splits, sums, out):
    """Two channels and four products a visit, so that a lane's sum is loaded and stored once for four additions."""
    channels, images = weight.shape[0], out.shape[2]
    lanes = out.shape[0] * images
    low, high = array
    s0, s1, t0, t1 = sums[0, :lanes], sums[1, :lanes], sums[2, :lanes], sums[3, :lanes]
    for n0 in range(0, channels, 2):
        n1 = min(n0 + 1, channels - 1)
        t0[:] = start[n0]
        t1[:] = start[n1]
        for chunk in range(len(cuts) - 1):
            if splits:
                s0[:] = 0
                s1[:] = 0
            else:
                s0[:] = t0
                s1[:] = t1
            k, end = cuts[chunk], cuts[chunk + 1]
            while k + 4 <= end:
                xa, xb, xc, xd = panel[k, :lanes], panel[k + 1, :lanes], panel[k + 2, :lanes], panel[k + 3, :lanes]
                a0, b0, c0, d0 = weight[n0, k], weight[n0, k + 1], weight[n0, k + 2], weight[n0, k + 3]
                a1, b1, c1, d1 = weight[n1, k], weight[n1, k + 1], weight[n1, k + 2], weight[n1, k + 3]
                for i in range(lanes):
                    v0 = min(max(s0[i] + xa[i] * a0, low), high)
                    v1 = min(max(s1[i] + xa[i] * a1, low), high)
                    v0 = min(max(v0 + xb[i] * b0, low), high)
                    v1 = min(max(v1 + xb[i] * b1, low), high)
                    v0 = min(max(v0 + xc[i] * c0, low), high)
                    v1 = min(max(v1 + xc[i] * c1, low), high)
                    s0[i] = min(max(v0 + xd[i] * d0, low), high)
                    s1[i] = min(max(v1 + xd[i] * d1, low), high)
                k += 4
            while k < end:
                xa, a0, a1 = panel[k, :lanes], weight[n0, k], weight[n1, k]
                for i in range(lanes):
                    s0[i] = min(max(s0[i] + xa[i] * a0, low), high)
                    s1[i] = min(max(s1[i] + xa[i] * a1, low), high)
                k += 1
            if splits:
                for i in range(lanes):
                    t0[i] = min(max(t0[i] + s0[i], memory[0]), memory[1])
                    t1[i] = min(max(t1[i] + s1[i], memory[0]), memory[1])
            else:
                t0[:] = s0
                t1[:] = s1
        for j in range(out.shape[0]):
            out[j, n0] = t0[j * images : (j + 1) * images]
            out[j, n1] = t1[j * images : (j + 1) * images]


@njit(nogil=True)
def tracked(source, window, weight, cuts, start, splits, step, total, high, low, extremes):
    """Exact sums of a layer with their running extremes, from which the sums at many widths follow.

    As `clamped`, without limits. total, high, low: float (positions, N, B): the exact sum and the extremes of what the
    accumulator memory holds, or with `splits` false of the sum in the array; the start value is among them.
    extremes: float (5, B), updated, of each image: largest and smallest partial sum of a chunk, 0 among them; largest
    high, smallest low, and largest distance of an output's two.
    """
    groups, channels, depth = weight.shape
    panel = np.empty((depth, step * source.shape[3]), weight.dtype)
    sums = np.empty((6, step * source.shape[3]), weight.dtype)
    for group in range(groups):
        mine = slice(group * channels, (group + 1) * channels)
        for first in range(0, total.shape[0], step):
            count = min(step, total.shape[0] - first)
            here = slice(first, first + count)
            gather(source, window, panel, first, count, group)
            _tracked_panel(
                panel, weight[group], cuts, start[mine], splits, sums,
                total[here, mine], high[here, mine], low[here, mine], extremes,
            )  # fmt: skip


@njit(nogil=True, fastmath=_EXACT)
def _tracked_panel(panel, weight, cuts, start, splits, sums, total, high, low, extremes):
    """One panel of `tracked`, four products a visit."""
    channels, images = weight.shape[0], total.shape[2]
    lanes = total.shape[0] * images
    s, above, below = sums[0, :lanes], sums[1, :lanes], sums[2, :lanes]
    t, top, bottom = sums[3, :lanes], sums[4, :lanes], sums[5, :lanes]
    for n in range(channels):
        t[:] = start[n]
        top[:] = start[n]
        bottom[:] = start[n]
        above[:] = 0
        below[:] = 0
        for chunk in range(len(cuts) - 1):
            if splits:
                s[:] = 0
            else:
                s[:] = t
                above[:] = t
                below[:] = t
            k, end = cuts[chunk], cuts[chunk + 1]
            while k + 4 <= end:
                xa, xb, xc, xd = panel[k, :lanes], panel[k + 1, :lanes], panel[k + 2, :lanes], panel[k + 3, :lanes]
                a, b, c, d = weight[n, k], weight[n, k + 1], weight[n, k + 2], weight[n, k + 3]
                for i in range(lanes):
                    v1 = s[i] + xa[i] * a
                    v2 = v1 + xb[i] * b
                    v3 = v2 + xc[i] * c
                    v4 = v3 + xd[i] * d
                    above[i] = max(max(above[i], max(v1, v2)), max(v3, v4))
                    below[i] = min(min(below[i], min(v1, v2)), min(v3, v4))
                    s[i] = v4
                k += 4
            while k < end:
                xa, a = panel[k, :lanes], weight[n, k]
                for i in range(lanes):
                    v1 = s[i] + xa[i] * a
                    above[i] = max(above[i], v1)
                    below[i] = min(below[i], v1)
                    s[i] = v1
                k += 1
            if splits:
                for i in range(lanes):
                    v1 = t[i] + s[i]
                    t[i] = v1
                    top[i] = max(top[i], v1)
                    bottom[i] = min(bottom[i], v1)
            else:
                t[:] = s
                top[:] = above
                bottom[:] = below
        for j in range(total.shape[0]):
            lane = slice(j * images, (j + 1) * images)
            total[j, n] = t[lane]
            high[j, n] = top[lane]
            low[j, n] = bottom[lane]
            up, down, most, least = above[lane], below[lane], top[lane], bottom[lane]
            for b in range(images):
                extremes[0, b] = max(extremes[0, b], up[b])
                extremes[1, b] = min(extremes[1, b], down[b])
                extremes[2, b] = max(extremes[2, b], most[b])
                extremes[3, b] = min(extremes[3, b], least[b])
                extremes[4, b] = max(extremes[4, b], most[b] - least[b])


FLOOR, HALF_UP, HALF_EVEN, HALF_AWAY, TOWARD_ZERO = range(5)


@njit(nogil=True)
def requantized(sums, bias, m0, shift, rounding, zero_point, low, high, out):
    """out = clamp(Z + round((sum + bias) * m0 / 2**shift)), as `numerics.requantize` and `to_output` have it.

    sums: float (P, N, B), |sum + bias| < 2**31; m0 < 2**31; bias, m0, shift: int64 (N,), shift 0..62.
    out: int16 (P, N, B). Products below 2**62 leave room for half a unit.
    """
    positions, channels, images = sums.shape
    for p in range(positions):
        for n in range(channels):
            taken, target = sums[p, n], out[p, n]
            b, m, t = np.int32(bias[n]), np.int32(m0[n]), shift[n]
            half = (np.int64(1) << t) >> 1
            part = (np.int64(1) << t) - 1
            if t == 0 or rounding == FLOOR:
                for i in range(images):
                    product = np.int64(np.int32(taken[i]) + b) * np.int64(m)
                    target[i] = min(max((product >> t) + zero_point, low), high)
            elif rounding == HALF_UP:
                for i in range(images):
                    product = np.int64(np.int32(taken[i]) + b) * np.int64(m)
                    target[i] = min(max(((product + half) >> t) + zero_point, low), high)
            elif rounding == HALF_EVEN:
                for i in range(images):
                    product = np.int64(np.int32(taken[i]) + b) * np.int64(m) + half
                    tie = np.int64((product & part) == 0)
                    target[i] = min(max(((product >> t) & ~tie) + zero_point, low), high)
            elif rounding == HALF_AWAY:
                for i in range(images):
                    product = np.int64(np.int32(taken[i]) + b) * np.int64(m)
                    target[i] = min(max(((product + half + (product >> 63)) >> t) + zero_point, low), high)
            else:  # toward zero
                for i in range(images):
                    product = np.int64(np.int32(taken[i]) + b) * np.int64(m)
                    target[i] = min(max(((product + (part & (product >> 63))) >> t) + zero_point, low), high)


@njit(nogil=True)
def reflected(total, high, low, images, least, most, out):
    """Sums clamped to least..most at every addition, from exact sums and the extremes of their prefixes.

    total, high, low: float (P, N, B), of `tracked`; images: int64 (I,), which of the B; out: float (P, N, I). No
    output's extremes may lie further apart than the limits: docs/numerics.md, section 10.2, proves the formula.
    """
    for p in range(total.shape[0]):
        for n in range(total.shape[1]):
            exact, top, bottom, target = total[p, n], high[p, n], low[p, n], out[p, n]
            for i in range(len(images)):
                b = images[i]
                target[i] = exact[b] - max(top[b] - most, 0) + max(least - bottom[b], 0)


@njit(nogil=True)
def differing(base, images, codes, found):
    """found[i] is set where codes[..., i] differs from base[..., images[i]]; int16 (H, W, C, B) and (H, W, C, I)."""
    for y in range(base.shape[0]):
        if found.all():
            return
        for x in range(base.shape[1]):
            for c in range(base.shape[2]):
                one, other = base[y, x, c], codes[y, x, c]
                for i in range(len(images)):
                    found[i] |= one[images[i]] != other[i]


@njit(nogil=True)
def overlaid(base, images, place, codes, out):
    """out[..., i] = codes[..., place[i]], or base[..., images[i]] where place[i] is negative; int16 (H, W, C, .)."""
    for y in range(base.shape[0]):
        for x in range(base.shape[1]):
            for c in range(base.shape[2]):
                one, other, target = base[y, x, c], codes[y, x, c], out[y, x, c]
                for i in range(len(images)):
                    target[i] = one[images[i]] if place[i] < 0 else other[place[i]]


SATURATE, WRAP, KEEP = range(3)
BITS = 65
"""Columns of a histogram of bits needed: 1..64, and 0 unused."""


@njit(nogil=True)
def watched(source, window, weight, cuts, start, array, memory, mode, splits, step, room, floats, seen, histogram):
    """Add every addition of a layer to its channels' statistics.

    source, window, weight (int32), cuts, start (int32), splits, step: as `clamped`. array, memory: bits, at most 31.
    mode: how an addition is fitted. room: squares of s + p that an int64 holds together, at least 1. floats: scratch
    (L,), in whose type 2 * |s + p| + 1 is exact. seen: int64 (N, 7),
    updated: additions, overflows, sum of every exact s + p, sum of their squares in two halves (low 32 bits, rest),
    smallest, largest. histogram: int64 (N, 65), updated: exact s + p by the bits that hold it.
    The caller proves that every s + p fits 30 bits.
    """
    groups, channels, depth = weight.shape
    positions, width = window[4][0] * window[4][1], step * source.shape[3]
    panel = np.empty((depth, width), np.int32)
    s, t, exact = np.empty(width, np.int32), np.empty(width, np.int32), np.empty(width, np.int32)
    least, most = np.empty(width, np.int32), np.empty(width, np.int32)
    total, squares, overflows = np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.int32)
    bits, tally = np.empty(width, np.uint8), np.zeros((4, BITS), np.int64)
    for group in range(groups):
        for first in range(0, positions, step):
            count = min(step, positions - first)
            lanes = count * source.shape[3]
            gather(source, window, panel, first, count, group)
            for channel in range(channels):
                n = group * channels + channel
                total[:] = 0
                squares[:] = 0
                overflows[:] = 0
                least[:] = seen[n, 5]
                most[:] = seen[n, 6]
                t[:] = start[n]
                held = 0
                for chunk in range(len(cuts) - 1):
                    s[:] = 0 if splits else start[n]
                    for k in range(cuts[chunk], cuts[chunk + 1]):
                        x, w = panel[k], weight[group, channel, k]
                        for i in range(lanes):
                            exact[i] = s[i] + x[i] * w
                        _see(exact, s, lanes, array, mode, least, most, total, squares, overflows, floats, bits, tally)
                        held = _put_away(squares, lanes, held + 1, room, seen[n])
                    if splits:
                        for i in range(lanes):
                            exact[i] = t[i] + s[i]
                        _see(exact, t, lanes, memory, mode, least, most, total, squares, overflows, floats, bits, tally)
                        held = _put_away(squares, lanes, held + 1, room, seen[n])
                    else:
                        t[:] = s
                seen[n, 0] += (cuts[-1] + (len(cuts) - 1 if splits else 0)) * lanes
                low, high = -(np.int64(1) << (memory - 1)), (np.int64(1) << (memory - 1)) - 1
                for i in range(lanes):
                    seen[n, 1] += overflows[i]
                    if mode == KEEP:
                        seen[n, 1] += t[i] < low or t[i] > high
                    seen[n, 2] += total[i]
                    seen[n, 5] = min(seen[n, 5], least[i])
                    seen[n, 6] = max(seen[n, 6], most[i])
                _put_away(squares, lanes, room, room, seen[n])
                for b in range(BITS):
                    histogram[n, b] += tally[0, b] + tally[1, b] + tally[2, b] + tally[3, b]
                tally[:] = 0


@njit(nogil=True)
def _put_away(squares, lanes, held, room, seen):
    """Move the lanes' sums of squares to the channel's once they hold `room` of them; returns how many they hold."""
    if held < room:
        return held
    for i in range(lanes):
        seen[3] += squares[i] & 0xFFFFFFFF
        seen[4] += squares[i] >> 32
        squares[i] = 0
    return 0


@njit(nogil=True)
def _see(exact, fitted, lanes, bits, mode, least, most, total, squares, overflows, floats, needed, tally):
    """Record one addition in every lane and fit it."""
    low, high = np.int32(-(np.int64(1) << (bits - 1))), np.int32((np.int64(1) << (bits - 1)) - 1)
    mask = np.int32((np.int64(1) << bits) - 1)
    for i in range(lanes):
        e = exact[i]
        wide = np.int64(e)
        least[i] = min(least[i], e)
        most[i] = max(most[i], e)
        total[i] += wide
        squares[i] += wide * wide
        floats[i] = 2 * (e ^ (e >> 31)) + 1
    if mode == SATURATE:
        for i in range(lanes):
            overflows[i] += (exact[i] < low) | (exact[i] > high)
            fitted[i] = min(max(exact[i], low), high)
    elif mode == WRAP:
        for i in range(lanes):
            overflows[i] += (exact[i] < low) | (exact[i] > high)
            fitted[i] = ((exact[i] - low) & mask) + low
    else:
        for i in range(lanes):
            fitted[i] = exact[i]
    _bits_needed(floats, lanes, needed)
    for i in range(0, lanes - 3, 4):  # four tallies, because neighbours often need the same number of bits
        tally[0, needed[i]] += 1
        tally[1, needed[i + 1]] += 1
        tally[2, needed[i + 2]] += 1
        tally[3, needed[i + 3]] += 1
    for i in range(lanes - lanes % 4, lanes):
        tally[0, needed[i]] += 1


@njit(nogil=True)
def _bits_needed(floats, lanes, needed):
    """Bits of two's complement, from 2 * magnitude + 1: its exponent is the magnitude's bit length."""
    if floats.itemsize == 4:
        single = floats.view(np.int32)
        for i in range(lanes):
            needed[i] = (single[i] >> 23) - 126
    else:
        double = floats.view(np.int64)
        for i in range(lanes):
            needed[i] = (double[i] >> 52) - 1022
