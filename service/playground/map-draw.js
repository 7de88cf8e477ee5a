// Draws a map: its points with WebGL where there is one, else pixel by pixel; names and marks above them on another canvas.
//
// A view is {x, y, scale}: the place in the middle of the canvas, and pixels of the canvas per unit of the map.

const VERTEX = `#version 300 es
in vec2 place;
in float colour;
uniform vec2 middle, step;
uniform float size;
uniform sampler2D palette;
out vec4 shade;
void main() {
  shade = texelFetch(palette, ivec2(int(colour), 0), 0);
  gl_Position = shade.a == 0.0 ? vec4(2.0, 2.0, 2.0, 1.0) : vec4((place - middle) * step, 0.0, 1.0);
  gl_PointSize = size;
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec4 shade;
uniform float size;
out vec4 ink;
void main() {
  float far = length(gl_PointCoord - 0.5) * size;
  float cover = shade.a * clamp(0.5 * size - far + 0.5, 0.0, 1.0);
  ink = vec4(shade.rgb * cover, cover);
}`;

/** A painter for a canvas: {load(map), paint(view, size, palette)}. `palette` has 256 times red, green, blue, alpha. */
export function makePainter(canvas) {
  const gl = hasGpu() && canvas.getContext("webgl2", { antialias: false, alpha: true, premultipliedAlpha: true });
  return gl ? glPainter(canvas, gl) : pixelPainter(canvas);
}

/** Whether WebGL runs on a GPU. Where a program plays one, the pixel painter is several times as fast. */
function hasGpu() {
  const gl = document.createElement("canvas").getContext("webgl2");
  const told = gl?.getExtension("WEBGL_debug_renderer_info");
  const renderer = gl ? String(gl.getParameter(told ? told.UNMASKED_RENDERER_WEBGL : gl.RENDERER)) : "";
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return gl !== null && !/swiftshader|llvmpipe|software|basic render/i.test(renderer);
}

function glPainter(canvas, gl) {
  let program, uniforms, count, loaded;

  function compile(kind, text) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    return shader;
  }

  function load(map) {
    loaded = map;
    program = gl.createProgram();
    gl.attachShader(program, compile(gl.VERTEX_SHADER, VERTEX));
    gl.attachShader(program, compile(gl.FRAGMENT_SHADER, FRAGMENT));
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    uniforms = Object.fromEntries(["middle", "step", "size", "palette"].map((name) => [name, gl.getUniformLocation(program, name)]));
    attribute("place", map.places, 2, gl.UNSIGNED_SHORT);
    attribute("colour", map.colours, 1, gl.UNSIGNED_BYTE);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    count = map.count;
  }

  function attribute(name, values, width, kind) {
    const place = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, width, kind, false, 0, 0);
  }

  function paint(view, size, palette) {
    if (gl.isContextLost()) return;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, palette);
    gl.uniform2f(uniforms.middle, view.x, view.y);
    gl.uniform2f(uniforms.step, (2 * view.scale) / canvas.width, (2 * view.scale) / canvas.height);
    gl.uniform1f(uniforms.size, size);
    gl.drawArrays(gl.POINTS, 0, count);
  }

  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => loaded && load(loaded));
  return { load, paint };
}

function pixelPainter(canvas) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let map, image, pixels;

  function paint(view, size, palette) {
    const { width, height } = canvas;
    if (image?.width !== width || image.height !== height) {
      image = context.createImageData(width, height);
      pixels = new Uint32Array(image.data.buffer);
    }
    pixels.fill(0);
    const shades = new Uint32Array(palette.buffer, palette.byteOffset, 256);
    const rows = discRows(size);
    const { places, colours, count } = map;
    const [left, top] = [(width - rows.length) / 2 - view.x * view.scale + 0.5, (height - rows.length) / 2 + view.y * view.scale + 0.5];
    for (let point = 0; point < count; point++) {
      const shade = shades[colours[point]];
      if (shade >>> 24 === 0) continue;
      const x = Math.floor(places[2 * point] * view.scale + left);
      const y = Math.floor(top - places[2 * point + 1] * view.scale);
      if (x < 0 || y < 0 || x + rows.length > width || y + rows.length > height) continue;
      for (let row = 0; row < rows.length; row++) {
        const start = (y + row) * width + x + rows[row];
        const end = (y + row) * width + x + rows.length - rows[row];
        for (let at = start; at < end; at++) pixels[at] = blend(pixels[at], shade);
      }
    }
    context.putImageData(image, 0, 0);
  }

  return { load: (loaded) => (map = loaded), paint };
}

/** How many pixels to leave out at both ends of each row of a disc. */
function discRows(size) {
  const side = Math.max(1, Math.round(size));
  return Array.from({ length: side }, (_, row) => {
    const up = row + 0.5 - side / 2;
    return side < 4 ? 0 : Math.round(side / 2 - Math.sqrt(Math.max(0, (side * side) / 4 - up * up)));
  });
}

/** A colour over another one, three to one; over nothing, the colour itself. */
function blend(below, shade) {
  if (below === 0) return shade;
  const redBlue = (((below & 0xff00ff) + 3 * (shade & 0xff00ff)) >>> 2) & 0xff00ff;
  const green = (((below & 0xff00) + 3 * (shade & 0xff00)) >>> 2) & 0xff00;
  return (0xff000000 | redBlue | green) >>> 0;
}

const FACE = "system-ui, 'Segoe UI', Roboto, sans-serif";
const FONTS = [`600 13px ${FACE}`, `500 11.5px ${FACE}`]; // of the largest regions, and of the others

/** Draws names and marks. Lengths are in pixels of the page. */
export function makePen(canvas) {
  const context = canvas.getContext("2d");
  let theme;

  function stroke(colour, width) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke();
  }

  return {
    begin(ratio, colours) {
      theme = colours;
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
    },
    widthOf(name, isLarge) {
      context.font = FONTS[isLarge ? 0 : 1];
      return context.measureText(name).width;
    },
    names(placed) {
      Object.assign(context, { textAlign: "center", textBaseline: "middle", lineJoin: "round" });
      Object.assign(context, { lineWidth: 3, strokeStyle: theme.paper, fillStyle: theme.ink });
      for (const { name, x, y, isLarge } of placed) {
        context.font = FONTS[isLarge ? 0 : 1];
        context.strokeText(name, x, y);
        context.fillText(name, x, y);
      }
    },
    ring(x, y, radius, colour, width) {
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      stroke(theme.paper, width + 3);
      stroke(colour, width);
    },
    dot(x, y) {
      context.beginPath();
      context.arc(x, y, 4, 0, 2 * Math.PI);
      stroke(theme.paper, 3);
      context.fillStyle = theme.ink;
      context.fill();
    },
    cross(x, y) {
      context.beginPath();
      context.moveTo(x - 14, y);
      context.lineTo(x + 14, y);
      context.moveTo(x, y - 14);
      context.lineTo(x, y + 14);
      stroke(theme.accent, 1.5);
    },
  };
}
