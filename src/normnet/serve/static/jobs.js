// The first page: uploads and the queue.
"use strict";
(() => {
  const { call, json } = normnetCalls;
  const find = (name) => document.querySelector(`[data-${name}]`);
  const AT_ONCE = 4;
  const POLL_MS = 1000;
  const STATES = {
    uploading: "is being copied", queued: "waits", running: "runs",
    done: "done", failed: "failed", cancelled: "cancelled",
  };

  function say(text, isError = false) {
    const message = find("message");
    message.textContent = text;
    message.classList.toggle("error", isError);
  }

  // --- upload ---

  let busy = false;

  async function upload(name, files) {
    const title = name.toWellFormed();
    if (busy) return say("One CT at a time: the copy of the last one still goes on.", true);
    if (!files.length) return say("There is no file in it.", true);
    busy = true;
    let id = null;
    try {
      ({ id } = await json("POST", "/api/jobs", { title }));
      await send(id, title, files);
      await call("POST", `/api/jobs/${id}/start`, {});
      say(`${title}: ${files.length} file${files.length > 1 ? "s" : ""} taken.`);
    } catch (error) {
      say(error.message, true);
      if (id) await call("DELETE", `/api/jobs/${id}`, {}).catch(() => {});
    }
    busy = false;
    refresh();
  }

  async function send(id, title, files) {
    const waiting = [...files];
    let sent = 0;
    const sendSome = async () => {
      for (let file = waiting.shift(); file; file = waiting.shift()) {
        const name = encodeURIComponent(file.name.toWellFormed());
        await call("PUT", `/api/jobs/${id}/files?name=${name}`, file);
        sent += 1;
        say(`${title}: file ${sent} of ${files.length}`);
      }
    };
    const results = await Promise.allSettled(Array.from({ length: AT_ONCE }, sendSome));
    const failed = results.find((result) => result.status === "rejected");
    if (failed) throw failed.reason;
  }

  async function filesBelow(entry) {
    if (entry.isFile) return [await new Promise((good, bad) => entry.file(good, bad))];
    const reader = entry.createReader();
    const files = [];
    for (;;) {
      const some = await new Promise((good, bad) => reader.readEntries(good, bad));
      if (!some.length) return files;
      for (const each of some) files.push(...(await filesBelow(each)));
    }
  }

  const drop = find("drop");
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    if (!entries.length) return;
    const files = (await Promise.all(entries.map(filesBelow))).flat();
    upload(entries[0].name, files);
  });
  // A file that misses the field must not take the place of the page.
  for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());

  find("file").addEventListener("change", (event) => {
    const files = [...event.target.files];
    if (files.length) upload(files[0].name, files);
    event.target.value = "";
  });
  find("folder").addEventListener("change", (event) => {
    const files = [...event.target.files];
    if (files.length) upload(files[0].webkitRelativePath.split("/")[0] || files[0].name, files);
    event.target.value = "";
  });

  // --- queue ---

  const rows = new Map();

  function rowOf(id) {
    if (rows.has(id)) return rows.get(id);
    const row = document.createElement("li");
    row.dataset.id = id;
    const part = (tag, name) => {
      const element = document.createElement(tag);
      element.className = name;
      row.append(element);
      return element;
    };
    const parts = { row, name: part("span", "name"), state: part("span", "state"), bar: part("progress", "bar"), actions: part("span", "actions"), kind: "" };
    rows.set(id, parts);
    return parts;
  }

  function show(job) {
    const parts = rowOf(job.id);
    parts.name.textContent = job.title;
    parts.bar.hidden = job.state !== "running";
    parts.bar.setAttribute("aria-label", `Progress of ${job.title}`);
    parts.state.classList.toggle("failed", job.state === "failed");
    let text = STATES[job.state];
    if (job.progress) {
      const { stage, share, started } = job.progress;
      const seconds = Math.max(0, Date.now() / 1000 - started);
      parts.bar.value = share;
      text = `${stage}, ${Math.round(100 * share)} %, ${Math.round(seconds)} s`;
    }
    if (job.error) text = `${text}: ${job.error}`;
    parts.state.textContent = text;
    if (parts.kind === job.state) return parts;
    parts.kind = job.state;
    parts.actions.replaceChildren(...actionsOf(job));
    return parts;
  }

  function actionsOf(job) {
    const actions = [];
    if (job.state === "done") {
      const link = document.createElement("a");
      link.className = "button";
      link.href = `/jobs/${job.id}`;
      link.textContent = "Look at it";
      actions.push(link);
    }
    if (job.state === "queued" || job.state === "running") {
      actions.push(button("Cancel", job, () => call("POST", `/api/jobs/${job.id}/cancel`, {})));
    } else {
      actions.push(button("Delete", job, () => {
        const sure = confirm(`Delete ${job.title} with its results?`);
        return sure ? call("DELETE", `/api/jobs/${job.id}`, {}) : null;
      }));
    }
    for (const action of actions) {
      action.setAttribute("aria-label", `${action.textContent}: ${job.title}`);
    }
    return actions;
  }

  function button(text, job, act) {
    const element = document.createElement("button");
    element.type = "button";
    element.textContent = text;
    element.addEventListener("click", async () => {
      try {
        await act();
      } catch (error) {
        say(error.message, true);
      }
      refresh();
    });
    return element;
  }

  let timer = null;
  async function refresh() {
    clearTimeout(timer);
    try {
      const { jobs } = await json("GET", "/api/jobs");
      const list = find("jobs");
      const ids = new Set(jobs.map((job) => job.id));
      for (const [id, parts] of rows) {
        if (ids.has(id)) continue;
        parts.row.remove();
        rows.delete(id);
      }
      jobs.forEach((job, n) => {
        const { row } = show(job);
        if (list.children[n] !== row) list.insertBefore(row, list.children[n] ?? null);
      });
      find("none").hidden = jobs.length > 0;
    } catch (error) {
      say(error.message, true);
    }
    timer = setTimeout(refresh, POLL_MS);
  }
  refresh();
})();
