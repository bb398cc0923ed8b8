"""Ctrl-C, SIGTERM and SIGHUP are noted first and obeyed after the step; a second one acts at once."""

import os
import signal

import pytest
import torch

from spkver.training.stopping import SIGNALS, TRY_AGAIN, StopNow, Stopped, StopRequest, ignore_interrupts


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal(signals_as_in_a_terminal):
    """Each test needs them."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_noted(number):
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert request.signal_number is None
        os.kill(os.getpid(), number)
        assert request.signal_number == number
    assert signal.getsignal(number) is before


def test_the_second_interrupt_acts_at_once():
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        signal.sigtimedwait([], 0.1)


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal_number is None
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_block_that_may_be_left_is_not_entered_after_a_signal():
    entered = []
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopNow), request.at_once():
            entered.append(True)
    assert not entered


def test_no_alarm_is_left_behind():
    before = signal.getsignal(signal.SIGALRM)
    with StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_data_worker_has_one_thread_and_ignores_every_signal_that_stops(signals_as_in_a_terminal):
    torch.set_num_threads(2)
    ignore_interrupts(0)
    assert torch.get_num_threads() == 1
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} == set(SIGNALS)


def test_what_stopped_a_run_has_a_line_and_a_status():
    stopped = Stopped("stopped and saved", TRY_AGAIN)
    assert (str(stopped), stopped.status) == ("stopped and saved", 75)
