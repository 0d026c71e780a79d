"use strict";
// Talks to /v1/chat/completions of the server that this page comes from. A file is sent once; a
// conversation keeps its messages here, and its key lets the server continue from what it has read.

import * as player from "./player.js";

const byId = (id) => document.getElementById(id);
const MIB = 1 << 20;
let facts = { max_file_bytes: Infinity, samples: [] };
let shown = null; // {kind, file, url}: what questions are about; url names the upload
let talks = {}; // how it is shown -> {key, messages, saw}
let running = null; // AbortController of the answers that are being written
let preparing = null; // AbortController of the reading of a video
let ready = Promise.resolve(); // settles when the video is read, or cannot be

function headers(more = {}) {
  const key = byId("key").value;
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `the server answered ${response.status}`);
}

async function post(path, body, signal) {
  const response = await fetch(path, {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw await failure(response);
  return response;
}

// Yields the texts between separators of a response, while it comes.
async function* pieces(response, separator) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const found = (rest + value).split(separator);
    rest = found.pop();
    yield* found;
  }
}

function tell(text, { part = null, failed = false } = {}) {
  byId("told").textContent = text;
  byId("state").classList.toggle("failed", failed);
  byId("progress").hidden = part === null;
  if (Number.isFinite(part)) byId("progress").value = part;
  else byId("progress").removeAttribute("value");
}

function element(parent, name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  parent.append(made);
  return made;
}

// --- What is shown -------------------------------------------------------------------------------

function upload(file, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/page/files");
    const all = headers({ "Content-Type": "application/octet-stream" });
    for (const [name, value] of Object.entries(all)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      const part = event.loaded / event.total;
      tell(`sending ${Math.round(100 * part)} %`, { part });
    };
    request.onload = () => {
      let body = {};
      try { body = JSON.parse(request.responseText); } catch { /* no answer of the server */ }
      if (body.url) resolve(body.url);
      else reject(new Error(body.error?.message ?? `the server answered ${request.status}`));
    };
    request.onerror = () => reject(new Error("the server cannot be reached"));
    signal.onabort = () => {
      request.abort();
      reject(new DOMException("", "AbortError"));
    };
    request.send(file);
  });
}

function chosenInputs() {
  const chosen = byId("input").value;
  if (shown?.kind !== "video") return ["codec"];
  return chosen === "both" ? ["codec", "frames"] : [chosen];
}

function part(input) {
  if (!shown.url) throw new Error(`the file could not be sent: ${byId("told").textContent}`);
  if (shown.kind === "image") return { type: "image_url", image_url: { url: shown.url } };
  const settings = { input, num_images: Number(byId("images").value) };
  return { type: "video_url", video_url: { url: shown.url, ...settings } };
}

async function describe(input, signal) {
  const begun = Date.now();
  let seen = "waiting to be read";
  const clock = setInterval(() => {
    const seconds = Math.round((Date.now() - begun) / 1000);
    if (seconds) tell(`${input}: ${seen}, ${seconds} s`, { part: byId("progress").value || NaN });
  }, 1000);
  try {
    tell(`${input}: ${seen}`, { part: NaN });
    const response = await post("/page/shown", part(input), signal);
    for await (const text of pieces(response, "\n")) {
      const line = JSON.parse(text);
      if (line.error) throw new Error(line.error.message);
      if (line.slots) return line;
      seen = line.done < line.wanted ? `${line.done} of ${line.wanted} frames read`
        : "choosing and packing patches";
      tell(`${input}: ${seen}`, { part: line.done / line.wanted });
    }
    throw new Error("the server ended before the video was read");
  } finally {
    clearInterval(clock);
  }
}

// Sends the file if that was not done, and has the server read it in the form that is chosen.
async function prepareNow(what, signal) {
  try {
    what.url ??= await upload(what.file, signal);
    if (what.kind !== "video") {
      tell("");
      return;
    }
    player.show(null);
    const found = [];
    for (const input of chosenInputs()) {
      const described = await describe(input, signal);
      if (!found.length) player.show(described);
      found.push(`${input}: ${described.visual_tokens} visual tokens, read in `
        + `${described.took.toFixed(1)} s`);
    }
    tell(found.join("; "));
  } catch (error) {
    if (error.name !== "AbortError") tell(error.message, { failed: true });
  }
}

