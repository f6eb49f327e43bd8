// The chat: what is sent, followed, resumed and remembered. The conversation is in conversation.js, the elements in view.js.

import { Api, Refused, Unreachable, events } from "./api.js";
import { Conversation, isOpen } from "./conversation.js";
import { textsFor } from "./texts.js";
import { View } from "./view.js";

const BASE = new URL("..", import.meta.url);
const TOKEN = /^cbt_[\w-]+\.[\w-]+$/;
const THREAD = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/;
const LOOK_AGAIN = 5_000; // how often a page looks whether somebody else has answered what a run asks
const LONGEST_WAIT = 15_000;
const HANDED_OVER = 10_000; // how long the embedding page may take to hand over a token
const MOST_REFUSALS = 2; // how many tokens in a row the embedding page may hand over that are refused
const KEY = "capataz.chat";

// What survives a reload of this tab: the thread, what is unsent, the notes on its messages, a token; never an API key.
const memory = {
  own: stored(),
  read() {
    return this.own;
  },
  write(change) {
    this.own = { ...this.own, ...change };
    try {
      sessionStorage.setItem(KEY, JSON.stringify(this.own));
    } catch {
      // A browser that lets a frame of another site store nothing: the page around it keeps the thread, the rest is forgotten.
      if (parentOrigin) tell("keep", { threadId: this.own.threadId ?? null });
    }
  },
};

const given = new URLSearchParams(location.hash.slice(1));
const parentOrigin = window.parent !== window ? given.get("embed") : null;
const texts = textsFor(given.get("lang") ?? navigator.language);
const conversation = new Conversation(memory.read().notes);
const api = new Api(BASE, (refused) => renewed(refused));
const view = new View(texts, { send, stop, escape, startAnew, askAgain, answer, feedback, token: takeToken, close: closeEmbedded });

let session = { assistant_id: "supervisor", may_approve: false, may_name_customer: false, expires_in: null };
let threadId = memory.read().threadId ?? null;
let work = null; // the request or stream under way: {controller, runId, wantsStop}
let drawing = 0;
let tokenWaiters = [];
let renewal;
let hasStarted = false;
let isReady = false; // the thread has been read, so that something can be said on it
let isAwaited = false; // somebody wants to send what is in the field as soon as that is so
let lastSpeaker = "";

start();

async function start() {
  takeFragment();
  draw();
  if (parentOrigin) await handedOver();
  await persistently(async () => {
    session = await api.json("GET", "chat/session");
    hasStarted = true;
    planRenewal();
  });
  if (hasStarted) {
    view.gate(false);
    draw();
    if (!parentOrigin) view.focusMessage();
    await persistently(restore);
  }
  ready();
}

function ready() {
  isReady = true;
  if (isAwaited) send(view.draft);
  isAwaited = false;
  draw();
}

// --- what was there before a reload

async function restore() {
  if (work) return; // a second try, and something has been said in the meantime
  const underWay = threadId ? await read() : null;
  const { unsent } = memory.read();
  if (!unsent) {
    const following = goOn(underWay);
    ready();
    await following;
    return;
  }
  threadId = unsent.threadId;
  if (unsent.body.input) conversation.say(unsent.body.input.messages[0]);
  else conversation.begin();
  const delivering = deliver(unsent);
  ready();
  await delivering;
}

async function load() {
  await goOn(await read());
}

// Read the thread; the id of the run that is under way on it, if there is one.
async function read() {
  const thread = threadId;
  try {
    // The runs first: what ends in between is then in the thread.
    const [run] = await api.json("GET", `threads/${thread}/runs?limit=1`);
    const { values, interrupts } = await api.json("GET", `threads/${thread}`);
    if (threadId !== thread) return null; // a new conversation has begun
    conversation.load(values, interrupts, run);
    keep();
    draw();
    return run && isOpen(run) ? run.run_id : null;
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 404) throw error;
    if (threadId === thread && !memory.read().unsent) lose();
    return null;
  }
}

// Follow the run that is under way; without one, look whether somebody else answers what is asked.
async function goOn(runId) {
  if (runId) await followed(runId, null);
  else watch();
}

// The thread is not there any more, or not ours.
function lose() {
  forget();
  view.notice(texts.gone, [], "info");
  draw();
}

// --- sending

async function send(text) {
  const said = text.trim();
  if (!said || work) return;
  if (!isReady) {
    isAwaited = true; // it stays in the field until then
    draw();
    return;
  }
  view.draft = "";
  view.notice("");
  const message = { role: "user", content: said, id: uuid() };
  conversation.say(message);
  view.followsEnd = true;
  await create({ input: { messages: [message], customer: customer() } });
}

