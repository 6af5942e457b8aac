"""Signals of a cluster that takes its machine back: they interrupt a command as Ctrl-C does."""

import signal
import threading


def interrupt_on_termination() -> None:
    """Let SIGTERM and SIGUSR1 raise KeyboardInterrupt, upon which a run saves its state and ends with status 130.

    Python allows handlers in the main thread alone; in others nothing is changed.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.default_int_handler)
