"""The page of a training run: its curves, what happened on the way, sample pictures, recipe and versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stereo.image_io import read_image
from stereo.report.chart import Field, Line, chart, short
from stereo.report.layers import jpeg, shrunk_size
from stereo.report.page import breakable, data_uri, embed_json, escape, facts_list, note, page, write_page
from stereo.report.run_log import Event, Run, panel_step, read_run, recipe_title
from stereo.types import InputError

PAGE = "report.html"
PANELS = 24  # sample pictures at most, spread evenly from the first to the last
PANEL_LONGEST = 1280  # px
EVENTS_LISTED = 100
# Beginning of a curve's name -> title and unit of its chart, in the order of the page: what the log is known to hold. A curve
# whose name begins otherwise gets a chart of its own.
CHARTS = {
    "loss": ("Loss", ""),
    "epe": ("End-point error", "px"),
    "learning_rate": ("Learning rate", ""),
    "gradient_norm": ("Norm of the gradient", ""),
    "samples_per_s": ("Samples per second", "1/s"),
    "bad": ("bad-x", "%"),
    "iou": ("Occlusion IoU", ""),
    "data_wait_s": ("Waiting for data", "s"),
}
BY_LOGARITHM = ("loss", "epe", "gradient_norm")  # whose ratios mean something, where they span much
HIDDEN = ("eta_s", "seconds")  # of the screen while it runs, not of a page


def write_run_page(folder: str | Path, target: str | Path | None = None) -> Path:
    """Write the page of the run in ``folder`` to ``target``, or to PAGE in it; returns where it is. Notes say what is absent.

    Raises InputError when there is no such folder, or the page cannot be written.
    """
    path = Path(target) if target else Path(folder) / PAGE
    write_page(path, run_html(read_run(folder)))
    return path


def run_html(run: Run) -> str:
    """The page of a run."""
    title = recipe_title(run.recipe) or run.name
    sections = [
        "".join(map(note, run.notes)),
        _tiles(run),
        facts_list([("Command", run.versions.get("command"))]),
        _versions(run.versions),
        _charts(run),
        _events(run.events),
        _panels(run.panels),
        _recipe(run.recipe),
    ]
    return page(f"Training run {title}", sections, "run.js")


def grouped(run: Run) -> dict[str, list[Line]]:
    """The lines of every chart, by a key of CHARTS or their name, in the order of the page; validation joins training."""
    charts: dict[str, list[Line]] = {begin: [] for begin in CHARTS}
    for (kind, name), curve in sorted(run.curves.items()):
        if name in HIDDEN:
            continue
        begin = next((begin for begin in CHARTS if name.startswith(begin)), name)
        shown = name.removeprefix("loss/") if kind == "train" else f"{name} (validation)"
        charts.setdefault(begin, []).append(Line(shown, kind, curve))
    return {begin: lines for begin, lines in charts.items() if lines}


def _tiles(run: Run) -> str:
    tiles = [("last step", short(run.last_step))]
    for (kind, name), curve in run.curves.items():
        if kind == "validation" and name.startswith("epe"):
            best = min(range(len(curve.values)), key=curve.values.__getitem__)
            tiles.append((f"best {name} px, at step {curve.steps[best]}", f"{curve.values[best]:.3f}"))
    for name, heading in (("loss/total", "last total loss"), ("samples_per_s", "samples per second, last")):
        if ("train", name) in run.curves:
            tiles.append((heading, short(run.curves["train", name].values[-1])))
    skipped = sum(event.kind == "skip" for event in run.events)
    tiles += [("steps skipped", str(skipped))] if skipped else []
    shown = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(heading)}</span></div>' for heading, value in tiles)
    return f'<section aria-label="Summary"><div class="tiles">{shown}</div></section>'


def _versions(versions: dict[str, Any]) -> str:
    listed = [(name, _fact(value)) for name, value in versions.items() if name != "command" and value is not None]
    return f"<details><summary>Versions and hardware</summary>{facts_list(listed)}</details>" if listed else ""


def _charts(run: Run) -> str:
    if not run.curves:
        return ""
    figures, data = [], []
    for place, (begin, lines) in enumerate(grouped(run).items()):
        title, unit = CHARTS.get(begin, (begin, ""))
        field = Field(run.last_step, run.events, by_logarithm=begin in BY_LOGARITHM)
        figure, values = chart(f"chart-{place}", title, unit, lines, field)
        figures.append(figure)
        data.append(values)
    kinds = {event.kind for event in run.events}
    marks = [text for kind, text in (("skip", "a triangle at the top is a skipped step"), ("resume", "a dotted line is where "
             "the run was resumed")) if kind in kinds]  # fmt: skip
    told = f" In the charts {' and '.join(marks)}." if marks else ""
    return f"""<section aria-labelledby="curves"><h2 id="curves">Curves over the steps</h2>
