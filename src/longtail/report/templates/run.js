// the page of a run: classes, confusions, and two figures, from the data of the page
const data = JSON.parse($("data").textContent);
const classes = data.classes, images = data.images, pairs = data.pairs;
const FEWEST = Number($("classes-table").dataset.fewest);  // test images of a class that can be judged
const group = label => data.groups[classes.group[label]];
const dot = label => make("span", { class: `dot ${group(label)}`, "aria-hidden": "true" });
const counted = (n, one, several) => `${whole(n)} ${n === 1 ? one : several}`;

// rows of the lists by class
const byClass = (keys, size) => {
  const found = Array.from({ length: size }, () => []);
  keys.forEach((label, i) => found[label].push(i));
  return found;
};
const imagesOf = byClass(images.label, classes.name.length);
const pairsOf = byClass(pairs.label, classes.name.length), takenFor = byClass(pairs.predicted, classes.name.length);

function thumbnail(i) {
  const kept = data.thumbnails[i];
  if (kept) return `data:image/jpeg;base64,${kept}`;
  const shown = document.querySelector(`img[data-image="${i}"]`);
  return shown && shown.src;
}
function accuracy(label) {
  const value = classes.accuracy[label];
  if (value === null) return [make("span", { class: "soft" }, "no image")];
  return [make("span", { class: "value" }, percent(value)), make("span", { class: "range" }, `[${percent(classes.low[label])}, ${percent(classes.high[label])}]`)];
}
function card(i) {
  const right = images.label[i] === images.predicted[i], source = thumbnail(i);
  const name = classes.name[images.predicted[i]];
  const told = right ? "recognised" : `taken for ${name}`;
  return make("figure", {},
    ...source ? [make("img", { src: source, alt: `${classes.name[images.label[i]]}, ${told}`, loading: "lazy" })] : [],
    make("span", { class: right ? "" : "wrong" }, told), ` ${percent(images.confidence[i])}\u00a0%`, make("code", {}, images.path[i]));
}
const link = (label, text) => make("button", { type: "button", class: "link", onclick: () => showClass(label) }, text);

// --- every class -------------------------------------------------------------------------------
let opened = -1;
function detail(label) {
  const mine = imagesOf[label], wrong = mine.filter(i => images.predicted[i] !== label), right = mine.filter(i => images.predicted[i] === label);
  const byConfidence = (a, b) => images.confidence[b] - images.confidence[a];
  const seen = part => { const ordered = part.sort(byConfidence), pictured = ordered.filter(thumbnail); return [pictured, ordered.filter(i => !pictured.includes(i))]; };
  const inside = [];
  const missed = pairsOf[label].map(p => make("li", {}, link(pairs.predicted[p], classes.name[pairs.predicted[p]]), `: ${pairs.images[p]} of ${counted(classes.test[label], "image", "images")}`));
  const others = takenFor[label].map(p => make("li", {}, link(pairs.label[p], classes.name[pairs.label[p]]), `: ${pairs.images[p]} of ${counted(classes.test[pairs.label[p]], "image", "images")}`));
  if (missed.length) inside.push(make("h3", {}, "Its images are taken for"), make("ul", {}, ...missed.slice(0, 8)));
  if (others.length) inside.push(make("h3", {}, "Taken for it"), make("ul", {}, ...others.slice(0, 8)));
  for (const [title, part, most] of [["Mistakes, the most confident first", wrong, 20], ["Recognised", right, 6]]) {
    if (!part.length) continue;
    const [pictured, rest] = seen(part);
    inside.push(make("h3", {}, title));
    if (pictured.length) inside.push(make("div", { class: "sheet" }, ...pictured.slice(0, 9).map(card)));
    const listed = rest.slice(0, pictured.length ? most - pictured.length : most);
    if (listed.length && (title !== "Recognised" || !pictured.length)) inside.push(make("ul", {}, ...listed.map(i => make("li", {}, make("code", {}, images.path[i]), ` ${images.predicted[i] === label ? "recognised" : classes.name[images.predicted[i]]}, ${percent(images.confidence[i])}\u00a0%`))));
  }
  if (!inside.length) inside.push(make("p", {}, `No ${data.split} image of this class.`));
  return make("tr", { class: "detail", id: "opened" }, make("td", { colspan: 5 }, ...inside));
}
function classRow(label) {
  const open = label === opened;
  const toggle = () => { opened = open ? -1 : label; list.draw(); const again = document.querySelector(`tr[data-class="${label}"] button`); if (again) again.focus({ preventScroll: true }); };
  const name = make("td", { class: "left" }, make("button", { type: "button", class: "link", "aria-expanded": String(open) }, classes.name[label]));
  const few = classes.test[label] < FEWEST ? "soft" : null;
  const row = make("tr", { class: open ? "row open" : "row", "data-class": label, onclick: toggle }, name,
    make("td", { class: "left wide" }, dot(label), group(label)), make("td", {}, whole(classes.train[label])),
    make("td", {}, whole(classes.test[label])), make("td", { class: few }, ...accuracy(label)));
  row.style.cursor = "pointer";
  return open ? [row, detail(label)] : [row];
}
const rank = [];
classes.order.forEach((label, place) => { rank[label] = place; });
const list = new List({
  table: $("classes-table"), field: $("class-search"), status: $("class-status"), more: $("class-more"), what: "classes",
  start: classes.order, text: label => `${classes.name[label]} ${group(label)}`, row: classRow,
  columns: { name: label => classes.name[label], group: label => classes.group[label], train: label => classes.train[label], test: label => classes.test[label], accuracy: label => rank[label] },
});
function showClass(label) {
  opened = label;
  list.reach(label);
  const row = document.querySelector(`tr[data-class="${label}"]`);
  row.scrollIntoView({ block: "start" });
  row.querySelector("button").focus({ preventScroll: true });
}
const marks = $("show-regions");
if (marks) marks.addEventListener("change", () => {
  $("mistakes").classList.toggle("show-regions", marks.checked);
  $("regions-text").hidden = !marks.checked;
});
for (const button of document.querySelectorAll("button[data-class]")) button.addEventListener("click", () => showClass(Number(button.dataset.class)));

