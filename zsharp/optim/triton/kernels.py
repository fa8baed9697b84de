"""All Triton kernels: exact selection over many tensors at once, and applying what it keeps.

Selection. A tensor's r-th smallest deviation d = abs(g - centre) is found digit by digit, from the top of its
IEEE bits: d >= 0, so its bits order as an integer of 31 bits. Each launch of `count_digits` counts one digit of
those elements whose higher digits are already known to be the answer's; a scan of the counts then gives the next
digit. That scan is the first thing the next launch does, so no launch is spent on it.

Tables, all int64: `pointers[tensor]`; `tensors[tensor]` = length, row of the results, first chunk, number of
chunks; `chunks[chunk]` = tensor, start, stop. A chunk is a run of one tensor's elements; an empty tensor has one
empty chunk. Kernels run one program per chunk, `write_cutoffs` and `reduce_chunks` one per tensor.

The results do not depend on the order in which programs run: atomics only add integers, and floating-point
sums are reduced in the order of the table.

Only functions that launch kernels import this file, so the rest of the package works without triton.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, no-any-return"

import torch
import triton
import triton.language as tl

TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def sum_chunks(
    pointers,
    chunks,
    partials,
    counts,
    dtype: tl.constexpr,
    align: tl.constexpr,
    block: tl.constexpr,
    has_centre: tl.constexpr,
    num_bins: tl.constexpr,
):
    """Writes each chunk's float64 sum to `partials` and clears each tensor's `num_bins` counts."""
    chunk = tl.program_id(0)
    tensor, start, stop, source = _open_chunk(chunk, pointers, chunks, dtype, align, block)
    if start == 0:
        for first in range(0, num_bins, 1024):
            bins = first + tl.arange(0, 1024)
            tl.store(counts + tensor * num_bins + bins, 0, mask=bins < num_bins)
    if has_centre:
        sums = tl.zeros([block], dtype=tl.float64)
        for at in range(start, stop, block):
            sums += _load_block(source, at, stop, block).to(tl.float64)
        tl.store(partials + chunk, tl.sum(sums, 0))


@triton.jit
def count_digits(
    pointers,
    tensors,
    chunks,
    partials,
    q_p,
    centres,
    counts,
    prefixes,
    ranks,
    dtype: tl.constexpr,
    align: tl.constexpr,
    block: tl.constexpr,
    has_centre: tl.constexpr,
    num_bins: tl.constexpr,
    max_chunks: tl.constexpr,
    tolerance: tl.constexpr,
    sparse_share: tl.constexpr,
    turn: tl.constexpr,
    shift: tl.constexpr,
    bits: tl.constexpr,
    offset: tl.constexpr,
    previous_bits: tl.constexpr,
    previous_offset: tl.constexpr,
):
    """Counts the digit `bits` wide at `shift` of the elements that share the answer's higher digits.

    `prefixes[tensor]` and `ranks[tensor]` hold the answer's digits above this one and its rank among the
    elements that share them; a turn leaves them for the next in the other half of the arrays.
    """
    chunk = tl.program_id(0)
    tensor, start, stop, source = _open_chunk(chunk, pointers, chunks, dtype, align, block)
    length = tl.load(tensors + tensor * 4)
    row = tl.load(tensors + tensor * 4 + 1)
    counts += tensor * num_bins
    before = tensor * 2 + (turn + 1) % 2
    if turn == 0:
        centre = _centre(tensors, tensor, partials, length, has_centre, max_chunks)
        prefix = tl.full([], 0, tl.int32)
        rank = _rank(q_p, length, tolerance)
        num_candidates = length
    else:
        centre = tl.load(centres + row)
        prefix, rank, num_candidates = _descend(
            counts + previous_offset, tl.load(prefixes + before), tl.load(ranks + before), previous_bits
        )
    if start == 0:
        tl.store(centres + row, centre)
        tl.store(prefixes + tensor * 2 + turn % 2, prefix)
        tl.store(ranks + tensor * 2 + turn % 2, rank)

    here = counts + offset
    # A block histogram costs the same for any data, but for some 60 instructions an element; atomics straight
    # to memory are cheaper where few elements are left to count, and slow where many hit the same address.
    is_sparse = num_candidates * sparse_share <= length
    own = tl.zeros([1 << bits], dtype=tl.int32)
    for at in range(start, stop, block):
        deviation = _load_block(source, at, stop, block).to(tl.float32) - centre
        pattern = deviation.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        is_candidate = (at + tl.arange(0, block) < stop) & ((pattern >> (shift + bits)) == prefix)
        digit = (pattern >> shift) & ((1 << bits) - 1)
        if is_sparse:
            tl.atomic_add(here + digit, 1, mask=is_candidate, sem="relaxed")
        else:
            own += tl.histogram(digit, 1 << bits, mask=is_candidate)
    if is_sparse == 0:
        tl.atomic_add(here + tl.arange(0, 1 << bits), own, mask=own != 0, sem="relaxed")


@triton.jit
def write_cutoffs(
    tensors,
    q_p,
    counts,
    prefixes,
    ranks,
    cutoffs,
    num_bins: tl.constexpr,
    turn: tl.constexpr,
    previous_bits: tl.constexpr,
    previous_offset: tl.constexpr,
):
    """Puts the last digit in its place, one program per tensor; -1 for a percentile of 0, 0 if empty."""
    tensor = tl.program_id(0).to(tl.int64)
    before = tensor * 2 + (turn + 1) % 2
    pattern, _rank_among_equals, _num_equals = _descend(
        counts + tensor * num_bins + previous_offset,
        tl.load(prefixes + before),
        tl.load(ranks + before),
        previous_bits,
    )
    cutoff = tl.where(tl.load(q_p) == 0, -1.0, pattern.to(tl.float32, bitcast=True))
    cutoff = tl.where(tl.load(tensors + tensor * 4) == 0, 0.0, cutoff)
    tl.store(cutoffs + tl.load(tensors + tensor * 4 + 1), cutoff)


@triton.jit
def measure_chunks(
    pointers,
    tensors,
    chunks,
    centres,
    cutoffs,
    squares,
    counts,
    dtype: tl.constexpr,
    align: tl.constexpr,
    block: tl.constexpr,
):
    """Writes the sum of squares of each chunk's kept components, and how many there are."""
    chunk = tl.program_id(0)
    tensor, start, stop, source = _open_chunk(chunk, pointers, chunks, dtype, align, block)
    row = tl.load(tensors + tensor * 4 + 1)
    centre = tl.load(centres + row)
    cutoff = tl.load(cutoffs + row)
    sums = tl.zeros([block], dtype=tl.float64)
    kept = tl.zeros([block], dtype=tl.int32)
    for at in range(start, stop, block):
        values = _load_block(source, at, stop, block).to(tl.float32)
        is_kept = (tl.abs(values - centre) > cutoff) & (at + tl.arange(0, block) < stop)
        wide = tl.where(is_kept, values, 0.0).to(tl.float64)
        sums += wide * wide
        kept += is_kept.to(tl.int32)
    tl.store(squares + chunk, tl.sum(sums, 0))
    tl.store(counts + chunk, tl.sum(kept.to(tl.int64), 0))


