"use strict";
// Headers become buttons that sort: up, down, as it was. Without this script the tables stand as they are.
const number = (text) => {
  const power = /^10\^(-?[\d.]+)/.exec(text);
  if (power) return { log: Number(power[1]) };
  const value = Number.parseFloat(text.replace(/[,[]/g, ""));
  return Number.isNaN(value) ? null : { value };
};
const keys = (cells) => {
  const found = cells.map((cell) => number(cell.textContent.trim()));
  if (!cells[0].classList.contains("num") && !found.some((one) => one && "log" in one)) return null;
  const logs = found.some((one) => one && "log" in one);
  return found.map((one) => (one === null ? null : "log" in one ? one.log : logs ? Math.log10(one.value) : one.value));
};
const compare = (a, b, sign) => {
  if (a === null || b === null || Number.isNaN(a) || Number.isNaN(b)) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
};
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    if (header.classList.contains("bar") || rows.length < 2) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" };
      const order = next[header.getAttribute("aria-sort") ?? "none"];
      headers.forEach((one) => one.removeAttribute("aria-sort"));
      if (order === "none") return body.append(...rows);
      header.setAttribute("aria-sort", order);
      const cells = rows.map((row) => row.cells[column]);
      const values = keys(cells) ?? cells.map((cell) => cell.textContent);
      const sign = order === "ascending" ? 1 : -1;
      const places = rows.map((_, place) => place).sort((a, b) => compare(values[a], values[b], sign) || a - b);
      body.append(...places.map((place) => rows[place]));
    });
  });
}
