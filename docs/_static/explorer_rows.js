"use strict";

/* The explorer's rows: their columns, filters and order, and CSV. Nothing here touches the page. */

const ExplorerRows = (() => {
  const IMAGENET = "ImageNet-1K";
  const compact = new Intl.NumberFormat("en-US", {
    notation: "compact",
    maximumSignificantDigits: 3,
  });
  const short = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });
  const percent = (value) => value.toFixed(2);
  const page = (row) => `_generated/${row.family}.html`;

  const COLUMNS = {
    name: { title: "Network", link: page },
    network: { title: "Network", link: page },
    family: { title: "Family" },
    year: { title: "Year", number: String },
    params: { title: "Parameters", number: compact.format, log: true },
    macs: { title: "MACs", number: compact.format, log: true },
    input: { title: "Input", number: (size) => size.join("×"), order: (size) => size[1] * size[2] },
    imagenet: { title: "ImageNet top-1 (%)", number: percent },
    top5: { title: "ImageNet top-5 (%)", number: percent },
    other: { title: "Other top-1" },
    tag: { title: "Checkpoint", code: true },
    best_tag: { title: "Best checkpoint", code: true },
    pixels: { title: "Pixels", number: String },
    license: { title: "License", link: (row) => row.license_url },
    source: { title: "Source", link: (row) => row.source_url },
  };
  const VIEWS = {
    networks: ["name", "family", "year", "params", "macs", "input"],
    checkpoints: ["network", "tag", "pixels", "imagenet", "top5", "params", "macs"],
  };

  /* Connect the rows of both tables, and add the columns of measured times. */
  function prepare(data) {
    for (const { key, kind } of data.times) {
      COLUMNS[key] = { title: `Time (ms), ${kind}`, number: short.format, log: true, wide: true };
    }
    const times = data.times.map((time) => time.key);
    VIEWS.networks.push("imagenet", "best_tag", "pixels", "license", "source", ...times);
    VIEWS.checkpoints.push("license", "source", "other");
    const networks = new Map(data.networks.map((row) => [row.name, row]));
    for (const row of data.networks) {
      row.checkpoints = [];
      row.words = [row.name, row.family];
    }
    for (const row of data.checkpoints) {
      const network = networks.get(row.network);
      Object.assign(row, { family: network.family, year: network.year });
      if (row.dataset === IMAGENET) row.imagenet = row.top1;
      else if (row.top1 !== undefined) row.other = `${percent(row.top1)} % on ${row.dataset}`;
      row.words = [row.network, row.tag, row.family];
      network.checkpoints.push(row);
    }
  }

  /* Add the best checkpoint for ImageNet within the bounds to a network, with the rule of
     cnnarch.list_models; undefined if no license matches. */
  function withBest(network, filters) {
    const { license } = filters;
    const found = network.checkpoints.filter((row) => !license || row.license === license);
    if (license && !found.length) return undefined;
    const words = [...network.words, ...found.map((row) => row.tag)];
    const best = found
      .filter((row) => row.rates && isCheap(row, filters))
      .reduce((a, b) => (a && a.imagenet >= b.imagenet ? a : b), undefined);
    if (!best) return { ...network, words };
    const { imagenet, tag, pixels, license: its, license_url, source, source_url } = best;
    const facts = { imagenet, pixels, license: its, license_url, source, source_url };
    return { ...network, ...facts, words, best, best_tag: tag };
  }

  function isWithin(row, key, limit, unit = 1) {
    return limit === "" || row[key] <= Number(limit) * unit;
  }

  function isCheap(row, filters) {
    return (
      isWithin(row, "params", filters.params, 1e6) && isWithin(row, "macs", filters.macs, 1e9)
    );
  }

  /* Return the rows that match all filters. A row without a value does not match its bound. */
  function select(data, filters) {
    const isNetworks = filters.view === "networks";
    const rows = isNetworks
      ? data.networks.map((row) => withBest(row, filters)).filter(Boolean)
      : data.checkpoints.filter((row) => !filters.license || row.license === filters.license);
    const words = filters.q.toLowerCase().split(/\s+/).filter(Boolean);
    const isFrom = (row, key, name) => filters[name] === "" || row[key] >= Number(filters[name]);
    return rows.filter((row) => {
      const text = row.words.join(" ").toLowerCase();
      return (
        words.every((word) => text.includes(word)) &&
        (!filters.families.length || filters.families.includes(row.family)) &&
        isFrom(row, "year", "from") &&
        isWithin(row, "year", filters.to) &&
        isCheap(row, filters) &&
        isFrom(row, "imagenet", "top1") &&
        (!isNetworks || !filters.weights || row.checkpoints.length > 0)
      );
    });
  }

  /* Return the rows in the order of a column ("params", or "-params" for the largest first).
     Rows without a value come last in both directions. */
  function sort(rows, by) {
    const key = by.replace(/^-/, "");
    const sign = by.startsWith("-") ? -1 : 1;
    const { order = (value) => value } = COLUMNS[key];
    const names = new Intl.Collator("en", { numeric: true });
    const label = (row) => row.name || `${row.network} ${row.tag}`;
    return [...rows].sort((a, b) => {
      const [u, v] = [a[key], b[key]];
      if (u === undefined || v === undefined) {
        if (u !== v) return u === undefined ? 1 : -1;
      } else {
        const c = COLUMNS[key].number ? order(u) - order(v) : names.compare(u, v);
        if (c) return sign * c;
      }
      return names.compare(label(a), label(b));
    });
  }

  /* Return both coordinates of a row; an accuracy belongs to the best checkpoint's costs. */
  function coordinates(row, x, y) {
    const costs = y === "imagenet" && row.best ? row.best : row;
    return [costs[x], row[y]];
  }

  function text(row, key) {
    const { number } = COLUMNS[key];
    if (row[key] === undefined) return "";
    return number ? number(row[key]) : row[key];
  }

  function csv(rows, keys) {
    const cell = (value = "") => {
      const plain = Array.isArray(value) ? value.join("x") : String(value);
      return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
    };
    const lines = rows.map((row) => keys.map((key) => cell(row[key])));
    const head = keys.map((key) => cell(COLUMNS[key].title));
    return [head, ...lines].map((cells) => cells.join(",") + "\r\n").join("");
  }

  return { COLUMNS, VIEWS, prepare, select, sort, coordinates, text, csv, page };
})();
