"""Figures: one message each, `f(data, ax=None) -> ax`, readable on a phone and in dark mode.

Colours are those of Okabe and Ito, which colour-blind readers can distinguish, and are never the
only difference. Tensors may be on any device.
"""

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#6B6B6B")
INK = "#222222"  # of text beside a coloured mark: yellow and pink letters are hard to read
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
_PERCENT = "{x:.0%}"  # the format of tick labels


def style() -> None:
    """Set the style of the course for all later figures."""
    plt.rcParams.update(STYLE)


def probabilities(image, rows: dict[str, np.ndarray], classes, top: int = 6, axes=None,
                  colors=CYCLE):
    """Draw an image [C, H, W] in [0, 1] and, beside it, for each named row of probabilities [K] the
    `top` classes of the last row, largest first, as bars; `colors` has one for each row, in turn.
    """
    if axes is None:
        axes = plt.subplots(1, 1 + len(rows), figsize=(1.9 * (1 + len(rows)), 2.3),
                            width_ratios=[1] + [1.3] * len(rows))[1]
    axes[0].imshow(_array(image).transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axes[0].set_axis_off()
    table = _array(list(rows.values()))
    order = np.argsort(-table[-1], kind="stable")[:top]
    for ax, name, p, color in zip(axes[1:], rows, table[:, order], itertools.cycle(colors)):
        bars = ax.barh(range(len(p)), p, color=color)
        ax.bar_label(bars, [f"{100 * value:.3g}" if value >= 1e-4 else "<0.01" for value in p],
                     padding=2, fontsize=10)
        ax.set_yticks(range(len(p)), [classes[k] for k in order])
        ax.set_xticks([0, 0.5, 1], ["0", "50", "100"])
        ax.set(xlim=(0, 1.35), title=name, xlabel="probability, %")
        ax.spines["bottom"].set_bounds(0, 1)  # beyond it are numbers only
        ax.invert_yaxis()
        ax.grid(visible=False)
    return axes


def dots(comparison, quantity: str = "accuracy", label: str | None = None, percent: bool = True,
         arms=None, controls=(), ax=None):
    """Draw for each arm a dot per seed, the mean, and its 95 % confidence interval.

    The baseline is black, and grey are the arms that are named as `controls`.
    """
    arms = list(arms or comparison.arms)
    ax = ax or plt.subplots(figsize=(6.0, 0.9 + 0.62 * len(arms)))[1]
    for i, arm in enumerate(arms):
        color = GREY if arm in controls else _color(comparison, arm)
        values = comparison.values(arm, quantity)
        mean, low, high = comparison.interval(arm, quantity)
        ax.plot(values, [i] * len(values), "o", color=color, alpha=0.45, ms=6, mew=0)
        ax.plot([low, high], [i + 0.2] * 2, color=color, lw=3, solid_capstyle="butt")
        ax.plot(mean, i + 0.2, "D", color=color, ms=7)
        _annotate(ax, f"{mean:.1%}" if percent else f"{mean:.3f}", mean, i + 0.2, -14, INK)
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
        _annotate(ax, f"{mean:+.1f}", mean, i, 8, color)
    ax.set_yticks(range(len(arms)), arms)
    ax.set(ylim=(len(arms) - 0.4, -0.7),
           xlabel=f"{quantity} minus {comparison.baseline}, points (95 % interval, paired)")
    ax.grid(visible=False, axis="y")
    return ax


def heatmap(table, rows, columns, xlabel: str, ylabel: str, label: str, deviation=None, ax=None):
    """Draw means [rows, columns] as a grid with their numbers, and as a bar on the colour scale
    `deviation`, a typical standard deviation between seeds.
    """
    ax = ax or plt.subplots(figsize=(6.0, 0.9 + 0.55 * len(rows)))[1]
    table = _array(table)
    middle = (table.min() + table.max()) / 2
    scale = ax.figure.colorbar(ax.imshow(table, cmap="cividis", aspect="auto"), ax=ax, label=label,
                               format=_PERCENT)
    _write(ax, table, lambda value: f"{100 * value:.1f}", middle)
    if deviation:
        for color, width in (("black", 3.5), ("white", 1.8)):  # visible on dark and on light
            scale.ax.errorbar(0.5, middle, yerr=deviation, color=color, capsize=4, lw=width,
                              capthick=width, zorder=10)
    ax.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    ax.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(visible=False)
    return ax


def cka(table, rows, columns, xlabel: str, ylabel: str, ax=None):
    """Draw `measure.cka_matrix` [rows, columns], the first row at the bottom, NaN hatched.

    rows, columns: the names of the layers, from the input on.
    """
    table = _array(table)
    ax = ax or plt.subplots(figsize=(6.0, min(6.0, max(2.8, 1.3 + 0.42 * len(rows)))))[1]
    ax.set_facecolor("white")
    ax.add_patch(plt.Rectangle((0, 0), len(columns), len(rows), hatch="///", fill=False, lw=0,
                               edgecolor="#BBBBBB", zorder=0))
    mesh = ax.pcolormesh(np.ma.masked_invalid(table), cmap="cividis", vmin=0, vmax=1)
    ax.figure.colorbar(mesh, ax=ax, label="CKA (1: the same)")
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
    for arm, marker in zip(arms or comparison.arms, itertools.cycle(MARKERS)):
        bins = np.array(comparison.values(arm, "reliability"), dtype=float)  # [runs, bins, 3]
        bins = bins[:, bins[:, :, 0].sum(0) >= 20]  # a mean over fewer answers is noise
        counts, confidence, accuracy = np.nan_to_num(bins).transpose(2, 0, 1)
        x, y = (np.average(means, 0, counts) for means in (confidence, accuracy))
        ax.plot(x, y, marker=marker, color=_color(comparison, arm),
                label=f"{arm} (ECE {comparison.mean(arm, 'ece'):.3f})")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="how sure the student was",
           ylabel="how often it was right")
    ax.xaxis.set_major_formatter(_PERCENT)
    ax.yaxis.set_major_formatter(_PERCENT)
    ax.legend(loc="lower right", fontsize=10.5)
    return ax


