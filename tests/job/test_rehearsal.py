"""What is tried of a task before a search starts."""

from tune_jobs.job import rehearsal
from tune_jobs.job.load import load_job

SLOW = """
import time
import torch
class Slow:
    steps_per_epoch = 1
    def __init__(self):
        self.model = torch.nn.Linear(3, 1)
    def batches(self, epoch):
        return [torch.ones(4, 3)]
    def loss(self, batch):
        return self.model(batch).mean()
    def validate(self):
        time.sleep(60)
"""
JOB = """
name: slow
task: slow_to_validate:Slow
metric: val_loss
mode: min
methods: [zsharp, base]
train: {warmup_epochs: 0}
space: {lr: 0.1}
search: {num_trials: 1}
"""


def test_a_validation_that_takes_long_on_this_cpu_is_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "VALIDATION_LIMIT_S", 0.1)
    (tmp_path / "slow_to_validate.py").write_text(SLOW)
    (tmp_path / "job.yaml").write_text(JOB)
    rehearsed = rehearsal.rehearse(load_job(str(tmp_path / "job.yaml")))
    assert rehearsed.steps_per_epoch == 1
    assert len(rehearsed.notes) == 1
    assert "slow_to_validate:Slow: validate" in rehearsed.notes[0]
