"use strict";
// Talks to /v1/chat/completions of the server that this page comes from. A conversation keeps its
// messages here; its key lets the server continue from what it has read.

const byId = (id) => document.getElementById(id);
const kinds = { codec: "codec", frames: "frames" };
let shown = null; // {kind, url}: the file, as a data: URL
let talks = {}; // input -> {key, messages}
let running = null; // AbortController of the answers that are being written

function talkOf(input) {
  talks[input] ??= { key: `${Date.now()}-${Math.random()}`, messages: [], saw: null };
  return talks[input];
}

function startOver() {
  running?.abort();
  talks = {};
  byId("talk").replaceChildren();
}

function show(file) {
  const reader = new FileReader();
  reader.onload = () => {
    const isVideo = !file.type.startsWith("image/");
    shown = { kind: isVideo ? "video" : "image", url: reader.result };
    if (!reader.result.includes(";base64,")) shown.url = "data:application/octet-stream;base64,";
    const local = URL.createObjectURL(file);
    byId("video").hidden = !isVideo;
    byId("picture").hidden = isVideo;
    byId(isVideo ? "video" : "picture").src = local;
    startOver();
  };
  reader.readAsDataURL(file);
}

function part(input) {
  if (shown.kind === "image") return { type: "image_url", image_url: { url: shown.url } };
  const settings = { input, num_images: Number(byId("images").value) };
  return { type: "video_url", video_url: { url: shown.url, ...settings } };
}

function element(parent, name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  parent.append(made);
  return made;
}

// Times such as "12.3 s" or "1:05" become buttons that seek the video.
function linkTimes(paragraph, text) {
  const pattern = /(\d+):(\d\d)\b|(\d+(?:\.\d+)?) ?s(?:econds?)?\b/g;
  let end = 0;
  paragraph.replaceChildren();
  for (const match of text.matchAll(pattern)) {
    paragraph.append(text.slice(end, match.index));
    const seconds = match[3] ? Number(match[3]) : 60 * Number(match[1]) + Number(match[2]);
    const button = element(paragraph, "button", "time", match[0]);
    button.type = "button";
    button.onclick = () => { byId("video").currentTime = seconds; };
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

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

async function answer(question, input, box, signal) {
  const talk = talkOf(input);
  const content = [{ type: "text", text: question }];
  if (shown && talk.saw !== shown) content.unshift(part(input));
  const messages = [...talk.messages, { role: "user", content }];
  const paragraph = element(box, "p", "text");
  const note = element(box, "div", "took", "reading and encoding ...");
  const begun = Date.now();
  const clock = setInterval(() => {
    note.textContent = `reading and encoding ... ${Math.round((Date.now() - begun) / 1000)} s`;
  }, 500);
  let text = "";
  try {
    const body = {
      messages, stream: true, stream_options: { include_usage: true }, prompt_cache_key: talk.key,
    };
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      text += event.choices[0]?.delta.content ?? "";
      if (text) {
        clearInterval(clock);
        note.textContent = "";
        paragraph.textContent = text;
      }
      if (event.usage) note.textContent = took(event.usage);
    }
    clearInterval(clock);
    if (note.textContent.startsWith("reading")) note.textContent = "";
  } catch (error) {
    clearInterval(clock);
    if (error.name !== "AbortError") {
      box.classList.add("failed");
      note.textContent = error.message;
      return;
    }
    note.textContent = "stopped";
  }
  linkTimes(paragraph, text);
  talk.saw = shown;
  talk.messages = [...messages, { role: "assistant", content: text }];
}

async function ask(question) {
  running = new AbortController();
  byId("ask").disabled = true;
  byId("stop").disabled = false;
  element(byId("talk"), "p", "asked", question);
  const row = element(byId("talk"), "div", "answers");
  const chosen = byId("input").value;
  const inputs = chosen === "both" && shown?.kind === "video" ? Object.keys(kinds) : [
    kinds[chosen] ?? "codec",
  ];
  await Promise.all(inputs.map((input) => {
    const box = element(row, "article", "answer");
    if (inputs.length > 1) element(box, "strong", "", input);
    return answer(question, input, box, running.signal);
  }));
  running = null;
  byId("ask").disabled = false;
  byId("stop").disabled = true;
  byId("question").focus();
}

byId("file").onchange = (event) => event.target.files[0] && show(event.target.files[0]);
byId("stop").onclick = () => running?.abort();
byId("new").onclick = startOver;
byId("drop").ondragover = (event) => { event.preventDefault(); byId("drop").classList.add("over"); };
byId("drop").ondragleave = () => byId("drop").classList.remove("over");
byId("drop").ondrop = (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
};
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
fetch("/v1/models").then((reply) => reply.json()).then((models) => {
  byId("model").textContent = models.data[0].id;
});
