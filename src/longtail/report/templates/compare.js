// the classes of a comparison: one run at a time against the first
const data = JSON.parse($("data").textContent);
const classes = data.classes, first = data.arms[0], chosen = $("arm");
let arm = data.arms[1];
const signed = tenths => tenths === null ? "-" : `${tenths > 0 ? "+" : ""}${percent(tenths)}`;
const known = classes.name.map((_, label) => label).filter(label => first.accuracy[label] !== null);
const few = label => classes.test[label] < data.fewest;  // images, so that a difference tells nothing
const ordered = () => [...known].sort((a, b) => few(a) - few(b) || arm.difference[a] - arm.difference[b]);
const verdict = label => !arm.sure || arm.low[label] === null ? "" : arm.low[label] > 0 ? "better" : arm.high[label] < 0 ? "worse" : "";
const list = new List({
  table: $("classes-table"), field: $("class-search"), status: $("class-status"), more: $("class-more"), what: "classes",
  start: ordered(), text: label => `${classes.name[label]} ${data.groups[classes.group[label]]}`,
  columns: { name: label => classes.name[label], test: label => classes.test[label], first: label => first.accuracy[label], arm: label => arm.accuracy[label], difference: label => arm.difference[label] },
  row: label => [make("tr", { class: "row" },
    make("td", { class: "left" }, make("span", { class: "named" }, make("span", { class: `dot ${data.groups[classes.group[label]]}`, title: `${data.groups[classes.group[label]]} shot` }), make("span", {}, classes.name[label]))),
    make("td", { class: "wide" }, whole(classes.test[label])), make("td", {}, percent(first.accuracy[label])), make("td", {}, percent(arm.accuracy[label])),
    make("td", { class: few(label) ? "soft" : null }, make("span", { class: `value ${verdict(label)}` }, signed(arm.difference[label])),
      make("span", { class: "range" }, few(label) ? "too few to tell" : arm.low[label] === null ? "" : `[${signed(arm.low[label])}, ${signed(arm.high[label])}]`)))],
});
chosen.addEventListener("change", () => {
  arm = data.arms[Number(chosen.value)];
  list.start = ordered();
  list.order = list.start;
  for (const heading of list.table.querySelectorAll("th")) heading.removeAttribute("aria-sort");
  list.draw();
});
