import threading

import pytest

from sddusr.training.writer import Background


def test_pieces_of_work_are_done_in_order_and_one_at_a_time():
    done, at_work = [], threading.Lock()

    def piece(number):
        assert at_work.acquire(blocking=False)
        done.append(number)
        at_work.release()

    with Background() as background:
        for number in range(20):
            background.start(lambda number=number: piece(number))
    assert done == list(range(20))


def fail():
    raise OSError("disk full")


def keep_checking(background):
    """The thread may not have handed its error over yet."""
    while True:
        background.check()


NEXT_CALLS = {
    "check": keep_checking,
    "wait": Background.wait,
    "start": lambda background: background.start(lambda: None),
    "leave": lambda background: background.__exit__(None, None, None),
}


@pytest.mark.parametrize("call", NEXT_CALLS)
def test_what_a_piece_raises_is_raised_by_the_next_call_and_once(call):
    background = Background()
    background.start(fail)
    with pytest.raises(OSError, match="disk full"):
        NEXT_CALLS[call](background)
    background.__exit__(None, None, None)


def test_an_error_of_the_steps_is_not_hidden_by_one_of_the_writing(caplog):
    background = Background()
    background.start(fail)
    background.__exit__(KeyError, KeyError(), None)
    assert "disk full" in caplog.text


def test_a_look_does_not_wait():
    go = threading.Event()
    with Background() as background:
        background.start(lambda: go.wait(60))
        background.check()
        go.set()
