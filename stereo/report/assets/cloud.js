"use strict";
// An orbiting cloud of points in plain WebGL. Camera frame of the left view: x right, y down, z forward.
// places: Float32Array, 3 per point. colours: Uint8Array, 3 per point. shares: Uint8Array, 2 per point: confidence, occlusion.
// view: {focal: [x, y] in heights of the canvas, centre: [x, y, z], pixel: heights of the canvas, far}.
// -> null where there is no WebGL, else an object whose show(least, most) draws the points that are confident enough and not
// too probably occluded, both 0 .. 255.
const orbitingCloud = (canvas, { places, colours, shares, view }) => {
  const gl = canvas.getContext("webgl", { antialias: false, preserveDrawingBuffer: true }); // "save image as" finds a picture
  if (!gl) return null;
  const vertex = `
    attribute vec3 place; attribute vec3 colour; attribute vec2 share;
    uniform mat3 turn; uniform vec3 centre; uniform vec2 focal; uniform vec2 least; uniform vec2 range;
    uniform float away; uniform float size;
    varying vec3 shade;
    void main() {
      vec3 p = turn * (place - centre) + vec3(0.0, 0.0, away);
      float depth = (p.z * (range.y + range.x) - 2.0 * range.y * range.x) / (range.y - range.x);
      gl_Position = vec4(p.x * focal.x, -p.y * focal.y, min(depth, 0.9999 * p.z), p.z); // nothing is too far to be drawn
      if (share.x < least.x || share.y > least.y) gl_Position = vec4(2.0, 2.0, 2.0, 1.0); // outside of what is drawn
      gl_PointSize = clamp(size * place.z / max(p.z, range.x), 1.0, 64.0); // as wide as a pixel of the image is there
      shade = colour;
    }`;
  const fragment = "precision mediump float; varying vec3 shade; void main() { gl_FragColor = vec4(shade, 1.0); }";
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
  gl.useProgram(program);
  for (const [name, data, each, type, scaled] of [
    ["place", places, 3, gl.FLOAT, false], ["colour", colours, 3, gl.UNSIGNED_BYTE, true], ["share", shares, 2, gl.UNSIGNED_BYTE, false],
  ]) {
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    const at = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, each, type, scaled, 0, 0);
  }
  gl.enable(gl.DEPTH_TEST);
  gl.clearColor(0.08, 0.09, 0.11, 1);
  const uniform = (name) => gl.getUniformLocation(program, name);
  const at = Object.fromEntries(["turn", "centre", "focal", "least", "range", "away", "size"].map((name) => [name, uniform(name)]));

  const home = { yaw: 0.22, pitch: 0.12, away: 1.1 * view.centre[2] };
  let state = { ...home };
  let shown = [0, 255];

  const draw = () => {
    const scale = Math.min(2, window.devicePixelRatio || 1);
    const [width, height] = [Math.max(1, Math.round(canvas.clientWidth * scale)), Math.max(1, Math.round(canvas.clientHeight * scale))];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const [cy, sy, cp, sp] = [Math.cos(state.yaw), Math.sin(state.yaw), Math.cos(state.pitch), Math.sin(state.pitch)];
    // Columns: turned about the vertical axis first, then about the horizontal one.
    gl.uniformMatrix3fv(at.turn, false, [cy, sy * sp, -sy * cp, 0, cp, sp, sy, -cy * sp, cy * cp]);
    gl.uniform3fv(at.centre, view.centre);
    // The image fits into the canvas whatever the shape of either.
    const fit = Math.min(1, (width / height) * (view.height / view.width));
    gl.uniform2f(at.focal, fit * view.focal[0] * (height / width), fit * view.focal[1]);
    gl.uniform2f(at.least, shown[0], shown[1]);
    gl.uniform2f(at.range, state.away / 100, state.away + 2 * view.far);
    gl.uniform1f(at.away, state.away);
    gl.uniform1f(at.size, 1.6 * fit * view.pixel * height);
    gl.drawArrays(gl.POINTS, 0, places.length / 3);
  };
  let asked = false;
  const redraw = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  };
  const orbit = (right, down) => {
    state.yaw += right;
    state.pitch = Math.max(-1.5, Math.min(1.5, state.pitch + down));
    redraw();
  };
  const zoom = (factor) => {
    state.away = Math.max(home.away / 30, Math.min(home.away * 10, state.away * factor));
    redraw();
  };
  const reset = () => { state = { ...home }; redraw(); };

  const fingers = new Map();
  const spread = () => {
    const [a, b] = [...fingers.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const apart = fingers.size === 2 ? spread() : 0;
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (fingers.size === 2) zoom(apart / Math.max(spread(), 1));
    else orbit(-(event.clientX - before[0]) * 0.006, (event.clientY - before[1]) * 0.006);
  });
  for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) {
    canvas.addEventListener(kind, (event) => fingers.delete(event.pointerId));
  }
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(event.deltaY * 0.0012)); }, { passive: false });
  canvas.addEventListener("dblclick", reset);
  canvas.addEventListener("keydown", (event) => {
    const acts = {
      ArrowLeft: () => orbit(0.1, 0), ArrowRight: () => orbit(-0.1, 0), ArrowUp: () => orbit(0, -0.1), ArrowDown: () => orbit(0, 0.1),
      "+": () => zoom(0.87), "=": () => zoom(0.87), "-": () => zoom(1.15), 0: reset,
    };
    if (!(event.key in acts) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    acts[event.key]();
  });
  new ResizeObserver(redraw).observe(canvas);
  return { show: (least, most) => { shown = [least, most]; redraw(); }, reset };
};
