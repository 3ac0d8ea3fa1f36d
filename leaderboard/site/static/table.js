// Sorting, filtering and hiding of columns of every table.sortable.  A cell's data-value is what is compared.
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
  const other = (direction) => (direction === "ascending" ? "descending" : "ascending");

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

  // The state of a table in the address: <id>.sort=<column>,<direction>, .q=<words>, .hide=, .columns=.
  function start(table) {
    const heads = [...table.tHead.rows[0].cells];
    const original = [...table.tBodies[0].rows];
    const name = (what) => `${table.id}.${what}`;
    heads.forEach((head, column) => {
      head.querySelector("button")?.addEventListener("click", () => {
        const first = head.dataset.first || "ascending";
        const direction = head.getAttribute("aria-sort") === first ? other(first) : first;
        sort(table, column, direction);
        PageState.set({ [name("sort")]: `${head.dataset.key ?? column},${direction}` });
      });
    });
    const tools = document.querySelector(`.tools[data-for="${table.id}"]`);
    const words = tools?.querySelector("input[type=search]");
    const boxes = tools ? [...tools.querySelectorAll("input[data-hide]")] : [];
    const groups = tools ? [...tools.querySelectorAll("input[data-group]")] : [];
    const usual = groups.map((box) => box.checked);
    const chosen = (list, key) => list.filter((box) => box.checked).map((box) => box.dataset[key]);

    function apply() {
      if (!tools) return;
      const wanted = words.value.toLowerCase().split(/\s+/);
      const hidden = chosen(boxes, "hide");
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const text = row.dataset.search.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word)) || hidden.some((kind) => row.classList.contains(kind));
        shown += !row.hidden;
      }
      for (const box of groups) table.classList.toggle(`no-${box.dataset.group.replaceAll(" ", "-")}`, !box.checked);
      const count = tools.querySelector(".count");
      if (count) count.textContent = `${shown} of ${table.tBodies[0].rows.length} shown`;
    }
    tools?.addEventListener("input", () => {
      apply();
      const changed = groups.some((box, i) => box.checked !== usual[i]);
      PageState.set({
        [name("q")]: words.value,
        [name("hide")]: chosen(boxes, "hide").join(","),
        [name("columns")]: changed ? chosen(groups, "group").join(",") || "none" : "",
      });
    });
    PageState.follow((state) => {
      const [key, direction] = (state.get(name("sort")) ?? "").split(/,(?=[a-z]*$)/);
      const column = heads.findIndex((head, i) => (head.dataset.key ?? String(i)) === key);
      if (column >= 0 && ["ascending", "descending"].includes(direction)) sort(table, column, direction);
      else if (heads.some((head) => head.hasAttribute("aria-sort"))) {
        table.tBodies[0].append(...original);
        for (const head of heads) head.removeAttribute("aria-sort");
      }
      if (tools) words.value = state.get(name("q")) ?? "";
      for (const box of boxes) box.checked = (state.get(name("hide")) ?? "").split(",").includes(box.dataset.hide);
      const columns = state.get(name("columns"));
      groups.forEach((box, i) => { box.checked = columns ? columns.split(",").includes(box.dataset.group) : usual[i]; });
      apply();
    });
  }
  document.querySelectorAll("table.sortable").forEach(start);
})();
