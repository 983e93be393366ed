"""What an unfinished exercise says."""

import contextlib


@contextlib.contextmanager
def stub():
    """Report a function that still raises NotImplementedError, and go on."""
    try:
        yield
    except NotImplementedError:
        print("Not done yet: your function raises NotImplementedError.")
