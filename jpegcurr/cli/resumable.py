"""Commands that can be resumed: their option, the journal beside their output, and the message of a stop."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli.terminal import err
from jpegcurr.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from jpegcurr.analysis.journal import Journal
    from jpegcurr.progress import Progress
    from jpegcurr.runtime import World

ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue an interrupted run of the same command, from what it kept beside its output.")
]


@contextmanager
def journal_beside(
    context: typer.Context,
    outputs: "Sequence[Path]",
    *,
    resume: bool,
    force: bool,
    option: str = "--csv FILE.csv",
    world: "World | None" = None,
) -> "Iterator[Journal]":
    """Yield the journal of a command until its results are printed, beside the first of its ``outputs``; without any, none.

    Every process of torchrun has one of its own. Ctrl-C and SIGTERM become a message with the command that continues.

    Raises:
        UsageError: an interrupted run has left one, and neither ``resume`` nor ``force`` is set; or there is no output, and
            ``resume`` is set. The message then names the ``option`` for an output.
        Interrupted: the work was stopped.
    """
    from jpegcurr.analysis.journal import Journal, has_results, journal_of

    if resume and not outputs:
        raise UsageError(
            f"--resume continues from what a run keeps beside its output, and this one writes none. Give {option}."
        )
    path = journal_of(outputs[0]) if outputs else None
    if path is not None and world is not None and not world.is_main:
        path = path.with_name(f"{path.name}.{world.rank}")
    beside_main = world is not None and not world.is_main  # the main process has refused what is to be refused
    journal = Journal(path, resume=resume, force=force or (beside_main and not resume), outputs=outputs)
    try:
        with journal:
            with _whole_if_unread() as unread:
                yield journal
            if world is not None:
                world.total(0)  # what the others keep is needed until the main process has written everything
        if path is not None and (world is None or world.is_main):
            for other in path.parent.glob(f"{escape(path.name)}.*"):  # of a run with more processes
                other.unlink(missing_ok=True)
        if unread:
            raise unread[0]
    except KeyboardInterrupt:
        if path is None:
            raise Interrupted(f"stopped. Nothing was kept; with {option} a stopped run can be resumed.") from None
        if not has_results(path):
            raise Interrupted(f"stopped before anything was kept. To start again: {command_line(context, world)}") from None
        after = f" after {journal.kept:,} images" if journal.kept else ""
        raise Interrupted(f"stopped. To resume{after}: {command_line(context, world, '--resume')}") from None
    except UsageError:
        raise
    except Exception:
        if journal.kept and (world is None or world.is_main):
            resumed = command_line(context, world, "--resume")
            err.print(f"The results of {journal.kept:,} images are kept. To resume: {resumed}", markup=False)
        raise


def may_replace(outputs: "Sequence[Path]", *, resume: bool, force: bool) -> bool:
    """Return whether outputs may be replaced: by ``--force``, or by ``--resume`` of a run that was to write the same ones.

    It may have been killed between two of them.
    """
    from jpegcurr.analysis.journal import journal_of, planned_outputs

    if force or not (resume and outputs):
        return force
    return {output.absolute() for output in outputs} <= set(planned_outputs(journal_of(outputs[0])))


@contextmanager
def _whole_if_unread() -> Iterator[list[BrokenPipeError]]:
    """Catch the end of the reader of stdout, which takes nothing from the work: its files are written before it is printed."""
    broken: list[BrokenPipeError] = []
    try:
        yield broken
    except BrokenPipeError as error:
        broken.append(error)


def show_from(journal: "Journal", progress: "Progress", *, quiet: bool) -> "Callable[[int, int], None]":
    """Return a function that shows how many are done and in all, and first says how many an interrupted run has done."""
    noted = quiet

    def show(done: int, total: int) -> None:
        nonlocal noted
        if journal.resumed and not noted:
            err.print(f"resumed: {journal.resumed:,} of {total:,} images are done", markup=False)
            progress.resume(done, total)
        else:
            progress(done, total)
        noted = True

    return show


def command_line(context: typer.Context, world: "World | None" = None, *more: str) -> str:
    """Return the command that was given, for a shell, with ``more`` options that it does not have yet."""
    words: list[str] = list(context.find_root().obj)
    machines = world is not None and world.ranks > world.local_ranks
    torchrun = world is not None and world.ranks > 1 and not machines
    start = ["torchrun", "--nproc-per-node", str(world.local_ranks), "-m"] if world is not None and torchrun else []
    where = "as before, on each machine, " if machines else ""
    return where + shlex.join([*start, "jpegcurr", *words, *(word for word in more if word not in words)])
