"""Trains a trial in several processes: the worker that Ray Tune sees leads, the others are actors beside it.

All are in one placement group, so that Ray starts all of them or none, and ends them with the leader. They live and
die together: a process that fails takes the epoch with it, the trial is tried again from its checkpoint.

`ray.train`'s TorchTrainer would start the processes too. It keeps checkpoints, retries and reports of its own, of
which the ledger would know nothing; what is left to do here is to start actors and join them.
"""

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tune_jobs.cluster.ray import end_at_sigterm
from tune_jobs.job.code import OwnCode

if TYPE_CHECKING:
    from zsharp.training import Training
    from zsharp.training.epoch_row import EpochRow
    from zsharp.training.spec import TrialSpec

_LOOK_EVERY_S = 0.5
# How long the leader has to come out of a step after another process failed, before it ends itself.
_COME_OUT_WITHIN_S = 20.0


class _TeamError(Exception):
    """A process of the trial died."""


class Team:
    """The processes that train one trial after another.

    Args:
        size: How many, the leader included.
        cpus: Of each.
        gpus: Of each.
        timeout_s: How long a process waits for the others within a step.
    """

    def __init__(self, size: int, cpus: float, gpus: float, timeout_s: float) -> None:
        self._size, self._cpus, self._gpus, self._timeout_s = size, cpus, gpus, timeout_s
        self._members: list[Any] = []

    def begin(self, spec: "TrialSpec", task: Callable[..., Any] | None, code: OwnCode | None) -> "TeamRun":
        """Starts a run in all processes."""
        from zsharp.training import Training
        from zsharp.training.processes import Processes

        if not self._members:
            self._start()
        return TeamRun(
            self,
            self.together(
                lambda: Training(spec, task=task, processes=Processes(0, self._size)),
                "begin",
                spec,
                task,
                code,
            ),
        )

    def together(self, lead: Callable[[], Any], method: str, *args: Any) -> Any:
        """Calls a method of all other processes and `lead` here, at the same time, and returns what `lead` does.

        Raises:
            _TeamError: If another process died. What one of them raised is raised here.
        """
        answers = [getattr(member, method).remote(*args) for member in self._members]
        try:
            with self._watched(answers):
                result = lead()
                ray.get(answers)
        except BaseException:
            self.close()
            raise
        return result

    def end(self) -> None:
        """Lets the other processes forget the run."""
        for member in self._members:
            member.end.remote()

    def close(self) -> None:
        """Ends the other processes."""
        import torch.distributed as dist

        for member in self._members:
            ray.kill(member)
        self._members = []
        if dist.is_initialized():
            with suppress(Exception):  # its connections may be broken
                dist.destroy_process_group()

    def _start(self) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host = _address()
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        group = get_current_placement_group()
        assert group is not None
        for rank in range(1, self._size):
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            options = {"num_cpus": self._cpus, "num_gpus": self._gpus, "scheduling_strategy": strategy}
            member = _Member.options(**options)  # type: ignore[attr-defined]
            self._members.append(
                member.remote(rank, self._size, int(self._cpus), (host, store.port), self._timeout_s)
            )
        self.together(lambda: _join(store, 0, self._size, self._timeout_s), "join")

    @contextmanager
    def _watched(self, answers: list[Any]) -> Iterator[None]:
        """Inside, a step that waits for a process that has failed comes to an end."""
        failures: list[Exception] = []
        is_over = threading.Event()

        def watch() -> None:
            pending = answers
            while pending and not is_over.is_set():
                done, pending = ray.wait(pending, num_returns=1, timeout=_LOOK_EVERY_S)
                for answer in done:
                    try:
                        ray.get(answer)
                    except Exception as error:
                        failures.append(error)
                        self._break_off()
                        if not is_over.wait(_COME_OUT_WITHIN_S):
                            os._exit(1)
                        return

        watcher = threading.Thread(target=watch, name="team", daemon=True)
        watcher.start()
        try:
            yield
        except Exception as error:
            # The leader may notice first, by a broken connection.
            watcher.join(4 * _LOOK_EVERY_S)
            if not failures:
                raise
            raise _cause(failures[0]) from error
        finally:
            is_over.set()

    def _break_off(self) -> None:
        """Ends the other processes and their connections, so that no step waits for them."""
        import torch.distributed as dist

        for member in self._members:
            ray.kill(member)
        if dist.is_initialized() and dist.get_backend() == "nccl":
            dist.distributed_c10d._abort_process_group()


