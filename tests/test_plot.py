"""Figures: every function draws what it is given, on the axes it is given, with labels."""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import network
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex

import kdcourse as kd
from kdcourse import plot
from kdcourse.experiment import Comparison


def rows(arm, values, runs=3):
    """Rows as `compare` makes them, of made-up runs."""
    return [{
        "arm": arm, "seed": seed, "split": "val", "accuracy": values[seed], "ece": 0.05,
        "agreement": 0.6, "curve": [[epoch, 3.0 / epoch, values[seed] * epoch / 4]
                                    for epoch in (1, 2, 3, 4)],
        "reliability": [[0, None, None], [5, 0.3, 0.2], [30, 0.6, 0.5], [40, 0.9, 0.8]],
    } for seed in range(runs)]


CE, KD, WORSE = [0.60, 0.62, 0.61], [0.70, 0.73, 0.71], [0.50, 0.53, 0.51]


@pytest.fixture
def comparison():
    return Comparison(rows("CE", CE) + rows("KD", KD) + rows("worse", WORSE), "CE")


@pytest.fixture
def history(data):
    return kd.fit(kd.Supervised(network()), data,
                  kd.Recipe(epochs=5, batch=36, validate_every=2))


def draw(name, comparison, history, ax=None):
    """Call any of the functions that draw on one pair of axes."""
    grid = [[0.6, 0.7, 0.65], [0.5, 0.72, 0.7]]
    arguments = {
        "dots": (comparison,), "differences": (comparison,), "reliability": (comparison,),
        "curves": (comparison,), "history": (history,),
        "heatmap": (grid, [0.5, 0.9], [1, 4, 16], "temperature", "alpha", "accuracy"),
        "cka": (grid, ["layer1", "layer2"], ["conv1", "conv2", "fc"], "student", "teacher"),
    }[name]
    return getattr(plot, name)(*arguments, ax=ax)


NAMES = ["dots", "differences", "reliability", "curves", "history", "heatmap", "cka"]
every_function = pytest.mark.parametrize("name", NAMES)


def test_every_function_is_tried_here():
    public = {name for name, value in vars(plot).items()
              if inspect.isfunction(value) and not name.startswith("_")}
    assert public == {*NAMES, "probabilities", "diagram", "style"}


@every_function
def test_axes_come_back_with_labels(name, comparison, history):
    ax = draw(name, comparison, history)
    assert isinstance(ax, plt.Axes)
    assert ax.get_xlabel()
    assert ax.get_ylabel() or [tick.get_text() for tick in ax.get_yticklabels()]
    assert ax.has_data()
    ax.figure.canvas.draw()  # what is wrong with texts and ticks shows only here


@every_function
def test_the_axes_one_brings_are_used(name, comparison, history):
    ours = plt.subplots()[1]
    before = len(plt.get_fignums())
    assert draw(name, comparison, history, ax=ours) is ours
    assert len(plt.get_fignums()) == before


@every_function
def test_one_seed_is_enough_to_draw(name, history):
    single = Comparison(rows("CE", CE, 1) + rows("KD", KD, 1), "CE")
    draw(name, single, history).figure.canvas.draw()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_dots_draw_the_baseline_black_and_controls_grey(comparison):
    colors = [[to_hex(line.get_color()) for line in plot.dots(comparison, controls=controls).lines]
              for controls in ((), ["KD"])]
    for found, other in zip(colors, (plot.BLUE, plot.GREY)):
        assert found[:3] == [plot.INK] * 3  # seeds, interval, mean of the first arm
        assert found[3:6] == [other.lower()] * 3


def test_dots_show_every_seed_and_the_mean(comparison):
    ax = plot.dots(comparison, label="right answers")
    assert ax.get_xlabel() == "right answers"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["CE", "KD", "worse"]
    points = [line.get_xdata() for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, [CE, KD, WORSE])
    bars = [line.get_xdata() for line in ax.lines if line.get_marker() == "None"]
    np.testing.assert_allclose(bars, [comparison.interval(arm)[1:] for arm in comparison.arms])
    assert texts(ax) == ["61.0%", "71.3%", "51.3%"]
    assert ax.yaxis_inverted()  # the first arm stands on top
    plain = plot.dots(comparison, "ece", percent=False, arms=["KD"])
    assert texts(plain) == ["0.050"]


