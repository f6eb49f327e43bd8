// What a TypeScript program does with the generated client; prints what it saw as JSON. See test_generated_sdks.py.
import {
  cancelRun,
  createClient,
  createConfig,
  createRun,
  createThread,
  getRun,
  getThread,
  joinRunStream,
  joinThreadStream,
  Refused,
  sendThreadCommand,
  type StreamEvent,
  streamThreadEvents,
  streamRun,
  waitForRun,
} from 'capataz-client';

const connect = (baseUrl: string) => createClient(createConfig({ baseUrl, auth: process.env.API_KEY! }));
const client = connect(process.env.BASE_URL!);
const cutClient = connect(process.env.CUT_URL!);
const says = (content: string) => ({ messages: [{ role: 'user', content }] });
const seen: Record<string, unknown> = {};

async function newThread(): Promise<{ thread_id: string }> {
  const { data, error } = await createThread({ client, body: {} });
  if (error !== undefined) throw new Error(error.detail);
  return { thread_id: data.thread_id };
}

async function all(stream: AsyncIterable<StreamEvent>): Promise<StreamEvent[]> {
  const events: StreamEvent[] = [];
  for await (const event of stream) events.push(event);
  return events;
}

{
  const path = await newThread();
  const create = { client, path, body: { assistant_id: 'brisk', input: says('a') }, headers: { 'Idempotency-Key': crypto.randomUUID() } };
  const runs = [await createRun(create), await createRun(create)];
  seen.created = runs.map(({ data }) => data?.run_id);
}

{
  const body = { assistant_id: 'brisk', input: says('a b\u2028 \x85 c\r ñ 🐙'), stream_mode: ['messages-tuple', 'custom'], stream_subgraphs: true } as const;
  const { stream } = await streamRun({ client, path: await newThread(), body: { ...body, stream_mode: [...body.stream_mode] } });
  const streamed: Record<string, unknown> = { text: '' };
  for await (const event of stream) {
    switch (event.event) {
      case 'metadata':
        streamed.attempt = event.data.attempt satisfies number;
        break;
      case 'messages': {
        const [message, metadata] = event.data;
        if (message.type === 'AIMessageChunk' && metadata.langgraph_node === 'echo') streamed.text += String(message.content);
        break;
      }
      case 'custom':
        streamed.lookedUp = event.data;
        streamed.namespace = event.namespace[0];
        break;
      case 'end':
        streamed.status = event.data.status satisfies string;
    }
  }
  seen.streamed = streamed;
}

{
  const path = await newThread();
  const body = { assistant_id: 'brisk', input: says('slow please'), stream_mode: ['custom' as const], stream_resumable: true };
  const { stream } = await streamRun({ client: cutClient, path, body, sseDefaultRetryDelay: 10 });
  const cut = await all(stream);
  const first = cut[0]!;
  if (first.event !== 'metadata') throw new Error(`the first event is ${first.event}`);
  const rejoin = { client, path: { ...path, run_id: first.data.run_id }, headers: { 'Last-Event-ID': '-1' } };
  seen.cut = cut;
  seen.whole = await all((await joinRunStream(rejoin)).stream);
}

{
  const path = await newThread();
  for (const text of ['boom', 'hello']) {
    await all((await streamRun({ client, path, body: { assistant_id: 'brisk', input: says(text), stream_mode: ['updates'] } })).stream);
  }
  const { stream } = await joinThreadStream({ client, path, headers: { 'Last-Event-ID': '-1' } });
  const names: string[] = [];
  let done = 0;
  for await (const event of stream) {
    if (event.event !== 'updates') names.push(event.event);
    if (event.event === 'metadata' && 'status' in event.data) done += 1;
    if (done === 2) break;
  }
  seen.thread = names;
}

{
  const path = await newThread();
  const params = { assistant_id: 'brisk', input: says('slow please') };
  const { data: answer } = await sendThreadCommand({ client, path, body: { id: 1, method: 'run.start', params } });
  seen.command = answer?.type;
  const { stream } = await streamThreadEvents({ client: cutClient, path, body: { channels: ['lifecycle', 'custom'] }, sseDefaultRetryDelay: 10 });
  const steps: unknown[] = [];
  for await (const event of stream) {
    if (event.method === 'custom') {
      const payload = event.params.data.payload as { step?: number };
      if (payload.step !== undefined) steps.push(payload.step);
    }
    if (event.method === 'lifecycle' && event.params.namespace.length === 0 && event.params.data.event !== 'running') {
      seen.protocol = { steps, last: event.params.data.event };
      break;
    }
  }
}

{
  const path = await newThread();
  const { stream } = await streamRun({ client, path, body: { assistant_id: 'brisk', input: says('slow please'), stream_mode: ['custom'] } });
  const { value: first } = await stream.next();
  if (first?.event !== 'metadata') throw new Error('a stream begins with its metadata');
  const run = { client, path: { ...path, run_id: first.data.run_id } };
  await cancelRun({ ...run, query: { wait: true } });
  const last = (await all(stream)).at(-1);
  const { data } = await getRun(run);
  seen.cancelled = [last?.event === 'end' && last.data.status, data?.status, data?.ended_by];
}

{
  const { error } = await getThread({ client, path: { thread_id: crypto.randomUUID() } });
  seen.problem = [error?.status, error?.code];
  const path = await newThread();
  try {
    const { stream } = await streamRun({ client, path, body: { assistant_id: 'nobody', input: says('a') } });
    await all(stream);
  } catch (refused) {
    if (refused instanceof Refused) seen.refused = [refused.status, refused.problem?.code];
  }
  const { stream } = await streamRun({ client, path, body: { assistant_id: 'brisk', input: says('boom') } });
  const last = (await all(stream)).at(-1);
  seen.failed = last?.event === 'error' && last.data.code;
}

{
  const path = await newThread();
  const asked = await waitForRun({ client, path, body: { assistant_id: 'brisk', input: says('refund order 7') } });
  const question = asked.data?.__interrupt__?.[0];
  if (question === undefined) throw new Error('nothing was asked');
  seen.asked = question.value;
  const answered = await waitForRun({ client, path, body: { assistant_id: 'brisk', command: { resume: { [question.id]: 'yes' } } } });
  seen.answered = (answered.data?.messages as { content: string }[]).at(-1)?.content;
}

console.log(JSON.stringify(seen));
