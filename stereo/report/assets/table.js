"use strict";
{
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = [...body.rows]; // in the order in which the page lists them: worst first
  const cards = [...document.querySelectorAll(".card")];
  const status = document.getElementById("status");
  const search = document.getElementById("search");
  let order = "worst first";

  const say = () => {
    const shown = rows.filter((row) => !row.hidden).length;
    status.textContent = `${shown} of ${rows.length} ${table.dataset.what}, ${order}`;
  };

  // What is unknown stays at the end, whichever way the column is sorted. Array.sort is stable.
  const sortBy = (button) => {
    const heading = button.closest("th");
    const numbers = button.dataset.kind === "number";
    const first = numbers ? "descending" : "ascending";
    const direction = heading.getAttribute("aria-sort") === first ? (numbers ? "ascending" : "descending") : first;
    const sign = direction === "ascending" ? 1 : -1;
    const value = (row) => row.cells[Number(button.dataset.column)].dataset.value;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (numbers ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
    };
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", direction);
    body.append(...[...rows].sort(compare));
    order = `sorted by ${button.textContent}, ${direction}`;
    say();
  };
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) sortBy(button);
  });

  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    for (const item of [...rows, ...cards]) item.hidden = !item.dataset.name.toLowerCase().includes(wanted);
    say();
  });
}
