"use strict";
// Steps become tokens, hours or dollars; lines are coloured by arm, machine or seeds; and some are hidden.

function decoded(values) {  // plotly's form of an array of float32; hidden lines are not decoded by plotly
  if (!values.bdata) return Array.from(values);
  const bytes = Uint8Array.from(atob(values.bdata), (letter) => letter.charCodeAt(0));
  return Array.from(new Float32Array(bytes.buffer));
}

function placed(meta, steps, axis) {
  if (axis === "steps") return steps;
  if (axis === "tokens") return steps.map((step) => step * meta.tokens);
  if (axis === "hours") return meta.hours;
  return meta.usd === null ? meta.hours.map(() => null) : meta.hours.map((hours) => hours * meta.usd);
}

function shown(meta, controls) {
  const raw = controls.elements.raw;
  if (meta.kind === "band") return controls.elements.colour.value !== "seeds";  // it spans them
  if (!controls.elements.runs.checked) return false;
  if (meta.kind === "raw") return raw.checked;
  return true;
}

function redraw(chart, controls, steps) {
  const axis = controls.elements.x.value, by = controls.elements.colour.value;
  const palette = chart.layout.colorway, values = [...new Set(chart.data.map((trace) => trace.meta[by]))];
  const colours = chart.data.map((trace) => palette[values.indexOf(trace.meta[by]) % palette.length]);
  const fills = colours.map((colour, at) => chart.data[at].meta.kind === "band" ? colour + "2e" : null);
  Plotly.update(chart, {
    x: chart.data.map((trace, at) => placed(trace.meta, steps[at], axis)),
    visible: chart.data.map((trace) => shown(trace.meta, controls)),
    "line.color": colours, "marker.color": colours, fillcolor: fills,
  }, { "xaxis.title.text": axis, "yaxis.type": controls.elements.log.checked ? "log" : "linear",
       "xaxis.autorange": true, "yaxis.autorange": true });
}

for (const group of document.querySelectorAll(".controls")) {
  const chart = document.getElementById(group.dataset.chart);
  const found = [...group.querySelectorAll("[name]")];
  const controls = { elements: Object.fromEntries(found.map((each) => [each.name, each])) };
  const steps = chart.data.map((trace) => decoded(trace.x));
  for (const each of found) each.addEventListener("change", () => redraw(chart, controls, steps));
}
