"""Interleaved rounds: A B C, A B C, ... Drift of the machine then affects all variants alike."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

Sample = TypeVar("Sample")


def interleave(variants: Mapping[str, Callable[[], Sample]], rounds: int) -> dict[str, list[Sample]]:
    """Measure every variant once per round. Every second round is in reverse order, to balance effects of the order."""
    samples: dict[str, list[Sample]] = {name: [] for name in variants}
    for number in range(rounds):
        names = list(variants)
        for name in names if number % 2 == 0 else reversed(names):
            samples[name].append(variants[name]())
    return samples


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median over the rounds of the ratio within each round."""
    return median(above / below for above, below in zip(numerators, denominators, strict=True))
