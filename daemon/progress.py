"""How far long work is: a bar with rate and time left on a terminal, a line every few seconds elsewhere."""

import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

EVERY = 5.0  # seconds between lines


class Progress:
    """Tells standard error; standard output is for what the command is asked for."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bar: _Bar | None = None
        self._what, self._unit, self._done = "", "", 0
        self._total: int | None = None
        self._began = self._told = 0.0
        self._skipped = 0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = self._stack.enter_context(_Bar())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self, what: str, total: int | None, done: int, unit: str) -> None:
        """The next piece of work, of which so much was done by an earlier run; nobody may know how much it is."""
        self._what, self._unit = what, unit
        self._total, self._done, self._skipped = total, done, done
        self._began = self._told = time.monotonic()
        if done:
            print(f"{what}: {done:,} {self._unit} were taken by an earlier run; going on behind them", file=sys.stderr)
        if self._bar is not None:
            self._bar.begin(what, total, done, unit)

    def said(self) -> str:
        """How far it is; nothing before it began."""
        if not self._unit:
            return ""
        of = "" if self._total is None else f" of {self._total:,}"
        return f"{self._what}: {self._done:,}{of} {self._unit}"

    def advance(self, count: int) -> None:
        """So much more is done."""
        self._done += count
        if self._bar is not None:
            self._bar.advance(count)
        elif (now := time.monotonic()) - self._told >= EVERY:
            self._told = now
            rate = (self._done - self._skipped) / (now - self._began)
            left = "" if self._total is None else f", {(self._total - self._done) / rate if rate else 0:,.0f} s left"
            print(f"{self.said()}, {_shown(rate)} {self._unit}/s{left}", file=sys.stderr, flush=True)


def _shown(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


class _Bar:
    """rich's, which is loaded only where it is seen."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}, {task.fields[rate]} {task.fields[unit]}/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=None, rate="-", unit="")
        self._began, self._count = time.monotonic(), 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int | None, done: int, unit: str) -> None:
        self._began, self._count = time.monotonic(), 0
        self._progress.reset(self._task, description=what, total=total, completed=done, rate="-", unit=unit)

    def advance(self, count: int) -> None:
        self._count += count
        rate = self._count / max(time.monotonic() - self._began, 1e-9)
        self._progress.update(self._task, advance=count, rate=_shown(rate))
