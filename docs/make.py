"""Makes `job_file.md`, and the tables of columns in `results_folder.md`, from what the code declares."""

import re
from pathlib import Path

from tune_jobs.job.reference import job_reference
from tune_jobs.results.columns import column_tables

HERE = Path(__file__).parent


def pages() -> dict[Path, str]:
    """Returns the text that each page should have."""
    folder = HERE / "results_folder.md"
    text = folder.read_text(encoding="utf-8")
    for name, table in column_tables():
        section = rf"(## {re.escape(name)}\n\n).*?(?=\n\n## |\Z)"
        text, num_found = re.subn(section, lambda match, table=table: match[1] + table, text, flags=re.DOTALL)
        assert num_found == 1, f"{folder} has no section {name}"
    return {HERE / "job_file.md": job_reference(), folder: text.rstrip() + "\n"}


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
