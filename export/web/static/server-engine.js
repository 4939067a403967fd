// The page's way to a prediction where a server answers it: the file is sent as it is.

const KEY = "keras_cifar token";
export const place = "on the server";
export const lead = "Images are classified by the server of this page and sent nowhere else.";
export const atOnce = 4;

// {models}; asks for the token where the server wants one.
export async function openModels(say, askForToken) {
  for (;;) {
    const answer = await fetch("models", { headers: headers() });
    if (answer.ok) return await answer.json();
    if (answer.status !== 401) throw new Error((await answer.json()).error);
    sessionStorage.setItem(KEY, await askForToken());
  }
}

// {label, unsure, classes, side, pixels, milliseconds}
export async function classify(model, file) {
  const address = `predict?pixels=1&top_k=5&model=${encodeURIComponent(model.name)}`;
  let answer;
  try {
    answer = await fetch(address, { method: "POST", body: file, headers: headers() });
  } catch {
    throw new Error("Expected an answer, but the server cannot be reached; start it and try again.");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return { ...found, pixels: Uint8Array.from(atob(found.pixels), (letter) => letter.charCodeAt(0)) };
}

function headers() {
  const token = sessionStorage.getItem(KEY);
  return { "content-type": "application/octet-stream", ...(token && { authorization: `Bearer ${token}` }) };
}
