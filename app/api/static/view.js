// The page's elements. Nothing here talks to the service; what people do is told to `on`.

import { blocks, element } from "./markdown.js";
import { named } from "./texts.js";

const get = (id) => document.getElementById(id);

function make(name, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children.filter(Boolean));
  return made;
}

const THUMB = "M7 10.500v9.500H4.500A1.500 1.500 0 0 1 3 18.500V12a1.500 1.500 0 0 1 1.500-1.500zm0 0 4-7.500c1.500 0 2.500 1 2.500 2.500V9h5.200a2 2 0 0 1 2 2.300l-1.100 7a2 2 0 0 1-2 1.700H7";

function icon(path, className = "") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  if (className) svg.setAttribute("class", className);
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

export class View {
  constructor(texts, on) {
    this.texts = texts;
    this.on = on;
    this.articles = new Map();
    this.asked = "";
    this.followsEnd = true;
    this.#words();
    this.#listen();
  }

  // Show the conversation; what has not changed is not touched, so that selections and readers keep their place.
  render(conversation, { isRunning, activity, mayApprove, hasBegun, isBlocked }) {
    const shown = conversation.shown();
    get("welcome").hidden = hasBegun || shown.length > 0 || isBlocked;
    const log = get("log");
    const wanted = new Set(shown.map(({ id }) => id));
    for (const [id, article] of this.articles) {
      if (!wanted.has(id)) {
        article.root.remove();
        this.articles.delete(id);
      }
    }
    shown.forEach((message, index) => {
      const article = this.articles.get(message.id) ?? this.#article(message);
      if (log.children[index] !== article.root) log.insertBefore(article.root, log.children[index] ?? null);
      this.#fill(article, message, conversation.notes[message.id] ?? {});
    });
    this.#failure(conversation.failure, isRunning);
    this.#asks(conversation.asks, isRunning, mayApprove);
    get("activity").hidden = !activity;
    if (get("activity-text").textContent !== activity) get("activity-text").textContent = activity ?? "";
    const hadFocus = document.activeElement === get("stop");
    get("send").hidden = isRunning;
    get("stop").hidden = !isRunning;
    if (hadFocus && !isRunning) this.focusMessage();
    get("new").disabled = !hasBegun && !shown.length;
    if (this.followsEnd) this.#toEnd();
  }

  // Said by screen readers, seen by nobody.
  announce(text) {
    const status = get("status");
    status.textContent = "";
    requestAnimationFrame(() => (status.textContent = text));
  }

  // A line above the message field, with what can be done about it.
  notice(text, actions = [], kind = "fault") {
    const notice = get("notice");
    notice.hidden = !text;
    notice.className = `notice ${kind}`;
    if (!text) {
      get("alert").textContent = "";
      return notice.replaceChildren();
    }
    const line = notice.querySelector("p");
    if (line && notice.dataset.kind === kind && notice.querySelectorAll("button").length === actions.length) {
      line.textContent = text; // a countdown changes its words only: buttons keep the focus, and nobody hears every second
      notice.querySelectorAll("button").forEach((button, index) => {
        button.textContent = actions[index][0];
        button.onclick = actions[index][1];
      });
      return undefined;
    }
    notice.dataset.kind = kind;
    get("alert").textContent = text;
    const buttons = actions.map(([label, run]) => make("button", { type: "button", className: "quiet", text: label, onclick: run }));
    return notice.replaceChildren(make("p", { text }), make("div", { className: "row" }, ...buttons));
  }

  gate(isShown, fault = "") {
    get("gate").hidden = !isShown;
    get("composer").hidden = isShown;
    get("hint").hidden = isShown;
    get("gate-error").textContent = fault;
    if (isShown) {
      get("token").value = "";
      get("token").focus();
    }
  }

  canClose() {
    get("close").hidden = false;
  }

  get draft() {
    return get("message").value;
  }

  set draft(text) {
    get("message").value = text;
    this.#grow();
  }

