// The page: images come in by file, drop, paste or camera, and each gets a card.

import { atOnce, classify, lead, openModels, place } from "./engine.js";
import { makeCard, percent, showError, showPrediction } from "./show.js";

const MOST_CARDS = 200;
const find = (id) => document.getElementById(id);
const cards = find("cards");
let models = [];
let count = 0;
const waiting = [];
let running = 0;

function say(text) {
  find("status").textContent = text;
}

function add(files) {
  const all = [...files];
  const images = all.slice(0, MOST_CARDS);
  if (all.length > MOST_CARDS) say(`The first ${MOST_CARDS} of ${all.length} images are taken; add the others afterwards.`);
  for (const file of images) {
    const name = file.name || `image ${(count += 1)}`;
    const card = makeCard(file, name);
    cards.prepend(card);
    waiting.push({ card, file, name, model: models[find("model").selectedIndex] });
  }
  while (cards.children.length > MOST_CARDS) cards.lastElementChild.remove();
  forget();
  find("clear").hidden = !cards.children.length;
  work();
}

// What nobody sees any more is not computed.
function forget() {
  const left = waiting.filter((one) => one.card.isConnected);
  waiting.splice(0, waiting.length, ...left);
}

async function work() {
  while (running < atOnce && waiting.length) {
    running += 1;
    answer(waiting.shift()).finally(() => {
      running -= 1;
      work();
    });
  }
}

async function answer({ card, file, name, model }) {
  const started = performance.now();
  try {
    const found = await classify(model, file, say);
    if (atOnce > 1) found.total = performance.now() - started;
    showPrediction(card, found, place);
    say(`${name}: ${found.label}, ${percent(found.classes[0].probability)}${found.unsure ? ", unsure" : ""}`);
  } catch (error) {
    showError(card, error.message);
    say(`${name}: ${error.message}`);
  }
}

function showModel() {
  const model = models[find("model").selectedIndex];
  const shapes = { crop: "cut to the square in their middle", pad: "padded to a square", squash: "squashed to a square" };
  const views = { plain: "one look at each image", tta: "each image and its mirror image", selective: "a second look, at the mirror image, where the first is doubtful" };
  const threshold = model.threshold === null ? "" : ` Below ${(100 * model.threshold).toFixed(0)} % it is unsure: it may be none of these.`;
  const kind = [model.backbone, model.level ? `level ${model.level}` : "", model.precision].filter(Boolean).join(", ");
  find("about").textContent = `${kind}; trained on ${model.data}. Images are ${shapes[model.resize]}, ${model.side} px; ${views[model.view]}.${threshold}`;
  find("classes").replaceChildren(...model.classes.map((name) => {
    const item = document.createElement("li");
    item.textContent = name;
    return item;
  }));
}

function filesOf(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.length ? files : [...(transfer?.items ?? [])].map((item) => item.getAsFile?.()).filter(Boolean);
}

function listen() {
  find("files").addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = "";
  });
  find("shot").addEventListener("change", (event) => add(event.target.files));
  find("model").addEventListener("change", showModel);
  find("clear").addEventListener("click", () => {
    cards.replaceChildren();
    forget();
    find("clear").hidden = true;
    find("files").focus();
  });
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    add(filesOf(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if (files.length) add(files);
    else if (event.target.tagName !== "INPUT") say("The clipboard holds no image; copy one and paste again.");
  });
  find("camera").addEventListener("click", openCamera);
  find("take").addEventListener("click", takePicture);
  find("viewer").addEventListener("close", closeCamera);
}

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) return find("shot").click(); // plain HTTP: the phone's own camera
  try {
    find("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return say("No camera can be used; allow it for this page, or choose a file.");
  }
  find("viewer").showModal();
  find("take").focus();
}

function takePicture() {
  const video = find("video");
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => blob && add([new File([blob], `camera ${(count += 1)}`, { type: "image/png" })]));
  find("viewer").close();
}

function closeCamera() {
  for (const track of find("video").srcObject?.getTracks() ?? []) track.stop();
  find("video").srcObject = null;
}

function askForToken() {
  const dialog = find("token");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(find("secret").value.trim()), { once: true });
  });
}

async function start() {
  try {
    ({ models } = await openModels(say, askForToken));
  } catch (error) {
    return say(error.message);
  }
  const select = find("model");
  select.replaceChildren(...models.map((model) => new Option(model.name)));
  select.disabled = models.length < 2;
  find("lead").textContent = lead;
  showModel();
  listen();
  find("files").disabled = find("camera").disabled = false;
  document.body.classList.add("ready");
}

start();
