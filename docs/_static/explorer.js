"use strict";

/* The explorer: its form holds the state, and the table, the plot and the address follow it. */

(() => {
  const { COLUMNS, VIEWS, prepare, select, sort, coordinates, text, csv, page } = ExplorerRows;
  const COSTS = ["params", "macs"];
  const form = document.getElementById("explorer");
  const find = (selector) => form.querySelector(selector);
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  let shown = [];

  prepare(data);
  const times = data.times.map((time) => time.key);
  const families = [...new Set(data.networks.map((row) => row.family))].sort();
  const licenses = [...new Set(data.checkpoints.map((row) => row.license))].sort();

  function create(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function fillForm() {
    const options = (values, title) => values.map((v) => create("option", { value: v }, title(v)));
    const column = (key) => COLUMNS[key].title;
    find("[name=license]").append(...options(licenses, (name) => name));
    find("[name=x]").append(...options(COSTS, column));
    find("[name=y]").append(...options(["imagenet", "year", ...times], column));
    for (const [index, family] of families.entries()) {
      const box = create("input", { type: "checkbox", name: "family", value: family });
      const label = create("label", {}, box, ExplorerPlot.sample(index), family);
      for (const event of ["pointerenter", "focusin"]) {
        label.addEventListener(event, () => highlight(family));
      }
      for (const event of ["pointerleave", "focusout"]) {
        label.addEventListener(event, () => highlight(null));
      }
      find(".choices").append(label);
    }
  }

  function highlight(family) {
    for (const point of form.querySelectorAll(".point")) {
      point.classList.toggle("dim", family !== null && point.dataset.family !== family);
    }
  }

  function filters() {
    const values = new FormData(form);
    return { ...Object.fromEntries(values), families: values.getAll("family") };
  }

  /* Times are measured for networks, so checkpoints have none. */
  function allowValues(view) {
    for (const option of find("[name=y]").options) {
      option.disabled = view === "checkpoints" && times.includes(option.value);
      if (option.disabled && option.selected) find("[name=y]").value = "imagenet";
    }
    find("[name=weights]").disabled = view === "checkpoints";
    const key = form.elements.sort.value.replace(/^-/, "");
    if (!VIEWS[view].includes(key)) form.elements.sort.value = VIEWS[view][0];
  }

  function update() {
    allowValues(form.elements.view.value);
    const now = filters();
    shown = sort(select(data, now), now.sort);
    const all = data[now.view].length;
    find(".count").textContent = `${shown.length} of ${all} ${now.view}`;
    showHead(now.view, now.sort);
    showRows(VIEWS[now.view]);
    showPlot(now);
    saveState();
  }

  function showHead(view, by) {
    const table = find("table");
    if (table.dataset.view !== view) {
      table.dataset.view = view;
      const cells = VIEWS[view].map((key) => {
        const button = create("button", { type: "button", "data-key": key }, COLUMNS[key].title);
        const { number, wide } = COLUMNS[key];
        const kind = [number && "number", wide && "wide"].filter(Boolean).join(" ");
        return create("th", { scope: "col", class: kind }, button);
      });
      const caption = create("caption", {}, `All ${view} that match the filters`);
      const head = create("thead", {}, create("tr", {}, ...cells));
      table.replaceChildren(caption, head, create("tbody"));
    }
    for (const button of table.querySelectorAll("thead button")) {
      const { key } = button.dataset;
      const order = { [key]: "ascending", [`-${key}`]: "descending" }[by] || "none";
      button.parentElement.setAttribute("aria-sort", order);
    }
  }

  function showRows(keys) {
    const rows = shown.map((row) => create("tr", {}, ...keys.map((key, i) => cell(row, key, i))));
    find("tbody").replaceChildren(...rows);
  }

  function cell(row, key, index) {
    const { link, number, code } = COLUMNS[key];
    const href = link && link(row);
    let content = text(row, key);
    if (code && content) content = create("code", {}, content);
    if (href && content) content = create("a", { href }, content);
    const attributes = index ? { class: number ? "number" : "" } : { scope: "row" };
    return create(index ? "td" : "th", attributes, content);
  }

  function showPlot(now) {
    const [x, y] = [COLUMNS[now.x], COLUMNS[now.y]];
    const points = [];
    for (const row of shown) {
      const [u, v] = coordinates(row, now.x, now.y);
      if (u === undefined || v === undefined) continue;
      const tag = row.tag || (now.y === "imagenet" ? row.best_tag : "");
      const name = [row.name || row.network, tag].filter(Boolean).join(" ");
      const pixels = tag ? `, ${row.pixels} pixels` : "";
      const values = `${x.title}: ${x.number(u)}. ${y.title}: ${y.number(v)}.`;
      const label = `${name}${pixels}. ${values}`;
      const color = families.indexOf(row.family);
      points.push({ x: u, y: v, name, label, color, family: row.family, href: page(row) });
    }
    const axis = ({ title, number, log }) => ({ title, log, format: log ? number : String });
    ExplorerPlot.draw(find(".plot"), points, { x: axis(x), y: axis(y) });
    const missing = shown.length - points.length;
    find(".plotted").textContent =
      `The plot shows ${points.length} ${now.view}; ${missing} without a value. ` +
      (now.view === "networks" && now.y === "imagenet"
        ? `The ${now.x === "macs" ? "MACs" : "parameters"} are those of the best checkpoint for ` +
          "images of its size, as in the table of checkpoints."
        : "The table below has the same values.");
  }

  /* Keep every value that is not the default in the part of the address after "#". */
  function saveState() {
    const state = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      if (value !== defaults.get(name)) state.append(name, value);
    }
    const address = location.href.split("#")[0];
    history.replaceState(null, "", [address, state.toString()].filter(Boolean).join("#"));
  }

  function readState() {
    const state = new URLSearchParams(location.hash.slice(1));
    reset();
    for (const [name, value] of state) {
      const field = form.elements[name];
      if (!field) continue;
      if (name === "family") {
        for (const box of field) if (box.value === value) box.checked = true;
      } else if (field.type === "checkbox") {
        field.checked = true;
      } else if (field.tagName !== "SELECT" || [...field.options].some((o) => o.value === value)) {
        field.value = value;
      }
    }
    if (!VIEWS[form.elements.view.value]) form.elements.view.value = "networks";
    update();
  }

  function reset() {
    form.reset();
    form.elements.sort.value = "name"; // form.reset() keeps hidden values
  }

  function download() {
    const { view } = filters();
    const file = new Blob([csv(shown, VIEWS[view])], { type: "text/csv" });
    const link = create("a", { href: URL.createObjectURL(file), download: `cnnarch-${view}.csv` });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  fillForm();
  const defaults = new URLSearchParams(new FormData(form));
  form.hidden = false;
  if (matchMedia("(max-width: 46em)").matches) {
    find(".families").open = false;
    find(".bounds").open = location.hash.includes("=");
  }
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  find(".reset").addEventListener("click", () => (reset(), update()));
  find(".download").addEventListener("click", download);
  find(".skip").addEventListener("click", () => find(".rows").focus());
  find("table").addEventListener("click", ({ target }) => {
    const { key } = target.dataset;
    if (!key) return;
    form.elements.sort.value = form.elements.sort.value === key ? `-${key}` : key;
    update();
  });
  window.addEventListener("hashchange", () => location.hash.includes("=") && readState());
  new ResizeObserver(() => showPlot(filters())).observe(find(".plot"));
  readState();
})();
