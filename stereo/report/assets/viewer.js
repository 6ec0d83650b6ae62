{
  const data = JSON.parse(document.getElementById("viewer").textContent);
  const byId = (name) => document.getElementById(name);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  // The bytes (red, green, blue, alpha) of an image as they are in its file.
  const pixels = (image) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height).data;
  };

  const start = () => {
    const [values, more, photograph] = ["values", "more", "photograph"].map((name) => pixels(byId(name)));
    const sums = [values, more].map((from) => from.reduce((sum, byte, at) => sum + (at % 4 === 3 ? 0 : byte), 0));
    byId("altered").hidden = sums.every((sum, at) => sum === data.sums[at]);
    const [columns, rows] = [byId("values").naturalWidth, byId("values").naturalHeight];
    const count = columns * rows;
    // stereo.report.packed: 0 is unknown
    const unpacked = (from) => Float64Array.from({ length: count }, (_, i) => {
      const code = 256 * from[4 * i] + from[4 * i + 1];
      return code ? (code - 1) * data.quantum : NaN;
    });
    const shares = (from) => Uint8Array.from({ length: count }, (_, i) => from[4 * i + 2]);
    const [disparity, truth, confidence, occlusion] = [unpacked(values), unpacked(more), shares(values), shares(more)];
    const error = disparity.map((value, i) => Math.abs(value - truth[i]));
    const fields = {
      disparity, truth, error, confidence: Float64Array.from(confidence, (v) => v / 255), occlusion: Float64Array.from(occlusion, (v) => v / 255),
    };

    // Places. Pixel (x, y) of the whole image; sample i of this page.
    const xOf = (i) => data.first + (i % columns) * data.step;
    const yOf = (i) => data.first + Math.floor(i / columns) * data.step;
    const { focal_px: focal, cx, cy, baseline_m: baseline, doffs_px: doffs, aspect } = data.rig;
    const point = (i) => {
      const sum = disparity[i] + doffs;
      const z = sum > 0 ? (baseline * focal) / sum : Infinity;
      return [((xOf(i) - cx) / focal) * z, ((yOf(i) - cy) / (focal * aspect)) * z, z];
    };

    // The two maps and the line.
    const keys = data.maps.map((map) => map.key);
    const tables = Object.fromEntries(Object.entries(data.tables).map(([name, text]) => [name, bytes(text)]));
    const chosen = Object.fromEntries([...document.querySelectorAll("select[data-side]")].map((select) => [select.dataset.side, select.value]));
    let least = 0; // 0 .. 255, of the confidence
    const paint = (side) => {
      const canvas = document.querySelector(`canvas[data-side="${side}"]`);
      const context = canvas.getContext("2d");
      const map = data.maps.find((one) => one.key === chosen[side]);
      if (!map.scale) {
        context.drawImage(byId("photograph"), 0, 0, columns, rows);
        return;
      }
      const [name, low, high] = map.scale;
      const [table, field, picture] = [tables[name], fields[map.key], context.createImageData(columns, rows)];
      for (let i = 0; i < count; i++) {
        const known = confidence[i] >= least && !Number.isNaN(field[i]);
        const row = 3 * Math.round(255 * Math.max(0, Math.min(1, (field[i] - low) / (high - low))));
        for (let c = 0; c < 3; c++) picture.data[4 * i + c] = known ? table[row + c] : data.unknown[c];
        picture.data[4 * i + 3] = 255;
      }
      context.putImageData(picture, 0, 0);
    };
    const choose = (side, key) => {
      chosen[side] = key;
      document.querySelector(`select[data-side="${side}"]`).value = key;
      for (const legend of document.querySelectorAll(".legend")) legend.hidden = !Object.values(chosen).includes(legend.dataset.layer);
      paint(side);
    };
    for (const select of document.querySelectorAll("select[data-side]")) {
      select.addEventListener("change", () => choose(select.dataset.side, select.value));
    }
    const line = byId("line");
    line.addEventListener("input", () => {
      byId("stage").style.setProperty("--cut", `${line.value}%`);
      line.setAttribute("aria-valuetext", `${line.value} percent`);
    });
    line.addEventListener("keydown", (event) => {
      const digit = /^Digit([1-9])$/.exec(event.code);
      if (!digit || event.ctrlKey || event.altKey || event.metaKey || digit[1] > keys.length) return;
      event.preventDefault();
      choose(event.shiftKey ? "a" : "b", keys[digit[1] - 1]);
    });

    // The numbers of one pixel. <data> holds them in full, its text as people read them.
    const fine = (value, digits, unit) => {
      const element = document.createElement("data");
      element.value = String(value);
      element.textContent = Number.isNaN(value) ? "unknown" : Number.isFinite(value) ? `${value.toFixed(digits)}${unit}` : "infinite";
      return element;
    };
    const read = (i) => {
      const told = [["disparity", [fine(disparity[i], 2, " px")]]];
      const place = point(i);
      told.push(["depth", [fine(place[2], 3, ` ${data.unit}`)]]);
      told.push(["X, Y, Z", place.flatMap((value, axis) => [axis ? ", " : "", fine(value, 3, axis === 2 ? ` ${data.unit}` : "")])]);
      told.push(["occlusion", [fine(fields.occlusion[i], 2, "")]], ["confidence", [fine(fields.confidence[i], 2, "")]]);
      if (keys.includes("truth")) told.push(["truth", [fine(truth[i], 2, " px")]], ["error", [fine(error[i], 2, " px")]]);
      byId("readings").replaceChildren(...told.map(([name, parts]) => {
        const [group, term, value] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
        term.textContent = name;
        value.append(...parts);
        value.dataset.reading = name;
        group.append(term, value);
        return group;
      }));
      const probe = byId("probe");
      probe.hidden = false;
      probe.style.left = `${((i % columns) + 0.5) / columns * 100}%`;
      probe.style.top = `${(Math.floor(i / columns) + 0.5) / rows * 100}%`;
    };
    const sampleOf = (x, y) => {
      const [column, row] = [x, y].map((place) => Math.round((place - data.first) / data.step));
      return Math.max(0, Math.min(rows - 1, row)) * columns + Math.max(0, Math.min(columns - 1, column));
    };
    const typed = () => {
      const [x, y] = ["x", "y"].map((name) => byId(name).valueAsNumber);
      if (Number.isFinite(x) && Number.isFinite(y)) read(sampleOf(x, y));
    };
    for (const name of ["x", "y"]) byId(name).addEventListener("input", typed);
    const pointed = (event) => {
      const box = byId("stage").getBoundingClientRect();
      const place = [event.clientX - box.left, event.clientY - box.top].map((at, axis) => at / (axis ? box.height : box.width));
      const [column, row] = [[place[0], columns], [place[1], rows]].map(([share, of]) => Math.max(0, Math.min(of - 1, Math.floor(share * of))));
      const i = row * columns + column;
      [byId("x").value, byId("y").value] = [xOf(i), yOf(i)];
      read(i);
    };
    byId("stage").addEventListener("pointermove", pointed);
    byId("stage").addEventListener("pointerdown", pointed);

    // The cloud: every step-th sample of every step-th row, where its depth is finite.
    const step = Math.max(1, Math.ceil(Math.sqrt(count / data.points)));
    const picked = [];
    for (let i = 0; i < count; i++) {
      const grid = (i % columns) % step === 0 && Math.floor(i / columns) % step === 0;
      if (grid && disparity[i] + doffs > 0) picked.push(i);
    }
    const [places, colours, shown] = [new Float32Array(3 * picked.length), new Uint8Array(3 * picked.length), new Uint8Array(2 * picked.length)];
    picked.forEach((i, n) => {
      places.set(point(i), 3 * n);
      colours.set(photograph.subarray(4 * i, 4 * i + 3), 3 * n);
      shown.set([confidence[i], occlusion[i]], 2 * n);
    });
    const depths = picked.filter((i) => occlusion[i] < 255 * data.occluded).map((i) => point(i)[2]).sort((a, b) => a - b);
    const middle = depths.length ? depths[depths.length >> 1] : 1;
    const [width, height] = data.size;
    const axis = [((width - 1) / 2 - cx) / focal * middle, ((height - 1) / 2 - cy) / (focal * aspect) * middle, middle];
    const view = {
      width, height, centre: axis, far: Math.min(depths.length ? depths[depths.length - 1] : 1, 50 * middle), pixel: (data.step * step) / height,
      focal: [2 * focal / height, 2 * focal * aspect / height],
    };
    byId("cloud").style.aspectRatio = `${width} / ${height}`;
    const cloud = orbitingCloud(byId("cloud"), { places, colours, shares: shown, view });
    if (!cloud) for (const [name, hidden] of [["cloud", true], ["moves", true], ["cloud-tools", true], ["no-cloud", false]]) byId(name).hidden = hidden;
    byId("reset").addEventListener("click", () => cloud.reset());

    // The filter. Counts by confidence answer every position of the slider at once.
    const counts = new Uint32Array(256);
    for (const value of confidence) counts[value]++;
    const limit = () => {
      const percent = byId("threshold").valueAsNumber;
      least = Math.ceil(percent * 2.55);
      const most = byId("hidden-too").checked ? 255 : Math.ceil(255 * data.occluded) - 1;
      const kept = counts.subarray(least).reduce((a, b) => a + b, 0) / count;
      const drawn = picked.reduce((sum, i) => sum + (confidence[i] >= least && occlusion[i] <= most), 0);
      byId("limit").textContent = `${percent} %`;
      byId("kept").textContent = `${(100 * kept).toFixed(1)} % of the pixels are kept`;
      byId("drawn").textContent = `${drawn.toLocaleString("en")} of ${picked.length.toLocaleString("en")} points`;
      if (cloud) cloud.show(least, most);
      for (const side of Object.keys(chosen)) paint(side);
    };
    byId("threshold").addEventListener("input", limit);
    byId("hidden-too").addEventListener("change", limit);
    limit();
    typed();
  };
  Promise.all(["values", "more", "photograph"].map((name) => byId(name).decode())).then(start);
}
