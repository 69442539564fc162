"""Signals: handlers that are restored, and a request to stop that waits until something can be saved."""

import os
import signal

import pytest

from jpegcurr.errors import Interrupted, Terminated
from jpegcurr.system import StopRequest, handle_signals, stop_on_signals


def test_handlers_are_restored_after_an_error_too() -> None:
    before, received = signal.getsignal(signal.SIGUSR1), list[int]()
    with (  # noqa: PT012
        pytest.raises(ValueError, match="an error"),
        handle_signals({signal.SIGUSR1: lambda number, _: received.append(number)}),
    ):
        os.kill(os.getpid(), signal.SIGUSR1)
        raise ValueError("an error")
    assert received == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize(
    ("can_save", "numbers", "raised"),
    [
        (False, [signal.SIGTERM], [True]),
        (False, [signal.SIGTERM, signal.SIGTERM], [True, False]),
        (True, [signal.SIGTERM, signal.SIGTERM], [False, False]),
        (True, [signal.SIGINT, signal.SIGTERM], [False, False]),
        (True, [signal.SIGTERM, signal.SIGINT], [False, True]),
        (True, [signal.SIGINT, signal.SIGINT], [False, True]),
    ],
)
def test_a_request_is_raised_until_something_can_be_saved(can_save: bool, numbers: list[int], raised: list[bool]) -> None:
    request = StopRequest()
    if can_save:
        request.defer()
    assert not request.requested()
    for number, interrupts in zip(numbers, raised, strict=True):
        try:
            request.receive(number, None)
        except KeyboardInterrupt:
            assert interrupts
        else:
            assert not interrupts
        assert request.requested()


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated)])
def test_the_first_signal_decides_how_the_work_ends(number: int, error: type[Interrupted]) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as left, stop_on_signals(signal.SIGINT, signal.SIGTERM) as request:  # noqa: PT012
        request.defer()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        raise Terminated("stopped.")
    assert type(left.value) is error
    assert signal.getsignal(number) == before
