// Keeps a page up to date, and makes its buttons work. No library but Flower's own Bootstrap.
(function () {
  "use strict";

  const EVERY = 3000, LONGEST = 30000, PATIENCE = 60000;
  const page = document.getElementById("backbeat");
  const live = document.getElementById("bb-live");
  const lost = document.getElementById("bb-lost");
  const asOf = document.getElementById("bb-as-of");
  const dot = document.getElementById("bb-dot");
  const prefix = page.dataset.prefix;
  const title = document.title.replace(/^\([^)]*\) /, "");
  const busy = new Set();
  const unfolded = new Map();
  let timer = 0, wait = EVERY, asking = null;

  // staying up to date ---------------------------------------------------------------------------

  function here() {
    const url = new URL(location.href);
    url.searchParams.set("part", "1");
    return url;
  }

  async function refresh() {
    clearTimeout(timer);
    if (asking) asking.abort();
    const mine = asking = new AbortController();
    const limit = setTimeout(() => mine.abort(), 10000);
    try {
      const answer = await fetch(here(), {signal: mine.signal, credentials: "same-origin"});
      const text = await answer.text();
      if (mine !== asking) return;
      if (answer.status === 401) { location.reload(); return; }
      if (answer.status === 503) {
        const told = new DOMParser().parseFromString(text, "text/html").getElementById("bb-away");
        away(told ? told.textContent.trim() : "The server is away.");
      } else if (!answer.ok) {
        away("The dashboard answers " + answer.status + ".");
      } else {
        back(text, Number(answer.headers.get("X-As-Of")), answer.headers.get("X-Alarm"));
      }
    } catch (error) {
      if (mine !== asking) return;
      away("The dashboard does not answer.");
    } finally {
      clearTimeout(limit);
    }
    // where nobody looks, it is for what the tab says
    if (mine === asking) timer = setTimeout(refresh, document.hidden ? LONGEST : wait);
  }

  function away(why) {
    wait = Math.min(LONGEST, wait * 1.5);
    if (!document.getElementById("bb-away")) {
      lost.textContent = why;
      lost.hidden = false;
      live.classList.add("bb-stale");
    }
    dot.classList.replace("status-dot-live", "status-dot-error");
    alarm("away");
  }

  function alarm(word) {
    document.title = (word ? "(" + word + ") " : "") + title;
  }

  function back(text, at, word) {
    wait = EVERY;
    lost.hidden = true;
    live.classList.remove("bb-stale");
    dot.classList.replace("status-dot-error", "status-dot-live");
    asOf.dataset.at = at;
    alarm(word);
    sayWhen();
    swap(text);
  }

  // what is unfolded, focused and typed stays so
  function swap(text) {
    const open = new Set([...live.querySelectorAll("details[open][data-key]")].map((each) => each.dataset.key));
    const scrolled = new Map([...live.querySelectorAll("details[open] pre")].map(
      (each) => [each.closest("details").dataset.key, each.scrollTop]));
    const focused = document.activeElement && live.contains(document.activeElement) ? mark(document.activeElement) : null;
    const typed = live.querySelector("input[type=search]");
    const words = typed && document.activeElement === typed ? [typed.value, typed.selectionStart] : null;
    live.innerHTML = text;
    live.querySelectorAll("details[data-key]").forEach((each) => {
      // at once, and not when it is read again: what stands below must not move
      if (unfolded.has(each.dataset.key)) each.querySelector(".bb-unfolded").innerHTML = unfolded.get(each.dataset.key);
      if (open.has(each.dataset.key)) each.open = true;
      const pre = each.querySelector("pre");
      if (pre && scrolled.has(each.dataset.key)) pre.scrollTop = scrolled.get(each.dataset.key);
    });
    busy.forEach(hold);
    if (focused) {
      const again = live.querySelector(focused);
      if (again) again.focus({preventScroll: true});
      if (again && words) { again.value = words[0]; again.setSelectionRange(words[1], words[1]); }
    }
  }

  function mark(element) {
    const loop = element.closest("[data-loop]"), fold = element.closest("details[data-key]");
    if (element.dataset.action && loop) {
      return "[data-loop=\"" + loop.dataset.loop + "\"] [data-action=\"" + element.dataset.action + "\"]";
    }
    if (element.hasAttribute("href")) return "a[href=\"" + CSS.escape(element.getAttribute("href")) + "\"]";
    if (element.tagName === "SUMMARY" && fold) return "details[data-key=\"" + fold.dataset.key + "\"] > summary";
    return element.name ? element.tagName.toLowerCase() + "[name=\"" + element.name + "\"]" : null;
  }

  function sayWhen() {
    if (!asOf.dataset.at) return;
    const at = new Date(Number(asOf.dataset.at) * 1000);
    asOf.textContent = "as of " + at.toLocaleTimeString();
    asOf.title = at.toISOString();
  }

  // what is read only when it is unfolded ----------------------------------------------------------

  document.addEventListener("toggle", async (event) => {
    const fold = event.target;
    if (!fold.open || !fold.dataset.src) return;
    const place = fold.querySelector(".bb-unfolded");
    try {
      const answer = await fetch(fold.dataset.src, {credentials: "same-origin"});
      const text = await answer.text();
      if (!answer.ok) throw new Error(String(answer.status));
      unfolded.set(fold.dataset.key, text);
      place.innerHTML = text;
    } catch (error) {
      if (!unfolded.has(fold.dataset.key)) place.textContent = "No answer: fold and unfold it to ask again.";
    }
  }, true);

  // choosing among nodes ----------------------------------------------------------------------------

  let typing = 0;
  function choose(form) {
    const words = new URLSearchParams(new FormData(form));
    [...words].forEach(([name, value]) => { if (!value) words.delete(name); });
    history.replaceState(null, "", words.size ? "?" + words : location.pathname);
    refresh();
  }
  live.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-live]");
    if (!form) return;
    clearTimeout(typing);
    typing = setTimeout(() => choose(form), event.target.type === "search" ? 250 : 0);
  });
  live.addEventListener("submit", (event) => { event.preventDefault(); choose(event.target); });

  // buttons -----------------------------------------------------------------------------------------

  const dialog = document.getElementById("bb-confirm");
  const yes = document.getElementById("bb-confirm-yes");
  const WORDS = {
    run: ["Run now", "It runs at once, whatever its cadence, backoff or pause say; never beside another run of its own."],
    pause: ["Pause", "No more scheduled ticks until it is resumed. A run that goes on ends by itself; manual runs still pass."],
    resume: ["Resume", "Its next slot ticks again."],
  };
  let wanted = null;

  live.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-action]");
    if (!button) return;
    wanted = {loop: button.closest("[data-loop]").dataset.loop, action: button.dataset.action};
    const [word, meaning] = WORDS[wanted.action];
    document.getElementById("bb-confirm-title").textContent = word + ": " + wanted.loop + "?";
    document.getElementById("bb-confirm-text").textContent = meaning;
    yes.textContent = word;
    bootstrap.Modal.getOrCreateInstance(dialog).show();
  });
  dialog.addEventListener("shown.bs.modal", () => yes.focus());
  dialog.addEventListener("hidden.bs.modal", () => { if (wanted) rejoin(wanted.loop, wanted.action); });
  yes.addEventListener("click", () => {
    bootstrap.Modal.getOrCreateInstance(dialog).hide();
    if (wanted.said) return;
    wanted.said = true;
    steer(wanted.loop, wanted.action);
  });

  // who came by keyboard goes on from the button, or from the one that took its place
  function rejoin(loop, action) {
    const place = "[data-loop=\"" + loop + "\"] [data-action";
    if (dialog.classList.contains("show")) return;
    const button = live.querySelector(place + "=\"" + action + "\"]") || live.querySelector(place + "]:not([data-action=run])");
    const elsewhere = document.activeElement !== document.body && !dialog.contains(document.activeElement);
    if (button && !elsewhere) button.focus({preventScroll: true});
  }

  function hold(loop) {
    live.querySelectorAll("[data-loop=\"" + loop + "\"] button").forEach((each) => { each.disabled = true; });
  }

  async function steer(loop, action) {
    busy.add(loop);
    hold(loop);
    try {
      const answer = await fetch(prefix + "/loops/" + loop + "/" + action, {
        method: "POST", credentials: "same-origin", headers: {"X-XSRFToken": cookie("_xsrf")},
      });
      const said = await answer.json().catch(() => ({error: "the dashboard answers " + answer.status}));
      if (!answer.ok) say(loop + ": " + said.error, "danger");
      else if (action === "run") await outcome(loop, said.call);
      else say(loop + (action === "pause" ? " is paused" : " goes on"), "success");
    } catch (error) {
      say(loop + ": the dashboard does not answer", "danger");
    } finally {
      busy.delete(loop);
      await refresh();
      rejoin(loop, action);
    }
  }

  async function outcome(loop, call) {
    say(loop + " is called", "primary");
    const giveUp = Date.now() + PATIENCE;
    while (Date.now() < giveUp) {
      await new Promise((done) => setTimeout(done, 500));
      const answer = await fetch(prefix + "/loops/" + loop, {credentials: "same-origin"});
      const manual = answer.ok ? (await answer.json()).manual : null;
      if (!manual || manual.call !== call) continue;
      const counts = Object.entries(manual.counts).map(([name, number]) => name + " " + number).join(", ");
      const well = manual.outcome === "succeeded";
      const more = well ? counts : manual.error;
      say(loop + " " + manual.outcome.replace("_", " ") + (more ? ": " + more : ""), well ? "success" : "danger");
      return;
    }
    say(loop + " has not ended within a minute: an agent may be missing or busy, or it runs for longer", "warning");
  }

  function cookie(name) {
    const found = document.cookie.match("(?:^|;)\\s*" + name + "\\s*=\\s*([^;]+)");
    return found ? decodeURIComponent(found[1]) : "";
  }

  function say(text, type) {
    const toast = document.createElement("div"), row = document.createElement("div");
    const body = document.createElement("div"), close = document.createElement("button");
    toast.className = "toast align-items-center text-bg-" + type + " border-0";
    toast.setAttribute("role", type === "danger" ? "alert" : "status");
    row.className = "d-flex";
    body.className = "toast-body";
    body.textContent = text;
    close.type = "button";
    close.className = "btn-close btn-close-white me-2 m-auto";
    close.setAttribute("aria-label", "Close");
    close.dataset.bsDismiss = "toast";
    row.append(body, close);
    toast.append(row);
    document.getElementById("toast-container").append(toast);
    toast.addEventListener("hidden.bs.toast", () => toast.remove());
    bootstrap.Toast.getOrCreateInstance(toast, {delay: type === "danger" ? 15000 : 6000}).show();
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  sayWhen();
  timer = setTimeout(refresh, document.getElementById("bb-away") ? 1000 : wait);
})();
