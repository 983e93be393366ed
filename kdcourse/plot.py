"""Figures: one message each, `f(what, ax=None) -> ax`, readable on a phone and in dark mode.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart, and never the only
difference. Tensors may be on any device.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#6B6B6B")
INK = "#222222"  # text beside a coloured mark: yellow and pink letters are hard to read
CYCLE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY)
MARKERS = "osD^vP"

STYLE = {
    "figure.figsize": (6.0, 3.6), "figure.dpi": 150, "savefig.dpi": 150,
    "figure.facecolor": "white", "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 12, "axes.titlesize": 12.5, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E4E4E4",
    "legend.frameon": False, "lines.linewidth": 2.2, "lines.markersize": 7,
    "axes.prop_cycle": plt.cycler(color=CYCLE),
}


def style() -> None:
    """Use the style of the course for every figure from here on."""
    plt.rcParams.update(STYLE)


def answers(image, rows: dict[str, np.ndarray], classes, top: int = 6, axes=None):
    """Draw an image and, beside it, probabilities as bars, for each named row.

    image: [C, H, W] in [0, 1]. rows: by name, probabilities [K]. The `top` classes of the last row
    are shown, largest first.
    """
    if axes is None:
        _, axes = plt.subplots(1, 1 + len(rows), figsize=(1.9 * (1 + len(rows)), 2.3),
                               width_ratios=[1] + [1.3] * len(rows))
    axes[0].imshow(_array(image).transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axes[0].set_axis_off()
    rows = {name: _array(p) for name, p in rows.items()}
    shown = np.argsort(-list(rows.values())[-1], kind="stable")[:top]
    for i, (name, p) in enumerate(rows.items()):
        ax = axes[1 + i]
        bars = ax.barh(range(len(shown)), p[shown], color=CYCLE[i % len(CYCLE)])
        ax.bar_label(bars, [f"{100 * value:.3g}" for value in p[shown]], padding=2, fontsize=10)
        ax.set_yticks(range(len(shown)), [classes[k] for k in shown])
        ax.invert_yaxis()
        ax.set(xlim=(0, 1.35), xticks=[0, 0.5, 1], title=name, xlabel="probability, %")
        ax.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        ax.grid(visible=False)
    return axes


def dots(comparison, quantity: str = "accuracy", label: str | None = None, percent: bool = True,
         arms=None, ax=None):
    """Draw for each arm a dot per seed, the mean, and its 95 % confidence interval."""
    arms = list(arms or comparison.arms)
    ax = ax or plt.subplots(figsize=(6.0, 0.9 + 0.62 * len(arms)))[1]
    for i, arm in enumerate(arms):
        color, values = _color(comparison, arm), comparison.values(arm, quantity)
        mean, low, high = comparison.interval(arm, quantity)
        ax.plot(values, [i] * len(values), "o", color=color, alpha=0.45, ms=6, mew=0)
        if not math.isnan(low):
            ax.plot([low, high], [i + 0.2] * 2, color=color, lw=3, solid_capstyle="butt")
        ax.plot(mean, i + 0.2, "D", color=color, ms=7)
        _label(ax, f"{mean:.1%}" if percent else f"{mean:.3f}", mean, i + 0.2, -14, INK)
    ax.set_yticks(range(len(arms)), arms)
    ax.set(ylim=(len(arms) - 0.2, -0.5),
           xlabel=label or f"{quantity} on the {comparison.split} split")
    ax.grid(visible=False, axis="y")
    if percent:
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        ax.locator_params(axis="x", nbins=6)
    return ax


def differences(comparison, arms=None, quantity: str = "accuracy", ax=None):
    """Draw each arm's paired difference with the baseline, in points, and its 95 % interval."""
    arms = [arm for arm in (arms or comparison.arms) if arm != comparison.baseline]
    ax = ax or plt.subplots(figsize=(6.0, 0.9 + 0.5 * len(arms)))[1]
    ax.axvline(0, color=GREY, lw=1.2)
    for i, arm in enumerate(arms):
        mean, low, high = (100 * value for value in comparison.difference(arm, quantity=quantity))
        color = GREY if low <= 0 <= high else BLUE if mean > 0 else RED
        ax.errorbar(mean, i, xerr=[[mean - low], [high - mean]], fmt="D", color=color, capsize=4,
                    lw=2.5)
        _label(ax, f"{mean:+.1f}", mean, i, 8, color)
    ax.set_yticks(range(len(arms)), arms)
    ax.set(ylim=(len(arms) - 0.4, -0.7),
           xlabel=f"{quantity} minus {comparison.baseline}, points (95 % interval, paired)")
    ax.grid(visible=False, axis="y")
    return ax


def heatmap(table, rows, columns, xlabel: str, ylabel: str, label: str, deviation=None, ax=None):
    """Draw means in a grid, [rows, columns], each written in its cell.

    deviation: a typical standard deviation between seeds, drawn as a bar on the colour scale.
    """
    ax = ax or plt.subplots(figsize=(6.0, 0.9 + 0.55 * len(rows)))[1]
    table = _array(table)
    drawn = ax.imshow(table, cmap="cividis", aspect="auto")
    bar = ax.figure.colorbar(drawn, ax=ax, label=label, format=PercentFormatter(1, decimals=0))
    middle = (table.min() + table.max()) / 2
    _write(ax, table, lambda value: f"{100 * value:.1f}", middle)
    if deviation:
        for color, width in (("black", 3.5), ("white", 1.8)):  # seen on dark and on light
            bar.ax.errorbar(0.5, middle, yerr=deviation, color=color, capsize=4, lw=width,
                            capthick=width, zorder=10)
    ax.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    ax.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(visible=False)
    return ax


