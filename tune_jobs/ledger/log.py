"""Checks a ledger's write-ahead log before SQLite reads it.

SQLite takes the first frame with a wrong checksum for the log's end, without a word: one flipped bit would silently
drop every transaction behind it. A write that a kill or a power failure cut short ends in such a frame too, so what
stands there and behind it tells the two apart.

References:
    https://www.sqlite.org/fileformat2.html, section 4, and https://www.sqlite.org/walformat.html, section 2.1.
"""

import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tune_jobs.errors import LedgerError

_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_MAGIC = 0x377F0682  # its last bit tells the byte order of checksums
_PAGE_BYTES = {1 << power for power in range(9, 17)}
_MODULUS = 1 << 32
_FRAMES_AT_ONCE = 1024
_MOST_BYTES = 1 << 28  # a log of ours has megabytes: SQLite empties it as it goes

_Sums = tuple[int, int]


def check_log(file: Path) -> None:
    """Checks the log of a ledger that no process is writing. One that ends in an unfinished write is fine.

    Raises:
        LedgerError: If committed transactions in it are damaged.
    """
    log = file.with_name(f"{file.name}-wal")
    try:
        if (size := log.stat().st_size) > _MOST_BYTES:
            raise LedgerError(
                f"{log}: damaged: it has {size} bytes, and no log of ours has over {_MOST_BYTES}"
            )
        content = np.fromfile(log, np.uint8)
    except FileNotFoundError:
        return
    except OSError as problem:
        raise LedgerError(f"{log}: cannot be read: {problem.strerror}") from problem
    header = content[:_HEADER_BYTES].tobytes()
    if len(content) <= _HEADER_BYTES or not any(header):  # nothing was written yet
        return
    magic, _, page_bytes, _, *_, sum_1, sum_2 = struct.unpack(">8I", header)
    byte_order = ">" if magic & 1 else "<"
    sums = _continued(header[:24], byte_order, (0, 0))
    if magic & ~1 != _MAGIC or sums != (sum_1, sum_2) or page_bytes not in _PAGE_BYTES:
        raise LedgerError(f"{log}: damaged: its header fails its checksum; restore the file from a copy")
    frame_bytes = _FRAME_HEADER_BYTES + page_bytes
    num_frames = (len(content) - _HEADER_BYTES) // frame_bytes
    frames = content[_HEADER_BYTES : _HEADER_BYTES + num_frames * frame_bytes].reshape(
        num_frames, frame_bytes
    )
    num_good = _num_good(frames, header[16:24], byte_order, sums)
    if _is_damaged(frames, num_good, header[16:24], _num_committed(log, header[16:24])):
        raise LedgerError(
            f"{log}: damaged: frame {num_good + 1} of {num_frames} fails its checksum, and committed transactions "
            "would be lost; restore the file from a copy, or cut it to "
            f"{_HEADER_BYTES + num_good * frame_bytes} bytes to continue without them"
        )


def _is_damaged(frames: NDArray[np.uint8], num_good: int, salts: bytes, num_committed: int | None) -> bool:
    """Whether the first bad frame, or one behind it, was part of a committed transaction."""
    rest = frames[num_good:]
    if not len(rest):
        return False
    matches = (rest[:, 8:16] == np.frombuffer(salts, np.uint8)).reshape(-1, 2, 4).all(axis=2)
    ours = matches.all(axis=1)  # frames of the file's earlier uses have other salts
    commits = ours & rest[:, 4:8].any(axis=1)
    if num_committed is None:
        # Nothing says how much was committed. A kill leaves an incomplete frame; a complete one had been written.
        return bool(matches[0].any() or ours.any())
    # Every commit is synced before the next transaction starts, so only the last one can be unfinished.
    is_followed = bool(commits.any()) and np.flatnonzero(ours)[-1] > np.flatnonzero(commits)[0]
    return bool(num_good < min(num_committed, len(frames)) or is_followed)


def _num_good(frames: NDArray[np.uint8], salts: bytes, byte_order: str, sums: _Sums) -> int:
    """Returns how many frames SQLite would read: those before the first with another salt or a wrong checksum."""
    num_words = 2 + (frames.shape[1] - _FRAME_HEADER_BYTES) // 4
    weights = _fibonacci(num_words + 2)
    state = [
        [int(weights[num_words - 1]), int(weights[num_words])],
        [int(weights[num_words]), int(weights[-1])],
    ]
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        chunk = frames[first : first + _FRAMES_AT_ONCE]
        covered = np.concatenate([chunk[:, :8], chunk[:, _FRAME_HEADER_BYTES:]], axis=1)
        words = covered.view(f"{byte_order}u4").astype(np.uint32)
        added = np.stack(
            [words @ weights[:num_words][::-1], words @ weights[1 : num_words + 1][::-1]], axis=1
        )
        stored = np.ascontiguousarray(chunk[:, 16:24]).view(">u4")
        for index, (a, b) in enumerate(added.tolist()):
            sums = (
                (state[0][0] * sums[0] + state[0][1] * sums[1] + a) % _MODULUS,
                (state[1][0] * sums[0] + state[1][1] * sums[1] + b) % _MODULUS,
            )
            if chunk[index, 8:16].tobytes() != salts or sums != tuple(stored[index].tolist()):
                return first + index
    return len(frames)


def _continued(data: bytes, byte_order: str, sums: _Sums) -> _Sums:
    """Returns SQLite's checksum of `data`, continued from `sums`."""
    words = np.frombuffer(data, f"{byte_order}u4").tolist()
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (sums[0] + even + sums[1]) % _MODULUS
        sums = first, (sums[1] + odd + first) % _MODULUS
    return sums


def _fibonacci(count: int) -> NDArray[np.uint32]:
    """Returns the first Fibonacci numbers modulo 2**32: the weight of each word in the checksum, from the last."""
    numbers = [0, 1]
    while len(numbers) < count:
        numbers.append((numbers[-2] + numbers[-1]) % _MODULUS)
    return np.array(numbers, np.uint32)


def _num_committed(log: Path, salts: bytes) -> int | None:
    """Returns how many frames the killed writer's index of the log counts as committed; None if it is not usable."""
    try:
        index = log.with_name(log.name.removesuffix("-wal") + "-shm").read_bytes()[:96]
    except OSError:
        return None
    if len(index) < 96 or index[:48] != index[48:] or index[32:40] != salts:
        return None
    byte_order = "<" if sys.byteorder == "little" else ">"
    if _continued(index[:40], byte_order, (0, 0)) != struct.unpack("=2I", index[40:48]):
        return None
    return int(struct.unpack("=I", index[16:20])[0])
