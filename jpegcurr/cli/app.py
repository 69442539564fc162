"""The app of all commands: exit codes, errors and interruption.

Commands import the packages they need when they are called, so that ``--help`` is quick and ``encode`` never imports torch.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated

import typer
from typer.main import get_command

import jpegcurr
from jpegcurr.cli import terminal
from jpegcurr.cli.audit import audit
from jpegcurr.cli.board import board
from jpegcurr.cli.budget import budget
from jpegcurr.cli.cam import cam
from jpegcurr.cli.channels import channels
from jpegcurr.cli.convert import convert
from jpegcurr.cli.demo import demo
from jpegcurr.cli.encode import encode
from jpegcurr.cli.evaluate import evaluate
from jpegcurr.cli.export import export
from jpegcurr.cli.help import WIDEST, Command
from jpegcurr.cli.inspect import inspect
from jpegcurr.cli.models import models
from jpegcurr.cli.predict import predict
from jpegcurr.cli.preview import preview
from jpegcurr.cli.push import push
from jpegcurr.cli.recipe import recipe
from jpegcurr.cli.runs import runs
from jpegcurr.cli.split import split
from jpegcurr.cli.study import study
from jpegcurr.cli.train import train
from jpegcurr.cli.versions import print_versions
from jpegcurr.errors import Interrupted, JpegcurrError, PeerError, UsageError
from jpegcurr.system import TERMINATION, handle_signals

app = typer.Typer(
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="JPEG-quality curricula: encode a data set at several qualities, train through a swap, and measure its effect.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: 0 done, 1 failed, 2 wrong use, 130 interrupted, 143 terminated after a save."""
    if arguments is not None:
        sys.exit(_run(arguments))
    with handle_signals(dict.fromkeys(TERMINATION, signal.default_int_handler)):  # schedulers send it before they kill
        # By now everything is closed and flushed. Python's own shutdown would free torch's objects one by one for seconds, and
        # join the threads of every native library that was loaded; one that does not end would keep the process for ever.
        os._exit(_run(None))


@cache
def _command() -> Callable[..., object]:
    """Build the commands from their signatures, once for all calls of ``main``."""
    return get_command(app)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        given = sys.argv[1:] if arguments is None else arguments
        code = _command()(args=arguments, prog_name="jpegcurr", standalone_mode=False, obj=given)
        sys.stdout.flush()
    except (JpegcurrError, typer.TyperException) as error:
        if not _is_reported_elsewhere(error):
            terminal.print_error(_describe(error))
        return error.exit_code
    except BrokenPipeError:  # the reader of our output needs no more of it
        return 1
    except OSError as error:
        from jpegcurr.files import FULL

        advice = ". Free some space, or write to another disk; finished files were kept." if error.errno in FULL else ""
        terminal.print_error(f"{error.filename}: {error.strerror}{advice}" if error.filename else str(error))
        return 1
    if code == Interrupted.exit_code:
        terminal.print_error("interrupted. Unfinished files were removed; finished files were kept.")
    return code if isinstance(code, int) else 0


def _describe(error: Exception) -> str:
    """Return the message of an error; that of an unknown option of ``train`` says where a recipe has it, if it is known."""
    if not isinstance(error, typer.TyperException):
        return str(error)
    message, option, context = error.format_message(), getattr(error, "option_name", None), getattr(error, "ctx", None)
    if option and context is not None and context.command.name == "train":
        from jpegcurr.recipe.fields import explain_word

        if clause := explain_word([option.lstrip("-")]):
            how = "" if "--" in clause else " Change it with --set FIELD=VALUE, or in the YAML file."
            return f"{message.rstrip('.')}: {clause}.{how}"
    return message


def _is_reported_elsewhere(error: Exception) -> bool:
    """Return whether another process of torchrun reports this error, which stops all of them.

    The wait leaves the first process time to report it: torchrun ends it as soon as another one has ended.
    """
    elsewhere = os.environ.get("RANK", "0") != "0" and isinstance(error, Interrupted | PeerError | typer.TyperException)
    if elsewhere:
        time.sleep(2)
    return elsewhere


@app.callback(invoke_without_command=True)
def _handle_top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    versions: Annotated[bool, typer.Option("--versions", help="Print the versions of all libraries too, and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --versions: print them as JSON.")] = False,
) -> None:
    if versions:
        print_versions(as_json=as_json)
        raise typer.Exit
    if as_json:
        raise UsageError("--json before a command is for --versions. Give it after the command: jpegcurr inspect FILE --json.")
    if version:
        terminal.out.print(f"jpegcurr {jpegcurr.__version__}")
        raise typer.Exit
    terminal.show_log(quiet=True)  # until a command asks for more: warnings too may hold names from data
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


# In the order of --help, whose lines have room for 66 characters in a terminal of 80.
for command, summary in (
    (audit, "Read the headers of images: what JPEGs they are."),
    (preview, "Show images at JPEG qualities, and what each costs."),
    (encode, "Encode labelled images at JPEG qualities into .beton files."),
    (split, "Draw train, val and test splits of images, by class."),
    (convert, "Convert what encode wrote into other formats."),
    (inspect, "Describe or verify what encode wrote."),
    (train, "Train a model while a curriculum swaps its data."),
    (study, "Train arms over several seeds and test their differences."),
    (runs, "Compare runs: what differs, and what came of it."),
    (board, "Draw the curves of one run or more as a page."),
    (evaluate, "Measure and compare runs at JPEG qualities."),
    (budget, "Find the lowest JPEG quality within a loss of accuracy."),
    (predict, "Classify image files."),
    (cam, "Compare Grad-CAM maps between JPEG qualities and runs."),
    (demo, "Show one picture at any JPEG quality, as a model sees it."),
    (channels, "Compare channel activations between JPEG qualities."),
    (recipe, "List the fields of recipes, or print a shipped one."),
    (models, "List pretrained classifiers, or the roadmap to ConvNeXt."),
    (export, "Write a model's weights for other programs."),
    (push, "Send a run to the Hugging Face hub, with a model card."),
):
    app.command(short_help=summary, cls=Command)(command)
