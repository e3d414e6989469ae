"""`report.json`: a report as JSON and back, without loss. A NaN is neither written nor read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn, get_args

from rtc.compiler.core import evidence
from rtc.compiler.core.errors import IntegrityError, InternalError
from rtc.compiler.core.results import Report

SCHEMA = 1


def to_json(report: Report) -> bytes:
    """The report as indented JSON with sorted keys; every piece of evidence says its `kind`.

    Raises:
        InternalError: a figure is NaN or infinite.
    """
    tree = {"report": SCHEMA, **_plain(report)}
    try:
        return json.dumps(tree, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
    except ValueError as cause:
        raise InternalError(f"a report of {report.target}: {cause}", id="not-finite") from cause


def from_json(content: bytes, *, where: str = "report.json") -> Report:
    """The inverse of `to_json`.

    Raises:
        IntegrityError: not JSON, another schema, or a field that a report does not have so.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        schema = json.loads(content, parse_constant=_refuse).get("report")
    except (ValueError, AttributeError) as cause:
        raise IntegrityError(f"not a report: {cause}", where=where) from cause
    if schema != SCHEMA:
        raise IntegrityError(
            "not a report that this rtc reads",
            where=where,
            seen=f"schema {schema!r}",
            expected=f"schema {SCHEMA}",
            fix="use the rtc that wrote it, or a newer one",
        )
    try:
        report: Report = TypeAdapter(Report).validate_json(content, strict=True)
    except ValidationError as cause:
        first = cause.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise IntegrityError(f"not a report: {path}: {first['msg']}", where=where) from cause
    return report


def _plain(value: Any) -> Any:
    if isinstance(value, get_args(evidence.Evidence)):
        return evidence.to_dict(value)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a figure")
