"use strict";
// What pages do beyond the browser's own and htmx: times in the reader's zone, the state of the live connection, forms in regions
// that came over it, files dropped on a field, copying. Without this script every page reads and every form works.

const language = document.documentElement.lang;
// By this the server knows when today began here.
document.cookie = `bloom_zone=${Intl.DateTimeFormat().resolvedOptions().timeZone}; Path=${document.body.dataset.base || "/"}; SameSite=Lax; Max-Age=31536000`;
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
    const id = form.getAttribute("id"); // form.id may be its field "id"
    const count = document.querySelectorAll(`input[form="${id}"][name="id"]:checked`).length;
    for (const button of document.querySelectorAll(`button[form="${id}"][data-needs-selection]`)) button.disabled = !count;
    for (const place of document.querySelectorAll(`[data-selected="${id}"]`)) place.textContent = count ? `(${count})` : "";
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

let atEnd = true;
document.addEventListener("htmx:sseBeforeMessage", (event) => {
  const message = event.detail;
  const log = event.target.dataset;
  if (message.type === "stale") {
    show("stale");
    event.preventDefault();
    return;
  }
  show("live");
  // What a log shows already is passed over, and a connection that is opened anew begins behind it.
  if (log?.after === undefined) return;
  if (Number(message.lastEventId) <= Number(log.after)) event.preventDefault();
  else {
    const place = event.target;
    log.after = message.lastEventId;
    atEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 40;
  }
});
if (window.htmx) {
  htmx.createEventSource = (address) => {
    const url = new URL(address, location);
    const log = document.querySelector("[data-after]");
    if (log) url.searchParams.set("after", log.dataset.after);
    return new EventSource(url);
  };
  // A region that changes leaves alone what the reader opened or ticked, and what fills itself.
  Object.assign(Idiomorph.defaults.callbacks, {
    beforeAttributeUpdated: (name, element) => !(name === "checked" || (name === "open" && element.matches("details"))),
    beforeNodeMorphed: (element) => !(element.dataset?.keep !== undefined),
  });
}

document.addEventListener("htmx:sseMessage", (event) => {
  const place = event.target;
  // Thinking that came in several messages is folded into one.
  for (const part of place.querySelectorAll("[data-joins]")) {
    const before = part.previousElementSibling;
    if (!before?.matches("[data-joins]")) continue;
    before.lastElementChild.append(...part.lastElementChild.childNodes);
    part.remove();
  }
  if (place.dataset.after !== undefined && atEnd) place.scrollTop = place.scrollHeight;
  ready(place);
});

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

// A moment that a person enters is in the person's zone: a hidden field tells its offset.
for (const field of document.querySelectorAll("input[data-offset]")) {
  const tell = () => {
    const moment = field.value ? new Date(field.value) : new Date();
    document.getElementById(field.dataset.offset).value = String(moment.getTimezoneOffset());
  };
  field.addEventListener("input", tell);
  tell();
  for (const zone of document.querySelectorAll("[data-zone]")) zone.textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
}

// A notice belongs to the moment: reloading the page does not repeat it.
const notice = document.querySelector("[data-notice]");
if (notice) {
  const address = new URL(location.href);
  for (const name of notice.dataset.notice.split(" ")) address.searchParams.delete(name);
  history.replaceState(null, "", address);
}
ready(document);
for (const log of document.querySelectorAll("[data-after]")) log.scrollTop = log.scrollHeight;
