"""The quantities that a candidate's precision is judged by; a module of its own, since the command
line names them and must import nothing heavy.
"""

from __future__ import annotations

from rtc.compiler.core.words import Word


class Quantity(Word):
    """What is measured.

    AGREEMENT: the fraction of samples with the float model's top-1 class. TOP1: top-1 accuracy of
    the model that came in (the float model's, unless graph passes changed what it computes) minus
    the candidate's, a fraction. SNR: signal-to-noise ratio of all logits (those behind the
    probabilities, where a model gives these) against the float model's, in decibels, within ±120.
    """

    AGREEMENT = "agreement"
    TOP1 = "top1"
    SNR = "snr"
