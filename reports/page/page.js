"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse($("#data").textContent);
  // Text becomes text nodes only: names come from users.
  const make = (tag, text, parent, name) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (name) node.className = name;
    if (parent) parent.append(node);
    return node;
  };

  const theme = make("button", "", $("header"), "theme");
  theme.type = "button";
  const isDark = () => {
    const set = document.documentElement.dataset.theme;
    return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.onclick = () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; label(); };
  label();

  const table = $("#rank");
  if (table) {
    const body = $("tbody", table);
    const headers = all("thead th", table);
    const key = (row, column) => {
      const cell = row.cells[column];
      if (column === 0) return cell.textContent.toLowerCase();
      return cell.dataset.value === "" ? null : Number(cell.dataset.value);
    };
    headers.forEach((header, column) => {
      const button = $("button", header);
      if (!button) return;
      button.onclick = () => {
        const down = header.getAttribute("aria-sort") !== "descending" && column !== 0
          || column === 0 && header.getAttribute("aria-sort") === "ascending";
        headers.forEach((h) => h.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = all("tr", body).map((row, at) => [row, key(row, column), at]);
        rows.sort((a, b) => {
          if (a[1] === null || b[1] === null) return (a[1] === null) - (b[1] === null) || a[2] - b[2];
          const order = a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0;
          return (down ? -order : order) || a[2] - b[2];
        });
        body.append(...rows.map((r) => r[0]));
      };
    });
    const filter = $("#filter"), count = $("#count");
    // Marks around words from right to left are no part of a name.
    const plain = (text) => text.replace(/[\u2068\u2069]/g, "").toLowerCase();
    filter.oninput = () => {
      const wanted = plain(filter.value);
      let shown = 0;
      for (const row of all("tr", body)) {
        row.hidden = !plain(row.cells[0].textContent).includes(wanted);
        shown += !row.hidden;
      }
      count.textContent = wanted ? `${shown} of ${body.rows.length}` : "";
    };
    body.addEventListener("click", (event) => {
      const link = event.target.closest("a[href^='#card-']");
      const card = link && document.getElementById(link.getAttribute("href").slice(1));
      if (card) card.open = true;
    });
  }

  const metric = $("#metric"), accuracy = $("#accuracy");
  if (metric) {
    const show = () => {
      const wanted = [`fig-${metric.value}-${accuracy.value}`, `fig-predictors-${accuracy.value}`];
      for (const figure of all("#predictors figure")) figure.hidden = !wanted.includes(figure.id);
    };
    metric.onchange = accuracy.onchange = show;
    show();
  }

  const tip = make("div", "", document.body);
  tip.id = "tip";
  tip.hidden = true;
  for (const point of all(".t-point")) {
    const title = $("title", point);
    const text = title.textContent;
    title.remove();
    point.setAttribute("aria-label", text);
    const place = () => {
      const box = point.getBoundingClientRect();
      tip.textContent = text;
      tip.hidden = false;
      tip.style.left = `${Math.min(box.right + 8, innerWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${box.top - 8}px`;
    };
    const hide = () => { tip.hidden = true; };
    point.addEventListener("pointerenter", place);
    point.addEventListener("focus", place);
    point.addEventListener("pointerleave", hide);
    point.addEventListener("blur", hide);
    const open = () => {
      const at = data.rows.findIndex((row) => row.name === point.dataset.name);
      const card = document.getElementById(`card-${at}`);
      if (card) { card.open = true; card.scrollIntoView(); }
    };
    point.addEventListener("click", open);
    point.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
  }

  const number = (value, digits = 4) => value === null || value === undefined ? "" : Number(value).toFixed(digits);
  const className = (at) => data.classes[at] ?? `class ${at}`;

  const metrics = (row, card) => {
    if (!row.metrics.length) return;
    make("h3", "Training-free metrics", card);
    const table = make("table", undefined, card);
    const head = make("tr", undefined, table);
    for (const name of ["metric", "value", "standard error", "under permuted labels"]) make("th", name, head);
    for (const [name, value, se, none] of row.metrics) {
      const line = make("tr", undefined, table);
      make("th", name, line);
      for (const cell of [value, se, none]) make("td", number(cell), line);
    }
  };

  const codes = (row, card) => {
    if (row.codes === null) return;
    make("h3", "The codes themselves, in the order of their ids", card);
    const box = make("div", undefined, card, "tokens");
    picture(row.codes, (image) => {
      const canvas = make("canvas", undefined, box);
      canvas.width = image.width;
      canvas.height = image.height;
      canvas.style.width = `${image.width * Math.max(1, Math.round(480 / image.width))}px`;
      canvas.getContext("2d").drawImage(image, 0, 0);
    });
  };

  const usage = (row, card) => {
    const bars = row.card.usage;
    if (!bars.length) return;
    make("h3", "How often each code is used, most used first", card);
    const box = make("div", undefined, card, "bars");
    const most = Math.max(...bars);
    for (const n of bars) {
      const bar = make("i", undefined, box);
      bar.style.height = `${(88 * n) / most + 1}px`;
      bar.title = `${n} patches`;
    }
  };

  const heat = (row, card) => {
    const map = row.card.heat;
    if (!map || !map.codes.length) return;
    make("h3", "In images of which class the most used codes are, %", card);
    const box = make("div", undefined, card, "wide");
    const table = make("table", undefined, box, "heat");
    const head = make("tr", undefined, table);
    make("th", "code", head);
    for (const c of map.classes) make("th", className(c), head);
    const most = Math.max(1, ...map.percent.flat());
    map.codes.forEach((code, at) => {
      const line = make("tr", undefined, table);
      make("th", code, line);
      for (const value of map.percent[at]) {
        const cell = make("td", value, line);
        cell.style.background = `rgba(11, 87, 208, ${(0.85 * value) / most})`;
        if (value / most > 0.6) cell.style.color = "#fff";
      }
    });
  };

  const picture = (at, then) => {
    const image = new Image();
    image.onload = () => then(image);
    image.src = `data:image/png;base64,${data.pictures[at]}`;
  };

  const gallery = (row, card) => {
    const about = row.card.gallery;
    if (!about || row.picture === null || !about.tokens.length) return;
    make("h3", "Patches of the codes with the largest share of one class, then of those with the smallest", card);
    const box = make("div", undefined, card, "tokens");
    const zoom = Math.max(1, Math.round(40 / about.patch));
    picture(row.picture, (image) => about.tokens.forEach((token, at) => {
      make("span", `code ${token.id}: ${(100 * token.share).toFixed(0)} % in ${className(token.class)}, ${token.patches} patches`, box);
      const canvas = make("canvas", undefined, box);
      canvas.width = about.columns * about.patch;
      canvas.height = about.patch;
      canvas.style.width = `${canvas.width * zoom}px`;
      canvas.getContext("2d").drawImage(image, 0, at * about.patch, canvas.width, about.patch, 0, 0, canvas.width, about.patch);
    }));
  };

  // A colour per code, well apart for neighbouring ids.
  const colour = (id) => `hsl(${(id * 137.508) % 360} ${55 + (id % 3) * 15}% ${35 + (id % 4) * 12}%)`;

  const maps = (row, card) => {
    const about = row.card.gallery;
    if (!about || row.maps === null) return;
    make("h3", "Images and their codes, a colour per code", card);
    const box = make("div", undefined, card, "maps");
    picture(row.maps, (image) => about.maps.forEach(([label, ids], at) => {
      const item = make("div", undefined, box);
      const canvas = make("canvas", undefined, item);
      const { side, grid } = about, cell = side / grid;
      canvas.width = 2 * side + 2;
      canvas.height = side;
      canvas.style.width = `${Math.max(260, canvas.width)}px`;
      const pen = canvas.getContext("2d");
      pen.drawImage(image, at * side, 0, side, side, 0, 0, side, side);
      ids.forEach((id, i) => {
        pen.fillStyle = colour(id);
        pen.fillRect(side + 2 + (i % grid) * cell, Math.floor(i / grid) * cell, cell, cell);
      });
      make("div", className(label), item);
    }));
  };

  for (const card of all("details.card")) {
    card.addEventListener("toggle", () => {
      if (!card.open || card.dataset.filled) return;
      card.dataset.filled = "1";
      const row = data.rows[Number(card.dataset.card)];
      const facts = make("dl", undefined, card, "facts");
      for (const [name, value] of row.facts) { make("dt", name, facts); make("dd", value, facts); }
      metrics(row, card);
      if (!row.card) return;
      gallery(row, card);
      maps(row, card);
      codes(row, card);
      usage(row, card);
      heat(row, card);
    });
  }
})();
