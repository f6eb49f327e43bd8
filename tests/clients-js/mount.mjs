// A page for React's hooks: a document without a browser, and a component that shows what a stream says.
import { JSDOM } from "jsdom";

const page = new JSDOM("<!doctype html>", { url: "http://localhost:3000/" });
globalThis.window = page.window;
globalThis.document = page.window.document;
globalThis.FormData = page.window.FormData; // React makes one of a form
globalThis.navigator ??= page.window.navigator; // node 20 has none

const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");

export { createElement };

// `shown.stream` is what the hook returned last; `shown.texts` every state of the messages that was rendered.
export function mount(useStream, options) {
  const shown = { stream: null, texts: [] };
  function Chat() {
    const stream = useStream(options);
    const said = stream.messages.map((message) => message.text ?? String(message.content));
    shown.stream = stream;
    shown.texts.push(said);
    return createElement("ul", null, ...said.map((text, i) => createElement("li", { key: i }, text)));
  }
  const element = document.body.appendChild(document.createElement("div"));
  const root = createRoot(element);
  root.render(createElement(Chat));
  shown.page = () => [...element.querySelectorAll("li")].map((item) => item.textContent);
  shown.unmount = () => {
    root.unmount();
    element.remove();
  };
  return shown;
}

// The same for a component of its own, by name.
export function render(Component, props = {}) {
  const element = document.body.appendChild(document.createElement("div"));
  createRoot(element).render(createElement(Component, props));
  return element;
}
