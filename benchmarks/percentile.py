"""Times the exact percentile on the CPU against numpy's partition, with and without numpy's vector code for it.

Run `python benchmarks/percentile.py` (one thread, about a minute). numpy has vector code of `partition` for some
processors only; its switch for such code shows the others' speed on any machine, in a process of its own. Within a
repeat both are timed one after the other, in CPU seconds; the median of the ratios is given with the smallest and
the largest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from zsharp.cpu import cpu_model
from zsharp.optim.ascent.order_statistic import order_statistic

SIZES = (9_216, 36_864, 147_456, 589_824, 2_359_296)  # layers of ResNets and of VGG-16
PERCENTILES = (0.5, 0.95)
VECTOR_FEATURES = "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"  # as numpy 2.4 names them; unknown names only warn


def main() -> None:
    """Measures in two processes, prints the ratios and writes everything as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "percentile-cpu.json")
    parser.add_argument("--rows-only", action="store_true", help="print this process's measurements as JSON")
    arguments = parser.parse_args()
    if arguments.rows_only:
        print(json.dumps([measure(n, q, arguments.repeats) for n in SIZES for q in PERCENTILES]))
        return
    print(f"cpu {cpu_model()}; numpy {np.__version__}; one thread; n = {arguments.repeats}")
    results = {}
    for name, disabled in (("with vector code", ""), ("without", VECTOR_FEATURES)):
        command = [sys.executable, __file__, "--rows-only", "--repeats", str(arguments.repeats)]
        environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled, "OMP_NUM_THREADS": "1"}
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        results[name] = json.loads(output.stdout)
        print(f"{name}:")
        for row in results[name]:
            ratios = row["ratios"]
            print(
                f"  {row['num']:>9} q {row['q']:<4}  partition {statistics.median(row['partition_ms']):7.3f} ms, "
                f"ours {statistics.median(row['ours_ms']):7.3f} ms, partition / ours "
                f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
    result = {
        "benchmark": "percentile",
        "hardware": f"cpu {cpu_model()}",
        "numpy": np.__version__,
        "n": arguments.repeats,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": results,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(num: int, q: float, repeats: int) -> dict[str, Any]:
    """Returns milliseconds and ratios for absolute normal numbers in float32."""
    values = np.abs(np.random.default_rng(0).standard_normal((1, num), dtype=np.float32))
    rank, copy = int(q * (num - 1)), np.empty_like(values)

    def partition() -> Any:
        np.copyto(copy, values)  # into memory that is kept: fresh memory costs more than the copy
        copy.partition(rank, axis=1)
        return copy[:, rank]

    assert np.array_equal(partition(), order_statistic(values, rank))
    calls = max(1, 400_000 // num)
    partition_ms, ours_ms = [], []
    for _ in range(repeats):
        partition_ms.append(milliseconds(partition, calls))
        ours_ms.append(milliseconds(lambda: order_statistic(values, rank), calls))
    ratios = [a / b for a, b in zip(partition_ms, ours_ms, strict=True)]
    return {"num": num, "q": q, "partition_ms": partition_ms, "ours_ms": ours_ms, "ratios": ratios}


def milliseconds(call: Callable[[], Any], calls: int) -> float:
    """This process's CPU time a call."""
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls * 1e3


if __name__ == "__main__":
    main()
