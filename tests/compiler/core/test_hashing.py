from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from rtc.compiler.core.hashing import canonical, digest, file_digest


def test_json_has_one_form() -> None:
    assert canonical({"b": [1, 2.5], "a": "ü"}) == b'{"a":"\\u00fc","b":[1,2.5]}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": float("nan")})


def test_bytes_are_taken_as_they_are() -> None:
    assert digest(b"abc") == f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
    assert digest(b"{}") == digest({})


def test_a_file_is_that_of_its_content_and_of_what_it_becomes(tmp_path: Path) -> None:
    path = tmp_path / "large"
    content = os.urandom(3 << 20)
    path.write_bytes(content)
    assert file_digest(path) == digest(content)
    path.write_bytes(content[:-1] + b"x")
    assert file_digest(path) == digest(content[:-1] + b"x")
    same_length = b"y" * len(content)
    path.write_bytes(same_length)
    os.utime(path, ns=(time.time_ns(), time.time_ns()))
    assert file_digest(path) == digest(same_length)
