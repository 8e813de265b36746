"use strict";

/* The explorer's plot: axes, and one marker for each row, drawn as SVG. */

const ExplorerPlot = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MARGIN = { top: 12, right: 16, bottom: 44, left: 60 };
  const COLORS = 8; // explorer.css defines them; with five shapes there are 40 kinds of markers
  const SHAPES = [
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z",
    "M-4 -4H4V4H-4Z",
    "M0 -5.5L5 4H-5Z",
    "M0 -6L6 0L0 6L-6 0Z",
    "M-2 -5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5V-2H-2Z",
  ];

  function element(name, attributes = {}, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function marker(family) {
    const shape = SHAPES[Math.floor(family / COLORS) % SHAPES.length];
    return element("path", { d: shape, class: `marker color-${family % COLORS}` });
  }

  /* Return a small picture of a family's marker for the legend. */
  function sample(family) {
    const attributes = { viewBox: "-7 -7 14 14", width: 14, height: 14, "aria-hidden": "true" };
    return element("svg", attributes, marker(family));
  }

  /* Return ticks at round values: digits times powers of ten on a logarithmic axis. */
  function ticks(low, high, log, count) {
    if (log) {
      for (const digits of [[1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
        const found = [];
        for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
          found.push(...digits.map((digit) => digit * 10 ** power));
        }
        const inside = found.filter((value) => value >= low && value <= high);
        if (inside.length >= 2 && (inside.length <= count || digits.length === 1)) return inside;
      }
    }
    const power = 10 ** Math.floor(Math.log10((high - low) / count));
    const step = [1, 2, 5, 10].map((k) => k * power).find((s) => (high - low) / s <= count);
    const first = Math.ceil(low / step);
    const last = Math.floor(high / step + 1e-9);
    const size = Math.max(0, last - first + 1);
    return Array.from({ length: size }, (_, i) => Number(((first + i) * step).toPrecision(12)));
  }

  /* Return an axis over the values: `at` maps a value to a position. */
  function axis(values, log, from, to, pixels) {
    const [on, off] = log ? [Math.log10, (v) => 10 ** v] : [(v) => v, (v) => v];
    const [low, high] = [on(Math.min(...values)), on(Math.max(...values))];
    const pad = (high - low) * 0.04 || 0.5;
    const [start, end] = [low - pad, high + pad];
    const count = Math.max(2, Math.floor(Math.abs(to - from) / pixels));
    return {
      at: (value) => from + ((on(value) - start) / (end - start)) * (to - from),
      ticks: ticks(off(start), off(end), log, count),
    };
  }

  function drawAxes(svg, x, y, size) {
    const { top, right, bottom, left } = MARGIN;
    const group = element("g", { class: "axes", "aria-hidden": "true" });
    const [width, height] = [size.width - right, size.height - bottom];
    for (const value of x.axis.ticks) {
      const at = x.axis.at(value);
      const label = element("text", { x: at, y: height + 18, "text-anchor": "middle" });
      label.append(x.format(value));
      label.dataset.value = value;
      group.append(element("line", { x1: at, x2: at, y1: top, y2: height }), label);
    }
    for (const value of y.axis.ticks) {
      const at = y.axis.at(value);
      const label = element("text", { x: left - 8, y: at + 4, "text-anchor": "end" });
      label.append(y.format(value));
      label.dataset.value = value;
      group.append(element("line", { x1: left, x2: width, y1: at, y2: at }), label);
    }
    const title = { "text-anchor": "middle", class: "title" };
    const middle = (top + height) / 2;
    const turned = `translate(14 ${middle}) rotate(-90)`;
    group.append(
      element("text", { ...title, x: (left + width) / 2, y: size.height - 6 }, x.title),
      element("text", { ...title, transform: turned }, y.title),
    );
    svg.append(group);
  }

  /* Draw points ({x, y, family, color, label, href}) in a box of the page.

     The points are one tab stop: the arrow keys go from point to point, and Enter opens a link. */
  function draw(box, points, axes) {
    const width = Math.max(280, box.clientWidth);
    const size = { width, height: Math.round(Math.min(480, Math.max(300, width * 0.55))) };
    const svg = element("svg", { ...size, viewBox: `0 0 ${size.width} ${size.height}` });
    svg.setAttribute("role", "group");
    svg.setAttribute("aria-label", `${axes.y.title} against ${axes.x.title}`);
    box.querySelector("svg")?.remove();
    box.querySelector(".tip").hidden = true;
    box.prepend(svg);
    if (!points.length) return;
    const { top, right, bottom, left } = MARGIN;
    const [xs, ys] = [points.map((p) => p.x), points.map((p) => p.y)];
    const x = { ...axes.x, axis: axis(xs, axes.x.log, left, size.width - right, 60) };
    const y = { ...axes.y, axis: axis(ys, axes.y.log, size.height - bottom, top, 40) };
    drawAxes(svg, x, y, size);
    points.sort((a, b) => a.x - b.x || a.y - b.y);
    for (const [index, point] of points.entries()) {
      const [px, py] = [x.axis.at(point.x), y.axis.at(point.y)];
      const link = element("a", { href: point.href, "aria-label": point.label, class: "point" });
      link.setAttribute("transform", `translate(${px.toFixed(2)} ${py.toFixed(2)})`);
      link.setAttribute("tabindex", index ? "-1" : "0");
      Object.assign(link.dataset, { family: point.family, name: point.name });
      link.append(marker(point.color));
      svg.append(link);
    }
    listen(box, svg);
  }

  function listen(box, svg) {
    const points = [...svg.querySelectorAll(".point")];
    const tip = box.querySelector(".tip");
    let shown = null;
    let isTouch = false;
    const show = (point) => {
      shown = point;
      const { left, top, width } = box.getBoundingClientRect();
      const at = point.getBoundingClientRect();
      tip.textContent = point.getAttribute("aria-label");
      tip.hidden = false;
      const side = (at.left + at.right) / 2 - left - tip.offsetWidth / 2;
      const free = width - tip.offsetWidth;
      tip.style.left = `${Math.min(Math.max(0, side), Math.max(0, free))}px`;
      const above = at.top - top - tip.offsetHeight - 6;
      tip.style.top = `${above >= 0 ? above : at.bottom - top + 6}px`;
    };
    const hide = () => {
      shown = null;
      tip.hidden = true;
    };
    const focus = (point) => {
      for (const other of points) other.setAttribute("tabindex", other === point ? "0" : "-1");
      point.focus();
    };
    for (const point of points) {
      point.addEventListener("pointerenter", (e) => e.pointerType === "mouse" && show(point));
      point.addEventListener("pointerleave", (e) => e.pointerType === "mouse" && hide());
      point.addEventListener("focus", () => show(point));
      point.addEventListener("blur", hide);
      point.addEventListener("pointerdown", (e) => {
        isTouch = e.pointerType === "touch" && shown !== point;
        if (isTouch) e.preventDefault();
      });
      point.addEventListener("click", (e) => {
        if (!isTouch) return;
        e.preventDefault(); // the first touch shows the name, the second opens the page
        isTouch = false;
        show(point);
      });
    }
    svg.addEventListener("keydown", (e) => {
      const last = points.length - 1;
      const at = points.indexOf(document.activeElement);
      const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[e.key];
      if (e.key === "Escape") hide();
      if (at < 0 || next === undefined) return;
      e.preventDefault();
      focus(points[Math.min(Math.max(next, 0), last)]);
    });
  }

  return { draw, sample };
})();
