// Linked three-plane viewer of one case.  Everything is drawn on 2D canvases; the optional NiiVue panel
// (WebGL2) follows the same crosshair.  Voxels are data[d][h][w], RAS+, 8 bits.
"use strict";
const FuseBench = (() => {
  const waiting = new Map();
  const stored = new Map();

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function load(key, url) {
    if (!stored.has(key)) {
      stored.set(key, new Promise((resolve, reject) => {
        waiting.set(key, resolve);
        const script = document.createElement("script");
        script.src = url;
        script.onerror = () => reject(new Error(`${url} cannot be read`));
        document.head.append(script);
      }));
    }
    return stored.get(key);
  }

  const ramp = (stops) => {
    const table = new Uint8ClampedArray(256 * 3);
    for (let i = 0; i < 256; i++) {
      const x = (i / 255) * (stops.length - 1);
      const j = Math.min(Math.floor(x), stops.length - 2);
      for (let c = 0; c < 3; c++) table[3 * i + c] = stops[j][c] + (x - j) * (stops[j + 1][c] - stops[j][c]);
    }
    return table;
  };
  const MAPS = {
    grey: ramp([[0, 0, 0], [255, 255, 255]]),
    hot: ramp([[0, 0, 0], [200, 0, 0], [255, 170, 0], [255, 255, 255]]),
    viridis: ramp([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]),
    inverted: ramp([[255, 255, 255], [0, 0, 0]]),
  };
  const SIGNED = ramp([[5, 90, 170], [110, 170, 220], [247, 247, 247], [230, 140, 80], [170, 50, 0]]);
  const PLANES = ["axial", "coronal", "sagittal"];

  return { load, unpack, MAPS, SIGNED, PLANES, put(key, text) { unpack(text).then(waiting.get(key)); } };
})();

