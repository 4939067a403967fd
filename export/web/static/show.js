// What a prediction looks like: a card with the picture, the square that the model sees, the label and its bars.

function element(kind, name, text, parent) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

// A card that waits for its prediction.
export function makeCard(file, name) {
  const card = element("li", "card waiting");
  const pictures = element("div", "pictures", undefined, card);
  const picture = element("img", "picture", undefined, element("figure", "", undefined, pictures));
  picture.alt = `your image ${name}`;
  picture.src = URL.createObjectURL(file);
  picture.addEventListener("load", () => URL.revokeObjectURL(picture.src), { once: true });
  picture.addEventListener("error", () => picture.parentElement.remove()); // of a kind that only the server can read
  const about = element("div", "about", undefined, card);
  element("p", "file", name, about);
  element("p", "label", "…", about);
  return card;
}

export function showPrediction(card, found, place) {
  card.classList.remove("waiting");
  card.classList.toggle("unsure", found.unsure);
  const about = card.querySelector(".about");
  const label = about.querySelector(".label");
  label.textContent = found.label;
  if (found.unsure) element("span", "badge", "unsure", label).title = "below the threshold under which it may be none of these";
  const seen = element("figure", "", undefined, card.querySelector(".pictures"));
  const canvas = element("canvas", "seen", undefined, seen);
  paint(canvas, found.pixels, found.side);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `the ${found.side} by ${found.side} pixels that the model sees`);
  element("figcaption", "", `what the model sees, ${found.side} px`, seen);
  const bars = element("dl", "bars", undefined, about);
  for (const { name, probability } of found.classes) {
    element("dt", "", name, bars);
    const row = element("dd", "", undefined, bars);
    const bar = element("div", "bar", undefined, row);
    element("div", "fill", undefined, bar).style.width = `${Math.max(100 * probability, 0.4)}%`;
    element("span", "percent", percent(probability), row);
  }
  const times = `${found.milliseconds.toFixed(0)} ms ${place}`;
  element("p", "times", found.total ? `${times}, ${found.total.toFixed(0)} ms in all` : times, about);
}

export function showError(card, sentence) {
  card.classList.remove("waiting");
  card.classList.add("failed");
  card.querySelector(".label").textContent = "no prediction";
  element("p", "sentence", sentence, card.querySelector(".about"));
}

export function percent(probability) {
  if (probability > 0.9995) return "> 99.9 %";
  return probability < 0.0005 ? "< 0.1 %" : `${(100 * probability).toFixed(1)} %`;
}

function paint(canvas, pixels, side) {
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    image.data.set(pixels.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
