// Leaves only the rows of the table whose name holds what is typed.
report.register("classes", function (root) {
  const filter = root.querySelector(".filter");
  if (!filter) return;
  const found = root.querySelector(".found");
  const rows = Array.from(root.querySelectorAll("tbody tr"), function (row) {
    return { row: row, name: row.cells[0].textContent.toLowerCase() };
  });
  filter.addEventListener("input", function () {
    const wanted = filter.value.trim().toLowerCase();
    let count = 0;
    rows.forEach(function (one) {
      one.row.hidden = !one.name.includes(wanted);
      count += !one.row.hidden;
    });
    found.textContent = count === rows.length ? String(count) : count + " of " + rows.length;
  });
});
