"""Writes docs/results.md from the committed Parquet files: `python docs/results/make.py`.

Every number and every verdict in it is computed here; nothing is typed in.
"""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

from tune_jobs.report.answer import answer_section
from tune_jobs.report.cost import cost_section
from tune_jobs.report.data import Report, load
from tune_jobs.report.page import Bullets, Part, Section
from tune_jobs.results import transfer
from tune_jobs.results.schema import SHARPNESS_PREFIX
from tune_jobs.results.statistics import rank_correlation, summarize
from tune_jobs.results.stopping_account import describe
from tune_jobs.results.tables import Column, Table, fixed, short, to_markdown

MEASURES = ("worst_1step", "m_sharpness", "adaptive", "hessian_max", "hessian_trace")
HERE = Path(__file__).parent
SEARCHES = [Path("cifar10_small")]
CONTROLS = [
    Path("controls") / name for name in ("mask_controls", "radius_controls", "qp_ablation", "transfer")
]

HEAD = """# Results on real data

This page is made by `python docs/results/make.py` from the Parquet files in `docs/results/`; a test compares the two.

## What was run

Job file: [`cifar10_small.yaml`](results/cifar10_small.yaml), then `tune-jobs confirm` with fresh seeds.

- **Data.** CIFAR-10 from JPEG files in Parquet (not the original pixels), {images:,} of the training images. The search
  holds out {val:.0%} of them for validation; confirmations train on all {images:,} and read the 10,000 test images
  once each. Two CPU cores do not allow more: accuracies are far below what these models reach on all the data, and
  results on all of it may differ.
- **Tuning.** Each method had the same {trials} trials an architecture for its own lr, rho and q_p, with early stopping;
  its best trial by validation accuracy was confirmed.
- **Budget.** {epochs} epochs for every method. A step of `base` costs one gradient, of the others two: this compares
  equal epochs, not equal work.
- **Methods.** `base` is AdamW alone. Controls: `random_sam` keeps a random set of the same size as ZSharp's;
  `layer_sam` scales each layer by itself as `zsharp_official` does, without its mask.
"""

NOTES = """## How to read it

- Compare `zsharp` with `random_sam` to see whether *which* components are kept matters, and `zsharp_official` with
  `layer_sam` to see whether its mask adds anything to its larger radius.
- Five trials tune little: the winners' learning rates differ by several times between methods, so a part of every
  difference may be the learning rate's. `sam` falling behind `base` at equal epochs on so little data says nothing
  about longer training.
- "no difference shown" means that chance alone can give a difference of this size with so many seeds; it does not
  mean that there is none.
- p-values are those of exact sign-flip tests on paired seeds, adjusted (Holm) for the number of pairs of an
  architecture. The spread is over training seeds: data and hyperparameters are those of one search.
"""


CONTROLS_HEAD = """## Controls

The four presets of [controls.md](controls.md), made smaller for two CPU cores, on a part of the same images:
{settings}. At this size they show that the controls run on real data and how to read them, not how the
methods compare when trained in full. All methods use the same setting; none is tuned.
[`controls.sh`](results/controls.sh) runs them.
"""


def main() -> None:
    """Writes the page."""
    (HERE.parent / "results.md").write_text(page(), encoding="utf-8")


def page() -> str:
    """Returns the page."""
    with chdir(HERE):  # so that the page has no path of this machine
        return _page(load(SEARCHES))


def _page(report: Report) -> str:
    job = report.results[0].metadata["job"]
    head = HEAD.format(
        images=job["data"]["max_images"],
        val=job["data"]["val_fraction"],
        trials=job["search"]["num_trials"],
        epochs=job["train"]["epochs"],
    )
    parts = [head, "## Answer", *_markdown(answer_section(report)), NOTES]
    parts += ["## Sharpness", *_sharpness(report), "## Cost", *_markdown(cost_section(report))]
    parts += ["```\n" + "\n".join(describe(report.results)) + "\n```", *_controls()]
    parts += ["## Where it ran", *_provenance(report), *_provenance(load(CONTROLS[:1]))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _controls() -> Iterator[str]:
    reports = {folder.name: load([folder]) for folder in CONTROLS}
    jobs = [report.results[0].metadata["job"] for report in reports.values()]
    train, data = jobs[0]["train"], jobs[0]["data"]
    assert all(job["data"] == data and job["train"] == train for job in jobs)
    settings = (
        f"{data['max_images']:,} of them, {data['val_fraction']:.0%} for validation, {train['epochs']} epochs"
    )
    yield CONTROLS_HEAD.format(settings=settings)
    for name, report in reports.items():
        yield f"### {name}"
        if name == "transfer":
            yield "\n".join(f"- {line}" for line in transfer.describe(report.results))
        else:
            yield from _markdown(answer_section(report))


def _markdown(section: Section) -> Iterator[str]:
    for part in section.parts:
        yield from _part(part)


def _part(part: Part) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, Bullets):
        yield "\n".join(f"- {item}" for item in part.items)
    elif isinstance(part, Table):
        yield to_markdown(part)


def _sharpness(report: Report) -> Iterator[str]:
    rows = []
    for workload in report.workloads:
        confirmed = report.of(report.confirmations, workload)
        for label, own in confirmed.groupby("label", sort=False):
            means = {name: summarize(own[SHARPNESS_PREFIX + name].tolist()) for name in MEASURES}
            rows.append(
                {
                    "workload": workload,
                    "label": label,
                    "n": max(summary.n for summary in means.values()),
                    **means,
                }
            )
    columns = [
        Column("architecture", lambda row: row["workload"], False),
        Column("method", lambda row: row["label"], False),
        Column("seeds", lambda row: str(row["n"])),
        *(
            Column(name, lambda row, name=name: f"{short(row[name].mean)} ± {short(row[name].std)}")
            for name in MEASURES
        ),
    ]
    yield to_markdown(
        Table(
            "sharpness",
            "Measures of the confirmed models (mean ± sd over seeds; `docs/sharpness.md` says what each is), on the "
            "same few training images for all.",
            columns,
            rows,
        )
    )
    for workload in report.workloads:
        confirmed = report.of(report.confirmations, workload)
        correlations = {
            name: rank_correlation(
                confirmed[SHARPNESS_PREFIX + name].tolist(), confirmed["test_accuracy"].tolist()
            )
            for name in MEASURES
        }
        words = ", ".join(
            f"{name} {fixed(tau.tau, 2)} (p = {short(tau.p_value)})" for name, tau in correlations.items()
        )
        yield f"{workload}: Kendall's tau with test accuracy over all n = {len(confirmed)} models: {words}."


def _provenance(report: Report) -> Iterator[str]:
    for metadata in (result.metadata for result in report.results):
        hardware, versions = metadata["hardware"] or {}, metadata["package_versions"] or {}
        facts = {**hardware, "commit": metadata["git_commit"], "python": metadata["python_version"]}
        facts |= {name: versions.get(name) for name in ("torch", "ray", "optuna")}
        yield "\n".join(f"- {name}: {value}" for name, value in facts.items() if value not in (None, [], {}))


if __name__ == "__main__":
    main()
