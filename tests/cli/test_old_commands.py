"""Commands of the README of commit 63e6c41, which still parse: no option or argument may disappear without a warning first."""

import shlex
from pathlib import Path

import pytest
import typer

from jpegcurr.cli import main
from jpegcurr.cli.app import app
from jpegcurr.errors import JpegcurrError, warn_renamed

# Its code blocks and its inline code, options completed to a command of the section in which they stand.
COMMANDS = """
encode --quality 50
train --recipe two_phase.yaml
cam runs/two_phase data/imagenet/val --qualities source,50
train --recipe restart_only.yaml
evaluate runs/two_phase runs/restart_only --data betons/val-source.beton --qualities source,90,75,50,30,10 --plot curve.svg
predict runs/two_phase data/imagenet/val --sheet sheet.html
cam runs/restart_only runs/two_phase data/imagenet/val --output both.html
channels runs/two_phase --qualities source,95,50,10 --prune-study 4,8
encode data/imagenet --quality 90 --quality 10 --output more
inspect more/val-q10.beton --verify
train --recipe two_phase.yaml --plan
train --recipe two_phase.yaml --save-every 500
train --recipe two_phase.yaml --set batch.size=256
train --recipe two_phase.yaml --resume
train --recipe two_phase.yaml --compile --precision float32
evaluate runs/two_phase --qualities source,50 --on-the-fly
evaluate runs/two_phase --plot FILE.svg --classes FILE.csv --csv FILE.csv --json
predict convnext_tiny.in12k_ft_in1k images --checkpoint FILE
predict runs/two_phase images --submission FILE.csv --sheet FILE.png --confusion FILE.csv --by-class FOLDER --copy
models
models *
cam runs/two_phase images --pictures 60
cam runs/two_phase images --metrics road,confidence
cam runs/two_phase images --method layercam
cam runs/two_phase images --class clean
channels runs/two_phase --qualities source,95,50,10 --prune-study 16,64
study experiments/001_two_phase_vs_control/study.yaml --jobs 2
study two_phase_study.yaml --plan
study two_phase_study.yaml --jobs 8 --slurm partition=P --slurm time=24:00:00
encode data/imagenet --quality 50
encode dogs/train --labels dogs/labels.csv --quality 50
encode downloads/images --split train --quality 50
encode downloads/images --split val --quality 50
encode data/imagenet --quality 50 --dry-run
encode data/imagenet --quality 50 --limit 100 --classes A,B,C --split val
encode data/imagenet --quality 50 --short-side 256 --filter lanczos
encode data/imagenet --quality 50 --max-side 500 --subsampling keep --json
encode data/imagenet --quality 50 --resume --max-failures 0.5% --force
encode data/imagenet --quality 50 --dask tcp://scheduler:8786
""".strip().splitlines()
# Every option of the commands at that commit.
OPTIONS = {
    "encode": "--quality --output -o --labels --split --classes --limit --order --seed --subsampling --max-side --short-side "
    "--filter --threads --dask --max-failures --dry-run --resume --force -f --quiet -q --json",
    "inspect": "--verify --json",
    "train": "--recipe -r --set --out --resume --save-every --plan --device --precision --compile --quiet -q --json",
    "study": "--out --plan --dry-run --only --jobs -j --launch --slurm --images-per-second --seed-spread --device --precision "
    "--compile --quiet -q --json",
    "evaluate": "--data --qualities --on-the-fly --csv -o --classes --plot --weights --loader --device --force -f --json",
    "predict": "--csv -o --submission --id --sheet --sheet-limit --by-class --copy --confusion --weights --checkpoint --device "
    "--force -f",
    "cam": "--qualities --output -o --layer --method --class --metrics --limit --pictures --seed --weights --device --force -f",
    "channels": "--data --qualities --on-the-fly --layer --prune-study --seed --top --csv -o --weights --loader --device "
    "--force -f --json",
    "models": "--json",
}
GROUP = typer.main.get_command(app)


@pytest.mark.parametrize("line", COMMANDS)
def test_an_old_command_parses(line: str) -> None:
    name, *arguments = shlex.split(line)
    context = GROUP.commands[name].make_context(name, arguments)
    assert context.args == []


@pytest.mark.parametrize("name", OPTIONS)
def test_an_old_option_is_there(name: str) -> None:
    options = {option for parameter in GROUP.commands[name].params for option in parameter.opts}
    assert set(OPTIONS[name].split()) <= options


def test_no_other_command_is_missing() -> None:
    newer = {"audit", "board", "budget", "convert", "demo", "export", "preview", "push", "recipe", "runs", "split"}
    assert set(GROUP.commands) - set(OPTIONS) == newer


@pytest.mark.parametrize(
    ("option", "target_rule", "warning"),
    [
        ("--target own", "own", ""),
        ("--target reference", "reference", ""),
        ("--class own", "own", "--class own is now --target own"),
        ("--class clean", "reference", "--class clean is now --target reference"),
    ],
)
def test_the_class_of_cam_is_its_target_now(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    target_rule: str,
    warning: str,
) -> None:
    received = []

    def fail(*_arguments: object, target_rule: str, **_options: object) -> None:
        received.append(target_rule)
        raise JpegcurrError("no maps")

    monkeypatch.setattr("jpegcurr.analysis.cam.compare.compare_cams", fail)
    warn_renamed.cache_clear()
    with pytest.raises(SystemExit) as left:
        main(["cam", str(trained), "images", *shlex.split(option)])
    assert (left.value.code, received) == (1, [target_rule])
    messages = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("error: no maps")]
    assert [message.startswith(warning) for message in messages] == ([True] if warning else [])
