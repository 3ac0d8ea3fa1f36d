// Two-picture test: two places of one fused image, one of them with a finding in its middle.  Needs viewer.js.
"use strict";
function startStudy(info) {
  const HALF = 24; // mm from the middle of a picture to its edge
  const COLUMNS = ["reader", "case", "image", "kind", "sign", "with", "without", "side", "answer", "right", "seconds"];
  const { shape: [D, H, W], spacing, flat, upright } = info;
  const KINDS = { structural: `in the ${info.roles[0]}`, functional: `in the ${info.roles[1]}` }; // what both are called here
  const control = (name) => document.getElementById(`study-${name}`);
  const board = document.getElementById("study");
  const canvases = [...board.querySelectorAll("canvas")];
  const answers = [];
  let kept = 0; // answers that are in a file, or that start was pressed again for
  const added = [];
  let trials = [];
  let current = null;

  const shuffled = (list) => {
    const copy = [...list];
    for (let i = copy.length - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [copy[i], copy[j]] = [copy[j], copy[i]];
    }
    return copy;
  };

  // Each finding once before any comes again; the other place is that of another finding of its kind, in the
  // image without findings.
  function plan(images, kind, count) {
    const found = info.findings.filter((f) => !kind || f.kind === kind);
    const pairs = [];
    for (let round = 0; pairs.length < count && round < 1000; round++) {
      for (const finding of shuffled(found)) {
        const others = found.filter((f) => f !== finding && f.kind === finding.kind);
        if (!others.length) continue;
        const other = others[Math.floor(Math.random() * others.length)];
        pairs.push({ finding, other });
      }
      if (!pairs.length) break;
    }
    const mixed = shuffled(images);
    return pairs.slice(0, count).map((pair, i) => (
      { ...pair, image: mixed[i % mixed.length], side: Math.random() < 0.5 ? 0 : 1 }));
  }

  function paint(canvas, voxels, [d, h, w]) {
    const rows = 2 * Math.ceil(HALF / spacing[1]) + 1, columns = 2 * Math.ceil(HALF / spacing[2]) + 1;
    const image = new ImageData(columns, rows);
    const up = !upright;
    for (let r = 0; r < rows; r++) {
      const y = h + (up ? (rows >> 1) - r : r - (rows >> 1));
      for (let c = 0; c < columns; c++) {
        const x = w + c - (columns >> 1);
        const inside = y >= 0 && y < H && x >= 0 && x < W;
        const level = inside ? voxels[(d * H + y) * W + x] : 0;
        image.data.set([level, level, level, 255], 4 * (r * columns + c));
      }
    }
    const raw = new OffscreenCanvas(columns, rows);
    raw.getContext("2d").putImageData(image, 0, 0);
    const brush = canvas.getContext("2d");
    brush.imageSmoothingEnabled = true;
    brush.drawImage(raw, 0, 0, canvas.width, canvas.height);
    // Marks at the edge point to the middle, so that the place is known and only the finding is asked for.
    brush.strokeStyle = "#5dc"; brush.lineWidth = 2;
    const half = canvas.width / 2, end = canvas.width;
    brush.beginPath();
    for (const [x0, y0, x1, y1] of [[half, 0, half, 14], [half, end - 14, half, end], [0, half, 14, half], [end - 14, half, end, half]]) {
      brush.moveTo(x0, y0); brush.lineTo(x1, y1);
    }
    brush.stroke();
  }

  async function next() {
    current = null;
    const trial = trials[answers.length];
    if (!trial) {
      board.hidden = true;
      control("status").textContent = "Done. The table shows your share of right answers; save them as CSV.";
      return;
    }
    const [without, with_] = await Promise.all([
      FuseBench.load(trial.image.key, trial.image.url),
      FuseBench.load(trial.image.with.key, trial.image.with.url),
    ]);
    paint(canvases[trial.side], with_, trial.finding.at);
    paint(canvases[1 - trial.side], without, trial.other.at);
    board.hidden = false;
    board.dataset.pair = answers.length + 1;
    control("status").textContent = `Pair ${answers.length + 1} of ${trials.length}`;
    current = { trial, since: performance.now() };
  }

  function answer(side) {
    if (!current) return;
    const { trial, since } = current;
    answers.push({
      reader: control("reader").value.trim(), case: info.case, image: trial.image.label, kind: trial.finding.kind,
      sign: trial.finding.sign, with: trial.finding.at.join(" "), without: trial.other.at.join(" "),
      side: trial.side, answer: side, right: Number(side === trial.side),
      seconds: ((performance.now() - since) / 1000).toFixed(2),
    });
    show();
    next();
  }

  // Wilson's score interval of a share.
  function wilson(right, count, z = 1.959964) {
    const p = right / count, middle = p + z * z / (2 * count);
    const reach = z * Math.sqrt(p * (1 - p) / count + z * z / (4 * count * count));
    const scale = 1 + z * z / count;
    return [(middle - reach) / scale, (middle + reach) / scale];
  }

  function show() {
    control("save").disabled = !answers.length;
    const groups = new Map();
    // While pairs are shown, what is right would be told by the table.
    const finished = answers.length >= trials.length;
    for (const row of [...(finished ? answers : []), ...added]) {
      for (const key of [`${row.image}\t${row.kind}`, `${row.image}\tboth kinds`]) {
        const sums = groups.get(key) || [0, 0];
        groups.set(key, [sums[0] + Number(row.right), sums[1] + 1]);
      }
    }
    const body = control("table").tBodies[0];
    body.replaceChildren(...[...groups].sort().map(([key, [right, count]]) => {
      const row = document.createElement("tr");
      const [low, high] = wilson(right, count);
      const [image, kind] = key.split("\t");
      const cells = [image, KINDS[kind] || kind, count, right, (right / count).toFixed(2), `${low.toFixed(2)} to ${high.toFixed(2)}`];
      cells.forEach((text, i) => { const cell = row.insertCell(); cell.textContent = text; if (!i) cell.className = "name"; });
      return row;
    }));
  }

  // A cell that a spreadsheet could take for a formula, or that holds a separator, is quoted text.
  const quoted = (value) => {
    const text = /^[=+@\t\r]/.test(String(value)) ? `'${value}` : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const toCsv = () => [COLUMNS, ...answers.map((row) => COLUMNS.map((c) => row[c]))]
    .map((cells) => cells.map(quoted).join(",")).join("\n") + "\n";

  function parse(text) {
    const rows = [[""]];
    let inside = false;
    for (let i = 0; i < text.length; i++) {
      const ch = text[i], row = rows[rows.length - 1];
      if (ch === '"' && inside && text[i + 1] === '"') { row[row.length - 1] += '"'; i++; }
      else if (ch === '"') inside = !inside;
      else if (ch === "," && !inside) row.push("");
      else if (ch === "\n" && !inside) rows.push([""]);
      else if (ch !== "\r" || inside) row[row.length - 1] += ch;
    }
    const [head, ...body] = rows.filter((row) => row.length > 1);
    if (!head || !["image", "kind", "right"].every((c) => head.includes(c))) throw new Error("no answers of this test");
    return body.map((row) => Object.fromEntries(head.map((c, i) => [c, row[i] ?? ""])));
  }

  control("start").addEventListener("click", () => {
    if (kept < answers.length) {
      kept = answers.length;
      control("status").textContent = "The answers so far are not saved as CSV. Save them, or press start again to drop them.";
      return;
    }
    kept = 0;
    const chosen = control("method").value;
    const images = info.volumes.filter((v) => v.with && (!chosen || v.id === chosen));
    answers.length = 0;
    trials = plan(images, control("kind").value, Math.max(1, Number(control("count").value) || 1));
    control("status").textContent = trials.length ? "Loading…" : "There are no two findings of this kind.";
    show();
    if (trials.length) next().catch((error) => { control("status").textContent = error.message; });
  });
  board.querySelectorAll("button").forEach((button) => {
    button.addEventListener("click", () => answer(Number(button.dataset.side)));
  });
  document.addEventListener("keydown", (event) => {
    const side = { ArrowLeft: 0, ArrowRight: 1 }[event.key];
    if (side === undefined || board.hidden || /INPUT|SELECT/.test(event.target.tagName)) return;
    event.preventDefault();
    answer(side);
  });
  control("save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([toCsv()], { type: "text/csv" }));
    link.download = "answers.csv";
    link.click();
    kept = answers.length;
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  control("add").addEventListener("change", async (event) => {
    for (const file of event.target.files) {
      try { added.push(...parse(await file.text())); control("status").textContent = `${file.name} added`; }
      catch (error) { control("status").textContent = `${file.name}: ${error.message}`; }
    }
    show();
  });
}
