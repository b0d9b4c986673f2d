"""From votes to figures: win rates with Wilson intervals, and Bradley-Terry strengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log, sqrt
from typing import NamedTuple

import numpy as np

Z = 1.959964  # 95%
ELO = 400 / log(10)  # strengths are shown on the chess scale: 400 points are odds of ten to one
# Of the strengths' prior, in their natural unit: keeps a system that won every vote at a finite strength.
PRIOR_SPREAD = 2.0


class Rate(NamedTuple):
    """A share with its 95% interval."""

    value: float
    low: float
    high: float


def wilson(wins: float, n: float) -> Rate:
    """Share wins / n with Wilson's score interval; a tie counts as half a win. n = 0 gives 0.5 in [0, 1]."""
    if n <= 0:
        return Rate(0.5, 0.0, 1.0)
    share, square = wins / n, Z * Z / n
    middle = (share + square / 2) / (1 + square)
    reach = Z * sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    return Rate(share, max(0.0, middle - reach), min(1.0, middle + reach))


class Strength(NamedTuple):
    """A system's Bradley-Terry strength in chess points around the mean of all, with its 95% interval."""

    system: str
    value: float
    low: float
    high: float


def bradley_terry(duels: Iterable[tuple[str, str, float, float]]) -> list[Strength]:
    """(a, b, wins of a, votes) with ties as half wins -> strengths, the strongest first.

    Maximum a posteriori under a wide normal prior; intervals from the curvature there.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    duels = [duel for duel in duels if duel[3] > 0]
    systems = sorted({name for a, b, _, _ in duels for name in (a, b)})
    if not systems:
        return []
    place = {name: i for i, name in enumerate(systems)}
    a, b = (np.array([place[duel[side]] for duel in duels]) for side in (0, 1))
    wins, votes = (np.array([duel[i] for duel in duels], float) for i in (2, 3))
    sides = np.zeros((len(duels), len(systems)))  # each duel: +1 for a, -1 for b
    sides[np.arange(len(duels)), a] += 1
    sides[np.arange(len(duels)), b] -= 1

    def loss(strength: np.ndarray) -> tuple[float, np.ndarray]:
        gap = sides @ strength
        value = (votes * np.logaddexp(0, gap) - wins * gap).sum() + (strength**2).sum() / (2 * PRIOR_SPREAD**2)
        return value, sides.T @ (votes * expit(gap) - wins) + strength / PRIOR_SPREAD**2

    found = minimize(loss, np.zeros(len(systems)), jac=True, method="BFGS").x
    likely = expit(sides @ found)
    curvature = (sides.T * (votes * likely * (1 - likely))) @ sides + np.eye(len(systems)) / PRIOR_SPREAD**2
    centre = np.eye(len(systems)) - 1 / len(systems)  # strengths are told relative to their mean
    spread = np.sqrt(np.diag(centre @ np.linalg.inv(curvature) @ centre))
    values = centre @ found
    made = [
        Strength(name, ELO * v, ELO * (v - Z * s), ELO * (v + Z * s)) for name, v, s in zip(systems, values, spread)
    ]
    return sorted(made, key=lambda one: -one.value)


def tally(votes: Sequence[dict]) -> list[dict]:
    """Votes {"task", "a", "b", "winner": "a" | "b" | "tie"} -> for each task and two systems {"task", "a", "b", "wins",
    "ties", "losses", "n", "rate": Rate of a}; which system is called a does not depend on the votes' order."""
    counts: dict[tuple[str, str, str], list[int]] = {}
    for vote in votes:
        a, b = vote["a"], vote["b"]
        first, second = sorted((a, b))
        row = counts.setdefault((vote["task"], first, second), [0, 0, 0])
        winner = {"a": a, "b": b}.get(vote["winner"])
        row[1 if winner is None else 0 if winner == first else 2] += 1
    rows = []
    for (task, first, second), (wins, ties, losses) in sorted(counts.items()):
        n = wins + ties + losses
        rate = wilson(wins + ties / 2, n)
        rows.append(
            {"task": task, "a": first, "b": second, "wins": wins, "ties": ties, "losses": losses, "n": n, "rate": rate}
        )
    return rows


def strengths(rows: Sequence[dict]) -> dict[str, list[Strength]]:
    """`tally`'s rows -> for each task every system's strength."""
    tasks = dict.fromkeys(row["task"] for row in rows)
    return {
        task: bradley_terry((r["a"], r["b"], r["wins"] + r["ties"] / 2, r["n"]) for r in rows if r["task"] == task)
        for task in tasks
    }
