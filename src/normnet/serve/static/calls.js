// Calls of the server; a failure is its own line of text.
"use strict";
(() => {
  async function call(method, path, body) {
    const options = { method, cache: "no-store" };
    if (body instanceof Blob) options.body = body;
    else if (body !== undefined) {
      options.body = JSON.stringify(body);
      options.headers = { "Content-Type": "application/json" };
    }
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new Error("normnet serve does not answer; is it still running?");
    }
    if (answer.ok) return answer;
    const text = await answer.text();
    let message = text;
    try {
      message = JSON.parse(text).error;
    } catch { /* the guard answers in plain text */ }
    throw new Error(message || `error ${answer.status}`);
  }

  const json = async (...request) => (await call(...request)).json();
  const number = (value, decimals) => {
    if (typeof value !== "number") return "–";
    const text = value.toFixed(decimals);
    return value > 0 && !Number(text) ? `<${(10 ** -decimals).toFixed(decimals)}` : text.replace("-", "−");
  };

  window.normnetCalls = { call, json, number };
})();