function prepare() {
  preparing?.abort();
  preparing = new AbortController();
  if (shown && byId("images").checkValidity()) ready = prepareNow(shown, preparing.signal);
}

function show(file, kind = file.type.startsWith("image/") ? "image" : "video") {
  if (file.size > facts.max_file_bytes) {
    const most = Math.floor(facts.max_file_bytes / MIB);
    tell(`the file has ${Math.ceil(file.size / MIB)} MiB, and ${most} MiB are allowed`, { failed: true });
    return;
  }
  shown = { kind, file, url: null };
  byId("picture").hidden = kind === "video";
  const local = URL.createObjectURL(file);
  player.load(kind === "video" ? local : null);
  if (kind !== "video") byId("picture").src = local;
  startOver();
  prepare();
}

async function showAddress(address) {
  try {
    tell("the server downloads the file ...", { part: NaN });
    const { url } = await (await post("/page/fetch", { url: address })).json();
    const response = await fetch(`/page/files/${url.split(":")[1]}`, { headers: headers() });
    if (!response.ok) throw await failure(response);
    const file = await response.blob();
    const isPicture = await createImageBitmap(file).then(() => true, () => false);
    show(file, isPicture ? "image" : "video");
  } catch (error) {
    tell(error.message, { failed: true });
  }
}

async function showSample(name) {
  const response = await fetch(`/page/samples/${name}`);
  if (response.ok) show(await response.blob());
  else tell((await failure(response)).message, { failed: true });
}

// --- Questions and answers -----------------------------------------------------------------------

function talkOf(input) {
  const name = `${input} ${byId("images").value}`;
  talks[name] ??= { key: `${Date.now()}-${Math.random()}`, messages: [], saw: null };
  return talks[name];
}

function startOver() {
  running?.abort();
  talks = {};
  byId("talk").replaceChildren();
}

// Times such as "<12.3 seconds>", "12.3 s" or "1:05" become buttons that seek the video.
function linkTimes(paragraph, text) {
  const pattern = /<(\d+(?:\.\d+)?) seconds>|\b(?:(\d+):)?(\d{1,3}):(\d\d(?:\.\d+)?)\b|\b(\d+(?:\.\d+)?) ?s(?:ec(?:ond)?s?)?\b/g;
  let end = 0;
  paragraph.replaceChildren();
  for (const match of text.matchAll(pattern)) {
    const [, marked, hours, minutes, rest, plain] = match;
    const seconds = Number(marked ?? plain ?? 3600 * (hours ?? 0) + 60 * minutes + Number(rest));
    if (shown?.kind !== "video" || !player.isPlayable() || seconds > player.length()) continue;
    paragraph.append(text.slice(end, match.index));
    const button = element(paragraph, "button", "time", match[0]);
    button.type = "button";
    button.title = `show the video at ${player.clock(seconds)}`;
    button.onclick = () => player.seek(seconds);
    end = match.index + match[0].length;
  }
  paragraph.append(text.slice(end));
}

function took(usage) {
  const details = usage.prompt_tokens_details;
  const steps = Object.entries(usage.seconds).map(([name, value]) => `${name} ${value.toFixed(2)} s`);
  return `${usage.prompt_tokens} tokens read (${details.visual_tokens} visual, `
    + `${details.cached_tokens} kept), ${usage.completion_tokens} written; ${steps.join(", ")}`;
}

// Yields the events of an answer; {ahead} while other questions are answered first.
async function* events(response) {
  for await (const text of pieces(response, "\n\n")) {
    if (text.startsWith(": waiting ")) yield { ahead: Number(text.slice(10)) };
    if (text.startsWith("data: ") && text !== "data: [DONE]") yield JSON.parse(text.slice(6));
  }
}

// Asks; where the server has let go of the file, sends it again and asks once more.
async function request(talk, messages, signal) {
  const ask = (all) => post("/v1/chat/completions", {
    messages: all, stream: true, stream_options: { include_usage: true }, prompt_cache_key: talk.key,
  }, signal);
  try {
    return await ask(messages);
  } catch (error) {
    if (!shown?.url || !error.message.startsWith("the upload is not here")) throw error;
    const old = shown.url;
    shown.url = await upload(shown.file, signal);
    tell("");
    for (const { content } of [...messages, ...Object.values(talks).flatMap((one) => one.messages)]) {
      for (const { video_url: video, image_url: image } of Array.isArray(content) ? content : []) {
        if ((video ?? image)?.url === old) (video ?? image).url = shown.url;
      }
    }
    return ask(messages);
  }
}

