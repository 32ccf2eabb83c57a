"use strict";
// Sort the rows of a table by a column; what stays below stays there.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const up = head.getAttribute("aria-sort") === "descending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const column = head.cellIndex;
    const body = head.closest("table").tBodies[0];
    const key = (row) => row.cells[column].dataset.key;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what has no number comes last
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    });
    body.append(...rows);
  });
}
// Pictures are kept once; frames name them by their place.
const pools = new Map();
for (const gallery of document.querySelectorAll(".gallery")) {
  const pool = JSON.parse(gallery.querySelector(".pool").textContent);
  pools.set(gallery, pool);
  for (const map of gallery.querySelectorAll(".map")) {
    map.querySelector(".under").src = pool[map.dataset.under];
  }
}
// A slider puts another frame into its row: picture, maps, and what the network says.
for (const row of document.querySelectorAll(".family")) {
  const frames = JSON.parse(row.querySelector("script").textContent);
  const pool = pools.get(row.closest(".gallery"));
  const slider = row.querySelector("input");
  const show = () => {
    const frame = frames[slider.value];
    slider.setAttribute("aria-valuetext", frame.severity);
    row.querySelector("output").textContent = frame.severity;
    row.querySelector(".says").textContent = frame.says;
    row.querySelector(".changed").hidden = !frame.changed;
    row.querySelector(".picture").src = pool[frame.picture];
    row.querySelectorAll(".map").forEach((map, place) => {
      const over = map.querySelector(".over");
      map.querySelector(".missing").hidden = frame.maps[place] !== null;
      over.hidden = frame.maps[place] === null;
      if (frame.maps[place] !== null) over.src = pool[frame.maps[place]];
      map.querySelector(".under").src = pool[frame.picture];
    });
  };
  slider.addEventListener("input", show);
}
for (const box of document.querySelectorAll(".switch input")) {
  box.addEventListener("change", () => {
    box.closest(".gallery").classList.toggle("overlay", box.checked);
  });
}
