"""Training jobs that Slurm stops and requeues: signals, options and results between Slurm, submitit and training."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from processes import soon
from samples import TOOLS, tiny_tree, tool_module

from jpegcurr.errors import TrainingError
from jpegcurr.slurm import task as slurm
from jpegcurr.training.tracking import read_metrics

submitit = pytest.importorskip("submitit")
TOOL = TOOLS / "slurm_train"
# A substitute for a training: it creates "begun" and answers SIGTERM with the exit code in its argument.
TRAINING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[1])))
open('begun', 'w').close()
for _ in range(600): time.sleep(0.05)
"""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the script as a module, whose names can be patched."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)}
    yield tool_module("slurm_train", monkeypatch)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def as_task(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes this process a task of a job, submitit's local one or Slurm's."""

    def become(rank: int = 0, ranks: int = 1, *, slurm: bool = False) -> None:
        job = {"JOB_ID": 7, "NTASKS": ranks, "JOB_NUM_NODES": 1, "NODEID": 0, "LOCALID": rank}
        job |= {"PROCID": rank, "JOB_NODELIST": "gpu[07-08]"} if slurm else {"GLOBALID": rank}
        for name, value in job.items():
            monkeypatch.setenv(f"{'SLURM' if slurm else 'SUBMITIT_LOCAL'}_{name}", str(value))
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm" if slurm else "local")
        monkeypatch.setenv("SUBMITIT_FOLDER", "logs")

    return become


def training_of(tool: ModuleType, program: str, *arguments: str, grace: float = 60) -> Any:
    """Return a job's task that runs a Python program."""
    command = (sys.executable, "-S", "-c", program, *arguments)
    return slurm.Training(command, str(Path.cwd()), "run", grace=grace, patience=0)


def to_this_process(number: int) -> threading.Thread:
    """Send a signal once the training has begun."""
    return soon(Path("begun").exists, lambda: os.kill(os.getpid(), number))


def dry_run(tool: ModuleType, capsys: pytest.CaptureFixture[str], command: str) -> list[str]:
    assert tool.main(["--dry-run", *shlex.split(command)]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_job_that_is_stopped_in_the_middle_requeues_itself_and_every_epoch_is_there_once(betons: Path) -> None:
    Path("tiny.yaml").write_text(json.dumps(tiny_tree(betons)))
    few = ["--set", "evaluate=[]", "--set", "curriculum.1.until_epoch=16"]
    command = [sys.executable, str(TOOL), "--recipe", "tiny.yaml", "--local", *few, "--", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    job = process.stdout.readline().split()[1].removesuffix(":")
    metrics = Path("runs/tiny/metrics.jsonl")
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.02)
    (task,) = Path(f"/proc/{job}/task/{job}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)  # as Slurm does; the signal would end submitit's controller of a local job
    output, _ = process.communicate(timeout=300)
    out, log = (Path(f"runs/tiny.slurm/{job}_0_log.{end}").read_text() for end in ("out", "err"))
    assert (process.returncode, output) == (0, "finished\n"), out + log
    assert "Requeued job" in out
    assert out.count("--recipe tiny.yaml") == 2
    assert out.count("--resume") == 1
    assert log.count("resuming at epoch") == 1
    assert [row["epoch"] for row in read_metrics(Path("runs/tiny"))] == list(range(16))


def test_a_training_that_ends_well_ends_the_task(tool: ModuleType, as_task: Callable[..., None]) -> None:
    as_task()
    assert training_of(tool, "")() == "finished"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("raise SystemExit(2)", r"ended with exit code 2 in task 0\. Its log is \S+/logs/7_0_log\.err\."),
        ("import os; os.kill(os.getpid(), 9)", r"killed \(SIGKILL\), perhaps for lack of memory, in task 0"),
        ("raise SystemExit(130)", "exit code 130"),
    ],
)
def test_a_failed_training_is_an_error_in_a_sentence(
    tool: ModuleType, as_task: Callable[..., None], program: str, message: str
) -> None:
    as_task()
    with pytest.raises(TrainingError, match=message):
        training_of(tool, program)()


def test_a_training_that_another_task_stopped_has_not_failed(tool: ModuleType, as_task: Callable[..., None]) -> None:
    as_task(1, 2)
    assert training_of(tool, "raise SystemExit(143)")() == "stopped"


@pytest.mark.parametrize(("rank", "number", "code"), [(0, 15, 143), (0, 15, 130), (1, 15, 143), (1, 12, 143), (1, 12, 1)])
def test_a_stopped_task_stops_its_training(
    tool: ModuleType, as_task: Callable[..., None], rank: int, number: int, code: int
) -> None:
    """Stop either task; submitit handles SIGUSR2 in the first. The other training may fail because the first has ended."""
    as_task(rank, 2)
    sender = to_this_process(number)
    assert training_of(tool, TRAINING, str(code))() == "stopped"
    sender.join()


def test_a_task_that_slurm_stopped_waits_to_be_requeued(tool: ModuleType, as_task: Callable[..., None]) -> None:
    """Send SIGCONT first, as Slurm does, which does not requeue a preempted job that ends within its GraceTime."""
    as_task()
    training = training_of(tool, TRAINING, "143")

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGCONT)
        os.kill(os.getpid(), signal.SIGTERM)
        training.wait()
        time.sleep(0.3)
        Path("logs").mkdir()
        Path("logs/7_stop").touch()

    sender = soon(Path("begun").exists, stop)
    assert training() == "stopped"
    assert training.is_cancelled(), "it waited until the job was to end"
    sender.join()


