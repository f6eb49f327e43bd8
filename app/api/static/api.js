// How the page talks to the service: requests with a token, errors as objects, Server-Sent Events as an async sequence.

const SILENCE = 15_000; // a stream says something every 5 s; one that is silent for this long is dead

// The service refused. `code` is its stable word, `retryAfter` its wish in seconds.
export class Refused extends Error {
  constructor(status, code, detail, retryAfter) {
    super(detail);
    Object.assign(this, { status, code, detail, retryAfter });
  }

  get mayPass() {
    return this.status === 429 || this.status >= 500;
  }
}

// Nothing came back at all.
export class Unreachable extends Error {}

export class Api {
  // `renew` is asked for another token when one is refused; it resolves to the token.
  constructor(base, renew) {
    this.base = base;
    this.token = null;
    this.renew = renew;
    this.refusals = 0; // of tokens, one after the other
    this.renewal = null; // one for all requests that met the same refusal
  }

  async json(method, path, options) {
    const response = await this.request(method, path, options);
    try {
      return response.status === 204 || response.status === 202 ? null : await response.json();
    } catch {
      throw new Unreachable("the answer broke off");
    }
  }

  async request(method, path, { body, headers = {}, signal } = {}) {
    for (;;) {
      const sent = this.token;
      const response = await this.#fetch(method, path, body, headers, signal);
      if (response.status !== 401) {
        this.refusals = 0;
        if (response.ok) return response;
        throw await refusal(response);
      }
      const refused = await refusal(response);
      if (this.token === sent) await (this.renewal ??= this.#renewed(refused));
    }
  }

  async #renewed(refused) {
    this.refusals += 1;
    try {
      this.token = await this.renew(refused);
    } finally {
      this.renewal = null;
    }
  }

  // The events after `after`, from wherever the run executes by now.
  stream(path, after, signal) {
    return this.request("GET", path, { headers: { Accept: "text/event-stream", "Last-Event-ID": String(after) }, signal });
  }

  async #fetch(method, path, body, headers, signal) {
    const all = { ...headers };
    if (body !== undefined) all["Content-Type"] = "application/json";
    if (this.token) all.Authorization = `Bearer ${this.token}`;
    try {
      return await fetch(new URL(path, this.base), {
        method,
        headers: all,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal,
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Unreachable(error.message);
    }
  }
}

async function refusal(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // a proxy's own page
  }
  const wish = Number(response.headers.get("Retry-After"));
  return new Refused(response.status, problem.code ?? "", problem.detail ?? response.statusText, wish > 0 ? wish : undefined);
}

// The events of a stream as `{name, data, id}`. Ends when the stream ends, whole events only.
export async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await lively(reader);
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const frames = rest.split(/\r?\n\r?\n/);
      rest = frames.pop();
      for (const frame of frames) {
        const event = parse(frame);
        if (event) yield event;
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable(error.message);
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function lively(reader) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Unreachable("the stream is silent")), SILENCE);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } finally {
    clearTimeout(timer);
  }
}

function parse(frame) {
  const event = { name: "message", data: "", id: 0 };
  const data = [];
  for (const line of frame.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue; // a comment, or nothing that we know
    const value = line.slice(colon + 1).replace(/^ /, "");
    const field = line.slice(0, colon);
    if (field === "data") data.push(value);
    else if (field === "event") event.name = value;
    else if (field === "id") event.id = Number(value);
  }
  if (!data.length) return null;
  event.data = JSON.parse(data.join("\n"));
  return event;
}
