"use strict";
for (const figure of document.querySelectorAll(".micro")) {
  const parts = [...figure.querySelectorAll("[data-told]")];
  const readout = figure.querySelector(".readout");
  let at = -1; // index into parts; -1 while nothing is told

  const tell = (index) => {
    if (at >= 0) parts[at].classList.remove("told");
    at = Math.max(0, Math.min(parts.length - 1, index));
    parts[at].classList.add("told");
    readout.textContent = parts[at].dataset.told;
  };
  for (const kind of ["pointerover", "pointerdown"]) {
    figure.addEventListener(kind, (event) => {
      const index = parts.indexOf(event.target);
      if (index >= 0) tell(index);
    });
  }
  figure.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: parts.length - 1 };
    if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey || !parts.length) return;
    event.preventDefault();
    tell(moves[event.key]);
  });
}
