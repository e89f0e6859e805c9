// Sorting, filters, theme and copying. Without this file the page is whole, only neither sorted nor filtered.
"use strict";
(() => {
  const root = document.documentElement;

  function themed() {
    const button = document.getElementById("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
    const show = () => button.setAttribute("aria-pressed", dark());
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("robustcl-theme", root.dataset.theme); } catch { /* not remembered */ }
      show();
    });
    system.addEventListener("change", show);
    button.hidden = false;
    show();
  }

  function copying() {
    for (const text of document.querySelectorAll("pre.copied")) {
      const button = document.createElement("button");
      const box = document.createElement("div");
      button.type = "button";
      button.textContent = "Copy";
      button.setAttribute("aria-label", `Copy ${text.getAttribute("aria-label")}`);
      box.className = "copy";
      text.before(box);
      box.append(text, button);
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(text.textContent);
        } catch {
          getSelection().selectAllChildren(text);
          document.execCommand("copy");
        }
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
    }
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const key = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.value ?? cell.innerText.trim();
    };
    const sort = (column) => {
      const numbers = [...body.rows].some((row) => row.cells[column].dataset.value !== undefined);
      const best = numbers && heads[column].classList.contains("number") ? "descending" : "ascending";
      const other = best === "ascending" ? "descending" : "ascending";
      const order = heads[column].getAttribute("aria-sort") === best ? other : best;
      const sign = order === "ascending" ? 1 : -1;
      const compare = (a, b) => {
        const [x, y] = [key(a, column), key(b, column)];
        if (x === "" || y === "") return (x === "") - (y === ""); // what is not finished stays at the end
        return sign * (numbers ? x - y : x.localeCompare(y, "en", { numeric: true }));
      };
      body.append(...[...body.rows].sort(compare));
      table.classList.add("sorted");
      for (const head of heads) head.removeAttribute("aria-sort");
      heads[column].setAttribute("aria-sort", order);
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(column));
    });
  }

  function filtered(form, table) {
    const rows = [...table.tBodies[0].rows];
    const apply = () => {
      const chosen = new FormData(form);
      const words = chosen.get("text").toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const name = row.cells[0].innerText.toLowerCase();
        const kept = ["data", "scheme", "threat"].every((of) => !chosen.get(of) || chosen.get(of) === row.dataset[of]);
        row.hidden = !kept || !words.every((word) => name.includes(word));
      }
      const shown = rows.filter((row) => !row.hidden).length;
      form.querySelector("output").textContent = `${shown} of ${rows.length} rows`;
    };
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(apply)); // the fields are emptied after the event
    addEventListener("pageshow", apply); // who comes back finds the fields as they were
    form.hidden = false;
    apply();
  }

  themed();
  copying();
  const board = document.getElementById("board");
  if (board) {
    sortable(board);
    filtered(document.getElementById("filters"), board);
  }
})();
