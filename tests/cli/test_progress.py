"""What a person sees of a search: lines in a pipe, a table that fits on a terminal."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from tune_jobs.cli import progress as module
from tune_jobs.cli.live import LiveLines
from tune_jobs.cli.progress import Progress
from tune_jobs.cluster.slots import Slots
from tune_jobs.job.load import load_job
from tune_jobs.job.metric import Metric
from tune_jobs.search.trial import LiveTrial
from tune_jobs.search.wind_down import say
from tune_jobs.stopping.epochs_left import epochs_left

SLOTS = Slots(2, 1, 0, ["2 CPUs, 1 for each trial: room for 2", "2 trials at once"])
START = "Running 2 studies, 8 trials in all: 2 trials at once."


@pytest.fixture
def clock(monkeypatch):
    """Time as the test says it is."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def small_job(*sets):
    few = ["architectures=[resnet8]", "methods=[sam, base]", "search.num_trials=4", "train.epochs=9"]
    return load_job("digits", [*few, "asha.grace_epochs=3", *sets])


def piped():
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def terminal(width=100, height=24):
    size = {"width": width, "height": height}
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False, **size)


def trial(number, *, study="resnet8-sam", **state):
    params = {"rho": 0.05, "lr": 0.00123456}
    return LiveTrial(f"{study}-{number:04d}", study, params, **state)


def feed(progress, live, epochs, status=None, accuracy=0.5, error=None):
    """Reports a trial from its start; its last epoch ends it if `status` is given, as `Recorder` does."""
    progress.on_change(live)
    for epoch in range(1, epochs + 1):
        live.epoch, live.value = epoch, accuracy
        if epoch < epochs or status in (None, "failed", "interrupted"):
            progress.on_change(live)
    if status is not None:
        live.status, live.error = status, error
        progress.on_change(live)
    return live


def shown(progress):
    """The lines of the live table as it would be drawn now."""
    console = progress._console
    lines = console.render_lines(progress._render(), console.options, pad=False)
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


def test_a_pipe_gets_one_line_for_the_start_and_one_for_each_finished_trial():
    console = piped()
    with Progress(small_job(), console) as progress:
        progress.on_start(SLOTS)
        running = feed(progress, trial(0), 2)
        feed(progress, trial(1), 3, "pruned", 0.25)
        feed(progress, trial(0, study="resnet8-base"), 9, "completed", 0.98765)
        feed(progress, trial(2), 1, "diverged", 0.1)
        feed(progress, trial(3), 0, "failed", error="Traceback:\n  File x\nValueError: no\n\n")
        feed(progress, trial(1, study="resnet8-base"), 5, "interrupted")
        assert running.status is None
    assert console.file.getvalue().splitlines() == [
        START,
        "1/8  resnet8-sam-0001   pruned       epoch 3/9  val acc 0.2500  rho=0.05 lr=0.00123",
        "2/8  resnet8-base-0000  completed    epoch 9/9  val acc 0.9877  rho=0.05 lr=0.00123",
        "3/8  resnet8-sam-0002   diverged     epoch 1/9  val acc 0.1000  rho=0.05 lr=0.00123",
        "4/8  resnet8-sam-0003   failed       epoch 0/9  rho=0.05 lr=0.00123  ValueError: no",
        "5/8  resnet8-base-0001  interrupted  epoch 5/9  val acc 0.5000  rho=0.05 lr=0.00123",
    ]


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        ("KeyError: [/bold] [red]x[/red]", "KeyError: [/bold] [red]x[/red]"),
        ("a:smile:b :x:", "a:smile:b :x:"),
        ("\x1b[36mray::Trainable\x1b[39m\n\x1b[31mBoom\x1b[0m\a\x1b", "Boom"),
        ("RuntimeError: back\\slash\\", "RuntimeError: back\\slash\\"),
        (f"ValueError: {'long ' * 100}", "ValueError: " + ("long " * 100)[:185] + "..."),
        ("\n \n", ""),
    ],
)
@pytest.mark.parametrize("make_console", [piped, terminal])
def test_errors_are_one_line_of_plain_text(error, printed, make_console):
    console = make_console()
    progress = Progress(small_job(), console)
    feed(progress, trial(0), 0, "failed", error=error)
    expected = f"1/8  resnet8-sam-0000   failed       epoch 0/9  rho=0.05 lr=0.00123  {printed}"
    assert console.file.getvalue().splitlines() == [expected]


