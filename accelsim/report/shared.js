"use strict";
// What the pages share. Whatever data say is set as text, never as markup.
const kit = (() => {
  const $ = (id) => document.getElementById(id);
  const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A7F00"]; // Okabe and Ito
  const RAMP = [[122, 70, 168], [59, 100, 160], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis, its dark end made light enough for a dark page

  const make = (tag, text, cls) => {
    const one = document.createElement(tag);
    if (text !== undefined) one.textContent = text;
    if (cls) one.className = cls;
    return one;
  };
  const shape = (tag, attributes, text) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    if (text !== undefined) one.textContent = text;
    return one;
  };
  const isNumber = (value) => typeof value === "number";
  const show = (value) => {
    if (value === null || value === undefined) return "–";
    if (!isNumber(value)) return String(value);
    if (Number.isInteger(value)) return value.toLocaleString("en");
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e15 ? value.toLocaleString("en", { maximumSignificantDigits: Math.max(5, Math.ceil(Math.log10(size + 1)) + 1) })
      : value.toExponential(3);
  };
  const short = (value) => {
    const size = Math.abs(value);
    if (size >= 1e4 || (size > 0 && size < 1e-2)) return value.toLocaleString("en", { notation: size >= 1e4 ? "compact" : "scientific", maximumSignificantDigits: 3 });
    return value.toLocaleString("en", { maximumSignificantDigits: 4 });
  };
  const ramp = (share) => {
    const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1), low = Math.min(Math.floor(place), RAMP.length - 2);
    return `rgb(${RAMP[low].map((value, k) => Math.round(value + (place - low) * (RAMP[low + 1][k] - value))).join(",")})`;
  };

  // An axis: where a value lies between two places, and round values for its ticks.
  const steps = (low, high, count) => {
    const raw = (high - low) / count, size = 10 ** Math.floor(Math.log10(raw)), ticks = [];
    const step = size * [1, 2, 2.5, 5, 10].find((one) => one * size >= raw);
    for (let tick = Math.ceil(low / step); tick * step <= high; tick++) ticks.push(tick * step);
    return ticks;
  };
  const scale = (values, from, to) => {
    let low = Math.min(...values), high = Math.max(...values);
    if (low === high) { const room = Math.abs(low) / 10 || 1; low -= room; high += room; }
    const log = low > 0 && high / low > 30;
    const warp = log ? Math.log10 : (value) => value;
    const room = (warp(high) - warp(low)) * 0.04, first = warp(low) - room, last = warp(high) + room;
    const at = (value) => from + ((warp(value) - first) / (last - first)) * (to - from);
    let ticks = [];
    if (log) {
      const parts = high / low > 1e4 ? [1] : high / low > 200 ? [1, 3] : [1, 2, 5];
      for (let power = Math.floor(first); power <= last; power++) for (const part of parts) ticks.push(part * 10 ** power);
    } else ticks = steps(first, last, 5);
    return { at, ticks: ticks.filter((tick) => warp(tick) >= first && warp(tick) <= last) };
  };

  // Light or dark as the system says, until the button says otherwise.
  const theme = (changed = () => {}) => {
    const dark = (on) => {
      document.documentElement.classList.toggle("dark", on);
      $("theme").textContent = on ? "Light" : "Dark";
    };
    $("theme").addEventListener("click", () => { dark(!document.documentElement.classList.contains("dark")); changed(); });
    dark(matchMedia("(prefers-color-scheme: dark)").matches);
  };
  return { $, make, shape, isNumber, show, short, ramp, steps, scale, theme, PALETTE };
})();
