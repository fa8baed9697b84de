"""The part of `tune-jobs fetch` that runs on the cluster: prints a search's packed files to a Ray job's log."""

import base64
import hashlib
import io
import sqlite3
import sys
import tempfile
import zipfile
from contextlib import closing
from pathlib import Path

from tune_jobs.errors import LedgerError, ResultsError
from tune_jobs.results.write import export
from tune_jobs.search.folder import SearchFolder
from tune_jobs.submit.protocol import END, FAILED, FILES, LEDGER, MAX_BYTES, PART

_PART_BYTES = 48 * 1024


def main() -> None:
    """Prints the files of the search folder named by the first argument."""
    try:
        packed = pack(sys.argv[1], with_ledger=sys.argv[2:] == [LEDGER])
    except (LedgerError, ResultsError, OSError, ValueError) as error:
        print(FAILED + " ".join(str(error).split()))
        sys.exit(2)
    print("\n".join(lines(packed)), flush=True)


def pack(address: str, *, with_ledger: bool = False) -> bytes:
    """Returns a zip file with those of `FILES` that a search has, after exporting its ledger once more.

    Args:
        with_ledger: Whether to add the ledger as it is at this moment.

    Raises:
        LedgerError: If there is no search.
        ValueError: If the files are too large for a log; the message names them with their sizes.
    """
    folder = _local_folder(address)
    packed = io.BytesIO()
    with (
        tempfile.TemporaryDirectory() as scratch,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        report = _report(folder, Path(scratch) / "report.html")
        files = {name: report if name == "report.html" else folder / name for name in FILES}
        for name, file in files.items():
            if file.is_file():
                archive.writestr(name, file.read_bytes())
        if with_ledger:
            archive.writestr(LEDGER, _ledger(address, Path(scratch)))
        sizes = {entry.filename: entry.compress_size for entry in archive.infolist()}
    if len(packed.getvalue()) > MAX_BYTES:
        listed = ", ".join(f"{name} ({size / 2**20:.0f} MiB)" for name, size in sorted(sizes.items()))
        raise ValueError(f"more than {MAX_BYTES / 2**20:.0f} MiB; copy them from {address}: {listed}")
    return packed.getvalue()


def lines(packed: bytes) -> list[str]:
    """Returns bytes as lines for a log; the last line holds their number and their hash."""
    encoded = []
    for start in range(0, len(packed), _PART_BYTES):
        part = base64.b64encode(packed[start : start + _PART_BYTES]).decode()
        encoded.append(f"{PART}{part}")
    return [*encoded, f"{END}{len(packed)} {hashlib.sha256(packed).hexdigest()}"]


def _local_folder(address: str) -> Path:
    if "://" in address:
        return SearchFolder(address).results()
    folder = Path(address)
    export(folder)
    return folder


def _ledger(address: str, scratch: Path) -> bytes:
    """Returns a ledger that may be written meanwhile, in one file."""
    search = SearchFolder(address)
    with search.open(read_only=True):  # brings a remote search's ledger to this machine
        copy = scratch / LEDGER
        with (
            closing(sqlite3.connect(search.local / LEDGER)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        return copy.read_bytes()


def _report(folder: Path, page: Path) -> Path:
    try:
        from tune_jobs.report.write import write_report
    except ImportError as error:  # the cluster may lack plotly
        print(f"Without a report: {error}")
    else:
        write_report([folder], page)
    return page


if __name__ == "__main__":
    main()
