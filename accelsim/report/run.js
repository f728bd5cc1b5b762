// The page of one run. Whatever a report says is set as text, never as markup.
(() => {
  const { $, make, shape, show, short, ramp, steps, theme } = kit;
  const data = JSON.parse($("data").textContent);
  const { report } = data;
  const { totals, layers, hardware } = report;
  const UNITS = ["LOAD", "COMPUTE", "POST", "STORE"];
  const [R, C] = [hardware.array.rows, hardware.array.columns], PES = R * C;
  const energyUnit = totals.energy_unit;
  const state = { layer: null, sort: "layer", up: true, dram: true };

  // Numbers -------------------------------------------------------------------------------------------------
  const percent = (share) => (share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);
  const digits = (value) => (value ? value.toLocaleString("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 }) : "0");
  const times = (value, names) => {
    let place = 0;
    while (Math.abs(value) >= 999.5 && place < names.length - 1) { value /= 1000; place += 1; }
    return `${digits(value)} ${names[place]}`.trim();
  };
  const energy = (value) => (energyUnit === "pJ" ? times(value, ["pJ", "nJ", "µJ", "mJ", "J"]) : times(value, ["", "thousand", "million", "billion", "trillion"]));
  const exact = (value) => (Number.isInteger(value) ? show(value) : value.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 }));
  const seconds = (value) => times(value * 1e12, ["ps", "ns", "µs", "ms", "s"]);
  const bytes = (value) => (value < 1e4 ? `${show(value)} B` : times(value, ["B", "kB", "MB", "GB"]));
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const brief = (name, most = 24) => (name.length > most ? `…${name.slice(1 - most)}` : name); // a module path is known by its end
  const small = () => document.body.clientWidth < 560;
  const count = (number, one, many = `${one}s`) => `${show(number)} ${number === 1 ? one : many}`;

  const paper = [...document.styleSheets[0].cssRules].find((rule) => rule.conditionText === "print"); // the rules for paper
  // Colours: the figures' own, a little lighter on a dark page; whatever else a drawing needs, from the style.
  const isDark = () => document.documentElement.classList.contains("dark") && !matchMedia(paper.media.mediaText).matches;
  const tone = (hex) => {
    if (!isDark()) return hex;
    return `#${[1, 3, 5].map((at) => Math.round(parseInt(hex.slice(at, at + 2), 16) * 0.75 + 64).toString(16).padStart(2, "0")).join("")}`;
  };
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const layerTone = (label) => tone(data.layers[label].colour);
  const swatch = (colour) => { const one = make("i", undefined, "swatch"); one.style.background = colour; return one; };
  const legend = (place, entries) => place.replaceChildren(...entries.map(([colour, text]) => {
    const one = make("span", text);
    one.prepend(swatch(colour));
    return one;
  }));

  // Bars: name, bar, value; a bar is [colour, share of the width, what it is] one after the other.
  const bars = (place, rows) => {
    const grid = make("div", undefined, "bars");
    for (const { name, parts, value, marks = [], faint, bare } of rows) {
      const [first, bar, last] = [make("span", brief(name, small() ? 13 : 24), "name"), make("span", undefined, "bar"), make("span", value, "value")];
      first.title = name;
      bar.classList.toggle("bare", Boolean(bare));
      for (const [colour, share, title] of parts) {
        if (!(share > 0)) continue;
        const part = make("i");
        part.style.background = colour;
        part.style.width = `${100 * share}%`;
        part.title = title;
        bar.append(part);
      }
      for (const [share, title] of marks) {
        const mark = make("i", undefined, "mark");
        mark.style.left = `calc(${Math.min(100 * share, 100)}% - 1px)`;
        mark.title = title;
        bar.append(mark);
      }
      bar.setAttribute("role", "img");
      bar.setAttribute("aria-label", [...parts.filter((one) => one[1] > 0), ...marks.map(([, text]) => [0, 0, text])].map((one) => one[2]).join("; ") || "nothing");
      for (const one of [first, bar, last]) one.classList.toggle("faint", Boolean(faint));
      grid.append(first, bar, last);
    }
    place.replaceChildren(grid);
  };
  const others = (label) => state.layer !== null && state.layer !== label;
  const scope = () => (state.layer === null ? "the whole run" : `layer ${layers[state.layer].name}`);

  // Head ----------------------------------------------------------------------------------------------------
  const pairs = (list, entries) => list.replaceChildren(...entries.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
  const head = () => {
    $("name").textContent = report.workload;
    $("machine").textContent = `${data.machine} · ${count(report.batch, "image")} a batch · zero points ${report.zero_points}, bias in the ${report.bias_at}`;
    const badge = (text, kind) => $("badges").append(make("span", text, `badge ${kind}`));
    if (report.bit_exact === null) badge("bits not checked", "");
    else if (report.bit_exact) badge(`✓ bit-exact: every written tensor of ${count(report.images_checked, "image")}`, "good");
    else badge(`✗ not bit-exact: ${report.mismatch}`, "bad");
    if (report.accuracy !== null) badge(`accuracy ${(100 * report.accuracy).toFixed(2)} % of ${count(report.images_checked, "image")}`, "");
    const watched = layers.filter((layer) => layer.overflows !== null), over = sum(watched.map((layer) => layer.overflows));
    if (over) badge(`${count(over, "addition")} overflowed`, "bad");
    const read = sum(layers.map((layer) => layer.dram_bytes_read)), written = sum(layers.map((layer) => layer.dram_bytes_written));
    const cards = [
      ["Cycles", show(totals.cycles), "", `${seconds(totals.latency_seconds)} at ${show(hardware.clock_mhz)} MHz`],
      ["Throughput", show(Math.round(totals.images_per_second)), "images/s", `${show(Number(totals.tops.toPrecision(4)))} of ${show(Number(data.peak_tops.toPrecision(4)))} TOPS`],
      ["Utilisation", percent(totals.utilization), "", `of ${R} × ${C} PEs`],
      ["Energy", energy(totals.energy), energyUnit === "pJ" ? "" : "relative units", `${exact(totals.energy)} ${energyUnit === "pJ" ? "pJ" : ""} a batch`],
      ["Products", show(totals.macs), "MACs", `in ${count(totals.instructions, "instruction")}`],
      ["DRAM", bytes(read + written), "", `${show(read)} B read, ${show(written)} B written`],
    ];
    for (const [name, figure, unit, more] of cards) {
      const one = make("div"), big = make("dd", figure, "figure");
      if (unit) big.append(" ", make("small", unit));
      one.append(make("dt", name), big, make("dd", more, "soft"));
      $("cards").append(one);
    }
    for (const section of document.querySelectorAll("main > section")) {
      const link = make("a", section.firstElementChild.textContent);
      link.href = `#${section.id}`;
      $("nav").append(link);
    }
  };

  // Layers --------------------------------------------------------------------------------------------------
  const stalled = (layer) => sum(Object.values(layer.stall_cycles));
  const COLUMNS = [
    { key: "layer", value: (_, label) => label },
    { key: "op", value: (layer) => [layer.op, ...layer.nodes.slice(1)].join(" + "), words: true },
    { key: "cycles", value: (layer) => layer.cycles, total: () => totals.cycles },
    { key: "of run", value: (layer) => layer.cycles / (totals.cycles || 1), text: percent, total: () => 1, why: "share of the run's cycles" },
    { key: "MACs", value: (layer) => layer.macs, total: () => totals.macs },
    { key: "utilisation", value: (layer) => layer.utilization, text: percent, total: () => totals.utilization, why: "MACs / (cycles · PEs)" },
    { key: "stalls", value: stalled, total: () => sum(layers.map(stalled)), why: "cycles the units waited for one another, each unit counted by itself" },
    { key: "DRAM read", value: (layer) => layer.dram_bytes_read, total: () => sum(layers.map((layer) => layer.dram_bytes_read)), why: "bytes" },
    { key: "DRAM written", value: (layer) => layer.dram_bytes_written, total: () => sum(layers.map((layer) => layer.dram_bytes_written)), why: "bytes" },
    { key: `energy (${energyUnit})`, value: (layer) => layer.energy, text: exact, total: () => totals.energy },
    { key: "least sum", value: (layer) => layer.psum_min, why: "of the exact partial sums" },
    { key: "greatest sum", value: (layer) => layer.psum_max, why: "of the exact partial sums" },
    { key: "overflows", value: (layer) => layer.overflows, alarm: true },
  ];
  const cellText = (column, value) => (value === null ? "–" : (column.text || show)(value));
  const table = () => {
    for (const column of COLUMNS) {
      const cell = make("th"), button = make("button", column.key);
      button.type = "button";
      if (column.why) button.title = column.why;
      cell.scope = "col";
      cell.append(button);
      // Numbers begin with the largest, names and the network's order with the first.
      const first = column.key === "layer" || Boolean(column.words);
      button.addEventListener("click", () => {
        state.up = state.sort === column.key ? !state.up : first;
        state.sort = column.key;
        rows();
      });
      column.cell = cell;
      $("head").append(cell);
      const foot = make(column.key === "layer" ? "th" : "td", column.key === "layer" ? "whole run" : column.total ? cellText(column, column.total()) : "");
      $("foot").append(foot);
    }
  };
  const rows = () => {
    const column = COLUMNS.find((one) => one.key === state.sort), order = layers.map((_, label) => label), sign = state.up ? 1 : -1;
    order.sort((a, b) => {
      const [one, other] = [column.value(layers[a], a), column.value(layers[b], b)];
      if (one === null || other === null) return (one === null) - (other === null) || a - b; // what is not there comes last either way
      return sign * (column.words ? one.localeCompare(other) : one - other) || a - b;
    });
    for (const one of COLUMNS) {
      if (one === column) one.cell.setAttribute("aria-sort", state.up ? "ascending" : "descending");
      else one.cell.removeAttribute("aria-sort");
      one.cell.firstChild.textContent = one.key + (one === column ? (state.up ? " ▲" : " ▼") : "");
    }
    $("body").replaceChildren(...order.map((label) => {
      const row = make("tr"), layer = layers[label], name = make("th"), button = make("button", layer.name);
      row.dataset.layer = label;
      button.type = "button";
      button.prepend(swatch(layerTone(label)));
      button.title = layer.name;
      name.scope = "row";
      name.append(button);
      row.append(name);
      for (const one of COLUMNS.slice(1)) {
        const value = one.value(layer, label), cell = make("td", cellText(one, value), one.words ? "words" : one.alarm && value ? "alarm" : "");
        if (one.words) cell.title = value;
        row.append(cell);
      }
      row.addEventListener("click", () => select(state.layer === label ? null : label));
      return row;
    }));
    mark();
  };
  const mark = () => {
    for (const row of $("body").rows) {
      const chosen = Number(row.dataset.layer) === state.layer;
      row.classList.toggle("chosen", chosen);
      row.querySelector("button").setAttribute("aria-pressed", chosen);
    }
    $("whole").disabled = state.layer === null;
    $("span").value = state.layer === null ? "" : String(state.layer);
  };

  // Canvases ------------------------------------------------------------------------------------------------
  const prepare = (canvas, height) => {
    const width = canvas.clientWidth, sharp = window.devicePixelRatio || 1;
    if (height === undefined) height = canvas.clientHeight;
    else canvas.style.height = `${height}px`;
    const [across, down] = [Math.round(width * sharp), Math.round(height * sharp)];
    if (canvas.width !== across) canvas.width = across;
    if (canvas.height !== down) canvas.height = down;
    const pen = canvas.getContext("2d");
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    return { pen, width, height };
  };

  // Timeline ------------------------------------------------------------------------------------------------
  const TOTAL = Math.max(totals.cycles, 1);
  const LANE = 46, TOP = 30, BAR = 26, STRIP = 9;
  const view = { from: 0, to: TOTAL, at: null, lanes: [], ribbon: [], left: 76, room: 1000 }; // left, room: pixels, of the last drawing
  const wide = () => view.to - view.from;
  const placeOf = (cycle) => view.left + ((cycle - view.from) / wide()) * view.room;
  const cycleAt = (x) => view.from + ((x - view.left) / view.room) * wide();

  const unpack = async () => {
    const packed = Uint8Array.from(atob($("packed").textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };
  const running = (differences) => { let last = 0; return differences.map((one) => (last += one)); };
  const open = (found) => {
    view.lanes = UNITS.map((unit, row) => {
      const lane = found[unit], issue = running(lane.issue);
      const waits = new Map(), spans = [];
      for (let at = 0; at < lane.stalls.length; at += 3) {
        const [position, source, cycles] = lane.stalls.slice(at, at + 3);
        if (!waits.has(position)) waits.set(position, []);
        waits.get(position).push([source, cycles]);
      }
      for (const [position, list] of waits) { // one after the other, ending where the instruction issues
        let from = issue[position] - sum(list.map(([, cycles]) => cycles));
        for (const [source, cycles] of list) { spans.push({ from, to: from + cycles, source, position }); from += cycles; }
      }
      return { unit, row, issue, end: issue.map((first, at) => first + lane.cycles[at]), label: lane.label, index: running(lane.index), waits, spans, text: lane.text === null ? null : lane.text.split("\n") };
    });
    const computes = view.lanes[1], ribbon = [];
    computes.label.forEach((label, at) => {
      if (!ribbon.length || ribbon[ribbon.length - 1].label !== label) ribbon.push({ label, from: ribbon.length ? computes.issue[at] : 0 });
    });
    ribbon.forEach((one, at) => { one.to = at + 1 < ribbon.length ? ribbon[at + 1].from : TOTAL; });
    view.ribbon = ribbon;
  };
  // The first of sorted ends beyond a cycle.
  const after = (ends, cycle) => {
    let [low, high] = [0, ends.length];
    while (low < high) { const middle = (low + high) >> 1; if (ends[middle] > cycle) high = middle; else low = middle + 1; }
    return low;
  };
  // Pieces of time in a row: whole where they are wide enough to see, else as dark as the share of the pixel they take.
  const paint = (pen, from, to, colours, top, height, gap) => {
    const { left, room } = view, cover = new Float32Array(Math.ceil(room) + 1), most = new Array(cover.length);
    for (let at = 0; at < from.length; at++) {
      const x0 = Math.max(placeOf(from[at]), left), x1 = Math.min(placeOf(to[at]), left + room);
      if (x1 <= x0) continue;
      if (x1 - x0 >= 1.5) {
        pen.fillStyle = colours[at];
        pen.fillRect(x0, top, x1 - x0 - (x1 - x0 > 5 ? gap : 0), height);
        continue;
      }
      const pixel = Math.min(Math.floor(x0 - left), cover.length - 1);
      cover[pixel] += x1 - x0;
      most[pixel] = colours[at];
    }
    for (let pixel = 0; pixel < cover.length; pixel++) {
      if (!cover[pixel]) continue;
      pen.globalAlpha = Math.min(0.25 + 0.75 * cover[pixel], 1);
      pen.fillStyle = most[pixel];
      pen.fillRect(left + pixel, top, 1, height);
    }
    pen.globalAlpha = 1;
  };
  const veil = (pen, top, height, colour, share = 0.72) => {
    pen.globalAlpha = share;
    pen.fillStyle = colour;
    pen.fillRect(view.left, top, view.room, height);
    pen.globalAlpha = 1;
  };
  const seen = function* (lane) {
    for (let at = after(lane.end, view.from); at < lane.issue.length && lane.issue[at] < view.to; at++) yield at;
  };
  const causeTone = (source) => style(`s${source}`);
  const laneTop = (row) => TOP + row * LANE + 6;
  const fits = (pen, text, width) => pen.measureText(text).width + 10 < width;
  const title = (lane, at) => {
    const memory = lane.unit === "LOAD" && lane.text !== null ? /memory=(\w+)/.exec(lane.text[at]) : null;
    return memory ? memory[1].toLowerCase() : brief(layers[lane.label[at]].name);
  };
  const drawTime = () => {
    const { pen, width } = prepare($("time")), left = view.left = width < 560 ? 64 : 76, room = view.room = Math.max(width - left - 6, 10);
    const [ink, soft, line, panel] = ["ink", "soft", "line", "panel"].map(style), bottom = laneTop(3) + BAR + STRIP + 6, letters = isDark() ? "#111" : "#fff";
    const colours = layers.map((_, label) => layerTone(label)), causes = UNITS.map((_, source) => causeTone(source));
    let end = -Infinity;
    for (const tick of steps(view.from, view.to, Math.max(room / 110, 2)).filter(Number.isInteger)) {
      const x = placeOf(tick), text = show(tick), half = pen.measureText(text).width / 2;
      pen.fillStyle = line;
      pen.fillRect(x, TOP - 4, 1, bottom - TOP + 8);
      if (x - half < end || x + half > width) continue;
      end = x + half + 8;
      pen.fillStyle = soft;
      pen.textAlign = "center";
      pen.fillText(text, x, bottom + 14);
    }
    pen.textAlign = "left";
    pen.fillStyle = soft;
    pen.fillText("cycle", 0, bottom + 14);
    pen.fillText("array at", 0, 12);
    // Those of other layers first, under a veil.
    const draw = (from, to, labels, top, height) => {
      for (const dim of state.layer === null ? [false] : [true, false]) {
        const mine = from.map((_, at) => at).filter((at) => others(labels[at]) === dim);
        paint(pen, mine.map((at) => from[at]), mine.map((at) => to[at]), mine.map((at) => colours[labels[at]]), top, height, 1);
        if (dim) veil(pen, top, height, panel);
      }
    };
    const near = view.ribbon.filter((one) => one.to > view.from && one.from < view.to);
    draw(near.map((one) => one.from), near.map((one) => one.to), near.map((one) => one.label), 2, 20);
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    for (const { label, from, to } of near) {
      const x0 = Math.max(placeOf(from), left), x1 = Math.min(placeOf(to), left + room);
      if (x1 - x0 < 20 || others(label) || !fits(pen, brief(layers[label].name), x1 - x0)) continue;
      pen.fillStyle = letters;
      pen.fillText(brief(layers[label].name), (x0 + x1) / 2, 13);
    }
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "left";
    for (const lane of view.lanes) {
      const top = laneTop(lane.row), some = [...seen(lane)];
      draw(some.map((at) => lane.issue[at]), some.map((at) => lane.end[at]), some.map((at) => lane.label[at]), top, BAR);
      const waits = lane.spans.filter((one) => one.to > view.from && one.from < view.to);
      paint(pen, waits.map((one) => one.from), waits.map((one) => one.to), waits.map((one) => causes[one.source]), top + BAR + 1, STRIP, 0);
      for (const at of some) {
        if (others(lane.label[at]) || lane.end[at] - lane.issue[at] < (34 / room) * wide()) continue;
        const next = at + 1 < lane.issue.length ? Math.min(lane.end[at], lane.issue[at + 1]) : lane.end[at]; // a COMPUTE is covered by the next
        const x0 = Math.max(placeOf(lane.issue[at]), left), x1 = Math.min(placeOf(next), left + room), text = title(lane, at);
        pen.fillStyle = letters;
        if (fits(pen, text, x1 - x0)) pen.fillText(text, x0 + 5, top + BAR / 2 + 1);
      }
      pen.fillStyle = ink;
      pen.fillText(lane.unit, 0, top + BAR / 2 + 1);
      if (view.at && view.at.lane === lane) {
        const x0 = Math.max(placeOf(lane.issue[view.at.at]), left - 2), x1 = Math.min(placeOf(lane.end[view.at.at]), left + room + 2);
        pen.strokeStyle = ink;
        pen.lineWidth = 2;
        if (x1 > x0) pen.strokeRect(x0 - 1, top - 2, Math.max(x1 - x0, 3) + 1, BAR + 4);
      }
    }
    $("range").textContent = `cycles ${show(Math.ceil(view.from))} to ${show(Math.min(Math.floor(view.to), TOTAL) - (view.to >= TOTAL ? 1 : 0))} of ${show(totals.cycles)}`;
    drawMap();
  };
  const drawMap = () => {
    const { pen, width, height } = prepare($("map")), left = view.left, at = (cycle) => left + (cycle / TOTAL) * (width - left - 6);
    const colours = layers.map((_, label) => layerTone(label));
    let drawn = -1;
    for (const one of view.ribbon) { // one a pixel at most
      if (at(one.to) < drawn + 0.5) continue;
      drawn = at(one.to);
      pen.fillStyle = colours[one.label];
      pen.fillRect(at(one.from), 6, Math.max(drawn - at(one.from) - 0.5, 0.5), height - 12);
    }
    veil(pen, 0, height, style("panel"), 0.25);
    pen.fillStyle = style("soft");
    pen.fillText("whole run", 0, height / 2);
    pen.strokeStyle = style("ink");
    pen.lineWidth = 2;
    pen.strokeRect(at(view.from), 3, Math.max(at(view.to) - at(view.from), 3), height - 6);
  };
  let waiting = false;
  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; drawTime(); });
  };
  const look = (from, to) => {
    const span = Math.min(Math.max(to - from, 8), TOTAL), middle = (from + to) / 2;
    view.from = Math.min(Math.max(middle - span / 2, 0), TOTAL - span);
    view.to = view.from + span;
    redraw();
  };
  const zoom = (factor, cycle = (view.from + view.to) / 2) => {
    const span = Math.min(Math.max(wide() * factor, 8), TOTAL), share = (cycle - view.from) / wide();
    view.from = Math.min(Math.max(cycle - share * span, 0), TOTAL - span);
    view.to = view.from + span;
    redraw();
  };
  const pan = (cycles) => look(view.from + cycles, view.to + cycles);
  const goTo = (label) => {
    const { first, last } = data.layers[label];
    if (first !== null) look(first - (last - first) / 40, last + 1 + (last - first) / 40);
  };

  // What lies under a point: the nearest instruction of its unit within a few pixels.
  const under = (x, y) => {
    const row = Math.floor((y - TOP) / LANE), lane = view.lanes[row];
    if (!lane || x < view.left) return null;
    const cycle = cycleAt(x), slack = (4 * wide()) / view.room;
    if (y > laneTop(row) + BAR) {
      const stall = lane.spans.find((one) => one.from - slack <= cycle && cycle <= one.to + slack);
      return stall ? { lane, at: stall.position, stall } : null;
    }
    let found = null, least = slack;
    for (let at = Math.max(after(lane.end, cycle - slack), 0); at < lane.issue.length && lane.issue[at] <= cycle + slack; at++) {
      const away = Math.max(lane.issue[at] - cycle, cycle - lane.end[at], 0);
      if (away <= least) { found = at; least = away; } // of several at this cycle the last: a COMPUTE covers the one that drains
    }
    return found === null ? null : { lane, at: found };
  };
  const waitText = ({ lane, at }) => (lane.waits.get(at) || []).map(([source, cycles]) => `${count(cycles, "cycle")} for ${UNITS[source]}`).join(", ");
  const headline = ({ lane, at }) => `${lane.unit} ${show(lane.index[at])}, layer ${layers[lane.label[at]].name}: cycles ${show(lane.issue[at])} to ${show(lane.end[at] - 1)} (${show(lane.end[at] - lane.issue[at])})`;
  const tip = (found) => {
    $("tip").textContent = !found ? "" : found.stall ? `${found.lane.unit} waits for ${UNITS[found.stall.source]}: cycles ${show(found.stall.from)} to ${show(found.stall.to - 1)} (${show(found.stall.to - found.stall.from)}), before ${headline(found)}` : headline(found);
  };
  const choose = (found) => {
    view.at = found;
    const place = $("instruction");
    place.hidden = !found;
    place.replaceChildren();
    if (found) {
      const { lane, at } = found, waited = waitText(found);
      place.append(make("h3", `${lane.unit}: instruction ${show(lane.index[at])} of ${show(totals.instructions)}`));
      place.append(make("p", `layer ${layers[lane.label[at]].name} · issue ${show(lane.issue[at])}, done ${show(lane.end[at] - 1)}: ${count(lane.end[at] - lane.issue[at], "cycle")} · ${waited ? `waited ${waited}` : "did not wait"}`));
      if (lane.text === null) place.append(make("p", "Its fields are left out of the page, as the program is very long; `accelsim compile` and `accelsim disasm` show them.", "soft"));
      else {
        const list = make("ul");
        for (const field of lane.text[at].split(" ").filter(Boolean).slice(1)) {
          const [name, value] = field.split("="), item = make("li");
          item.append(make("b", `${name} `), value);
          list.append(item);
        }
        place.append(list);
      }
    }
    redraw();
  };
  const step = (by, byLane) => {
    const old = view.at || { lane: view.lanes[0], at: after(view.lanes[0].end, view.from) - (by > 0 ? 1 : 0) };
    let { lane, at } = old;
    if (byLane) {
      const cycle = lane.issue[at] ?? view.from;
      const filled = view.lanes.filter((one) => one.issue.length), place = filled.indexOf(lane) + byLane;
      lane = filled[Math.min(Math.max(place, 0), filled.length - 1)];
      at = Math.min(after(lane.end, cycle), lane.issue.length - 1);
    } else at = Math.min(Math.max(at + by, 0), lane.issue.length - 1);
    if (at < 0 || !lane.issue.length) return;
    if (lane.issue[at] < view.from || lane.end[at] > view.to) {
      const span = Math.max(wide(), 1.2 * (lane.end[at] - lane.issue[at])), middle = (lane.issue[at] + lane.end[at]) / 2;
      look(middle - span / 2, middle + span / 2);
    }
    tip({ lane, at });
    choose({ lane, at });
  };
  const controls = () => {
    const canvas = $("time"), held = new Map();
    let moved = 0, clicked = false;
    const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    canvas.addEventListener("pointerdown", (event) => {
      held.set(event.pointerId, at(event));
      if (held.size === 1) moved = 0;
      canvas.setPointerCapture(event.pointerId);
      canvas.classList.add("held");
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = at(event), before = held.get(event.pointerId);
      if (!before) { if (event.pointerType === "mouse") tip(under(...now)); return; }
      const other = [...held].find(([id]) => id !== event.pointerId);
      if (other) {
        const [x] = other[1], old = Math.abs(before[0] - x), fresh = Math.abs(now[0] - x);
        if (old > 8 && fresh > 8) zoom(old / fresh, cycleAt(x));
        moved = Infinity;
      } else {
        moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
        if (moved > 5) pan(((before[0] - now[0]) / view.room) * wide());
      }
      held.set(event.pointerId, now);
    });
    const let_go = (event) => {
      if (event.type === "pointerup" && held.size === 1 && moved <= 5) {
        clicked = true;
        const found = under(...at(event));
        tip(found);
        choose(found);
      }
      held.delete(event.pointerId);
      canvas.classList.toggle("held", held.size > 0);
    };
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, let_go);
    canvas.addEventListener("pointerleave", () => { if (!held.size) $("tip").textContent = view.at ? headline(view.at) : ""; });
    canvas.addEventListener("blur", () => { clicked = false; });
    canvas.addEventListener("wheel", (event) => {
      if (!clicked && !event.ctrlKey && !event.metaKey) { if (!event.deltaX) return; } // the page scrolls
      event.preventDefault();
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan((event.deltaX / view.room) * wide());
      else zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY * (event.deltaMode ? 0.05 : 0.002)))), cycleAt(at(event)[0]));
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => zoom(0.4, cycleAt(at(event)[0])));
    canvas.addEventListener("keydown", (event) => {
      const act = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => look(0, TOTAL), ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1), Escape: () => choose(null), PageUp: () => pan(-wide() / 2), PageDown: () => pan(wide() / 2) }[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      act();
      event.preventDefault();
    });
    const map = $("map");
    const jump = (event) => {
      const box = map.getBoundingClientRect(), cycle = ((event.clientX - box.left - view.left) / (box.width - view.left - 6)) * TOTAL;
      look(cycle - wide() / 2, cycle + wide() / 2);
    };
    map.addEventListener("pointerdown", (event) => { map.setPointerCapture(event.pointerId); jump(event); });
    map.addEventListener("pointermove", (event) => { if (map.hasPointerCapture(event.pointerId)) jump(event); });
    $("in").addEventListener("click", () => zoom(0.5));
    $("out").addEventListener("click", () => zoom(2));
    $("left").addEventListener("click", () => pan(-wide() / 3));
    $("right").addEventListener("click", () => pan(wide() / 3));
    $("fit").addEventListener("click", () => look(0, TOTAL));
    for (const [value, text] of [["", "all layers"], ...layers.map((layer, label) => [String(label), layer.name])]) {
      const one = make("option", text);
      one.value = value;
      $("span").append(one);
    }
    $("span").addEventListener("change", () => select($("span").value === "" ? null : Number($("span").value)));
  };

  // Utilisation ---------------------------------------------------------------------------------------------
  const utilisation = () => {
    const overlap = layers.some((layer) => layer.array_span_cycles > layer.cycles);
    $("used").textContent = "Bars: share of PE-cycles with a product while the array works on the layer, from its first load to its last product. "
      + (overlap ? "Layers overlap in time, so the cycles between one being done and the next belong to none alone." : "Marks: over all cycles from the layer before being done to this one being done, which add up to the run.");
    bars($("layerbars"), layers.map((layer, label) => {
      const used = layer.array_span_cycles ? layer.macs / (layer.array_span_cycles * PES) : 0;
      return {
        name: layer.name, faint: others(label), value: layer.array_span_cycles ? `${percent(used)} of ${show(layer.array_span_cycles)}` : "not on the array",
        parts: [[layerTone(label), used, `${percent(used)} of ${PES} PEs in ${count(layer.array_span_cycles, "cycle")}`]],
        marks: overlap || !layer.macs ? [] : [[layer.utilization, `${percent(layer.utilization)} in ${count(layer.cycles, "cycle")} until it is done`]],
      };
    }));
    bars($("unitbars"), UNITS.flatMap((unit) => {
      const cycles = totals.busy_cycles[unit.toLowerCase()], busy = cycles / TOTAL, waits = sum(layers.flatMap((layer) => Object.entries(layer.stall_cycles).filter(([cause]) => cause.startsWith(`${unit.toLowerCase()}_`)).map(([, cycles]) => cycles)));
      return [
        { name: unit, value: `${percent(busy)} busy`, parts: [[style("accent"), busy, `${unit} busy in ${count(cycles, "cycle")}, with ${count(data.units[unit], "instruction")}`]] },
        { name: "", value: `${percent(waits / TOTAL)} waiting`, parts: [[style("s1"), waits / TOTAL, `${unit} waits ${count(waits, "cycle")}`]] },
      ];
    }));
  };

  // Stalls --------------------------------------------------------------------------------------------------
  const stalls = () => {
    const chosen = state.layer === null ? layers : [layers[state.layer]];
    const waits = (unit, source) => sum(chosen.map((layer) => layer.stall_cycles[`${unit}_waits_for_${source}`.toLowerCase()] || 0));
    const all = UNITS.flatMap((unit) => UNITS.map((source) => waits(unit, source))), most = Math.max(...all, 1);
    $("stalled").textContent = `Cycles in which a unit's next instruction waits for another unit, in ${scope()}: ${show(sum(all))}. Each unit is counted by itself: all four may wait in one cycle.`;
    const head = make("tr");
    head.append(make("th", "waits for"), ...UNITS.map((source) => make("th", source)), make("th", "all"));
    const body = UNITS.map((unit) => {
      const row = make("tr");
      row.append(make("th", unit));
      for (const source of UNITS) {
        const cycles = waits(unit, source), cell = make("td", source === unit ? "" : show(cycles));
        if (cycles) cell.style.background = `color-mix(in srgb, var(--accent) ${Math.round(8 + 42 * cycles / most)}%, transparent)`;
        row.append(cell);
      }
      row.append(make("td", show(sum(UNITS.map((source) => waits(unit, source))))));
      return row;
    });
    const [thead, tbody] = [make("thead"), make("tbody")];
    thead.append(head);
    tbody.append(...body);
    $("matrix").replaceChildren(thead, tbody);
    const widest = Math.max(...layers.map(stalled), 1);
    bars($("stallbars"), layers.map((layer, label) => ({
      name: layer.name, faint: others(label), value: show(stalled(layer)), bare: true,
      parts: UNITS.map((source, at) => {
        const cycles = sum(Object.entries(layer.stall_cycles).filter(([cause]) => cause.endsWith(`_${source.toLowerCase()}`)).map(([, one]) => one));
        return [causeTone(at), cycles / widest, `${count(cycles, "cycle")} waiting for ${source}`];
      }),
    })));
    legend($("causes"), UNITS.map((source, at) => [causeTone(at), `waits for ${source}${at ? "" : " (strips below the units)"}`]));
  };

  // Energy --------------------------------------------------------------------------------------------------
  const spent = (ops, place) => sum(data.places[place].ops.map((op) => (ops[op] ? ops[op].energy : 0)));
  const energies = () => {
    const source = state.layer === null ? report : layers[state.layer], ops = source.energy_by_op;
    const whole = state.layer === null ? totals.energy : source.energy;
    const names = Object.keys(data.places).filter((place) => layers.some((layer) => spent(layer.energy_by_op, place)));
    $("priced").textContent = `${energy(whole)} in ${scope()}, energy table ${totals.energy_table}.`;
    parts(ops, whole || 1);
    $("dram").parentElement.hidden = !names.includes("DRAM") || names.length === 1;
    const shown = names.filter((place) => state.dram || place !== "DRAM");
    const heights = layers.map((layer) => sum(shown.map((place) => spent(layer.energy_by_op, place)))), most = Math.max(...heights, Number.MIN_VALUE);
    $("bylayer").textContent = "By layer";
    bars($("energybars"), layers.map((layer, label) => ({
      name: layer.name, faint: others(label), value: `${energy(heights[label])} (${percent(heights[label] / (sum(heights) || 1))})`, bare: true,
      parts: shown.map((place) => [tone(data.places[place].colour), spent(layer.energy_by_op, place) / most, `${place}: ${energy(spent(layer.energy_by_op, place))}`]),
    })));
    legend($("places"), shown.map((place) => [tone(data.places[place].colour), place]));
    const listed = Object.entries(ops).filter(([, entry]) => entry.energy).sort((a, b) => b[1].energy - a[1].energy);
    const free = Object.entries(ops).filter(([, entry]) => !entry.energy && entry.count).map(([op]) => op);
    $("opsof").textContent = `In ${scope()}: operations × bits × energy a bit.${free.length ? ` Counted, and priced at zero: ${free.join(", ")}.` : ""}`;
    const placeOfOp = Object.fromEntries(Object.entries(data.places).flatMap(([place, { ops: list }]) => list.map((op) => [op, place])));
    const top = Math.max(...listed.map(([, entry]) => entry.energy), Number.MIN_VALUE);
    $("ophead").replaceChildren(...["operation", `energy${energyUnit === "pJ" ? " (pJ)" : ""}`, "share", "number", "bits", `${energyUnit === "pJ" ? "pJ" : "energy"} a bit`].map((text, at) => { const cell = make("th", text, at === 2 ? "bar-cell" : ""); cell.scope = "col"; return cell; }));
    $("opbody").replaceChildren(...listed.map(([op, entry]) => {
      const row = make("tr"), name = make("th", op), bar = make("td", undefined, "bar-cell"), strip = make("span", undefined, "bar bare"), part = make("i");
      name.scope = "row";
      name.prepend(swatch(tone(data.places[placeOfOp[op]].colour)));
      name.title = report.energy_sources[op] || "";
      part.style.background = tone(data.places[placeOfOp[op]].colour);
      part.style.width = `${(100 * entry.energy) / top}%`;
      strip.append(part);
      bar.append(strip);
      bar.title = percent(entry.energy / (whole || 1));
      row.append(name, make("td", exact(entry.energy)), bar, make("td", show(entry.count)), make("td", show(Number(entry.bits.toPrecision(4)))), make("td", show(Number(entry.energy_per_bit.toPrecision(4)))));
      return row;
    }));
  };
  // The machine's parts as boxes, each as dark as its share of the energy, and the units that move data between them.
  const parts = (ops, whole) => {
    const width = Math.max($("parts").clientWidth, 260), [gap, low, tall] = [width < 430 ? 34 : 72, 74, 96];
    const svg = shape("svg", { viewBox: `0 0 ${width} ${tall + 46 + low + 2}`, height: tall + 46 + low + 2, role: "img" });
    const inner = width - 2 * gap, [a, b, c] = [0.24 * inner, 0.28 * inner, 0.48 * inner];
    const boxes = [
      { place: ["DRAM"], x: 1, y: 1, w: a, h: tall + 46 + low },
      { place: ["buffers"], x: a + gap, y: 1, w: b, h: tall },
      { name: "PE array", place: ["operand registers", "multipliers", "adders", "partial-sum registers", "idle"], x: a + b + 2 * gap, y: 1, w: c - 2, h: tall },
      { name: width < 430 ? "POST" : "post-processing", place: ["post-processing"], x: a + gap, y: tall + 46, w: b, h: low },
      { name: width < 430 ? "accumulators" : "accumulator memory", place: ["accumulator memory"], x: a + b + 2 * gap, y: tall + 46, w: c - 2, h: low },
    ];
    const said = [];
    for (const box of boxes) {
      const value = sum(box.place.map((place) => spent(ops, place))), share = value / whole, name = box.name || box.place[0];
      said.push(`${name} ${percent(share)}`);
      const rect = shape("rect", { x: box.x, y: box.y, width: box.w, height: box.h, rx: 5, stroke: "var(--line)" });
      rect.style.fill = `color-mix(in srgb, var(--accent) ${Math.round(4 + 56 * Math.sqrt(Math.max(share, 0)))}%, var(--paper))`;
      rect.append(shape("title", {}, `${name}: ${energy(value)}, ${percent(share)}`));
      const [x, y] = [box.x + 8, box.y + 19];
      svg.append(rect, shape("text", { class: "name", x, y, "font-weight": 650 }, name), shape("text", { class: "name", x, y: y + 17 }, percent(share)), shape("text", { class: "name", x, y: y + 33 }, energy(value)));
      if (box.place.length > 1 && box.w > 190) box.place.filter((place) => spent(ops, place)).forEach((place, at) => svg.append(
        shape("text", { class: "name", x: box.x + box.w - 8, y: y + 17 * at, "text-anchor": "end" }, `${place} ${percent(spent(ops, place) / whole)}`)));
    }
    const arrow = (x0, y0, x1, y1, text, right) => {
      const back = Math.atan2(y1 - y0, x1 - x0), point = (turn) => `${x1 - 7 * Math.cos(back + turn)},${y1 - 7 * Math.sin(back + turn)}`;
      svg.append(shape("path", { d: `M${x0},${y0}L${x1},${y1}M${point(0.5)}L${x1},${y1}L${point(-0.5)}`, fill: "none", stroke: "var(--soft)", "stroke-width": 1.5 }));
      if (text) svg.append(shape("text", right ? { x: x1 + 7, y: (y0 + y1) / 2 + 4 } : { x: (x0 + x1) / 2, y: y0 - 6, "text-anchor": "middle", class: width < 430 ? "tiny" : "" }, text));
    };
    const small = width < 430, [x1, x2, x3, x4] = [a + 3, a + gap - 3, a + gap + b + 2, a + b + 2 * gap - 3];
    arrow(x1, 30, x2, 30, "LOAD");
    arrow(x2, 74, x1, 74, "STORE");
    arrow(x3, 46, x4, 46, small ? "" : "COMPUTE");
    arrow(a + b + 2 * gap + c / 2, tall + 4, a + b + 2 * gap + c / 2, tall + 43, "sums", true);
    arrow(x4, tall + 46 + low / 2, x3, tall + 46 + low / 2, "");
    arrow(a + gap + b / 2, tall + 43, a + gap + b / 2, tall + 4, "POST", true);
    svg.setAttribute("aria-label", `Energy: ${said.join(", ")}`);
    $("parts").replaceChildren(svg);
  };

  // Roofline ------------------------------------------------------------------------------------------------
  const roofline = () => {
    const bandwidth = hardware.dram.bandwidth_bytes_per_cycle, ridge = PES / bandwidth;
    const point = (name, macs, read, written, cycles, label) => ({ name, label, cycles, x: macs / Math.max(read, written), y: macs / cycles });
    const points = layers.map((layer, label) => point(layer.name, layer.macs, layer.dram_bytes_read, layer.dram_bytes_written, data.layers[label].active_cycles, label));
    points.push(point("whole run", totals.macs, sum(layers.map((one) => one.dram_bytes_read)), sum(layers.map((one) => one.dram_bytes_written)), totals.cycles, null));
    const drawn = points.filter(({ x, y }) => Number.isFinite(x) && x > 0 && Number.isFinite(y));
    const svg = $("roof"), { width, height } = svg.getBoundingClientRect(), [left, right, top, bottom] = [52, 16, 14, 40];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    $("roofs").textContent = "No layer has both products and DRAM traffic.";
    svg.classList.toggle("empty", !drawn.length);
    if (!drawn.length) return;
    const bound = drawn.filter(({ x, label }) => label !== null && x < ridge).map(({ name }) => name);
    $("roofs").textContent = `MACs a cycle against MACs for each byte of the busier direction of the DRAM (${bandwidth} B a cycle each way). A layer's cycles are those in which any unit works on it, so no point can lie above the roof. `
      + (bound.length ? `Left of the ridge, where DRAM bandwidth is the roof: ${bound.slice(0, 8).join(", ")}${bound.length > 8 ? ` and ${count(bound.length - 8, "other")}` : ""}.` : "All layers have their roof at the array.");
    const low = Math.min(ridge, ...drawn.map(({ x }) => x)) / 2.2, high = Math.max(ridge, ...drawn.map(({ x }) => x)) * 2.2;
    const least = Math.min(...drawn.map(({ y }) => y), low * bandwidth) / 1.6, most = PES * 1.7;
    const across = (x) => left + (Math.log(x / low) / Math.log(high / low)) * (width - left - right);
    const up = (y) => height - bottom - (Math.log(y / least) / Math.log(most / least)) * (height - top - bottom);
    const decades = (from, to) => { const found = []; for (let power = Math.floor(Math.log10(from)); power <= Math.log10(to); power++) for (const part of to / from > 400 ? [1] : [1, 2, 5]) if (part * 10 ** power >= from && part * 10 ** power <= to) found.push(part * 10 ** power); return found; };
    for (const tick of decades(low, high)) {
      svg.append(shape("line", { class: "gridline", x1: across(tick), x2: across(tick), y1: top, y2: height - bottom }));
      svg.append(shape("text", { x: across(tick), y: height - bottom + 16, "text-anchor": "middle" }, short(tick)));
    }
    for (const tick of decades(least, most)) {
      svg.append(shape("line", { class: "gridline", x1: left, x2: width - right, y1: up(tick), y2: up(tick) }));
      svg.append(shape("text", { x: left - 6, y: up(tick) + 4, "text-anchor": "end" }, short(tick)));
    }
    svg.append(shape("text", { class: "name", x: width - right, y: height - 6, "text-anchor": "end" }, "MACs / DRAM byte"));
    svg.append(shape("text", { class: "name", x: 2, y: height - 6 }, "↑ MACs / cycle"));
    svg.append(shape("path", { class: "limit", d: `M${across(low)},${up(low * bandwidth)}L${across(ridge)},${up(PES)}H${width - right}` }));
    const taken = [[width - right - 70, width, up(PES) - 20, up(PES) + 2]]; // the roof's own name
    const write = (x, y, text) => {
      const size = 6.6 * text.length;
      for (const [dx, dy, anchor] of [[9, 4, "start"], [-9, 4, "end"], [0, -10, "middle"], [0, 19, "middle"]]) {
        const from = x + dx - (anchor === "end" ? size : anchor === "middle" ? size / 2 : 0), box = [from, from + size, y + dy - 11, y + dy + 3];
        if (box[0] < left || box[1] > width || taken.some((one) => box[0] < one[1] && one[0] < box[1] && box[2] < one[3] && one[2] < box[3])) continue;
        taken.push(box);
        svg.append(shape("text", { class: "name", x: x + dx, y: y + dy, "text-anchor": anchor }, text));
        return;
      }
    };
    for (const { x, y } of drawn) taken.push([across(x) - 5, across(x) + 5, up(y) - 5, up(y) + 5]);
    svg.append(shape("text", { x: width - right - 2, y: up(PES) - 7, "text-anchor": "end" }, `${show(PES)} PEs`));
    const slope = (Math.atan2(up(low * bandwidth) - up(PES), across(ridge) - across(low)) * -180) / Math.PI, [sx, sy] = [(across(low) + across(ridge)) / 2, (up(low * bandwidth) + up(PES)) / 2];
    if (across(ridge) - across(low) > 120) svg.append(shape("text", { x: sx, y: sy - 7, "text-anchor": "middle", transform: `rotate(${slope} ${sx} ${sy})` }, `${bandwidth} B / cycle`));
    for (const { name, x, y, label, cycles } of drawn) {
      const dot = label === null ? shape("rect", { x: across(x) - 5, y: up(y) - 5, width: 10, height: 10, transform: `rotate(45 ${across(x)} ${up(y)})`, fill: "var(--panel)", stroke: "var(--ink)", "stroke-width": 2 })
        : shape("circle", { cx: across(x), cy: up(y), r: state.layer === label ? 8 : 6, fill: layerTone(label), stroke: state.layer === label ? "var(--ink)" : "var(--panel)", "stroke-width": 1.5, class: others(label) ? "faint" : "" });
      const roof = Math.min(PES, x * bandwidth);
      dot.append(shape("title", {}, `${name}: ${digits(y)} MACs a cycle in ${count(cycles, "cycle")}, ${digits(x)} MACs a byte; ${percent(y / roof)} of its roof of ${digits(roof)}`));
      svg.append(dot);
    }
    for (const { name, x, y, label } of [...drawn].reverse()) if (!others(label) || label === null) write(across(x), up(y), brief(name));
    svg.setAttribute("aria-label", `Roofline: ${drawn.map(({ name, x, y }) => `${name} ${digits(y)} MACs a cycle at ${digits(x)} MACs a byte`).join("; ")}`);
  };

  // Processing elements -------------------------------------------------------------------------------------
  const pe = { macs: [], at: null, size: 1, left: 0, top: 0, cycles: 1 };
  const products = (labels) => {
    const found = Array.from({ length: R }, () => new Array(C).fill(0));
    for (const label of labels) for (const { lanes, diagonal, rows: runs } of data.layers[label].activity) {
      let row = 0;
      for (const [many, macs] of runs) for (const end = row + many; row < end; row++) {
        if (diagonal) { if (row < C) found[row][row] += macs; } else for (let column = 0; column < lanes; column++) found[row][column] += macs;
      }
    }
    return found;
  };
  const elements = () => {
    const labels = state.layer === null ? layers.map((_, label) => label) : [state.layer];
    pe.macs = products(labels);
    pe.cycles = state.layer === null ? totals.cycles : layers[state.layer].array_span_cycles;
    const flat = pe.macs.flat(), most = Math.max(...flat), rest = flat.filter((one) => !one).length, mean = sum(flat) / (PES * (pe.cycles || 1));
    $("peof").textContent = !most ? `No product in ${scope()}.` : `Share of cycles in which each PE multiplies, in ${scope()}: ${show(pe.cycles)} cycles${state.layer === null ? "" : " in which the array works on it"}, mean ${percent(mean)}, most ${percent(most / pe.cycles)}`
      + `${rest ? `; ${show(rest)} of ${show(PES)} PEs never do` : ""}. ${{ ws: "A row takes one input of each chunk, a column one output channel.", os: "A row takes every so many output pixels, a column one output channel.", is: "A row takes one input of each chunk, a column one image." }[hardware.array.dataflow]}`;
    drawGrid();
  };
  const drawGrid = () => {
    const canvas = $("grid"), edge = 22, across = canvas.clientWidth - edge - 2, room = Math.min(across / C, Math.max(360, across) / R, 34);
    const size = pe.size = room >= 2 ? Math.floor(room) : room, most = Math.max(...pe.macs.map((row) => Math.max(...row)), 0);
    const { pen } = prepare(canvas, edge + size * R + 4), left = pe.left = edge + Math.max((across - size * C) / 2, 0), top = pe.top = edge, gap = size >= 6 ? 1 : 0;
    pen.fillStyle = style("soft");
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "center";
    for (const column of new Set([0, C - 1])) pen.fillText(String(column), left + (column + 0.5) * size, 11);
    pen.textAlign = "right";
    for (const row of new Set([0, R - 1])) pen.fillText(String(row), left - 5, top + (row + 0.5) * size);
    const idle = style("track");
    for (let row = 0; row < R; row++) for (let column = 0; column < C; column++) {
      const macs = pe.macs[row][column];
      pen.fillStyle = macs ? ramp(macs / most) : idle;
      pen.fillRect(left + column * size, top + row * size, size - gap + (gap ? 0 : 0.5), size - gap + (gap ? 0 : 0.5));
    }
    if (pe.at) {
      pen.strokeStyle = style("ink");
      pen.lineWidth = 2;
      pen.strokeRect(left + pe.at[1] * size - 1, top + pe.at[0] * size - 1, size + 1, size + 1);
    }
    const bar = make("i");
    bar.style.background = `linear-gradient(to right, ${[0, 0.25, 0.5, 0.75, 1].map(ramp).join(",")})`;
    $("scale").replaceChildren();
    if (most) { const strip = make("span"); strip.append("0 ", bar, ` ${percent(most / pe.cycles)}`); $("scale").append(strip); }
    const blank = make("span", "no product");
    blank.prepend(swatch(idle));
    if (pe.macs.some((row) => row.some((one) => !one))) $("scale").append(blank);
    tell();
  };
  const tell = () => {
    if (!pe.at) { $("pe").textContent = ""; return; }
    const [row, column] = pe.at, macs = pe.macs[row][column];
    $("pe").textContent = `PE(${row}, ${column}): ${count(macs, "product")}${pe.cycles ? `, ${percent(macs / pe.cycles)} of the cycles` : ""}`;
  };
  const gridControls = () => {
    const canvas = $("grid");
    const point = (event) => {
      const box = canvas.getBoundingClientRect(), column = Math.floor((event.clientX - box.left - pe.left) / pe.size), row = Math.floor((event.clientY - box.top - pe.top) / pe.size);
      pe.at = row >= 0 && row < R && column >= 0 && column < C ? [row, column] : null;
      drawGrid();
    };
    canvas.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") point(event); });
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") { pe.at = null; drawGrid(); } });
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!by) return;
      const [row, column] = pe.at || [0, 0];
      pe.at = pe.at ? [Math.min(Math.max(row + by[0], 0), R - 1), Math.min(Math.max(column + by[1], 0), C - 1)] : [0, 0];
      drawGrid();
      event.preventDefault();
    });
  };

  // Partial sums --------------------------------------------------------------------------------------------
  const partialSums = () => {
    const found = layers.map((layer, label) => ({ layer, label, sums: data.layers[label].sums })).filter(({ sums }) => sums);
    const svg = $("ranges"), width = svg.getBoundingClientRect().width, row = 44, [left, right, bottom] = [12, 12, 30];
    const when = hardware.accumulator.saturate_at === "every_add" ? "at every add" : "at the end of the sum";
    const unseen = found.some(({ sums }) => sums.seen_bits === null);
    $("summed").textContent = `Exact results at the adder, before they are fitted; ${hardware.accumulator.overflow === "saturate" ? "saturating" : "wrapping"} ${when}, zero points ${report.zero_points}, bias in the ${report.bias_at}. Both directions are logarithmic. `
      + (found.some(({ layer }) => layer.overflows) ? "Where one overflowed, a wider accumulator would see another range. " : "")
      + (unseen ? "A range that is missing was not watched; --telemetry watches it wherever values are computed." : "");
    svg.replaceChildren();
    if (!found.length) { svg.append(shape("text", { x: 0, y: 20 }, "No layer adds products.")); return; }
    const height = found.length * row + bottom, most = Math.max(...found.flatMap(({ sums }) => [sums.width_bits, sums.type_bits, sums.l1_bits]));
    svg.style.height = `${height}px`;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const middle = (left + width - right) / 2, half = (width - left - right) / 2;
    const at = (value) => middle + (Math.sign(value) * Math.log2(1 + Math.abs(value)) * half) / (most - 1);
    const limit = (bits, sign) => middle + (sign * (bits - 1) * half) / (most - 1);
    const every = width < 560 && most > 26 ? 16 : 8;
    for (let bits = 8; bits <= most; bits += every) for (const sign of [-1, 1]) {
      svg.append(shape("line", { class: "gridline", x1: limit(bits, sign), x2: limit(bits, sign), y1: 0, y2: height - bottom }));
      svg.append(shape("text", { x: limit(bits, sign), y: height - bottom + 16, "text-anchor": "middle" }, `${sign < 0 ? "−" : ""}2${[...String(bits - 1)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`));
    }
    svg.append(shape("line", { class: "gridline", x1: middle, x2: middle, y1: 0, y2: height - bottom }), shape("text", { x: middle, y: height - bottom + 16, "text-anchor": "middle" }, "0"));
    const said = [];
    found.forEach(({ layer, label, sums }, place) => {
      const y = place * row, line = y + 31, group = shape("g", { class: others(label) ? "faint" : "" });
      const overflow = layer.overflows === null ? "overflows not watched" : `${count(layer.overflows, "overflow")}${sums.seen_bits === null ? ", proved by the weights" : ""}`;
      const range = sums.seen_bits === null ? "" : `${show(layer.psum_min)} to ${show(layer.psum_max)}, ${sums.seen_bits} bits; `;
      const roomy = width > 560, words = `${roomy ? range : range.replace(/;.*| bits/g, (part) => (part.startsWith(";") ? "; " : " bits"))}${overflow}`;
      said.push(`${layer.name}: ${range}${overflow}`);
      group.append(shape("text", { class: "name", x: left - 10, y: y + 16 }, brief(layer.name, roomy ? 40 : 14)));
      const text = shape("text", { class: layer.overflows ? "alarm" : "", x: width - right + 10, y: y + 16, "text-anchor": "end" }, words);
      if (layer.overflows) text.style.fill = "var(--bad)";
      group.append(text);
      group.append(shape("line", { class: "gridline", x1: left, x2: width - right, y1: line, y2: line }));
      if (sums.seen_bits !== null) group.append(shape("rect", { x: at(layer.psum_min), y: line - 6, width: Math.max(at(layer.psum_max) - at(layer.psum_min), 1), height: 12, rx: 2, fill: layerTone(label) }));
      for (const sign of [-1, 1]) {
        const [x, own, array, type] = [sums.l1_bits, sums.width_bits, sums.psum_bits, sums.type_bits].map((bits) => limit(bits, sign));
        group.append(shape("rect", { x: type - 4, y: line - 4, width: 8, height: 8, fill: "var(--panel)", stroke: "var(--ink)", "stroke-width": 1.3 }));
        group.append(shape("path", { d: `M${x},${line - 6}L${x + 6},${line}L${x},${line + 6}L${x - 6},${line}Z`, fill: "var(--panel)", stroke: "var(--ink)", "stroke-width": 1.3 }));
        group.append(shape("path", { class: "limit", d: `M${own},${line - 10}V${line + 10}` }));
        if (array !== own) group.append(shape("path", { class: "limit", d: `M${array},${line - 10}V${line + 10}`, "stroke-dasharray": "3 2" }));
      }
      group.append(shape("title", {}, `${layer.name}: ${range}${overflow}; ${sums.l1_bits} bits suffice for these weights, ${sums.type_bits} for any; the accumulator has ${sums.width_bits}${sums.psum_bits === sums.width_bits ? "" : `, the array ${sums.psum_bits}`}`));
      svg.append(group);
    });
    svg.setAttribute("aria-label", said.join("; "));
    const mark = (attributes, tag, text) => { const one = make("span"), icon = shape("svg", { viewBox: "0 0 14 14" }); icon.append(shape(tag, { stroke: "var(--ink)", "stroke-width": 1.5, fill: "none", ...attributes })); one.append(icon, text); return one; };
    $("marks").replaceChildren(
      mark({ x: 0, y: 3, width: 14, height: 8, fill: "var(--accent)", stroke: "none" }, "rect", "observed"),
      mark({ d: "M7,1L13,7L7,13L1,7Z" }, "path", "enough for these weights, whatever the input"),
      mark({ x: 2, y: 2, width: 10, height: 10 }, "rect", "enough for any weights of these types"),
      mark({ d: "M7,0V14", "stroke-width": 2.5 }, "path", "accumulator"),
      ...(found.some(({ sums }) => sums.psum_bits !== sums.width_bits) ? [mark({ d: "M7,0V14", "stroke-width": 2.5, "stroke-dasharray": "3 2" }, "path", "partial sum in the array")] : []));
  };

  // How it was made -----------------------------------------------------------------------------------------
  const made = () => {
    $("command").textContent = data.command;
    pairs($("versions"), Object.entries(data.versions));
    pairs($("facts"), [["workload", report.workload], ["batch", show(report.batch)], ["images checked", show(report.images_checked)], ["activations", `${report.activation.signed ? "int" : "uint"}${report.activation.bits}`], ["zero points", report.zero_points], ["bias in the", report.bias_at], ["requantisation", `${report.requantization.scheme}, ${report.requantization.rounding}`],
      ["instructions", show(totals.instructions)], ...(report.float_accuracy ? [["float model's accuracy", `${(100 * report.float_accuracy).toFixed(2)} %`]] : [])]);
    const flat = (prefix, value) => (value !== null && typeof value === "object" && !Array.isArray(value) ? Object.entries(value).flatMap(([key, one]) => flat(prefix ? `${prefix}.${key}` : key, one)) : [[prefix, Array.isArray(value) ? value.join(", ") : show(value)]]);
    pairs($("hardware"), flat("", hardware).filter(([key, value]) => !key.startsWith("supports.") && value !== "–"));
    $("table").textContent = report.energy_title;
    $("notes").replaceChildren(...report.energy_notes.map((note) => make("li", note)));
  };

  // All together --------------------------------------------------------------------------------------------
  const charts = () => { utilisation(); stalls(); energies(); roofline(); elements(); partialSums(); };
  const everything = () => { rows(); charts(); redraw(); };
  const select = (label) => {
    state.layer = label;
    if (label === null) look(0, TOTAL); else goTo(label);
    mark();
    charts();
    redraw();
  };
  head();
  table();
  made();
  theme(everything);
  controls();
  gridControls();
  $("whole").addEventListener("click", () => select(null));
  $("dram").addEventListener("change", () => { state.dram = $("dram").checked; energies(); });
  // Drawings are made for the page's width, and the browser says that it prints before it lays out for paper: so the
  // rules for paper hold already while they are made.
  const print = (on) => {
    paper.media.mediaText = on ? "all" : "print";
    everything();
    drawTime();
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  let width = 0;
  new ResizeObserver(() => {
    const now = document.body.clientWidth;
    if (now && now !== width) { width = now; charts(); redraw(); }
  }).observe(document.body);
  rows();
  unpack().then((found) => { open(found); redraw(); document.documentElement.dataset.ready = "yes"; }, () => {
    $("tip").textContent = "This browser cannot unpack the timeline (it lacks DecompressionStream): use one of 2023 or later.";
  });
})();
