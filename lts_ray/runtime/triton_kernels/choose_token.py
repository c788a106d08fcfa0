"""The next token of each row of logits: greedy, or drawn as `lts_ray/decoding/sampling.py` draws on a CPU. No sort.

How far *away* a token is: (largest logit - its own) / temperature. Its weight: exp(-away). The bits of floats of one
sign are in the floats' order, so that the cuts are found by searching over bits, of weights or of -away.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lts_ray.runtime.triton_kernels.product import follow

NOWHERE = tl.constexpr(0x7F800000)
"""The bits of infinity."""
CERTAIN = tl.constexpr(0x3F800000)
"""The bits of 1, the largest weight."""
STAGES = tl.constexpr(4)


def choice_options(vocab_size: int, n_tops: int) -> dict[str, int]:
    """Arguments and compiler's options for a vocabulary in so many tiles. BLOCK, STEP: tokens at a time, in passes that
    add up each block, and in others. SPARE: how many may be listed apart, a multiple of 4.
    """
    return {
        "V": vocab_size,
        "NT": n_tops,
        "BLOCK": 2048,
        "STEP": 1024,
        "N_BLOCKS": triton.next_power_of_2(triton.cdiv(vocab_size, 2048)),
        "SPARE": min(16384, -(-vocab_size // 4) * 4),
        "num_warps": 8,
        "maxnreg": 224,  # else ptxas takes 128 registers, and spills
    }


@triton.jit(do_not_specialize=["NT"])  # tiles differ between numbers of rows: compiled once for all
def choose_token(
    logits,
    tops,
    top_ids,
    counts,
    temperature,
    top_k,
    top_p,
    min_p,
    draws,
    spare,
    chosen,
    NT,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    N_BLOCKS: tl.constexpr,
    SPARE: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    """Program: a row. Those past the first `counts` (one number in memory) end at once.

    logits [W, V], float32; tops, top_ids [W, NT]: of each tile of the vocabulary the largest logit, no number where one
    of them is none, and the first id that has it. temperature, top_p, min_p [W], float32, top_k [W], int32, draws [W],
    float64: see Pick. spare [W, 2, SPARE], float32: the kernel's own. chosen [W], int32: ids, -1 where there is no
    finite largest logit. What the cuts surely leave out is left aside first, so that most passes are over few tokens.
    """
    EVEN: tl.constexpr = V % 4 == 0
    follow(EARLY)
    row = tl.program_id(0)
    if row >= tl.load(counts):
        return
    tops, top_ids = tops + row * NT, top_ids + row * NT
    maxima, firsts = tl.full((STEP,), -float("inf"), tl.float32), tl.full((STEP,), V, tl.int32)
    missing = tl.zeros((STEP,), tl.int32)
    for tile in tl.range(0, NT, STEP, num_stages=STAGES):
        at = tile + tl.arange(0, STEP)
        top = tl.load(tops + at, mask=at < NT, other=-float("inf"))
        firsts = tl.where(top > maxima, tl.load(top_ids + at, mask=at < NT, other=V), firsts)
        maxima = tl.maximum(maxima, top)
        missing += (top != top).to(tl.int32)  # noqa: PLR0124
    largest = tl.max(maxima, axis=0)
    finite = (tl.max(missing, axis=0) == 0) & (largest > -float("inf")) & (largest < float("inf"))
    heat = tl.load(temperature + row)
    if (heat <= 0) | ~finite:
        first = tl.min(tl.where(maxima == largest, firsts, V), axis=0)
        tl.store(chosen + row, tl.where(finite, first, -1))
        return
    values, n = logits + row.to(tl.int64) * V, V
    spare += row * (2 * SPARE)
    aside = False  # whether values is a list in spare
    cool = 1.0 / heat
    k, p = tl.load(top_k + row), tl.load(top_p + row).to(tl.float64)
    reach = -tl.log(tl.load(min_p + row).to(tl.float64)).to(tl.float32)  # how far away a token may be
    cuts_k = (k > 0) & (k < V)
    low = tl.full((), -NOWHERE, tl.int32)
    if cuts_k & (k <= NT):  # of the k tiles with the largest logits each has a token that is as likely as the last
        low = search(tops, NT, largest, cool, float("inf"), k, low, False, False, STEP)
    near = tl.minimum(reach, (-low).to(tl.float32, bitcast=True))
    mass = tl.full((), 0, tl.float64)
    if (p < 1) & (near == float("inf")) & ~cuts_k:
        mass, ties = heavier(values, n, largest, cool, near, 0.0, EVEN, STEP)
        near = 0.001 - tl.log(((1 - p) * mass / (2 * V)).to(tl.float32))
    if near < float("inf"):
        size = listed(values, n, spare, largest, cool, near, EVEN, BLOCK, SPARE)
        if size <= SPARE:
            values, n, aside = spare, size, True
    if cuts_k:
        low = search(values, n, largest, cool, float("inf"), k, low, False, EVEN, STEP)
        reach = tl.minimum(reach, (-low).to(tl.float32, bitcast=True))
    lightest, until = tl.full((), 0, tl.float32), n
    if p < 1:
        if mass == 0:
            mass, ties = heavier(values, n, largest, cool, reach, 0.0, EVEN, STEP)
        wanted = p * mass
        light = ((1 - p) * mass / (2 * V)).to(tl.float32)  # all that are lighter come to half of what is left out
        low = search(values, n, largest, cool, reach, wanted, light.to(tl.int32, bitcast=True), True, EVEN, STEP)
        lightest = low.to(tl.float32, bitcast=True)
        mass, ties = heavier(values, n, largest, cool, reach, lightest, EVEN, STEP)
        room, until = tl.maximum(tl.ceil((wanted - mass) / lightest.to(tl.float64)), 1), n
        if room < ties:
            seen = 0
            for first in range(0, n, BLOCK):
                at, logit, away, weight = block_of(values, first, n, largest, cool, reach, EVEN, BLOCK)
                tie = (weight == lightest).to(tl.int32)
                last = (tie > 0) & (seen + running(tie) == room)
                until = tl.minimum(until, tl.min(tl.min(tl.where(last, at + 1, n), axis=1), axis=0))
                seen += total(tie)
    token = place(values, n, largest, cool, reach, lightest, until, tl.load(draws + row), EVEN, BLOCK, N_BLOCKS)
    if aside & (token >= 0):
        token = tl.load(spare + SPARE + token).to(tl.int32, bitcast=True)
    tl.store(chosen + row, token)


@triton.jit
def block_of(values, first, n, largest, cool, reach, EVEN: tl.constexpr, SIZE: tl.constexpr):
    """Of SIZE tokens, as [SIZE / 4, 4]: places in values, logits, how far away, and weights, which are 0 past reach.

    EVEN: four are loaded at once, also behind n, where lists are padded.
    """
    lane = first + tl.arange(0, SIZE // 4)[:, None] * 4
    at = lane + tl.arange(0, 4)[None, :]
    inside = (lane < n).broadcast_to(at.shape) if EVEN else at < n
    logit = tl.load(values + at, mask=inside, other=-float("inf"))
    away = (largest - logit) * cool
    return at, logit, away, tl.where(away <= reach, tl.exp(-away), 0.0)


@triton.jit
def total(x):
    return tl.sum(tl.sum(x, axis=1), axis=0)


@triton.jit
def running(x):
    """Sums of x [N, 4] up to each, itself included, in the order in which they lie."""
    lanes = tl.sum(x, axis=1)
    return (tl.cumsum(lanes, axis=0) - lanes)[:, None] + tl.cumsum(x, axis=1)


@triton.jit
def search(values, n, largest, cool, reach, goal, low, MASS: tl.constexpr, EVEN: tl.constexpr, STEP: tl.constexpr):
    """The largest key from low on such that tokens with at least it come to `goal`; one below all of them if none does.

    MASS: keys are of weights, and weights are summed; else they are of -away, and tokens are counted. A pass has three
    thresholds, and sees between which keys there are any at all: few tokens take few passes.
    """
    high = tl.full((), CERTAIN if MASS else 0, tl.int32)
    while low < high:
        part = (high - low + 4) // 4
        zero = tl.zeros((STEP // 4,), tl.float64 if MASS else tl.int32)
        one, two, three = zero, zero, zero
        least, most = tl.zeros((STEP // 4,), tl.int32) + high, tl.zeros((STEP // 4,), tl.int32) + low
        for first in tl.range(0, n, STEP, num_stages=STAGES):
            at, logit, away, weight = block_of(values, first, n, largest, cool, reach, EVEN, STEP)
            if MASS:
                key, size = weight.to(tl.int32, bitcast=True), weight.to(tl.float64)
            else:
                key, size = -away.to(tl.int32, bitcast=True), tl.full(away.shape, 1, tl.int32)
            one += tl.sum(tl.where(key >= low + part, size, 0), axis=1)
            two += tl.sum(tl.where(key >= low + 2 * part, size, 0), axis=1)
            three += tl.sum(tl.where(key >= low + 3 * part, size, 0), axis=1)
            least = tl.minimum(least, tl.min(tl.where(key >= low, key, high), axis=1))
            most = tl.maximum(most, tl.max(tl.where(key <= high, key, low), axis=1))
        met = (tl.sum(one, axis=0) >= goal).to(tl.int32) + (tl.sum(two, axis=0) >= goal).to(tl.int32)
        start = low + (met + (tl.sum(three, axis=0) >= goal).to(tl.int32)) * part
        low = tl.minimum(tl.maximum(start, tl.min(least, axis=0)), high)
        high = tl.minimum(start + part - 1, tl.max(most, axis=0))
    return low


@triton.jit
def heavier(values, n, largest, cool, reach, lightest, EVEN: tl.constexpr, STEP: tl.constexpr):
    """The mass of the tokens that are heavier than lightest, and how many are as heavy."""
    mass, ties = tl.zeros((STEP // 4,), tl.float64), tl.zeros((STEP // 4,), tl.int32)
    for first in tl.range(0, n, STEP, num_stages=STAGES):
        at, logit, away, weight = block_of(values, first, n, largest, cool, reach, EVEN, STEP)
        mass += tl.sum(tl.where(weight > lightest, weight, 0.0).to(tl.float64), axis=1)
        ties += tl.sum((weight == lightest).to(tl.int32), axis=1)
    return tl.sum(mass, axis=0), tl.sum(ties, axis=0)


@triton.jit
def listed(values, n, spare, largest, cool, reach, EVEN: tl.constexpr, BLOCK: tl.constexpr, SPARE: tl.constexpr):
    """Copies what is within reach to spare: logits, then ids. Returns how many there are: above SPARE not all."""
    size = 0
    for first in tl.range(0, n, BLOCK, num_stages=STAGES):
        at, logit, away, weight = block_of(values, first, n, largest, cool, reach, EVEN, BLOCK)
        near = (away <= reach) & (at < n)
        number = total(near.to(tl.int32))
        if (number > 0) & (size + number <= SPARE):
            to = spare + size + running(near.to(tl.int32)) - 1
            tl.store(to, logit, mask=near)
            tl.store(to + SPARE, at.to(tl.float32, bitcast=True), mask=near)
        size += number
    end = size + tl.arange(0, 4)
    tl.store(spare + end, tl.full((4,), -float("inf"), tl.float32), mask=end < SPARE)
    tl.debug_barrier()  # what one thread has written the others read
    return size


@triton.jit
def kept(at, weight, lightest, until):
    """The weights of what is heavier than the lightest that stay, and of those as heavy that lie before `until`."""
    return tl.where((weight > lightest) | ((weight == lightest) & (at < until)), weight, 0.0).to(tl.float64)


@triton.jit
def place(
    values, n, largest, cool, reach, lightest, until, share, EVEN: tl.constexpr, BLOCK: tl.constexpr, N: tl.constexpr
):
    """Where in values the token lies that the share of the mass falls on: first which block of at most N, then where.

    Only what has mass can be found, whatever rounding makes of the sums; -1 where nothing has.
    """
    index = tl.arange(0, N)
    sums = tl.zeros((N,), tl.float64)
    for first in tl.range(0, n, BLOCK, num_stages=STAGES):
        at, logit, away, weight = block_of(values, first, n, largest, cool, reach, EVEN, BLOCK)
        sums = tl.where(index == first // BLOCK, total(kept(at, weight, lightest, until)), sums)
    bounds = tl.cumsum(sums, axis=0)
    goal = share * tl.max(bounds, axis=0)
    block = tl.min(tl.where((bounds > goal) & (sums > 0), index, N), axis=0)
    if block == N:
        block = tl.max(tl.where(sums > 0, index, 0), axis=0)
    goal -= tl.sum(tl.where(index < block, sums, 0), axis=0)
    at, logit, away, weight = block_of(values, block * BLOCK, n, largest, cool, reach, EVEN, BLOCK)
    mass = kept(at, weight, lightest, until)
    found = tl.min(tl.min(tl.where((running(mass) > goal) & (mass > 0), at, n), axis=1), axis=0)
    if found == n:
        found = tl.max(tl.max(tl.where(mass > 0, at, -1), axis=1), axis=0)
    return found
