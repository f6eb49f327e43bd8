// Puts the chat on another page: a button, and the chat in a frame that is loaded when it is first opened. docs/chat.md says how.
//
// <script src="https://chat.example/chat/embed.js" data-token-endpoint="/my-backend/chat-token" defer></script>
(() => {
  const script = document.currentScript;
  const origin = new URL(script.src).origin;
  const page = new URL("../chat", script.src);
  const { tokenEndpoint, tokenCallback, language, position } = script.dataset;
  const isSpanish = /^es\b/i.test(language ?? document.documentElement.lang ?? navigator.language);
  const texts = isSpanish
    ? { open: "Abrir el chat", close: "Cerrar el chat", title: "Chat de atención al cliente" }
    : { open: "Open the chat", close: "Close the chat", title: "Support chat" };
  const label = script.dataset.label ?? texts.open;
  const KEY = "capataz.thread";
  const side = position === "left" ? "left" : "right";

  const host = document.createElement("div");
  const root = host.attachShadow({ mode: "open" });
  const button = styled("button", {
    position: "fixed",
    zIndex: "2147483000",
    bottom: "20px",
    [side]: "20px",
    minWidth: "56px",
    height: "56px",
    padding: "0 20px",
    border: "2px solid #fff",
    borderRadius: "28px",
    background: "#0f766e",
    color: "#fff",
    font: "600 16px/1 system-ui, sans-serif",
    boxShadow: "0 6px 24px rgb(0 0 0 / 25%)",
    cursor: "pointer",
  });
  button.type = "button";
  button.textContent = label;
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => show(frame === null || frame.hidden));
  root.append(button);

  let frame = null;
  let asking = null;
  let isReady = false; // before that the frame holds an empty page, which is not of the chat's origin

  window.addEventListener("message", ({ source, origin: from, data }) => {
    if (frame === null || source !== frame.contentWindow || from !== origin || typeof data !== "object" || data === null) return;
    if (data.type === "capataz:ready") isReady = true;
    if (data.type === "capataz:ready" || data.type === "capataz:token-wanted") handOver();
    if (data.type === "capataz:close") show(false);
    if (data.type === "capataz:keep") keep(data.threadId);
  });

  if (document.body) document.body.append(host);
  else document.addEventListener("DOMContentLoaded", () => document.body.append(host));
  window.capatazChat = { open: () => show(true), close: () => show(false) };

  function show(isOpen) {
    if (isOpen && frame === null) load();
    if (frame === null || frame.hidden === !isOpen) return;
    frame.hidden = !isOpen;
    frame.style.display = isOpen ? "block" : "none";
    button.textContent = isOpen ? texts.close : label;
    button.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) {
      frame.focus();
      if (isReady) tell({ type: "capataz:shown" });
    } else button.focus();
  }

  function load() {
    frame = styled("iframe", {
      position: "fixed",
      zIndex: "2147483000",
      bottom: "88px",
      [side]: "20px",
      width: "min(400px, calc(100vw - 40px))",
      height: "min(640px, calc(100dvh - 112px))",
      border: "1px solid rgb(127 139 137 / 60%)",
      borderRadius: "16px",
      boxShadow: "0 16px 48px rgb(0 0 0 / 25%)",
      colorScheme: "light dark",
      display: "none",
    });
    frame.hidden = true;
    frame.title = texts.title;
    const fragment = new URLSearchParams({ embed: window.location.origin, lang: isSpanish ? "es" : "en" });
    frame.src = `${page}#${fragment}`;
    root.append(frame);
  }

  // A token from this page's own backend, given to our frame and to nobody else; null where none is needed.
  async function handOver() {
    asking ??= token().finally(() => (asking = null));
    try {
      tell({ type: "capataz:token", token: await asking, threadId: kept() });
    } catch (error) {
      console.error("capataz: no token for the chat", error);
      tell({ type: "capataz:token", token: null, threadId: kept() });
    }
    if (!frame.hidden) tell({ type: "capataz:shown" });
  }

  async function token() {
    if (tokenCallback) return tokenOf(await window[tokenCallback]());
    if (!tokenEndpoint) return null;
    const response = await fetch(tokenEndpoint, { method: "POST", credentials: "same-origin" });
    if (!response.ok) throw new Error(`${tokenEndpoint} answered ${response.status}`);
    return tokenOf(await response.json());
  }

  // The conversation's thread, for a frame that may store nothing itself; for as long as this tab.
  function keep(threadId) {
    try {
      if (threadId) sessionStorage.setItem(KEY, threadId);
      else sessionStorage.removeItem(KEY);
    } catch {
      // then a reload begins a new conversation
    }
  }

  function kept() {
    try {
      return sessionStorage.getItem(KEY);
    } catch {
      return null;
    }
  }

  function tokenOf(answer) {
    return typeof answer === "string" ? answer : answer?.token ?? null;
  }

  function tell(message) {
    frame?.contentWindow?.postMessage(message, origin);
  }

  function styled(name, style) {
    const made = document.createElement(name);
    Object.assign(made.style, style);
    return made;
  }
})();