def cka(table, rows, columns, xlabel: str, ylabel: str, ax=None):
    """Draw how alike the layers of two networks are: `measure.cka_matrix` [rows, columns].

    rows, columns: the names of the layers, from the input on; the first row is at the bottom. A
    cell without a value is hatched.
    """
    table = _array(table)
    ax = ax or plt.subplots(figsize=(6.0, min(6.0, max(2.8, 1.3 + 0.42 * len(rows)))))[1]
    ax.set_facecolor("white")
    drawn = ax.pcolormesh(np.ma.masked_invalid(table), cmap="cividis", vmin=0, vmax=1)
    ax.add_patch(plt.Rectangle((0, 0), len(columns), len(rows), hatch="///", fill=False, lw=0,
                               edgecolor="#BBBBBB", zorder=0))
    ax.figure.colorbar(drawn, ax=ax, label="CKA (1: the same)")
    if max(table.shape) <= 12:  # else there is no room
        _write(ax, table, lambda value: "–" if math.isnan(value) else f"{value:.2f}", 0.5, 0.5)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=45, ha="right",
                  rotation_mode="anchor")
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(visible=False)
    return ax


def reliability(comparison, arms=None, ax=None):
    """Draw accuracy against confidence, all seeds of an arm together."""
    ax = ax or plt.subplots(figsize=(6.0, 4.2))[1]
    ax.plot([0, 1], [0, 1], color=GREY, lw=1.2, ls="--", label="calibrated")
    for i, arm in enumerate(arms or comparison.arms):
        bins = np.array(comparison.values(arm, "reliability"), dtype=float)  # [runs, bins, 3]
        counts, sure, right = np.nan_to_num(bins).transpose(2, 0, 1)
        total = counts.sum(0)
        kept = total >= 20  # a mean over fewer answers is noise
        x, y = ((counts * each).sum(0)[kept] / total[kept] for each in (sure, right))
        ax.plot(x, y, marker=MARKERS[i % len(MARKERS)], color=_color(comparison, arm),
                label=f"{arm} (ECE {comparison.mean(arm, 'ece'):.3f})")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="how sure the student was",
           ylabel="how often it was right")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(loc="lower right", fontsize=10.5)
    return ax


def curves(comparison, arms=None, ax=None):
    """Draw validation accuracy by epoch: the mean of the seeds, a band from worst to best."""
    ax = ax or plt.subplots(figsize=(6.0, 3.6))[1]
    for i, arm in enumerate(arms or comparison.arms):
        runs = comparison.values(arm, "curve")  # per run: [epoch, loss, validation accuracy]
        epochs = [point[0] for point in runs[0]]
        table = np.array([[point[2] for point in run] for run in runs])
        color, marker = _color(comparison, arm), MARKERS[i % len(MARKERS)]
        ax.plot(epochs, table.mean(0), marker=marker, ms=5, color=color, label=arm)
        ax.fill_between(epochs, table.min(0), table.max(0), color=color, alpha=0.18, lw=0)
    ax.set(xlabel="epoch", ylabel="validation accuracy")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(fontsize=10.5)
    return ax


def history(record, ax=None):
    """Draw the training loss and the validation accuracy of one run by epoch."""
    ax = ax or plt.subplots(figsize=(6.0, 3.6))[1]
    ax.plot(record["epoch"], record["loss"], color=GREY, label="training loss (left)")
    ax.set(xlabel="epoch", ylabel="training loss")
    right = ax.twinx()
    seen = [(row["epoch"], row["val_accuracy"]) for row in record.rows
            if row["val_accuracy"] is not None]
    right.plot(*zip(*seen, strict=True), marker="o", color=BLUE,
               label="validation accuracy (right)")
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.set_ylabel("validation accuracy")
    right.grid(visible=False)
    right.spines["right"].set_visible(True)
    lines = ax.get_lines() + right.get_lines()
    ax.legend(lines, [line.get_label() for line in lines], loc="upper center",
              bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=10.5)  # the lines cross anywhere
    return ax


def _label(ax, text: str, x: float, y: float, shift: int, color: str) -> None:
    ax.annotate(text, (x, y), (0, shift), textcoords="offset points", ha="center", fontsize=10.5,
                color=color, weight="bold")


def _color(comparison, arm) -> str:
    return CYCLE[comparison.arms.index(arm) % len(CYCLE)]


def _array(values) -> np.ndarray:
    if isinstance(values, (list, tuple)):
        return np.array([_array(value) for value in values])
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _write(ax, table, form, middle: float, shift: float = 0) -> None:
    for i, j in np.ndindex(table.shape):
        ax.text(j + shift, i + shift, form(table[i, j]), ha="center", va="center",
                color="white" if table[i, j] < middle else "black")
