"""The documentation's example runs, and its table has every name."""

import re
from pathlib import Path

from zsharp.sharpness import MEASURES

TEXT = (Path(__file__).parents[2] / "docs" / "sharpness.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 1
    names = {}
    exec(blocks[0], names)
    assert names["plane"].shape == (3, 3)
    assert "LargestEigenvalue(value=" in capsys.readouterr().out


def test_every_measure_is_documented():
    assert all(f"`{name}`" in TEXT for name in MEASURES)