function startViewer(info) {
  const { shape: [D, H, W], spacing, flat, upright } = info;
  const root = document.getElementById("viewer");
  root.replaceChildren(); // pictures, for who has no script
  const control = (name) => document.getElementById(name);
  const planes = flat ? ["axial"] : FuseBench.PLANES;
  const cursor = [D >> 1, H >> 1, W >> 1];
  const volumes = new Map();
  const withFindings = new Map();
  const panes = [];
  let chroma = null;
  let lesion = null;
  let large = "";
  let niivue = null;

  // Of each plane: which axis it cuts, its rows and columns, and whether rows are drawn upwards.
  const layout = {
    axial: { cut: 0, rows: 1, columns: 2, up: !upright },
    coronal: { cut: 1, rows: 0, columns: 2, up: true },
    sagittal: { cut: 2, rows: 0, columns: 1, up: true },
  };
  const size = [D, H, W];
  const stride = [H * W, W, 1];
  const density = () => window.devicePixelRatio || 1;

  // Rows and columns are turned when drawn: the patient's front up, and on demand the right on the left.
  const mirrored = (plane) => !flat && layout[plane].columns === 2 && control("radiological").checked;
  const across = (plane, w) => (mirrored(plane) ? size[layout[plane].columns] - 1 - w : w);
  const down = (plane, h) => (layout[plane].up ? size[layout[plane].rows] - 1 - h : h);

  // The volume of a pane: with the findings, where these are asked for and loaded.
  function held(id) {
    return (control("with").checked && withFindings.get(id)) || volumes.get(id);
  }

  // What a pane shows beside its own volume: one that is taken from it, or one that is laid over it.
  function shown(id) {
    const mode = control("mode").value;
    return {
      reference: mode === "minus-mri" ? held("mri") : mode === "minus-pet" ? held("pet") : null,
      overlay: mode === "overlay" && id !== "pet" ? held("pet") : null,
    };
  }

  // The number of a pane's corner, for the voxel under the crosshair.
  function describe(id, at) {
    const value = held(id)[at], { reference, overlay } = shown(id);
    const text = (level) => (level / 255).toFixed(2);
    if (reference) return (value > reference[at] ? "+" : "") + text(value - reference[at]);
    return overlay ? `${text(value)}, PET ${text(overlay[at])}` : text(value);
  }

  // Left and right of the patient, where a volume's affine says so; a picture's is a guess.
  function markSides(brush, plane) {
    if (flat || layout[plane].columns !== 2) return;
    const left = (info.affine[0][0] > 0) !== mirrored(plane) ? "L" : "R";
    const letters = Math.max(11 * density(), Math.min(brush.canvas.width / 9, 26 * density()));
    write(brush, left, 0.02, "top", letters);
    write(brush, left === "L" ? "R" : "L", 0.98, "top", letters);
    brush.canvas.dataset.left = left;
  }

  // Which slice it is, counted from one.
  function markSlice(brush, plane) {
    if (flat) return;
    const { cut } = layout[plane];
    const letters = Math.max(9 * density(), Math.min(brush.canvas.width / 16, 16 * density()));
    write(brush, `${cursor[cut] + 1}/${size[cut]}`, 0.02, "bottom", letters);
  }

  function write(brush, text, x, baseline, letters) {
    const { width, height } = brush.canvas;
    brush.font = `bold ${Math.round(letters)}px sans-serif`;
    brush.textBaseline = baseline;
    brush.textAlign = x < 0.5 ? "left" : "right";
    brush.fillStyle = "#fff";
    brush.strokeStyle = "#000";
    brush.lineWidth = letters / 6;
    const y = (baseline === "top" ? 0.02 : 0.98) * height;
    brush.strokeText(text, x * width, y);
    brush.fillText(text, x * width, y);
  }

  // Light as the image, hue by the functional image; what a screen cannot show at that luminance is paler.
  // Called for every pixel, so that it makes no arrays.
  const rgb = [0, 0, 0];
  function hue(at, y, pet) {
    const cb = (pet ? info.hue.cb[pet[at]] : chroma[at]) - 128;
    const cr = (pet ? info.hue.cr[pet[at]] : chroma[D * H * W + at]) - 128;
    rgb[0] = 1.402 * cr; rgb[1] = -0.344136 * cb - 0.714136 * cr; rgb[2] = 1.772 * cb;
    let share = y > 0 && y < 255 ? 1 : 0;
    for (let i = 0; i < 3; i++) if (rgb[i]) share = Math.min(share, (rgb[i] > 0 ? 256 - y : 1 + y) / Math.abs(rgb[i]));
    for (let i = 0; i < 3; i++) rgb[i] = y + share * rgb[i];
  }

  // A canvas has as many pixels as it takes on the screen: a line of one pixel stays a line.
  function fit(canvas) {
    const width = Math.max(1, Math.round(canvas.clientWidth * density()));
    const height = Math.max(1, Math.round(canvas.clientHeight * density()));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  }

  function paint(canvas, plane, volume, id) {
    const { cut, rows, columns, up } = layout[plane];
    const height = size[rows], width = size[columns];
    const image = new ImageData(width, height);
    const span = Number(control("window").value), black = Number(control("level").value) - span / 2;
    const light = Float32Array.from({ length: 256 }, (_, level) => Math.max(0, Math.min(255, 255 * (level / 255 - black) / span)));
    const opacity = Number(control("opacity").value);
    const { reference, overlay } = shown(id);
    const pet = info.hue && volumes.get("pet");
    const hues = pet || chroma;
    const coloured = hues && id !== "mri" && control("mode").value === "image" && control("colour").checked;
    const map = FuseBench.MAPS[control("map").value];
    const hot = FuseBench.MAPS.hot;
    const start = cursor[cut] * stride[cut];
    const mirror = mirrored(plane);
    for (let r = 0; r < height; r++) {
      const source = start + (up ? height - 1 - r : r) * stride[rows];
      for (let c = 0; c < width; c++) {
        const at = source + (mirror ? width - 1 - c : c) * stride[columns];
        const out = 4 * (r * width + c);
        let red, green, blue;
        if (reference) {
          const level = Math.max(0, Math.min(255, Math.round(127.5 + 0.5 * (volume[at] - reference[at]) / span))) * 3;
          [red, green, blue] = [FuseBench.SIGNED[level], FuseBench.SIGNED[level + 1], FuseBench.SIGNED[level + 2]];
        } else if (coloured) {
          hue(at, light[volume[at]], pet);
          red = rgb[0]; green = rgb[1]; blue = rgb[2];
        } else {
          const level = Math.round(light[volume[at]]) * 3;
          [red, green, blue] = [map[level], map[level + 1], map[level + 2]];
        }
        if (overlay) {
          const level = Math.round(light[overlay[at]]);
          const alpha = opacity * Math.min(1, level / 96);
          red += alpha * (hot[3 * level] - red);
          green += alpha * (hot[3 * level + 1] - green);
          blue += alpha * (hot[3 * level + 2] - blue);
        }
        image.data[out] = red; image.data[out + 1] = green; image.data[out + 2] = blue; image.data[out + 3] = 255;
      }
    }
    fit(canvas);
    const raw = canvas.raw || (canvas.raw = new OffscreenCanvas(width, height));
    raw.getContext("2d").putImageData(image, 0, 0);
    const brush = canvas.getContext("2d");
    brush.imageSmoothingEnabled = canvas.width < width; // voxels stay squares unless there is no room for them
    brush.drawImage(raw, 0, 0, canvas.width, canvas.height);
    if (lesion && control("outline").checked) drawOutline(brush, plane);
    markSides(brush, plane);
    markSlice(brush, plane);
    if (control("cross").checked) {
      const x = (across(plane, cursor[columns]) + 0.5) / width * canvas.width;
      const y = (down(plane, cursor[rows]) + 0.5) / height * canvas.height;
      brush.strokeStyle = "rgba(80, 220, 120, .85)";
      brush.lineWidth = Math.max(1, Math.round(density()));
      brush.beginPath();
      brush.moveTo(x, 0); brush.lineTo(x, canvas.height); brush.moveTo(0, y); brush.lineTo(canvas.width, y);
      brush.stroke();
    }
    canvas.dataset.slice = cursor[cut];
    canvas.dataset.rings = control("rings").checked ? drawRings(brush, plane) : 0;
  }

  // The edge of the lesion in this slice, between the voxels.
  function drawOutline(brush, plane) {
    const { cut, rows, columns } = layout[plane];
    const step = [brush.canvas.height / size[rows], brush.canvas.width / size[columns]];
    const base = cursor[cut] * stride[cut];
    const inside = (r, c) => r >= 0 && c >= 0 && r < size[rows] && c < size[columns] && lesion[base + r * stride[rows] + c * stride[columns]] > 127;
    brush.strokeStyle = "#ff5ec4";
    brush.lineWidth = Math.max(1.5 * density(), brush.canvas.width / 300);
    brush.beginPath();
    let edges = 0;
    for (let r = 0; r < size[rows]; r++) {
      for (let c = 0; c < size[columns]; c++) {
        if (!inside(r, c)) continue;
        const x = across(plane, c), y = down(plane, r);
        for (const [dr, dc] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          if (inside(r + dr, c + dc)) continue;
          const dx = across(plane, c + dc) - x, dy = down(plane, r + dr) - y;
          const [x0, y0] = [x + (dx > 0 ? 1 : 0), y + (dy > 0 ? 1 : 0)];
          brush.moveTo(x0 * step[1], y0 * step[0]);
          brush.lineTo((x0 + (dy ? 1 : 0)) * step[1], (y0 + (dx ? 1 : 0)) * step[0]);
          edges += 1;
        }
      }
    }
    brush.stroke();
    brush.canvas.dataset.outline = edges;
  }

  // A ring where a finding is cut by the plane: blue structural, orange functional; dashed darker than around.
  function drawRings(brush, plane) {
    const { cut, rows, columns } = layout[plane];
    const step = [brush.canvas.height / size[rows], brush.canvas.width / size[columns]];
    let drawn = 0;
    brush.save();
    brush.lineWidth = Math.max(1.5 * density(), brush.canvas.width / 180);
    for (const { kind, sign, at, radius } of info.findings) {
      const away = (at[cut] - cursor[cut]) * spacing[cut];
      if (Math.abs(away) >= radius) continue;
      const reach = Math.sqrt(radius * radius - away * away);
      const y = (down(plane, at[rows]) + 0.5) * step[0];
      brush.strokeStyle = kind === "structural" ? "#56b4e9" : "#e69f00";
      brush.setLineDash(sign < 0 ? [4, 3] : []);
      brush.beginPath();
      brush.ellipse((across(plane, at[columns]) + 0.5) * step[1], y, reach / spacing[columns] * step[1], reach / spacing[rows] * step[0], 0, 0, 2 * Math.PI);
      brush.stroke();
      drawn += 1;
    }
    brush.restore();
    return drawn;
  }

  let pending = false;
  function draw() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      const at = cursor[0] * stride[0] + cursor[1] * stride[1] + cursor[2];
      for (const { id, element, canvases, readout } of panes) {
        const volume = held(id);
        if (!volume || element.hidden) continue;
        canvases.forEach((canvas, i) => paint(canvas, planes[i], volume, id));
        readout.textContent = describe(id, at);
      }
      const mm = [0, 1, 2].map((i) => info.affine[i].slice(0, 3).reduce((s, v, j) => s + v * cursor[2 - j], info.affine[i][3]));
      control("where").textContent = flat
        ? `row ${cursor[1]}, column ${cursor[2]}`
        : `voxel (${cursor[2]}, ${cursor[1]}, ${cursor[0]}), ${mm.map((v) => v.toFixed(1)).join(", ")} mm`;
      root.dataset.cursor = cursor.join(",");
      if (niivue) niivue.follow(cursor);
    });
  }

  function move(axis, to) {
    cursor[axis] = Math.max(0, Math.min(size[axis] - 1, Math.round(to)));
  }

  function listen(canvas, plane) {
    const { cut, rows, columns, up } = layout[plane];
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const y = Math.floor((event.clientY - box.top) / box.height * size[rows]);
      move(columns, across(plane, Math.floor((event.clientX - box.left) / box.width * size[columns])));
      move(rows, down(plane, y));
      moved();
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); point(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) point(event); });
    if (!flat) {
      canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        move(cut, cursor[cut] + Math.sign(event.deltaY));
        moved();
      }, { passive: false });
    }
    canvas.tabIndex = 0;
    canvas.addEventListener("keydown", (event) => {
      const right = mirrored(plane) ? -1 : 1;
      const step = { ArrowLeft: [columns, -right], ArrowRight: [columns, right], ArrowUp: [rows, up ? 1 : -1],
        ArrowDown: [rows, up ? -1 : 1], PageUp: [cut, 1], PageDown: [cut, -1] }[event.key];
      if (!step) return;
      event.preventDefault();
      move(step[0], cursor[step[0]] + step[1]);
      moved();
    });
  }

  function enlarge(id) {
    large = id;
    for (const { id: own, element } of panes) {
      element.classList.toggle("large", own === id);
      element.querySelector("h3 button").setAttribute("aria-expanded", own === id);
      // It comes first, so that what was looked at is not lost below it.
      if (own === id && element.getBoundingClientRect().top < 0) element.scrollIntoView();
    }
    draw();
  }

  for (const { id, label } of info.volumes) {
    const element = document.createElement("section");
    element.className = "pane" + (flat ? " flat" : "");
    element.dataset.id = id;
    const title = document.createElement("h3");
    const name = document.createElement("button");
    name.type = "button";
    name.textContent = label;
    name.title = `${label}: enlarge`;
    name.addEventListener("click", () => { enlarge(large === id ? "" : id); remember(); });
    const readout = document.createElement("span");
    readout.textContent = "…";
    title.append(name, readout);
    const grid = document.createElement("div");
    grid.className = "planes";
    const canvases = planes.map((plane) => {
      const canvas = document.createElement("canvas");
      const { rows, columns } = layout[plane];
      const mm = [size[columns] * spacing[columns], size[rows] * spacing[rows]];
      canvas.style.aspectRatio = `${mm[0]} / ${mm[1]}`;
      canvas.style.setProperty("--aspect", mm[0] / mm[1]);
      canvas.dataset.plane = plane;
      canvas.setAttribute("aria-label", `${label}, ${plane}`);
      listen(canvas, plane);
      grid.append(canvas);
      return canvas;
    });
    element.append(title, grid);
    root.append(element);
    panes.push({ id, element, canvases, readout });
  }

  const failed = (error) => { control("status").textContent = error.message; };
  let left = info.volumes.length;
  for (const { id, key, url } of info.volumes) {
    FuseBench.load(key, url).then((voxels) => {
      volumes.set(id, voxels);
      left -= 1;
      control("status").textContent = left ? `${left} volumes to load` : "";
      if (!left) root.dataset.ready = "yes";
      draw();
    }, failed);
  }
  if (info.chroma) FuseBench.load(info.chroma.key, info.chroma.url).then((voxels) => { chroma = voxels; draw(); }, failed);
  if (info.lesion) FuseBench.load(info.lesion.key, info.lesion.url).then((voxels) => { lesion = voxels; draw(); }, failed);

  // Volumes with findings are as large again: loaded when they are first asked for.
  let asked = false;
  function loadFindings() {
    if (!control("with").checked || asked) return;
    asked = true;
    const some = info.volumes.filter((v) => v.with);
    let missing = some.length;
    for (const { id, with: { key, url } } of some) {
      FuseBench.load(key, url).then((voxels) => {
        withFindings.set(id, voxels);
        missing -= 1;
        control("status").textContent = missing ? `${missing} volumes with findings to load` : "";
        if (!missing) root.dataset.findings = "yes";
        draw();
      }, failed);
    }
  }
  function tell() {
    for (const id of ["window", "level"]) control(`${id}-value`).textContent = Number(control(id).value).toFixed(2);
  }
  function filter() {
    const word = control("only").value.toLowerCase();
    info.volumes.forEach(({ id, label }, i) => {
      panes[i].element.hidden = !["mri", "pet"].includes(id) && !label.toLowerCase().includes(word);
    });
  }

  // -- the view in the address: what differs from how the page starts --------------------------------
  const tools = document.querySelector(".viewer-tools");
  const controls = [...tools.querySelectorAll("input, select")];
  const told = (box) => (box.type === "checkbox" ? String(box.checked) : box.value);
  const usual = new Map(controls.map((box) => [box, told(box)]));
  const middle = cursor.join(",");

  function remember() {
    const at = cursor.join(",");
    PageState.set({
      ...Object.fromEntries(controls.map((box) => [box.id, told(box) === usual.get(box) ? "" : told(box)])),
      at: at === middle ? "" : at, large,
    });
  }
  function moved() {
    draw();
    remember();
  }
  tools.addEventListener("input", () => {
    loadFindings();
    filter();
    tell();
    draw();
    remember();
  });
  PageState.follow((state) => {
    for (const box of controls) {
      const value = state.get(box.id) ?? usual.get(box);
      if (box.type === "checkbox") box.checked = value === "true";
      else box.value = value;
    }
    const at = (state.get("at") ?? middle).split(",").map(Number);
    if (at.length === 3 && at.every(Number.isFinite)) at.forEach((to, axis) => move(axis, to));
    const id = state.get("large") ?? "";
    enlarge(panes.some((pane) => pane.id === id) ? id : "");
    loadFindings();
    filter();
    tell();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !large) return;
    enlarge("");
    remember();
  });
  new ResizeObserver(draw).observe(root);

  // -- NiiVue: multiplanar and rendered view of one volume, with another laid over it -----------------
  const button = document.getElementById("open-niivue");
  if (button) {
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        niivue = await startNiivue(info, volumes, (to) => { to.forEach((v, axis) => move(axis, v)); moved(); });
        document.getElementById("niivue-tools").hidden = false;
        niivue.follow(cursor);
      } catch (error) {
        document.getElementById("niivue-status").textContent =
          `No 3D view (${error.message}); the panes above show the same volumes.`;
      }
    });
  }
}