def test_a_terminal_shows_every_study():
    progress = Progress(small_job(), terminal())
    feed(progress, trial(0), 9, "completed", 0.7)
    feed(progress, trial(1), 9, "completed", 0.6)
    feed(progress, trial(2), 3, "pruned", 0.9)
    feed(progress, trial(3), 2)
    feed(progress, trial(0, study="resnet8-base"), 1, "diverged")
    feed(progress, trial(1, study="resnet8-base"), 4, "failed", error="boom")
    lines = shown(progress)
    assert lines[0].split() == ["study", "done", "running", "pruned", "failed", "best"]
    assert len(lines) == 8
    rows = {line.split()[0]: line.split() for line in lines[1:-1]}
    assert rows["resnet8-sam"] == ["resnet8-sam", "3/4", "1", "1", "0.7000"]
    assert rows["resnet8-base"] == ["resnet8-base", "2/4", "2"]
    assert lines[3].split() == ["running", "epoch", "val", "acc"]
    assert rows["resnet8-sam-0003"] == ["resnet8-sam-0003", "2/9", "0.5000"]
    assert lines[5:7] == ["best so far: resnet8-sam-0000 0.7000", "  rho=0.05 lr=0.00123"]
    assert lines[-1].startswith("28 epochs in ")
    assert max(map(len, lines)) <= 60, "a terminal that becomes narrower need not wrap them"


def test_the_best_so_far_may_still_train_and_is_marked():
    progress = Progress(small_job(), terminal())
    feed(progress, trial(0), 9, "completed", 0.7)
    live = feed(progress, trial(1), 2, accuracy=0.8)
    assert shown(progress)[1].endswith(" 0.8000*")
    assert {"best so far: resnet8-sam-0001 0.8000*", "* still training"} <= set(shown(progress))
    live.status = "pruned"
    progress.on_change(live)
    assert shown(progress)[1].endswith(" 0.7000") and "*" not in "".join(shown(progress))


def test_the_table_is_live_and_leaves_nothing_behind():
    console = terminal()
    with Progress(small_job(), console) as progress:
        assert console.file.getvalue() == "", "nothing before the search has passed its checks"
        progress.on_start(SLOTS)
        feed(progress, trial(0), 9, "completed")
        progress._live.refresh()
        assert re.search(r"resnet8-sam +1/4 ", console.file.getvalue())
        feed(progress, trial(0, study="resnet8-base"), 0, "failed", error="ValueError: why")
    drawn = Screen(24).draw(console.file.getvalue())
    assert drawn[0] == START
    assert drawn[1].endswith("failed       epoch 0/9  rho=0.05 lr=0.00123  ValueError: why")
    assert not any(drawn[2:])


class Screen:
    """As much of a terminal as `rich.live` needs: what is written, cursor up, lines erased."""

    def __init__(self, height):
        self.lines, self.row, self.height = [""], 0, height

    def draw(self, text):
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
            if part == "\n":
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif part.startswith("\x1b") and part.endswith("A"):
                up = int(part[2:-1] or 1)
                assert up < self.height, "what has scrolled away cannot be drawn over"
                self.row = max(0, self.row - up)
            elif part == "\x1b[2K":
                self.lines[self.row] = ""
            elif part[0] not in "\r\x1b":
                self.lines[self.row] = part
        return self.lines


@pytest.mark.parametrize(("height", "num_rows"), [(24, 15), (10, 4), (5, 1), (2, 1)])
def test_thirty_studies_fit_on_a_low_terminal(height, num_rows):
    job = small_job(
        "architectures=[resnet8, resnet20, resnet32, vit_tiny, resnet44]",
        "methods=[base, sam, asam, friendly_sam, zsharp, zsharp_official]",
    )
    assert len(job.studies()) == 30
    console = terminal(width=80, height=height)
    with Progress(job, console) as progress:
        progress.on_start(SLOTS)
        feed(progress, trial(0, study="resnet44-zsharp"), 3)
        feed(progress, trial(0, study="resnet20-sam"), 9, "completed", 0.8)
        lines = shown(progress)
        hidden = f"and {30 - num_rows} more, {0 if num_rows > 1 else 1}/{(30 - num_rows) * 4} done"
        assert lines[num_rows + 1] == hidden
        running = [line.split()[0] for line in lines[num_rows + 2 : -1]]
        assert running[:2] == (["running", "resnet44-zsharp-0000"] if height > 5 else [])
        assert lines[-1].startswith("12 epochs in ")
        names = [line.split()[0] for line in lines[1 : num_rows + 1]]
        assert "resnet44-zsharp" in names, "studies with running trials come first"
        assert ("resnet20-sam" in names) == (num_rows > 1), "then those that are best"
        order = [study.name for study in job.studies()]
        assert names == sorted(names, key=order.index)
        progress._live.refresh()
        progress._live.refresh()
    if height > 4:
        assert [line for line in Screen(height).draw(console.file.getvalue()) if line] == [
            "Running 30 studies, 120 trials in all: 2 trials at once."
        ]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_long_names_never_wrap_and_the_counts_stay(width):
    job = small_job("architectures=[vit_7_8_12_768]", "methods=[zsharp_friendly_sam]", "train.epochs=200",
                    "asha.grace_epochs=50", "search.num_trials=64")  # fmt: skip
    progress = Progress(job, terminal(width=width))
    study = "vit_7_8_12_768-zsharp_friendly_sam"
    feed(progress, trial(0, study=study), 200, "completed", 0.87654)
    for number in range(1, 12):
        feed(progress, trial(number, study=study), 50, "pruned")
    feed(progress, trial(12, study=study), 5, "failed", error="x")
    feed(progress, trial(13, study=study), 5)
    lines = shown(progress)
    assert len(lines) == 7
    assert max(map(len, lines)) <= width
    assert " 5/200 " in lines[3] and " 0.5000" in lines[3]
    for part in ("13/64", " 1 ", " 11 ", "0.8765"):
        assert part in lines[1]
    if width >= 80:
        assert study in lines[1]


