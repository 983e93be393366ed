"""Figures: one message each, `f(what, ax=None) -> ax`, readable on a phone and in dark mode.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; no figure relies on
colour alone. Tensors may be on any device.
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
    """An image and, beside it, what one network answers: a bar per class, for each named row.

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
    """A dot per seed, the mean, and its 95 % confidence interval, for each arm of a comparison."""
    ax = ax or _axes(height=0.9 + 0.62 * len(arms or comparison.arms))
    arms = list(arms or comparison.arms)
    for i, arm in enumerate(arms):
        color, values = _color(comparison, arm), comparison.values(arm, quantity)
        mean, low, high = comparison.interval(arm, quantity)
        ax.plot(values, [i] * len(values), "o", color=color, alpha=0.45, ms=6, mew=0)
        if not math.isnan(low):
            ax.plot([low, high], [i + 0.2] * 2, color=color, lw=3, solid_capstyle="butt")
        ax.plot(mean, i + 0.2, "D", color=color, ms=7)
        text = f"{mean:.1%}" if percent else f"{mean:.3f}"
        ax.annotate(text, (mean, i + 0.2), (0, -14), textcoords="offset points", ha="center",
                    fontsize=10.5, color=INK, weight="bold")
    ax.set_yticks(range(len(arms)), arms)
    ax.set_ylim(len(arms) - 0.2, -0.5)
    ax.set_xlabel(label or f"{quantity} on the {comparison.split} split")
    ax.grid(visible=False, axis="y")
    if percent:
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        ax.locator_params(axis="x", nbins=6)
    return ax


def differences(comparison, arms=None, quantity: str = "accuracy", ax=None):
    """The paired difference of each arm with the baseline, in points, with its 95 % interval."""
    arms = [arm for arm in (arms or comparison.arms) if arm != comparison.baseline]
    ax = ax or _axes(height=0.9 + 0.5 * len(arms))
    ax.axvline(0, color=GREY, lw=1.2)
    for i, arm in enumerate(arms):
        mean, low, high = (100 * value for value in comparison.difference(arm, quantity=quantity))
        color = GREY if low <= 0 <= high else BLUE if mean > 0 else RED
        ax.errorbar(mean, i, xerr=[[mean - low], [high - mean]], fmt="D", color=color, capsize=4,
                    lw=2.5)
        ax.annotate(f"{mean:+.1f}", (mean, i), (0, 8), textcoords="offset points", ha="center",
                    fontsize=10.5, weight="bold", color=color)
    ax.set_yticks(range(len(arms)), arms)
    ax.set_ylim(len(arms) - 0.4, -0.7)
    ax.set_xlabel(f"{quantity} minus {comparison.baseline}, points (95 % interval, paired)")
    ax.grid(visible=False, axis="y")
    return ax


def heatmap(table, rows, columns, xlabel: str, ylabel: str, label: str, deviation=None, ax=None):
    """Means in a grid, [rows, columns], each written in its cell.

    deviation: a typical standard deviation between seeds; it is drawn as a bar on the colour scale,
    so that one sees which differences are larger than luck.
    """
    ax = ax or _axes(height=0.9 + 0.55 * len(rows))
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
    """How alike the layers of two networks are: `measure.cka_matrix` [rows, columns], in a grid.

    rows, columns: the names of the layers, from the input on; the first row is at the bottom, so
    that layers of the same depth lie on the diagonal from there. A cell without a value is hatched.
    """
    table = _array(table)
    ax = ax or _axes(height=min(6.0, max(2.8, 1.3 + 0.42 * len(rows))))
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
    """How often the students are right by how sure they are, all seeds of an arm together."""
    ax = ax or _axes(height=4.2)
    ax.plot([0, 1], [0, 1], color=GREY, lw=1.2, ls="--", label="calibrated")
    for i, arm in enumerate(arms or comparison.arms):
        bins = np.array(comparison.values(arm, "reliability"), dtype=object)  # [runs, bins, 3]
        counts = bins[:, :, 0].astype(float)
        sure = np.where(counts > 0, bins[:, :, 1], 0).astype(float)
        right = np.where(counts > 0, bins[:, :, 2], 0).astype(float)
        total = counts.sum(0)
        kept = total >= 20  # a mean over fewer answers is noise
        x = (counts * sure).sum(0)[kept] / total[kept]
        y = (counts * right).sum(0)[kept] / total[kept]
        ax.plot(x, y, marker=MARKERS[i % len(MARKERS)], color=_color(comparison, arm),
                label=f"{arm} (ECE {comparison.mean(arm, 'ece'):.3f})")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="how sure the student was",
           ylabel="how often it was right")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(loc="lower right", fontsize=10.5)
    return ax


def curves(comparison, arms=None, ax=None):
    """Validation accuracy by epoch: the mean over the seeds, and a band from worst to best seed."""
    ax = ax or _axes()
    for i, arm in enumerate(arms or comparison.arms):
        runs = comparison.values(arm, "curve")  # per run: [epoch, loss, validation accuracy]
        epochs = [point[0] for point in runs[0]]
        table = np.array([[point[2] for point in run] for run in runs])
        color = _color(comparison, arm)
        ax.plot(epochs, table.mean(0), marker=MARKERS[i % len(MARKERS)], ms=5, color=color,
                label=arm)
        ax.fill_between(epochs, table.min(0), table.max(0), color=color, alpha=0.18, lw=0)
    ax.set(xlabel="epoch", ylabel="validation accuracy")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(fontsize=10.5)
    return ax


def history(record, ax=None):
    """One run: training loss and validation accuracy by epoch."""
    ax = ax or _axes()
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


def _color(comparison, arm) -> str:
    """An arm has one colour in all figures of a comparison."""
    return CYCLE[comparison.arms.index(arm) % len(CYCLE)]


def _array(values) -> np.ndarray:
    """An array of a tensor on any device, of an array, or of lists of them."""
    if isinstance(values, (list, tuple)):
        return np.array([_array(value) for value in values])
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _write(ax, table, form, middle: float, shift: float = 0) -> None:
    """A number into each cell, white on what is darker than `middle`."""
    for i, j in np.ndindex(table.shape):
        ax.text(j + shift, i + shift, form(table[i, j]), ha="center", va="center",
                color="white" if table[i, j] < middle else "black")


def _axes(height: float = 3.6):
    return plt.subplots(figsize=(6.0, height))[1]