async function askAgain() {
  const last = conversation.messages.findLast(({ role }) => role === "user");
  if (!last || work) return;
  conversation.begin();
  view.focusMessage();
  await create({ input: { messages: [{ role: "user", content: last.text, id: last.id }], customer: customer() } });
}

async function answer(id, given_) {
  if (work) return;
  conversation.begin();
  view.focusMessage();
  view.announce(given_?.approved === undefined ? "" : given_.approved ? texts.approved : texts.declined);
  await create({ command: { resume: { [id]: given_ } } });
}

async function create(wanted) {
  threadId ??= uuid();
  const body = {
    assistant_id: session.assistant_id,
    ...wanted,
    stream_mode: ["values", "updates", "messages-tuple"],
    stream_resumable: true,
  };
  const unsent = { threadId, key: uuid(), body };
  memory.write({ threadId, unsent });
  await deliver(unsent);
}

// Bring a request for a run to the service however often that takes: with its key the same request is the same run.
async function deliver(unsent) {
  const mine = (work = { controller: new AbortController(), runId: null, wantsStop: false });
  draw();
  try {
    for (let tries = 0; ; tries += 1) {
      try {
        await api.json("POST", "threads", { body: { thread_id: unsent.threadId, if_exists: "do_nothing" }, signal: mine.controller.signal });
        const response = await api.request("POST", `threads/${unsent.threadId}/runs/stream`, {
          body: unsent.body,
          headers: { "Idempotency-Key": unsent.key },
          signal: mine.controller.signal,
        });
        view.notice("");
        memory.write({ unsent: null });
        const runId = /\/runs\/([^/]+)$/.exec(response.headers.get("Content-Location"))[1];
        await followed(runId, response, mine);
        return;
      } catch (error) {
        if (mine.controller.signal.aborted) return;
        if (error instanceof Unreachable) await patience(texts.unsent, backoff(tries), mine);
        else if (error instanceof Refused && error.mayPass) await patience(null, (error.retryAfter ?? 2 ** Math.min(tries, 4)) * 1000, mine);
        else {
          await refusedForGood(error, unsent);
          return;
        }
        if (mine.controller.signal.aborted) return;
      }
    }
  } finally {
    if (work === mine) work = null;
    draw();
  }
}

// The service has said no, and would say it again.
async function refusedForGood(error, unsent) {
  memory.write({ unsent: null });
  if (error instanceof Refused && error.status === 409 && unsent.body.command) {
    view.notice(texts.otherAnswered, [], "info");
    work = null;
    await persistently(load);
    return;
  }
  if (error.status === 404 && unsent.body.input) {
    view.draft ||= conversation.messages.at(-1)?.text ?? "";
    lose();
    return;
  }
  if (!(error instanceof Refused)) console.error(error);
  conversation.failure = { code: "" };
  view.notice(explained(error));
}

function explained(error) {
  if (!(error instanceof Refused)) return texts.failed;
  if (error.status === 401) return texts.expired;
  if (error.status === 403) return texts.refused;
  return texts.failures[error.code] ?? `${texts.failed} ${error.detail}`;
}

// --- following

// Follow a run to its end, over as many connections as that takes.
async function followed(runId, response, mine = null) {
  const here = mine ?? { controller: new AbortController(), runId, wantsStop: false };
  work = here;
  here.runId = runId;
  conversation.follow(runId);
  draw();
  if (here.wantsStop) cancel(here);
  const path = `threads/${threadId}/runs/${runId}/stream`; // what Location says, also behind a proxy that knows of no prefix
  let tries = 0;
  const { signal } = here.controller;
  const { run } = conversation;
  try {
    for (let current = response; ; current = null) {
      const before = run.last;
      try {
        current ??= await api.stream(path, run.last || -1, signal);
        if (tries > 0) view.notice("");
        for await (const event of events(current)) {
          if (conversation.apply(event)) return await ended();
          draw();
        }
        if (run.last === before && (await hasEnded(path, signal))) return await ended(true);
      } catch (error) {
        if (signal.aborted) return; // a new conversation has begun
        if (error instanceof Refused && !error.mayPass) return await ended(true);
        if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
      }
      tries = run.last > before ? 1 : tries + 1;
      await patience(tries > 1 ? texts.offline : null, backoff(tries - 1), here, true);
      if (signal.aborted) return;
    }
  } finally {
    if (work === here) work = null;
    draw();
  }
}

async function hasEnded(path, signal) {
  return !isOpen(await api.json("GET", path.replace(/\/stream$/, ""), { signal }));
}