async function answer(question, input, box, signal) {
  const talk = talkOf(input), about = shown;
  const content = [{ type: "text", text: question }];
  const messages = [...talk.messages, { role: "user", content }];
  const paragraph = element(box, "p", "text");
  const note = element(box, "div", "took", "");
  const begun = Date.now();
  let state = "reading and encoding", text = "";
  const update = () => {
    if (!text) note.textContent = `${state} ... ${Math.round((Date.now() - begun) / 1000)} s`;
  };
  const clock = setInterval(update, 500);
  update();
  try {
    if (about && talk.saw !== about) content.unshift(part(input));
    const response = await request(talk, messages, signal);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.ahead !== undefined) {
        state = !event.ahead ? "reading and encoding"
          : `in the queue: ${event.ahead} ${event.ahead === 1 ? "question" : "questions"} before this one`;
        update();
        continue;
      }
      text += event.choices[0]?.delta.content ?? "";
      if (text) {
        note.textContent = "";
        paragraph.textContent = text;
      }
      if (event.usage) {
        clearInterval(clock);
        note.textContent = took(event.usage);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      box.classList.add("failed");
      note.textContent = error.message;
      if (!byId("question").value) byId("question").value = question;
      return;
    }
    note.textContent = "stopped";
  } finally {
    clearInterval(clock);
  }
  linkTimes(paragraph, text);
  talk.saw = about;
  talk.messages = [...messages, { role: "assistant", content: text }];
}

function busy(isBusy) {
  byId("ask").disabled = isBusy;
  byId("stop").disabled = !isBusy;
}

async function ask(question) {
  const mine = running = new AbortController();
  const { signal } = mine;
  busy(true);
  element(byId("talk"), "p", "asked", question);
  const row = element(byId("talk"), "div", "answers");
  const inputs = chosenInputs();
  const boxes = inputs.map(() => element(row, "article", "answer"));
  if (shown) {
    const waits = boxes.map((box) => element(box, "div", "took", "waiting for the video ..."));
    await Promise.race([ready, new Promise((resolve) => { signal.onabort = resolve; })]);
    waits.forEach((wait) => wait.remove());
  }
  await Promise.all(boxes.map((box, number) => {
    if (inputs.length > 1) element(box, "strong", "", inputs[number]);
    return answer(question, inputs[number], box, signal);
  }));
  if (running !== mine) return;
  running = null;
  busy(false);
  byId("question").focus();
}

// --- Controls ------------------------------------------------------------------------------------

byId("file").onchange = (event) => event.target.files[0] && show(event.target.files[0]);
byId("drop").ondragover = (event) => { event.preventDefault(); byId("drop").classList.add("over"); };
byId("drop").ondragleave = () => byId("drop").classList.remove("over");
byId("drop").ondrop = (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
};
byId("address").onsubmit = (event) => {
  event.preventDefault();
  showAddress(byId("url").value);
};
byId("input").onchange = prepare;
let typing = 0;
byId("images").oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(prepare, 400);
};
byId("stop").onclick = () => running?.abort();
byId("new").onclick = startOver;
byId("picture").onerror = () => (byId("picture").hidden = true);
document.onkeydown = (event) => event.key === "Escape" && running?.abort();
byId("question").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    byId("form").requestSubmit();
  }
};
byId("form").onsubmit = (event) => {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question || running) return;
  byId("question").value = "";
  ask(question);
};
byId("access").onsubmit = (event) => event.preventDefault();
fetch("/page/facts").then((reply) => reply.json()).then((told) => {
  facts = told;
  byId("model").textContent = facts.model;
  byId("address").hidden = !facts.allows_urls;
  byId("access").hidden = !facts.needs_key;
  byId("images").max = facts.max_images;
  for (const { name, title } of facts.samples) {
    const button = element(byId("samples"), "button", "sample", title);
    button.type = "button";
    button.onclick = () => showSample(name);
  }
});