class TeamRun:
    """A run in several processes, with the interface of `zsharp.training.Training` as far as workers use it."""

    loaded = None

    def __init__(self, team: Team, training: "Training") -> None:
        self._team, self.training = team, training

    @property
    def spec(self) -> "TrialSpec":
        """What is trained."""
        return self.training.spec

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return self.training.epoch

    @property
    def last_report(self) -> "EpochRow | None":
        """The last epoch's row."""
        return self.training.last_report

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its full number of epochs."""
        return self.training.is_finished

    def run_epoch(self) -> "EpochRow":
        """Trains one epoch in all processes."""
        row: EpochRow = self._team.together(self.training.run_epoch, "run_epoch")
        return row

    def save(self, path: Path) -> None:
        """Writes a checkpoint, which any number of processes can continue from."""
        self._team.together(lambda: self.training.save(path), "save")

    def load(self, path: Path, trunk: "TrialSpec | None" = None) -> None:
        """Continues from a checkpoint of this run, or of its trunk.

        Raises:
            ValueError: If the file is damaged or belongs to another spec.
        """
        self.training.load(path, trunk)
        content = ray.put(path.read_bytes())  # the others may be on machines that do not have the file
        self._team.together(lambda: None, "load", content, trunk)

    def test(self) -> dict[str, float] | None:
        """Returns what the task measures on its test data."""
        measured: dict[str, float] | None = self._team.together(self.training.test, "test")
        return measured

    def close(self) -> None:
        """Ends the run; the processes wait for the next one."""
        self._team.end()


@ray.remote
class _Member:
    """One of the other processes."""

    def __init__(
        self, rank: int, size: int, num_threads: int, store: tuple[str, int], timeout_s: float
    ) -> None:
        import torch

        end_at_sigterm()
        self._rank, self._size, self._store, self._timeout_s = rank, size, store, timeout_s
        torch.set_num_threads(max(1, num_threads))
        self._training: Training | None = None

    def join(self) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as in `tune_jobs.search.worker`
        store = TCPStore(*self._store, is_master=False)
        _join(store, self._rank, self._size, self._timeout_s)

    def begin(self, spec: "TrialSpec", task: Callable[..., Any] | None, code: OwnCode | None) -> None:
        from zsharp.training import Training
        from zsharp.training.processes import Processes

        if code is not None:
            spec = replace(spec, code=code.folders_here())
        self._training = Training(spec, task=task, processes=Processes(self._rank, self._size))

    def run_epoch(self) -> None:
        assert self._training is not None
        self._training.run_epoch()

    def save(self) -> None:
        assert self._training is not None
        self._training.save(Path(os.devnull))  # only the first process writes

    def load(self, content: bytes, trunk: "TrialSpec | None") -> None:
        assert self._training is not None
        with tempfile.TemporaryDirectory(prefix="tune-jobs-") as folder:
            file = Path(folder) / "checkpoint"
            file.write_bytes(content)
            self._training.load(file, trunk)

    def test(self) -> None:
        assert self._training is not None
        self._training.test()

    def end(self) -> None:
        self._training = None


def _join(store: Any, rank: int, size: int, timeout_s: float) -> None:
    """Makes this process one of `size` that exchange tensors."""
    import torch
    import torch.distributed as dist

    interface = _interface_of(_address())
    if interface is not None:  # otherwise it is the one of the host's name, which need not lead to the others
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def _address() -> str:
    """Returns the address by which Ray reaches this node."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _interface_of(address: str) -> str | None:
    """Returns the name of the network interface with an address."""
    name: str
    for name, addresses in psutil.net_if_addrs().items():
        if any(
            entry.family in (socket.AF_INET, socket.AF_INET6) and entry.address == address
            for entry in addresses
        ):
            return name
    return None


def _cause(error: Exception) -> Exception:
    """Returns what another process raised, or that it died."""
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = getattr(error, "cause", None)
        return cause if isinstance(cause, Exception) else error
    return _TeamError(f"a process of the trial died: {error}")
