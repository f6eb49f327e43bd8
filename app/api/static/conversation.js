// What is said, as far as the page knows: the state's messages, and the drafts that are being written. No DOM in here.
//
// A `values` event is the state and wins over everything. Tokens make drafts. A draft stays until the state has its message, until
// another step writes in its place, until a further attempt of the run says what it goes on from, or until the run ends.

const CONTROLS = new Set(["conclude", "hand_back", "call_human"]); // how a specialist ends its work; nothing is looked up by them

export class Conversation {
  constructor(notes = {}) {
    this.notes = notes; // by message id: what the last `values` said about it, kept since the state knows the latest turn only
    this.clear();
  }

  clear() {
    this.messages = [];
    this.drafts = new Map();
    this.asks = [];
    this.stopped = []; // drafts that the customer has read and then stopped
    this.lookups = []; // of the turn under way
    this.run = null;
    this.decided = null;
    this.failure = null;
  }

  // The thread as it was read.
  load(values, interrupts, run) {
    this.drafts.clear();
    this.stopped = [];
    this.failure = null;
    this.decided = null;
    this.#values(values ?? {}, run?.run_id);
    this.asks = run && isOpen(run) ? [] : Object.values(interrupts ?? {}).flat();
    if (run && !isOpen(run)) {
      const last = this.messages.at(-1);
      if (last?.role === "user" && !this.asks.length) this.failure = { code: "", isStopped: run.status === "interrupted" };
    }
  }

  // A message that is on its way.
  say(message) {
    this.messages = [...this.messages.filter(({ id }) => id !== message.id), { id: message.id, role: "user", text: message.content }];
    this.begin();
  }

  begin() {
    this.failure = null;
    this.asks = [];
    this.lookups = [];
    this.decided = null;
    this.drafts.clear();
  }

  // Follow a run from its first event.
  follow(runId) {
    this.run = { id: runId, attempt: 1, last: 0, isSnapshotDue: false };
    this.drafts.clear();
  }

  // One event of the run that is followed; whether it was its last.
  apply({ name, data, id }) {
    const run = this.run;
    if (id && id <= run.last) return false;
    run.last = id || run.last;
    switch (name) {
      case "metadata":
        run.isSnapshotDue ||= data.attempt > run.attempt;
        run.attempt = data.attempt;
        return false;
      case "values":
        if (run.isSnapshotDue) {
          this.drafts.clear();
          this.decided = null;
          run.isSnapshotDue = false;
        }
        this.#values(data, run.id);
        this.asks = data.__interrupt__ ?? [];
        return false;
      case "updates":
        this.#update(data);
        return false;
      case "messages":
        this.#token(...data);
        return false;
      case "end":
        this.#end(data.status === "interrupted");
        return true;
      case "error":
        this.drafts.clear();
        this.decided = null;
        this.run = null;
        this.failure = data;
        return true;
      default:
        return false;
    }
  }

  // Everything to be shown, in order.
  shown() {
    const drafts = [...this.drafts.values()].filter(({ text }) => text).map((draft) => ({ ...draft, role: "assistant", isDraft: true }));
    const known = new Set(this.messages.map(({ id }) => id));
    const after = (kept) => {
      const at = this.messages.findIndex(({ id }) => id === kept.after);
      return at < 0 ? this.messages.length : at;
    };
    const all = [...this.messages];
    for (const kept of this.stopped.toReversed()) if (!known.has(kept.id)) all.splice(after(kept) + 1, 0, kept);
    return [...all, ...drafts];
  }

  // Who is known to be at work.
  get speaker() {
    return [...this.drafts.values()].at(-1)?.name ?? this.decided;
  }

  #end(isStopped) {
    if (isStopped) {
      const last = this.messages.at(-1);
      const read = [...this.drafts.values()].filter(({ text }) => text);
      this.stopped.push(...read.map((draft) => ({ ...draft, role: "assistant", isStopped: true, after: last?.id })));
      if (last?.role === "user" && !read.length) this.failure = { code: "", isStopped: true };
    }
    this.drafts.clear();
    this.decided = null;
    this.run = null;
  }

  #values(values, runId) {
    const { shown, open } = readable(values.messages ?? []);
    this.messages = shown;
    this.lookups = open;
    for (const { id } of shown) this.drafts.delete(id);
    const last = shown.at(-1);
    // In a new turn the state still has the words of the last one until the supervisor has begun.
    if (last?.role !== "assistant" || !values.answer || values.answer !== last.text || this.notes[last.id]?.isFinal) return;
    this.notes[last.id] = {
      isFinal: true,
      runId: runId ?? this.notes[last.id]?.runId,
      sources: values.sources ?? [],
      degraded: values.degraded ?? [],
      escalation: values.escalation?.reason ?? null,
    };
  }

  #update(update) {
    for (const change of Object.values(update)) {
      const decision = change?.decision;
      if (decision?.specialist && decision.specialist !== "human") this.decided = decision.specialist;
    }
  }

  #token(message, metadata) {
    if (!["AIMessageChunk", "ai"].includes(message.type) || this.messages.some(({ id }) => id === message.id)) return;
    const step = metadata.langgraph_checkpoint_ns ?? metadata.langgraph_step;
    let draft = this.drafts.get(message.id);
    if (!draft) {
      for (const [id, other] of this.drafts) if (other.step !== step) this.drafts.delete(id);
      draft = { id: message.id, text: "", name: message.name ?? metadata.langgraph_node, step };
      this.drafts.set(message.id, draft);
    }
    const text = textOf(message.content);
    draft.text = message.type === "ai" ? text : draft.text + text;
    for (const { name } of [...(message.tool_call_chunks ?? []), ...(message.tool_calls ?? [])]) {
      if (name && !CONTROLS.has(name) && !this.lookups.some(({ tool, isOver }) => tool === name && !isOver)) {
        this.lookups.push({ tool: name, titles: [] });
      }
    }
  }
}

export function isOpen(run) {
  return run.status === "pending" || run.status === "running";
}

// The state's messages as a person reads them: tool calls and their results become what was looked up for the answer after them.
function readable(messages) {
  const shown = [];
  let open = [];
  for (const message of messages) {
    const text = textOf(message.content);
    if (message.type === "human") {
      open = [];
      shown.push({ id: message.id, role: "user", text });
    } else if (message.type === "ai") {
      const calls = (message.tool_calls ?? []).filter(({ name }) => !CONTROLS.has(name));
      if (text) shown.push({ id: message.id, role: "assistant", text, name: message.name, lookups: calls.length ? [] : open });
      if (text && !calls.length) open = [];
      open = [...open, ...calls.map(({ id, name }) => ({ id, tool: name, titles: [] }))];
    } else if (message.type === "tool") {
      const call = open.find(({ id }) => id === message.tool_call_id);
      if (call) Object.assign(call, { isOver: true, hasFailed: message.status === "error", titles: titlesOf(text) });
    }
  }
  return { shown, open };
}

// What a tool's result is called, where it has titles.
function titlesOf(text) {
  try {
    const { articles } = JSON.parse(text);
    return (articles ?? []).map(({ id, title }) => ({ id, title }));
  } catch {
    return [];
  }
}

function textOf(content) {
  if (typeof content === "string") return content;
  return (content ?? []).map((part) => (typeof part === "string" ? part : part.type === "text" ? part.text : "")).join("");
}
