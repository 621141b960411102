// The volume viewer of reports and of the local app. Needs niivue.umd.js; loads nothing itself.
//
//   const viewer = await normnetViewer.open(element, { ct, lesions, anomaly, lungs });
//   await viewer.setLesions(buffer);  // another mask on the same grid
//
// element: holds the markup of viewer.html; its data-start is where the crosshair stands at first,
// as "x,y,z" in mm (LPS). The volumes: ArrayBuffers of .nii or .nii.gz files on
// one grid; anomaly and lungs may be missing.
"use strict";
(() => {
  const WINDOWS_HU = { lung: [-1350, 150], mediastinum: [-160, 240] };
  const BAR_MM = 50;
  const LESIONS = 1; // number of the layer, in the planes and in 3D
  const ORANGE = [255, 122, 0];
  const ramp = ([r, g, b]) => ({ R: [0, r, r], G: [0, g, g], B: [0, b, b], A: [0, 255, 255], I: [0, 1, 255] });
  const COLOURS = {
    lesion: ramp(ORANGE),
    sides: { R: [0, 70, 120], G: [0, 190, 225], B: [0, 255, 140], A: [0, 3, 3], I: [0, 128, 255] },
    anomaly: { R: [30, 120, 240, 255], G: [10, 30, 110, 240], B: [80, 110, 30, 90], A: [0, 130, 190, 230], I: [0, 80, 170, 255] },
  };
  const OPTIONS = {
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    backColor: [0, 0, 0, 1],
    crosshairColor: [0.35, 0.8, 1, 0.8],
    show3Dcrosshair: false,
    isColorbar: false,
    dragAndDropEnabled: false,
    logLevel: "error",
    loadingText: "",
    fontColor: [0.2, 0.55, 1, 1],
    fontMinPx: 20,
    crosshairGap: 12,
  };

  async function image(name, buffer, colormap, low, high, opacity) {
    const { NVImage } = niivue;
    const file = name + (isGzip(buffer) ? ".nii.gz" : ".nii");
    return NVImage.new(
      buffer, file, colormap, opacity, null, low, high,
      true, 0.02, false, false, "", 0, 0, NaN, NaN, false, null, 0, null,
    );
  }

  function isGzip(buffer) {
    const [first, second] = new Uint8Array(buffer, 0, 2);
    return first === 0x1f && second === 0x8b;
  }

  async function attach(canvas, options) {
    const nv = new niivue.Niivue({ ...OPTIONS, ...options });
    await nv.attachToCanvas(canvas);
    for (const [name, colours] of Object.entries(COLOURS)) nv.addColormap(name, colours);
    return nv;
  }

  // All layers with one call of addVolume, since each call draws all layers anew.
  function show(nv, layers) {
    nv.volumes = layers.slice(0, -1);
    nv.addVolume(layers.at(-1));
  }

  async function open(element, volumes) {
    const find = (name) => element.querySelector(`[data-${name}]`);
    const message = find("message");
    try {
      const viewer = await start(element, find, volumes);
      message.hidden = true;
      element.dataset.ready = "yes";
      return viewer;
    } catch (error) {
      message.textContent =
        `The viewer cannot start in this browser (${error.message}); it needs WebGL 2.`;
      message.hidden = false;
      element.dataset.ready = "failed";
      return null;
    }
  }

  async function start(element, find, volumes) {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("no WebGL 2");
    const planes = await attach(find("planes"), { multiplanarLayout: 2 });
    planes.setMultiplanarPadPixels(4);
    planes.opts.multiplanarShowRender = niivue.SHOW_RENDER.NEVER;
    planes.setSliceType(planes.sliceTypeMultiplanar);
    const layers = [
      await image("ct", volumes.ct, "gray", ...WINDOWS_HU.lung, 1),
      await image("lesions", volumes.lesions, "lesion", 0.5, 1, 0.5),
    ];
    if (volumes.anomaly) {
      layers.push(await image("anomaly", volumes.anomaly, "anomaly", 0.1, 1, 0));
    }
    show(planes, layers);

    let solid = null;
    if (volumes.lungs) {
      solid = await attach(find("solid"), { isOrientCube: true });
      solid.setSliceType(solid.sliceTypeRender);
      show(solid, [
        await image("lungs", volumes.lungs, "sides", 0, 2, 1),
        await image("lesions", volumes.lesions, "lesion", 0.5, 1, 1),
      ]);
      solid.setRenderAzimuthElevation(180, 10);
    } else {
      find("solid").parentElement.hidden = true;
    }

    connect(element, find, planes, solid);
    if (element.dataset.start) {
      const [x, y, z] = element.dataset.start.split(",").map(Number);
      planes.scene.crosshairPos = planes.mm2frac([-x, -y, z]); // RAS, as NIfTI
      planes.drawScene();
      planes.createOnLocationChange();
    }

    // Only the layers above the CT are drawn anew; the CT is by far the slowest.
    async function setLesions(buffer) {
      const { img } = await image("lesions", buffer, "lesion", 0.5, 1, 1);
      for (const nv of [planes, solid]) {
        if (!nv) continue;
        nv.volumes[LESIONS].img = img;
        for (let layer = LESIONS; layer < nv.volumes.length; layer += 1) {
          nv.refreshLayers(nv.volumes[layer], layer);
        }
        nv.drawScene();
      }
    }
    return { planes, solid, setLesions };
  }

  function connect(element, find, planes, solid) {
    const opacity = find("opacity");
    opacity.addEventListener("input", () => {
      find("opacity-text").textContent = `${opacity.value} %`;
      planes.setOpacity(LESIONS, opacity.value / 100);
    });

    for (const radio of element.querySelectorAll("input[name=window]")) {
      radio.addEventListener("change", () => {
        [planes.volumes[0].cal_min, planes.volumes[0].cal_max] = WINDOWS_HU[radio.value];
        planes.updateGLVolume();
      });
    }

    const anomaly = find("anomaly");
    const hasAnomaly = planes.volumes.length > 2;
    anomaly.parentElement.hidden = !hasAnomaly;
    element.querySelector(".anomaly-legend").hidden = true;
    anomaly.addEventListener("change", () => {
      planes.setOpacity(2, anomaly.checked ? 0.6 : 0);
      element.querySelector(".anomaly-legend").hidden = !anomaly.checked;
    });

    const crosshair = find("crosshair");
    crosshair.addEventListener("change", () => planes.setCrosshairWidth(crosshair.checked ? 1 : 0));

    const slider = find("slice");
    const nz = planes.volumes[0].dimsRAS[3];
    slider.max = nz - 1;
    slider.addEventListener("input", () => {
      const [x, y] = planes.scene.crosshairPos;
      planes.scene.crosshairPos = [x, y, (Number(slider.value) + 0.5) / nz];
      planes.drawScene();
      planes.createOnLocationChange();
    });

    planes.onLocationChange = (place) => {
      const [right, front, up] = place.mm; // RAS, as NIfTI
      const write = (number) => number.toFixed(0).replace("-", "−");
      const hu = write(place.values[0].value);
      const [x, y, z] = [-right, -front, up].map(write);
      find("place").textContent =
        `Crosshair: x ${x}, y ${y}, z ${z} mm (to the left, the back, the head); ${hu} HU`;
      slider.value = Math.floor(planes.scene.crosshairPos[2] * nz);
      find("slice-text").textContent = `z ${z} mm`;
      showScale();
    };

    // The scale bar follows the size of the canvas and the zoom.
    const showScale = () => requestAnimationFrame(() => {
      const slice = planes.screenSlices.find((each) => each.fovMM.length > 1);
      if (!slice) return;
      const pxPerMm = slice.leftTopWidthHeight[2] / Math.abs(slice.fovMM[0]);
      const ratio = planes.canvas.width / planes.canvas.clientWidth;
      find("scale").style.width = `${(BAR_MM * pxPerMm) / ratio}px`;
    });
    new ResizeObserver(showScale).observe(find("planes"));
    for (const kind of ["pointerup", "pointermove", "wheel", "touchend"]) {
      find("planes").addEventListener(kind, showScale, { passive: true });
    }

    // By keyboard: steps of the crosshair in voxels (right, front, up), turns of the lungs.
    const moves = {
      ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
      PageUp: [0, 0, 1], PageDown: [0, 0, -1],
    };
    find("planes").addEventListener("keydown", (event) => {
      if (!(event.key in moves)) return;
      event.preventDefault();
      planes.moveCrosshairInVox(...moves[event.key]);
      planes.createOnLocationChange();
    });
    const turns = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10] };
    find("solid").addEventListener("keydown", (event) => {
      if (!(event.key in turns) || !solid) return;
      event.preventDefault();
      const [azimuth, elevation] = turns[event.key];
      solid.setRenderAzimuthElevation(
        solid.scene.renderAzimuth + azimuth, solid.scene.renderElevation + elevation);
    });
    planes.createOnLocationChange();
  }

  window.normnetViewer = { open };
})();
