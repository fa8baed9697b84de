"""Lines at the bottom of a terminal that are drawn again and again, also after the terminal became narrower."""

import math
from collections.abc import Callable, Iterator

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment


class LiveLines(Live):
    """`rich.live.Live` that erases what it has drawn even where a narrower terminal has wrapped it since.

    Rich goes up by as many rows as it has drawn. Terminals wrap lines that no longer fit, so some of those would stay.

    Args:
        render: Called twice a second for what to draw.
    """

    def __init__(self, console: Console, render: Callable[[], RenderableType]) -> None:
        self._widths: list[int] = []  # of the lines that stand on the terminal
        super().__init__(
            get_renderable=lambda: _Measured(render(), self),
            console=console,
            refresh_per_second=2,
            transient=True,
        )

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Returns what rich draws with every print, after erasing the lines that stand there."""
        processed = super().process_renderables(renderables)
        if not self.console.is_interactive or not self._widths:
            return processed
        return [self._erase(), *processed[1:]]  # the first goes up by the rows that were drawn

    def _erase(self) -> Control:
        width = max(1, self.console.width)
        num_rows = sum(max(1, math.ceil(line / width)) for line in self._widths)
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * (num_rows - 1)
        return Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up)

    def _note(self, widths: list[int]) -> None:
        self._widths = widths


class _Measured:
    """What is drawn, which tells its `LiveLines` how wide its lines are."""

    def __init__(self, renderable: RenderableType, live: LiveLines) -> None:
        self._renderable, self._live = renderable, live

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rendered = console.render_lines(self._renderable, options, pad=False)
        # As rich does: lines that scroll away cannot be erased.
        lines = [list(_without_end(line)) for line in rendered[: options.size.height]]
        self._live._note([Segment.get_line_length(line) for line in lines])
        for number, line in enumerate(lines):
            if number:
                yield Segment.line()
            yield from line


def _without_end(line: list[Segment]) -> Iterator[Segment]:
    """Yields a line without the spaces at its end, which terminals would wrap."""
    length = len("".join(segment.text for segment in line).rstrip())
    for segment in line:
        yield Segment(segment.text[:length], segment.style)
        length = max(0, length - len(segment.text))
