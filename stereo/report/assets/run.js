"use strict";
{
  const embedded = document.getElementById("charts");
  for (const chart of embedded ? JSON.parse(embedded.textContent) : []) {
    const figure = document.getElementById(chart.id);
    const plot = figure.querySelector(".plot");
    const cursor = figure.querySelector(".cursor");
    const readout = figure.querySelector(".readout");
    const [low, high, first, last] = chart.x; // steps at the ends of the field, and the ends as shares of the drawing's width
    const width = figure.querySelector("svg").viewBox.baseVal.width;
    const steps = [...new Set(chart.lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
    let at = -1; // index into steps; -1 while nothing is shown

    // The index of the last step up to the wanted one, or of the one behind it where that is nearer.
    const nearest = (sorted, step) => {
      let [from, to] = [0, sorted.length - 1];
      while (to - from > 1) {
        const middle = (from + to) >> 1;
        if (sorted[middle] <= step) from = middle;
        else to = middle;
      }
      return Math.abs(sorted[to] - step) < Math.abs(sorted[from] - step) ? to : from;
    };

    const show = (index) => {
      at = Math.max(0, Math.min(steps.length - 1, index));
      const place = width * (first + ((steps[at] - low) / (high - low)) * (last - first));
      cursor.setAttribute("x1", place);
      cursor.setAttribute("x2", place);
      cursor.setAttribute("visibility", "visible");
      const step = document.createElement("b");
      step.textContent = `step ${steps[at]}`;
      const parts = chart.lines.map((line) => {
        const index = nearest(line.steps, steps[at]);
        const other = line.steps[index] === steps[at] ? "" : ` (step ${line.steps[index]})`;
        return `${line.name} ${line.values[index].toPrecision(4)}${other}`;
      });
      readout.replaceChildren(step, `: ${parts.join(", ")}`);
    };
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      show(nearest(steps, low + ((share - first) / (last - first)) * (high - low)));
    });
    plot.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1 };
      if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      show(at < 0 && event.key === "ArrowLeft" ? steps.length - 1 : moves[event.key]);
    });
  }

  const panels = [...document.querySelectorAll(".panels figure")];
  const slider = document.getElementById("panel");
  if (slider && panels.length > 1) {
    const choose = () => {
      panels.forEach((panel, index) => { panel.hidden = index !== Number(slider.value); });
      const name = panels[slider.value].dataset.name;
      slider.setAttribute("aria-valuetext", name);
    };
    document.getElementById("through").hidden = false;
    slider.addEventListener("input", choose);
    choose();
  }
}
