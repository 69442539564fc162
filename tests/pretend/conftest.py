"""A process of its own for each test here: a device that torch knows once, it knows for the rest of a process."""

import os
import pickle
import sys
import traceback
from typing import Any

import pytest
import torch._dynamo.device_interface  # noqa: F401 (torch imports it at some calls: once for all forks)
from pretend import backend


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests where torch has no device in Python."""
    if reason := backend.missing():
        for item in items:
            if item.path.parent.name == "pretend":
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    """Run the test in a fork of this process, which has torch imported."""
    names = pyfuncitem._fixtureinfo.argnames
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os._exit(_run(pyfuncitem.obj, {name: pyfuncitem.funcargs[name] for name in names}, writer))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        pytest.fail(pickle.loads(message) if message else f"the test's process ended with {code}", pytrace=False)  # noqa: S301
    return True


def _run(test: Any, arguments: dict[str, Any], writer: int) -> int:
    from pretend.device import register_once

    try:
        register_once()
        test(**arguments)
    except BaseException:
        os.write(writer, pickle.dumps(traceback.format_exc()[-30_000:]))
        return 1
    finally:
        sys.stdout.flush()
    return 0
