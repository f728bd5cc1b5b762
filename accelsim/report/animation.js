// The array, cycle by cycle. Where every number is, and every sentence, comes with the page; here it is only drawn.
(() => {
  const { $, make, shape, theme } = kit;
  const data = JSON.parse($("data").textContent);
  const [M, K, N] = data.shape;
  const R = data.rows, C = data.columns;
  const MOST_WORDS = 8; // of the accumulator memory, shown at a time
  const NAMES = { ws: "weight-stationary", os: "output-stationary" };
  const [LOW, HIGH] = data.limits.array, [LOW_MEMORY, HIGH_MEMORY] = data.limits.memory;
  const state = { dataflow: null, cycle: 0, chosen: undefined, hovered: null, timer: null };
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  const show = (value) => (value < 0 ? `−${-value}` : String(value));
  const factor = (value) => (value < 0 ? `(−${-value})` : String(value));

  // A view's tokens as objects, what memory holds after each cycle, and which sums an overflow has touched ----------
  const FIELDS = ["kind", "place", "tile", "row", "column", "value", "before", "exact"];
  const open = (view) => {
    let memory = new Map(), page = 0;
    const touched = new Set(); // tile:m:n of sums, m:n of results
    for (const [cycle, frame] of view.frames.entries()) {
      frame.cycle = cycle;
      frame.tokens = frame.tokens.map((fields) => {
        const token = Object.fromEntries(fields.map((value, n) => [FIELDS[n], value]));
        token.key = `${token.kind}:${token.tile}:${token.row}:${token.column}`;
        [token.zone, token.i, token.j] = token.place.split(".").map((part, n) => (n ? Number(part) : part));
        token.over = token.exact !== undefined && token.exact !== token.value;
        return token;
      });
      for (const token of frame.tokens) {
        if (token.kind !== "s" && token.kind !== "d") continue;
        const sum = `${token.tile}:${token.row}:${token.column}`, result = `${token.row}:${token.column}`;
        if (token.over) touched.add(sum);
        if (token.zone === "M" && touched.has(sum)) touched.add(result);
        token.tainted = touched.has(sum) || (token.zone === "M" && touched.has(result));
        if (token.zone === "M") memory = new Map(memory).set(`${token.i}.${token.j}`, { value: token.value, tainted: token.tainted, m: token.row, n: token.column, over: token.over });
      }
      frame.memory = memory;
      if (frame.write !== null) page = Math.floor(frame.write / MOST_WORDS) * MOST_WORDS;
      frame.page = page;
      frame.over = frame.tokens.filter((token) => token.over);
      frame.by = new Map(frame.tokens.map((token) => [`${token.kind === "d" ? "s" : token.kind}:${token.place}`, token]));
    }
    return view;
  };
  const views = Object.fromEntries(Object.entries(data.views).map(([name, view]) => [name, open(view)]));
  const view = () => views[state.dataflow];
  const frame = () => view().frames[state.cycle];

  // The array: geometry ------------------------------------------------------------------------------------------
  const PE = { width: 124, height: 100, across: 138, down: 112 };
  const SLOT = { across: 52, down: 30 }, WIDE = { a: 46, w: 46, s: 108, d: 108 }, HIGH_TOKEN = 27;
  let at = {};
  const layout = (dataflow) => {
    const words = Math.min(data.words, MOST_WORDS);
    const left = 26 + Math.max(dataflow === "os" ? R * 46 + 12 : (R - 1) * SLOT.across, 156);
    const top = 26 + (C - 1) * SLOT.down;
    const bottom = top + R * PE.down;
    const arrived = bottom + (C - 1) * SLOT.down + 8;
    const memory = arrived + 34;
    at = {
      left, top, bottom, arrived, memory,
      width: left + C * PE.across + 6,
      height: memory + words * 28 + 4,
      x: (j) => left + j * PE.across, y: (i) => top + i * PE.down,
    };
  };
  const position = (token) => {
    const { zone, i, j } = token;
    switch (zone) {
      case "P": return token.kind === "a" ? [at.x(j) + 31, at.y(i) + 50] : [at.x(j) + 62, at.y(i) + 78];
      case "W": return [at.x(j) + 31, at.y(i) + 20];
      case "H": return [at.x(j) + 93, at.y(i) + 20];
      case "D": return [at.x(j) + 90, at.y(i) + 20];
      case "X": return [at.left - 12 - (i - j) * SLOT.across + SLOT.across / 2, at.y(i) + 50];
      case "T": return [at.x(i) + 31, at.top - 6 - (i - j) * SLOT.down + SLOT.down / 2];
      case "L": return [at.x(i) + 62, at.bottom + 4 + j * SLOT.down + SLOT.down / 2 - 4];
      case "A": return [at.x(i) + 62, at.arrived + 14];
      default: return [at.x(j) + 62, at.memory + (i - frame().page) * 28 + 14];
    }
  };
  const width = (token) => (token.zone === "D" ? 60 : WIDE[token.kind]);
  // Where a token comes from that was nowhere in the cycle before.
  const source = (token) => {
    const [x, y] = position(token);
    if (token.kind === "a" && state.dataflow === "os") return [wordX((token.column) % R), y];
    if (token.kind === "a") return [x - SLOT.across, y];
    if (token.kind === "w") return [x, at.top - 10 - Math.max(token.zone === "T" ? token.i : token.j, 0) * SLOT.down - 10];
    if (token.kind === "d") return [at.x(token.j) + 62, at.y(token.i) + 78];
    return [x, y];
  };
  const wordX = (b) => at.left - 16 - (R - b) * 46 + 23;

  // The array: what stays ----------------------------------------------------------------------------------------
  const pes = new Map(), cells = new Map(), wordCells = [], bands = [];
  let layer;
  const build = () => {
    const svg = $("array"), os = state.dataflow === "os";
    layout(state.dataflow);
    const least = Math.max(at.width, 600); // a small array is not blown up
    svg.setAttribute("viewBox", `${(at.width - least) / 2} 0 ${least} ${at.height}`);
    svg.style.setProperty("--least", `${Math.round(at.width * 0.46)}px`);
    svg.replaceChildren();
    pes.clear(); cells.clear(); wordCells.length = 0; bands.length = 0; tokens.clear();
    const text = (x, y, words, cls, size) => svg.append(shape("text", { x, y, class: cls, "font-size": size }, words));
    const line = (x1, y1, x2, y2) => svg.append(shape("line", { x1, y1, x2, y2, class: "wire" }));
    const slot = (x, y, w, h) => svg.append(shape("rect", { x: x - w / 2, y: y - h / 2, width: w, height: h, rx: 5, class: "slot" }));
    for (let i = 0; i < R; i++) line(os ? 6 : at.left - 30 - i * SLOT.across, at.y(i) + 50, at.x(C - 1) + 20, at.y(i) + 50);
    for (let j = 0; j < C; j++) {
      line(at.x(j) + 31, at.top - 22 - j * SLOT.down, at.x(j) + 31, at.y(R - 1) + 20);
      if (os) line(at.x(j) + 90, at.y(0) + 40, at.x(j) + 90, at.bottom - 8);
      line(at.x(j) + 62, os ? at.bottom - 8 : at.y(0) + 78, at.x(j) + 62, at.memory);
    }
    text(at.x(0) + 12, at.top - 22, "weights W ▾", "label right", 16);
    if (os) text(at.left - 18, at.y(0) + 20, "words of X", "label right", 16);
    else text(at.left - 36, at.y(0) + 50, "activations X ▸", "label right", 16);
    // Skew, word and deskew registers.
    for (let i = 0; i < R; i++) {
      if (!os) for (let r = 0; r < i; r++) slot(...position({ zone: "X", i, j: r }), WIDE.a, HIGH_TOKEN);
      else {
        wordCells.push([]);
        for (let b = 0; b < R; b++) {
          const one = shape("g", { class: "word" });
          one.append(shape("rect", { x: wordX(b) - 22, y: at.y(i) + 36, width: 44, height: 28, rx: 4 }), shape("text", { x: wordX(b), y: at.y(i) + 51 }));
          svg.append(one);
          wordCells[i].push(one);
        }
      }
    }
    for (let j = 0; j < C; j++) {
      for (let r = 0; r < j; r++) slot(...position({ zone: "T", i: j, j: r }), WIDE.w, HIGH_TOKEN);
      for (let r = 0; r < C - 1 - j; r++) slot(...position({ zone: "L", i: j, j: r }), WIDE.s, HIGH_TOKEN);
      slot(...position({ zone: "A", i: j }), WIDE.s, HIGH_TOKEN);
    }
    if (C > 1) text(at.left - 16, at.bottom + 12, "deskew", "label right", 16);
    text(at.left - 16, at.arrived + 14, "arrived", "label right", 16);
    // PEs.
    for (let i = 0; i < R; i++) for (let j = 0; j < C; j++) {
      const x = at.x(j), y = at.y(i);
      const one = shape("g", { class: "pe", "data-pe": `${i},${j}`, tabindex: i + j ? -1 : 0, role: "img" });
      one.append(shape("rect", { x, y, width: PE.width, height: PE.height, rx: 9 }));
      one.append(shape("rect", { x: x + 8, y: y + PE.height - 6, width: PE.width - 16, height: 3, class: "gauge" }));
      one.append(shape("rect", { x: x + PE.width / 2, y: y + PE.height - 7, width: 0, height: 5, rx: 2, class: "needle" }));
      one.append(shape("text", { x: x + 90, y: y + 51, class: "product" }));
      one.append(shape("rect", { x: x - 3, y: y - 3, width: PE.width + 6, height: PE.height + 6, rx: 11, class: "at" }));
      slotIn(one, x + (os ? 90 : 93), y + 20, os ? 60 : WIDE.w);
      svg.append(one);
      pes.set(`${i},${j}`, one);
    }
    // Accumulator memory.
    for (let a = 0; a < Math.min(data.words, MOST_WORDS); a++) {
      const y = at.memory + a * 28;
      const band = shape("rect", { x: at.left - 60, y, width: at.width - at.left + 58, height: 27, rx: 4, class: "band" });
      const name = shape("text", { x: at.left - 16, y: y + 14, class: "label right", "font-size": 16 });
      svg.append(band, name);
      bands.push([band, name]);
      for (let j = 0; j < C; j++) {
        const cell = shape("g", { class: "memory", "data-cell": `${a},${j}` });
        cell.append(shape("rect", { x: at.x(j) + 8, y: y + 1, width: 108, height: 25, rx: 5 }), shape("text", { x: at.x(j) + 62, y: y + 15 }));
        svg.append(cell);
        cells.set(`${a}.${j}`, cell);
      }
    }
    layer = shape("g", {});
    svg.append(layer);
    for (const one of $("legend").children) one.hidden = Boolean(one.dataset.dataflow) && one.dataset.dataflow !== state.dataflow;
    buildMatrices();
    buildTimeline();
  };
  const slotIn = (group, x, y, w) => {
    const one = shape("rect", { x: x - w / 2, y: y - 13, width: w, height: 26, rx: 5, class: "slot" });
    group.append(one);
  };

  // The array: what moves ----------------------------------------------------------------------------------------
  const tokens = new Map(); // key -> element
  const level = (token) => {
    const [low, high] = token.zone === "M" ? [LOW_MEMORY, HIGH_MEMORY] : [LOW, HIGH];
    return Math.min(1, token.value < 0 ? token.value / low : token.value / high);
  };
  const put = (element, [x, y]) => (element.style.transform = `translate(${x}px, ${y}px)`);
  const drawTokens = (moves) => {
    const now = frame(), gone = new Set(tokens.keys()), fresh = [];
    for (const token of now.tokens) {
      let element = tokens.get(token.key);
      gone.delete(token.key);
      if (!element) {
        element = shape("g", {});
        element.append(shape("rect", { height: HIGH_TOKEN, y: -HIGH_TOKEN / 2, rx: 6 }), shape("text", { y: 1 }));
        layer.append(element);
        tokens.set(token.key, element);
        if (moves) {
          put(element, source(token));
          element.style.opacity = 0;
          fresh.push(element);
        }
      }
      element.dataset.place = token.place;
      element.dataset.kind = token.kind;
      const held = token.zone === "W" && state.dataflow === "ws" && !now.by.has(`a:P.${token.i}.${token.j}`);
      element.setAttribute("class", ["token", token.kind, token.over && "over", token.tainted && "tainted", token.zone === "H" && "shadow", held && "held", token.zone === "D" && "draining"].filter(Boolean).join(" "));
      if (token.kind === "s" || token.kind === "d") element.style.setProperty("--level", level(token).toFixed(3));
      const [rect, text] = element.children, wide = width(token), said = show(token.value);
      rect.setAttribute("width", wide);
      rect.setAttribute("x", -wide / 2);
      text.textContent = said;
      const room = wide / said.length;
      text.setAttribute("class", room < 10 ? "longer" : room < 13 ? "long" : "");
      token.element = element;
    }
    if (fresh.length) void layer.getBoundingClientRect(); // so that they move from where they were put
    for (const token of now.tokens) {
      put(token.element, position(token));
      token.element.style.opacity = 1;
    }
    for (const key of gone) {
      const element = tokens.get(key);
      tokens.delete(key);
      if (!moves) element.remove();
      else {
        delete element.dataset.place;
        if (element.dataset.kind === "a") element.style.transform += ` translate(${PE.across / 2}px, 0)`;
        element.style.opacity = 0;
        setTimeout(() => element.remove(), 1000 * duration());
      }
    }
  };
  const drawPEs = () => {
    const now = frame(), switched = new Set(now.switched.map((place) => place.join(",")));
    for (const [place, element] of pes) {
      const at_ = place.replace(",", ".");
      const sum = now.by.get(`s:P.${at_}`), a = now.by.get(`a:P.${at_}`), w = now.by.get(`w:W.${at_}`);
      const adds = sum && sum.exact !== undefined;
      const classes = ["pe", adds && "on", sum && sum.over && "over", switched.has(place) && "switched", place === focus() && "chosen"];
      element.setAttribute("class", classes.filter(Boolean).join(" "));
      const [, , needle, product] = element.children;
      const product_ = adds ? a.value * w.value : 0;
      const result = !adds ? "" : sum.over ? `=${show(sum.exact)}` : product_ < 0 ? show(product_) : `+${product_}`;
      product.textContent = result;
      product.setAttribute("font-size", result.length > 5 ? 15 : result.length > 4 ? 17 : 19);
      const reach = sum ? (PE.width / 2 - 8) * level(sum) : 0;
      needle.setAttribute("width", reach);
      needle.setAttribute("x", Number(element.children[0].getAttribute("x")) + PE.width / 2 - (sum && sum.value < 0 ? reach : 0));
      element.setAttribute("aria-label", `PE(${place.replace(",", ", ")}): ${adds ? said(sum, a, w) : sum ? `holds ${show(sum.value)}` : "idle"}`);
    }
  };
  const said = (sum, a, w) => `fit(${show(sum.before)} + ${factor(a.value)} · ${factor(w.value)}) = ${sum.over ? `fit(${show(sum.exact)}) = ` : ""}${show(sum.value)}`;
  const drawRest = () => {
    const now = frame();
    for (const [place, cell] of cells) {
      const [a, j] = place.split(".").map(Number), held = now.memory.get(`${a + now.page}.${j}`);
      cell.children[1].textContent = held ? show(held.value) : "";
      const fresh = now.write === a + now.page; // its words are still on their way: the tokens say them
      cell.setAttribute("class", ["memory", held && held.tainted && "tainted", fresh && "fresh"].filter(Boolean).join(" "));
      cell.setAttribute("visibility", a + now.page < data.words ? "visible" : "hidden");
    }
    bands.forEach(([band, name], a) => {
      const address = a + now.page;
      band.setAttribute("class", now.write === address ? "band now" : "band");
      name.textContent = address >= data.words ? "" : a ? `word ${address}` : `accumulator word ${address}`;
    });
    wordCells.forEach((row, i) => row.forEach((cell, b) => {
      const word = now.words[i], full = word && b < word[2].length;
      cell.children[1].textContent = full ? show(word[2][b]) : "";
      fit(cell.children[1], 46);
      cell.setAttribute("class", `word${full ? " full" : ""}${full && word[3] === b ? " now" : ""}`);
    }));
  };

  // The product --------------------------------------------------------------------------------------------------
  const matrix = new Map();
  const buildMatrices = () => {
    const svg = $("matrices"), longest = Math.max(...data.views[state.dataflow].result.flat().map((v) => show(v).length), 2);
    const operand = Math.max(...data.activations.flat().map((v) => show(v).length));
    const side = 30, across = 12 * Math.min(operand, 3) + 8, wide = 12 * Math.min(longest, 5) + 10, gap = 34, label = 26;
    const x0 = label, x1 = label + K * across + gap, y0 = label, y1 = label + K * side + gap;
    const width = x1 + N * wide + 4, least = Math.max(width, 360);
    svg.setAttribute("viewBox", `${(width - least) / 2} 0 ${least} ${y1 + M * side + 4}`);
    svg.replaceChildren();
    matrix.clear();
    const text = (x, y, words, cls) => svg.append(shape("text", { x, y, class: cls }, words));
    const grid = (name, left, top, rows, columns, w, value) => {
      for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) {
        const cell = shape("g", { class: `cell ${name}`, "data-cell": `${i},${j}` });
        cell.append(shape("rect", { x: left + j * w + 1.5, y: top + i * side + 1.5, width: w - 3, height: side - 3, rx: 4 }), shape("text", { x: left + (j + 0.5) * w, y: top + (i + 0.5) * side + 1 }, value(i, j)));
        svg.append(cell);
        matrix.set(`${name}:${i}:${j}`, cell);
        fit(cell.children[1], w);
      }
    };
    grid("x", x0, y1, M, K, across, (i, j) => show(data.activations[i][j]));
    grid("w", x1, y0, K, N, wide, (i, j) => show(data.weights[i][j]));
    grid("y", x1, y1, M, N, wide, () => "");
    for (let m = 0; m < M; m++) for (let n = 0; n < N; n++) matrix.get(`y:${m}:${n}`).append(shape("title", {}, `exact: ${show(data.exact[m][n])}`));
    for (let k = 0; k < K; k++) {
      text(x0 + (k + 0.5) * across, y1 - 9, k, "label");
      text(x1 - 9, y0 + (k + 0.5) * side, k, "label");
    }
    for (let m = 0; m < M; m++) text(x0 - 11, y1 + (m + 0.5) * side, m, "label");
    for (let n = 0; n < N; n++) text(x1 + (n + 0.5) * wide, y0 - 9, n, "label");
    text(x0, y1 - 30, "X", "title left");
    text(x1 - 40, y0 + 14, "W", "title left");
    text(x1 - 20, y1 - 14, "Y", "title left");
  };
  const fit = (text, room) => text.setAttribute("font-size", Math.min(19, Math.floor((room - 4) / (0.64 * Math.max(text.textContent.length, 1)))));
  const drawMatrices = () => {
    const now = frame(), marks = new Map();
    const mark = (key, cls) => marks.set(key, `${marks.get(key) || ""} ${cls}`);
    for (const token of now.tokens) {
      const name = { a: "x", w: "w" }[token.kind] || "y";
      const inUse = token.kind === "w" ? token.zone === "W" && now.by.has(`a:P.${token.i}.${token.j}`) : token.zone === "P";
      mark(`${name}:${token.row}:${token.column}`, inUse ? "now" : "near");
      if (token.over) mark(`${name}:${token.row}:${token.column}`, "over");
    }
    now.words.forEach((word) => word && word[2].forEach((_, b) => b > (word[3] ?? -1) && mark(`x:${word[0]}:${word[1] + b}`, "near")));
    for (const { value, tainted, m, n } of now.memory.values()) {
      const cell = matrix.get(`y:${m}:${n}`);
      cell.children[1].textContent = show(value);
      fit(cell.children[1], cell.children[0].width.baseVal.value);
      if (tainted) mark(`y:${m}:${n}`, "tainted");
    }
    const [i, j] = (focus() || "").split(",");
    for (const key of [`a:P.${i}.${j}`, `w:W.${i}.${j}`, `s:P.${i}.${j}`]) {
      const token = now.by.get(key);
      if (token) mark(`${{ a: "x", w: "w" }[token.kind] || "y"}:${token.row}:${token.column}`, "chosen");
    }
    const known = new Set([...now.memory.values()].map(({ m, n }) => `y:${m}:${n}`));
    for (const [key, cell] of matrix) {
      cell.setAttribute("class", `cell ${key[0]}${marks.get(key) || ""}`);
      if (key[0] === "y" && !known.has(key)) cell.children[1].textContent = "";
    }
  };

  // In words -----------------------------------------------------------------------------------------------------
  const drawWords = () => {
    const now = frame(), last = view().frames.length - 1;
    $("cycle").textContent = `cycle ${now.cycle}`;
    $("of").textContent = `of 0..${last}`;
    const total = M * K * N, utilization = (100 * now.macs) / ((now.cycle + 1) * R * C);
    const facts = [
      ["MACs", `${now.macs} of ${total}`],
      ["utilization", `${utilization.toFixed(1)} %`],
      ["overflows", `${now.overflows} of ${view().overflows}`, now.over.length ? "over" : ""],
    ];
    $("facts").replaceChildren(...facts.flatMap(([name, value, cls]) => [make("dt", name), make("dd", value, cls)]));
    $("caption").className = ["many", "most"][now.captions.length - 6] || (now.captions.length > 7 ? "most" : "");
    $("caption").replaceChildren(...now.captions.map(([part, words, rule]) => {
      const one = make("li", words, part);
      if (rule) one.append(" ", make("span", rule, "rule"));
      return one;
    }));
    drawEquation();
  };
  const drawEquation = () => {
    const box = $("equation"), place = focus();
    if (!place) {
      box.replaceChildren(make("p", "Point at a PE, or click it, to follow its additions."));
      return;
    }
    const [i, j] = place.split(","), now = frame();
    const sum = now.by.get(`s:P.${i}.${j}`), a = now.by.get(`a:P.${i}.${j}`), w = now.by.get(`w:W.${i}.${j}`);
    const lines = [make("b", `PE(${i}, ${j})`)];
    if (sum && sum.exact !== undefined) {
      const row = (...parts) => {
        const one = make("div");
        for (const [words, cls] of parts) one.append(make("span", words, cls));
        lines.push(one);
      };
      row(["fit("], [show(sum.before), "s"], [" + "], [factor(a.value), "a"], [" · "], [factor(w.value), "w"], [")"]);
      row([`= fit(${show(sum.exact)})`, sum.over ? "over" : ""]);
      row(["= "], [show(sum.value), sum.over ? "over" : "s"], [sum.over ? (data.overflow === "wrap" ? " (wraps)" : " (saturates)") : ""]);
      lines.push(make("p", `Y[${sum.row}, ${sum.column}]: p + X[${a.row}, ${a.column}] · W[${w.row}, ${w.column}]`));
    } else lines.push(make("p", sum ? (state.dataflow === "ws" ? `passes ${show(sum.value)} on: it has no weight of this tile` : `keeps ${show(sum.value)}`) : "idle in this cycle"));
    box.replaceChildren(...lines);
  };

  // The time -----------------------------------------------------------------------------------------------------
  const buildTimeline = () => {
    const frames = view().frames, count = frames.length, svg = $("timeline");
    $("scrub").max = count - 1;
    $("tracks").replaceChildren(...["weights read", "words read", "PEs that add", "overflows"].map((words) => make("span", words)));
    svg.setAttribute("viewBox", `0 0 ${count} 56`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.replaceChildren();
    const bar = (cls, t, y, height) => svg.append(shape("rect", { class: cls, x: t + 0.04, y, width: 0.92, height }));
    const os = state.dataflow === "os";
    frames.forEach((one, t) => {
      const weights = os ? one.fetch : one.load;
      if (weights && one.weight_read) bar(`weights${weights[0] % 2 ? " odd" : ""}`, t, 2, 10);
      if (one.fetch && one.word_read) bar(`words${one.fetch[0] % 2 ? " odd" : ""}`, t, 16, 10);
      const adding = one.tokens.filter((token) => token.zone === "P" && token.exact !== undefined).length;
      if (adding) bar("sums", t, 40 - (10 * adding) / (R * C), (10 * adding) / (R * C));
      if (one.over.length) bar("overflows", t, 44, 10);
    });
    svg.append(shape("rect", { class: "now", y: 0, width: 1, height: 56 }));
    placeSlider();
  };
  // The slider's thumb goes from half its width to half its width before the end; cycle t's centre is t + 1/2 cycles on.
  const placeSlider = () => {
    const count = view().frames.length, cycle = $("lane").clientWidth / count, thumb = 16;
    $("scrub").style.width = `${cycle * (count - 1) + thumb}px`;
    $("scrub").style.marginLeft = `${(cycle - thumb) / 2}px`;
  };
  const duration = () => Math.min(0.5, 0.7 / Number($("speed").value));
  const draw = (moves = false) => {
    moves = moves && !still.matches;
    $("array").style.setProperty("--move", moves ? `${duration()}s` : "0s");
    drawTokens(moves);
    drawPEs();
    drawRest();
    drawMatrices();
    drawWords();
    $("timeline").lastChild.setAttribute("x", state.cycle);
    $("scrub").value = state.cycle;
    $("scrub").setAttribute("aria-valuetext", `cycle ${state.cycle}`);
    const last = view().frames.length - 1;
    for (const id of ["start", "back"]) $(id).disabled = state.cycle === 0;
    for (const id of ["step", "end"]) $(id).disabled = state.cycle === last;
    $("overflow").disabled = view().overflows === 0;
    history.replaceState(null, "", `#${state.dataflow}-${state.cycle}`);
  };
  const go = (cycle) => {
    const last = view().frames.length - 1, next = Math.min(last, Math.max(0, cycle));
    const near = Math.abs(next - state.cycle) === 1;
    if (next === state.cycle) return;
    state.cycle = next;
    draw(near);
  };
  const pause = () => {
    clearTimeout(state.timer);
    state.timer = null;
    $("play").textContent = "Play";
    for (const id of ["caption", "equation"]) $(id).setAttribute("aria-live", "polite");
  };
  const play = () => {
    if (state.cycle === view().frames.length - 1) go(0);
    $("play").textContent = "Pause";
    for (const id of ["caption", "equation"]) $(id).setAttribute("aria-live", "off");
    const tick = () => {
      if (state.cycle === view().frames.length - 1) return pause();
      go(state.cycle + 1);
      state.timer = setTimeout(tick, 1000 / Number($("speed").value));
    };
    state.timer = setTimeout(tick, 300);
  };
  const toggle = () => (state.timer === null ? play() : pause());
  const byHand = (cycle) => {
    pause();
    go(cycle);
  };
  const nextOverflow = () => {
    const frames = view().frames;
    const after = frames.find((one) => one.cycle > state.cycle && one.over.length) || frames.find((one) => one.over.length);
    if (!after) return;
    const inArray = after.over.find((token) => token.zone === "P");
    if (inArray) state.chosen = `${inArray.i},${inArray.j}`;
    pause();
    if (after.cycle === state.cycle) draw();
    else go(after.cycle);
  };
  const firstOverflow = () => {
    const found = view().frames.flatMap((one) => one.over).find((token) => token.zone === "P");
    return found && `${found.i},${found.j}`;
  };
  const choose = (dataflow, cycle) => {
    pause();
    state.dataflow = dataflow;
    state.cycle = Math.min(cycle, view().frames.length - 1);
    if (state.chosen === undefined) state.chosen = firstOverflow() || "0,0";
    for (const one of $("dataflows").children) one.setAttribute("aria-pressed", one.dataset.dataflow === dataflow);
    build();
    draw();
  };

  // Hands --------------------------------------------------------------------------------------------------------
  const focus = () => state.hovered || state.chosen;
  const placeOf = (event) => event.target.closest && event.target.closest(".pe")?.dataset.pe;
  const look = (place) => {
    if (state.hovered === place) return;
    state.hovered = place;
    drawPEs();
    drawMatrices();
    drawEquation();
  };
  const array = $("array");
  array.addEventListener("pointerover", (event) => event.pointerType !== "touch" && look(placeOf(event) || null));
  array.addEventListener("pointerleave", () => look(null));
  array.addEventListener("mousedown", (event) => event.preventDefault()); // a click chooses; focus stays for the keys
  array.addEventListener("click", (event) => {
    const place = placeOf(event);
    if (!place) return;
    state.chosen = state.chosen === place ? null : place;
    drawPEs();
    drawMatrices();
    drawEquation();
  });
  array.addEventListener("focusin", (event) => look(placeOf(event) || null));
  array.addEventListener("focusout", () => look(null));
  array.addEventListener("keydown", (event) => {
    const place = placeOf(event);
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!place) return;
    if (moves) {
      const [i, j] = place.split(",").map(Number);
      const next = pes.get(`${i + moves[0]},${j + moves[1]}`);
      if (next) {
        pes.get(place).setAttribute("tabindex", -1);
        next.setAttribute("tabindex", 0);
        next.focus();
      }
    } else if (event.key === "Enter") state.chosen = state.chosen === place ? null : place;
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  $("start").addEventListener("click", () => byHand(0));
  $("back").addEventListener("click", () => byHand(state.cycle - 1));
  $("step").addEventListener("click", () => byHand(state.cycle + 1));
  $("end").addEventListener("click", () => byHand(view().frames.length - 1));
  $("play").addEventListener("click", toggle);
  $("overflow").addEventListener("click", nextOverflow);
  $("scrub").addEventListener("input", () => byHand(Number($("scrub").value)));
  $("timeline").addEventListener("click", (event) => {
    const box = $("timeline").getBoundingClientRect();
    byHand(Math.floor(((event.clientX - box.left) / box.width) * view().frames.length));
  });
  const faster = (by) => {
    const select = $("speed");
    select.selectedIndex = Math.min(select.options.length - 1, Math.max(0, select.selectedIndex + by));
  };
  const full = () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen());
  $("full").hidden = !document.fullscreenEnabled;
  $("full").addEventListener("click", full);
  const other = () => {
    const names = Object.keys(views);
    choose(names[(names.indexOf(state.dataflow) + 1) % names.length], state.cycle);
  };
  const keys = {
    ArrowLeft: () => byHand(state.cycle - 1), ArrowRight: () => byHand(state.cycle + 1), ",": () => byHand(state.cycle - 1), ".": () => byHand(state.cycle + 1),
    PageUp: () => byHand(state.cycle - 1), PageDown: () => byHand(state.cycle + 1), // what presenters' clickers send
    Home: () => byHand(0), End: () => byHand(view().frames.length - 1), " ": toggle, o: nextOverflow, d: other, t: () => $("theme").click(),
    f: () => document.fullscreenEnabled && full(), "+": () => faster(1), "-": () => faster(-1),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const own = event.target.matches("input, select") && !["o", "d", "t", "f", ",", "."].includes(event.key);
    if (own || (event.key === " " && event.target.matches("button"))) return;
    const act = keys[event.key] || keys[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });
  addEventListener("resize", placeSlider);

  // Begin: at the cycle that the address names, else at the first -----------------------------------------------------
  $("name").textContent = data.title;
  for (const name of Object.keys(views)) {
    const one = make("button", NAMES[name]);
    one.type = "button";
    one.title = "D";
    one.dataset.dataflow = name;
    one.addEventListener("click", () => choose(name, state.cycle));
    $("dataflows").append(one);
  }
  theme();
  const [, asked, cycle] = location.hash.match(/^#(ws|os)-(\d{1,4})$/) || [];
  choose(views[asked] ? asked : Object.keys(views)[0], Number(cycle || 0));
})();
