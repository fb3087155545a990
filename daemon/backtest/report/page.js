"use strict";
// Draws every plot of the page in the reader's colour scheme, and again when that changes.
(() => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 40rem)");

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return { fore: of("--fore"), soft: of("--soft"), rule: of("--rule"), card: of("--card") };
  };

  const dressed = (layout) => {
    const { fore, soft, rule, card } = colours();
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
      showlegend: true,
      dragmode: narrow.matches ? false : "zoom",
      margin: { l: 8, r: 8, t: 8, b: 8, pad: 2 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, bgcolor: "rgba(0,0,0,0)" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: fore },
      ...copy,
    };
  };

  const draw = async () => {
    let drawn = 0;
    for (const [id, plot] of Object.entries(plots)) {
      const config = {
        displaylogo: false,
        displayModeBar: narrow.matches ? false : "hover",
        modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]], // none that sends the plot somewhere
        responsive: true,
      };
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
