// The interactive figures. A box of class "explorer" holds its data as JSON (toroid.book.explorers
// says what is in it); without this script it is not shown, and the figure beside it says the same.
(() => {
  const folder = document.currentScript.src.replace(/[^/]*$/, "");
  const ALL = "all";
  const UNIT = { error: "error (%)", loss: "loss" };
  const ARROWS = {
    ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0],
  };
  let library;

  // Plotly, from this site, once, and only where a figure comes into sight.
  const plotly = () =>
    (library ??= new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = folder + "plotly.min.js";
      script.onload = () => done(window.Plotly);
      script.onerror = failed;
      document.head.append(script);
    }));

  const make = (tag, properties = {}, ...inside) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...inside);
    return made;
  };

  const labelled = (name, input) => make("label", {}, make("span", { textContent: name }), input);

  // Other options of a list; what was chosen stays if it is among them.
  const offer = (select, options) => {
    const before = select.value;
    const made = options.map(([value, textContent]) => make("option", { value, textContent }));
    select.replaceChildren(...made);
    if (options.some(([value]) => value === before)) select.value = before;
  };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const dark = () => document.documentElement.dataset.theme === "dark";

  // Colours are those of the printed figures; in the dark they are lighter, as the style sheet's.
  const lighter = (hex) => {
    const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return dark() ? `rgb(${parts.map((x) => Math.round(x + 0.4 * (255 - x))).join()})` : hex;
  };

  const layout = (more) => ({
    autosize: true, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { color: colour("--pst-color-text-base"), size: 13 }, hovermode: "closest",
    margin: { l: 55, r: 10, t: 10, b: 40 }, legend: { orientation: "h", y: 1.12 }, ...more,
  });
  const axis = (title, more) => ({
    title: { text: title }, gridcolor: colour("--pst-color-border"), zeroline: false, ...more,
  });

  const written = (x) => String(Number(Math.abs(x) < 0.01 ? x.toPrecision(2) : x.toFixed(2)));

  // How far a curve rises above the straight line between its ends: the page's barrier.
  const barrier = ({ t, ...row }, measure) => {
    const y = row[measure];
    return Math.max(...t.map((x, i) => y[i] - (1 - x) * y[0] - x * y[y.length - 1]));
  };

  const curves = (data, rows, measure) => {
    const place = (name) => data.choices.findIndex((choice) => choice.name === name);
    const [ways, pairs] = ["second network", "pair"].map(place);
    const named = (row, at) => data.choices[at].values[row.at[at]];
    const shown = [...new Set(rows.map((row) => row.at[ways]))];
    const traces = rows.map((row, index) => ({
      x: row.t, y: row[measure], mode: "lines+markers", name: named(row, ways),
      legendgroup: row.at[ways],
      showlegend: rows.findIndex((other) => other.at[ways] === row.at[ways]) === index,
      line: {
        color: lighter(data.colors[row.at[ways] % data.colors.length]),
        dash: data.dashes[row.at[ways] % data.dashes.length],
      },
      cliponaxis: false, marker: { size: 4 },
      hovertemplate:
        `pair ${named(row, pairs)}, ${named(row, ways)}<br>t = %{x:.2f}: ` +
        `%{y:.3g}${measure === "error" ? " %" : ""}<extra></extra>`,
    }));
    const said = shown.map((way) => {
      const heights = rows.filter((row) => row.at[ways] === way).map((r) => barrier(r, measure));
      const mean = heights.reduce((a, b) => a + b) / heights.length;
      const [low, high] = [Math.min(...heights), Math.max(...heights)].map(written);
      const range = heights.length > 1 ? ` (${low} to ${high}, ${heights.length} pairs)` : "";
      return `${data.choices[ways].values[way]} ${written(mean)}${range}`;
    });
    const unit = measure === "error" ? "percentage points" : "loss";
    return {
      traces, said: `Barrier, ${unit}: ${said.join("; ")}.`,
      layout: layout({
        xaxis: axis("t"), yaxis: axis(UNIT[measure], { rangemode: "tozero" }), dragmode: false,
      }),
    };
  };

  // A map as a surface; the lines on it lie a little above.
  const plane = (data, rows, measure, turn, narrow) => {
    const [row] = rows;
    const values = row[measure].flat();
    const top = Math.max(...values);
    const lines = Object.entries(row.lines).map(([name, line], index) => ({
      type: "scatter3d", mode: "lines", name, x: line.x, y: line.y,
      z: line[measure].map((z) => z + 0.01 * top), hoverinfo: "name",
      line: {
        color: colour("--pst-color-text-base"), width: 6, dash: index === 0 ? "dash" : "solid",
      },
    }));
    const surface = {
      type: "surface", x: row.x, y: row.y, z: row[measure],
      colorscale: [[0, colour("--pst-color-surface")], [1, lighter(data.colors[0])]],
      showscale: !narrow, colorbar: { title: { text: UNIT[measure] }, thickness: 12 },
      lighting: { ambient: 0.8, diffuse: 0.4, specular: 0 },
      hovertemplate: `%{x:.1f}, %{y:.1f}: %{z:.3g}<extra></extra>`,
    };
    const angle = (turn * Math.PI) / 180;
    const far = narrow ? 2.6 : 2;
    const eye = { x: far * Math.cos(angle), y: far * Math.sin(angle), z: 1.1 };
    return {
      traces: [surface, ...lines],
      said:
        `${UNIT[measure]} on this plane: from ${written(Math.min(...values))} to ` +
        `${written(top)}.`,
      layout: layout({
        margin: { l: 0, r: 0, t: 0, b: 0 },
        scene: {
          xaxis: axis("length"), yaxis: axis("length"), zaxis: axis(UNIT[measure]),
          aspectmode: "manual", aspectratio: { x: 1.6, y: 1, z: 0.8 }, camera: { eye },
          uirevision: turn, // turned by hand it stays so, until the slider turns it
        },
      }),
    };
  };

  const explore = (box) => {
    const data = JSON.parse(box.querySelector("script").textContent);
    const everything = data.draw === "curves" ? ["second network", "pair"] : [];
    const form = make("form", { className: "choices", onsubmit: () => false });
    const drawing = make("div", { className: "drawing" });
    const said = make("p", { className: "said", ariaLive: "polite" });
    const all = (choice) => (everything.includes(choice.name) ? [[ALL, ALL]] : []);
    let visible = false;

    const selects = data.choices.map(({ name }) => make("select", { name }));
    const measure = make("select", { name: "measure" });
    const turn = make("input", { type: "range", name: "turn", min: 0, max: 360, step: 10, value: 60 });
    offer(measure, [["error", "error"], ["loss", "loss"]]);
    const inputs = [...selects, measure, ...(data.draw === "plane" ? [turn] : [])];
    form.append(...inputs.map((input) => labelled(input.name, input)));
    form.oninput = () => draw();

    // Each list offers what there is under the choices before it.
    const chosen = () =>
      selects.reduce((rows, select, at) => {
        const { values } = data.choices[at];
        const there = [...new Set(rows.map((row) => row.at[at]))].sort((a, b) => a - b);
        offer(select, [...all(data.choices[at]), ...there.map((i) => [String(i), values[i]])]);
        return rows.filter((row) => select.value === ALL || row.at[at] === Number(select.value));
      }, data.rows);

    const draw = async () => {
      const seen = [Number(turn.value), box.clientWidth < 500];
      const made = { curves, plane }[data.draw](data, chosen(), measure.value, ...seen);
      said.textContent = made.said;
      if (!visible) return;
      const Plotly = await plotly();
      await Plotly.react(drawing, made.traces, made.layout, {
        displayModeBar: false, responsive: true, scrollZoom: false,
      });
      box.dataset.drawn = "yes";
    };

    box.prepend(form, drawing, said);
    box.classList.add("ready");
    draw();
    new IntersectionObserver((seen, observer) => {
      if (!seen.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      visible = true;
      draw();
    }, { rootMargin: "300px" }).observe(box);
    new MutationObserver(() => draw()).observe(document.documentElement, {
      attributeFilter: ["data-theme"],
    });
  };

  // A cell of the verdicts says its numbers below when it is pointed at or reached by the arrows.
  const verdicts = (table) => {
    const cells = [...table.querySelectorAll("td[title]")];
    const said = make("p", { className: "said", ariaLive: "polite" });
    table.after(said);
    const tell = (cell) => {
      cells.forEach((other) => (other.tabIndex = other === cell ? 0 : -1));
      said.textContent = cell.dataset.said;
    };
    for (const cell of cells) {
      cell.dataset.said = cell.title;
      cell.removeAttribute("title");
      cell.onmouseenter = cell.onfocus = cell.onclick = () => tell(cell);
      cell.onkeydown = (event) => {
        if (!(event.key in ARROWS)) return;
        event.preventDefault();
        next(table, cell, ARROWS[event.key])?.focus();
      };
    }
    if (cells.length) tell(table.querySelector("td.decisive[data-said]") ?? cells[0]);
  };

  // The next cell with a verdict in a direction.
  const next = (table, cell, [down, right]) => {
    const rows = [...table.tBodies[0].rows];
    let [y, x] = [rows.indexOf(cell.parentElement) + down, cell.cellIndex + right];
    while (rows[y]?.cells[x] && !rows[y].cells[x].dataset.said) [y, x] = [y + down, x + right];
    return rows[y]?.cells[x];
  };

  document.querySelectorAll(".explorer").forEach(explore);
  document.querySelectorAll("table.claim-matrix").forEach(verdicts);
})();
