// `@langchain/langgraph-sdk`: every method of its clients.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { Client } from "@langchain/langgraph-sdk";
import { apiKey, check, collect, main, rejects, says, texts, until, url } from "./checks.mjs";

const client = new Client({ apiUrl: url, apiKey });
const { assistants, crons, runs, store, threads } = client;
const BRISK = "brisk";

async function newThread() {
  return (await threads.create()).thread_id;
}

async function asking() {
  const threadId = await newThread();
  const values = await runs.wait(threadId, BRISK, { input: says("refund order 7") });
  return [threadId, values.__interrupt__[0].id];
}

check("every method of the SDK is called in this file", async () => {
  const source = readFileSync(new URL("./sdk.mjs", import.meta.url), "utf8");
  const apart = new Set(["constructor", "patchState"]); // `PATCH /state` is not part of the protocol
  const missing = [];
  for (const [name, resource] of Object.entries({ assistants, crons, runs, store, threads })) {
    for (const method of Object.getOwnPropertyNames(Object.getPrototypeOf(resource))) {
      if (!apart.has(method) && !source.includes(`${name}.${method}(`)) missing.push(`${name}.${method}`);
    }
  }
  assert.deepEqual(missing, []);
});

check("a thread is made, read, changed and removed", async () => {
  const threadId = randomUUID();
  const made = await threads.create({ threadId, metadata: { ticket: 7 }, graphId: BRISK });
  const again = await threads.create({ threadId, ifExists: "do_nothing" });
  const changed = await threads.update(threadId, { metadata: { seen: true } });
  assert.equal(await threads.update(threadId, { metadata: { seen: false }, returnMinimal: true }), undefined);

  assert.deepEqual(again, made);
  assert.deepEqual(made.metadata, { ticket: 7, graph_id: BRISK });
  assert.equal(changed.metadata.seen, true);
  assert.equal((await threads.get(threadId)).metadata.seen, false);
  await threads.delete(threadId);
  await rejects(threads.get(threadId), 404);
});

check("states are read, written by hand, and gone back to", async () => {
  const threadId = await newThread();
  const values = await runs.wait(threadId, BRISK, { input: says("one") });
  await runs.wait(threadId, BRISK, { input: says("two") });

  const state = await threads.getState(threadId);
  const history = await threads.getHistory(threadId, { limit: 50 });
  const { checkpoint } = history[2];
  const older = await threads.getHistory(threadId, { limit: 50, before: { configurable: checkpoint } });
  const inputs = await threads.getHistory(threadId, { limit: 50, metadata: { source: "input" } });
  const first = history.find((found) => found.next.length === 0 && found.values.messages.length === 2);
  const at = await threads.getState(threadId, first.checkpoint);
  const atId = await threads.getState(threadId, first.checkpoint.checkpoint_id, { subgraphs: true });
  const { thread_id: _, ...reference } = first.checkpoint;
  const forked = await runs.wait(threadId, BRISK, { input: says("other"), checkpoint: reference });
  const written = await threads.updateState(threadId, { values: says("by hand"), asNode: "echo" });

  assert.deepEqual(texts(state.values), ["one", "one", "two", "two"]);
  assert.deepEqual(older, history.slice(3));
  assert.deepEqual([...new Set(inputs.map((found) => found.metadata.source))], ["input"]);
  assert.deepEqual(at.values, values);
  assert.deepEqual(atId.values, values);
  assert.deepEqual(texts(forked), ["one", "one", "other", "other"]);
  assert.equal((await threads.getState(threadId)).checkpoint.checkpoint_id, written.checkpoint.checkpoint_id);
});

