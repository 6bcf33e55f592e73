// The viewer and the sortable table of geodeform's report. Everything comes from this file: the
// page loads nothing. Positions "on the map" are pixels of the class raster, from its top left.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("report-data").textContent);
  const [W, H] = data.size;
  const canvas = byId("canvas");
  const stage = byId("stage");
  const context = canvas.getContext("2d");
  const NODATA = 255;
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  // ---- the layers ---------------------------------------------------------------------------

  const layers = {}; // name → {image, values, width, height, reach: [left, top, right, bottom]}
  let highlighted = null; // the class under the pointer
  let pinned = null; // the class that was clicked

  const bytesOf = (id) => {
    const text = atob(byId(id).textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  };

  const inflate = async (id) => {
    const stream = new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  // values → colours; the values come as bytes, not from a canvas, because browsers that guard
  // against fingerprints put noise into what a canvas gives back
  const paint = (layer, table) => {
    const pixels = new Uint32Array(layer.values.length);
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[layer.values[i]];
    const image = new ImageData(new Uint8ClampedArray(pixels.buffer), layer.width, layer.height);
    layer.image.getContext("2d").putImageData(image, 0, 0);
  };

  const tableOf = (colour) => {
    const bytes = new Uint8Array(4 * 256);
    for (let v = 0; v < 256; v++) bytes.set(colour(v), 4 * v);
    return new Uint32Array(bytes.buffer);
  };

  const classTable = () => {
    const only = highlighted ?? pinned;
    return tableOf((v) => {
      if (v >= data.classes.length) return [0, 0, 0, 0];
      return [...data.classes[v].colour, only === null || only === v ? 255 : 26];
    });
  };

  const rampTable = (about) =>
    tableOf((v) => {
      if (v === 0) return [0, 0, 0, 0];
      const part = (v - about.from) / Math.max(about.to - about.from, 1e-9);
      const at = 6 * Math.round(255 * Math.min(Math.max(part, 0), 1));
      return [0, 2, 4].map((k) => parseInt(about.ramp.slice(at + k, at + k + 2), 16)).concat(255);
    });

  const load = async (name, about) => {
    const layer = { width: about.width, height: about.height, reach: about.reach };
    if (name === "scene") {
      layer.image = new Image();
      layer.image.src = "data:image/jpeg;base64," + byId("layer-scene").textContent.trim();
      await layer.image.decode();
    } else {
      layer.values = await inflate("layer-" + name);
      layer.image = document.createElement("canvas");
      layer.image.width = layer.width;
      layer.image.height = layer.height;
      paint(layer, name === "map" ? classTable() : rampTable(about));
    }
    layers[name] = layer;
    draw();
  };

  const valueAt = (name, x, y) => {
    const layer = layers[name];
    if (!layer || !layer.values) return null;
    const [left, top, right, bottom] = layer.reach;
    const col = Math.floor(((x - left) / (right - left)) * layer.width);
    const row = Math.floor(((y - top) / (bottom - top)) * layer.height);
    if (col < 0 || row < 0 || col >= layer.width || row >= layer.height) return null;
    return layer.values[row * layer.width + col];
  };

  // ---- the view -----------------------------------------------------------------------------

  // x, y: the map position at the middle of the stage; k: CSS pixels per map pixel, downwards.
  // Pixels are drawn as wide as they are on the ground: data.aspect times their height.
  const view = { x: W / 2, y: H / 2, k: 1 };
  let swipeAt = null; // 0…1 of the stage's width
  let scheduled = false;

  const fitted = () =>
    Math.min(stage.clientWidth / (W * data.aspect), stage.clientHeight / H) * 0.98;
  const largest = () => Math.max(48, fitted() * 4);
  const toMap = (px, py) => [
    view.x + (px - stage.clientWidth / 2) / (view.k * data.aspect),
    view.y + (py - stage.clientHeight / 2) / view.k,
  ];
  const toStage = (x, y) => [
    (x - view.x) * view.k * data.aspect + stage.clientWidth / 2,
    (y - view.y) * view.k + stage.clientHeight / 2,
  ];

  const fit = () => {
    Object.assign(view, { x: W / 2, y: H / 2, k: fitted() });
    draw();
  };

  const pan = (dx, dy) => {
    view.x -= dx / (view.k * data.aspect);
    view.y -= dy / view.k;
    draw();
  };

  // the map position under (px, py) stays where it is
  const zoom = (factor, px = stage.clientWidth / 2, py = stage.clientHeight / 2) => {
    const [x, y] = toMap(px, py);
    view.k = Math.min(Math.max(view.k * factor, fitted()), largest());
    view.x = x - (px - stage.clientWidth / 2) / (view.k * data.aspect);
    view.y = y - (py - stage.clientHeight / 2) / view.k;
    draw();
  };

  const draw = () => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(render);
  };

  const drawLayer = (layer, opacity, clipLeft) => {
    const [left, top, right, bottom] = layer.reach;
    const perX = (right - left) / layer.width;
    const perY = (bottom - top) / layer.height;
    // only the part that is seen: browsers lose precision in pictures of 100,000 pixels
    const [seenLeft, seenTop] = toMap(0, 0);
    const [seenRight, seenBottom] = toMap(stage.clientWidth, stage.clientHeight);
    const c0 = Math.max(0, Math.floor((seenLeft - left) / perX));
    const r0 = Math.max(0, Math.floor((seenTop - top) / perY));
    const c1 = Math.min(layer.width, Math.ceil((Math.min(seenRight, W) - left) / perX));
    const r1 = Math.min(layer.height, Math.ceil((Math.min(seenBottom, H) - top) / perY));
    if (c1 <= c0 || r1 <= r0) return;
    const [x0, y0] = toStage(left + c0 * perX, top + r0 * perY);
    const [x1, y1] = toStage(left + c1 * perX, top + r1 * perY);
    context.save();
    context.beginPath();
    const [mapLeft, mapTop] = toStage(0, 0);
    const [mapRight, mapBottom] = toStage(W, H); // the last density cells reach beyond the map
    const from = Math.max(mapLeft, clipLeft);
    context.rect(from, mapTop, Math.max(mapRight - from, 0), mapBottom - mapTop);
    context.clip();
    context.globalAlpha = opacity;
    const enlarged = view.k * perY * devicePixelRatio;
    // pixels are pixels once they can be seen; a shrunken map is averaged
    context.imageSmoothingEnabled = layer.values ? enlarged < 1 : enlarged < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(layer.image, c0, r0, c1 - c0, r1 - r0, x0, y0, x1 - x0, y1 - y0);
    context.restore();
  };

  const render = () => {
    scheduled = false;
    const ratio = devicePixelRatio || 1;
    const width = Math.round(stage.clientWidth * ratio);
    const height = Math.round(stage.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    // half of the stage always shows the map
    view.x = Math.min(Math.max(view.x, 0), W);
    view.y = Math.min(Math.max(view.y, 0), H);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, stage.clientWidth, stage.clientHeight);
    for (const name of ["scene", "map", "confidence", "density"]) {
      const box = byId("show-" + name);
      if (!layers[name] || !box.checked) continue;
      const clip = swipeAt !== null && name !== "scene" ? swipeAt * stage.clientWidth : -Infinity;
      drawLayer(layers[name], byId("opacity-" + name).valueAsNumber / 100, clip);
    }
    drawScale();
    // where the view is, for scripts
    Object.assign(canvas.dataset, { x: view.x, y: view.y, k: view.k });
    if (!byId("cross").hidden) read(stage.clientWidth / 2, stage.clientHeight / 2);
  };

  const drawScale = () => {
    if (data.metres === null) return;
    const perPixel = data.metres / view.k; // metres per CSS pixel
    const most = 120 * perPixel;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].find((n) => n * power <= most) * power;
    const bar = byId("scale");
    bar.hidden = false;
    // a share of the stage, as printing scales both
    bar.style.width = (100 * length) / perPixel / stage.clientWidth + "%";
    const text = length >= 1000 ? length / 1000 + " km" : length >= 1 ? length + " m" :
      +(length * 100).toPrecision(3) + " cm";
    if (bar.firstChild.nodeType === Node.TEXT_NODE) bar.firstChild.data = text;
    else bar.prepend(text);
  };

  // ---- the read-out -------------------------------------------------------------------------

  const short = (value) => +value.toPrecision(value < 10 ? 2 : 3);

  const lonLat = (x, y) => {
    const grid = data.lon_lat;
    if (grid === null) return null;
    const n = grid.size - 1;
    const u = Math.min(Math.max((x / W) * n, 0), n);
    const v = Math.min(Math.max((y / H) * n, 0), n);
    const col = Math.min(Math.floor(u), n - 1);
    const row = Math.min(Math.floor(v), n - 1);
    const [a, b] = [u - col, v - row];
    return [grid.lon, grid.lat].map((values) => {
      const at = (r, c) => values[r * grid.size + c];
      return (1 - b) * ((1 - a) * at(row, col) + a * at(row, col + 1)) +
        b * ((1 - a) * at(row + 1, col) + a * at(row + 1, col + 1));
    });
  };

  const line = (text, css) => {
    const span = document.createElement("span");
    span.textContent = text;
    if (css) span.className = css;
    return span;
  };

  const read = (px, py) => {
    const [x, y] = toMap(px, py);
    if (x < 0 || y < 0 || x >= W || y >= H) {
      byId("readout").replaceChildren("Outside the map.");
      return;
    }
    const out = [];
    const id = valueAt("map", x, y);
    const kind = id === null || id === NODATA ? null : data.classes[id];
    if (kind) {
      const swatch = document.createElement("i");
      swatch.style.background = `rgb(${kind.colour})`;
      out.push(swatch);
    }
    const name = document.createElement("b");
    name.textContent = kind ? kind.name : "No data";
    out.push(name);
    const sure = valueAt("confidence", x, y);
    if (sure) out.push(line(`Confidence ${Math.round((100 * sure) / 255)} %`));
    const dense = valueAt("density", x, y);
    if (dense) {
      const about = data.layers.density;
      const octave = about.low + ((dense - 1) / 254) * (about.high - about.low);
      const pixels = 2 ** -octave;
      const apart = data.metres === null ? `${short(Math.sqrt(pixels))} px` :
        `${short(Math.sqrt(pixels) * data.spacing)} m`;
      out.push(line(`One sample for ${short(pixels)} px (${apart} apart)`));
    }
    const [a, b, c, d, e, f] = data.affine;
    const place = [a * x + b * y + c, d * x + e * y + f].map((v) => v.toFixed(data.digits));
    if (data.crs !== null) out.push(line(`${data.crs}: ${place.join(", ")}`, "where"));
    const globe = lonLat(x, y);
    if (globe) {
      out.push(line(`Lon, lat: ${globe.map((v) => v.toFixed(6)).join(", ")}`, "where"));
    }
    out.push(line(`Column ${Math.floor(x)}, row ${Math.floor(y)}`, "where"));
    byId("readout").replaceChildren(...out);
  };

  // ---- pointer, wheel, keys -----------------------------------------------------------------

  const pointers = new Map();
  const placeOf = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, placeOf(event));
    canvas.classList.add("held");
    byId("cross").hidden = true;
    read(...placeOf(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const [px, py] = placeOf(event);
    const before = pointers.get(event.pointerId);
    if (before === undefined) {
      byId("cross").hidden = true;
      read(px, py);
      return;
    }
    if (pointers.size === 1) {
      pan(px - before[0], py - before[1]);
    } else {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const spread = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
      const middle = (p) => [(p[0] + other[0]) / 2, (p[1] + other[1]) / 2];
      const [from, to] = [middle(before), middle([px, py])];
      pan(to[0] - from[0], to[1] - from[1]);
      zoom(spread([px, py]) / Math.max(spread(before), 1), ...to);
    }
    pointers.set(event.pointerId, [px, py]);
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, (event) => {
      pointers.delete(event.pointerId);
      if (pointers.size === 0) canvas.classList.remove("held");
    });
  }
  canvas.addEventListener("dblclick", (event) => zoom(2, ...placeOf(event)));
  canvas.addEventListener(
    "wheel",
    (event) => {
      // at the whole map, turning further out scrolls the page
      if (event.deltaY > 0 && view.k <= fitted() * 1.001) return;
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 33 : 1;
      const turned = Math.min(Math.max(event.deltaY * lines, -300), 300);
      zoom(Math.exp(-turned / 400), ...placeOf(event));
      read(...placeOf(event));
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = ARROWS[event.key];
    if (step) pan(-60 * step[0], -60 * step[1]);
    else if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else if (event.key === "0") fit();
    else if (event.key.toLowerCase() === "f") toggleFull();
    else return;
    event.preventDefault();
    byId("cross").hidden = false; // the read-out is that of the middle
    byId("readout").setAttribute("aria-live", "polite");
  });
  canvas.addEventListener("blur", () => {
    byId("cross").hidden = true;
    byId("readout").setAttribute("aria-live", "off");
  });

  const toggleFull = () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else byId("viewer").requestFullscreen();
  };
  byId("zoom-in").addEventListener("click", () => zoom(1.5));
  byId("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
  byId("fit").addEventListener("click", fit);
  byId("full").addEventListener("click", toggleFull);
  byId("full").hidden = !document.fullscreenEnabled;

  // ---- layers, swipe, legend ----------------------------------------------------------------

  for (const input of document.querySelectorAll(".layer input")) {
    input.addEventListener("input", () => {
      // a slider that is moved is meant to be seen
      if (input.type === "range") byId(input.id.replace("opacity", "show")).checked = true;
      draw();
    });
  }

  const handle = byId("swipe");
  const moveSwipe = (part) => {
    swipeAt = Math.min(Math.max(part, 0), 1);
    handle.style.left = 100 * swipeAt + "%";
    handle.setAttribute("aria-valuenow", Math.round(100 * swipeAt));
    draw();
  };
  const swipeBox = byId("show-swipe");
  if (swipeBox) {
    swipeBox.addEventListener("input", () => {
      handle.hidden = !swipeBox.checked;
      if (swipeBox.checked) moveSwipe(0.5);
      else swipeAt = null;
    });
  }
  handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
  handle.addEventListener("pointermove", (event) => {
    if (handle.hasPointerCapture(event.pointerId)) {
      moveSwipe(placeOf(event)[0] / stage.clientWidth);
    }
  });
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    moveSwipe(swipeAt + step);
  });

  let repaint = false;
  const showClasses = () => {
    if (repaint || !layers.map) return;
    repaint = true;
    requestAnimationFrame(() => {
      repaint = false;
      paint(layers.map, classTable());
      draw();
    });
  };
  const legend = [...document.querySelectorAll("[data-class]")];
  for (const button of legend) {
    const id = Number(button.dataset.class);
    const point = (on) => {
      highlighted = on ? id : null;
      showClasses();
    };
    button.addEventListener("pointerenter", () => point(true));
    button.addEventListener("pointerleave", () => point(false));
    button.addEventListener("click", () => {
      pinned = pinned === id ? null : id;
      highlighted = pinned; // a second click shows all at once, under the pointer too
      byId("show-map").checked = true;
      for (const other of legend) {
        other.setAttribute("aria-pressed", Number(other.dataset.class) === pinned);
      }
      showClasses();
    });
  }

  // ---- the table ----------------------------------------------------------------------------

  for (const table of document.querySelectorAll(".sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        // names begin with A, figures with the largest
        const rising = head.hasAttribute("aria-sort")
          ? head.getAttribute("aria-sort") === "descending"
          : column === 0;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", rising ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.value;
        const rows = [...table.tBodies[0].rows].sort((one, two) => {
          const [a, b] = rising ? [key(one), key(two)] : [key(two), key(one)];
          return column === 0 ? a.localeCompare(b) : Number(a) - Number(b);
        });
        table.tBodies[0].append(...rows);
      });
    });
  }

  // ---- start --------------------------------------------------------------------------------

  const north = byId("north");
  if (data.north !== null) {
    north.removeAttribute("hidden"); // SVG elements have no property of that name
    north.firstElementChild.setAttribute("transform", `rotate(${data.north})`);
  }
  let lastFit = 0;
  new ResizeObserver(() => {
    const wasFitted = lastFit === 0 || Math.abs(view.k / lastFit - 1) < 1e-6;
    lastFit = fitted();
    if (wasFitted || view.k < lastFit) fit();
    else draw();
  }).observe(stage);
  const loads = Object.entries(data.layers).map(([name, about]) => load(name, about));
  Promise.all(loads).then(
    () => { canvas.dataset.ready = "true"; },
    (error) => {
      byId("readout").textContent =
        `The map cannot be shown: this browser is too old, or the file is damaged (${error}).`;
    },
  );
})();
