"""Which option each part of a network takes: a mixed-integer linear programme.

Every part (a layer with weights, the Add of a residual group, whatever else computes) takes one of
its options; an option costs time and accuracy, reads tensors in some format and writes others. A
tensor that is read in a format that it is not written in is converted, once for all its readers:

    minimise   Σ time of options + Σ time of conversions
    such that  Σ loss of options ≤ a budget            (or the other way round)
               one option for each part
               converted(t, f) ≥ read(t, f) by each reader - written(t, f)

x of options are binary; `converted` may be continuous, since at the optimum it is the largest of
differences of binaries. Losses are added, which holds for independent noise (Zhou et al., "Adaptive
quantization for deep neural network", AAAI 2018). Solved by HiGHS (Huangfu & Hall, Mathematical
Programming Computation 10, 2018) through SciPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rtc.compiler.core.arrays import Float64Array
from rtc.compiler.core.errors import InternalError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Vector = Float64Array
    _Entry = tuple[int, int, float]  # row, column, value

OUTSIDE = "fp32"
"""The format of what comes from outside the parts: the graph's inputs."""
_TIE = 1e-6  # of the objective: what decides between plans that are as good
_SECONDS = 20.0
_GAP = 1e-4
_LEAST = 1e-30
_NO_ANSWER = (1, 2)  # of HiGHS: the time was over before any solution, or there is none


@dataclass(frozen=True)
class Option:
    """One way to compute a part.

    Attributes:
        name: "int8", "half", … or a residual policy.
        time_us: microseconds per batch.
        loss: what it adds to the noise at the output, as a fraction of the signal.
        reads, writes: the format of each tensor, by its name.
    """

    name: str
    time_us: float
    loss: float = 0.0
    reads: Mapping[str, str] = field(default_factory=dict)
    writes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What one decision is made for."""

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Problem:
    """All parts, and the time that a tensor's conversion to a format takes, in microseconds."""

    parts: tuple[Part, ...]
    conversions: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def score(self, chosen: Mapping[str, str]) -> Assignment:
        """What a choice of options costs, conversions included."""
        options = [_option(part, chosen[part.name]) for part in self.parts]
        written = {t: f for option in options for t, f in option.writes.items()}
        needed = {(t, f) for option in options for t, f in option.reads.items()}
        converted = frozenset((t, f) for t, f in needed if written.get(t, OUTSIDE) != f)
        return Assignment(
            chosen=dict(chosen),
            converted=converted,
            time_us=sum(option.time_us for option in options)
            + sum(self.conversions.get(each, 0.0) for each in converted),
            loss=sum(option.loss for option in options),
        )


@dataclass(frozen=True)
class Assignment:
    """An option for each part, the conversions that follow, and what both are predicted to cost."""

    chosen: Mapping[str, str]
    converted: frozenset[tuple[str, str]]
    time_us: float
    loss: float


def fastest(problem: Problem, max_loss: float = float("inf")) -> Assignment | None:
    """The assignment of least time with `max_loss` in all at most; None where none is found."""
    return _solve(problem, minimise="time", limit=max_loss)


def most_accurate(problem: Problem, max_time_us: float) -> Assignment | None:
    """The assignment of least loss that takes `max_time_us` at most; None where none is found."""
    return _solve(problem, minimise="loss", limit=max_time_us)


def _option(part: Part, name: str) -> Option:
    return next(option for option in part.options if option.name == name)


def _solve(problem: Problem, *, minimise: str, limit: float) -> Assignment | None:
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not problem.parts:
        return Assignment({}, frozenset(), 0.0, 0.0)
    columns = _Columns(problem)
    aim, held = columns.times, columns.losses
    if minimise == "loss":
        aim, held = held, aim
    usable = np.isfinite(aim) & np.isfinite(held) & (held <= limit)
    aim, held = (np.where(usable, each, 0.0) for each in (aim, held))
    most = max(held.max(), _LEAST)
    aim, held = aim / max(aim.max(), _LEAST), held / most  # the solver's tolerances are absolute
    constraints = [
        LinearConstraint(columns.one_each(), 1, 1),
        LinearConstraint(columns.conversions(), 0, np.inf),
    ]
    if limit < float("inf"):
        constraints.append(LinearConstraint(held[None, :], -np.inf, limit / most))
    solution = milp(
        aim + _TIE * held,
        constraints=constraints,
        integrality=columns.integral,
        bounds=Bounds(0, usable.astype(float)),
        options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
    )
    if solution.x is None:
        if solution.status in _NO_ANSWER:
            return None
        raise InternalError(f"the assignment could not be solved: {solution.message}")
    return problem.score(columns.chosen(solution.x))


class _Columns:
    """The programme's variables: an x for each option of each part, then one per conversion."""

    def __init__(self, problem: Problem) -> None:
        self.parts = problem.parts
        self.options = [(part, option) for part in problem.parts for option in part.options]
        self.writers = {tensor: part for part, option in self.options for tensor in option.writes}
        self.readers: dict[tuple[str, str], dict[str, Part]] = {}
        for part, option in self.options:
            for tensor, form in option.reads.items():
                if tensor in self.writers or form != OUTSIDE:
                    self.readers.setdefault((tensor, form), {})[part.name] = part
        times = [problem.conversions.get(pair, 0.0) for pair in self.readers]
        self.times = self._vector([option.time_us for _, option in self.options], times)
        self.losses = self._vector([option.loss for _, option in self.options])
        self.integral = self._vector([1.0] * len(self.options))

    def one_each(self) -> csr_array:
        rows = {part.name: row for row, part in enumerate(self.parts)}
        return self._matrix(
            [(rows[part.name], at, 1.0) for at, (part, _) in enumerate(self.options)]
        )

    def conversions(self) -> csr_array:
        """A row for each reader of each format: converted - read + written, which is 0 or more."""
        entries: list[_Entry] = []
        rows = [
            (at, pair, part)
            for at, (pair, parts) in enumerate(self.readers.items(), start=len(self.options))
            for part in parts.values()
        ]
        for row, (at, (tensor, form), reader) in enumerate(rows):
            entries.append((row, at, 1.0))
            writer = self.writers.get(tensor)
            for column, (part, option) in enumerate(self.options):
                if part is reader and option.reads.get(tensor) == form:
                    entries.append((row, column, -1.0))
                if part is writer and option.writes.get(tensor) == form:
                    entries.append((row, column, 1.0))
        return self._matrix(entries)

    def chosen(self, x: Vector) -> dict[str, str]:
        pairs = zip(self.options, x, strict=False)
        return {part.name: option.name for (part, option), value in pairs if value > 0.5}

    def _vector(self, of_options: Sequence[float], of_pairs: Sequence[float] = ()) -> Vector:
        import numpy as np

        rest = of_pairs or [0.0] * len(self.readers)
        return np.array([*of_options, *rest], np.float64)

    def _matrix(self, entries: Sequence[_Entry]) -> csr_array:
        from scipy.sparse import csr_array

        rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
        shape = (max(rows, default=-1) + 1, len(self.options) + len(self.readers))
        return csr_array((values, (rows, columns)), shape=shape)
