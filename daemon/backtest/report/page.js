"use strict";
// Draws every plot of the page in the reader's colour scheme, and again when that changes.
(() => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 40rem)");

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return { back: of("--back"), fore: of("--fore"), rule: of("--rule"), card: of("--card") };
  };

  const dressed = (layout) => {
    const { back, fore, rule, card } = colours();
    const copy = JSON.parse(JSON.stringify(layout));
    for (const key of Object.keys(copy)) {
      if (/^[xy]axis/.test(key)) {
        copy[key] = { gridcolor: rule, linecolor: rule, zerolinecolor: rule, ...copy[key] };
      }
    }
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: fore, family: "system-ui, sans-serif", size: narrow.matches ? 11 : 12 },
      hoverlabel: { namelength: 40, bgcolor: card, bordercolor: rule, font: { color: fore } },
      hovermode: "x",
      dragmode: narrow.matches ? false : "zoom",
      margin: { l: 8, r: 8, t: 8, b: 8, pad: 2 },
      legend: { orientation: "h", y: -0.16, yanchor: "top", x: 0, bgcolor: back },
      ...copy,
    };
  };

  const draw = async () => {
    let drawn = 0;
    for (const [id, plot] of Object.entries(plots)) {
      const config = { displaylogo: false, responsive: true, displayModeBar: narrow.matches ? false : "hover" };
      await Plotly.react(document.getElementById(id), plot.data, dressed(plot.layout), config);
      drawn += 1;
    }
    document.documentElement.dataset.drawn = String(drawn);
    document.documentElement.dataset.scheme = dark.matches ? "dark" : "light";
  };

  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  draw();
})();