// The run is over; `isBlind`: its last events could not be had, so the thread tells what came of it.
async function ended(isBlind = false) {
  conversation.run = null;
  work = null;
  view.notice("");
  if (isBlind) await load();
  keep();
  draw();
  const last = conversation.shown().at(-1);
  if (conversation.asks.length) view.announce(conversation.asks[0].value?.notice ?? texts.askedTitle);
  else if (last?.role === "assistant") view.announce(`${view.nameOf(last.name)}: ${last.text}`);
  watch();
}

// As long as a run waits for somebody else's answer, look whether it has come.
async function watch() {
  const watched = conversation.asks;
  const thread = threadId;
  while (watched.length && conversation.asks === watched && threadId === thread && !work) {
    await pause(LOOK_AGAIN);
    if (document.hidden || conversation.asks !== watched || work || threadId !== thread) continue;
    try {
      const { status, interrupts } = await api.json("GET", `threads/${thread}`);
      const ids = Object.values(interrupts).flat().map(({ id }) => id).join();
      if (status !== "interrupted" || ids !== watched.map(({ id }) => id).join()) return await load();
    } catch (error) {
      if (error instanceof Refused && !error.mayPass) return undefined;
    }
  }
  return undefined;
}

function stop() {
  if (!work || work.wantsStop) return;
  work.wantsStop = true;
  if (work.runId) cancel(work);
  else work.giveUp?.(); // it waits for its turn to be sent
}

async function cancel(here) {
  try {
    await api.json("POST", `threads/${threadId}/runs/${here.runId}/cancel`, { signal: here.controller.signal });
  } catch (error) {
    if (error.name === "AbortError" || (error instanceof Refused && error.status === 404)) return; // it has ended by itself
    here.wantsStop = false;
    view.notice(texts.failures.storage_unavailable, [[texts.retry, () => (view.notice(""), stop())]]);
  }
}

function escape() {
  if (work) stop();
  else closeEmbedded();
}

function startAnew() {
  work?.controller.abort();
  work = null;
  forget();
  view.notice("");
  view.draft = "";
  view.announce(texts.began);
  draw();
  view.focusMessage();
}

// --- feedback

async function feedback(messageId, score, comment) {
  const note = conversation.notes[messageId];
  const before = { ...note };
  Object.assign(note, { score, comment: comment ?? (score === 1 ? "" : undefined) });
  draw();
  try {
    const body = { key: "user_score", score, ...(comment ? { comment } : {}) };
    await api.json("POST", `threads/${threadId}/runs/${note.runId}/feedback`, { body });
    view.announce(texts.thanks);
    view.notice("");
  } catch (error) {
    conversation.notes[messageId] = before;
    view.notice(explained(error), [[texts.retry, () => feedback(messageId, score, comment)]]);
  }
  keep();
  draw();
}

// --- patience

// Wait, saying why; what is waited for can be had at once, or be given up unless it goes on anyway.
function patience(text, milliseconds, here, isFollowing = false) {
  const end = performance.now() + milliseconds;
  return new Promise((resolve) => {
    const done = () => {
      clearInterval(ticking);
      window.removeEventListener("online", done);
      here.giveUp = undefined;
      here.controller.signal.removeEventListener("abort", done);
      resolve();
    };
    const giveUp = () => {
      const last = conversation.messages.at(-1);
      here.controller.abort();
      memory.write({ unsent: null });
      if (last?.role === "user" && !view.draft) {
        conversation.messages = conversation.messages.slice(0, -1);
        view.draft = last.text;
      }
      view.notice("");
      view.focusMessage();
    };
    if (!isFollowing) here.giveUp = giveUp;
    const tellWhy = () => {
      const left = Math.ceil((end - performance.now()) / 1000);
      if (left <= 0) return done();
      if (text === null && isFollowing) return undefined;
      const actions = [[texts.retryNow, done], ...(isFollowing ? [] : [[texts.cancel, giveUp]])];
      return view.notice(text ?? texts.busy(left), actions, "info");
    };
    const ticking = setInterval(tellWhy, 250);
    window.addEventListener("online", done);
    here.controller.signal.addEventListener("abort", done);
    tellWhy();
  });
}

function backoff(tries) {
  return Math.min(LONGEST_WAIT, 1000 * 2 ** tries) * (0.75 + Math.random() / 2);
}

