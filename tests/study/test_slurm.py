"""The tasks of a study as Slurm jobs: submission, stopping, and the jobs that an earlier call has left."""

import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import soon
from studies import Notes, command, write_study

from jpegcurr.errors import UsageError
from jpegcurr.slurm import jobs as slurm_jobs
from jpegcurr.slurm.task import Training
from jpegcurr.study import slurm as study_slurm
from jpegcurr.study.parallel import LaunchRefusedError, LocalLauncher, run_parallel
from jpegcurr.study.slurm import SlurmLauncher, parse_minutes
from jpegcurr.study.tasks import Task

submitit = pytest.importorskip("submitit")

# A Slurm of one node: jobs begin at once, except those called lost, which die before they do anything.
COMMANDS = {
    "sbatch": """
number=$(( $(ls jobs | wc -l) + 1 ))
[ -e refuse-$number ] && { echo refused >> refusals; cat refuse-$number >&2; exit 1; }
state=RUNNING; grep -q job-name=small.lost "$1" && state=OUT_OF_MEMORY
echo "$number|$state|here" >> states
[ $state = RUNNING ] && { SLURM_JOB_ID=$number SLURM_JOB_NODELIST=here setsid bash "$1" > /dev/null 2>&1 < /dev/null & }
echo "$!" > jobs/$number
echo Submitted batch job $number""",
    "srun": f"""
output=$(echo "$3" | sed "s/%j/$SLURM_JOB_ID/; s/%t/0/")
while [ "$1" != {sys.executable} ]; do shift; done
exec "$@" >> "$output" 2>&1""",
    "sacct": """
[ -e no-accounts ] && { echo Slurm accounting storage is disabled >&2; exit 1; }
echo "JobID|State|NodeList"; cat states 2> /dev/null; :""",
    "scancel": """
echo "$@" >> cancelled
[ "$1" = --signal=TERM ] && [ -e "jobs/$2" ] && kill -TERM -- "-$(cat "jobs/$2")"; :""",
    "squeue": "cat completing 2> /dev/null; :",
}
# A stand-in for the worker: it behaves as its task is called, and answers SIGTERM as a training does.
WORKER = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
name = sys.argv[1].partition('/')[0]
pathlib.Path(f'began-{name}').touch()
if name == 'bad': sys.exit('some words\\nfailed: its loss is nan')
while name == 'slow' and not pathlib.Path('go').exists(): time.sleep(0.02)
"""


@pytest.fixture(autouse=True)
def _slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace Slurm by the commands above, without its waits."""
    for name, text in COMMANDS.items():
        put(f"bin/{name}", f"#!/bin/bash\n{text}\n").chmod(0o755)
    Path("jobs").mkdir()
    monkeypatch.setenv("PATH", f"{Path('bin').resolve()}:{os.environ['PATH']}")
    monkeypatch.setattr(
        LocalLauncher, "command", lambda _self, _study, task, _out: [sys.executable, "-S", "-c", WORKER, task.name]
    )
    monkeypatch.setattr(slurm_jobs, "ASK", 0)
    monkeypatch.setattr(SlurmLauncher, "pause", 0.02)
    for module in (study_slurm, slurm_jobs):
        monkeypatch.setattr(module, "PAUSE", 0.02)
    slurm_jobs._watcher.cache_clear()
    yield
    slurm_jobs._watcher.cache_clear()


def put(path: str, text: str = "") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return Path(path)


def states(**jobs: str) -> None:
    """Set what sacct prints: ``job7="RUNNING"``."""
    put("states", "".join(f"{name.removeprefix('job')}|{state}|here\n" for name, state in jobs.items()))


def cancelled() -> list[str]:
    return Path("cancelled").read_text().splitlines() if Path("cancelled").exists() else []


def task(arm: str, after: str | None = None) -> Task:
    return Task(arm, None, 0, 0, 4, after)


