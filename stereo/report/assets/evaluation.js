"use strict";
{
  const cards = [...document.querySelectorAll(".card")];

  // side: "a", left of the line, or "b", right of it
  const choose = (card, side, key) => {
    for (const image of card.querySelectorAll(".layer")) image.classList.toggle(side, image.dataset.layer === key);
    card.querySelector(`select[data-side="${side}"]`).value = key;
    const shown = [...card.querySelectorAll("select")].map((select) => select.value);
    for (const legend of card.querySelectorAll(".legend")) legend.hidden = !shown.includes(legend.dataset.layer);
  };
  const layers = cards.length ? JSON.parse(document.getElementById("layers").textContent) : [];
  for (const card of cards) {
    const line = card.querySelector("input[type=range]");
    line.addEventListener("input", () => {
      card.querySelector(".stage").style.setProperty("--cut", `${line.value}%`);
      line.setAttribute("aria-valuetext", `${line.value} percent`);
    });
    line.addEventListener("keydown", (event) => {
      const digit = /^Digit([1-9])$/.exec(event.code);
      if (!digit || event.ctrlKey || event.altKey || event.metaKey || digit[1] > layers.length) return;
      event.preventDefault();
      choose(card, event.shiftKey ? "a" : "b", layers[digit[1] - 1]);
    });
    for (const select of card.querySelectorAll("select")) {
      select.addEventListener("change", () => choose(card, select.dataset.side, select.value));
    }
  }
  for (const select of document.querySelectorAll("#for-all select")) {
    select.addEventListener("change", () => cards.forEach((card) => choose(card, select.dataset.side, select.value)));
  }
}