class _Left(BaseException):
    pass


def requeued(training: Any) -> Any:
    """Return the task that is requeued at SIGUSR2 by a handler like submitit's, which then exits."""
    requeued = []

    def handle(*_signal: object) -> None:
        requeued.append(training.checkpoint())
        raise _Left

    signal.signal(signal.SIGUSR2, handle)
    sender = to_this_process(signal.SIGUSR2)
    with pytest.raises(_Left):
        training()
    sender.join()
    return requeued[0].function


def test_the_requeued_task_is_in_its_initial_state(tool: ModuleType, as_task: Callable[..., None]) -> None:
    as_task()
    training = training_of(tool, TRAINING, "143")
    assert requeued(training) == training_of(tool, TRAINING, "143")
    assert slurm.exit_code(training.pid) == 143, "the training ends before the job is requeued"


def test_a_training_that_does_not_end_in_time_is_killed_and_the_job_requeued(
    tool: ModuleType, as_task: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    as_task()
    training = training_of(tool, TRAINING.replace("sys.exit(int(sys.argv[1]))", "None"), grace=0.2)
    assert requeued(training).command == training.command
    assert slurm.exit_code(training.pid) == -signal.SIGKILL
    assert "did not end in 0 s and is killed; its last checkpoint is whole" in capfd.readouterr().out


def test_a_job_whose_checkpoint_failed_is_not_requeued(tool: ModuleType, as_task: Callable[..., None]) -> None:
    as_task()
    training = training_of(tool, TRAINING, "1")
    signal.signal(signal.SIGUSR2, lambda *_: training.checkpoint())
    sender = to_this_process(signal.SIGUSR2)
    with pytest.raises(TrainingError, match=r"exit code 1 instead of saving a checkpoint\. The job is not requeued"):
        training()
    sender.join()


def test_the_training_survives_the_signal_that_requeues(tool: ModuleType, as_task: Callable[..., None]) -> None:
    """Send the signal to every process, as some clusters do."""
    as_task()
    training = training_of(tool, TRAINING, "143")

    def send() -> None:
        os.kill(training.pid, signal.SIGUSR2)
        os.kill(training.pid, signal.SIGTERM)

    sender = soon(Path("begun").exists, send)
    assert training() == "stopped"
    sender.join()


def test_a_training_gets_the_variables_that_connect_the_tasks(
    tool: ModuleType, as_task: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import json, os; json.dump(dict(os.environ), open('environment', 'w'))"
    as_task(3, 4, slurm=True)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert training_of(tool, program)() == "finished"
    environment = json.loads(Path("environment").read_text())
    expected = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "gpu07"}
    assert {name: environment[name] for name in expected} == expected
    assert 20000 <= int(environment["MASTER_PORT"]) <= 60000
    as_task(slurm=True)
    assert training_of(tool, program)() == "finished"
    assert not expected.keys() & json.loads(Path("environment").read_text()).keys(), "one task trains alone"


def test_a_run_that_has_a_checkpoint_is_resumed(
    tool: ModuleType, as_task: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    as_task()
    Path("run").mkdir()
    for resumed in (False, True):
        training_of(tool, "import sys; print(sys.argv[1:])")()
        assert capfd.readouterr().out.splitlines()[-1] == str(["--resume"] * resumed)
        Path("run/state.safetensors").touch()


def test_a_dry_run_prints_the_job(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--nodes 2 --gpus 2 --hours 1.5 --partition P --account A --constraint volta32 --memory 40 --sbatch qos=high"
    lines = dry_run(tool, capsys, f"--recipe two_phase.yaml --set batch.size=256 {options} -- --save-every 500")
    assert lines[:-4] == [
        "#SBATCH --job-name=two_phase",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --cpus-per-task=10",
        "#SBATCH --mem=80GB",
        "#SBATCH --time=90",
        "#SBATCH --partition=P",
        "#SBATCH --constraint=volta32",
        "#SBATCH --account=A",
        "#SBATCH --signal=USR2@300",
        "#SBATCH --requeue",
        "#SBATCH --qos=high",
    ]
    assert lines[-1].startswith("task 3: RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=")
    recipe = "--recipe two_phase.yaml --set batch.size=256 --out runs/two_phase"
    assert lines[-1].endswith(f" -m jpegcurr train {recipe} --save-every 500")
    alone = dry_run(tool, capsys, "--recipe two_phase.yaml --requeue 0")
    assert "#SBATCH --no-requeue" in alone
    assert alone[-1].startswith(f"task 0: {sys.executable} -m jpegcurr")


def put_program(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an executable first on the PATH."""
    Path("bin").mkdir(exist_ok=True)
    Path("bin", name).write_text(f"#!/bin/sh\n{text}\n")
    Path("bin", name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').resolve()}:{os.environ['PATH']}")


def test_the_submitted_job_is_the_printed_one(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_program("srun", "", monkeypatch)
    put_program("sbatch", "echo Submitted batch job 12", monkeypatch)
    options = "--recipe two_phase.yaml --out runs/x --nodes 2 --gpus 8 --memory 40 --sbatch qos=high --requeue 3"
    shown = dry_run(tool, capsys, options)
    assert tool.main(shlex.split(options)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "job 12: tasks: 16, nodes: 2; output: runs/x.slurm/12_0_log.err"
    assert second == "to stop it with a checkpoint: scancel --signal=TERM 12; to resume: this command again"
    given = Path("runs/x.slurm/12_submission.sh").read_text()
    assert {line for line in shown if line.startswith("#SBATCH")} <= set(given.splitlines())
    submitted = submitit.core.utils.DelayedSubmission.load("runs/x.slurm/12_submitted.pkl")
    assert (submitted._timeout_min, submitted._timeout_countdown) == (72 * 60, 3)
    assert not Path("runs/x").exists(), "a new run needs a folder without anything in it"


def test_a_refusal_is_reported_in_slurms_words(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_program("srun", "", monkeypatch)
    put_program("sbatch", "echo 'sbatch: error: invalid partition specified: P' >&2; exit 1", monkeypatch)
    assert tool.main(shlex.split("--recipe two_phase.yaml --partition P")) == 1
    assert "error: sbatch refused the job: sbatch: error: invalid partition specified: P" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--recipe none.yaml", "none.yaml does not exist"),
        ("--recipe two_phase.yaml --set bach.size=3", "Did you mean 'batch'"),
        ("--recipe two_phase.yaml", "There is no sbatch on this machine"),
        ("--recipe two_phase.yaml --hours 0.1", "--hours 0.1 is less than twice --warning 300"),
        ("--recipe two_phase.yaml --local --nodes 2", "--local runs on one node: omit --nodes"),
        ("--recipe two_phase.yaml --gpus eight", "eight is not a whole number of 0 or more"),
    ],
)
def test_a_mistake_is_a_sentence_with_exit_code_2_and_nothing_written(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    monkeypatch.setenv("PATH", "")
    try:
        code = tool.main(shlex.split(options))
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_without_submitit_the_error_names_the_package_to_install(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert tool.main(["--recipe", "two_phase.yaml"]) == 2
    assert "pip install -U submitit" in capsys.readouterr().err
