"""How figures read: an amount in its unit, what kind of evidence it is, and what stands behind it.

The terminal and the page both write through here, so that no figure loses its label on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtc.compiler.core.evidence import Estimated, Evidence, Measured, Pending


@dataclass(frozen=True)
class Figure:
    """A piece of evidence as text.

    Attributes:
        kind: "measured", "estimated" or "pending".
        text: the amount in its unit; "" while pending.
        spread: the interval around it, "" where there is none.
        source: what stands behind it: samples and place, the model, or the awaited device.
    """

    kind: str
    text: str
    spread: str
    source: str


def figure(evidence: Evidence) -> Figure:
    """Evidence as text."""
    if isinstance(evidence, Measured):
        spread = ""
        if evidence.low is not None and evidence.high is not None:
            spread = interval(evidence.low, evidence.high, evidence.unit)
        source = f"{evidence.samples:,} samples, {evidence.where}"
        return Figure("measured", amount(evidence.value, evidence.unit), spread, source)
    if isinstance(evidence, Estimated):
        return Figure("estimated", amount(evidence.value, evidence.unit), "", evidence.model)
    return Figure("pending", "", "", f"waits for {evidence.waits_for}")


def amount(value: float, unit: str) -> str:
    """A value in its unit: "31.2 µs", "8.70 ms", "98.90 %", "12,400 fps".

    Times below a millisecond are given in µs, above a second in s; a "fraction" in per cent.
    """
    if unit == "ms":
        return _milliseconds(value)
    if unit == "fraction":
        return f"{value * 100:.2f} %"
    if unit == "nats":
        return f"{value:.4f}"
    return f"{significant(value)} {unit}".rstrip()


def factor(value: float, bounds: tuple[float, float] | None) -> str:
    """A ratio, and its interval where it has one: "3.10× (2.95 – 3.22)"."""
    text = f"{significant(value)}×"
    if bounds is None or bounds[0] == bounds[1]:  # a subject against itself
        return text
    return f"{text} ({significant(bounds[0])} – {significant(bounds[1])})"


def interval(low: float, high: float, unit: str) -> str:
    """Two amounts, the unit once where they share it: "98.20 – 99.40 %"."""
    first, last = amount(low, unit), amount(high, unit)
    number, _, shown = first.rpartition(" ")
    return f"{number} – {last}" if number and last.endswith(f" {shown}") else f"{first} – {last}"


def _milliseconds(value: float) -> str:
    size = abs(value)
    if size < 1:
        return f"{significant(value * 1e3)} µs"
    return f"{significant(value)} ms" if size < 1e3 else f"{significant(value / 1e3)} s"


def significant(value: float) -> str:
    """Three significant digits, never in exponents: "0.0312", "8.70", "12,400"."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    decimals = max(0, 2 - _exponent(rounded))
    return f"{rounded:,.{decimals}f}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def points(before: Evidence, after: Evidence) -> str:
    """The change of a fraction in percentage points: "−0.10 pt"; "" where either is pending."""
    if isinstance(before, Pending) or isinstance(after, Pending):
        return ""
    return change(after.value - before.value)


def change(fraction: float) -> str:
    """A change of a fraction in percentage points: "−0.10 pt"."""
    by = round(fraction * 100, 2)
    sign = "−" if by < 0 else "+" if by > 0 else "±"
    return f"{sign}{abs(by):.2f} pt"


def rate(per_second: float) -> str:
    """Events per second: "12,400 /s", "2.15 M/s"."""
    if per_second >= 1e6:
        return f"{significant(per_second / 1e6)} M/s"
    return f"{significant(per_second)} /s"


def size(octets: int) -> str:
    """Bytes for people, in decimal units: "251 kB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if octets >= scale:
            return f"{significant(octets / scale)} {unit}"
    return f"{octets} B"


def plans(count: int) -> str:
    """How many plans: "1 plan", "12 plans"."""
    return f"{count} plan" if count == 1 else f"{count} plans"


def duration(seconds: float) -> str:
    """Elapsed time: "0.4 s", "12.3 s", "2 min 05 s"."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def clean(text: str) -> str:
    """Text from outside with what could steer a terminal or a reader's eye made visible.

    Line breaks become spaces; other control, format and direction characters become "�".
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)
