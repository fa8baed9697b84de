"""The numbers in docs/optimizers.md are those of the code."""

import math
from pathlib import Path

import pytest
import torch

from zsharp.models import build_model
from zsharp.optim import METHODS, make_optimizer

TEXT = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text()


def rows(heading):
    section = TEXT[TEXT.index(f"## {heading}") :].split("\n## ")[0]
    return [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in section.splitlines()
        if row[:2] == "| "
    ]


def test_the_radius_of_the_authors_code_is_as_the_table_says():
    table = rows("The radius trap")[1:]
    assert len(table) == 3
    for name, num, root in table:
        model = build_model(name.strip("`"), (3, 32, 32), 10)
        assert int(num) == sum(p.ndim > 1 for p in model.parameters())
        assert root == f"{math.sqrt(int(num)):.1f}"


@pytest.mark.parametrize("method", ["sam", "asam", "friendly_sam", "zsharp", "zsharp_official"])
def test_memory_kept_between_steps_is_as_stated(method):
    """One copy of the weights, the running gradient, and on the CPU two buffers of the largest layer's size."""
    model = torch.nn.Sequential(
        torch.nn.Linear(700, 2000), torch.nn.Linear(2000, 100), torch.nn.Linear(100, 4)
    )
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1)
    for _ in range(2):
        model(torch.randn(4, 700)).square().mean().backward()
        optimizer.first_step(zero_grad=True)
        model(torch.randn(4, 700)).square().mean().backward()
        optimizer.second_step(zero_grad=True)
    num = sum(p.numel() for p in model.parameters())
    assert sum(t.numel() for t in optimizer._backups.buffers.values()) == num
    assert sum(t.numel() for t in optimizer._progress.running.values.values()) == (
        num if method == "friendly_sam" else 0
    )
    largest = max(p.numel() for p in model.parameters())
    num_scratch = sum(t.numel() for t in optimizer._scratch.values())
    assert num_scratch <= (0 if method in ("sam", "friendly_sam") else 2 * largest + 2**18)


def test_every_method_named_is_in_the_table():
    named = {name.strip("`") for row in rows("Which one")[1:] for name in row[0].split(", ")}
    assert {"base", "magnitude_sam", "random_sam"} <= named & set(METHODS)
    assert {METHODS[name].gradient_evaluations_per_step for name in METHODS} == {1, 2}
