"use strict";
// Charts are drawn as they come near the screen. Those of curves are drawn anew whenever a control changes: over steps,
// tokens, hours or dollars, with lines coloured by arm, machine or seeds, and with those hidden that nobody asks for.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const form = document.querySelector(".controls");
const narrow = matchMedia("(max-width: 40rem)");
const PAGE_PIXELS = 680;  // across a printed page
const LEGEND_PIXELS = 120;
const figures = new Map();
let isPrinting = false;

function numbers(packed) {  // the bytes of 32-bit floats
  const bytes = Uint8Array.from(atob(packed.bdata), (letter) => letter.charCodeAt(0));
  return Array.from(new Float32Array(bytes.buffer));
}

const clocks = read("clocks").map((clock) => ({ ...clock, steps: numbers(clock.steps), hours: numbers(clock.hours) }));

function hoursAt(clock, step) {  // between two knots the speed is even
  let low = 0, high = clock.steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (clock.steps[middle] <= step) low = middle; else high = middle;
  }
  const share = (step - clock.steps[low]) / (clock.steps[high] - clock.steps[low] || 1);
  return clock.hours[low] + share * (clock.hours[high] - clock.hours[low]);
}

function placed(clock, steps, axis) {
  if (axis === "steps") return steps;
  if (axis === "tokens") return steps.map((step) => step * clock.tokens);
  if (axis === "hours") return steps.map((step) => hoursAt(clock, step));
  return steps.map((step) => clock.usd === null ? null : hoursAt(clock, step) * clock.usd);
}

const value = (name) => form.elements[name].value;
const isOn = (name) => Boolean(form.elements[name]?.checked);
const chosen = (name, one) => {
  const boxes = [...form.querySelectorAll(`[name=${name}]`)];
  return !boxes.length || boxes.some((box) => box.checked && box.value === one);
};

function isShown(meta) {
  if (!chosen("arm", meta.arm) || !chosen("machine", meta.machine)) return false;
  const isBySeeds = value("colour") === "seeds";  // a band spans them
  if (meta.kind === "band") return isOn("band") && !isBySeeds;
  if (meta.kind === "mean") return !isBySeeds;
  if (meta.kind === "run") return isOn("runs") || isBySeeds;
  if (meta.kind === "raw") return isOn("raw");
  if (meta.kind === "mark") return isOn("marks");
  return true;
}

function curves(figure) {  // as the controls want them
  const by = value("colour"), axis = value("x"), palette = document.body.dataset.colours.split(" ");
  const values = [...new Set(figure.data.map((trace) => trace.meta[by]))].filter((one) => one !== "all");
  const colour = (trace) => by === "arm" ? trace.line.color : palette[values.indexOf(trace.meta[by]) % palette.length];
  const first = Math.max(...figure.data.map((trace) => trace.x[trace.x.length - 1] || 0)) * Number(value("skip"));
  const data = figure.data.map((trace) => {
    const kept = trace.x.map((step) => step >= first), keep = (all) => all?.filter?.((_, at) => kept[at]) ?? all;
    const paint = trace.line.color ? colour(trace) : trace.line.color;
    return { ...trace, x: placed(clocks[trace.meta.clock], keep(trace.x), axis), y: keep(trace.y),
      visible: isShown(trace.meta), line: { ...trace.line, color: paint },
      ...(trace.customdata && { customdata: keep(trace.customdata) }),
      ...(trace.marker && { marker: { ...trace.marker, color: paint } }),
      ...(trace.meta.kind === "band" && by === "machine" && { fillcolor: colour(trace) + "2e" }) };
  });
  const log = isOn("log"), { xaxis, yaxis, annotations = [] } = figure.layout;
  const layout = { ...figure.layout,
    xaxis: { ...xaxis, title: { text: axis }, type: isOn("logx") ? "log" : "linear" },
    yaxis: { ...yaxis, type: log ? "log" : "linear" },
    annotations: annotations.map((one) => ({ ...one, y: log ? Math.log10(one.y) : one.y })) };
  return { data, layout };
}

function fitted(layout) {  // to a phone, where there is no room beside a chart, and to paper
  const hasCurves = Boolean(layout.yaxis2);
  const height = layout.height + (hasCurves && layout.showlegend ? LEGEND_PIXELS : 0);  // a legend of shorter lines
  if (isPrinting) return { ...layout, width: PAGE_PIXELS, height, autosize: false };
  if (!narrow.matches) return layout;
  const isOfNames = layout.yaxis.type === "category";
  return { ...layout, font: { ...layout.font, size: 11 },
    yaxis: { ...layout.yaxis, ...(isOfNames && { ticklabelposition: "inside top", tickfont: { size: 10 } }) },
    legend: { ...layout.legend, font: { size: 10 } }, showlegend: layout.showlegend && !hasCurves };
}

function draw(plot) {
  if (!figures.has(plot.id)) {
    const figure = read(`${plot.id}-figure`);
    if (isCurves(plot)) {
      for (const trace of figure.data) Object.assign(trace, { x: numbers(trace.x), y: numbers(trace.y) });
    }
    figures.set(plot.id, figure);
  }
  const figure = figures.get(plot.id);
  const { data, layout } = isCurves(plot) ? curves(figure) : figure;
  const drawn = Plotly.react(plot, data, fitted(layout), { displayModeBar: false, responsive: !isPrinting });
  document.getElementById("js-plotly-tester").ariaHidden = "true";  // where plotly measures text: nothing to hear
  return drawn;
}

const plots = [...document.querySelectorAll(".plot")];
const isCurves = (plot) => plot.classList.contains("curves");
const redraw = (which = () => true) => plots.filter((plot) => figures.has(plot.id) && which(plot)).forEach(draw);
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) {
      near.unobserve(target);
      draw(target).then(() => target.on("plotly_legendclick", toggle));
    }
  }
}, { rootMargin: "400px" });
plots.forEach((plot) => near.observe(plot));

function toggle(event) {  // a click in a legend is one on the arm's box
  const meta = event.data[event.curveNumber].meta;
  const box = form && meta && [...form.querySelectorAll("[name=arm]")].find((one) => one.value === meta.arm);
  if (!box) return true;
  box.checked = !box.checked;
  redraw(isCurves);
  return false;
}

form?.addEventListener("change", () => redraw(isCurves));
form?.addEventListener("submit", (event) => event.preventDefault());
form?.addEventListener("click", ({ target }) => {
  if (target.type !== "button") return;
  for (const box of form.querySelectorAll("[name=arm]")) box.checked = target.name === "all";
  redraw(isCurves);
});
narrow.addEventListener("change", () => redraw());

const folded = () => document.querySelectorAll("main details:not([open])");
let opened = [];
addEventListener("beforeprint", () => {
  isPrinting = true;
  opened = [...folded()];
  opened.forEach((one) => { one.open = true; });
  plots.forEach(draw);
});
addEventListener("afterprint", () => {
  isPrinting = false;
  opened.forEach((one) => { one.open = false; });
  redraw();
});