  focusMessage() {
    get("message").focus({ preventScroll: true });
  }

  nameOf(name) {
    return name ? named(this.texts.names, name) : this.texts.team;
  }

  // What was looked up, in words; "": nothing.
  lookedUp(lookups) {
    return [...new Set(this.#lookups(lookups).map(({ tool }) => named(this.texts.tools, tool)))].join(", ");
  }

  #lookups(calls) {
    return calls.filter(({ tool }) => !(tool in this.texts.actions));
  }

  #words() {
    const { texts } = this;
    document.documentElement.lang = texts.language;
    document.title = texts.title;
    for (const node of document.querySelectorAll("[data-text]")) node.textContent = texts[node.dataset.text];
    for (const node of document.querySelectorAll("[data-label]")) {
      node.setAttribute("aria-label", texts[node.dataset.label]);
      if (node.tagName === "BUTTON") node.title = texts[node.dataset.label];
    }
    get("presence").textContent = texts.presence;
    get("message").placeholder = texts.placeholder;
    for (const suggestion of texts.suggestions) {
      const button = make("button", { type: "button", className: "suggestion", text: suggestion, onclick: () => this.on.send(suggestion) });
      get("suggestions").append(make("li", {}, button));
    }
  }

  #listen() {
    const message = get("message");
    get("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.on.send(message.value);
    });
    message.addEventListener("input", () => this.#grow());
    message.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.on.send(message.value);
      }
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.isComposing) this.on.escape();
    });
    get("stop").addEventListener("click", () => this.on.stop());
    get("new").addEventListener("click", () => this.on.startAnew());
    get("close").addEventListener("click", () => this.on.close());
    get("gate").addEventListener("submit", (event) => {
      event.preventDefault();
      this.on.token(get("token").value.trim());
    });
    const scroller = get("scroller");
    scroller.addEventListener("scroll", () => {
      this.followsEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
      get("latest").hidden = this.followsEnd;
    });
    // A notice, the keyboard of a phone or another window size leaves less room: what was in sight at the end stays so.
    new ResizeObserver(() => this.followsEnd && this.#toEnd()).observe(scroller);
    get("latest").addEventListener("click", () => {
      this.followsEnd = true;
      this.#toEnd();
      this.focusMessage();
    });
    message.disabled = false; // from here on nothing that is typed is lost
    get("send").disabled = false;
  }

  #grow() {
    const message = get("message");
    message.style.height = "auto";
    message.style.height = `${Math.min(message.scrollHeight, 180)}px`;
  }

  #toEnd() {
    const scroller = get("scroller");
    scroller.scrollTop = scroller.scrollHeight;
    get("latest").hidden = true;
  }

  #article(message) {
    const name = make("p", { className: "name", id: `name-${this.articles.size}-${message.id}` });
    const body = make("div", { className: "body" });
    const extras = make("div", { className: "extras" });
    const root = make("article", { className: `message ${message.role}` }, name, body, extras);
    root.dataset.id = message.id;
    root.setAttribute("aria-labelledby", name.id);
    const article = { root, name, body, extras, sources: [], extrasKey: "" };
    this.articles.set(message.id, article);
    return article;
  }

  #fill(article, message, note) {
    const { root, name, body } = article;
    const isUser = message.role === "user";
    const who = isUser ? this.texts.you : this.nameOf(message.name);
    if (name.textContent !== who) name.textContent = who;
    root.dataset.who = isUser ? "" : message.name ?? "";
    root.setAttribute("aria-busy", String(Boolean(message.isDraft)));
    root.classList.toggle("draft", Boolean(message.isDraft));
    const sources = isUser ? [message.text] : blocks(message.text);
    sources.forEach((source, index) => {
      if (article.sources[index] === source) return;
      const made = isUser ? make("p", { text: source }) : element(source);
      if (body.children[index]) body.children[index].replaceWith(made);
      else body.append(made);
    });
    while (body.children.length > sources.length) body.lastChild.remove();
    article.sources = sources;
    this.#extras(article, message, note);
  }

  // What belongs to an answer besides its words; made anew only when it changes.
  #extras(article, message, note) {
    const key = JSON.stringify([message.isDraft, message.isStopped, message.lookups, note]);
    if (article.extrasKey === key) return;
    article.extrasKey = key;
    const parts = [];
    if (message.isStopped) parts.push(make("p", { className: "aside", text: this.texts.stopped }));
    if (message.role === "assistant" && !message.isDraft && !message.isStopped) {
      if (note.escalation) parts.push(this.#escalation(note.escalation));
      if (note.degraded?.length) parts.push(this.#degraded(note.degraded));
      const lookups = this.#lookups(message.lookups ?? []);
      if (lookups.length) parts.push(this.#sources(lookups, note.sources ?? []));
      if (note.runId) parts.push(this.#feedback(message, note));
    }
    const focused = article.extras.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
    const isOpen = article.extras.querySelector("details")?.open;
    article.extras.replaceChildren(...parts);
    if (isOpen) article.extras.querySelector("details")?.setAttribute("open", "");
    if (focused) article.extras.querySelector(`[data-focus="${focused}"]`)?.focus();
  }

  #escalation(reason) {
    const { texts } = this;
    const card = make(
      "div",
      { className: "card human" },
      icon("M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zm-7.500 8a7.500 7.500 0 0 1 15 0"),
      make("div", {}, make("p", { className: "card-title", text: texts.escalated }), make("p", { text: this.#why(reason) })),
    );
    card.setAttribute("role", "note");
    return card;
  }

  #why(reason) {
    const { reasons, escalatedText } = this.texts;
    return Object.hasOwn(reasons, reason) ? `${reasons[reason]} ${escalatedText}` : escalatedText;
  }

  #degraded(entries) {
    const { texts } = this;
    const words = entries.map(({ what }) => {
      const [word, ...rest] = what.split(":");
      if (word === "specialist") return texts.lesser.specialist(this.nameOf(rest.join(":")));
      return Object.hasOwn(texts.lesser, word) ? texts.lesser[word] : texts.lesser.other;
    });
    const card = make(
      "div",
      { className: "card lesser" },
      icon("M12 8v5m0 3.500v.01M10.300 3.900 2.500 17.500A2 2 0 0 0 4.200 20.500h15.600a2 2 0 0 0 1.700-3L13.700 3.900a2 2 0 0 0-3.400 0z"),
      make("p", { text: `${texts.degraded}: ${[...new Set(words)].join("; ")}.` }),
    );
    card.setAttribute("role", "note");
    return card;
  }

  #sources(lookups, sources) {
    const { texts } = this;
    const list = make("ul");
    const seen = new Set();
    for (const { tool, titles, hasFailed } of lookups) {
      const used = titles.filter(({ id }) => sources.includes(id));
      const words = (used.length ? used : titles.slice(0, 3)).map(({ title }) => title);
      const text = `${named(texts.tools, tool)}${words.length ? `: ${texts.found(words)}` : ""}${hasFailed ? ` (${texts.failedTool})` : ""}`;
      if (!seen.has(text)) list.append(make("li", { text }));
      seen.add(text);
    }
    return make("details", { className: "lookups" }, make("summary", { text: `${texts.lookedUp}: ${this.lookedUp(lookups)}` }), list);
  }

  #feedback(message, note) {
    const { texts } = this;
    const thumb = (score, label, className) => {
      const button = make("button", { type: "button", className: `thumb ${className}`, title: label }, icon(THUMB));
      button.setAttribute("aria-label", label);
      button.setAttribute("aria-pressed", String(note.score === score));
      button.dataset.focus = className;
      button.addEventListener("click", () => this.on.feedback(message.id, score));
      return button;
    };
    const row = make("div", { className: "feedback" }, thumb(1, texts.good, "up"), thumb(0, texts.bad, "down"));
    if (note.score === 0 && note.comment === undefined) {
      const field = make("input", { type: "text", maxLength: 2000, placeholder: texts.wrong });
      field.setAttribute("aria-label", texts.wrong);
      field.dataset.focus = "comment";
      const form = make("form", { className: "row" }, field, make("button", { type: "submit", className: "quiet", text: texts.sendComment }));
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        this.on.feedback(message.id, 0, field.value.trim());
      });
      row.append(form);
    } else if (note.score !== undefined) {
      row.append(make("span", { className: "thanks", text: texts.thanked }));
    }
    return row;
  }

  // What went wrong with the last message, and the way to ask again.
  #failure(failure, isRunning) {
    const before = document.getElementById("failure");
    const key = failure && !isRunning ? JSON.stringify(failure) : "";
    if ((before?.dataset.key ?? "") === key) return;
    before?.remove();
    if (!key) return;
    const { texts } = this;
    const text = failure.isStopped || !failure.code ? texts.stoppedBefore : texts.failures[failure.code] ?? texts.failed;
    const again = make("button", { type: "button", className: "quiet", text: texts.askAgain, onclick: () => this.on.askAgain() });
    const card = make("div", { id: "failure", className: "card fault" }, make("p", { text }), again);
    card.dataset.key = key;
    get("asks").before(card);
  }

  // What the run asks a human: buttons for who may answer, patience for who may not.
  #asks(asks, isRunning, mayApprove) {
    const key = isRunning ? "" : JSON.stringify([asks, mayApprove]);
    if (this.asked === key) return;
    this.asked = key;
    const place = get("asks");
    place.replaceChildren(...(isRunning ? [] : asks.map((ask) => (mayApprove ? this.#ask(ask) : this.#waits(ask)))));
  }

  #waits({ value }) {
    const card = make("section", { className: "card ask" }, make("p", { text: value?.notice ?? this.texts.askedOther }));
    card.setAttribute("role", "note");
    return card;
  }

  #ask({ id, value }) {
    const { texts } = this;
    const isApproval = value?.kind === "approval";
    const title = make("h2", { id: `ask-${id}`, text: isApproval ? named(texts.actions, value.tool) : texts.askedTitle });
    const card = make("section", { className: "card ask" }, title);
    card.setAttribute("aria-labelledby", title.id);
    if (isApproval) {
      if (value.notice) card.append(make("p", { text: value.notice }));
      const facts = make("dl");
      for (const [name, given] of Object.entries(value.arguments ?? {})) {
        facts.append(make("dt", { text: named(texts.arguments, name) }), make("dd", { text: typeof given === "string" ? given : JSON.stringify(given) }));
      }
      card.append(facts);
      if (value.error) card.append(make("p", { className: "fault", text: texts.askedAgain(value.error) }));
      card.append(make("p", { className: "aside", text: [texts.askedText, value.next?.length ? texts.next(value.next.length) : ""].join(" ").trim() }));
      const comment = make("input", { type: "text", maxLength: 2000, id: `comment-${id}` });
      const answer = (approved) => () => this.on.answer(id, { approved, ...(comment.value.trim() ? { comment: comment.value.trim() } : {}) });
      card.append(
        make("label", { htmlFor: comment.id, text: texts.comment }),
        comment,
        make(
          "div",
          { className: "row" },
          make("button", { type: "button", className: "primary", text: texts.approve, onclick: answer(true) }),
          make("button", { type: "button", className: "quiet", text: texts.decline, onclick: answer(false) }),
        ),
      );
    } else {
      const question = typeof value === "string" ? value : value?.question ?? JSON.stringify(value);
      const field = make("input", { type: "text", id: `answer-${id}` });
      const form = make("form", { className: "row" }, field, make("button", { type: "submit", className: "primary", text: texts.sendAnswer }));
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        this.on.answer(id, field.value);
      });
      card.append(make("p", { text: question }), make("label", { htmlFor: field.id, text: texts.yourAnswer }), form);
    }
    return card;
  }
}
