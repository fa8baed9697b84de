"""What users bring and cannot be used, each with a word of its refusal.

Run as a program it prints the table: python tests/support/own_code_cases.py
"""

import os
import tempfile
from pathlib import Path

from command_line import call

TASK = """
import torch
from torch import nn
class Task:
    steps_per_epoch = 2
    def __init__(self, seed):
        self.model = nn.Linear(3, 1)
    def batches(self, epoch):
        return [torch.ones(4, 3)] * 2
    def loss(self, batch):
        return self.model(batch).mean()
    def validate(self):
        return {"val_loss": 1.0}
"""
NET = """
import sys, torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, images):
        return self.layer(images.flatten(1))
def net(image_shape, num_classes):
    return Net()
"""


def task(name, old="", new=""):
    return {"task": f"{name}:Task", "metric": "val_loss", "mode": "min"}, {
        f"{name}.py": TASK.replace(old, new)
    }


def net(name, old="", new="", function="net"):
    job = {"data": "{name: digits}", "architectures": f"['{name}:{function}']"}
    return job, {f"{name}.py": NET.replace(old, new)}


CASES = {
    "no such module": ({"task": "absent_module:Task"}, {}, "absent_module"),
    "no such attribute": (*net("own0", function="nets"), "did you mean net"),
    "no reference": ({"task": "own1"}, {"own1.py": TASK}, "module:function"),
    "import raises": (*net("own2", "import sys", "raise OSError('mine')\nimport sys"), "mine"),
    "import exits": (*net("own3", "import sys", "raise SystemExit(3)\nimport sys"), "sys.exit(3)"),
    "syntax error": (*net("own4", "import sys", "import sys,"), "own4.py, line 2"),
    "not callable": (*net("own5", "def net", "other = 3\ndef net", function="other"), "of type int"),
    "needs more": (*net("own6", "num_classes)", "num_classes, depth)"), "'depth'"),
    "by position only": (*net("own7", "num_classes)", "num_classes, /)"), "by position only"),
    "raises in its file": (*net("own8", "return Net()", "return [][1]"), "own8.py, line"),
    "returns no model": (*net("own9", "return Net()", "return 3"), "int"),
    "returns a tuple": (*net("own10", "return self.layer(images.flatten(1))", "return images, 1"), "tuple"),
    "another shape": (*net("own11", "nn.Linear(64, 10)", "nn.Linear(64, 11)"), "[2, 11]"),
    "another device": (
        *net("own12", "return self.layer(images.flatten(1))", "return self.layer(images.flatten(1)).to('meta')"),
        "meta",
    ),
    "output without a graph": (*net("own30", "images.flatten(1))", "images.flatten(1)).detach()"), "without a graph"),
    "nothing to train": (*net("own13", "return Net()", "return Net().requires_grad_(False)"), "need gradients"),
    "forward raises": (*net("own14", "self.layer(images.flatten(1))", "self.layer(images)"), "own14.py, line"),
    "a module of Python's": ({"task": "queue:Task"}, {"queue.py": TASK}, "rename yours"),
    "a module of ours": ({"task": "zsharp:Task"}, {"zsharp.py": TASK}, "rename yours"),
    "task without a loss": (*task("own15", "def loss", "def lost"), "'loss'"),
    "loss not a scalar": (*task("own16", ".mean()", ""), "shape [4, 1]"),
    "loss raises": (*task("own23", ".mean()", ".nothing()"), "own23.py, line"),
    "an argument that it lacks": (
        {**task("own24")[0], "model": "{width: 3}"}, task("own24")[1], "width",
    ),
    "a mistyped argument": ({**net("own28")[0], "space": "{model.dpeth: {int: [1, 9]}}"}, net("own28")[1], "dpeth"),
    "an argument with two meanings": (
        {**task("own29")[0], "space": "{batch_size: {choice: [2, 4]}}"}, task("own29")[1], "train.batch_size",
    ),
    "a task and data": ({**task("own25")[0], "data": "{name: cifar10}"}, task("own25")[1], "remove one"),
    "a loop that is absent": ({"train": "own26:train"}, {"own26.py": TASK}, "'train'"),
    "no folder": ({**task("own27")[0], "code": "[nowhere]"}, task("own27")[1], "no such folder"),
}  # fmt: skip


def answer(job, files, folder):
    """Returns exit code, output and error output of a search for which a case is written to a folder."""
    for name, text in files.items():
        (folder / name).write_text(text)
    values = {
        "name": "own",
        "methods": "[zsharp, base]",
        "space": "{lr: 0.1}",
        "search": "{num_trials: 1}",
    } | job
    if "train" not in values:
        values["train"] = "{epochs: 2, batch_size: 16, warmup_epochs: 0}"
    (folder / "job.yaml").write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
    return call("run", folder / "job.yaml", "--out", folder / "out")


if __name__ == "__main__":
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    print("| case | message | exit code |\n|---|---|---|")
    for case, (job, files, _) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            code, _, said = answer(job, files, Path(folder))
            told = said.strip().replace(folder, "FOLDER").replace("\n", "<br>").replace("|", "\\|")
            print(f"| {case} | {told} | {code} |")
