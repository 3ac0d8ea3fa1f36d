// Sorting and filtering of every table.sortable.  A cell's data-value is what is compared.
"use strict";
(() => {
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(text);
    return text === "" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));

  function sort(table, column, direction) {
    const body = table.tBodies[0];
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row, place) => ({ row, place, key: value(row, column) }));
    rows.sort((x, y) => {
      // Methods without a value stay at the end in both directions.
      if (x.key === null || y.key === null) return (x.key === null) - (y.key === null) || x.place - y.place;
      return sign * compare(x.key, y.key) || x.place - y.place;
    });
    for (const { row } of rows) body.append(row);
    for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", direction);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.querySelector("button")?.addEventListener("click", () => {
        const first = head.dataset.first || "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        sort(table, column, head.getAttribute("aria-sort") === first ? other : first);
      });
    });
    const tools = document.querySelector(`.tools[data-for="${table.id}"]`);
    if (!tools) continue;
    const apply = () => {
      const words = (tools.querySelector("input[type=search]")?.value || "").toLowerCase().split(/\s+/);
      const hidden = [...tools.querySelectorAll("input[data-hide]:checked")].map((box) => box.dataset.hide);
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const text = row.dataset.search.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word)) || hidden.some((name) => row.classList.contains(name));
        shown += !row.hidden;
      }
      const count = tools.querySelector(".count");
      if (count) count.textContent = `${shown} of ${table.tBodies[0].rows.length} shown`;
    };
    tools.addEventListener("input", apply);
    apply();
  }
})();
