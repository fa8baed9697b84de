// Keeps a page up to date: sections that changed are put in, figures are drawn again where they stand.
"use strict";
(() => {
  const body = document.body;
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 640px), (pointer: coarse)");
  const notice = document.getElementById("notice");
  const figures = new Map(); // name -> {figure, text, isNear, isDrawn}
  const known = new Map(); // id of a section -> the HTML it was last given
  const sorted = new Map(); // id of a table -> {column, isDown}
  let wanted = "";

  // Figures are drawn when they come near the window: a report has dozens.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const item = figures.get(entry.target.id.slice("figure-".length));
      if (!item) continue;
      item.isNear = entry.isIntersecting;
      if (item.isNear && !item.isDrawn) draw(entry.target);
    }
  }, { rootMargin: "400px" });

  function draw(box) {
    const name = box.id.slice("figure-".length);
    const item = figures.get(name);
    item.isDrawn = true;
    box.querySelector(".loading")?.remove();
    const layout = {
      ...item.figure.layout,
      template: themes[dark.matches ? "dark" : "light"],
      uirevision: "kept", // zoom and hidden traces stay when the figure is drawn again
    };
    Plotly.react(box, item.figure.data, layout, {
      displaylogo: false,
      responsive: true,
      displayModeBar: narrow.matches ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { format: "svg", filename: name },
    });
  }

  function put(part, payload) {
    const old = new Map([...part.querySelectorAll(".picture")].map((box) => [box.id, box]));
    for (const [name, figure] of Object.entries(payload.figures)) {
      const text = JSON.stringify(figure);
      const before = figures.get(name);
      if (before?.text === text) continue;
      figures.set(name, { figure, text, isNear: before?.isNear ?? false, isDrawn: false });
    }
    part.querySelectorAll(":scope > .wait").forEach((box) => box.remove());
    let last = null;
    const present = new Set();
    for (const { anchor, html } of payload.sections) {
      present.add(anchor);
      let section = document.getElementById(anchor);
      if (!section || known.get(anchor) !== html) {
        const fresh = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
        for (const box of fresh.querySelectorAll(".picture")) {
          if (old.has(box.id)) box.replaceWith(old.get(box.id));
        }
        if (section) {
          keepState(section, fresh);
          section.replaceWith(fresh);
        }
        section = fresh;
        known.set(anchor, html);
      }
      if (last ? last.nextElementSibling !== section : part.firstElementChild !== section) {
        last ? last.after(section) : part.prepend(section);
      }
      last = section;
    }
    for (const section of [...part.children]) if (!present.has(section.id)) section.remove();
    for (const box of part.querySelectorAll(".picture")) {
      const item = figures.get(box.id.slice("figure-".length));
      if (!item) continue;
      watcher.observe(box);
      if (item.isNear && !item.isDrawn) draw(box);
    }
    part.querySelectorAll("table.sortable").forEach(sort);
    part.querySelectorAll(".scroller:not([tabindex])").forEach((box) => box.setAttribute("tabindex", "0"));
    part.querySelectorAll(".scroller:not([role])").forEach((box) => {
      box.setAttribute("role", "region");
      const caption = box.parentElement.querySelector("figcaption")?.textContent;
      box.setAttribute("aria-label", (caption || "table").slice(0, 120));
    });
    choose();
    navigate();
    filter();
    tick();
  }

  // Of the Pareto fronts, the one against what the reader chose.
  function choose() {
    const choice = document.getElementById("pareto-against");
    if (!choice) return;
    const chosen = choice.value.split(",");
    for (const box of choice.closest("section").querySelectorAll(".pictures, figure.table")) {
      const id = box.id || box.querySelector(".picture")?.id || "";
      box.hidden = !chosen.includes(id.replace(/^(figure|table)-/, ""));
    }
  }
  body.addEventListener("change", (event) => { if (event.target.id === "pareto-against") choose(); });

  // What a reader opened, ticked, focused or scrolled stays.
  function keepState(old, fresh) {
    const opened = [...old.querySelectorAll("details")].map((box) => box.open);
    fresh.querySelectorAll("details").forEach((box, number) => { box.open = opened[number] ?? false; });
    for (const box of old.querySelectorAll("input[type=checkbox]:checked")) {
      const same = fresh.querySelector(`#${CSS.escape(box.id)}`);
      if (same) same.checked = true;
    }
    for (const box of old.querySelectorAll("select")) {
      const same = fresh.querySelector(`#${CSS.escape(box.id)}`);
      if (same) same.value = box.value;
    }
    const scrolls = [...old.querySelectorAll(".scroller")].map((box) => box.scrollLeft);
    const active = old.contains(document.activeElement) ? document.activeElement : null;
    const selector = "a, button, input, summary, [tabindex]";
    const index = active ? [...old.querySelectorAll(selector)].indexOf(active) : -1;
    requestAnimationFrame(() => {
      fresh.querySelectorAll(".scroller").forEach((box, number) => { box.scrollLeft = scrolls[number] ?? 0; });
      if (index < 0) return;
      const all = [...fresh.querySelectorAll(selector)];
      const same = active.id ? all.find((one) => one.id === active.id)
        : active.href ? all.find((one) => one.href === active.href) : all[index];
      same?.focus({ preventScroll: true });
    });
  }

  function navigate() {
    const list = document.querySelector("nav ul");
    const sections = [...document.querySelectorAll("main section")];
    const names = sections.map((section) => section.id);
    if (sections.length < 2 || list.dataset.names === names.join()) return;
    list.dataset.names = names.join();
    list.replaceChildren(...names.map((name) => {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = `#${name}`;
      link.textContent = name[0].toUpperCase() + name.slice(1);
      item.append(link);
      return item;
    }));
  }

  function sort(table) {
    const order = sorted.get(table.id);
    const heads = [...table.querySelectorAll("thead th")];
    heads.forEach((head, number) => {
      if (order?.column === number) head.setAttribute("aria-sort", order.isDown ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    if (!order) return;
    const of = (row) => row.cells[order.column]?.dataset.sort ?? row.cells[order.column]?.textContent ?? "";
    const rows = [...table.tBodies[0].rows];
    const compare = (a, b) => {
      const [x, y] = [of(a), of(b)];
      const [m, n] = [Number.parseFloat(x), Number.parseFloat(y)];
      const less = Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n;
      return order.isDown ? -less : less;
    };
    const after = [...rows].sort(compare);
    if (after.some((row, number) => row !== rows[number])) table.tBodies[0].append(...after);
  }

  body.addEventListener("click", (event) => {
    const button = event.target.closest("button.sort");
    if (!button) return;
    const table = button.closest("table");
    const column = button.closest("th").cellIndex;
    const before = sorted.get(table.id);
    sorted.set(table.id, { column, isDown: before?.column === column && !before.isDown });
    sort(table);
  });

  const tables = () => [...document.querySelectorAll("table.sortable")];
  let search = null;
  function filter() {
    const table = document.getElementById("searches-table");
    if (table && !search) {
      const label = document.createElement("label");
      label.className = "filter";
      label.append("Filter: ");
      search = document.createElement("input");
      search.type = "search";
      search.addEventListener("input", filter);
      label.append(search);
      document.querySelector("header").append(label);
    }
    const text = (search?.value ?? "").toLowerCase();
    for (const row of tables().flatMap((one) => [...one.tBodies[0].rows])) {
      row.hidden = text !== "" && !row.textContent.toLowerCase().includes(text);
    }
  }

  function ago(seconds) {
    if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s ago`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
    if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ago`;
    return `${Math.floor(seconds / 86400)} days ago`;
  }
  function tick() {
    for (const box of document.querySelectorAll("time.ago")) {
      const when = new Date(box.dateTime);
      box.title = when.toLocaleString();
      const text = ago((Date.now() - when) / 1000);
      if (box.textContent !== text) box.textContent = text;
    }
  }
  setInterval(tick, 1000);

  let isFetching = false;
  async function fetchReport(version) {
    wanted = version;
    if (isFetching) return;
    isFetching = true;
    try {
      while (true) {
        const asked = wanted;
        const answer = await fetch(body.dataset.report, { credentials: "same-origin" });
        if (answer.ok) put(document.getElementById("report-part"), await answer.json());
        if (asked === wanted) break;
      }
    } catch { /* the stream tells when the server is back */ } finally { isFetching = false; }
  }

  // A browser keeps six connections to a server for all of its tabs: hidden tabs give theirs back.
  let stream = null;
  let lostAt = null; // when the server was last heard of, while it does not answer
  let clearing = 0;
  function say(text, isLost) {
    clearTimeout(clearing);
    if (notice.textContent !== text) notice.textContent = text;
    notice.classList.toggle("lost", isLost);
  }
  function connect() {
    if (stream || document.hidden) return;
    stream = new EventSource(body.dataset.events);
    stream.addEventListener("open", () => {
      say(lostAt ? `Connected again. All that was recorded since ${lostAt} is here.` : "", false);
      if (lostAt) clearing = setTimeout(() => say("", false), 10_000);
      lostAt = null;
    });
    stream.addEventListener("now", (event) => put(document.getElementById("now-part"), JSON.parse(event.data)));
    stream.addEventListener("report", (event) => fetchReport(event.data));
    stream.addEventListener("error", lost);
  }
  async function lost() {
    lostAt ??= new Date().toLocaleTimeString();
    let text = `The server has not answered since ${lostAt}. This is what it said last; the page connects again by itself.`;
    if (stream?.readyState === EventSource.CLOSED) { // otherwise the browser tries again
      stream = null;
      setTimeout(connect, 3000);
      text = (await refusal()) ?? text;
    }
    if (lostAt) say(text, true);
  }
  async function refusal() {
    try {
      const { status } = await fetch(location.pathname, { method: "HEAD", credentials: "same-origin" });
      if (status === 401) return "The server was started again with another token: open the address that it printed.";
      if (status === 404) return "The server does not show this search any more.";
    } catch { /* it does not answer */ }
    return null;
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { stream?.close(); stream = null; } else connect();
  });
  dark.addEventListener("change", () => {
    for (const box of document.querySelectorAll(".picture")) {
      const item = figures.get(box.id.slice("figure-".length));
      if (item?.isDrawn) draw(box);
    }
  });
  connect();
})();
