"""The words that a report judges with; each is written to `report.json` as it is spelled here."""

from __future__ import annotations

from rtc.compiler.core.words import Word


class LayerVerdict(Word):
    """How a builder kept the plan of one layer.

    KEPT: as planned. FOLDED: into another layer's kernel. FOLLOWS: a layer without weights that is
    planned wider and runs on the integers that its neighbours have in the graph. CHANGED: a silent
    fallback, the builder runs the layer in another precision than the plan says. UNKNOWN: no kernel
    that the builder lists computes it, so nothing proves the plan.
    """

    KEPT = "kept"
    FOLDED = "folded"
    FOLLOWS = "follows"
    CHANGED = "changed"
    UNKNOWN = "unknown"


class CandidateState(Word):
    """What became of a candidate.

    SHIPPED: the bundle's engine. SLOWER, LESS_ACCURATE: than that, by what the search was for.
    REFUSED: by a gate. FAILED: it was not built, or not measured. LEFT_OUT: the runtime gains
    nothing from it.
    """

    SHIPPED = "shipped"
    SLOWER = "slower"
    LESS_ACCURATE = "less accurate"
    REFUSED = "refused"
    FAILED = "failed"
    LEFT_OUT = "left out"


class TrialState(Word):
    """What became of a plan that a search tried. REFUSED: by a gate."""

    BEST = "best"
    PASSED = "passed"
    REFUSED = "refused"


class LatencyMode(Word):
    """What a latency is the time of.

    FORWARD: the engine alone, on inputs that were placed beforehand. END_TO_END: from raw samples
    in memory through preprocessing, copies in, the engine and copies out to the arg max on the
    host.
    """

    FORWARD = "forward"
    END_TO_END = "end-to-end"
