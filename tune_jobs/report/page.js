// Draws the figures, in the colours of a light or dark page, and again at paper width for printing.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 640px), (pointer: coarse)");
  const names = Object.keys(data.figures);
  const paperWidth = 700; // CSS pixels of the space between the margins of an A4 page

  const draw = (name, theme, width) => {
    const figure = data.figures[name];
    const layout = { ...figure.layout, template: data.themes[theme] };
    if (width) layout.width = width;
    const config = {
      displaylogo: false,
      responsive: !width,
      displayModeBar: narrow.matches ? false : "hover", // on a phone it would lie over the title
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { format: "svg", filename: name },
    };
    const box = document.getElementById(`figure-${name}`);
    box.querySelector(".loading")?.remove();
    return Plotly.react(box, figure.data, layout, config);
  };
  const drawAll = (theme, width) => Promise.all(names.map((name) => draw(name, theme, width)));
  const current = () => (dark.matches ? "dark" : "light");

  // What can be scrolled sideways fades out on the side where there is more.
  const scrollers = document.querySelectorAll(".scroller, nav ul");
  const mark = (box) => {
    const left = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.classList.toggle("more-right", left > 1);
    box.classList.toggle("more-left", box.scrollLeft > 1);
  };
  const markAll = () => scrollers.forEach(mark);
  scrollers.forEach((box) => box.addEventListener("scroll", () => mark(box), { passive: true }));
  addEventListener("resize", markAll);
  markAll();

  drawAll(current()).then(() => document.documentElement.setAttribute("data-drawn", String(names.length)));
  dark.addEventListener("change", () => drawAll(current()));
  const closed = [];
  addEventListener("beforeprint", () => {
    closed.push(...document.querySelectorAll("details:not([open])"));
    closed.forEach((details) => details.setAttribute("open", ""));
    drawAll("light", paperWidth);
  });
  addEventListener("afterprint", () => {
    closed.splice(0).forEach((details) => details.removeAttribute("open"));
    drawAll(current());
  });
})();
