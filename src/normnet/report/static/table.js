// Sorts the table of a cohort page by the buttons in its head, and hides rows by a search text.
"use strict";
(() => {
  const table = document.getElementById("scans");
  const body = table.tBodies[0];
  const rows = [...body.rows];

  function valueOf(row, column, kind) {
    const cell = row.cells[column];
    if (kind === "text") return cell.textContent.trim();
    return cell.dataset.value === "" ? -Infinity : Number(cell.dataset.value);
  }

  for (const head of table.tHead.querySelectorAll("th[data-sort]")) {
    head.querySelector("button").addEventListener("click", () => {
      const kind = head.dataset.sort;
      const first = kind === "text" ? "ascending" : "descending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      for (const each of table.tHead.querySelectorAll("th")) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const compare = kind === "text"
        ? (a, b) => a.localeCompare(b, "en", { numeric: true })
        : (a, b) => (a === b ? 0 : a < b ? -1 : 1);
      const keyed = rows.map((row) => [valueOf(row, head.cellIndex, kind), row]);
      keyed.sort((a, b) => sign * compare(a[0], b[0]));
      body.append(...keyed.map(([, row]) => row));
    });
  }

  const search = document.getElementById("search");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !texts.get(row).includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById("shown").textContent = wanted ? `${shown} of ${rows.length}` : "";
  });
})();