// Do something that a lost connection may interrupt, until it is done.
async function persistently(act) {
  for (let tries = 0; ; tries += 1) {
    try {
      await act();
      if (tries > 0) view.notice("");
      return;
    } catch (error) {
      if (!(error instanceof Unreachable || (error instanceof Refused && error.mayPass))) {
        if (error.name !== "AbortError") view.notice(explained(error));
        return;
      }
      await patience(texts.failures.storage_unavailable, (error.retryAfter ?? 0) * 1000 || backoff(tries), { controller: new AbortController() }, true);
    }
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

// --- tokens

function takeFragment() {
  const token = given.get("token");
  if (token) {
    if (TOKEN.test(token)) memory.write({ token });
    // The address must not keep what it was only meant to hand over.
    given.delete("token");
    history.replaceState(null, "", given.size ? `#${given}` : location.pathname + location.search);
  }
  api.token = memory.read().token ?? null;
}

function takeToken(token) {
  if (!TOKEN.test(token)) {
    view.gate(true, texts.gateWrong);
    return;
  }
  receive(token);
  view.gate(false);
  view.notice("");
}

function receive(token) {
  memory.write({ token });
  api.token = token;
  const waiting = tokenWaiters;
  tokenWaiters = [];
  for (const resolve of waiting) resolve(token);
  if (hasStarted) refreshSession();
}

// Another token in place of the one that was refused: from the page around us, else from whoever sits here.
function renewed(refused) {
  if (tokenWaiters.length === 0) {
    if (parentOrigin && api.refusals <= MOST_REFUSALS) {
      askParent();
      setTimeout(() => tokenWaiters.length && view.gate(true), HANDED_OVER);
    } else {
      memory.write({ token: null });
      view.gate(true, refused.code === "api_key_missing" ? "" : texts.expired);
      draw();
    }
  }
  return new Promise((resolve) => tokenWaiters.push(resolve));
}

async function refreshSession() {
  try {
    session = await api.json("GET", "chat/session");
    planRenewal();
    draw();
  } catch {
    // the next request says what is wrong
  }
}

// Ask for the next token while this one is still good.
function planRenewal() {
  clearTimeout(renewal);
  if (!parentOrigin || session.expires_in === null) return;
  renewal = setTimeout(askParent, (session.expires_in - Math.min(60, session.expires_in / 4)) * 1000);
}

// --- embedded in another page

// Say that we are here; resolves when the page around us has handed over a token, or has said that it has none.
function handedOver() {
  view.canClose();
  return new Promise((resolve) => {
    setTimeout(resolve, HANDED_OVER);
    window.addEventListener("message", ({ source, origin, data }) => {
      if (source !== window.parent || origin !== parentOrigin || typeof data !== "object" || data === null) return;
      if (data.type === "capataz:shown") view.focusMessage();
      if (data.type !== "capataz:token") return;
      if (!hasStarted && THREAD.test(data.threadId)) threadId ??= data.threadId;
      if (TOKEN.test(data.token)) {
        view.gate(false);
        receive(data.token);
      }
      resolve();
    });
    tell("ready");
  });
}

function askParent() {
  tell("token-wanted");
}

function closeEmbedded() {
  if (parentOrigin) tell("close");
}

function tell(what, more = {}) {
  window.parent.postMessage({ type: `capataz:${what}`, ...more }, parentOrigin);
}

// --- odds and ends

function customer() {
  const named = session.may_name_customer ? { id: given.get("customer"), tier: given.get("tier") } : {};
  const locale = /^[a-z]{2,3}(-[a-z0-9]{2,8})*$/i.exec(navigator.language)?.[0];
  return { ...(locale ? { locale } : {}), ...Object.fromEntries(Object.entries(named).filter(([, value]) => value)) };
}

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

function keep() {
  memory.write({ notes: conversation.notes });
}

function forget() {
  threadId = null;
  conversation.clear();
  conversation.notes = {};
  memory.write({ threadId: null, unsent: null, notes: {} });
}

function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID(); // pages without TLS have none
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function draw() {
  if (drawing) return;
  const paint = () => {
    drawing = 0;
    const state = activity();
    view.render(conversation, {
      isRunning: work !== null,
      activity: state,
      mayApprove: session.may_approve,
      hasBegun: threadId !== null,
      isBlocked: !document.getElementById("gate").hidden,
    });
  };
  // A page in the background paints no frames, but its text must be right when it is looked at.
  drawing = document.hidden ? setTimeout(paint, 100) : requestAnimationFrame(paint);
}

// What goes on, in a few words; null while a text can be seen to grow.
function activity() {
  if (!work) {
    lastSpeaker = "";
    return isAwaited && document.getElementById("gate").hidden ? texts.connecting : null;
  }
  const { speaker } = conversation;
  const isWriting = [...conversation.drafts.values()].some(({ text }) => text);
  if (speaker && speaker !== lastSpeaker) {
    lastSpeaker = speaker;
    view.announce(texts.working(view.nameOf(speaker)));
  }
  const looked = view.lookedUp(conversation.lookups.filter(({ isOver }) => !isOver));
  if (isWriting) return texts.writing(view.nameOf(speaker));
  if (looked) return `${view.nameOf(speaker)} · ${texts.looking(looked)}`;
  return speaker ? texts.working(view.nameOf(speaker)) : texts.thinking;
}
