"use strict";
const at = id => document.getElementById(id);
const percent = value => `${(100 * value).toFixed(1)} %`;
let about = null, waiting = [], busy = false, done = 0;

function show(file, said) {
  const part = at("result").content.cloneNode(true), find = name => part.querySelector(name);
  find(".file").textContent = file.name;
  if (said.view) {
    find(".view").src = `data:image/jpeg;base64,${said.view}`;
    find(".view").alt = "What the model sees of " + file.name;
  } else find(".view").remove();
  const first = find(".first");
  if (said.error) {
    first.textContent = said.error;
    first.classList.add("error");
  } else {
    const best = said.predictions[0];
    first.textContent = `${best.class}, ${percent(best.probability)}`;
    for (const one of said.predictions) {
      const line = document.createElement("li"), name = document.createElement("span"), share = document.createElement("span"), bar = document.createElement("meter");
      name.textContent = one.class; share.textContent = percent(one.probability);
      bar.value = one.probability; bar.setAttribute("aria-hidden", "true");
      line.append(name, share, bar);
      find(".classes").append(line);
    }
    const judged = [];
    if ("accepted_as" in said) judged.push(said.accepted_as === null ? "Not certain enough to be accepted." : `Accepted as ${said.accepted_as}.`);
    if (said.prediction_set) judged.push(`Prediction set: ${Array.isArray(said.prediction_set) ? said.prediction_set.join(", ") : said.prediction_set}.`);
    if (said.unusual) judged.push("Unlike the training images.");
    find(".judged").textContent = judged.join(" ");
    find(".notes").textContent = said.notes.join(" ");
  }
  if (said.nearest && said.nearest.length) {
    for (const near of said.nearest) {
      const figure = document.createElement("figure"), image = document.createElement("img"), where = document.createElement("code");
      image.src = `data:image/jpeg;base64,${near.thumbnail}`; image.alt = near.name;
      where.textContent = near.where;
      figure.append(image, `${near.name}, cosine ${near.cosine.toFixed(2)}`, where);
      find(".sheet").append(figure);
    }
  } else find(".near").remove();
  at("results").prepend(part);
}

async function ask(file) {
  if (about && file.size > about.most_bytes) return {error: `The file is larger than ${about.most_bytes / 2 ** 20} MiB.`};
  try {
    const response = await fetch("/predict?thumbnails=true", {method: "POST", body: file, headers: {"Content-Type": "application/octet-stream"}});
    return await response.json();
  } catch {
    return {error: "The server does not respond. Is longtail serve still running?"};
  }
}

async function work() {
  if (busy) return;
  busy = true;
  while (waiting.length) {
    at("status").textContent = `${waiting.length} to do: ${waiting[0].name}`;
    const file = waiting.shift();
    show(file, await ask(file));
    done += 1;
  }
  at("status").textContent = done === 1 ? "1 image done" : `${done} images done`;
  busy = false;
}

function take(files) {
  waiting.push(...files);
  work();
}

at("files").addEventListener("change", event => { take(event.target.files); event.target.value = ""; });
for (const kind of ["dragenter", "dragover"]) addEventListener(kind, event => { event.preventDefault(); at("drop").classList.add("over"); });
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", event => { event.preventDefault(); at("drop").classList.remove("over"); take(event.dataTransfer.files); });
addEventListener("paste", event => take(event.clipboardData.files));
at("address").textContent = `${location.origin}/predict`;
fetch("/about").then(response => response.json()).then(found => {
  about = found;
  document.title = at("name").textContent = found.name;
  at("about").textContent = `${found.classes.length} classes; the model sees ${found.image_size} by ${found.image_size} pixels.`;
});
