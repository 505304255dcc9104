"use strict";
// what every page needs: contents, elements, lists that are searched and sorted
const $ = id => document.getElementById(id);
const percent = tenths => tenths === null ? "-" : (tenths / 10).toFixed(1);
const whole = number => number.toLocaleString("en-US");

// an element with text and elements inside; text never becomes markup
function make(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") made.addEventListener("click", value);
    else if (value !== null) made.setAttribute(key, value);
  }
  made.append(...inside);
  return made;
}

// the contents are open where there is room beside the page, and a bar that unfolds on a phone
{
  const contents = document.querySelector("nav.toc details"), wide = matchMedia("(min-width: 64rem)");
  const fit = () => { contents.open = wide.matches; };
  fit();
  wide.addEventListener("change", fit);
  contents.addEventListener("click", event => {
    if (event.target.tagName === "A" && !wide.matches) contents.open = false;
  });
  const links = [...contents.querySelectorAll("a")];
  const seen = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting)
      for (const link of links)
        if (link.hash === `#${entry.target.id}`) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
  }, { rootMargin: "0px 0px -70% 0px" });
  for (const link of links) { const target = $(link.hash.slice(1)); if (target) seen.observe(target); }
}

// a long list in a table: rows are made as they are asked for
//   table, field, status, more: elements; size: rows in all; text: row -> what is searched
//   columns: heading's data-key -> row -> number or text; row: row -> elements; start: rows in their first order
class List {
  constructor(options) {
    Object.assign(this, { step: 30, shown: 30 }, options);
    this.order = this.start;
    this.field.addEventListener("input", () => { this.shown = this.step; this.draw(); });
    this.more.addEventListener("click", () => { this.shown += 5 * this.step; this.draw(); });
    for (const heading of this.table.querySelectorAll("th[data-key]")) {
      const button = make("button", { type: "button", onclick: () => this.sort(heading) }, heading.textContent);
      heading.replaceChildren(button);
    }
    this.draw();
  }
  sort(heading) {
    const up = heading.getAttribute("aria-sort") !== "ascending", key = this.columns[heading.dataset.key];
    for (const other of this.table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b);
    this.order = [...this.start].sort((a, b) => (up ? 1 : -1) * order(key(a), key(b)));
    this.draw();
  }
  matching() {
    const wanted = this.field.value.trim().toLowerCase();
    return wanted ? this.order.filter(row => this.text(row).toLowerCase().includes(wanted)) : this.order;
  }
  draw() {
    const found = this.matching(), part = found.slice(0, this.shown);
    this.table.tBodies[0].replaceChildren(...part.flatMap(row => this.row(row)));
    this.more.hidden = found.length <= part.length;
    this.more.textContent = `Show more (${whole(found.length - part.length)} left)`;
    this.status.textContent = `${whole(found.length)} of ${whole(this.start.length)} ${this.what}`;
  }
  // make sure that a row is there
  reach(row) {
    if (!this.matching().includes(row)) this.field.value = "";
    this.shown = Math.max(this.shown, this.matching().indexOf(row) + 1);
    this.draw();
  }
}

// sort a small table by the column whose heading is pressed; numbers by data-value, text by itself
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((heading, column) => {
    const button = make("button", { type: "button" }, heading.textContent);
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
      };
      const order = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b);
      body.append(...[...body.rows].sort((a, b) => (up ? 1 : -1) * order(key(a), key(b))));
    });
  });
}
