"""One task of a study in a process of its own: ``python -m jpegcurr.study.worker STUDY OUT TASK``; ``parallel`` starts it."""

import argparse
import logging
import sys
import traceback
from pathlib import Path

from jpegcurr.errors import Interrupted, JpegcurrError
from jpegcurr.runtime import resolve_runtime
from jpegcurr.study.config import load_study
from jpegcurr.study.run import run_task, stoppable
from jpegcurr.study.tasks import list_tasks
from jpegcurr.system import keep_freed_memory


def main() -> int:
    """Do it; what it says goes to stderr, why it failed in the last line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jpegcurr.study.worker")
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("task")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", action="store_true")
    typed = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("jpegcurr").setLevel(logging.INFO)
    keep_freed_memory()
    try:
        with stoppable() as stop:
            study = load_study(typed.study)
            task = next(each for each in list_tasks(study) if each.name == typed.task)
            runtime = resolve_runtime(typed.device, precision=typed.precision, compile=typed.compile)
            run_task(study, task, typed.out, runtime, lambda _progress: stop.begun(), stop)
    except KeyboardInterrupt:
        return Interrupted.exit_code
    except Interrupted as error:
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        print(f"failed: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr, flush=True)
        return error.exit_code if isinstance(error, JpegcurrError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
