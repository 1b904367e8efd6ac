"""The figure of training: what is read from metrics.csv, and what is drawn of it."""

from pathlib import Path

import pytest

from tmkd_lightning.figures import History, NothingToPlotError, plot_curves, read_history

LOGGED = """epoch,fusion/edge,fusion/rgb,step,train/loss,val/loss,val/top1
0,0.5,0.5,3,2.0,,
0,0.25,0.75,7,1.5,,
0,,,7,,2.5,0.125
1,0.125,0.875,11,1.0,,
1,,,11,,2.0,0.5
3,,,19,,1.0,0.75
"""


@pytest.fixture
def metrics(tmp_path) -> Path:
    (tmp_path / "metrics.csv").write_text(LOGGED)
    return tmp_path / "metrics.csv"


def test_rows_of_an_epoch_are_averaged_and_empty_cells_skipped(metrics) -> None:
    history = read_history(metrics)
    assert history.weights == {"edge": {0: 0.375, 1: 0.125}, "rgb": {0: 0.625, 1: 0.875}}
    assert history.accuracy == {0: 0.125, 1: 0.5, 3: 0.75}
    assert read_history(metrics.parent) == history
    metrics.write_text("epoch,fusion/rgb,val/top1\n0,0.5,0.25\n1,0.75")  # still being written: what is whole counts
    assert read_history(metrics) == History({"rgb": {0: 0.5, 1: 0.75}}, {0: 0.25})


def test_a_resumed_run_and_a_test_of_it(tmp_path) -> None:
    """The later version counts from its first step on; what `tmkd test` logged does not."""
    versions = {
        9: "epoch,step,val/top1,train/loss\n0,3,0.25,2.0\n1,7,0.5,1.0\n2,9,,0.5\n",
        10: "epoch,step,val/top1,train/loss\n1,7,0.625,1.0\n2,11,0.75,1.0\n",
        11: "epoch,step,test/top1,val/top1\n0,0,0.5,0.5\n",
    }
    for version, text in versions.items():
        (tmp_path / f"version_{version}").mkdir()
        (tmp_path / f"version_{version}/metrics.csv").write_text(text)
    assert read_history(tmp_path).accuracy == {0: 0.25, 1: 0.625, 2: 0.75}


def test_the_figure_shows_the_data(metrics) -> None:
    runs = {"ours": read_history(metrics), "kd": History(accuracy={0: 0.25, 1: 0.375})}
    figure = plot_curves(runs, "From run a.")
    weights, accuracy = figure.axes
    assert [(line.get_label(), line.get_xydata().tolist()) for line in weights.lines] == [
        ("edge", [[1, 0.375], [2, 0.125]]),
        ("rgb", [[1, 0.625], [2, 0.875]]),
    ]
    assert [(line.get_label(), line.get_xydata().tolist()) for line in accuracy.lines] == [
        ("ours", [[1, 12.5], [2, 50], [4, 75]]),
        ("kd", [[1, 25], [2, 37.5]]),
    ]
    assert (weights.get_ylabel(), accuracy.get_ylabel()) == ("mean fusion weight", "top-1, %")
    for axis in figure.axes:
        styles = [(line.get_color(), line.get_linestyle()) for line in axis.lines]
        assert len(set(styles)) == len({style for _, style in styles}) == 2  # told apart without colours too


def test_weights_are_sorted_so_that_a_colour_means_the_same_everywhere() -> None:
    (axis,) = plot_curves({"a": History(weights={"rgb": {0: 0.5}, "edge": {0: 0.5}})}).axes
    assert [line.get_label() for line in axis.lines] == ["edge", "rgb"]
    assert {line.get_marker() for line in axis.lines} == {"."}  # a line of one point would be invisible


@pytest.mark.parametrize(("weights", "accuracy"), [({}, {0: 0.5}), ({"rgb": {0: 1.0}}, {})])
def test_what_was_not_logged_has_no_panel(weights, accuracy) -> None:
    figure = plot_curves({"a": History(weights, accuracy)})
    assert len(figure.axes) == 1
    caption = figure.get_supxlabel()
    assert ("Top-1" in caption, "weight" in caption) == (bool(accuracy), bool(weights))
    with pytest.raises(NothingToPlotError, match=r"b logged neither val/top1 nor fusion/<view>"):
        plot_curves({"b": History(), "a": History(accuracy={0: 0.5})})


FOREIGN, DAMAGED = "not a metrics.csv of Lightning's CSVLogger", "cannot be read as metrics"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", FOREIGN),
        ("epoch,val/top1\n", FOREIGN),
        ("name,value\nx,1\n", FOREIGN),
        ("\x89PNG\r\n\x1a\n\x00", FOREIGN),
        ("epoch,val/top1\n0,0.5\n1,0.\x00zz\n", DAMAGED),
        ("epoch,val/top1\n,0.5\n", DAMAGED),
    ],
)
def test_foreign_and_damaged_files(metrics, content, message) -> None:
    metrics.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        read_history(metrics)
    assert str(metrics) in str(caught.value)
