// The page of one sweep. Whatever a store says is set as text, never as markup.
(() => {
  const { $, make, shape, isNumber, show, short, scale, ramp, theme, PALETTE } = kit;
  const data = JSON.parse($("data").textContent);
  const count = data.points.length;
  const columns = { ...data.axes, ...data.figures };
  const MOST_ROWS = 200;
  const state = { chosen: null, sort: "point", up: true, all: false, front: new Set(), order: [], focus: 0 };

  const unit = (name) => (/^energy(\.|$)/.test(name) ? data.units.join(" or ") : { accuracy: "%", float: "%", milliseconds: "ms", area: "transistors" }[name] || "");
  const title = (name) => (unit(name) ? `${name} (${unit(name)})` : name);
  const numeric = Object.keys(columns).filter((name) => columns[name].some(isNumber));
  const varied = (name) => new Set(columns[name]).size > 1;

  // What there is to choose ---------------------------------------------------------------------------------
  // A choice of an axis is "min NAME" or "max NAME": which end is better decides the front.
  const directions = Object.fromEntries(data.objectives.map(([way, name]) => [name, way]));
  const usual = (name) => directions[name] || (["accuracy", "float", "utilization"].includes(name) ? "max" : "min");
  const fill = (select, options, value) => {
    for (const [key, text] of options) {
      const one = make("option", text);
      one.value = key;
      select.append(one);
    }
    select.value = value;
  };
  const ways = numeric.flatMap((name) => {
    const first = usual(name), other = first === "min" ? "max" : "min";
    return [first, other].map((way) => [`${way} ${name}`, `${name} (${way === "min" ? "small" : "large"} is better)`]);
  });
  const begin = data.objectives.map((one) => one.join(" "));
  const fallback = numeric.find((name) => !directions[name] && varied(name)) || numeric[0];
  fill($("x"), ways, begin[0] || `min ${fallback}`);
  fill($("y"), ways, begin[1] || `${usual(fallback)} ${fallback}`);
  fill($("z"), [["", "nothing"], ...ways], begin[2] || "");
  const fourth = begin[3]; // named on the command line; kept in the front as long as it begins with them
  const colourBy = Object.keys(data.axes).find(varied) || "";
  fill($("colour"), [["", "one colour"], ...Object.keys(columns).map((name) => [name, name])], colourBy);

  const split = (id) => {
    const [way, ...rest] = $(id).value.split(" ");
    return { way, name: rest.join(" ") };
  };
  const objectives = () => {
    const chosen = ["x", "y", "z"].filter((id) => $(id).value).map(split);
    const same = begin.slice(0, 3).every((one, place) => [$("x"), $("y"), $("z")][place].value === one);
    if (fourth && same) chosen.push({ way: fourth.split(" ")[0], name: fourth.split(" ").slice(1).join(" ") });
    return chosen;
  };

  // The front: sorted by the first objective, a point can only be beaten by one before it or equal in it.
  const findFront = () => {
    const asked = objectives();
    const cost = (point) => asked.map(({ way, name }) => (way === "min" ? 1 : -1) * columns[name][point]);
    const able = [...Array(count).keys()].filter((p) => data.statuses[p] === "done" && asked.every(({ name }) => isNumber(columns[name][p])));
    const costs = new Map(able.map((point) => [point, cost(point)]));
    able.sort((a, b) => { for (let k = 0; k < asked.length; k++) { const d = costs.get(a)[k] - costs.get(b)[k]; if (d) return d; } return a - b; });
    const kept = [];
    for (const point of able) {
      const mine = costs.get(point);
      const beaten = kept.some((other) => { const theirs = costs.get(other); return theirs.every((v, k) => v <= mine[k]) && theirs.some((v, k) => v < mine[k]); });
      if (!beaten) kept.push(point);
    }
    return new Set(kept);
  };

  // Colours -------------------------------------------------------------------------------------------------
  const colouring = () => {
    const name = $("colour").value;
    $("legend").replaceChildren();
    if (!name) return () => PALETTE[0];
    const values = [...new Set(columns[name])].filter((value) => value !== null && value !== undefined);
    const entry = (colour, text) => {
      const one = make("span", text), dot = make("i");
      dot.style.background = colour;
      one.prepend(dot);
      $("legend").append(one);
    };
    $("legend").append(make("span", `${title(name)}:`));
    if (values.every(isNumber) && values.length > 1) {
      values.sort((a, b) => a - b);
      const few = values.length <= 8, low = values[0], high = values[values.length - 1];
      const at = (value) => (few ? values.indexOf(value) / (values.length - 1) : (value - low) / (high - low));
      for (const value of few ? values : [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low))) entry(ramp(at(value)), short(value));
      return (point) => (isNumber(columns[name][point]) ? ramp(at(columns[name][point])) : "var(--grey)");
    }
    const shown = values.slice(0, PALETTE.length);
    shown.forEach((value, place) => entry(PALETTE[place], show(value)));
    if (values.length > shown.length) entry("var(--grey)", `${values.length - shown.length} others`);
    return (point) => PALETTE[values.indexOf(columns[name][point])] || "var(--grey)";
  };

  // Scatter -------------------------------------------------------------------------------------------------
  const describe = (point) => {
    const asked = objectives().map(({ name }) => `${name} ${show(columns[name][point])}`);
    const where = Object.keys(data.axes).map((name) => `${name.split(".").slice(-1)[0]} ${show(columns[name][point])}`);
    const kind = state.front.has(point) ? ", on the front" : data.statuses[point] === "done" ? "" : `, ${data.statuses[point]}`;
    return `Point ${data.points[point]}${kind}: ${asked.join(", ")} · ${where.join(", ")}`;
  };

  const draw = () => {
    const svg = $("plot"), { width, height } = svg.getBoundingClientRect();
    const x = split("x"), y = split("y"), [left, right, top, bottom] = [62, 14, 24, 42];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const colour = colouring();
    const drawn = [...Array(count).keys()].filter((point) => isNumber(columns[x.name][point]) && isNumber(columns[y.name][point]) && (data.statuses[point] === "done" || $("infeasible").checked));
    state.order = drawn;
    if (!drawn.length) {
      svg.append(shape("text", { x: 20, y: 40 }, "No point has both."));
      return;
    }
    const across = scale(drawn.map((point) => columns[x.name][point]), left, width - right);
    const up = scale(drawn.map((point) => columns[y.name][point]), height - bottom, top);
    let end = -Infinity;
    for (const tick of across.ticks) {
      const place = across.at(tick), text = short(tick);
      svg.append(shape("line", { class: "grid", x1: place, x2: place, y1: top, y2: height - bottom }));
      if (place - text.length * 3.5 < end) continue;
      end = place + text.length * 3.5 + 8;
      svg.append(shape("text", { x: place, y: height - bottom + 16, "text-anchor": "middle" }, text));
    }
    for (const tick of up.ticks) {
      svg.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: up.at(tick), y2: up.at(tick) }));
      svg.append(shape("text", { x: left - 6, y: up.at(tick) + 4, "text-anchor": "end" }, short(tick)));
    }
    svg.append(shape("text", { class: "name", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, title(x.name)));
    svg.append(shape("text", { class: "name", x: 4, y: 13 }, title(y.name)));
    const shown = drawn.filter((point) => state.front.has(point)).sort((a, b) => columns[x.name][a] - columns[x.name][b] || columns[y.name][a] - columns[y.name][b]);
    if (objectives().length === 2 && shown.length) {
      let path = "";
      shown.forEach((point, place) => {
        const h = across.at(columns[x.name][point]), v = up.at(columns[y.name][point]);
        path += place === 0 ? `M${h},${v}` : x.way === "min" ? `H${h}V${v}` : `V${v}H${h}`;
      });
      svg.append(shape("path", { class: "step", d: path }));
    }
    // The front last, so that it lies on top; the arrow keys go through all points from left to right.
    const circles = new Map();
    for (const point of [...drawn.filter((one) => !state.front.has(one)), ...shown]) {
      const front = state.front.has(point), done = data.statuses[point] === "done";
      const circle = shape("circle", {
        cx: across.at(columns[x.name][point]), cy: up.at(columns[y.name][point]), r: front ? 6.5 : 4.5,
        class: front ? "front" : done ? "plain" : "infeasible", role: "button", tabindex: -1,
        "data-point": data.points[point], "aria-label": describe(point),
      });
      if (done) { circle.style.fill = colour(point); circle.style.fillOpacity = front ? 1 : 0.6; }
      circle.addEventListener("keydown", (event) => key(event, point));
      circle.addEventListener("focus", () => { $("tip").textContent = describe(point); });
      circles.set(point, circle);
      svg.append(circle);
    }
    state.circles = circles;
    state.order = [...drawn].sort((a, b) => columns[x.name][a] - columns[x.name][b] || columns[y.name][a] - columns[y.name][b]);
    state.shown = shown;
    const first = circles.has(state.chosen) ? state.chosen : shown[0] ?? state.order[0];
    circles.get(first).setAttribute("tabindex", 0);
    mark();
  };

  const key = (event, point) => {
    const place = state.order.indexOf(point), last = state.order.length - 1;
    const ends = state.shown.length ? state.shown : state.order;
    const to = { ArrowRight: state.order[Math.min(place + 1, last)], ArrowDown: state.order[Math.min(place + 1, last)], ArrowLeft: state.order[Math.max(place - 1, 0)], ArrowUp: state.order[Math.max(place - 1, 0)], Home: ends[0], End: ends[ends.length - 1] }[event.key];
    if (event.key === "Enter" || event.key === " ") choose(point);
    else if (to !== undefined) {
      state.circles.get(point).setAttribute("tabindex", -1);
      state.circles.get(to).setAttribute("tabindex", 0);
      state.circles.get(to).focus();
    } else return;
    event.preventDefault();
  };

  // The points at the nearest place within a finger's width, so that small circles can be hit; the front first.
  const nearest = (event) => {
    let found = [], least = 24 ** 2;
    const box = $("plot").getBoundingClientRect();
    for (const [point, circle] of state.circles || []) {
      const away = (circle.cx.baseVal.value - event.clientX + box.left) ** 2 + (circle.cy.baseVal.value - event.clientY + box.top) ** 2;
      if (away < least - 0.01) { found = [point]; least = away; } else if (found.length && away <= least + 0.01) found.push(point);
    }
    return found.sort((a, b) => state.front.has(b) - state.front.has(a) || a - b);
  };
  $("plot").addEventListener("click", (event) => {
    const found = nearest(event);
    if (found.length) choose(found[(found.indexOf(state.chosen) + 1) % found.length]); // a second click takes the next
  });
  $("plot").addEventListener("pointermove", (event) => {
    const found = nearest(event), more = found.length - 1;
    $("tip").textContent = found.length ? describe(found[0]) + (more ? ` (and ${more} more at this place: click again)` : "") : "";
  });

  // One point -----------------------------------------------------------------------------------------------
  const mark = () => {
    for (const [point, circle] of state.circles || []) circle.classList.toggle("chosen", point === state.chosen);
    for (const row of $("body").rows) row.classList.toggle("chosen", row.dataset.point === String(data.points[state.chosen]));
  };
  const facts = (heading, entries) => {
    const known = entries.filter(([, value]) => value !== undefined);
    if (!known.length) return;
    const list = make("dl");
    for (const [name, value] of known) list.append(make("dt", title(name)), make("dd", show(value)));
    $("facts").append(make("h3", heading), list);
  };
  const choose = (point) => {
    present(point);
    if (matchMedia("(max-width: 800px)").matches) $("detail").scrollIntoView({ block: "start" });
  };
  const present = (point) => {
    state.chosen = point;
    const status = data.statuses[point], on = state.front.has(point) ? ", on the front" : "";
    $("chosen").textContent = `Point ${data.points[point]}: ${status}${on}`;
    $("why").textContent = data.reasons[point] || "";
    $("facts").replaceChildren();
    const entries = (table) => Object.entries(table).map(([name, values]) => [name, values[point]]);
    facts("Axes", entries(data.axes));
    facts("Figures", entries(data.figures).filter(([, value]) => value !== null));
    const measured = Object.keys(data.figures).some((name) => data.figures[name][point] !== null);
    facts("Configuration, as of this point", entries(data.configuration).filter(([, value]) => value !== null));
    if (measured) facts("Configuration, as of every point", Object.entries(data.common));
    mark();
  };

  // Table ---------------------------------------------------------------------------------------------------
  const fields = ["point", "status", ...Object.keys(data.axes), ...Object.keys(data.figures).filter((name) => !name.startsWith("energy."))];
  const field = (name, point) => (name === "point" ? data.points[point] : name === "status" ? data.statuses[point] : columns[name][point]);
  const header = new Map();
  for (const name of fields) {
    const cell = make("th"), button = make("button", name.split(".").slice(-2).join("."));
    button.type = "button";
    button.title = name;
    cell.scope = "col";
    button.addEventListener("click", () => {
      state.up = state.sort === name ? !state.up : true;
      state.sort = name;
      list();
    });
    cell.append(button);
    header.set(name, cell);
    $("head").append(cell);
  }
  const wanted = () => {
    const words = $("filter").value.trim(), test = words.match(/^([^\s<>=!]+)\s*(<=|>=|!=|<|>|=)\s*(.+)$/);
    const name = test && fields.find((one) => one === test[1]) || test && fields.find((one) => one.endsWith(`.${test[1]}`));
    if (name) {
      const limit = Number(test[3].replaceAll(",", "")), plain = Number.isNaN(limit);
      const compare = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b, "!=": (a, b) => a !== b }[test[2]];
      return (point) => { const value = field(name, point); return value !== null && value !== undefined && compare(plain ? String(value) : value, plain ? test[3] : limit); };
    }
    const parts = words.toLowerCase().split(/\s+/);
    return (point) => { const text = [...fields.map((one) => `${show(field(one, point))} ${field(one, point)}`), data.reasons[point] || ""].join(" ").toLowerCase(); return parts.every((part) => text.includes(part)); };
  };
  const list = () => {
    const fits = wanted(), only = $("only").checked;
    const found = [...Array(count).keys()].filter((point) => (!only || state.front.has(point)) && fits(point));
    const sign = state.up ? 1 : -1;
    found.sort((a, b) => {
      const [one, other] = [field(state.sort, a), field(state.sort, b)], [none, nothing] = [one ?? null, other ?? null].map((value) => value === null);
      if (none || nothing) return none - nothing || a - b; // what is not there comes last either way
      const order = isNumber(one) && isNumber(other) ? one - other : String(one).localeCompare(String(other));
      return sign * order || a - b;
    });
    for (const [name, cell] of header) {
      if (name === state.sort) cell.setAttribute("aria-sort", state.up ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
      cell.firstChild.textContent = name.split(".").slice(-2).join(".") + (name === state.sort ? (state.up ? " ▲" : " ▼") : "");
    }
    const shown = state.all ? found : found.slice(0, MOST_ROWS);
    $("body").replaceChildren(...shown.map((point) => {
      const row = make("tr", undefined, data.statuses[point] === "done" ? "" : "infeasible");
      row.dataset.point = data.points[point];
      for (const name of fields) {
        const cell = make("td");
        if (name === "point") {
          const button = make("button", show(data.points[point]) + (state.front.has(point) ? " ◆" : ""));
          button.type = "button";
          button.setAttribute("aria-label", `point ${data.points[point]}${state.front.has(point) ? ", on the front" : ""}: show its configuration`);
          cell.append(button);
        } else {
          cell.textContent = show(field(name, point));
          cell.title = cell.textContent;
        }
        row.append(cell);
      }
      row.addEventListener("click", () => choose(point));
      return row;
    }));
    $("count").textContent = `${found.length.toLocaleString("en")} of ${count.toLocaleString("en")} points`;
    $("more").hidden = shown.length === found.length;
    mark();
  };

  // All together --------------------------------------------------------------------------------------------
  const refresh = () => {
    state.front = findFront();
    draw();
    list();
    if (state.chosen !== null) present(state.chosen);
  };
  $("name").textContent = data.name;
  const tally = {};
  for (const status of data.statuses) tally[status] = (tally[status] || 0) + 1;
  const mixed = data.units.length > 1 ? ` Energies are in ${data.units.join(" or ")}: do not compare points across units.` : "";
  const said = Object.entries(tally).map(([status, number]) => `${number.toLocaleString("en")} ${status}`).join(", ");
  $("about").textContent = `${data.title ? `${data.title}. ` : ""}${count.toLocaleString("en")} points: ${said}.${mixed}`;
  for (const id of ["x", "y", "z"]) $(id).addEventListener("change", refresh);
  for (const id of ["colour", "infeasible"]) $(id).addEventListener("change", draw);
  for (const id of ["filter", "only"]) $(id).addEventListener("input", list);
  $("more").addEventListener("click", () => { state.all = true; list(); });
  theme();
  let width = 0;
  new ResizeObserver(() => {
    const now = $("plot").getBoundingClientRect().width;
    if (now && now !== width) { width = now; draw(); }
  }).observe($("plot"));
  refresh();
})();
