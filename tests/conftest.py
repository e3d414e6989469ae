"""What every test may rely on, whatever started the tests."""

from __future__ import annotations

import signal

# A job that a shell starts in the background ignores SIGINT, and so do its children; tests that
# interrupt a command would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