def launcher(jobs: int = 2, **options: str | bool) -> SlurmLauncher:
    return SlurmLauncher(LocalLauncher(jobs), {name.replace("_", "-"): value for name, value in options.items()})


def run(tasks: list[Task], where: SlurmLauncher) -> tuple[Notes, dict[str, str]]:
    """Run tasks as jobs; return the notes of the watcher, and why tasks failed."""
    notes, study = Notes(), SimpleNamespace(name="small")
    failed = run_parallel(study, tasks, Path("out"), where, notes, lambda: None)  # type: ignore[arg-type]
    return notes, {result.task.name: result.reason for result in failed}


def left_behind(number: int, arm: str = "a", result: object = None, *, stopping: bool = False) -> None:
    """Write the files of a job that an earlier call submitted."""
    folder = f"out/slurm/{arm}/seed-0"
    put(f"{folder}/{number}_submitted.pkl")
    if stopping:
        put(f"{folder}/{number}_stop")
    if result:
        Path(folder, f"{number}_0_result.pkl").write_bytes(pickle.dumps(result))


def under_way(*arms: str) -> list[str]:
    """Return the numbers of the jobs that the next call finds."""
    return [process.job.number for _, process in launcher().under_way([task(arm) for arm in arms or "a"], Path("out"))]


def test_each_task_is_a_job_and_a_trunk_comes_before_its_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitit's own program runs in the jobs; a failure is explained by the worker's log, a killed job by Slurm."""
    monkeypatch.setattr(slurm_jobs, "SETTLE", 0)
    tasks = [task("trunk"), task("good", "trunk/seed-0"), task("lost"), task("bad", "trunk/seed-0")]
    put("out/logs/lost/seed-0.log", "failed: what an earlier try said\n")
    notes, failed = run(tasks, launcher(2))
    assert notes.started_tasks == ["trunk/seed-0", "lost/seed-0", "good/seed-0", "bad/seed-0"]
    assert [result.task.name for result in notes.results if result.status == "done"] == ["trunk/seed-0", "good/seed-0"]
    assert failed["bad/seed-0"] == "its loss is nan"
    log = Path("out/slurm/lost/seed-0/2_0_log.err").resolve()
    assert failed["lost/seed-0"] == f"its job 2 ended as OUT_OF_MEMORY; Slurm's log is {log}"
    assert "some words" in Path("out/logs/bad/seed-0.log").read_text()
    assert under_way("trunk", "good", "lost", "bad") == []


def test_ctrl_c_has_jobs_save_and_end_and_the_same_call_starts_them_again() -> None:
    sender = soon(Path("began-slow").exists, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run([task("slow")], launcher())
    sender.join()
    assert cancelled()[:2] == ["--state=PENDING 1", "--signal=TERM 1"]
    assert "stopped, with a checkpoint if any step was trained" in Path("out/slurm/slow/seed-0/1_0_log.out").read_text()
    put("go")
    notes, failed = run([task("slow")], launcher())
    assert (notes.started_tasks, failed) == (["slow/seed-0"], {})
    assert Path("out/slurm/slow/seed-0/2_0_result.pkl").is_file()


def test_a_second_ctrl_c_ends_them_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Notes, "started", lambda *_: put("followed"))
    left_behind(7, "slow")
    states(job7="RUNNING")
    interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    senders = [soon(Path("followed").exists, interrupt), soon(lambda: len(cancelled()) > 1, interrupt)]
    with pytest.raises(KeyboardInterrupt):
        run([task("slow")], launcher())
    for sender in senders:
        sender.join()
    assert cancelled()[-1] == "7"


@pytest.mark.parametrize(
    ("state", "follow"),
    [("RUNNING", True), ("PENDING", True), ("SUSPENDED", True), ("REQUEUED", True), ("COMPLETED", False), ("FAILED", False),
     ("CANCELLED by 0", False), ("TIMEOUT", False), ("PREEMPTED", False)],
)  # fmt: skip
def test_jobs_of_an_earlier_call_are_followed(state: str, follow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the command was killed, the last job of a task is followed if it is alive."""
    monkeypatch.setattr(slurm_jobs, "SETTLE_REQUEUED", 0.1)
    left_behind(7, result=("success", "stopped"))
    left_behind(12)
    states(job7="COMPLETED", job12=state)
    assert under_way("a", "b") == (["12"] if follow else [])


