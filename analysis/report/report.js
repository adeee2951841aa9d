/* Sorting and filtering, added to tables that can be read without. */
(() => {
  "use strict";
  const valueOf = (cell) => cell.dataset.value ?? cell.textContent;

  function compare(a, b, numeric) {
    if (a === "" || b === "") return a === b ? 0 : a === "" ? Infinity : -Infinity;
    return numeric ? Number(a) - Number(b) : a.localeCompare(b);
  }

  function sort(table, place) {
    const header = table.tHead.rows[0].cells[place];
    const down = header.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [valueOf(row.cells[place]), row]);
    const numeric = rows.every(([value]) => value === "" || Number.isFinite(Number(value)));
    rows.sort(([a], [b]) => {
      const order = compare(a, b, numeric);
      // Rows without a number stay last either way.
      return Number.isFinite(order) && down ? -order : order;
    });
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows.map(([, row]) => row));
  }

  function addFilter(table) {
    const box = document.createElement("div");
    box.className = "filter";
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("output");
    input.type = "search";
    label.append("Filter ", input);
    box.append(label, count);
    const rows = [...table.tBodies[0].rows];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    function apply() {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, index) => {
        row.hidden = !words.every((word) => texts[index].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      count.textContent = `${shown} of ${rows.length} rows`;
    }
    input.addEventListener("input", apply);
    apply();
    table.closest(".scroll").before(box);
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    [...table.tHead.rows[0].cells].forEach((header, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, place));
      header.append(button);
    });
    addFilter(table);
  }
})();
