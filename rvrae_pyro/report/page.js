"use strict";
(function () {
  const root = document.documentElement;
  const said = document.getElementById("said");

  const themeButton = document.querySelector(".theme");
  function isDark() {
    const chosen = root.dataset.theme;
    return chosen ? chosen === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function nameTheme() {
    themeButton.textContent = isDark() ? "Light colours" : "Dark colours";
  }
  themeButton.hidden = false;
  themeButton.addEventListener("click", function () {
    root.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  nameTheme();

  function keyOf(row, column) {
    const cell = row.cells[column];
    const raw = cell.dataset.v === undefined ? cell.textContent.trim() : cell.dataset.v;
    const value = Number(raw);
    return raw !== "" && Number.isFinite(value) ? value : raw.toLowerCase();
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    const body = table.tBodies[0];
    heads.forEach(function (head, column) {
      head.querySelector("button").addEventListener("click", function () {
        const first = head.classList.contains("n") && column !== 1 ? "descending" : "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        const way = head.getAttribute("aria-sort") === first ? other : first;
        const rows = Array.from(body.rows, (row, at) => ({ row, at, key: keyOf(row, column) }));
        const sign = way === "ascending" ? 1 : -1;
        rows.sort((a, b) => sign * compare(a.key, b.key) || a.at - b.at);
        for (const each of heads) each.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", way);
        body.append(...rows.map((each) => each.row));
        said.textContent = "Sorted by " + head.textContent.trim() + ", " + way + ".";
      });
    });
  }

  function cue() {
    for (const frame of document.querySelectorAll(".scroll")) {
      frame.classList.toggle("wide", frame.scrollWidth > frame.clientWidth + 1);
    }
  }
  window.addEventListener("resize", cue);
  cue();

  const find = document.getElementById("find");
  if (find) {
    const rows = Array.from(document.querySelector("#ranking").tBodies[0].rows);
    find.addEventListener("input", function () {
      const wanted = find.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        const hit = row.textContent.toLowerCase().includes(wanted);
        row.hidden = !hit;
        shown += hit ? 1 : 0;
      }
      said.textContent = shown + " of " + rows.length + " assets shown.";
    });
  }
})();