def test_a_job_that_is_followed_again_is_not_submitted_again() -> None:
    left_behind(7)
    states(job7="RUNNING")
    sender = soon(lambda: Path("began-after").exists(), lambda: left_behind(7, result=("success", "finished")))
    notes, failed = run([task("a"), task("after")], launcher(2))
    sender.join()
    assert (notes.started_tasks, failed) == (["a/seed-0", "after/seed-0"], {})
    assert os.listdir("jobs") == ["1"]


def test_a_job_that_slurm_does_not_know_is_not_guessed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_jobs, "SETTLE", 0.1)
    left_behind(7)
    with pytest.raises(UsageError, match=r"does not know job 7\. If it neither runs nor waits, delete \S+/7_submitted.pkl"):
        under_way()
    Path("out/slurm/a/seed-0/7_submitted.pkl").unlink()
    assert under_way() == []


def test_a_job_that_was_asked_to_end_has_ended_before_another_begins() -> None:
    """Also a job that is over in the accounts while it still saves."""
    left_behind(7, stopping=True)
    states(job7="PENDING")
    put("completing", "7")
    asked: list[str] = []
    sender = soon(lambda: len(cancelled()) > 3, lambda: states(job7="CANCELLED by 0"))
    ended = soon(lambda: not sender.is_alive(), lambda: (time.sleep(0.2), asked.append("still"), Path("completing").unlink()))
    assert under_way() == []
    assert asked == ["still"]
    ended.join()


def test_a_job_that_may_be_requeued_does_not_count_as_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_jobs, "SETTLE", 0)
    left_behind(7)
    job = slurm_jobs.last_job(Path("out/slurm/a/seed-0"))
    assert job is not None
    over = {}
    for state in ("RUNNING", "PREEMPTED", "NODE_FAIL", "SUSPENDED", "PENDING", "CANCELLED"):
        states(job7=state)
        over[state] = job.is_over()
    assert [state for state, is_over in over.items() if is_over] == ["CANCELLED"]
    monkeypatch.setattr(slurm_jobs, "SETTLE_REQUEUED", 0)
    states(job7="PREEMPTED")
    assert job.is_over()


def test_a_refused_job_waits_for_another_and_is_an_error_if_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_slurm, "RETRY_SECONDS", 0.05)
    refusal = put("refuse-2", "sbatch: error: QOSMaxSubmitJobPerUserLimit")
    refusals = Path("refusals")
    sender = soon(lambda: refusals.exists() and len(refusals.read_text().split()) > 1, lambda: (refusal.unlink(), put("go")))
    notes, failed = run([task("slow"), task("late")], launcher(2))
    sender.join()
    assert (notes.started_tasks, failed) == (["slow/seed-0", "late/seed-0"], {})
    put("refuse-3", "sbatch: error: invalid partition specified: P")
    with pytest.raises(LaunchRefusedError, match="sbatch refused the job: sbatch: error: invalid partition specified: P"):
        run([task("a")], launcher())


def test_a_job_that_was_asked_to_end_neither_begins_nor_is_requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": 7, "NTASKS": 1, "JOB_NUM_NODES": 1, "NODEID": 0, "LOCALID": 0, "GLOBALID": 0}.items():
        monkeypatch.setenv(f"SUBMITIT_LOCAL_{name}", str(value))
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_FOLDER", "files")
    program = "import sys; print('to stdout'); print('to stderr', file=sys.stderr)"
    training = Training((sys.executable, "-S", "-u", "-c", program), str(Path.cwd()), None, 1, 0, "log")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCONT)}
    try:
        assert training() == "finished"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert Path("log").read_text() == "to stdout\nto stderr\n"
    assert training.checkpoint() is not None
    put("files/7_stop")
    assert training.checkpoint() is None
    Path("log").unlink()
    assert training() == "stopped"
    assert not Path("log").exists()