def curves(comparison, arms=None, ax=None):
    """Draw validation accuracy by epoch: the mean of the seeds, a band from worst to best."""
    ax = ax or plt.subplots(figsize=(6.0, 3.6))[1]
    for arm, marker in zip(arms or comparison.arms, itertools.cycle(MARKERS)):
        runs = np.array(comparison.values(arm, "curve"))  # [runs, epochs, (epoch, loss, accuracy)]
        epochs, accuracy, color = runs[0, :, 0], runs[:, :, 2], _color(comparison, arm)
        ax.plot(epochs, accuracy.mean(0), marker=marker, ms=5, color=color, label=arm)
        ax.fill_between(epochs, accuracy.min(0), accuracy.max(0), color=color, alpha=0.18, lw=0)
    ax.set(xlabel="epoch", ylabel="validation accuracy")
    ax.yaxis.set_major_formatter(_PERCENT)
    ax.legend(fontsize=10.5)
    return ax


def history(record, ax=None):
    """Draw the training loss and the validation accuracy of one run by epoch."""
    ax = ax or plt.subplots(figsize=(6.0, 3.6))[1]
    ax.plot(record["epoch"], record["loss"], color=GREY, label="training loss (left)")
    ax.set(xlabel="epoch", ylabel="training loss")
    right = ax.twinx()
    right.plot(*zip(*record.validated.items()), marker="o", color=BLUE,
               label="validation accuracy (right)")
    right.set_ylabel("validation accuracy")
    right.yaxis.set_major_formatter(_PERCENT)
    right.grid(visible=False)
    right.spines["right"].set_visible(True)
    ax.legend(handles=[*ax.get_lines(), *right.get_lines()], loc="upper center",
              bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=10.5)  # the lines cross anywhere
    return ax


def diagram(boxes: dict[str, tuple], arrows, ax=None):
    """Draw boxes and arrows: networks, data and losses, and what flows between them.

    boxes: by name, (x, y, colour) or (x, y, colour, text) with the place of the middle; the text is
        the name where none is given. Units are arbitrary: the axes hold all boxes.
    arrows: (from, to) or (from, to, text) or (from, to, text, style) with names of boxes; the style
        is "-" or "--", such as for what is not trained.
    """
    ax = ax or plt.subplots(figsize=(6.4, 3.2))[1]
    drawn = {}
    for name, (x, y, color, *text) in boxes.items():
        drawn[name] = ax.text(
            x, y, *(text or [name]), ha="center", va="center", color=INK, fontsize=11, zorder=2,
            bbox={"boxstyle": "round,pad=0.5", "fc": "white", "ec": color, "lw": 2.2})
    for start, end, *rest in arrows:  # above the boxes, whose place is known once they are drawn
        text, line = rest[0] if rest else "", rest[1] if len(rest) > 1 else "-"
        ax.annotate("", boxes[end][:2], boxes[start][:2], zorder=3, arrowprops={
            "arrowstyle": "-|>", "lw": 1.8, "color": GREY, "ls": line, "shrinkA": 0, "shrinkB": 0,
            "patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch()})
        middle = np.mean([boxes[start][:2], boxes[end][:2]], 0)
        ax.text(*middle, text, ha="center", va="center", fontsize=10, color=INK, zorder=4,
                bbox={"fc": "white", "ec": "none", "pad": 1.5})
    places = np.array([box[:2] for box in boxes.values()], dtype=float)
    low, high = places.min(0), places.max(0)
    margin = 0.14 * np.maximum(high - low, 1e-9)
    ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
    ax.set_ylim(low[1] - 1.6 * margin[1], high[1] + 1.6 * margin[1])
    ax.set_axis_off()
    return ax


def _annotate(ax, text: str, x: float, y: float, shift: int, color: str) -> None:
    ax.annotate(text, (x, y), (0, shift), textcoords="offset points", ha="center", fontsize=10.5,
                color=color, weight="bold")


def _color(comparison, arm) -> str:
    others = [name for name in comparison.arms if name != comparison.baseline]
    return INK if arm == comparison.baseline else CYCLE[others.index(arm) % len(CYCLE)]


def _array(values) -> np.ndarray:
    if isinstance(values, (list, tuple)):
        return np.array([_array(value) for value in values])
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _write(ax, table, text, middle: float, shift: float = 0) -> None:
    for i, j in np.ndindex(table.shape):
        ax.text(j + shift, i + shift, text(table[i, j]), ha="center", va="center",
                color="white" if table[i, j] < middle else "black")