async function startNiivue(info, volumes, onMove) {
  if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser offers no WebGL2");
  await new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = info.niivue;
    script.onload = resolve;
    script.onerror = () => reject(new Error("niivue.umd.js cannot be read"));
    document.head.append(script);
  });
  const box = document.getElementById("niivue-box");
  box.hidden = false;
  const { Niivue, NVImage } = window.niivue;
  const nv = new Niivue({ show3Dcrosshair: true, multiplanarShowRender: 1, crosshairWidth: 0.3, backColor: [0, 0, 0, 1], crosshairColor: [0.3, 0.9, 0.5, 0.8],
    logLevel: "error", loadingText: "", dragAndDropEnabled: false });
  await nv.attachToCanvas(document.getElementById("niivue"));
  nv.setSliceType(nv.sliceTypeMultiplanar);
  const [D, H, W] = info.shape;
  let silent = false;

  // Of what lies on top, the lower third is left out: a thin veil over everything would hide the base.
  async function image(id, map, opacity, least = 0) {
    const bytes = NVImage.createNiftiArray([W, H, D], [...info.spacing].reverse(), info.affine.flat(), 2, volumes.get(id));
    const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    return NVImage.new(buffer, `${id}.nii`, map, opacity, null, least, 255, true, 0.02, false, false, "", 0);
  }
  async function show() {
    const base = document.getElementById("niivue-base").value;
    const over = document.getElementById("niivue-over").value;
    while (nv.volumes.length) nv.removeVolumeByIndex(0);
    nv.addVolume(await image(base, document.getElementById("niivue-map").value, 1));
    if (over) nv.addVolume(await image(over, "warm", Number(document.getElementById("niivue-opacity").value), 85));
    nv.updateGLVolume();
    box.dataset.shown = over ? `${base}+${over}` : base;
  }
  document.getElementById("niivue-tools").addEventListener("input", show);
  await show();
  nv.onLocationChange = (location) => {
    if (silent || !location.vox) return;
    onMove([location.vox[2], location.vox[1], location.vox[0]]);
  };
  return {
    nv,
    follow([d, h, w]) {
      if (!nv.volumes.length) return;
      silent = true;
      nv.scene.crosshairPos = nv.vox2frac([w, h, d]);
      nv.drawScene();
      box.dataset.cursor = [d, h, w].join(",");
      silent = false;
    },
  };
}
