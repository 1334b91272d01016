"use strict";
// What pages do beyond the browser's own and htmx: times in the reader's zone, the state of the live connection, forms in regions
// that came over it, files dropped on a field, copying. Without this script every page reads and every form works.

const language = document.documentElement.lang;
const zoned = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });

function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const words = zoned.format(new Date(time.dateTime));
    if ("ago" in time.dataset) time.title = words;
    else time.textContent = words;
  }
}

function selectionCount() {
  for (const form of document.querySelectorAll("form[data-selection]")) {
    const count = document.querySelectorAll(`input[form="${form.id}"][name="id"]:checked`).length;
    for (const button of document.querySelectorAll(`button[form="${form.id}"][data-needs-selection]`)) button.disabled = !count;
    for (const place of document.querySelectorAll(`[data-selected="${form.id}"]`)) place.textContent = String(count);
  }
}

function ready(root) {
  localTimes(root);
  selectionCount();
  for (const button of root.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
}

// The connection of the live region: never silently old.
const state = document.getElementById("live-state");
function show(kind) {
  if (!state) return;
  state.hidden = false;
  if (state.dataset.shown === kind) return;
  state.dataset.shown = kind;
  state.className = `live-state ${kind}`;
  state.textContent = state.dataset[kind];
}

document.addEventListener("htmx:sseOpen", () => show("live"));
document.addEventListener("htmx:sseError", () => show("lost"));
document.addEventListener("htmx:sseClose", (event) => {
  if (event.detail?.type === "message" && state) state.hidden = true;
});

const lastSeen = new WeakMap();
document.addEventListener("htmx:sseBeforeMessage", (event) => {
  const message = event.detail;
  if (message.type === "stale") {
    show("stale");
    event.preventDefault();
    return;
  }
  show("live");
  // A connection that is opened anew begins at the beginning: what is here already is passed over.
  const id = Number(message.lastEventId);
  if (message.lastEventId && id <= (lastSeen.get(event.target) ?? Number(event.target.dataset?.after ?? 0))) event.preventDefault();
  else if (message.lastEventId) lastSeen.set(event.target, id);
});
document.addEventListener("htmx:sseMessage", (event) => ready(event.target));

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || form.elements.form_token) return;
  const token = document.createElement("input");
  Object.assign(token, { type: "hidden", name: "form_token", value: document.querySelector('meta[name="form-token"]').content });
  form.append(token);
});

document.addEventListener("change", (event) => {
  const box = event.target;
  if (box.dataset?.selectAll) {
    for (const each of document.querySelectorAll(`input[form="${box.dataset.selectAll}"][name="id"]`)) each.checked = box.checked;
  }
  if (box.type === "checkbox") selectionCount();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  await navigator.clipboard.writeText(source.value ?? source.textContent);
  const words = button.textContent;
  button.textContent = button.dataset.copied;
  setTimeout(() => { button.textContent = words; }, 1500);
});

for (const area of document.querySelectorAll("textarea[data-drop]")) {
  const over = (on) => (event) => { event.preventDefault(); area.classList.toggle("dropping", on); };
  area.addEventListener("dragover", over(true));
  area.addEventListener("dragleave", over(false));
  area.addEventListener("drop", async (event) => {
    over(false)(event);
    const file = event.dataTransfer.files[0];
    area.value = file ? await file.text() : event.dataTransfer.getData("text");
    area.dispatchEvent(new Event("input", { bubbles: true }));
  });
}

// Times that are typed are those of the reader's clock; without this script they are UTC.
for (const field of document.querySelectorAll("input[data-zone]")) {
  field.value = zoned.resolvedOptions().timeZone;
  for (const place of field.form.querySelectorAll("[data-zone-name]")) place.textContent = field.value;
}

// A notice belongs to the moment: reloading the page does not repeat it.
if (document.querySelector("[data-notice]")) {
  const address = new URL(location.href);
  address.searchParams.delete("notice");
  history.replaceState(null, "", address);
}
ready(document);
