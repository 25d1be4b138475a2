// The map: points with the image of the one that is pointed at, or gone to with the arrow keys.
report.register("map", function (root, data) {
  const canvas = root.querySelector("canvas"), tip = root.querySelector(".tip"), field = root.querySelector(".field");
  const reading = root.querySelector(".reading"), hint = reading.textContent, legend = root.querySelector(".marks");
  const filter = root.querySelector(".filter"), choice = root.querySelector(".paint");
  const count = data.points.length / 2, SPAN = 4000, SERIES = 8, SHAPES = 5, READABLE = SERIES * SHAPES;
  const classes = data.kind === "classes";
  let view = { x: 0, y: 0, size: SPAN }, at = -1, wrongOnly = false, waiting = false, box = { side: 1 };
  let paintBy = classes && data.names.length <= READABLE ? "class" : data.ok ? "ok" : "level";
  if (choice) {
    choice.value = paintBy;
    if (data.names.length > READABLE) choice.options[0].textContent = "actual class (too many for a legend)";
  }

  function name(what, i) { return classes ? data.names[what[i]] : what[i]; }

  function seen(i) {
    if (wrongOnly && data.ok[i]) return false;
    const wanted = filter ? filter.value.trim().toLowerCase() : "";
    return !wanted || name(data.right, i).toLowerCase().includes(wanted) || name(data.said, i).toLowerCase().includes(wanted);
  }

  // shape and colour together tell a class: 40 of them
  const shapes = [
    function (pen, x, y, r) { pen.arc(x, y, r, 0, 7); },
    function (pen, x, y, r) { pen.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8); },
    function (pen, x, y, r) { pen.moveTo(x, y - r * 1.2); pen.lineTo(x + r * 1.15, y + r * 0.9); pen.lineTo(x - r * 1.15, y + r * 0.9); pen.closePath(); },
    function (pen, x, y, r) { pen.moveTo(x, y - r * 1.3); pen.lineTo(x + r * 1.3, y); pen.lineTo(x, y + r * 1.3); pen.lineTo(x - r * 1.3, y); pen.closePath(); },
    function (pen, x, y, r) { pen.moveTo(x, y + r * 1.2); pen.lineTo(x + r * 1.15, y - r * 0.9); pen.lineTo(x - r * 1.15, y - r * 0.9); pen.closePath(); },
  ];

  function mark(pen, kind, colour, x, y, r) {
    pen.beginPath();
    if (kind === "cross") {
      pen.moveTo(x - r, y - r); pen.lineTo(x + r, y + r); pen.moveTo(x + r, y - r); pen.lineTo(x - r, y + r);
      pen.lineWidth = 2; pen.strokeStyle = colour; pen.stroke();
      return;
    }
    shapes[kind](pen, x, y, r);
    pen.fillStyle = colour;
    pen.fill();
    pen.lineWidth = 0.75; pen.strokeStyle = box.card; pen.stroke();
  }

  function look(i) {
    if (paintBy === "class") {
      const c = data.right[i];
      return [Math.floor(c / SERIES) % SHAPES, box.series[c % SERIES]];
    }
    if (paintBy === "ok") return data.ok[i] ? [0, box.series[0]] : ["cross", box.series[1]];
    return [0, ramp(data.level[i] / 1000)];
  }

  function ramp(level) { return "color-mix(in srgb, " + box.series[1] + " " + Math.round(100 * level) + "%, " + box.series[0] + ")"; }

  function where(i) {
    return [(data.points[2 * i] - view.x) / view.size * box.side + box.pad,
      (SPAN - data.points[2 * i + 1] - view.y) / view.size * box.side + box.pad];
  }

  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(function () { waiting = false; paint(); });
  }

  function paint() {
    const width = canvas.clientWidth, scale = devicePixelRatio || 1;
    if (!width) return;
    view.x = Math.min(Math.max(view.x, 0), SPAN - view.size);
    view.y = Math.min(Math.max(view.y, 0), SPAN - view.size);
    canvas.style.touchAction = view.size < SPAN ? "none" : "pan-y";
    canvas.style.height = width + "px";
    canvas.width = canvas.height = Math.round(width * scale);
    box = { side: width - 24, pad: 12, card: report.colour("--card"), series: [] };
    for (let i = 1; i <= SERIES; i++) box.series.push(report.colour("--c" + i));
    const pen = canvas.getContext("2d"), radius = (count > 800 ? 3.2 : 4.2) * Math.min(1.6, Math.sqrt(SPAN / view.size));
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.fillStyle = report.colour("--sunk");
    pen.fillRect(0, 0, width, width);
    const front = [];
    for (let i = 0; i < count; i++) {
      if (!seen(i)) {
        const spot = where(i);
        pen.globalAlpha = 0.25;
        mark(pen, 0, report.colour("--muted"), spot[0], spot[1], radius * 0.5);
        pen.globalAlpha = 1;
      } else front.push(i);
    }
    // what is wrong lies on top, or it would be lost among what is right
    if (data.ok) front.sort(function (a, b) { return data.ok[b] - data.ok[a]; });
    front.forEach(function (i) {
      const spot = where(i), is = look(i);
      mark(pen, is[0], is[1], spot[0], spot[1], radius);
      if (paintBy === "class" && !data.ok[i]) {
        pen.beginPath(); pen.arc(spot[0], spot[1], radius + 2.5, 0, 7);
        pen.lineWidth = 1.4; pen.strokeStyle = report.colour("--ink"); pen.stroke();
      }
    });
    if (at >= 0) {
      const spot = where(at);
      pen.beginPath(); pen.arc(spot[0], spot[1], radius + 5, 0, 7);
      pen.lineWidth = 2.5; pen.strokeStyle = report.colour("--ink"); pen.stroke();
    }
    place();
  }

  const image = document.createElement("div"), words = document.createElement("p");
  image.className = "image";
  tip.append(image, words);
  if (data.sheet) image.style.backgroundImage = "url(" + data.sheet.address + ")";
  else image.hidden = true;

  function place() {
    tip.hidden = at < 0;
    if (at < 0) return;
    const spot = where(at), width = field.clientWidth;
    const own = tip.offsetWidth, tall = tip.offsetHeight;
    const left = spot[0] + 18 + own > width ? spot[0] - 18 - own : spot[0] + 18;
    tip.style.left = Math.min(Math.max(left, 0), Math.max(width - own, 0)) + "px";
    tip.style.top = Math.min(Math.max(spot[1] - tall / 2, 0), Math.max(field.clientHeight - tall, 0)) + "px";
  }

  function choose(i) {
    if (i === at) return;
    at = i;
    if (i >= 0) {
      const right = name(data.right, i), said = name(data.said, i);
      const sure = data.sure ? " (" + (data.sure[i] / 10).toFixed(1) + "\u202f%)" : "";
      const text = data.ok && data.ok[i] ? "“" + right + "”, correct" + sure : "actual “" + right + "”, predicted “" + said + "”" + sure;
      words.textContent = text;
      reading.textContent = data.ids[i] + ": " + text;
      if (data.sheet) {
        const side = 144, columns = data.sheet.columns, lines = Math.ceil(count / columns);
        image.style.backgroundSize = columns * side + "px " + lines * side + "px";
        image.style.backgroundPosition = -(i % columns) * side + "px " + -Math.floor(i / columns) * side + "px";
        image.dataset.row = String(i);
      }
    } else reading.textContent = hint;
    place();
    draw();
  }

  function nearest(event) {
    const frame = canvas.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
    let best = -1, distance = 24 * 24;
    for (let i = 0; i < count; i++) {
      if (!seen(i)) continue;
      const spot = where(i), far = (spot[0] - x) ** 2 + (spot[1] - y) ** 2;
      if (far < distance) { distance = far; best = i; }
    }
    return best;
  }

  function zoom(by, x, y) {
    const size = Math.min(Math.max(view.size * by, SPAN / 24), SPAN);
    if (x === undefined) {
      const spot = at >= 0 ? where(at) : [box.side / 2, box.side / 2];
      x = spot[0] / box.side; y = spot[1] / box.side;
    }
    view = { x: view.x + x * (view.size - size), y: view.y + y * (view.size - size), size: size };
    draw();
  }

  // the nearest point that lies more in that direction than across it
  function step(dx, dy) {
    if (at < 0) { choose(middle()); return; }
    const here = where(at);
    let best = -1, least = Infinity;
    for (let i = 0; i < count; i++) {
      if (i === at || !seen(i)) continue;
      const spot = where(i), x = spot[0] - here[0], y = spot[1] - here[1];
      const along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
      if (along <= 0 || across > along) continue;
      if (along + 2 * across < least) { least = along + 2 * across; best = i; }
    }
    if (best >= 0) { choose(best); reveal(); }
  }

  function middle() {
    let best = -1, least = Infinity;
    for (let i = 0; i < count; i++) {
      if (!seen(i)) continue;
      const spot = where(i), far = (spot[0] - box.side / 2) ** 2 + (spot[1] - box.side / 2) ** 2;
      if (far < least) { least = far; best = i; }
    }
    return best;
  }

  function reveal() {
    const x = data.points[2 * at], y = SPAN - data.points[2 * at + 1];
    if (x < view.x || x > view.x + view.size) view.x = x - view.size / 2;
    if (y < view.y || y > view.y + view.size) view.y = y - view.size / 2;
  }

  function next() {
    if (!data.ok) return;
    for (let j = 1; j <= count; j++) {
      const i = (Math.max(at, -1) + j) % count;
      if (!data.ok[i] && seen(i)) { choose(i); reveal(); return; }
    }
  }

  let drag = null;
  canvas.addEventListener("pointerdown", function (event) { drag = event; choose(nearest(event)); });
  addEventListener("pointerup", function () { drag = null; });
  addEventListener("pointercancel", function () { drag = null; });
  canvas.addEventListener("pointermove", function (event) {
    if (drag && view.size < SPAN) {
      view.x -= (event.clientX - drag.clientX) / box.side * view.size;
      view.y -= (event.clientY - drag.clientY) / box.side * view.size;
      drag = event;
      draw();
      return;
    }
    choose(nearest(event));
  });
  canvas.addEventListener("pointerleave", function () { if (document.activeElement !== canvas) choose(-1); });
  canvas.addEventListener("focus", function () { if (at < 0 && canvas.matches(":focus-visible")) choose(middle()); });
  canvas.addEventListener("blur", function () { choose(-1); });
  canvas.addEventListener("dblclick", function (event) {
    const frame = canvas.getBoundingClientRect();
    zoom(0.4, (event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height);
  });
  canvas.addEventListener("wheel", function (event) {
    if (!event.ctrlKey && !event.shiftKey) return;
    event.preventDefault();
    const frame = canvas.getBoundingClientRect();
    zoom(Math.exp((event.deltaY || event.deltaX) * 0.003), (event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height);
  }, { passive: false });
  canvas.addEventListener("keydown", function (event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (steps[event.key]) step(steps[event.key][0], steps[event.key][1]);
    else if (event.key === "+" || event.key === "=") zoom(0.6);
    else if (event.key === "-") zoom(1 / 0.6);
    else if (event.key === "e" || event.key === "E") next();
    else if (event.key === "Escape") choose(-1);
    else return;
    event.preventDefault();
  });

  function swatch(kind, colour) {
    const made = document.createElement("canvas"), scale = devicePixelRatio || 1;
    made.setAttribute("aria-hidden", "true");
    made.width = made.height = 14 * scale;
    made.style.width = made.style.height = "14px";
    const pen = made.getContext("2d");
    pen.scale(scale, scale);
    mark(pen, kind, colour, 7, 7, 4.4);
    return made;
  }

  function explain() {
    legend.textContent = "";
    if (!box.series) return;
    const items = [];
    if (paintBy === "ok") items.push([0, box.series[0], "correct"], ["cross", box.series[1], "misclassified"]);
    else if (paintBy === "level") items.push([0, ramp(0), "low"], [0, ramp(0.5), "between"], [0, ramp(1), "high"]);
    else if (data.names.length <= READABLE) {
      data.names.forEach(function (title, c) { items.push([Math.floor(c / SERIES) % SHAPES, box.series[c % SERIES], title]); });
    }
    items.forEach(function (item) {
      const made = document.createElement("li");
      made.append(swatch(item[0], item[1]), item[2]);
      legend.append(made);
    });
    if (paintBy === "class") {
      const made = document.createElement("li");
      made.textContent = "ringed: misclassified";
      legend.append(made);
    }
  }

  function again() { paint(); explain(); }
  root.querySelector(".in").addEventListener("click", function () { zoom(0.6); });
  root.querySelector(".out").addEventListener("click", function () { zoom(1 / 0.6); });
  root.querySelector(".whole").addEventListener("click", function () { zoom(Infinity); });
  if (choice) choice.addEventListener("change", function () { paintBy = choice.value; again(); });
  if (filter) filter.addEventListener("input", function () { choose(-1); draw(); });
  const wrong = root.querySelector(".wrong");
  if (wrong) wrong.addEventListener("change", function () { wrongOnly = wrong.checked; choose(-1); draw(); });
  document.addEventListener("themechange", again);
  new ResizeObserver(draw).observe(field);
  again();
});
