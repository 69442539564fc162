"""A Python that starts at once: processes forked from one that has torch and jpegcurr imported already.

``PYTHON`` is an executable that takes ``-m MODULE ...``, ``-c CODE ...`` or ``SCRIPT ...`` as Python does, with its streams,
working directory, environment, signals and exit code. Its first use starts the process from which the others are forked; that
one ends when the folder of the executable is gone. Importing torch and timm takes five seconds of CPU time; some tests would
spend them six times.
"""

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
PYTHON = os.environ.get("JPEGCURR_FORKED_PYTHON", sys.executable)  # conftest sets it
PRELOADED = (
    "jpegcurr.cli.app",
    "jpegcurr.analysis.report.html",
    "jpegcurr.study.run",
    "jpegcurr.training.data.thread_loader",
    "jpegcurr.training.train",
)


def python_at(folder: Path) -> Path:
    """Write the executable into ``folder``, which must not outlive the tests."""
    file = folder / "python"
    tests, address = str(Path(__file__).parent), str(folder / "socket")
    call = f"import sys\nsys.path.insert(0, {tests!r})\nfrom forked import run\n\nrun({address!r})\n"
    file.write_text(f"#!{sys.executable} -SE\n{call}")
    file.chmod(0o755)
    return file


def run(address: str) -> None:
    """Have the server run this process's command line, pass signals on, and end as the command ends."""
    words = [word for number, word in enumerate(sys.argv) if number and (number, word) != (1, "-u")]
    if words[0].startswith("-") and words[0] not in ("-m", "-c"):
        os.execv(sys.executable, [sys.executable, *words])  # noqa: S606
    connection = connected(address)
    request = {
        "words": words,
        "python": sys.argv[0],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "ignored": [number for number in PASSED_ON if signal.getsignal(number) is signal.SIG_IGN],
    }
    for number in set(PASSED_ON) - set(request["ignored"]):
        signal.signal(number, lambda sent, _frame: connection.sendall(bytes([sent])))
    data = json.dumps(request).encode(errors="surrogateescape")
    socket.send_fds(connection, [len(data).to_bytes(8)], [0, 1, 2])
    connection.sendall(data)
    answer = connection.recv(8)
    status = int.from_bytes(answer, signed=True) if answer else -signal.SIGKILL
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


def connected(address: str) -> socket.socket:
    """Return a connection to the server; start the server if it is not running."""
    import fcntl
    import subprocess
    import time

    with open(f"{address}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for attempt in range(1200):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(address)
                return connection
            except OSError:
                connection.close()
            if attempt == 0:
                command = [sys.executable, __file__, address]
                with open(f"{address}.log", "w") as log:
                    quiet = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
                    starting = subprocess.Popen(command, cwd=Path(__file__).parent, start_new_session=True, **quiet)
            if starting.poll() is not None:
                break
            time.sleep(0.05)
    raise SystemExit(f"no server: {Path(f'{address}.log').read_text()}")


def serve(address: str) -> None:
    """Fork a process for every connection until the folder of ``address`` is gone."""
    import gc
    from importlib import import_module

    for module in PRELOADED:
        import_module(module)
    gc.freeze()  # a collection in a fork would copy the memory that it shares with this process
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    os.rename(f"{address}.new", address)
    running: dict[socket.socket, int] = {}
    while os.path.exists(address) or running:
        ready, _, _ = select.select([listener, *running], [], [], 0.02 if running else 1.0)
        for connection in ready:
            if connection is listener:
                accepted, _ = listener.accept()
                running[accepted] = forked(accepted, [listener, *running])
            else:
                pass_on(connection, running)
        for connection, pid in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                with suppress(OSError):
                    connection.sendall(code.to_bytes(8, signed=True))
                connection.close()
                del running[connection]


def pass_on(connection: socket.socket, running: dict[socket.socket, int]) -> None:
    """Send the process of ``connection`` the signals received; SIGKILL if the client has ended."""
    try:
        numbers = connection.recv(64)
    except OSError:
        numbers = b""
    for number in numbers or bytes([signal.SIGKILL]):
        with suppress(ProcessLookupError):
            os.kill(running[connection], number)


def forked(connection: socket.socket, others: list[socket.socket]) -> int:
    """Fork a process that runs what ``connection`` asks for; return its number."""
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    data = b""
    while len(data) < int.from_bytes(head):
        data += connection.recv(1 << 20)
    if pid := os.fork():
        for file in files:
            os.close(file)
        return pid
    for other in (*others, connection):
        other.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    code = 70
    try:
        code = work(json.loads(data))
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def work(request: dict) -> int:
    """Run the requested command line in this process; return its exit code."""
    import runpy
    import tempfile
    import traceback
    import types

    import torch

    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # so that TMPDIR is read anew
    os.chdir(request["folder"])
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115  # as long as the process
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    sys.stderr.reconfigure(line_buffering=True)
    for number in PASSED_ON:
        ignored = number in request["ignored"]
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if ignored else usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    words = request["words"]
    sys.executable = request["python"]
    try:
        if words[0] == "-m":
            sys.path[0], sys.argv = request["folder"], words[1:]
            sys.orig_argv = [sys.executable, *words]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.path[0], sys.argv = "", ["-c", *words[2:]]
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(words[1], vars(sys.modules["__main__"]))  # noqa: S102
        else:
            sys.path[0], sys.argv = str(Path(words[0]).parent), words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as left:
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
