"""Attention of a step's rows over the paged KV cache."""

from __future__ import annotations

import triton
import triton.language as tl

from lts_ray.runtime.triton_kernels.product import follow, told

BLOCK = tl.constexpr(16)
"""Places of a block of the cache."""
LOG2_E = tl.constexpr(1.4426950408889634)


def rows_options(rows: int, n_kv_head: int, d_head: int, item_size: int) -> dict[str, int]:
    """Constants and compiler's options of a launch with a program a row, `item_size` bytes a number of the cache."""
    # Keys and values of a chunk are 16 KB each. Two chunks are under way while one is taken in, block numbers two more
    # ahead: that is what five stages make of a load through a load. 73 KB: three programs on a multiprocessor of an
    # H100, one on any card since Ampere.
    chunk = max(16, min(128, 16_384 // (triton.next_power_of_2(d_head) * item_size)))
    # About 1,000 programs: a card takes 400 at once, and those beyond a row's places end at once, but not for nothing.
    # To split costs two trips to memory (write and arrive, read): more than the 512 places that go unsplit take longer.
    splits = 1 << min(6, max(1, 1024 // (rows * n_kv_head)).bit_length() - 1)
    return {"ROWS": 1, "SPLITS": splits, "SPLIT_PLACES": 512, "CHUNK": chunk, "num_warps": 4, "num_stages": 5}


def tiles_options(group: int, d_head: int, item_size: int) -> dict[str, int]:
    """The same with a program a tile of rows, whose number is ROWS, for `group` query heads a key."""
    # 64 rows of a product are what one warp group's instruction takes; 128 would leave too few programs to fill a card
    # with a piece of 1,024 tokens, and more keys at once spill on an A100. float32 is multiplied in three parts, which
    # take registers: it gets the smallest tile.
    rows, chunk = (64 // group, 64 if d_head <= 64 else 32) if item_size < 4 else (16 // group, 32)
    most = {} if item_size < 4 else {"maxnreg": 224}  # else ptxas takes 128, and spills
    return {
        "ROWS": max(2, rows),
        "SPLITS": 1,
        "SPLIT_PLACES": 0,
        "CHUNK": chunk,
        "num_warps": 4,
        "num_stages": 5,
    } | most


@triton.jit
def _attend(
    query, keys, values, table, seen, top, total, mixed, start, stop, factor,
    STRIDE: tl.constexpr, D_HEAD: tl.constexpr, CHUNK: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Takes the places start … stop - 1 into the softmax of `query` [M, padded D_HEAD].

    `seen` [M] is the number of places that each row sees. Without MASKED each must see all up to stop, and stop - start
    be a multiple of CHUNK.
    """
    column = tl.arange(0, query.shape[1])[None, :]
    for begin in tl.range(start, stop, CHUNK):
        place = begin + tl.arange(0, CHUNK)
        block = tl.load(table + place // BLOCK, mask=place < stop, other=0)
        offset = (block.to(tl.int64) * STRIDE + (place % BLOCK) * D_HEAD)[:, None] + column
        # What lies in places that no row sees may be no number.
        inside = (place < stop)[:, None] & (column < D_HEAD)
        key = tl.load(keys + offset, mask=inside, other=0.0)
        value = tl.load(values + offset, mask=inside, other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision="tf32x3")
        if MASKED:
            score = tl.where(place[None, :] < seen[:, None], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1) * factor)
        weight = tl.exp2(score * factor - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weight, 1)
        mixed = tl.dot(weight.to(value.dtype), value, mixed * shrink[:, None], input_precision="tf32x3")
        top = higher
    return top, total, mixed


@triton.jit
def _combine(
    partial, marks, attended, first, used, GROUP: tl.constexpr, D_HEAD: tl.constexpr, SPLITS: tl.constexpr
):  # fmt: skip
    """Puts together what `used` splits found for the GROUP heads from `first`, in the order of the splits.

    Read from the second-level cache (.cg): the first level does not see what other multiprocessors write.
    """
    HEADS: tl.constexpr = triton.next_power_of_2(GROUP)
    PADDED: tl.constexpr = triton.next_power_of_2(D_HEAD)
    FITTING: tl.constexpr = triton.cdiv(4096, HEADS * PADDED)  # 32 registers of each of 128 threads
    PARTS: tl.constexpr = SPLITS if SPLITS < FITTING else FITTING
    member = tl.arange(0, HEADS)
    head = first + tl.minimum(member, GROUP - 1)
    column = tl.arange(0, PADDED)
    part = tl.arange(0, SPLITS)[None, :]
    at = (head * SPLITS)[:, None] + part
    top = tl.load(marks + at * 2, mask=part < used, other=float("-inf"), cache_modifier=".cg")
    total = tl.load(marks + at * 2 + 1, mask=part < used, other=0.0, cache_modifier=".cg")
    highest = tl.max(top, 1)
    total = tl.sum(total * tl.exp2(top - highest[:, None]), 1)
    mixed = tl.zeros((HEADS, PADDED), tl.float32)
    for begin in tl.range(0, used, PARTS):
        some = (begin + tl.arange(0, PARTS))[None, :, None]
        spot = (head * SPLITS)[:, None, None] + some
        mark = tl.load(marks + spot * 2, mask=some < used, other=float("-inf"), cache_modifier=".cg")
        inside = (some < used) & (column < D_HEAD)[None, None, :]
        found = tl.load(partial + spot * D_HEAD + column[None, None, :], mask=inside, other=0.0, cache_modifier=".cg")
        mixed += tl.sum(found * tl.exp2(mark - highest[:, None, None]), 1)
    own = (member < GROUP)[:, None] & (column < D_HEAD)[None, :]
    mixed = (mixed / total[:, None]).to(attended.dtype.element_ty)
    tl.store(attended + head[:, None] * D_HEAD + column[None, :], mixed, mask=own)


@triton.jit
def paged_attention(
    q, keys, values, positions, tables, blocks, heads, singles, firsts, sizes, partial, marks, arrived, attended, scale,
    N_HEAD: tl.constexpr, N_KV: tl.constexpr, D_HEAD: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr,
    SPLIT_PLACES: tl.constexpr, CHUNK: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    """attended [R, N_HEAD * D_HEAD] of q, likewise, grid (R, N_KV, SPLITS), or with tiles (T, N_KV, 1).

    - keys, values [blocks of the cache, N_KV, BLOCK, D_HEAD]: of one layer. Row r sees the places 0 … positions[r] of
      its sequence, which lie in the blocks blocks[tables[r]], ….
    - heads [R]: query heads of the row, a multiple of the group; the rest becomes 0. 0: the row stays untouched.
    - ROWS = 1: a program a row, and work for the first singles[0]. Otherwise a tile of sizes[t] rows from firsts[t], at
      most ROWS: consecutive tokens of one sequence. Of size 0 is no tile.
    - SPLITS > 1: a row of more than SPLIT_PLACES places is cut into up to as many runs. Each leaves its numerator in
      partial [R, N_HEAD, SPLITS, D_HEAD], its maximum and sum in marks [R, N_HEAD, SPLITS, 2], all float32; the last of
      them, by arrived int32 [R, N_KV], 0 before and after, puts them together.
    - EARLY: launched while the kernel before it may still run.
    """
    GROUP: tl.constexpr = N_HEAD // N_KV
    STRIDE: tl.constexpr = N_KV * BLOCK * D_HEAD
    MEMBERS: tl.constexpr = triton.next_power_of_2(16 if ROWS * GROUP < 16 else ROWS * GROUP)
    PADDED: tl.constexpr = triton.next_power_of_2(16 if D_HEAD < 16 else D_HEAD)
    kv = tl.program_id(1)
    split = tl.program_id(2)
    if ROWS == 1:
        row = tl.program_id(0)
        size = 1
    else:
        # A piece's last tiles see most places: they begin first.
        tile = tl.num_programs(0) - 1 - tl.program_id(0)
        size = told(sizes + tile, True)
        row = told(firsts + tile, True)
    # All that decides is read before the first decision: one wait for memory.
    width = told(heads + row, True)
    if ROWS == 1:
        width = tl.where(row < told(singles, True), width, 0)
    position = told(positions + row, True)
    table = blocks + told(tables + row, True)
    places = position + size
    start = 0
    stop = places
    used = 1
    if SPLITS > 1:
        used = tl.minimum(tl.cdiv(places, SPLIT_PLACES), SPLITS)
        run = tl.cdiv(tl.cdiv(places, used), CHUNK) * CHUNK
        used = tl.cdiv(places, run)
        start = split * run
        stop = tl.minimum(start + run, places)
        if start >= places:  # never the first
            return
    follow(EARLY)
    if (width == 0) | (size == 0):
        return

    member = tl.arange(0, MEMBERS)
    line = tl.minimum(member // GROUP, size - 1)
    column = tl.arange(0, PADDED)
    own = ((row + line) * N_HEAD + kv * GROUP + member % GROUP)[:, None] * D_HEAD + column[None, :]
    real = (member < size * GROUP)[:, None] & (column < D_HEAD)[None, :]
    if width <= kv * GROUP:
        if split == 0:
            tl.store(attended + own, tl.zeros((MEMBERS, PADDED), attended.dtype.element_ty), mask=real)
        return

    query = tl.load(q + own, mask=real, other=0.0)
    keys += kv * (BLOCK * D_HEAD)
    values += kv * (BLOCK * D_HEAD)
    seen = position + 1 + line
    top = tl.full((MEMBERS,), float("-inf"), tl.float32)
    total = tl.zeros((MEMBERS,), tl.float32)
    mixed = tl.zeros((MEMBERS, PADDED), tl.float32)
    factor = scale * LOG2_E
    if ROWS > 1:
        start = (position + 1) // CHUNK * CHUNK
        top, total, mixed = _attend(
            query, keys, values, table, seen, top, total, mixed, 0, start, factor, STRIDE, D_HEAD, CHUNK, False
        )
    top, total, mixed = _attend(
        query, keys, values, table, seen, top, total, mixed, start, stop, factor, STRIDE, D_HEAD, CHUNK, True
    )
    if used == 1:
        tl.store(attended + own, (mixed / total[:, None]).to(attended.dtype.element_ty), mask=real)
        return

    if SPLITS > 1:
        head = row * N_HEAD + kv * GROUP + member
        tl.store(partial + (head * SPLITS + split)[:, None] * D_HEAD + column[None, :], mixed, mask=real)
        tl.store(marks + (head * SPLITS + split) * 2, top, mask=member < GROUP)
        tl.store(marks + (head * SPLITS + split) * 2 + 1, total, mask=member < GROUP)
        tl.debug_barrier()
        before = tl.atomic_add(arrived + row * N_KV + kv, 1, sem="acq_rel")
        if before == used - 1:
            first = row * N_HEAD + kv * GROUP
            _combine(partial, marks, attended, first, used, GROUP, D_HEAD, SPLITS)
            tl.store(arrived + row * N_KV + kv, 0)
