"""How far the work has come, on stderr."""

import sys
import time
from typing import TYPE_CHECKING

from coopgen_jax.cli.interrupt import check_interrupt

if TYPE_CHECKING:
    from rich.progress import Progress

    from coopgen_jax.text_generation import Step

# Seconds between two lines where stderr is no terminal.
INTERVAL = 5.0


class ProgressBar:
    """A listener of `generate`: a bar on a terminal, a line now and then elsewhere.

    prompts, samples, new_tokens: how much is to be written.
    label: what is being done, "search" or "sampling".
    quiet: show nothing.
    """

    def __init__(
        self, *, prompts: int, samples: int, new_tokens: int, label: str, quiet: bool
    ) -> None:
        self.prompts, self.samples, self.new_tokens = prompts, samples, new_tokens
        self.label = label
        self.quiet = quiet
        self.bar: Progress | None = None
        self.first: tuple[float, float, int] | None = None
        self.batch = 0
        self.before = self.latest = 0
        self.said = time.monotonic()

    def __enter__(self) -> "ProgressBar":
        """Announces the compilation, which the first token has to wait for."""
        announcement = f"compiling the {self.label}, once per prompt length"
        if self.quiet:
            return self
        if not sys.stderr.isatty():
            print(f"coopgen: {announcement}", file=sys.stderr, flush=True)
            return self
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            console=Console(stderr=True),
            transient=True,
        )
        self.bar.start()
        self.task = self.bar.add_task(announcement, total=None)
        return self

    def __exit__(self, *error: object) -> None:
        """Takes the bar away."""
        if self.bar:
            self.bar.stop()

    def __call__(self, step: "Step") -> None:
        """Takes note of one more token of a batch."""
        check_interrupt()
        if self.quiet:
            return
        if step.batch != self.batch:
            self.batch, self.before = step.batch, self.before + self.latest
        live = len(step.prompts)
        self.latest = int(step.generation.simulations[:live].sum())
        finished = bool(step.generation.finished[:live].all())
        share = 1.0 if finished else step.step / self.new_tokens
        done = (step.done + live * share) / self.prompts
        self._show(done, self.before + self.latest)

    def _show(self, done: float, simulations: int) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = (now, done, simulations)
        start, done_before, simulations_before = self.first
        elapsed = now - start
        tokens = self.prompts * self.samples * self.new_tokens
        parts = [f"{round(done * tokens)} of {tokens} tokens"]
        if elapsed > 0 and done > done_before:
            rate = (simulations - simulations_before) / elapsed
            left = elapsed * (1 - done) / (done - done_before)
            parts += [f"{rate:.0f} simulations/s"] if rate else []
            parts += [f"{_duration(left)} left"]
        line = ", ".join(parts)
        if self.bar:
            self.bar.update(self.task, description=line, total=1.0, completed=done)
        elif now - self.said >= INTERVAL:
            self.said = now
            print(f"coopgen: {line}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
