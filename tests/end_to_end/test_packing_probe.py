"""The probe runs real trials side by side (on logical GPUs); a trial that runs out of memory gets more room."""

import os
import signal

import pytest

from tune_jobs.cluster.ray import Totals
from tune_jobs.cluster.slots import plan_slots
from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search import packing_probe
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.packing_probe import packed, probe_packing, with_fewer
from tune_jobs.search.recorder import Recorder
from tune_jobs.search.run import plan_resources, run

SETS = ["architectures=[resnet8]", "methods=[sam, base]", "train.batch_size=16", "search.num_trials=4"]


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_with_four_gpus")
def test_real_trials_are_measured_alone_and_together():
    together, kind, lines = probe_packing(
        load_job("digits", [*SETS, "resources.cpus_per_trial=2"]), needs_cuda=False, seconds=1.0
    )
    assert together in (1, 2) and kind == "time"  # 4 have no CPUs here
    assert [line.split()[0] for line in lines] == ["resnet8"]
    assert all("2 taking turns" in line and "GB" in line for line in lines)


@pytest.mark.usefixtures("ray_with_four_gpus")
def test_without_cuda_every_trial_has_a_gpu_of_its_own(tmp_path):
    job = load_job("digits", SETS)
    slots, totals = plan_resources(job)
    assert slots.gpus_per_trial == 1
    with Ledger.create(tmp_path, job.model_dump(mode="json"), {}) as ledger:
        assert packed(job, ledger, slots, totals) == slots
        assert ledger.events() == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_with_four_gpus")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_probe_stops_the_search(tmp_path, monkeypatch, number):
    def interrupted(*args, **given):
        os.kill(os.getpid(), number)
        return probe_packing(*args, **given)

    monkeypatch.setattr(packing_probe, "probe_packing", interrupted)
    result = run(load_job("digits", SETS), tmp_path / "search")
    assert result.is_interrupted
    with Ledger.open(tmp_path / "search", read_only=True) as ledger:
        assert ledger.trials() == []
        assert [event["kind"] for event in ledger.events()] == ["start", "stop"]


def test_out_of_memory_gives_each_trial_more_room_and_loses_none(tmp_path):
    job = load_job("digits", SETS)
    (study, _) = job.studies()
    totals = Totals(cpus=16, gpus=2)
    with Ledger.create(tmp_path, job.model_dump(mode="json"), {}) as ledger:
        ledger.record_event("pack", {"gpus_per_trial": 0.25, "probed": ["as measured"]})
        whole = plan_slots(job.resources, totals.cpus, totals.gpus)
        slots = packed(job, ledger, whole, totals)  # what an earlier session measured
        assert (slots.gpus_per_trial, slots.num_slots) == (0.25, 8)
        recorder = Recorder(job, ledger, SearchFolder(tmp_path), gpus_per_trial=slots.gpus_per_trial)
        recorder.start_trial("ray", study, 0, {"rho": 0.1, "lr": 0.001})
        for share in (0.5, 1.0):
            recorder.fail("ray", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
            assert recorder.wind_down.kind == "repack"
            slots = with_fewer(job, ledger, slots, totals)
            assert slots.gpus_per_trial == share
            recorder.repack(slots.gpus_per_trial)
            assert recorder.continue_trial("ray").retries == 0
        recorder.fail("ray", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
        (trial,) = ledger.trials()
        assert (trial["status"], trial["stop_reason"]) == ("failed", "out of GPU memory")
