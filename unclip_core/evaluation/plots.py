"""The report's plots: small, plain, readable in print; violet for embeddings and priors, coral for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INK, GREY, CORAL, VIOLET = "#1b1822", "#8b8490", "#e8502d", "#5c40e8"
COLOURS = (CORAL, VIOLET, "#2f9e78", "#d99a1c", "#3a78dc", "#8b8490")
OF_KIND = {"caption": GREY, "text": "#d99a1c", "ar": VIOLET, "diffusion": CORAL}
plt.rcParams.update({
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY,
    "axes.labelcolor": INK, "xtick.color": GREY, "ytick.color": GREY, "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "legend.frameon": False, "figure.dpi": 110, "savefig.bbox": "tight",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e9e5df", "grid.linewidth": 0.8,
})  # fmt: skip

Points = Sequence[Sequence[float]]  # (value, low, high, ...) each


def whiskers(estimates: Points) -> list[list[float]]:
    """Distances down and up from the values, as matplotlib wants error bars."""
    return [[max(0.0, e[0] - e[1]) for e in estimates], [max(0.0, e[2] - e[0]) for e in estimates]]


def line(axes, x: Sequence[float], estimates: Points, label: str | None = None, colour: str = CORAL, **style) -> None:
    values = [e[0] for e in estimates]
    axes.plot(x, values, "o-", color=colour, label=label, markersize=4, linewidth=1.6, **style)
    axes.fill_between(x, [e[1] for e in estimates], [e[2] for e in estimates], color=colour, alpha=0.13, linewidth=0)


def bars(
    axes,
    names: Sequence[str],
    estimates: Points,
    colours: Sequence[str] | str = CORAL,
    floor: float | None = None,
    note: str = "real pictures",
) -> None:
    """Horizontal bars from the top down, with intervals, and a dashed line where real pictures stand."""
    places = range(len(names))
    axes.barh(
        places,
        [e[0] for e in estimates],
        xerr=whiskers(estimates),
        color=colours,
        height=0.62,
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
    )
    axes.set_yticks(list(places), names, color=INK)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    if floor is not None:
        axes.axvline(floor, color=INK, linestyle="--", linewidth=1)
        axes.text(
            floor,
            -0.62,
            f" {note}",
            color=INK,
            fontsize=8,
            va="bottom",
            ha="right" if floor > axes.get_xlim()[1] * 0.75 else "left",
        )


def trade(axes, points: Sequence[dict], x: str, y: str, colour: str, label: str) -> None:
    """A curve through (x, y) of each setting, in order, with the setting written beside."""
    xs, ys = [p[x][0] for p in points], [p[y][0] for p in points]
    axes.errorbar(
        xs,
        ys,
        xerr=whiskers([p[x] for p in points]),
        yerr=whiskers([p[y] for p in points]),
        color=colour,
        fmt="o-",
        markersize=4,
        linewidth=1.4,
        elinewidth=0.6,
        label=label,
    )
    for point, at_x, at_y in zip(points, xs, ys):
        axes.annotate(
            f"{point['guidance']:g}", (at_x, at_y), textcoords="offset points", xytext=(5, 4), fontsize=8, color=colour
        )


def plain_log(axes) -> None:
    """A logarithmic x axis whose ticks are plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def figure(columns: int = 1, height: float = 3.2, width: float = 8.4):
    """(figure, list of axes)."""
    made, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False)
    return made, list(axes[0])


def save(made, path: Path) -> str:
    made.tight_layout()
    made.savefig(path)
    plt.close(made)
    return path.name
