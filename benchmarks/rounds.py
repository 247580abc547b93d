"""Interleaved rounds: A B C, A B C, ... Drift of the machine then affects all variants alike."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import median
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
Sample = TypeVar("Sample")


def interleave(variants: Mapping[Name, Callable[[], Sample]], rounds: int) -> dict[Name, list[Sample]]:
    """Measure every variant once per round. Every second round is in reverse order, to balance effects of the order."""
    samples: dict[Name, list[Sample]] = {name: [] for name in variants}
    for number in range(rounds):
        names = list(variants)
        for name in names if number % 2 == 0 else reversed(names):
            samples[name].append(variants[name]())
    return samples


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median over the rounds of the ratio within each round."""
    return median(above / below for above, below in zip(numerators, denominators, strict=True))
