"""What the page brings along: its style, and the script that reads values at the pointer."""

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 "DejaVu Sans", Verdana, Helvetica, Arial, sans-serif; color: #1c2430; background: #fff;
  max-width: 1040px; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.5rem; margin: 0.5rem 0 0; }
h2 { font-size: 1.1rem; margin: 1.4rem 0 0.2rem; border-top: 1px solid #d7dde5; padding-top: 0.8rem; }
p { margin: 0.2rem 0 0.6rem; max-width: 62rem; }
header p, li { color: #4a5565; }
.note { background: #fff4e5; border-left: 4px solid #d9822b; padding: 0.4rem 0.8rem; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 0.6rem 0; }
th, td { padding: 0.15rem 0.9rem; border-bottom: 1px solid #e6eaf0; text-align: right;
  font-variant-numeric: tabular-nums; }
th[scope="row"], .text, th.text { text-align: left; font-weight: normal; }
.better, .worse { font-size: 0.8rem; border-radius: 3px; padding: 0 0.35rem; margin-left: 0.4rem; }
.better { background: #d6e8f5; color: #00456e; }
.worse { background: #fbe3c8; color: #7a3d00; }
figure { margin: 0; position: relative; }
figure svg { width: 100%; height: auto; display: block; }
.line { position: absolute; width: 1px; background: #1c2430; pointer-events: none; display: none; }
output { display: block; min-height: 1.5em; font-size: 0.8rem; color: #4a5565; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; font-size: 0.9rem; color: #4a5565; }
ul { margin: 0.2rem 0; padding-left: 1.2rem; font-size: 0.9rem; }
@media print { section { break-inside: avoid; } }
"""

# A pointer over one of the axes shows the same moment in all.
SCRIPT = """
"use strict";
const plots = [];
for (const figure of document.querySelectorAll("figure[data-plots]")) {
  for (const plot of JSON.parse(figure.dataset.plots)) {
    const line = document.createElement("div");
    line.className = "line";
    figure.append(line);
    plots.push({ ...plot, figure, line });
  }
}
function nearest(times, second) {
  let low = 0, high = times.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (times[middle] <= second) low = middle; else high = middle - 1;
  }
  return low;
}
function hide() {
  for (const plot of plots) {
    plot.line.style.display = "none";
    plot.figure.querySelector("output").textContent = "";
  }
}
function show(second) {
  hide();
  const texts = new Map();
  for (const plot of plots) {
    if (second < plot.start || second > plot.end) continue;
    const svg = plot.figure.querySelector("svg").getBoundingClientRect();
    const share = (second - plot.start) / (plot.end - plot.start);
    const style = plot.line.style;
    style.left = (plot.left + share * (plot.right - plot.left)) * svg.width + "px";
    style.top = plot.top * svg.height + "px";
    style.height = (plot.bottom - plot.top) * svg.height + "px";
    style.display = "block";
    const at = nearest(plot.times, second);
    const said = Object.entries(plot.values)
      .filter(([, values]) => values[at] !== null)
      .map(([name, values]) => name + " " + values[at].toLocaleString("en", { maximumFractionDigits: 2 }));
    texts.set(plot.figure, [...(texts.get(plot.figure) ?? []), said.join(", ")]);
  }
  for (const [figure, said] of texts)
    figure.querySelector("output").textContent = second.toFixed(1) + " s: " + said.filter(Boolean).join(" | ");
}
for (const figure of new Set(plots.map((plot) => plot.figure))) {
  figure.addEventListener("pointermove", (event) => {
    const svg = figure.querySelector("svg").getBoundingClientRect();
    const x = (event.clientX - svg.left) / svg.width;
    const plot = plots.find((one) => one.figure === figure && one.left <= x && x <= one.right);
    if (plot) show(plot.start + ((x - plot.left) / (plot.right - plot.left)) * (plot.end - plot.start));
    else hide();
  });
  figure.addEventListener("pointerleave", hide);
}
"""
