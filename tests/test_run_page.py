"""The page of a training run: curves lie where their values are, whatever a run has left behind is shown or named as absent."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from page_cases import PageReader, check_self_contained, write_run

from stereo.cli import main
from stereo.image_io import write_image
from stereo.report.chart import BOTTOM, LEFT, POINTS, RIGHT, TOP, Field, Line, chart, log_ticks, nice_ticks, short, thinned
from stereo.report.run_log import Curve, read_run
from stereo.report.run_page import PANELS, grouped, run_html
from stereo.types import InputError


def points(read: PageReader) -> list[np.ndarray]:
    return [np.array([p.split(",") for p in line["points"].split()], float) for line in read.all("polyline")]


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def test_a_run_is_read_as_it_was_written(tmp_path):
    run = read_run(write_run(tmp_path / "first run"))
    assert run.notes == ()
    total = run.curves["train", "loss/total"]
    assert total.steps == (0, 10, 20, 30, 40)
    assert total.values == pytest.approx([8, 4, 2, 1, 0.5])
    assert run.curves["train", "epe_visible_px"].steps == (0, 10, 30, 40)  # null at 20
    assert run.curves["validation", "epe_noc"].values == (3.0, 2.0)
    assert [(event.step, event.kind) for event in run.events] == [(15, "skip"), (20, "resume")]
    assert run.events[0].facts["names"] == ["a/<script>window.hacked = 1</script>"]
    assert run.last_step == 41
    assert run.recipe[0] == "recipe.toml"
    assert run.versions["torch"] == "2.11.0"
    assert [path.name for path in run.panels] == ["0000000.png", "0000020.png", "0000040.png"]


def test_the_later_line_of_a_step_counts(tmp_path):
    told = ((0, 1.0), (10, 2.0), (5, 7.0), (10, 8.0))
    lines = (json.dumps({"step": step, "kind": "train", "x": value}) + "\n" for step, value in told)
    (tmp_path / "log.jsonl").write_text("".join(lines))
    assert read_run(tmp_path).curves["train", "x"] == Curve((0, 5, 10), (1.0, 7.0, 8.0))


@pytest.mark.parametrize(
    "line",
    ['{"step": 3, "kind": "tr', "[]", "7", '{"step": -1, "kind": "train"}', '{"step": "3", "kind": "train"}', '{"step": 3}',
     '{"step": true, "kind": "train"}', '{"step": 1, "kind": 2}', "\x00\x00", "[" * 100_000],
)  # fmt: skip
def test_damaged_lines_are_counted_and_left_out(tmp_path, line):
    good = json.dumps({"step": 1, "kind": "train", "x": 1.0, "flag": True, "text": "y", "nothing": None})
    (tmp_path / "log.jsonl").write_text(f'{good}\n\n{line}\n{{"step": 2, "kind": "train", "x": NaN}}')
    run = read_run(tmp_path)
    assert run.curves == {("train", "x"): Curve((1,), (1.0,))}
    assert run.notes[0] == "1 of 3 lines of log.jsonl are damaged and left out."


@pytest.mark.parametrize("absent", ["log.jsonl", "recipe.toml", "versions.json", "panels"])
def test_what_is_absent_is_named_and_the_rest_is_shown(tmp_path, absent):
    folder = write_run(tmp_path / "run")
    target = folder / absent
    if target.is_dir():
        for file in target.iterdir():
            file.unlink()
        target.rmdir()
    else:
        target.unlink()
    run = read_run(folder)
    assert len(run.notes) == 1 and absent.partition(".")[0] in run.notes[0]
    read = check_self_contained(run_html(run))
    assert run.notes[0] in read.text("p")
    assert bool(read.all("polyline")) == (absent != "log.jsonl")
    assert bool(read.all("pre")) == (absent != "recipe.toml")
    assert bool(read.all("img")) == (absent != "panels")
    assert ("Versions and hardware" in read.text("summary")) == (absent != "versions.json")


def test_recipe_may_be_json(tmp_path):
    (tmp_path / "recipe.json").write_text('{"name": "from json"}')
    assert "Training run from json" in check_self_contained(run_html(read_run(tmp_path))).text("bdi")


@pytest.mark.parametrize(("name", "text"), [("versions.json", "[1]"), ("versions.json", "{"), ("recipe.toml", "name = "),
                                            ("recipe.toml", 'name = ["a"]')])  # fmt: skip
def test_damaged_files_do_not_stop_the_page(tmp_path, name, text):
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(text)
    run = read_run(folder)
    read = check_self_contained(run_html(run))
    assert (name != "versions.json") or "versions.json is damaged and left out." in run.notes
    assert "".join(read.text("title")) == ("Training run run" if name == "recipe.toml" else "Training run a <b>recipe</b>")


def test_a_damaged_panel_is_named(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "panels" / "0000020.png").write_bytes(b"no picture")
    read = check_self_contained(run_html(read_run(folder)))
    assert len(read.all("img")) == 2
    assert any("0000020.png cannot be shown" in text for text in read.text("p"))


def test_not_a_run(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    assert read_run(tmp_path).is_empty
    assert len(check_self_contained(run_html(read_run(tmp_path))).all("p", class_="note")) == 5  # with that about scripts


# ---------------------------------------------------------------------------------------------------------------------
# Charts


def test_points_lie_where_their_values_are():
    curve = Curve((0, 50, 100), (0.0, 10.0, 5.0))
    html, data = chart("c", "Title", "px", [Line("x", "train", curve)], Field(last_step=200))
    (line,) = points(PageReader(html))
    # Steps 0 .. 200 over the field's width; values from 0 to a twentieth above the largest over its height.
    np.testing.assert_allclose(line[:, 0], [LEFT, LEFT + (RIGHT - LEFT) / 4, (LEFT + RIGHT) / 2], atol=0.06)
    np.testing.assert_allclose((BOTTOM - line[:, 1]) / (BOTTOM - TOP), np.array([0, 10, 5]) / 10.5, atol=3e-4)
    assert data["lines"] == [{"name": "x", "steps": (0, 50, 100), "values": [0.0, 10.0, 5.0]}]
    assert data["x"][:2] == [0, 200]


def test_logarithmic_charts_have_equal_ratios_at_equal_distances():
    curve = Curve((0, 1, 2), (1000.0, 10.0, 0.1))
    html, _ = chart("c", "Loss", "", [Line("x", "train", curve)], Field(2, by_logarithm=True))
    (line,) = points(PageReader(html))
    np.testing.assert_allclose(line[:, 1], [TOP, (TOP + BOTTOM) / 2, BOTTOM], atol=0.06)
    assert "logarithmic" in PageReader(html).text("small")
    below, _ = chart("c", "Loss", "", [Line("x", "train", Curve((0, 1), (1000.0, -1.0)))], Field(2, by_logarithm=True))
    assert "logarithmic" not in PageReader(below).text("small")


@pytest.mark.parametrize("values", [(3.0,), (0.0, 0.0), (-2.0, -2.0), (5.0, 5.0, 5.0), (1e-30, 2e-30), (-1e9, 1e9)])
def test_curves_stay_in_the_field(values):
    steps = tuple(range(len(values)))
    html, _ = chart("c", "x", "", [Line("x", "validation", Curve(steps, values))], Field(max(steps), by_logarithm=True))
    for line in points(PageReader(html)):
        assert np.isfinite(line).all()
        assert (line[:, 0] >= LEFT - 0.1).all() and (line[:, 0] <= RIGHT + 0.1).all()
        assert (line[:, 1] >= TOP - 0.1).all() and (line[:, 1] <= BOTTOM + 0.1).all()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 3500), (-3, 7), (0.0012, 0.0013), (1e5, 3e7), (0, 0.9)])
def test_ticks_are_round_inside_and_few(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert low - 1e-9 <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)
    step = ticks[1] - ticks[0]
    np.testing.assert_allclose(np.diff(ticks), step, rtol=1e-6)
    assert f"{step:e}"[0] in "125"
    assert nice_ticks(4, 4) == [4]


@pytest.mark.parametrize(("low", "high"), [(-4, -1), (0.1, 0.9), (-12, 3), (1.0, 2.7)])
def test_logarithmic_ticks(low, high):
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-6 <= math.log10(tick) <= high + 1e-6 for tick in ticks)
    assert ticks == sorted(ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (6e-4, "6e-4"), (1.25e-5, "1.25e-5"), (0.03, "0.03"), (3500, "3500"), (12000, "12k"), (1234567, "1.235M"),
     (-0.5, "-0.5"), (2e9, "2e9")],
)  # fmt: skip
def test_short_numbers(value, text):
    assert short(value) == text


def test_thinning_keeps_the_mean():
    values = np.random.default_rng(0).normal(size=POINTS * 7)
    curve = Curve(tuple(range(0, 10 * len(values), 10)), tuple(values.tolist()))
    thin = thinned(curve)
    assert len(thin.steps) == POINTS
    np.testing.assert_allclose(thin.values, values.reshape(POINTS, 7).mean(axis=1))
    assert thin.steps == tuple(range(30, 10 * len(values), 70))  # the middle of seven
    assert thinned(Curve((1, 2), (3.0, 4.0))) == Curve((1, 2), (3.0, 4.0))


# ---------------------------------------------------------------------------------------------------------------------
# The page


def test_terms_share_charts_and_everything_logged_has_one(tmp_path):
    charts = grouped(read_run(write_run(tmp_path / "run")))
    names = {begin: [line.name for line in lines] for begin, lines in charts.items()}
    assert names == {
        "loss": ["response", "total"],
        "epe": ["epe_visible_px", "epe_noc (validation)"],
        "learning_rate": ["learning_rate"],
        "gradient_norm": ["gradient_norm"],
        "samples_per_s": ["samples_per_s"],
        "anything else": ["anything else"],
    }


def test_only_what_is_compared_by_ratios_is_drawn_by_its_logarithm(tmp_path):
    names = ("loss/total", "gradient_norm", "samples_per_s", "learning_rate")
    lines = ({"step": step, "kind": "train"} | dict.fromkeys(names, value) for step, value in ((0, 1000.0), (1, 1.0)))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = check_self_contained(run_html(read_run(tmp_path)))
    titles, said = (read.text(tag) for tag in ("h3", "small"))
    assert [title.strip() for title in titles] == ["Loss", "Learning rate", "Norm of the gradient", "Samples per second"]
    assert said == ["logarithmic", "logarithmic", "1/s"]  # of the first, the third, the fourth


def test_page_shows_figures_events_samples_and_recipe(tmp_path):
    read = check_self_contained(run_html(read_run(write_run(tmp_path / "run"))))
    assert "".join(read.text("title")) == "Training run a <b>recipe</b>"
    tiles = dict(zip(read.text("span"), read.text("b"), strict=False))
    assert tiles["last step"] == "41"
    assert tiles["best epe_noc px, at step 41"] == "2.000"
    assert tiles["last total loss"] == "0.5"
    assert tiles["steps skipped"] == "1"
    assert "names: a/<script>window.hacked = 1</script>; reason: the gradient is not finite" in read.text("td")
    assert [figure["data-name"] for figure in read.all("figure") if "data-name" in figure] == ["step 0", "step 20", "step 40"]
    assert 'name = "a <b>recipe</b>"' in "".join(read.text("pre"))
    assert len(read.all("path", class_="skip")) == len(read.all("line", class_="resume")) == 6  # in each chart
    assert "hacked" not in "".join(read.text("script"))


def test_many_panels_are_thinned_from_the_first_to_the_last(tmp_path):
    folder = tmp_path / "panels"
    folder.mkdir()
    for step in range(100):
        write_image(folder / f"{step:07d}.png", np.zeros((2, 3), np.uint8))
    write_image(folder / "other.png", np.zeros((2, 3), np.uint8))
    read = check_self_contained(run_html(read_run(tmp_path)))
    names = [figure["data-name"] for figure in read.all("figure")]
    assert len(names) == PANELS and names[0] == "other" and names[-1] == "step 99"
    assert any(f"{PANELS} of 101 are here." in text for text in read.text("p"))


def test_report_writes_the_page(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    assert main(["report", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"output": str(folder / "report.html")}
    check_self_contained((folder / "report.html").read_text(encoding="utf-8"))
    assert main(["report", str(folder), "-o", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").read_text() == (folder / "report.html").read_text()
    capsys.readouterr()
    for argv, said in (
        ([str(tmp_path / "no")], "does not exist"),
        ([str(tmp_path / "new")], "holds no run"),
        ([str(folder), "-o", str(folder)], "name a file"),
    ):
        assert main(["report", *argv]) == 2
        assert said in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, capsys):
    (tmp_path / "log.jsonl").mkdir()
    assert main(["report", str(tmp_path)]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_a_file_name_that_is_no_text_does_not_stop_the_page(tmp_path):
    folder = tmp_path / "r\udcffn"
    try:
        write_run(folder)
    except OSError:
        pytest.skip("this file system takes no such name")
    (folder / "recipe.toml").unlink()
    assert "Training run r?n" in "".join(check_self_contained(run_html(read_run(folder))).text("title"))
