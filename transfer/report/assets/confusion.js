// The matrix as a picture: only what happened is held and drawn, so that 1,000 classes are as quick as their errors.
report.register("confusion", function (root, data) {
  const canvas = root.querySelector("canvas");
  const reading = root.querySelector(".reading");
  const hint = reading.textContent;
  const filter = root.querySelector(".filter");
  const count = data.names.length;
  const cells = new Map();
  const entries = [];
  for (let i = 0; i < data.entries.length; i += 3) {
    const entry = { a: data.entries[i], p: data.entries[i + 1], n: data.entries[i + 2] };
    entries.push(entry);
    cells.set(entry.a * count + entry.p, entry.n);
  }
  const errors = entries.filter(function (e) { return e.a !== e.p; }).sort(function (x, y) { return y.n - x.n; });
  const right = data.rows.map(function (_, i) { return cells.get(i * count + i) || 0; });
  const given = data.rows.map(function (_, i) { return i; });
  const orders = {
    given: function () { return given.slice(); },
    alike: function () { return data.alike.slice(); },
    worst: function () { return given.slice().sort(function (a, b) { return recall(a) - recall(b) || a - b; }); },
    rows: function () { return given.slice().sort(function (a, b) { return data.rows[b] - data.rows[a] || a - b; }); },
    name: function () {
      const compare = new Intl.Collator(undefined, { numeric: true }).compare;
      return given.slice().sort(function (a, b) { return compare(data.names[a], data.names[b]); });
    },
  };
  // shown: the classes in the order of the picture; place: where each is in it; view: what part of it is seen
  let shown = [], place = [], view = { x: 0, y: 0, size: 1 }, shares = "rows", wrongOnly = false, at = null, error = -1;
  let box = { left: 0, top: 0, side: 1 }, waiting = false;

  function recall(i) { return data.rows[i] ? right[i] / data.rows[i] : 2; }

  function value(a, p, n) {
    if (shares === "rows") return n / data.rows[a];
    if (shares === "said") return n / data.said[p];
    return n / most;
  }
  const most = Math.max.apply(null, data.rows);

  function arrange() {
    const wanted = filter.value.trim().toLowerCase();
    let keep = null;
    if (wanted) {
      const hit = data.names.map(function (name) { return name.toLowerCase().includes(wanted); });
      keep = hit.slice();
      errors.forEach(function (e) { if (hit[e.a]) keep[e.p] = true; if (hit[e.p]) keep[e.a] = true; });
    }
    shown = orders[root.querySelector(".order").value]();
    if (keep) shown = shown.filter(function (i) { return keep[i]; });
    place = new Array(count).fill(-1);
    shown.forEach(function (i, where) { place[i] = where; });
    at = null;
    reading.textContent = keep ? shown.length + " classes: those with “" + filter.value.trim() +
      "” in their names, and those they are confused with." : hint;
    view = { x: 0, y: 0, size: Math.max(shown.length, 1) };
    draw();
  }

  function zoom(by, x, y) {
    const size = Math.min(Math.max(view.size * by, Math.min(4, shown.length)), shown.length);
    if (x === undefined) {
      x = at ? (at.x + 0.5 - view.x) / view.size : 0.5;
      y = at ? (at.y + 0.5 - view.y) / view.size : 0.5;
    }
    view = { x: view.x + x * (view.size - size), y: view.y + y * (view.size - size), size: size };
    draw();
  }

  function clamp() {
    view.x = Math.max(Math.min(view.x, shown.length - view.size), 0);
    view.y = Math.max(Math.min(view.y, shown.length - view.size), 0);
    canvas.style.touchAction = view.size < shown.length ? "none" : "pan-y";
  }

  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(function () { waiting = false; paint(); });
  }

  // a name that fits, its middle cut: names of one kind differ at their ends
  function fitted(pen, text, width) {
    let cut = text;
    for (let left = text.length - 1; left > 1 && pen.measureText(cut).width > width; left--) {
      const end = Math.floor(left / 2);
      cut = text.slice(0, left - end) + "…" + text.slice(text.length - end);
    }
    return cut;
  }

  function paint() {
    const width = canvas.clientWidth, scale = devicePixelRatio || 1;
    if (!width) return;
    clamp();
    const pen = canvas.getContext("2d"), font = getComputedStyle(canvas).fontFamily;
    const small = width < 480;
    // room for names only where a name fits beside its cell
    pen.font = "12px " + font;
    const first = Math.floor(view.x), last = Math.min(Math.ceil(view.x + view.size), shown.length);
    const top = Math.floor(view.y), bottom = Math.min(Math.ceil(view.y + view.size), shown.length);
    const named = (width * 0.8) / view.size >= 10;
    let gutter = 20;
    if (named) {
      let longest = 0;
      for (let i = top; i < bottom; i++) longest = Math.max(longest, pen.measureText(data.names[shown[i]]).width);
      for (let i = first; i < last; i++) longest = Math.max(longest, pen.measureText(data.names[shown[i]]).width);
      gutter = Math.min(longest + 30, width * (small ? 0.27 : 0.22));
    }
    const side = width - gutter - 2, cell = side / view.size;
    box = { left: gutter, top: gutter, side: side, cell: cell };
    canvas.dataset.side = String(side);
    canvas.style.height = width + "px";
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(width * scale);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const ink = report.colour("--ink"), muted = report.colour("--muted"), line = report.colour("--grid");
    const hit = report.colour("--c1"), miss = report.colour("--c2"), card = report.colour("--card");
    pen.fillStyle = report.colour("--sunk");
    pen.fillRect(box.left, box.top, side, side);
    pen.save();
    pen.beginPath();
    pen.rect(box.left, box.top, side, side);
    pen.clip();
    const gap = cell > 8 ? 1 : 0, extent = Math.max(cell - gap, 1.6);
    pen.font = "600 " + Math.max(9, Math.min(14, cell * 0.34)) + "px " + font;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    if (gap) {
      pen.fillStyle = card;
      for (let i = top; i <= bottom; i++) pen.fillRect(box.left, box.top + (i - view.y) * cell - gap, side, gap);
      for (let i = first; i <= last; i++) pen.fillRect(box.left + (i - view.x) * cell - gap, box.top, gap, side);
    }
    entries.forEach(function (e) {
      const x = place[e.p], y = place[e.a];
      if (x < 0 || y < 0 || x < first || x >= last || y < top || y >= bottom || (wrongOnly && e.a === e.p)) return;
      const share = value(e.a, e.p, e.n), root = 0.14 + 0.86 * Math.sqrt(share);
      // a mark of a pixel or two needs more of its colour to be seen
      const strength = e.a === e.p ? 0.06 + 0.94 * share : cell < 4 ? 0.4 + 0.6 * root : root;
      const left = box.left + (x - view.x) * cell, down = box.top + (y - view.y) * cell;
      pen.globalAlpha = Math.min(strength, 1);
      pen.fillStyle = e.a === e.p ? hit : miss;
      pen.fillRect(left, down, extent, extent);
      if (cell < 26) return;
      pen.globalAlpha = 1;
      const text = shares === "count" ? String(e.n) : share >= 0.995 ? "100" : share < 0.01 ? "<1" : String(Math.round(100 * share));
      pen.fillStyle = strength > 0.62 ? report.colour("--card") : ink;
      pen.fillText(text, left + extent / 2, down + extent / 2 + 0.5);
    });
    pen.globalAlpha = 1;
    if (at) {
      const left = box.left + (at.x - view.x) * cell, down = box.top + (at.y - view.y) * cell;
      pen.fillStyle = ink;
      pen.globalAlpha = 0.1;
      pen.fillRect(box.left, down, side, extent);
      pen.fillRect(left, box.top, extent, side);
      pen.globalAlpha = 1;
      pen.strokeStyle = ink;
      pen.lineWidth = 2;
      pen.strokeRect(left - 1, down - 1, extent + 2, extent + 2);
    }
    pen.restore();
    pen.strokeStyle = line;
    pen.strokeRect(box.left - 0.5, box.top - 0.5, side + 1, side + 1);
    pen.font = (cell < 15 ? 10 : 12) + "px " + font;
    pen.fillStyle = muted;
    pen.textBaseline = "middle";
    if (named) {
      for (let i = top; i < bottom; i++) {
        const middle = box.top + (i + 0.5 - view.y) * cell;
        if (middle < box.top || middle > box.top + side) continue;
        pen.fillStyle = at && at.y === i ? ink : muted;
        pen.textAlign = "right";
        pen.fillText(fitted(pen, data.names[shown[i]], gutter - 26), gutter - 7, middle);
      }
      for (let i = first; i < last; i++) {
        const middle = box.left + (i + 0.5 - view.x) * cell;
        if (middle < box.left || middle > box.left + side) continue;
        pen.save();
        pen.fillStyle = at && at.x === i ? ink : muted;
        pen.translate(middle, gutter - 7);
        pen.rotate(-Math.PI / 2);
        pen.textAlign = "left";
        pen.fillText(fitted(pen, data.names[shown[i]], gutter - 26), 0, 0);
        pen.restore();
      }
    }
    pen.font = "600 11px " + font;
    pen.fillStyle = ink;
    pen.textAlign = "center";
    pen.fillText("predicted class", box.left + side / 2, 9);
    pen.save();
    pen.translate(9, box.top + side / 2);
    pen.rotate(-Math.PI / 2);
    pen.fillText("actual class", 0, 0);
    pen.restore();
  }

  function percent(share) { return (100 * share).toFixed(share < 0.1 ? 1 : 0) + "\u202f%"; }

  function say() {
    if (!at) { reading.textContent = hint; return; }
    const a = shown[at.y], p = shown[at.x], n = cells.get(a * count + p) || 0;
    const of = "“" + data.names[a] + "” (" + data.rows[a] + " images)";
    const part = shares === "said" && data.said[p] ? percent(n / data.said[p]) + " of all predicted as it" :
      data.rows[a] ? percent(n / data.rows[a]) : "no images";
    reading.textContent = a === p ? of + ": " + n + " correct, " + part :
      of + ": " + n + " predicted as “" + data.names[p] + "”, " + part;
  }

  function go(x, y) {
    if (!shown.length) return;
    at = { x: Math.min(Math.max(x, 0), shown.length - 1), y: Math.min(Math.max(y, 0), shown.length - 1) };
    if (at.x < view.x || at.x + 1 > view.x + view.size) view.x = at.x + 0.5 - view.size / 2;
    if (at.y < view.y || at.y + 1 > view.y + view.size) view.y = at.y + 0.5 - view.size / 2;
    say();
    draw();
  }

  function under(event) {
    const frame = canvas.getBoundingClientRect();
    const x = (event.clientX - frame.left - box.left) / box.side, y = (event.clientY - frame.top - box.top) / box.side;
    return x < 0 || y < 0 || x >= 1 || y >= 1 ? null : { x: x, y: y };
  }

  // the cell under the pointer, or the error next to it where cells are smaller than a pointer
  function nearest(spot) {
    const x = Math.floor(view.x + spot.x * view.size), y = Math.floor(view.y + spot.y * view.size);
    const reach = Math.ceil(3 / box.cell);
    if (reach < 2) return { x: x, y: y };
    let best = { x: x, y: y }, distance = Infinity;
    for (let i = -reach; i <= reach; i++) for (let j = -reach; j <= reach; j++) {
      const a = shown[y + i], p = shown[x + j];
      if (a === undefined || p === undefined || !cells.has(a * count + p) || (wrongOnly && a === p)) continue;
      if (i * i + j * j < distance) { distance = i * i + j * j; best = { x: x + j, y: y + i }; }
    }
    return best;
  }

  const pointers = new Map();
  let spread = 0;
  canvas.addEventListener("pointerdown", function (event) { pointers.set(event.pointerId, event); spread = 0; });
  ["pointerup", "pointercancel"].forEach(function (kind) {
    addEventListener(kind, function (event) { pointers.delete(event.pointerId); spread = 0; });
  });
  canvas.addEventListener("pointermove", function (event) {
    const before = pointers.get(event.pointerId);
    if (before) {
      pointers.set(event.pointerId, event);
      if (pointers.size === 2) {
        const both = Array.from(pointers.values());
        const now = Math.hypot(both[0].clientX - both[1].clientX, both[0].clientY - both[1].clientY);
        const spot = under({ clientX: (both[0].clientX + both[1].clientX) / 2, clientY: (both[0].clientY + both[1].clientY) / 2 });
        if (spread && spot) zoom(spread / now, spot.x, spot.y);
        spread = now;
        return;
      }
      if (view.size < shown.length) {
        view.x -= (event.clientX - before.clientX) / box.cell;
        view.y -= (event.clientY - before.clientY) / box.cell;
        draw();
        return;
      }
    }
    const spot = under(event);
    at = spot && nearest(spot);
    say();
    draw();
  });
  canvas.addEventListener("pointerdown", function (event) {
    const spot = under(event);
    if (spot) { at = nearest(spot); say(); draw(); }
  });
  canvas.addEventListener("pointerleave", function () {
    if (document.activeElement === canvas) return;
    at = null;
    say();
    draw();
  });
  canvas.addEventListener("wheel", function (event) {
    if (!event.ctrlKey && !event.shiftKey) return;
    event.preventDefault();
    const spot = under(event);
    zoom(Math.exp((event.deltaY || event.deltaX) * 0.003), spot ? spot.x : undefined, spot ? spot.y : undefined);
  }, { passive: false });
  canvas.addEventListener("dblclick", function (event) {
    const spot = under(event);
    if (spot) zoom(0.4, spot.x, spot.y);
  });

  function next() {
    const here = errors.filter(function (e) { return place[e.a] >= 0 && place[e.p] >= 0; });
    if (!here.length) return;
    error = (error + 1) % here.length;
    go(place[here[error].p], place[here[error].a]);
  }

  canvas.addEventListener("keydown", function (event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const from = at || { x: Math.floor(view.x), y: Math.floor(view.y) };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (steps[event.key]) go(at ? from.x + steps[event.key][0] : from.x, at ? from.y + steps[event.key][1] : from.y);
    else if (event.key === "+" || event.key === "=") zoom(0.6);
    else if (event.key === "-") zoom(1 / 0.6);
    else if (event.key === "e" || event.key === "E") next();
    else if (event.key === "Escape") { at = null; say(); draw(); }
    else return;
    event.preventDefault();
  });
  root.querySelector(".in").addEventListener("click", function () { zoom(0.6); });
  root.querySelector(".out").addEventListener("click", function () { zoom(1 / 0.6); });
  root.querySelector(".whole").addEventListener("click", function () { zoom(Infinity); });
  root.querySelector(".shares").addEventListener("change", function (event) { shares = event.target.value; say(); draw(); });
  root.querySelector(".order").addEventListener("change", arrange);
  root.querySelector(".wrong").addEventListener("change", function (event) { wrongOnly = event.target.checked; draw(); });
  filter.addEventListener("input", arrange);
  document.addEventListener("themechange", draw);
  new ResizeObserver(draw).observe(canvas.parentNode);
  arrange();
});
