"""Makes `job_file.md` and the tables of columns in `results_folder.md` from what the code declares.

The figures in `searching.md` come from the committed results of a search and of two benchmarks.
"""

import json
import re
from pathlib import Path

from tune_jobs.job.reference import job_reference
from tune_jobs.results.columns import column_tables
from tune_jobs.results.read import read_results
from tune_jobs.results.rules_replayed import replay_table, rule_of, rules_like
from tune_jobs.results.tables import to_markdown

HERE = Path(__file__).parent
MEASURED = HERE.parent / "benchmarks" / "results"


def pages() -> dict[Path, str]:
    """Returns the text that each page should have."""
    folder = HERE / "results_folder.md"
    text = folder.read_text(encoding="utf-8")
    for name, table in column_tables():
        section = rf"(## {re.escape(name)}\n\n).*?(?=\n\n## |\Z)"
        text, num_found = re.subn(section, lambda match, table=table: match[1] + table, text, flags=re.DOTALL)
        assert num_found == 1, f"{folder} has no section {name}"
    searching = HERE / "searching.md"
    return {
        HERE / "job_file.md": job_reference(),
        folder: text.rstrip() + "\n",
        searching: with_figures(searching.read_text(encoding="utf-8")),
    }


def with_figures(text: str) -> str:
    """Returns a page with what was measured between its marks, such as `<!-- replay: begin -->`."""
    figures = {
        "replay": replayed(),
        "late phase": text_of("late_phase"),
        "search quality": text_of("search_quality"),
    }
    for name, figure in figures.items():
        marked = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        text, num_found = re.subn(
            marked, lambda match, figure=figure: f"{match[1]}\n{figure}\n\n{match[2]}", text, flags=re.DOTALL
        )
        assert num_found == 1, f"the page has no marks {name}"
    return text


def replayed() -> str:
    """Returns what `tune-jobs replay docs/results/cifar10_small` prints with the options that the page shows."""
    results = read_results(HERE / "results" / "cifar10_small")
    rules = rules_like(
        rule_of(results), names=["asha", "i_epoch"], grace=[1, 2, 4], reduction_factor=[2, 4], protect_top=1
    )
    return to_markdown(replay_table(results, rules)).strip()


def text_of(benchmark: str) -> str:
    """Returns what a benchmark says of its last results."""
    return "\n".join(json.loads((MEASURED / f"{benchmark}.json").read_text(encoding="utf-8"))["text"])


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