// --- confused pairs ----------------------------------------------------------------------------
const share = p => pairs.images[p] / classes.test[pairs.label[p]];
if (pairs.label.length) new List({
  table: $("pairs-table"), field: $("pair-search"), status: $("pair-status"), more: $("pair-more"), what: "confusions", step: 20, shown: 20,
  start: pairs.label.map((_, p) => p), text: p => `${classes.name[pairs.label[p]]} ${classes.name[pairs.predicted[p]]}`,
  columns: { label: p => classes.name[pairs.label[p]], predicted: p => classes.name[pairs.predicted[p]], images: p => pairs.images[p], share },
  row: p => [make("tr", { class: "row" }, make("td", { class: "left" }, link(pairs.label[p], classes.name[pairs.label[p]])),
    make("td", { class: "left" }, link(pairs.predicted[p], classes.name[pairs.predicted[p]])),
    make("td", {}, `${whole(pairs.images[p])} of ${whole(classes.test[pairs.label[p]])}`),
    make("td", {}, make("span", { class: "value" }, (100 * share(p)).toFixed(1)), make("span", { class: "range" }, `[${percent(pairs.low[p])}, ${percent(pairs.high[p])}]`)))],
});

// --- figures -----------------------------------------------------------------------------------
const height = innerWidth < 640 ? 300 : 420;
{
  const shown = classes.name.map((_, label) => label).filter(label => classes.accuracy[label] !== null);
  const x = shown.map(label => classes.train[label]), y = shown.map(label => classes.accuracy[label] / 10);
  const plot = new Plot({
    holder: $("scatter-plot"), x, y, log: true, ticks: true, limits: [0, 100], height, radius: shown.length > 1000 ? 2.5 : 5,
    label: "Accuracy of every class over its training images. The table of classes holds the same numbers.",
    mark: i => [group(shown[i]), false], order: x.map((_, i) => i).sort((a, b) => x[a] - x[b] || y[a] - y[b]),
    tip: i => [make("b", {}, classes.name[shown[i]]), make("br"), `${percent(classes.accuracy[shown[i]])}\u00a0% [${percent(classes.low[shown[i]])}, ${percent(classes.high[shown[i]])}]`, make("br"), `${counted(x[i], "training image", "training images")}, ${whole(classes.test[shown[i]])} ${data.split}`],
    pick: i => showClass(shown[i]),
  });
  $("error-bars").addEventListener("change", event => {
    plot.bars = event.target.checked ? i => [classes.low[shown[i]] / 10, classes.high[shown[i]] / 10] : null;
    plot.draw();
  });
}
if (data.map) {
  const at = data.map.index, wrong = i => images.label[at[i]] !== images.predicted[at[i]];
  new Plot({
    holder: $("map-plot"), x: data.map.x, y: data.map.y, height: height + 60, radius: at.length > 1500 ? 2.5 : 4,
    label: "Map of the test images by their logits; mistakes are crosses.",
    mark: i => [group(images.label[at[i]]), wrong(i)], order: at.map((_, i) => i).sort((a, b) => data.map.x[a] - data.map.x[b]),
    tip: i => {
      const source = thumbnail(at[i]), label = images.label[at[i]];
      return [...source ? [make("img", { src: source, alt: "" })] : [], make("b", {}, classes.name[label]), make("br"),
        `${wrong(i) ? `taken for ${classes.name[images.predicted[at[i]]]}` : "recognised"}, ${percent(images.confidence[at[i]])}\u00a0%`, make("br"), images.path[at[i]]];
    },
    pick: i => showClass(images.label[at[i]]),
  });
}
