// points that are pointed at, zoomed into and followed to their class
//   holder: element; x, y: coordinates of the points; mark: point -> [name of its colour, whether it is a cross]
//   ticks: whether axes have numbers; log: whether x is logarithmic; tip: point -> elements; pick: called with a point
//   bars: point -> [low, high] or null; order: points from the left for the arrow keys
const SVG = "http://www.w3.org/2000/svg";
const NEAR = 28;  // pixels
class Plot {
  constructor(options) {
    Object.assign(this, { radius: 5, height: 380, bars: null, view: null, at: -1 }, options);
    this.count = this.x.length;
    this.full = this.domain();
    this.svg = document.createElementNS(SVG, "svg");
    for (const [key, value] of [["role", "img"], ["tabindex", "0"], ["aria-label", this.label]]) this.svg.setAttribute(key, value);
    this.tooltip = make("div", { class: "tip", role: "status", hidden: "" });
    this.reset = make("button", { class: "button", type: "button", hidden: "", onclick: () => this.zoom(null) }, "Show everything");
    this.holder.append(this.svg, this.tooltip, this.reset);
    this.listen();
    new ResizeObserver(() => { if (this.holder.clientWidth !== this.width) this.draw(); }).observe(this.holder);
    this.draw();
  }
  domain() {
    const scale = this.log ? Math.log : v => v, ends = values => [Math.min(...values), Math.max(...values)];
    const [a, b] = ends(this.x.map(scale)), [c, d] = this.limits || ends(this.y);
    const side = .04 * (b - a) || .5;
    return [a - side, b + side, c - .04 * (d - c || 1), d + .04 * (d - c || 1)];
  }
  place(i) {
    const [a, b, c, d] = this.view || this.full, [left, top, width, height] = this.box;
    const x = this.log ? Math.log(this.x[i]) : this.x[i];
    return [left + width * (x - a) / (b - a), top + height * (d - this.y[i]) / (d - c)];
  }
  at_y(value) { const [, , c, d] = this.view || this.full, [, top, , height] = this.box; return top + height * (d - value) / (d - c); }
  inside(x, y) { const [l, t, w, h] = this.box; return x >= l - 1 && x <= l + w + 1 && y >= t - 1 && y <= t + h + 1; }
  draw() {
    this.width = this.holder.clientWidth;
    const margin = this.ticks ? [46, 10, 12, 44] : [6, 6, 6, 6];  // left, top, right, bottom
    this.box = [margin[0], margin[1], this.width - margin[0] - margin[2], this.height - margin[1] - margin[3]];
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.setAttribute("height", this.height);
    const parts = this.ticks ? this.axes() : [];
    const crosses = [];
    for (let i = 0; i < this.count; i++) {
      const [x, y] = this.place(i);
      if (!this.inside(x, y)) continue;
      const bar = this.bars && this.bars(i), [colour, cross] = this.mark(i), r = this.radius;
      if (bar) parts.push(`<line class="e" x1="${x.toFixed(1)}" x2="${x.toFixed(1)}" y1="${this.at_y(bar[0]).toFixed(1)}" y2="${this.at_y(bar[1]).toFixed(1)}"/>`);
      if (cross) crosses.push(`<path class="x ${colour}" d="M${(x - r).toFixed(1)} ${(y - r).toFixed(1)}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}"/>`);
      else parts.push(`<circle class="p ${colour}" cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${r}"/>`);
    }
    this.svg.innerHTML = [...parts, ...crosses].join("");  // numbers and names of colours only
    this.ring = document.createElementNS(SVG, "circle");
    this.ring.setAttribute("class", "ring");
    this.ring.setAttribute("r", this.radius + 4);
    this.svg.append(this.ring);
    this.point(-1);
  }
  axes() {
    const [a, b, c, d] = this.view || this.full, [left, top, width, height] = this.box, found = [];
    for (const value of this.log ? logTicks(Math.exp(a), Math.exp(b), width) : ticks(a, b, width / 90)) {
      const x = (left + width * ((this.log ? Math.log(value) : value) - a) / (b - a)).toFixed(1);
      found.push(`<line class="grid" x1="${x}" x2="${x}" y1="${top}" y2="${top + height}"/><text x="${x}" y="${top + height + 18}" text-anchor="middle">${whole(value)}</text>`);
    }
    for (const value of ticks(Math.max(c, 0), Math.min(d, 100), 5)) {
      const y = this.at_y(value).toFixed(1);
      found.push(`<line class="grid" x1="${left}" x2="${left + width}" y1="${y}" y2="${y}"/><text x="${left - 8}" y="${+y + 4}" text-anchor="end">${value}</text>`);
    }
    found.push(`<text class="axis" x="${left + width / 2}" y="${this.height - 6}" text-anchor="middle">training images of the class</text><text class="axis" transform="translate(12 ${top + height / 2}) rotate(-90)" text-anchor="middle">accuracy in %</text>`);
    return found;
  }
  nearest(x, y) {
    let best = -1, least = NEAR ** 2;
    for (let i = 0; i < this.count; i++) {
      const [px, py] = this.place(i), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least && this.inside(px, py)) { least = distance; best = i; }
    }
    return best;
  }
  point(i) {
    this.at = i;
    this.tooltip.hidden = i < 0;
    this.ring.setAttribute("visibility", i < 0 ? "hidden" : "visible");
    if (i < 0) return;
    const [x, y] = this.place(i);
    this.ring.setAttribute("cx", x);
    this.ring.setAttribute("cy", y);
    this.tooltip.replaceChildren(...this.tip(i));
    const wide = this.tooltip.offsetWidth, high = this.tooltip.offsetHeight;
    this.tooltip.style.left = `${Math.max(0, Math.min(x + 14, this.width - wide))}px`;
    this.tooltip.style.top = `${y - high - 12 > 0 ? y - high - 12 : y + 14}px`;
  }
  zoom(view) {
    this.view = view;
    this.reset.hidden = view === null;
    this.draw();
  }
  listen() {
    const where = event => { const box = this.svg.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    let from = null, frame = null;
    this.svg.addEventListener("pointerdown", event => { if (event.pointerType === "mouse") from = where(event); });
    this.svg.addEventListener("pointermove", event => {
      const [x, y] = where(event);
      if (!from) return this.point(this.nearest(x, y));
      if (!frame && Math.hypot(x - from[0], y - from[1]) > 8) {
        frame = document.createElementNS(SVG, "rect");
        frame.setAttribute("class", "zoom");
        this.svg.append(frame);
        this.svg.setPointerCapture(event.pointerId);
        this.point(-1);
      }
      if (frame) for (const [key, value] of [["x", Math.min(x, from[0])], ["y", Math.min(y, from[1])], ["width", Math.abs(x - from[0])], ["height", Math.abs(y - from[1])]]) frame.setAttribute(key, value);
    });
    this.svg.addEventListener("pointerup", event => {
      const [x, y] = where(event), begun = from, dragged = frame;
      from = frame = null;
      if (dragged && Math.abs(x - begun[0]) > 8 && Math.abs(y - begun[1]) > 8) return this.zoom(this.part(begun, [x, y]));
      if (dragged) return this.draw();
      const i = this.nearest(x, y);
      if (i >= 0) this.pick(i);
    });
    this.svg.addEventListener("pointercancel", () => { from = frame = null; });
    this.svg.addEventListener("pointerleave", () => { if (!frame) { from = null; if (document.activeElement !== this.svg) this.point(-1); } });
    this.svg.addEventListener("blur", () => this.point(-1));
    this.svg.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) {
        const now = this.order.indexOf(this.at);
        this.point(this.order[now < 0 ? 0 : (now + step + this.count) % this.count]);
      } else if (event.key === "Home" || event.key === "End") this.point(this.order.at(event.key === "Home" ? 0 : -1));
      else if (event.key === "Enter" && this.at >= 0) this.pick(this.at);
      else if (event.key === "+" || event.key === "-") this.zoom(this.nearer(event.key === "+" ? .6 : 1 / .6));
      else if (event.key === "0" || event.key === "Escape") this.zoom(null);
      else return;
      event.preventDefault();
    });
  }
  // the part of the plane between two corners, in pixels
  part(one, other) {
    const [a, b, c, d] = this.view || this.full, [left, top, width, height] = this.box;
    const x = [one[0], other[0]].sort((m, n) => m - n).map(v => a + (b - a) * (v - left) / width);
    const y = [one[1], other[1]].sort((m, n) => n - m).map(v => d - (d - c) * (v - top) / height);
    return [...x, ...y];
  }
  nearer(factor) {
    const [a, b, c, d] = this.view || this.full, i = this.at;
    const x = i < 0 ? (a + b) / 2 : this.log ? Math.log(this.x[i]) : this.x[i], y = i < 0 ? (c + d) / 2 : this.y[i];
    return [x - (x - a) * factor, x + (b - x) * factor, y - (y - c) * factor, y + (d - y) * factor];
  }
}
function ticks(low, high, most) {
  const raw = (high - low) / Math.max(2, most), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(n => n * power).find(s => s >= raw), found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9; value += step) found.push(Number(value.toPrecision(6)));
  return found;
}
function logTicks(low, high, width) {
  const found = [];
  for (const steps of [[1], [1, 3], [1, 2, 5], [1, 2, 3, 4, 5, 6, 8]]) {
    found.length = 0;
    for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10)
      for (const s of steps) if (s * power >= low && s * power <= high) found.push(Number((s * power).toPrecision(6)));
    if (found.length >= 4 || found.length * 60 > width) break;
  }
  return found;
}