def test_a_signal_waits_for_the_number_of_a_job() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), study_slurm._undisturbed():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        done = True
    assert done


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90:30", 91), ("1:30:00", 90), ("1-0", 1440), ("1-12", 2160), ("1-2:30", 1590), ("2-00:00:01", 2881)],
)
def test_time_limits_are_read_as_sbatch_reads_them(text: str, expected: int) -> None:
    assert parse_minutes(text) == expected


@pytest.mark.parametrize(
    ("options", "device", "lines"),
    [
        ({}, "auto", ["cpus-per-task=10", "gpus-per-node=1", "signal=USR2@300", "time=1440", "requeue"]),
        ({"time": "10", "cpus-per-task": "2"}, "cpu", ["cpus-per-task=2", "signal=USR2@150", "time=10"]),
        ({"gres": "gpu:a100:1", "exclusive": True, "mem": "40G"}, "cuda", ["gres=gpu:a100:1", "exclusive", "mem=40G"]),
    ],
)
def test_sbatch_gets_the_options_that_were_typed(options: dict[str, str | bool], device: str, lines: list[str]) -> None:
    where = SlurmLauncher(LocalLauncher(1, device), options)
    script = submitit.slurm.slurm._make_sbatch_string(command="", folder="files", **where.parameters("name"))
    assert {f"#SBATCH --{line}" for line in lines} <= set(script.splitlines())
    assert ("--gpus-per-node=1" in script) == (not options)
    assert f"--kill-on-bad-exit --cpus-per-task={options.get('cpus-per-task', 10)}" in script


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--slurm time=24:00:00 --launch srun",
            "--slurm submits each run as a job, and --launch starts it as a process. Give only one of them.",
        ),
        (
            "--slurm time=tomorrow",
            "--slurm time=tomorrow is not a time limit. Give minutes, hours:minutes:seconds or days-hours.",
        ),
        ("--slurm time=1", "--slurm time=1 is too short for a run to make progress."),
        ("--slurm ntasks=2", "--slurm ntasks: omit it, a study sets it"),
        (
            "--slurm qos=high --device cuda:1",
            "--device cuda:1 is one GPU, but Slurm gives each job its own: give --device cuda.",
        ),
    ],
)
def test_a_mistake_is_a_sentence(betons: Path, capsys: pytest.CaptureFixture[str], options: str, message: str) -> None:
    write_study(betons)
    assert command(f"study small.yaml {options}") == 2
    assert message in capsys.readouterr().err
    assert not Path("studies").exists()


def test_missing_programs_are_named(betons: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(betons)
    put("no-accounts")
    assert command("study small.yaml --slurm qos=high") == 2
    assert "sacct, which reports the state of jobs, fails on this machine: Slurm accounting storage" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert command("study small.yaml --slurm qos=high") == 2
    assert "Run this on a login node of the cluster, or without --slurm." in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert command("study small.yaml --slurm qos=high") == 2
    assert "pip install -U submitit" in capsys.readouterr().err


def test_the_command_submits_jobs(betons: Path) -> None:
    path = write_study(betons, seeds=[0], fork=None)
    assert command(f"study {path} --out out --jobs 2 --slurm --partition=P --slurm time=3:00:00") == 0
    for number, arm in enumerate(("clean", "swap"), start=1):
        script = Path(f"out/slurm/{arm}/seed-0/{number}_submission.sh").read_text()
        assert f"--job-name=small.{arm}.seed-0" in script
        assert "--partition=P" in script
        assert Path(f"began-{arm}").exists()