@triton.jit
def reduce_chunks(tensors, parts, part_counts, squares, counts, block: tl.constexpr):
    """Adds up each tensor's chunks in the order of the table, one program per tensor."""
    tensor = tl.program_id(0).to(tl.int64)
    row = tl.load(tensors + tensor * 4 + 1)
    first = tl.load(tensors + tensor * 4 + 2)
    num_chunks = tl.load(tensors + tensor * 4 + 3)
    sums = tl.zeros([block], dtype=tl.float64)
    kept = tl.zeros([block], dtype=tl.int64)
    for at in range(0, num_chunks, block):
        chunk = at + tl.arange(0, block)
        sums += tl.load(parts + first + chunk, mask=chunk < num_chunks, other=0.0)
        kept += tl.load(part_counts + first + chunk, mask=chunk < num_chunks, other=0)
    tl.store(squares + row, tl.sum(sums, 0))
    tl.store(counts + row, tl.sum(kept, 0))


@triton.jit
def move_chunks(
    targets,
    grads,
    backups,
    tensors,
    chunks,
    centres,
    cutoffs,
    factors,
    dtype: tl.constexpr,
    align: tl.constexpr,
    block: tl.constexpr,
):
    """Copies each parameter to its backup and adds the factor times what is kept of the gradient."""
    chunk = tl.program_id(0)
    tensor, start, stop, param = _open_chunk(chunk, targets, chunks, dtype, align, block)
    grad = tl.multiple_of(tl.load(grads + tensor).to(tl.pointer_type(dtype)), align)
    backup = tl.multiple_of(tl.load(backups + tensor).to(tl.pointer_type(dtype)), align)
    row = tl.load(tensors + tensor * 4 + 1)
    centre = tl.load(centres + row)
    cutoff = tl.load(cutoffs + row)
    factor = tl.load(factors + row)
    for at in range(start, stop, block):
        weights = _load_block(param, at, stop, block)
        values = _load_block(grad, at, stop, block).to(tl.float32)
        is_kept = tl.abs(values - centre) > cutoff
        moved = weights.to(tl.float32) + tl.where(is_kept, values * factor, 0.0)
        offsets = tl.multiple_of(at, block) + tl.arange(0, block)
        if at + block <= stop:
            tl.store(backup + offsets, weights)
            tl.store(param + offsets, moved.to(dtype))
        else:
            tl.store(backup + offsets, weights, mask=offsets < stop)
            tl.store(param + offsets, moved.to(dtype), mask=offsets < stop)