check("a run is made, joined, read, listed and removed", async () => {
  const threadId = await newThread();
  const created = [];
  const run = await runs.create(threadId, BRISK, {
    input: says("one"),
    metadata: { from: "test" },
    config: { tags: ["a"], recursion_limit: 20, configurable: { model_name: "x" } },
    streamMode: ["values", "updates"],
    streamResumable: true,
    durability: "sync",
    onRunCreated: (made) => created.push(made),
  });
  const values = await runs.join(threadId, run.run_id);
  await runs.wait(threadId, BRISK, { input: says("two") });
  const done = await runs.get(threadId, run.run_id);
  const listed = await runs.list(threadId, { limit: 10, status: "success" });

  assert.deepEqual(created, [{ run_id: run.run_id, thread_id: threadId }]);
  assert.deepEqual(texts(values), ["one", "one"]);
  assert.deepEqual([done.status, done.metadata.from], ["success", "test"]);
  assert.equal(listed.length, 2);
  assert.equal(listed[1].run_id, run.run_id);
  await runs.delete(threadId, run.run_id);
  await rejects(runs.get(threadId, run.run_id), 404);
});

check("a run is streamed in every mode and with its subgraphs", async () => {
  const streamMode = ["values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "debug"];
  const parts = await collect(
    runs.stream(await newThread(), BRISK, { input: says("one two"), streamMode, streamSubgraphs: true }),
  );

  const names = new Set(parts.map((part) => part.event.split("|")[0]));
  const spoken = parts.filter((part) => part.event === "messages").map((part) => part.data[0].content);
  const noted = parts.filter((part) => part.event.startsWith("custom|look_up:"));
  for (const name of ["metadata", "values", "updates", "messages", "custom", "tasks", "checkpoints", "debug"]) {
    assert.ok(names.has(name), name);
  }
  assert.equal(spoken.join(""), "one two");
  assert.deepEqual(noted.map((part) => part.data), [{ looked_up: "one two" }]);
});

check("a stream is left and joined again", async () => {
  const threadId = await newThread();
  const created = [];
  const wishes = { streamMode: ["values", "updates"], streamResumable: true, onDisconnect: "continue" };
  const parts = await collect(
    runs.stream(threadId, BRISK, { input: says("one"), ...wishes, onRunCreated: (made) => created.push(made) }),
  );
  const runId = created[0].run_id;

  assert.deepEqual(await collect(runs.joinStream(threadId, runId, { lastEventId: "-1" })), parts);
  assert.deepEqual(await collect(runs.joinStream(threadId, runId, { lastEventId: parts[2].id })), parts.slice(3));
  const updates = await collect(runs.joinStream(threadId, runId, { lastEventId: "-1", streamMode: ["updates"] }));
  assert.deepEqual([...new Set(updates.map((part) => part.event))].sort(), ["end", "metadata", "updates"]);
});

check("a run needs no thread", async () => {
  const waited = await runs.wait(null, BRISK, { input: says("one") });
  const parts = await collect(runs.stream(null, BRISK, { input: says("two"), streamMode: "values" }));
  const kept = await runs.create(null, BRISK, { input: says("three"), onCompletion: "keep" });
  const values = await runs.wait(randomUUID(), BRISK, { input: says("four"), ifNotExists: "create" });

  assert.deepEqual(texts(waited), ["one", "one"]);
  assert.deepEqual(texts(parts.findLast((part) => part.event === "values").data), ["two", "two"]);
  assert.deepEqual(texts(await runs.join(kept.thread_id, kept.run_id)), ["three", "three"]);
  assert.deepEqual(texts(values), ["four", "four"]);
});

check("runs are cancelled one by one and together", async () => {
  const threadId = await newThread();
  const hanging = await runs.create(threadId, "sticky", { input: says("hang") });
  const waiting = await runs.create(threadId, BRISK, { input: says("later") });
  await rejects(runs.create(threadId, BRISK, { input: says("no"), multitaskStrategy: "reject" }), 409);

  await runs.cancel(threadId, waiting.run_id);
  await runs.cancel(threadId, hanging.run_id, true, "interrupt", { reason: "taken" });
  const statuses = (await runs.list(threadId)).map((run) => run.status);
  const more = await runs.create(threadId, "sticky", { input: says("hang") });
  await runs.cancelMany({ threadId, runIds: [more.run_id], action: "rollback" });

  assert.deepEqual(statuses, ["interrupted", "interrupted"]);
  assert.equal(texts(await runs.wait(threadId, BRISK, { input: says("now") })).at(-1), "now");
  await rejects(runs.get(threadId, more.run_id), 404);
});

check("an aborted stream takes the run along if that was asked", async () => {
  const threadId = await newThread();
  const leaving = new AbortController();
  const wishes = { input: says("hang"), onDisconnect: "cancel", signal: leaving.signal };
  const parts = collect(runs.stream(threadId, "sticky", wishes)).catch(() => {});
  await until(async () => (await runs.list(threadId))[0]?.status === "running", "the run executes");
  leaving.abort();
  await parts;

  await until(async () => (await runs.list(threadId))[0].status === "interrupted", "the run is cancelled");
});

check("a question is answered by value or by id", async () => {
  for (const form of ["value", "id"]) {
    const [threadId, question] = await asking();
    const resume = form === "value" ? "yes" : { [question]: "yes" };
    const parts = await collect(
      runs.stream(threadId, BRISK, { command: { resume }, strictResume: true, streamMode: ["values"] }),
    );
    assert.deepEqual(texts(parts.findLast((part) => part.event === "values").data), ["refund order 7", "order 7: yes"]);
    assert.deepEqual((await threads.get(threadId)).interrupts, {});
  }
});

check("what is wrong is said with status and words", async () => {
  const threadId = await newThread();
  const guess = new Client({ apiUrl: url, apiKey: "guess" });

  await rejects(threads.create({ threadId }), 409);
  await rejects(runs.create(threadId, "nobody", { input: says("one") }), 422);
  await rejects(runs.create(randomUUID(), BRISK, { input: says("one") }), 404);
  await rejects(threads.get("no-uuid"), 422);
  await rejects(guess.threads.create(), 401);
  await assert.rejects(threads.create({ threadId }), /if_exists=do_nothing/);
  await assert.rejects(runs.wait(threadId, BRISK, { input: says("boom") }), /InternalError/);
  const parts = await collect(runs.stream(await newThread(), BRISK, { input: says("boom") })).catch((error) => error);
  assert.match(JSON.stringify(Array.isArray(parts) ? parts.at(-1).data : String(parts)), /InternalError/);
});

check("assistants are found", async () => {
  const [assistant] = await assistants.search({ graphId: BRISK, metadata: { created_by: "system" } });
  const paged = await assistants.search({ limit: 1, includePagination: true });

  assert.equal(assistant.name, BRISK);
  assert.equal(paged.assistants.length, 1);
  assert.equal(paged.next, "1");
});

check("a graph is drawn and described", async () => {
  const [{ assistant_id: id }] = await assistants.search({ graphId: BRISK, metadata: { created_by: "system" } });
  const found = await assistants.get(id);
  const flat = await assistants.getGraph(id);
  const deep = await assistants.getGraph(id, { xray: true });
  const schemas = await assistants.getSchemas(id);
  const subgraphs = await assistants.getSubgraphs(id, { recurse: true });

  assert.equal(found.graph_id, BRISK);
  assert.ok(flat.nodes.some((node) => node.id === "look_up"));
  assert.ok(deep.nodes.some((node) => node.id === "look_up:note"));
  assert.ok("messages" in schemas.state_schema.properties);
  assert.deepEqual(Object.keys(subgraphs), ["look_up", "team"]);
});

check("an assistant is made, changed, gone back with and removed", async () => {
  const name = `mine-${randomUUID()}`;
  const made = await assistants.create({ graphId: BRISK, name, metadata: { mark: name }, ifExists: "raise" });
  const id = made.assistant_id;
  const changed = await assistants.update(id, { graphId: BRISK, metadata: { mark: name, two: true } });
  const versions = await assistants.getVersions(id);
  const back = await assistants.setLatest(id, 1);

  assert.deepEqual([made.version, changed.version, back.version], [1, 2, 1]);
  assert.deepEqual(versions.map((version) => version.version), [2, 1]);
  assert.equal(await assistants.count({ graphId: BRISK, metadata: { mark: name } }), 1);
  await assistants.delete(id);
  await rejects(assistants.get(id), 404);
});

check("threads are found, counted, copied and pruned", async () => {
  const mark = randomUUID();
  const { thread_id: first } = await threads.create({ metadata: { mark }, ttl: 60 });
  const { thread_id: second } = await threads.create({ metadata: { mark } });
  await runs.wait(second, BRISK, { input: says("refund order 7") });

  const found = await threads.search({ metadata: { mark }, sortBy: "created_at", sortOrder: "asc", limit: 10 });
  const waiting = await threads.search({ metadata: { mark }, status: "interrupted", select: ["thread_id"] });
  const copy = await threads.copy(second);

  assert.deepEqual(found.map((thread) => thread.thread_id), [first, second]);
  assert.deepEqual(waiting, [{ thread_id: second }]);
  assert.equal(await threads.count({ metadata: { mark }, status: "idle" }), 1);
  assert.equal((await threads.getState(copy.thread_id)).tasks[0].interrupts.length, 1);
  assert.deepEqual(await threads.prune([first, second]), { pruned_count: 2 });
});

check("runs are made in a batch", async () => {
  const made = await runs.createBatch([{ assistantId: BRISK, input: says("one") }]);
  assert.equal(made.length, 1);
});

check("the runs of a thread are followed in one stream", async () => {
  const threadId = await newThread();
  await runs.wait(threadId, BRISK, { input: says("one") });
  for await (const part of threads.joinStream(threadId, { lastEventId: "-1", streamMode: ["run_modes"] })) {
    if (part.event === "metadata" && part.data.status === "run_done") return;
  }
  assert.fail("the stream ended");
});

check("items are kept, found and removed", async () => {
  const namespace = ["memories", randomUUID()];
  await store.putItem(namespace, "a", { age: 1 });
  await store.putItem(namespace, "b", { age: 2 }, { ttl: 60, index: false });

  assert.deepEqual((await store.getItem(namespace, "b")).value, { age: 2 });
  assert.equal(await store.getItem(namespace, "z"), null);
  const found = await store.searchItems(namespace, { filter: { age: 1 }, limit: 10 });
  assert.deepEqual(found.items.map((item) => item.key), ["a"]);
  const { namespaces } = await store.listNamespaces({ prefix: ["memories"], maxDepth: 2 });
  assert.ok(namespaces.some((given) => given.join() === namespace.join()));
  await store.deleteItem(namespace, "a");
  assert.equal(await store.getItem(namespace, "a"), null);
});

check("crons are made, found, changed and removed", async () => {
  const threadId = await newThread();
  const loose = await crons.create(BRISK, { schedule: "0 3 * * *", input: says("one") });
  const bound = await crons.createForThread(threadId, BRISK, { schedule: "*/5 * * * *", input: says("two") });
  const found = await crons.search({ threadId, limit: 10 });

  assert.deepEqual(found.map((cron) => cron.cron_id), [bound.cron_id]);
  assert.equal(await crons.count({ threadId }), 1);
  assert.equal((await crons.update(loose.cron_id, { schedule: "0 4 * * *", enabled: false })).schedule, "0 4 * * *");
  await crons.delete(loose.cron_id);
  await crons.delete(bound.cron_id);
});

// `threads.stream`: the second protocol. `run.start` is the entry for programs; `submitRun` is the hooks' own and fills nothing by itself.
async function streamed(options, body) {
  const thread = typeof options === "string" ? threads.stream(options, { assistantId: BRISK }) : threads.stream(options);
  try {
    await body(thread);
  } finally {
    await thread.close();
  }
}

check("a thread stream starts a run and tells its messages and its output", async () => {
  await streamed({ assistantId: BRISK }, async (thread) => {
    const spoken = (async () => {
      const found = [];
      for await (const message of thread.messages) found.push(await message.text);
      return found;
    })();
    const { run_id: runId } = await thread.run.start({ input: says("one two"), metadata: { from: "stream" } });
    const output = await thread.output;
    const run = await runs.get(thread.threadId, runId);

    assert.deepEqual(await spoken, ["one two"]);
    assert.deepEqual(texts(output), ["one two", "one two"]);
    assert.deepEqual([run.status, run.metadata.from], ["success", "stream"]);
    assert.equal((await thread.agent.getTree()).tree.status, "completed");
  });
});

check("a thread stream asks and takes the answer", async () => {
  await streamed({ assistantId: BRISK }, async (thread) => {
    await thread.run.start({ input: says("refund order 7") });
    await thread.output; // ends when the run pauses
    assert.equal(thread.interrupted, true);
    const [{ interruptId, namespace, payload }] = thread.interrupts;
    await thread.input.respond({ interrupt_id: interruptId, namespace, response: "yes" });
    await until(async () => (await threads.get(thread.threadId)).status === "idle", "the run after the answer");
    const state = await threads.getState(thread.threadId);

    assert.equal(payload.order, 7);
    assert.deepEqual(texts(state.values), ["refund order 7", "order 7: yes"]);
  });
});

check("a thread stream tells of subgraphs, custom data and raw events", async () => {
  await streamed({ assistantId: BRISK }, async (thread) => {
    const subgraphs = collect(thread.subgraphs);
    const progress = collect(thread.extensions.progress);
    const raw = (async () => {
      for await (const event of await thread.subscribe(["lifecycle", "values"])) {
        if (event.method === "lifecycle" && event.params.namespace.length === 0 && event.params.data.event === "completed") return true;
      }
      return false;
    })();
    await thread.run.start({ input: says("team please") });
    await thread.output;

    assert.deepEqual((await subgraphs).map((found) => found.name), ["look_up", "team"]);
    assert.deepEqual(await progress, [{ speaks: "team" }]);
    assert.equal(await raw, true);
  });
});

check("a thread stream tells of tools", async () => {
  await streamed({ assistantId: "supervisor" }, async (thread) => {
    const called = collect(thread.toolCalls);
    await thread.run.start({ input: { ...says("¿Cuáles son mis facturas?"), customer: { id: "C-1001" } } });
    await thread.output;

    const calls = await called; // the client tells of a call when it begins and again when it has ended
    assert.deepEqual(calls.map((call) => [call.name, call.callId]), Array(2).fill(["list_invoices", calls[0].callId]));
    assert.match(JSON.stringify(await calls[0].output), /INV-/);
  });
});

check("a thread stream of an existing thread begins with what was said", async () => {
  const threadId = await newThread();
  await runs.wait(threadId, BRISK, { input: says("one") });
  await streamed(threadId, async (thread) => {
    await thread.run.start({ input: says("two") });
    await until(async () => (await threads.get(threadId)).status === "idle" && (await runs.list(threadId)).length === 2, "the second run");
    const { checkpoints } = await thread.state.listCheckpoints({ limit: 50 });
    const end = checkpoints.find((found) => found.step === 2);
    await thread.state.fork({ checkpoint_id: end.id, input: says("other") });
    const all = () => runs.list(threadId);
    await until(async () => (await all()).length === 3 && (await all()).every((run) => run.status === "success"), "the fork");
    const state = await threads.getState(threadId);

    assert.deepEqual(texts(state.values), ["one", "one", "other", "other"]);
  });
});

check("what a thread stream may not do is said in words", async () => {
  await streamed({ assistantId: "nobody" }, async (thread) => {
    await assert.rejects(thread.run.start({ input: says("one") }), /there is no assistant 'nobody'/);
  });
  await streamed({ assistantId: BRISK }, async (thread) => {
    const answering = thread.input.respond({ interrupt_id: "x", namespace: [], response: 1 });
    await assert.rejects(answering, (error) => error.code === "no_such_interrupt" && error.message !== "");
  });
});

check("a mode that there is not is refused in words", async () => {
  const parts = collect(runs.stream(await newThread(), BRISK, { input: says("one"), streamMode: ["values", "tools"] }));
  await assert.rejects(parts, (error) => error.status === 422 && /stream_mode/.test(error.message));
});

await main();
