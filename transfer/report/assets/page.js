"use strict";
// What all sections share: `report.register(KEY, function (root, data) {…})` is called for each section of that key,
// when it is first seen to be open.
const report = (function () {
  const makers = {};
  const problems = [];

  function svg(name, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    return made;
  }

  function begin(root) {
    if (root.dataset.begun) return;
    root.dataset.begun = "yes";
    const maker = makers[root.dataset.section];
    const data = root.querySelector('script[type="application/json"]');
    if (!maker) return;
    try {
      maker(root, data ? JSON.parse(data.textContent) : null);
    } catch (error) {
      problems.push(error);
      console.error(root.id, error);
    }
  }

  function beginAll(within) {
    within.querySelectorAll("[data-section]").forEach(function (root) {
      const run = root.closest("details.run");
      if (!run || run.open) begin(root);
    });
  }

  // Tables whose headings are buttons: one click sorts up, the next one down.
  function sortable(table) {
    if (!table.tHead || !table.tBodies.length || table.dataset.sorts) return;
    table.dataset.sorts = "yes";
    const headings = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
    headings.forEach(function (heading, column) {
      if (heading.querySelector("button")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      while (heading.firstChild) button.appendChild(heading.firstChild);
      heading.appendChild(button);
      button.addEventListener("click", function () {
        const up = heading.getAttribute("aria-sort") !== "ascending";
        headings.forEach(function (other) { other.removeAttribute("aria-sort"); });
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        sort(table.tBodies[0], column, up);
      });
    });
  }

  function sort(body, column, up) {
    const rows = Array.from(body.rows, function (row) {
      const cell = row.cells[column];
      return { row: row, key: cell.dataset.value || cell.textContent.trim() };
    });
    const numbers = rows.map(function (one) {
      return parseFloat(one.key.replace(/[\u202f\s,]/g, "").replace("\u2212", "-"));
    });
    const numeric = rows.some(function (one, place) { return !isNaN(numbers[place]); }) &&
      rows.every(function (one, place) { return !isNaN(numbers[place]) || !/\d/.test(one.key); });
    const order = rows.map(function (_, place) { return place; });
    order.sort(function (a, b) {
      if (numeric) {
        // what has no number comes last either way
        if (isNaN(numbers[a]) || isNaN(numbers[b])) return isNaN(numbers[a]) - isNaN(numbers[b]);
        return (up ? 1 : -1) * (numbers[a] - numbers[b]);
      }
      return (up ? 1 : -1) * rows[a].key.localeCompare(rows[b].key, undefined, { numeric: true });
    });
    order.forEach(function (place) { body.appendChild(rows[place].row); });
  }

  // Below each table a button that downloads it: cells as they are read, numbers without their thin spaces.
  function downloadable(table) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "csv";
    button.textContent = "Download CSV";
    button.setAttribute("aria-label", "Download this table as CSV");
    button.addEventListener("click", function () {
      const lines = Array.from(table.rows, function (row) {
        return Array.from(row.cells, function (cell) {
          const read = cell.textContent.trim().replace(/(\d)\u202f(?=[\d%])/g, "$1").replace(/\s+/g, " ");
          // a name that a spreadsheet would take for a formula
          const text = /^[=+\-@]/.test(read) && isNaN(read.replace("%", "")) ? "'" + read : read;
          return /[",\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
        }).join(",");
      });
      const link = document.createElement("a");
      link.download = (table.closest("[data-section]") || document.body).id + ".csv";
      link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(lines.join("\r\n") + "\r\n");
      link.click();
    });
    (table.closest(".scroll") || table).after(button);
  }

  // Light, dark, or whatever the system has; kept where the browser keeps anything for a file.
  function themes() {
    const button = document.getElementById("theme");
    const choices = ["system", "light", "dark"];
    let now = "system";
    try { now = localStorage.getItem("report-theme") || now; } catch (error) { /* a file may have no storage */ }
    function apply() {
      if (now === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = now;
      button.textContent = "Theme: " + (now === "system" ? "system" : now);
      document.dispatchEvent(new CustomEvent("themechange"));
    }
    button.addEventListener("click", function () {
      now = choices[(choices.indexOf(now) + 1) % choices.length];
      try { localStorage.setItem("report-theme", now); } catch (error) { /* as above */ }
      apply();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
    button.hidden = false;
    apply();
  }

  // The entry of the contents whose section is being read.
  function contents() {
    const links = {};
    document.querySelectorAll("nav.contents a").forEach(function (link) {
      links[link.getAttribute("href").slice(1)] = link;
    });
    if (!("IntersectionObserver" in window)) return;
    const watcher = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        const link = links[entry.target.id];
        if (!link || !entry.isIntersecting) return;
        Object.values(links).forEach(function (other) { other.removeAttribute("aria-current"); });
        link.setAttribute("aria-current", "true");
      });
    }, { rootMargin: "-15% 0px -75% 0px" });
    Object.keys(links).forEach(function (id) {
      const target = document.getElementById(id);
      if (target) watcher.observe(target);
    });
  }

  // A link into a run that is folded opens it.
  function follow() {
    const id = decodeURIComponent(location.hash.slice(1));
    const target = id && document.getElementById(id);
    const run = target && target.closest("details.run");
    if (run && !run.open) {
      run.open = true;
      target.scrollIntoView();
    }
  }

  return {
    register: function (key, maker) { makers[key] = maker; },
    svg: svg,
    sortable: sortable,
    problems: problems,
    // The value of a colour of the page, for a canvas: report.colour("--c1").
    colour: function (name) {
      return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    },
    start: function () {
      themes();
      document.querySelectorAll("table.sortable").forEach(sortable);
      document.querySelectorAll("main table").forEach(downloadable);
      beginAll(document);
      document.querySelectorAll("details.run").forEach(function (run) {
        run.addEventListener("toggle", function () { if (run.open) beginAll(run); });
      });
      addEventListener("hashchange", follow);
      follow();
      contents();
      addEventListener("beforeprint", function () {
        document.querySelectorAll("details.run").forEach(function (run) { run.open = true; });
      });
      document.documentElement.dataset.ready = "yes";
    },
  };
})();
