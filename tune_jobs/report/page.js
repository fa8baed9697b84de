// Draws the figures, in the colours of a light or dark page, and again at paper width for printing.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const names = Object.keys(data.figures);
  const paperWidth = 340; // CSS pixels of half the space between the margins of an A4 page

  const draw = (name, theme, width) => {
    const figure = data.figures[name];
    const layout = { ...figure.layout, template: data.themes[theme] };
    if (width) layout.width = width;
    const config = {
      displaylogo: false,
      responsive: !width,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { format: "svg", filename: name },
    };
    return Plotly.react(`figure-${name}`, figure.data, layout, config);
  };
  const drawAll = (theme, width) => Promise.all(names.map((name) => draw(name, theme, width)));
  const current = () => (dark.matches ? "dark" : "light");

  drawAll(current()).then(() => document.documentElement.setAttribute("data-drawn", String(names.length)));
  dark.addEventListener("change", () => drawAll(current()));
  addEventListener("beforeprint", () => drawAll("light", paperWidth));
  addEventListener("afterprint", () => drawAll(current()));
})();
