"""The cluster's end of `tune-jobs fetch`: prints a search's Parquet files and report, packed, to a Ray job's log."""

import base64
import hashlib
import io
import sys
import tempfile
import zipfile
from pathlib import Path

from tune_jobs.errors import LedgerError, ResultsError
from tune_jobs.results.write import export
from tune_jobs.submit.protocol import END, FAILED, FILES, MAX_BYTES, PART

_PART_BYTES = 48 * 1024


def main() -> None:
    """Prints the files of the search folder that is the first argument."""
    try:
        packed = pack(sys.argv[1])
    except (LedgerError, ResultsError, OSError, ValueError) as error:
        print(FAILED + " ".join(str(error).split()))
        sys.exit(2)
    print("\n".join(lines(packed)), flush=True)


def pack(place: str) -> bytes:
    """Returns a zip file of what there is of `FILES` in a search folder, written anew from its ledger.

    Raises:
        LedgerError: There is no search.
        ValueError: It is too much for a log; the message names the largest files.
    """
    folder = _local(place)
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
        sizes = {entry.filename: entry.compress_size for entry in archive.infolist()}
    if len(packed.getvalue()) > MAX_BYTES:
        named = ", ".join(f"{name} ({size / 2**20:.0f} MiB)" for name, size in sorted(sizes.items()))
        raise ValueError(f"more than {MAX_BYTES / 2**20:.0f} MiB; copy them from {place}: {named}")
    return packed.getvalue()


def lines(packed: bytes) -> list[str]:
    """Returns bytes as lines for a log, with their hash in the last."""
    parts = range(0, len(packed), _PART_BYTES)
    encoded = (base64.b64encode(packed[at : at + _PART_BYTES]).decode() for at in parts)
    return [*(PART + part for part in encoded), f"{END}{len(packed)} {hashlib.sha256(packed).hexdigest()}"]


def _local(place: str) -> Path:
    """Returns a folder of this machine with the search's files."""
    if "://" in place:
        from tune_jobs.search.folder import SearchFolder

        return SearchFolder(place).results()
    folder = Path(place)
    export(folder)
    return folder


def _report(folder: Path, page: Path) -> Path:
    try:
        from tune_jobs.report.write import write_report
    except ImportError as error:  # plotly is not everywhere
        print(f"Without a report: {error}")
    else:
        write_report([folder], page)
    return page


if __name__ == "__main__":
    main()
