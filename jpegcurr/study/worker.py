"""The process for one task of a study, started by ``parallel``: ``python -m jpegcurr.study.worker STUDY OUT TASK``."""

import argparse
import logging
import signal
import sys
import traceback
from pathlib import Path

from jpegcurr.errors import Interrupted, JpegcurrError
from jpegcurr.runtime import resolve_runtime
from jpegcurr.study.config import load_study
from jpegcurr.study.folder import validates_by
from jpegcurr.study.run import run_task
from jpegcurr.study.tasks import list_tasks
from jpegcurr.system import TERMINATION, keep_freed_memory, stop_on_signals
from jpegcurr.text import sanitize, sanitize_lines


def main() -> int:
    """Do the task and return the exit code. The log goes to stderr; if the task fails, the last line says why."""
    parser = argparse.ArgumentParser(prog="python -m jpegcurr.study.worker")
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("task")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction)
    options = parser.parse_args()
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("jpegcurr").setLevel(logging.INFO)
    keep_freed_memory()
    try:
        with stop_on_signals(signal.SIGINT, *TERMINATION) as stop:
            study = load_study(options.study, validates_by(options.out))
            task = next(task for task in list_tasks(study) if task.name == options.task)
            runtime = resolve_runtime(options.device, precision=options.precision, compile=options.compile)
            run_task(study, task, options.out, runtime, lambda _progress: stop.defer(), stop)
    except KeyboardInterrupt:
        return Interrupted.exit_code
    except Interrupted as error:
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        print(f"failed: {sanitize(' '.join(str(error).split())) or type(error).__name__}", file=sys.stderr, flush=True)
        return error.exit_code if isinstance(error, JpegcurrError) else 1
    return 0


class _SafeFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the record without characters that could steer the terminal on which the log is read."""
        return sanitize_lines(super().format(record), indent="  ")


if __name__ == "__main__":
    sys.exit(main())
