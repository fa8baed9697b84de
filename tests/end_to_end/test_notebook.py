"""The notebook of examples/ runs, with the live table, and prints what is stored in it."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "search.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Jupyter's own packages
def test_the_notebook_runs(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    stored = nbformat.read(NOTEBOOK, as_version=4)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    *_, table = [out for out in cells[0].outputs if out.output_type == "display_data"]
    assert "resnet8" in table.data["text/plain"]
    assert list((tmp_path / "results" / "notebook" / "tensorboard").glob("resnet8-sam-*/events*"))
    for cell, before in zip(cells[3:], [c for c in stored.cells if c.cell_type == "code"][3:], strict=True):
        assert [out.data["text/plain"] for out in cell.outputs] == [
            out["data"]["text/plain"] for out in before.outputs
        ]