def test_the_footer_counts_epochs_and_tells_the_time(clock):
    progress = Progress(small_job(), terminal())
    progress.on_start(SLOTS)
    progress._live.stop()
    clock[0] += 7
    assert shown(progress)[-1] == "starting Ray, 7s so far"
    live = feed(progress, trial(0), 0)
    assert shown(progress)[-1] == "loading torch on 1 worker, then a first epoch; 7s"
    clock[0] += 3
    live.epoch = 1
    progress.on_change(live)
    assert shown(progress)[-1] == "1 epoch in 10s"
    for epoch in range(2, 10):
        clock[0] += 2
        live.epoch, live.status = epoch, "completed" if epoch == 9 else None
        progress.on_change(live)
    # 8 epochs in the 16 s since the first; 7 trials of 9 epochs to go.
    assert shown(progress)[-1] == "9 epochs in 26s, 0.5 epochs/s, about 2m06s left"
    clock[0] += 10_000
    assert "2h47m" in shown(progress)[-1]


def test_what_is_said_while_the_table_is_there_is_shown_in_it_and_stays(capfd):
    console = terminal(width=60)
    with Progress(small_job(), console) as progress:
        progress.on_start(SLOTS)
        say("Stopping: running epochs have 15 s to end. The same signal again ends at once.")
        assert [line for line in shown(progress) if line.startswith("Stopping: ")]
        progress._live.refresh()
    drawn = [line for line in Screen(24).draw(console.file.getvalue()) if line]
    assert drawn == [START, "Stopping: running epochs have 15 s to end. The same signal again ends at once."]
    assert capfd.readouterr().err == "", "it would stand in the table"
    say("and now")
    assert "and now" in capfd.readouterr().err


def test_a_terminal_that_becomes_narrower_keeps_no_old_rows():
    """Terminals wrap the rows that no longer fit, so that there are more of them than were drawn."""
    console = terminal(width=120)
    live = LiveLines(console, lambda: Text("x" * 100 + "\nshort", no_wrap=True, overflow="crop"))
    live.start()
    live.refresh()
    drawn_wide = len(console.file.getvalue())
    console._width = 50
    live.refresh()
    redrawn = console.file.getvalue()[drawn_wide:]
    assert redrawn.count("\x1b[1A") == 2, "100 columns are two rows of 50, above the last one"
    before = len(console.file.getvalue())
    live.refresh()
    assert console.file.getvalue()[before:].count("\x1b[1A") == 1
    live.stop()


def test_a_resumed_trial_counts_what_it_trains_from_here_on():
    progress = Progress(small_job(), terminal())
    live = trial(0, epoch=5, value=0.5)
    progress.on_change(live)
    live.epoch = 6
    progress.on_change(live)
    assert shown(progress)[-1].startswith("1 epoch in ")


def test_epochs_left_by_hand():
    assert epochs_left([10], [], 3, 10) == 30
    assert epochs_left([], [4, 0], 2, 10) == 6 + 10 + 20
    # Two of three stopped at 5; of those at 5 or beyond, one in three went on.
    assert epochs_left([5, 5, 10], [], 1, 10) == pytest.approx(5 + 5 / 3)
    assert epochs_left([5, 5, 10], [5], 0, 10) == 5
    # One stopped at 5 while three were beyond it: three in four go on.
    assert epochs_left([5], [6, 7, 8], 1, 10) == pytest.approx(5 + 5 * 3 / 4 + 4 + 3 + 2)
    assert epochs_left([0, 0], [], 5, 10) == 0


@given(
    ended=st.lists(st.integers(0, 20), max_size=20),
    running=st.lists(st.integers(0, 19), max_size=5),
    num_waiting=st.integers(0, 20),
)
def test_epochs_left_are_never_more_than_there_can_be(ended, running, num_waiting):
    left = epochs_left(ended, running, num_waiting, 20)
    assert -1e-9 <= left <= sum(20 - epochs for epochs in running) + 20 * num_waiting + 1e-9
    if ended and not running:
        assert left == pytest.approx(num_waiting * sum(ended) / len(ended))


def test_a_job_that_minimises_shows_the_lowest_under_the_metrics_name():
    console = terminal()
    progress = Progress(small_job("metric=val_loss", "mode=min"), console)
    for number, value in enumerate((0.5, 0.25, 12345.678)):
        live = trial(number, metric=Metric("val_loss", "min"))
        feed(progress, live, 9, "completed", value)
    assert " val_loss 1.235e+04 " in console.file.getvalue()
    heading, row, *_ = shown(progress)
    assert "best val_loss" in heading
    assert " 0.25" in next(line for line in shown(progress) if "resnet8-sam" in line), row
