/**
 * Follows a run or a thread: the events of a stream as the generated types have them, taken up again where the connection was cut.
 *
 * It takes the place of the generator's own file, which sends a POST again after any error and yields data without their names. Here a run
 * is created once however often its request has to be sent: a POST carries an `Idempotency-Key`, the caller's or a new one. After the
 * answer has begun, only its `Location` is asked, with the id of the last event that was read; the stream of protocol v2 has none, and goes
 * on after the `since` of its request.
 */
import type { Config } from './types.gen.js';

export type ServerSentEventsOptions<TData = unknown> = Omit<RequestInit, 'method'> &
  Pick<Config, 'method' | 'responseTransformer' | 'responseValidator'> & {
    fetch?: typeof fetch;
    onRequest?: (url: string, init: RequestInit) => Promise<Request>;
    /** Told of every failure after which the stream is asked for again. */
    onSseError?: (error: unknown) => void;
    /** Told of every event before it is yielded. */
    onSseEvent?: (event: SseEvent<TData>) => void;
    serializedBody?: RequestInit['body'];
    /** The first wait before coming back unless the service names another, milliseconds. Default: 1000. */
    sseDefaultRetryDelay?: number;
    /** How often in a row a stream may fail to bring a new event before it is given up. Default: 5. */
    sseMaxRetryAttempts?: number;
    /** The longest wait before coming back, milliseconds. Default: 30000. */
    sseMaxRetryDelay?: number;
    sseSleepFn?: (ms: number) => Promise<void>;
    url: string;
  };

export interface SseEvent<TData = unknown> {
  event?: string;
  id?: string;
  retry?: number;
  data: TData;
}

/** Errors are thrown: what the generator passes as the second type is not what a stream returns. */
export type ServerSentEventsResult<TData = unknown, _TError = unknown> = {
  stream: AsyncGenerator<TData extends Record<string, unknown> ? TData[keyof TData] : TData, void, unknown>;
};

/** The service says no; `problem` says why, if the answer has the documented form. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly problem: { code: string; detail: string; title: string; request_id?: string | null } | undefined,
  ) {
    super(problem?.detail ?? `HTTP status ${status}`);
    this.name = 'Refused';
  }
}

/** The stream was cut and could not be taken up again; the run goes on without a reader. */
export class StreamLost extends Error {
  constructor(tries: number, options: ErrorOptions) {
    super(`no new event in ${tries} tries`, options);
    this.name = 'StreamLost';
  }
}

type Frame = { event?: string; id?: string; retry?: string; data?: string };

const TERMINAL = new Set(['end', 'error']);
/** A connection that says nothing for so long is dead, milliseconds: the service says something every 5 seconds. */
const SILENCE = 20_000;

export const createSseClient = <TData = unknown>(options: ServerSentEventsOptions<TData>): ServerSentEventsResult<TData> => ({
  stream: follow(options) as ServerSentEventsResult<TData>['stream'],
});