<p class="hint">Point at a chart, or focus it and use the arrow keys (Home and End too), for the values of a step.{told}</p>
<div class="charts">{"".join(figures)}</div></section>
{embed_json("charts", data)}
"""


def _events(events: Sequence[Event]) -> str:
    if not events:
        return ""
    rows = []
    for event in events[-EVENTS_LISTED:]:
        said = "; ".join(f"{name}: {_fact(value)}" for name, value in event.facts.items())
        cells = f'<th scope="row">{event.step}</th><td>{escape(event.kind)}</td><td class="said">{escape(said)}</td>'
        rows.append(f"<tr>{cells}</tr>")
    more = f", the last {EVENTS_LISTED}" if len(events) > EVENTS_LISTED else ""
    return f"""<section aria-labelledby="events"><h2 id="events">{len(events)} events{more}</h2>
<div class="scroll tall" tabindex="0" role="region" aria-label="Events of the run"><table class="events"><thead><tr>
<th scope="col">step</th><th scope="col">what</th><th scope="col">details</th></tr></thead>
<tbody>{"".join(rows)}</tbody></table></div></section>
"""


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_fact, value))
    return short(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _panels(paths: Sequence[Path]) -> str:
    """The pictures, with a slider through the steps; all of them one below the other where there is no script."""
    if not paths:
        return ""
    count = min(PANELS, len(paths))
    chosen = sorted({round(i * (len(paths) - 1) / max(count - 1, 1)) for i in range(count)})
    figures = [_panel(paths[i]) for i in chosen]
    more, last = f" {len(chosen)} of {len(paths)} are here." if len(chosen) < len(paths) else "", len(chosen) - 1
    return f"""<section class="panels" aria-labelledby="samples"><h2 id="samples">Samples</h2>
<div class="toolbar" id="through" hidden>
<label>Step <input type="range" id="panel" min="0" max="{last}" value="{last}"></label></div>
<p class="hint">Pictures of training pairs; at most {PANEL_LONGEST} px wide.{more}</p>
{"".join(figures)}</section>
"""


def _panel(path: Path) -> str:
    step = panel_step(path)
    name = path.stem if step < 0 else f"step {step}"
    try:
        picture = read_image(path)
    except InputError as error:
        return f'<figure data-name="{escape(name)}">{note(f"{path.name} cannot be shown: {error}")}</figure>'
    width, height = shrunk_size(picture.shape[0], picture.shape[1], PANEL_LONGEST)
    uri = data_uri(jpeg(picture, PANEL_LONGEST), "image/jpeg")
    image = f'<img src="{uri}" alt="Sample of {escape(name)}" width="{width}" height="{height}" decoding="async">'
    return f'<figure data-name="{escape(name)}"><figcaption>{breakable(name)}</figcaption>{image}</figure>'


def _recipe(recipe: tuple[str, str] | None) -> str:
    if recipe is None:
        return ""
    name, text = recipe
    return f"""<section aria-labelledby="recipe"><h2 id="recipe">Recipe</h2>
<details><summary>{escape(name)}</summary><pre tabindex="0">{escape(text)}</pre></details></section>
"""
