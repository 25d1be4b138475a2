// The values of an epoch under the pointer, or chosen by the arrow keys.
report.register("curves", function (root, data) {
  root.querySelectorAll("[data-chart]").forEach(function (figure) {
    const chart = data.charts[Number(figure.dataset.chart)];
    const plot = figure.querySelector(".plot");
    const svg = plot.querySelector("svg");
    const reading = figure.querySelector(".reading");
    const usual = reading.textContent;
    const cursor = report.svg("g", { class: "cursor" });
    cursor.appendChild(report.svg("line", { y1: chart.top, y2: chart.base }));
    chart.lines.forEach(function (_, place) {
      cursor.appendChild(report.svg("circle", { r: 4.5, class: "s" + (place + 1) }));
    });
    cursor.style.display = "none";
    svg.appendChild(cursor);
    let at = -1;

    function show(place) {
      at = Math.max(0, Math.min(chart.x.length - 1, place));
      cursor.style.display = "";
      const line = cursor.querySelector("line");
      line.setAttribute("x1", chart.x[at]);
      line.setAttribute("x2", chart.x[at]);
      cursor.querySelectorAll("circle").forEach(function (circle, row) {
        const y = chart.lines[row].y[at];
        circle.style.display = y === null ? "none" : "";
        circle.setAttribute("cx", chart.x[at]);
        circle.setAttribute("cy", y === null ? 0 : y);
      });
      reading.textContent = "epoch " + chart.epochs[at] + ": " + chart.lines.map(function (one) {
        return one.name + " " + one.text[at];
      }).join(", ");
    }

    function hide() {
      at = -1;
      cursor.style.display = "none";
      reading.textContent = usual;
    }

    plot.addEventListener("pointermove", function (event) {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) * (svg.viewBox.baseVal.width / box.width);
      let nearest = 0;
      chart.x.forEach(function (value, place) {
        if (Math.abs(value - x) < Math.abs(chart.x[nearest] - x)) nearest = place;
      });
      show(nearest);
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("focus", function () {
      if (at < 0 && plot.matches(":focus-visible")) show(chart.x.length - 1);
    });
    plot.addEventListener("keydown", function (event) {
      const steps = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10, Home: -1e9, End: 1e9 };
      if (event.key === "Escape") hide();
      if (!(event.key in steps)) return;
      event.preventDefault();
      show((at < 0 ? chart.x.length - 1 : at) + steps[event.key]);
    });
  });
});
