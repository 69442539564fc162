"""The command line: a command reads its options, calls its room and prints what came of it.

Rooms are imported inside the commands, so that ``--help`` is quick and ``encode`` never imports torch.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

import jpegcurr
from jpegcurr.cli import console, terminal
from jpegcurr.cli.channels import channels
from jpegcurr.cli.runs import JsonOption, QuietOption, cam, evaluate, models, predict
from jpegcurr.cli.study import study
from jpegcurr.cli.train import train
from jpegcurr.errors import Interrupted, JpegcurrError, PeerError, UsageError
from jpegcurr.files import FULL
from jpegcurr.system import keep_freed_memory

app = typer.Typer(
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="JPEG-quality curricula: encode a data set at several qualities, train through a swap, see what it did.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    if arguments is not None:
        sys.exit(_run(arguments))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's word before it kills is answered like Ctrl-C
    # Everything is closed and flushed by here. Python's own way out would free torch's objects one by one for seconds, and
    # join the threads of every native library that was loaded; one that does not end keeps the process for ever.
    os._exit(_run(None))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=arguments, prog_name="jpegcurr", standalone_mode=False)
        sys.stdout.flush()
    except (JpegcurrError, typer.TyperException) as error:
        if not _said_by_another(error):
            terminal.fail(error.format_message() if isinstance(error, typer.TyperException) else str(error))
        return error.exit_code
    except BrokenPipeError:  # who reads our output has seen enough
        return 1
    except OSError as error:
        room = ". Make room, or write to another disk; files that are whole were kept." if error.errno in FULL else ""
        terminal.fail(f"{error.filename}: {error.strerror}{room}" if error.filename else str(error))
        return 1
    if code == Interrupted.exit_code:
        terminal.fail("interrupted. Files under way were removed, those that are whole were kept.")
    return code if isinstance(code, int) else 0


def _said_by_another(error: Exception) -> bool:
    """Of the processes that torchrun starts, the first one says what stops all of them; torchrun ends it once another has."""
    other = os.environ.get("RANK", "0") != "0" and isinstance(error, Interrupted | PeerError | typer.TyperException)
    if other:
        time.sleep(2)
    return other


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        terminal.out.print(f"jpegcurr {jpegcurr.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def encode(
    src: Annotated[str, typer.Argument(help="What to encode, see above.")] = "data/imagenet",
    quality: Annotated[
        list[str] | None, typer.Option("--quality", help="1 to 100, or source for the original bytes; repeatable.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the betons.")] = Path("betons"),
    labels: Annotated[Path | None, typer.Option(help="A CSV or TSV of path,label; or ImageNet's val labels.")] = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Only this one; or the name of an unnamed one.")] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--classes", help="Only these: A,B,C or a file with one a line; repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Images of each split at most, chosen by --seed.")] = None,
    order: Annotated[
        Literal["auto", "shuffle", "folder"], typer.Option(help="auto: train is shuffled, every other split is not.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the shuffle and of --limit.")] = 0,
    subsampling: Annotated[
        Literal["420", "422", "444", "keep"] | None,
        typer.Option(help="Chroma of what is encoded; keep: as in the source; 420 if not given."),
    ] = None,
    max_side: Annotated[int | None, typer.Option(min=1, max=65500, help="Make larger images this long, pixels.")] = None,
    short_side: Annotated[int | None, typer.Option(min=1, max=65500, help="Make larger images this short, pixels.")] = None,
    resize_filter: Annotated[
        Literal["box", "bilinear", "hamming", "bicubic", "lanczos"] | None,
        typer.Option("--filter", help="Of the resize, Pillow's; bicubic if not given."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="All processors if not given.")] = None,
    dask: Annotated[str | None, typer.Option(help="Encode on a Dask cluster: its scheduler's address.")] = None,
    max_failures: Annotated[
        str, typer.Option(metavar="N|N%", help="Images of each split that may be left out because they cannot be read.")
    ] = "0",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, how large and how soon.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an encode stopped; keep what is finished.")] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace what is there; with --resume, only what was made otherwise.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Re-encode labelled images at one or more JPEG qualities into FFCV .beton files.

    SRC is a folder with train/<class>/* and val/<class>/*, or <class>/*; a folder of images with --labels labels.csv;
    a folder with ImageNet's own ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar; WebDataset shards (a folder of them, or
    'shards/train-{000..146}.tar'); or a Hugging Face data set, hf:NAME[:CONFIGURATION].
    """
    from jpegcurr.cli.options import parse_classes, parse_max_failures, parse_resize, parse_specs
    from jpegcurr.encoding.encode import encode_dataset
    from jpegcurr.encoding.estimate import estimate_splits
    from jpegcurr.encoding.plan import plan_outputs, refusal
    from jpegcurr.encoding.sources.open import open_sources
    from jpegcurr.encoding.workers import open_executor

    if dry_run and resume:
        raise UsageError(
            "--dry-run tells what a whole encode would make, not what --resume would find. Leave one of them away."
        )
    terminal.show_log(quiet=quiet)
    specs = parse_specs(quality or (), subsampling, parse_resize(max_side, short_side, resize_filter))
    allowed = parse_max_failures(max_failures)
    only = parse_classes(classes or ())
    keep_freed_memory()
    with (
        _interruptible("stopped." if dry_run else "stopped. What is encoded is kept: the same command with --resume goes on."),
        open_executor(threads, dask) as (executor, workers),
    ):
        sources = open_sources(src, labels=labels, splits=split or (), classes=only, limit=limit, seed=seed)
        outputs = plan_outputs(sources, specs, output)
        if dry_run:
            estimates = estimate_splits(sources, outputs, executor, seed=seed)
            console.print_estimates(estimates, output, refusal(outputs, replacing=force), as_json=as_json)
            return
        with console.encode_progress(quiet=quiet) as watcher:
            done = encode_dataset(
                sources,
                outputs,
                executor=executor,
                workers=workers,
                order=None if order == "auto" else order,
                seed=seed,
                max_failures=allowed,
                resume=resume,
                force=force,
                watcher=watcher,
            )
    console.print_encoded(done, as_json=as_json)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .beton.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every byte and decode every sample; exit code 1 if one is wrong.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what is in a .beton: samples, classes, quality, chroma, sizes, failures, versions."""
    from jpegcurr.encoding.beton.verify import inspect_beton, verify_beton

    found = inspect_beton(file)
    wrong = None
    if verify:
        with terminal.progress_bar("img") as bar:
            wrong = list(verify_beton(file, lambda done, total: bar.update("verify", done, total)))
    console.print_inspection(found, wrong, as_json=as_json)
    if wrong:
        named = "\n".join(f"  {complaint}" for complaint in wrong[:5])
        places = "1 place" if len(wrong) == 1 else f"{len(wrong)} places"
        raise JpegcurrError(f"{file} is not right in {places}. Encode it again with --force:\n{named}")


for command in (train, study, evaluate, predict, cam, channels, models):  # in the order of --help
    app.command()(command)


@contextmanager
def _interruptible(message: str) -> Iterator[None]:
    """Answer Ctrl-C with ``message`` and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message) from None
