// Starts the viewer with the volumes that a report holds as base64.
"use strict";
(() => {
  const volumes = {};
  for (const holder of document.querySelectorAll("script[data-volume]")) {
    const text = atob(holder.textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let n = 0; n < text.length; n += 1) bytes[n] = text.charCodeAt(n);
    volumes[holder.dataset.volume] = bytes.buffer;
    holder.remove();
  }
  const element = document.querySelector("[data-viewer]");
  normnetViewer.open(element, volumes).then((viewer) => {
    window.normnetReport = { viewer };
  });
})();
