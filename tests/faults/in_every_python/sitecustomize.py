"""Read by every Python process of a search under test: counts trained epochs, and makes chosen ones fail.

An epoch is trained when its checkpoint is opened for writing, which Python's audit hooks see, and can refuse. So
nothing of the program is replaced, and nothing in it knows of tests.

- FAULTS_EPOCHS: a file that gets a line, the trial, for every epoch trained.
- FAULTS_AT: `trial kind skip times`, and more of them after commas: when that trial's checkpoint has been written
  `skip` times, the next `times` fail.
- FAULTS_DATA: a file that gets a line, HOME and what, whenever a data set is read from its source or decoded.
"""

import os
import signal
import sys
from pathlib import Path


def _failure(kind):
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "out-of-memory":
        return sys.modules["torch"].OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return RuntimeError("the data are gone")


def _on_data(event, arguments):
    if event != "open" or not isinstance(arguments[0], str | os.PathLike):
        return
    name = Path(os.fsdecode(arguments[0])).name
    is_decoded = name == "train_images.npy" and "w" in (arguments[1] or "")
    if is_decoded or name == "digits.csv.gz":
        with Path(os.environ["FAULTS_DATA"]).open("a") as file:
            file.write(f"{os.environ['HOME']} {'decoded' if is_decoded else 'read'}\n")


def _on_open(event, arguments):
    if event != "open" or not isinstance(arguments[0], str | os.PathLike):
        return
    path = os.fspath(arguments[0])
    is_written = "w" in (arguments[1] or "")  # it is opened once more, to sync it
    if not (is_written and str(path).endswith(".tmp") and f"{os.sep}checkpoints{os.sep}" in str(path)):
        return
    trial = Path(path).name.removeprefix(".").partition(".pt.")[0]
    log = Path(os.environ["FAULTS_EPOCHS"])
    with log.open("a") as file:
        file.write(f"{trial}\n")
    trained = log.read_text().splitlines().count(trial)
    for fault in filter(None, os.environ.get("FAULTS_AT", "").split(",")):
        unlucky, kind, skip, times = fault.split()
        if trial == unlucky and int(skip) < trained <= int(skip) + int(times):
            raise _failure(kind)


if "FAULTS_EPOCHS" in os.environ:
    sys.addaudithook(_on_open)
if "FAULTS_DATA" in os.environ:
    sys.addaudithook(_on_data)
