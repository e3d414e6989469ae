"""Lets tests, and the child processes that take over their sys.path, import small_models."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