def test_differences_leave_the_baseline_out_and_grey_what_may_be_luck(comparison):
    unsure = Comparison([*comparison.rows, *rows("unsure", [0.60, 0.63, 0.58])], "CE")
    ax = plot.differences(unsure)
    assert texts(ax) == ["+10.3", "-9.7", "-0.7"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["KD", "worse", "unsure"]
    assert [text.get_color() for text in ax.texts] == [plot.BLUE, plot.RED, plot.GREY]
    assert "CE" in ax.get_xlabel()


def test_the_heat_map_writes_its_numbers_and_the_deviation():
    grid = np.array([[0.6, 0.7, 0.65], [0.5, 0.72, 0.7]])
    plain = plot.heatmap(grid, [0.5, 0.9], [1, 4, 16], "T", "alpha", "accuracy")
    assert texts(plain) == ["60.0", "70.0", "65.0", "50.0", "72.0", "70.0"]
    assert [tick.get_text() for tick in plain.get_xticklabels()] == ["1", "4", "16"]
    assert [tick.get_text() for tick in plain.get_yticklabels()] == ["0.5", "0.9"]
    marked = plot.heatmap(grid, [0.5, 0.9], [1, 4, 16], "T", "alpha", "accuracy", deviation=0.01)
    scale = marked.figure.axes[-1]
    (bar, *_) = [line for container in scale.containers for line in container[2]]
    low, high = bar.get_segments()[0][:, 1]
    assert high - low == pytest.approx(0.02)
    assert (low + high) / 2 == pytest.approx(0.61)  # the middle of the scale
    assert not plain.figure.axes[-1].containers


def test_numbers_in_the_heat_map_can_be_read():
    ax = plot.heatmap([[0.0, 1.0]], [1], [1, 2], "x", "y", "z")
    assert [to_hex(text.get_color()) for text in ax.texts] == ["#ffffff", "#000000"]


def test_alike_layers_are_a_grid_with_the_first_layer_at_the_bottom():
    table = torch.tensor([[1.0, 0.25, 0.5], [float("nan"), 0.75, -0.01]], dtype=torch.float64)
    ax = plot.cka(table, ["layer1", "layer2"], ["a", "b", "c"], "student", "teacher")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("student", "teacher")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["layer1", "layer2"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b", "c"]
    assert not ax.yaxis_inverted()
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {(0.5, 0.5): "1.00", (1.5, 0.5): "0.25", (2.5, 0.5): "0.50",
                       (0.5, 1.5): "–", (1.5, 1.5): "0.75", (2.5, 1.5): "-0.01"}
    (mesh,) = [found for found in ax.collections if isinstance(found, QuadMesh)]
    assert mesh.get_clim() == (0, 1)
    np.testing.assert_array_equal(np.ma.getmaskarray(mesh.get_array()), table.isnan())
    many = [f"layer{i}" for i in range(30)]
    full = plot.cka(np.eye(30), many, many, "x", "y")
    assert not full.texts  # no room for 900 numbers
    full.figure.canvas.draw()


def test_the_scale_of_alike_is_legible_in_greyscale():
    red, green, blue = plt.get_cmap("cividis")(np.linspace(0, 1, 50))[:, :3].T
    assert (np.diff(0.2126 * red + 0.7152 * green + 0.0722 * blue) > 0).all()


def test_measures_can_be_drawn_as_they_come(data):
    paths = ["1", "3", "5"]
    table = kd.measure.cka_matrix(network(0), paths, network(1), paths, data.test.x)
    plot.cka(table, paths, paths, "student", "teacher").figure.canvas.draw()


def test_reliability_takes_all_seeds_together_and_skips_thin_bins(comparison):
    ax = plot.reliability(comparison, ["CE"])
    line = next(line for line in ax.lines if line.get_label().startswith("CE"))
    np.testing.assert_allclose(line.get_xdata(), [0.6, 0.9])  # 15 answers in a bin are too few
    np.testing.assert_allclose(line.get_ydata(), [0.5, 0.8])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "calibrated", "CE (ECE 0.050)"]


def test_curves_show_the_mean_and_the_range(comparison):
    ax = plot.curves(comparison, ["KD"])
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [1, 2, 3, 4]
    assert line.get_ydata()[-1] == pytest.approx(np.mean(KD))
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.25 * min(KD), max(KD)))