async function* follow(options: ServerSentEventsOptions<any>): AsyncGenerator<unknown, void, unknown> {
  const { onRequest, onSseError, onSseEvent, responseTransformer, responseValidator, serializedBody, url, ...given } = options;
  const { sseDefaultRetryDelay = 1000, sseMaxRetryAttempts = 5, sseMaxRetryDelay = 30_000, sseSleepFn, fetch: own, ...init } = given;
  const sleep = sseSleepFn ?? ((ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms)));
  const first = new Headers(init.headers as HeadersInit | undefined);
  first.set('Accept', 'text/event-stream');
  if (init.method === 'POST' && !first.has('Idempotency-Key')) first.set('Idempotency-Key', crypto.randomUUID());
  let lastId = first.get('Last-Event-ID') ?? '-1';
  let comeBack: string | undefined;
  let isOfARun = false;
  let isProtocol = false;
  let body = serializedBody;
  let hasBegun = false;
  let delay = sseDefaultRetryDelay;
  let failures = 0;

  while (true) {
    let cause: unknown;
    const connection = new AbortController();
    const leave = () => connection.abort(init.signal?.reason);
    init.signal?.addEventListener('abort', leave);
    if (init.signal?.aborted) return;
    try {
      const next: RequestInit = { ...init, body, headers: first, signal: connection.signal };
      if (comeBack !== undefined) {
        const headers = new Headers(first);
        headers.delete('Content-Type');
        headers.delete('Idempotency-Key');
        headers.set('Last-Event-ID', lastId);
        Object.assign(next, { method: 'GET', body: undefined, headers });
      }
      const where = comeBack ?? url;
      const response = await (own ?? globalThis.fetch)(onRequest ? await onRequest(where, next) : new Request(where, next));
      if (!response.ok) throw await refusal(response);
      hasBegun = true;
      const location = response.headers.get('Location');
      if (location !== null) {
        comeBack = new URL(location, response.url).href;
        isOfARun = /\/runs\/[^/]+\/stream$/.test(location);
      } else if (init.method === 'GET') {
        comeBack ??= url;
      } else if (comeBack === undefined) {
        isProtocol = true;
      }
      for await (const frame of frames(response, connection)) {
        if (frame.retry !== undefined) delay = Number(frame.retry) || delay;
        if (frame.data === undefined || frame.data === '[DONE]') continue;
        failures = 0;
        lastId = frame.id ?? lastId;
        let data: unknown = JSON.parse(frame.data);
        await responseValidator?.(data);
        if (responseTransformer) data = await responseTransformer(data);
        onSseEvent?.({ event: frame.event, id: frame.id, retry: delay, data });
        if (isProtocol && frame.id !== undefined && typeof serializedBody === 'string') {
          body = JSON.stringify({ ...JSON.parse(serializedBody), since: Number(frame.id) });
        }
        if (frame.event === undefined || isProtocol) {
          yield data;
          continue;
        }
        const [event, ...namespace] = frame.event.split('|');
        yield { event, namespace, id: frame.id, data };
        if (isOfARun && TERMINAL.has(event!)) return;
      }
      if (!isOfARun) return; // a proper end is the last word, but for a run, whose last event is
    } catch (error) {
      if (init.signal?.aborted) return;
      const isFinal = error instanceof Refused && (!hasBegun || (error.status < 500 && error.status !== 429));
      if (isFinal || error instanceof SyntaxError) throw error;
      cause = error;
      onSseError?.(error);
    } finally {
      init.signal?.removeEventListener('abort', leave);
      connection.abort(); // whoever leaves the loop leaves the connection
    }
    failures += 1;
    if (failures > sseMaxRetryAttempts) throw new StreamLost(sseMaxRetryAttempts, { cause });
    await sleep(Math.min(delay * 2 ** (failures - 1), sseMaxRetryDelay));
  }
}

async function refusal(response: Response): Promise<Refused> {
  try {
    const problem = await response.json();
    return new Refused(response.status, typeof problem?.code === 'string' ? problem : undefined);
  } catch {
    return new Refused(response.status, undefined);
  }
}

async function* frames(response: Response, connection: AbortController): AsyncGenerator<Frame, void, unknown> {
  if (response.body === null) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let frame: Frame = {};
  while (true) {
    const silence = setTimeout(() => connection.abort(new Error('the connection has gone silent')), SILENCE);
    const { done, value } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines.map((text) => text.replace(/\r$/, ''))) {
      if (line === '') {
        yield frame;
        frame = {};
        continue;
      }
      const colon = line.indexOf(':');
      const name = colon < 0 ? line : line.slice(0, colon);
      const text = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (name === 'data') frame.data = frame.data === undefined ? text : `${frame.data}\n${text}`;
      else if (name === 'event' || name === 'id' || name === 'retry') frame[name] = text;
    }
  }
}
