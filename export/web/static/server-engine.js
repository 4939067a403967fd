// The page's way to a prediction where a server answers it: the file is sent as it is.

const KEY = "keras_cifar token";
export const place = "on the server";
export const lead = "Images are classified by the server of this page and sent nowhere else.";
export const atOnce = 4;

// {models}; asks for the token where the server wants one.
export async function openModels(say, askForToken) {
  for (;;) {
    const answer = await asked("models");
    if (answer.status !== 401) return answer.found;
    const had = sessionStorage.getItem(KEY);
    if (had) say("That was not the token of this server.");
    sessionStorage.removeItem(KEY);
    const token = await askForToken();
    if (/^[\x21-\x7e]+$/.test(token)) sessionStorage.setItem(KEY, token);
    else say("Expected the token, which has letters, digits and signs of ASCII alone; enter it again.");
  }
}

// {label, unsure, classes, side, pixels, milliseconds}
export async function classify(model, file) {
  const address = `predict?pixels=1&top_k=5&model=${encodeURIComponent(model.name)}`;
  const { status, found } = await asked(address, { method: "POST", body: file });
  if (status === 401) throw new Error(found.error);
  return { ...found, pixels: Uint8Array.from(atob(found.pixels), (letter) => letter.charCodeAt(0)) };
}

// {status, found}: what the server answers as JSON; an error is its sentence, or one with the status of whatever is between.
async function asked(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, { ...options, headers: headers() });
  } catch {
    throw new Error("Expected an answer, but the server cannot be reached; start it and try again.");
  }
  const found = await answer.json().catch(() => null);
  if (answer.status === 401 && found) return { status: 401, found };
  if (answer.ok && found) return { status: answer.status, found };
  throw new Error(found?.error ?? `Expected an answer of the server, but got status ${answer.status}; try again, or a smaller image.`);
}

function headers() {
  const token = sessionStorage.getItem(KEY);
  return { "content-type": "application/octet-stream", ...(token && { authorization: `Bearer ${token}` }) };
}
