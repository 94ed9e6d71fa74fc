"use strict";

const element = (id) => document.getElementById(id);
const conversation = [];
let running = null; // the AbortController of the answer that is being written

function settings() {
  const values = {
    stream: true,
    stream_options: { include_usage: true },
    temperature: Number(element("temperature").value),
    top_p: Number(element("top-p").value),
    max_tokens: Number(element("max-tokens").value),
  };
  if (element("seed").value !== "") values.seed = Number(element("seed").value);
  return values;
}

function headers() {
  const key = element("key").value;
  const common = { "content-type": "application/json" };
  return key ? { ...common, authorization: `Bearer ${key}` } : common;
}

// Calls use(event) for each event of the stream, until it ends or is stopped.
async function stream(path, body, use) {
  running = new AbortController();
  setBusy(true);
  const started = performance.now();
  let usage = null;
  try {
    const response = await fetch(path, {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") continue;
        const values = JSON.parse(data);
        if (values.error) throw new Error(values.error.message);
        usage = values.usage || usage;
        if (values.choices.length) use(values.choices[0]);
      }
    }
    const seconds = (performance.now() - started) / 1000;
    const count = usage ? usage.completion_tokens : 0;
    say(`${count} tokens in ${seconds.toFixed(1)} s`);
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped." : `Error: ${error.message}`);
    if (error.name !== "AbortError") throw error;
  } finally {
    running = null;
    setBusy(false);
  }
}

function say(text) {
  element("status").textContent = text;
}

function setBusy(busy) {
  element("stop").disabled = !busy;
  for (const id of ["send", "continue", "clear"]) element(id).disabled = busy;
  if (busy) say("Writing …");
}

function show(role, text) {
  const item = document.createElement("li");
  item.className = role;
  item.textContent = text;
  element("messages").append(item);
  item.scrollIntoView({ block: "nearest" });
  return item;
}

async function chat(event) {
  event.preventDefault();
  const content = element("message").value.trim();
  if (!content || running) return;
  element("message").value = "";
  const asked = show("user", content);
  conversation.push({ role: "user", content });
  const system = element("system").value.trim();
  const messages = system ? [{ role: "system", content: system }, ...conversation] : conversation;
  const item = show("assistant", "");
  try {
    await stream("/v1/chat/completions", { ...settings(), messages }, (choice) => {
      item.textContent += choice.delta.content || "";
      item.scrollIntoView({ block: "nearest" });
    });
    conversation.push({ role: "assistant", content: item.textContent });
  } catch {
    conversation.pop();
    asked.remove();
    item.remove();
    element("message").value = content;
  }
  element("message").focus();
}

async function complete(event) {
  event.preventDefault();
  if (running) return;
  const area = element("text");
  const body = { ...settings(), prompt: area.value };
  try {
    await stream("/v1/completions", body, (choice) => {
      area.value += choice.text;
      area.scrollTop = area.scrollHeight;
    });
  } catch { /* the status line says what happened */ }
  area.focus();
}

function select(name) {
  for (const each of ["chat", "complete"]) {
    const chosen = each === name;
    element(each).hidden = !chosen;
    element(`tab-${each}`).setAttribute("aria-selected", String(chosen));
    element(`tab-${each}`).tabIndex = chosen ? 0 : -1;
  }
}

for (const name of ["chat", "complete"]) {
  const tab = element(`tab-${name}`);
  tab.addEventListener("click", () => select(name));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = name === "chat" ? "complete" : "chat";
    select(other);
    element(`tab-${other}`).focus();
  });
}
element("say").addEventListener("submit", chat);
element("write").addEventListener("submit", complete);
element("stop").addEventListener("click", () => running && running.abort());
element("clear").addEventListener("click", () => {
  conversation.length = 0;
  element("messages").replaceChildren();
  element("message").focus();
});
element("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) element("say").requestSubmit();
  if (event.key === "Enter" && !event.shiftKey) event.preventDefault();
});
element("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element("write").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
});
fetch("/v1/models", { headers: headers() })
  .then((response) => response.ok && response.json())
  .then((models) => { if (models) element("name").textContent = models.data[0].id; })
  .catch(() => {});
