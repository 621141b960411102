// The page of a result: the viewer, the slider, single lesions.
"use strict";
(() => {
  const { call, json, number } = normnetCalls;
  const find = (name) => document.querySelector(`[data-${name}]`);
  const JOB = `/api/jobs/${find("job").dataset.job}`;
  const FIRST_ML = Number(find("job").dataset.ml);
  const WAIT_MS = 120;
  const REST = 0;

  const now = find("now");
  const slider = find("share");
  const page = { share: null, first: null, removed: new Set(), viewer: null, edit: null };

  async function open() {
    const preview = json("POST", `${JOB}/preview`, { share: null, removed: [] });
    try {
      const names = ["ct", "lesions", "anomaly", "lungs"];
      const files = await Promise.all(names.map(async (name) => (
        await call("GET", `${JOB}/volumes/${name}`)).arrayBuffer()));
      const volumes = Object.fromEntries(names.map((name, n) => [name, files[n]]));
      page.viewer = await normnetViewer.open(document.querySelector("[data-viewer]"), volumes);
    } catch (error) {
      find("message").textContent = error.message;
    }
    try {
      const edit = await preview;
      page.first = page.share = edit.default_share;
      if (page.first !== null) {
        slider.value = Math.round(100 * page.first);
        find("share-row").hidden = false;
        find("share-help").hidden = false;
      }
      show(edit, true);
    } catch (error) {
      fail(error);
    }
    window.normnetApp = page;
  }

  function fail(error) {
    now.classList.remove("busy");
    now.classList.add("error");
    now.textContent = error.message;
  }

  function show(edit, isNewList) {
    page.edit = edit;
    const both = edit.volumes.both;
    now.classList.remove("busy", "error");
    const difference = both.lesion_ml - FIRST_ML;
    const sign = difference > 0 ? "+" : "−";
    const change = Math.abs(difference) < 0.0005 ? "as found" : `${sign}${number(Math.abs(difference), 1)} ml`;
    now.textContent = `Lesions ${number(both.lesion_ml, 1)} ml, ${number(both.lesion_percent, 2)} % of the lungs (${change})`;
    now.dataset.nowMl = both.lesion_ml;
    for (const row of document.querySelectorAll("[data-part]")) {
      const part = edit.volumes[row.dataset.part];
      row.querySelector("[data-edited-ml]").textContent = number(part.lesion_ml, 1);
      row.querySelector("[data-edited-percent]").textContent = number(part.lesion_percent, 1);
    }
    showShare();
    if (isNewList) list(edit);
    find("save").disabled = false;
  }

  function showShare() {
    const at = Math.round(100 * (page.share ?? 0));
    find("share-text").textContent = `${at} %`;
    slider.setAttribute("aria-valuetext", `${at} percent`);
  }

  // --- slider ---

  // One request at a time: first the picture, then, if nothing was changed meanwhile, the numbers.
  let timer = null;
  let asking = false;
  let wanted = null;
  function ask(isNewList) {
    now.classList.add("busy");
    find("save").disabled = true;
    wanted = { isNewList: isNewList || (wanted?.isNewList ?? false) };
    clearTimeout(timer);
    timer = setTimeout(answer, WAIT_MS);
  }

  async function answer() {
    if (asking || !wanted) return;
    asking = true;
    const { isNewList } = wanted;
    wanted = null;
    try {
      if (page.viewer) {
        const mask = await call("POST", `${JOB}/mask`, state());
        await page.viewer.setLesions(await mask.arrayBuffer());
      }
      if (!wanted) {
        const edit = await json("POST", `${JOB}/preview`, state());
        if (!wanted) show(edit, isNewList);
      }
    } catch (error) {
      if (!wanted) fail(error);
    }
    if (wanted) wanted.isNewList ||= isNewList;
    asking = false;
    if (wanted) answer();
  }

  const state = () => ({ share: page.share, removed: [...page.removed] });

  function move(share) {
    page.share = share;
    page.removed.clear();
    showShare();
    ask(true);
  }

  slider.addEventListener("input", () => {
    // The first position is a setting and need not be a whole percentage.
    const isFirst = Number(slider.value) === Math.round(100 * page.first);
    move(isFirst ? page.first : slider.value / 100);
  });
  find("reset").addEventListener("click", () => {
    slider.value = Math.round(100 * page.first);
    move(page.first);
  });

  // --- lesions ---

  function list(edit) {
    const { lesions, rest } = edit;
    find("no-lesions").hidden = lesions.length + rest.n > 0;
    find("lesion-list").hidden = lesions.length + rest.n === 0;
    const rows = lesions.map((lesion) => row(
      lesion.label, `${lesion.label}`, [
        number(lesion.ml, 2), number(lesion.diameter_mm, 0),
        lesion.zone.replace("_", " "), number(lesion.mean_hu, 0)],
      lesion.at_mm_xyz));
    if (rest.n) rows.push(row(REST, `${rest.n} small ones`, [number(rest.ml, 2), "–", "–", "–"], null));
    find("lesions").replaceChildren(...rows);
  }

  function row(label, name, values, place) {
    const element = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    if (place) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Show ${name}`;
      button.addEventListener("click", () => jump(place));
      head.append(button);
    } else head.textContent = name;
    const cell = document.createElement("td");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.setAttribute("aria-label", label === REST ? "Accept all small ones" : `Accept lesion ${label}`);
    box.addEventListener("change", () => {
      if (box.checked) page.removed.delete(label);
      else page.removed.add(label);
      element.classList.toggle("removed", !box.checked);
      ask(false);
    });
    cell.append(box);
    const cells = values.map((value) => {
      const each = document.createElement("td");
      each.textContent = value;
      return each;
    });
    cells[2].className = "text";
    element.append(head, cell, ...cells);
    return element;
  }

  function jump([x, y, z]) {
    if (!page.viewer) return;
    const { planes } = page.viewer;
    planes.scene.crosshairPos = planes.mm2frac([-x, -y, z]); // RAS, as NIfTI
    planes.drawScene();
    planes.createOnLocationChange();
    document.querySelector(".viewer-canvases").scrollIntoView({ block: "nearest" });
  }

  find("save").addEventListener("click", async () => {
    const saved = find("saved");
    find("save").disabled = true;
    saved.classList.remove("error");
    saved.textContent = "is being saved …";
    try {
      const { name } = await json("POST", `${JOB}/saved`, state());
      const text = await (await call("GET", location.pathname)).text();
      const fresh = new DOMParser().parseFromString(text, "text/html");
      find("results").replaceWith(fresh.querySelector("[data-results]"));
      saved.textContent = `saved as ${name.replace("-", " ")}; see Results below`;
    } catch (error) {
      saved.classList.add("error");
      saved.textContent = error.message;
    }
    find("save").disabled = false;
  });

  open();
})();
