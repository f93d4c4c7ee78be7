"""Loading by transformers and from the hub, without their words: what went wrong is in the error."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr


@contextmanager
def quiet() -> Iterator[None]:
    """Within it nothing is logged, and bars of libraries are drawn on terminals only, as ours are."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
