// The page's way to a prediction without a server: onnxruntime-web in this browser. No image leaves the machine.

import { decodeImage, fitSquare } from "./pixels.js";

export const place = "in this browser";
export const lead = "Images are classified in this browser and never leave this device.";
export const atOnce = 1;
const opened = new Map(); // name of a model -> promise of its session
let runtime;

export async function openModels(say) {
  return JSON.parse(new TextDecoder().decode(await asset("models.json")));
}

// {label, unsure, classes, side, pixels, milliseconds}
export async function classify(model, file, say) {
  const session = await openSession(model, say);
  let image;
  try {
    image = await decodeImage(file);
  } catch {
    throw new Error("Expected an image, but this browser cannot read it; use another file.");
  }
  const pixels = fitSquare(image, model.side, model.resize);
  const started = performance.now();
  const probabilities = await predict(session, model, pixels);
  const milliseconds = performance.now() - started;
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const classes = order.slice(0, 5).map((i) => ({ name: model.classes[i], probability: probabilities[i] }));
  const unsure = model.threshold !== null && probabilities[order[0]] < model.threshold;
  return { label: classes[0].name, unsure, classes, side: model.side, pixels, milliseconds };
}

// Probabilities; with a second view, of the mirror image, where the first is doubtful and the file is made for that.
async function predict(session, model, pixels) {
  const first = await run(session, model, pixels);
  if (model.selective === null) return first.probabilities;
  const doubtful = Math.max(...softmax(first.logits, model.temperature)) < model.selective;
  if (!doubtful) return softmax(first.logits, model.temperature);
  const second = await run(session, model, mirrored(pixels, model.side));
  return softmax(first.logits.map((value, i) => (value + second.logits[i]) / 2), model.temperature);
}

async function run(session, model, pixels) {
  const images = new runtime.Tensor("uint8", pixels, [1, model.side, model.side, 3]);
  const found = await session.run({ images });
  return { logits: Array.from(found.logits.data), probabilities: Array.from(found.probabilities.data) };
}

function mirrored(pixels, side) {
  const found = new Uint8Array(pixels.length);
  for (let i = 0; i < side * side; i++) {
    const from = 3 * (i - (i % side) + side - 1 - (i % side));
    found.set(pixels.subarray(from, from + 3), 3 * i);
  }
  return found;
}

function softmax(logits, temperature) {
  const most = Math.max(...logits);
  const values = logits.map((value) => Math.exp((value - most) / temperature));
  const sum = values.reduce((a, b) => a + b, 0);
  return values.map((value) => value / sum);
}

function openSession(model, say) {
  if (!opened.has(model.name)) {
    const session = startSession(model, say);
    session.catch(() => opened.delete(model.name)); // another try loads it again
    opened.set(model.name, session);
  }
  return opened.get(model.name);
}

async function startSession(model, say) {
  say(`Loading the model, ${(model.bytes / 1e6).toFixed(1)} MB, and what runs it`);
  if (!runtime) {
    const script = new Blob([await asset("ort/ort.wasm.bundle.min.mjs")], { type: "text/javascript" });
    const address = URL.createObjectURL(script);
    const loaded = await import(address);
    URL.revokeObjectURL(address);
    loaded.env.wasm.numThreads = 1; // more need headers that few static hosts send
    loaded.env.wasm.wasmBinary = await asset("ort/ort-wasm-simd-threaded.wasm");
    loaded.env.logLevel = "error";
    runtime = loaded;
  }
  const session = await runtime.InferenceSession.create(new Uint8Array(await asset(model.file)));
  say("");
  return session;
}

// The content of a file next to the page; of a page that is one file, from within it.
async function asset(name) {
  const inside = document.getElementById(name);
  if (inside) {
    const packed = Uint8Array.from(atob(inside.textContent.trim()), (letter) => letter.charCodeAt(0));
    return await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  }
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`Expected ${name} next to this page, but it is missing; make the folder again.`);
  return await answer.arrayBuffer();
}