@triton.jit
def _open_chunk(chunk, pointers, chunks, dtype: tl.constexpr, align: tl.constexpr, block: tl.constexpr):
    """Returns a chunk's tensor, its start and stop there, and where that tensor's memory begins."""
    tensor = tl.load(chunks + chunk * 3)
    start = tl.multiple_of(tl.load(chunks + chunk * 3 + 1), block)
    stop = tl.load(chunks + chunk * 3 + 2)
    source = tl.multiple_of(tl.load(pointers + tensor).to(tl.pointer_type(dtype)), align)
    return tensor, start, stop, source


@triton.jit
def _load_block(source, at, stop, block: tl.constexpr):
    """Returns the `block` elements from `at` on, a multiple of it; zeros from `stop` on."""
    at = tl.multiple_of(at, block)
    offsets = at + tl.arange(0, block)
    if at + block <= stop:  # without a mask the loads are vectors
        values = tl.load(source + offsets)
    else:
        values = tl.load(source + offsets, mask=offsets < stop, other=0.0)
    return values


@triton.jit
def _centre(tensors, tensor, partials, length, has_centre: tl.constexpr, max_chunks: tl.constexpr):
    """Returns the mean; every program of a tensor adds the same sums in the same order."""
    if has_centre:
        first = tl.load(tensors + tensor * 4 + 2)
        num_chunks = tl.load(tensors + tensor * 4 + 3)
        chunk = tl.arange(0, max_chunks)
        total = tl.sum(tl.load(partials + first + chunk, mask=chunk < num_chunks, other=0.0), 0)
        centre = (total / tl.maximum(length, 1).to(tl.float64)).to(tl.float32)
    else:
        centre = tl.full([], 0.0, tl.float32)
    return centre


@triton.jit
def _rank(q_p, length, tolerance: tl.constexpr):
    rank = (tl.load(q_p).to(tl.float64) * (length - 1).to(tl.float64) + tolerance).to(tl.int64)
    return tl.maximum(tl.minimum(rank, length - 1), 0)


@triton.jit
def _descend(counts, prefix, rank, bits: tl.constexpr):
    """Returns the prefix with one more digit, the rank among those that share it, and how many do."""
    bins = tl.arange(0, 1 << bits)
    num_here = tl.load(counts + bins)
    is_below = tl.cumsum(num_here, 0) <= rank
    digit = tl.sum(is_below.to(tl.int32), 0)
    num_below = tl.sum(tl.where(is_below, num_here, 0), 0)
    num_equal = tl.sum(tl.where(bins == digit, num_here, 0), 0)
    return (prefix << bits) | digit, rank - num_below, num_equal.to(tl.int64)
