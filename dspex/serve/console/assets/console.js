// What is live, and the keyboard. Every page works without this script.
"use strict";
(() => {
  const $ = (selector, within = document) => within.querySelector(selector);
  // After so long an execution whose events were refused is followed again.
  const AGAIN_MS = 5000;

  // ------------------------------------------------------------------ parts of a page that are loaded again
  async function reloadMain() {
    const response = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (response.redirected) { location.reload(); return true; }  // the session has ended: the form for a key
    if (!response.ok) return false;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    const open = [...document.querySelectorAll("main details")].map((each) => each.open);
    const scroll = window.scrollY, current = $("tr.current"), focused = document.activeElement && document.activeElement.closest("tr.current");
    $("main").replaceWith($("main", fresh));
    const again = current && document.querySelector(`tr[data-href="${CSS.escape(current.dataset.href)}"]`);
    if (again) { again.classList.add("current"); if (focused) { const link = $("a.whole", again); if (link) link.focus({ preventScroll: true }); } }
    document.querySelectorAll("main details").forEach((each, index) => { if (open[index]) each.open = true; });
    window.scrollTo(0, scroll);
    document.title = fresh.title;
    return true;
  }

  async function tryReload() {
    const loaded = await reloadMain().catch(() => false);
    if (!loaded) showStale();
    return loaded;
  }

  // What is shown may be untrue by now: a page of health that cannot be loaded again would stay healthy.
  function showStale() {
    if ($("[data-stale]")) return;
    const note = document.createElement("p");
    note.className = "note bad";
    note.dataset.stale = "";
    note.setAttribute("role", "status");
    note.textContent = `This page could not be loaded again at ${new Date().toLocaleTimeString()}: what it shows may be old. It is tried again by itself.`;
    $("main").prepend(note);
  }

  // Nobody looks, or somebody writes or chooses what loading again would undo.
  function isBusy() {
    const typed = [...document.querySelectorAll("main input, main textarea")].some((each) => each.value !== each.defaultValue);
    return document.hidden || typed || (document.activeElement && document.activeElement.matches("main input, main textarea, main select, main form button"));
  }

  function repeat() {
    const part = $("[data-reload]");
    if (!part) return;
    setTimeout(async () => {
      if (!isBusy()) await tryReload();
      repeat();
    }, Number(part.dataset.reload) * 1000);
  }

  // --------------------------------------------------------------------------------- an execution that runs
  function follow() {
    const article = $("[data-live]");
    if (!article || !window.EventSource) return;
    const source = new EventSource(article.dataset.live);
    const texts = new Map();

    function field(name) {
      if (!texts.has(name)) {
        const partial = $("[data-partial]");
        if (!partial) return null;
        if (!texts.size) partial.replaceChildren();
        const title = document.createElement("h3"), text = document.createElement("pre");
        title.textContent = name;
        partial.append(title, text);
        texts.set(name, text);
      }
      return texts.get(name);
    }
    const data = (event) => JSON.parse(event.data);
    const unreversed = (text) => text.replace(/[\u202a-\u202e\u2066-\u2069]/g, "");  // as in all that the server prints
    source.addEventListener("partial", (event) => { const text = field(data(event).field); if (text) text.append(unreversed(data(event).text)); });
    source.addEventListener("field", (event) => {
      const { field: name, value } = data(event), text = field(name);
      if (text) text.textContent = unreversed(typeof value === "string" ? value : JSON.stringify(value, null, 2));
    });
    source.addEventListener("reset", () => { texts.clear(); const partial = $("[data-partial]"); if (partial) partial.replaceChildren(); });
    source.addEventListener("status", async (event) => {
      if (texts.size || !["running", "queued", "waiting"].includes(data(event).status)) return;
      const shown = $("main .status");
      if (shown && shown.textContent !== data(event).status) await tryReload();
    });
    const again = () => setTimeout(async () => { if (!isBusy()) await tryReload(); follow(); }, AGAIN_MS);
    const end = async () => { source.close(); if (!await tryReload()) again(); };
    for (const kind of ["done", "closed"]) source.addEventListener(kind, end);
    source.addEventListener("error", (event) => {
      if (event.data) end();
      else if (source.readyState === EventSource.CLOSED) again();  // it was refused; a connection that was lost is made again
    });
  }

  // ------------------------------------------------------------------------------------------ mouse and keys
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) { event.preventDefault(); return; }
    if (event.target.method === "post") setTimeout(() => { event.target.querySelectorAll("button").forEach((each) => { each.disabled = true; }); }, 0);
  });
  window.addEventListener("pageshow", () => document.querySelectorAll("button:disabled").forEach((each) => { each.disabled = false; }));
  document.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-href]");
    if (row && !event.target.closest("a, button, form, code") && !String(getSelection())) location.assign(row.dataset.href);
  });

  function move(step) {
    const rows = [...document.querySelectorAll("tr[data-href]")];
    if (!rows.length) return;
    const at = rows.findIndex((row) => row.classList.contains("current"));
    const next = Math.min(Math.max(at + step, 0), rows.length - 1);
    rows.forEach((row, index) => row.classList.toggle("current", index === next));
    const link = $("a.whole", rows[next]);
    if (link) link.focus();
    rows[next].scrollIntoView({ block: "nearest" });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
    if (event.key === "/") { const search = $("[data-search]"); if (search) { event.preventDefault(); search.focus(); search.select(); } }
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "n") { const next = $("a[rel=next]"); if (next) next.click(); }
    else if (event.key === "r") { const retry = $("button.retry"); if (retry) retry.click(); }
  });

  const here = $("nav a[aria-current]");
  if (here) here.scrollIntoView({ block: "nearest", inline: "center" });
  follow();
  repeat();
})();