def test_a_history_shows_only_epochs_that_were_validated(history):
    ax = plot.history(history)
    assert list(ax.lines[0].get_xdata()) == [1, 2, 3, 4, 5]
    right = ax.figure.axes[1]
    assert list(right.lines[0].get_xdata()) == [2, 4, 5]
    assert right.get_ylabel()
    assert len(ax.get_legend().get_texts()) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_answers_show_the_likeliest_classes_first(channels):
    p, q = np.array([0.1, 0.6, 0.3]), np.array([0.5, 0.2, 0.3])
    axes = plot.probabilities(np.zeros((channels, 8, 8)), {"T = 1": p, "T = 4": q}, "abc", top=2)
    assert len(axes) == 3
    for ax, values, title in zip(axes[1:], (p, q), ("T = 1", "T = 4"), strict=True):
        assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "c"]  # by the last row
        assert [bar.get_width() for bar in ax.patches] == values[[0, 2]].tolist()
        assert ax.get_title() == title
        assert ax.get_xlabel()
    ours = plt.subplots(1, 2)[1]
    assert plot.probabilities(np.zeros((1, 4, 4)), {"p": p}, "abc", axes=ours) is ours
    assert plot.probabilities(np.zeros((1, 4, 4)), {"p": np.array([1 - 5e-5, 5e-5])}, "ab",
                              colors=["#123456"])[1].texts[1].get_text() == "<0.01"


def test_a_diagram_shows_every_box_and_its_arrows_begin_and_end_at_boxes():
    boxes = {"image": (0, 1, plot.GREY, "an O"), "teacher": (1, 2, plot.ORANGE),
             "student": (1, 0, plot.BLUE)}
    arrows = [("image", "teacher"), ("image", "student", "x"), ("teacher", "student", "p", "--")]
    ax = plot.diagram(boxes, arrows)
    ax.figure.canvas.draw()
    texts = [text.get_text() for text in ax.texts]
    assert {"an O", "teacher", "student", "x", "p"} <= set(texts)
    drawn = [text.arrow_patch for text in ax.texts if getattr(text, "arrow_patch", None)]
    assert [patch.get_linestyle() for patch in drawn] == ["-", "-", "--"]
    frame = ax.get_window_extent()
    for text in ax.texts:
        if text.get_bbox_patch() and text.get_text() in ("an O", "teacher", "student"):
            box = text.get_bbox_patch().get_window_extent()
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1, "cut at the side"
            assert frame.y0 <= box.y0 and box.y1 <= frame.y1, "cut above or below"
    with pytest.raises(KeyError):
        plot.diagram(boxes, [("image", "nowhere")])


def test_more_arms_than_colours():
    many = Comparison([row for i in range(9) for row in rows(f"arm {i}", CE)], "arm 0")
    for function in (plot.dots, plot.differences, plot.reliability, plot.curves):
        function(many).figure.canvas.draw()


def test_colours_can_be_told_apart():
    assert len({to_hex(color) for color in plot.CYCLE}) == len(plot.CYCLE)
    assert len(set(plot.MARKERS)) == len(plot.MARKERS) >= len(plot.CYCLE)


def test_style_is_taken_on_demand_only():
    with plt.rc_context():
        before = plt.rcParams["axes.titleweight"]
        assert before != "bold"
        plot.style()
        assert plt.rcParams["axes.titleweight"] == "bold"
