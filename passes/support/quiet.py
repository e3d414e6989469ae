"""Third-party libraries that warn and log about themselves, held back while they are called."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings and log records: what these libraries say there is not for our user.

    Exceptions pass. Standard output stays as it is: whoever shows progress on it owns it.
    """
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)
