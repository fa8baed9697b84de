"""The kernels that measure and apply the kept components of many gradients; tables as in `triton_select`."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, no-any-return"

import triton
import triton.language as tl

from zsharp.optim.triton.select import load_block, open_chunk


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
    tensor, start, stop, source = open_chunk(chunk, pointers, chunks, dtype, align, block)
    row = tl.load(tensors + tensor * 4 + 1)
    centre = tl.load(centres + row)
    cutoff = tl.load(cutoffs + row)
    sums = tl.zeros([block], dtype=tl.float64)
    kept = tl.zeros([block], dtype=tl.int32)
    for at in range(start, stop, block):
        values = load_block(source, at, stop, block).to(tl.float32)
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
    tensor, start, stop, param = open_chunk(chunk, targets, chunks, dtype, align, block)
    grad = tl.multiple_of(tl.load(grads + tensor).to(tl.pointer_type(dtype)), align)
    backup = tl.multiple_of(tl.load(backups + tensor).to(tl.pointer_type(dtype)), align)
    row = tl.load(tensors + tensor * 4 + 1)
    centre = tl.load(centres + row)
    cutoff = tl.load(cutoffs + row)
    factor = tl.load(factors + row)
    for at in range(start, stop, block):
        weights = load_block(param, at, stop, block)
        values = load_block(grad, at, stop, block).to(tl.float32)
        is_kept = tl.abs(values - centre) > cutoff
        moved = weights.to(tl.float32) + tl.where(is_kept, values * factor, 0.0)
        offsets = tl.multiple_of(at, block) + tl.arange(0, block)
        if at + block <= stop:
            tl.store(backup + offsets, weights)
            tl.store(param + offsets, moved.to(dtype))
        else:
            tl.store(backup + offsets, weights, mask=offsets < stop)
            tl.store(param + offsets, moved.to(dtype), mask=offsets < stop)
