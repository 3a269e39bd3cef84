// Keeps a page up to date while somebody looks at it, and makes its buttons work.
"use strict";

const EVERY = 1000;
const live = document.querySelector("main[data-live]");
const connection = document.getElementById("connection");

function toEnd(root) {
  for (const box of root.querySelectorAll("[data-follow]")) box.scrollTop = box.scrollHeight;
}

// Sections have ids. One that has not changed is left alone: what is selected in it stays so.
function take(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("main");
  if (!fresh) return;
  const seen = new Set();
  let before = null;
  for (const section of [...fresh.children]) {
    const old = document.getElementById(section.id);
    seen.add(section.id);
    if (old && old.outerHTML === section.outerHTML) {
      before = old;
      continue;
    }
    const box = old?.querySelector("[data-follow]");
    const followed = !box || box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    const top = box ? box.scrollTop : 0;
    if (old) old.replaceWith(section);
    else if (before) before.after(section);
    else live.prepend(section);
    before = section;
    const fresh_box = section.querySelector("[data-follow]");
    if (fresh_box) fresh_box.scrollTop = followed ? fresh_box.scrollHeight : top;
  }
  for (const section of [...live.children]) if (!seen.has(section.id)) section.remove();
}

async function refresh() {
  const response = await fetch(location.pathname + "?fragment=1", {
    signal: AbortSignal.timeout(10000),
  });
  if (response.status === 401) return location.reload();
  take(await response.text());
}

async function keepFresh() {
  let wait = EVERY;
  while (!document.querySelector("[data-ended]")) {
    await new Promise((done) => setTimeout(done, wait));
    if (document.hidden) continue;
    try {
      await refresh();
      connection.textContent = "";
      wait = EVERY;
    } catch {
      connection.textContent = "The node does not answer.";
      wait = Math.min(wait * 2, 15000);
    }
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-post]");
  if (!button) return;
  button.disabled = true;
  try {
    const response = await fetch(button.dataset.post, { method: "POST" });
    const answer = await response.json();
    if (!response.ok) connection.textContent = answer.error.message;
    else if (button.dataset.go) location.href = button.dataset.go + encodeURIComponent(answer.id);
    else await refresh();
  } catch {
    connection.textContent = "The node does not answer.";
  }
  button.disabled = false;
});

toEnd(document);
if (live) keepFresh();
