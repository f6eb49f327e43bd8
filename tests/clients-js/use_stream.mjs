// `useStream` of `@langchain/langgraph-sdk/react`, in a page: the first protocol, as agent-chat-ui has it.
import assert from "node:assert/strict";
import { Client } from "@langchain/langgraph-sdk";
import { useStream } from "@langchain/langgraph-sdk/react";
import { apiKey, check, main, says, texts, until, url } from "./checks.mjs";
import { mount } from "./mount.mjs";

const client = new Client({ apiUrl: url, apiKey });

function open(options = {}) {
  const known = { threadId: null, error: null };
  const shown = mount(useStream, {
    apiUrl: url,
    apiKey,
    assistantId: "brisk",
    onThreadId: (id) => { known.threadId = id; },
    onError: (error) => { known.error = error; },
    ...options,
  });
  return { shown, known };
}

const ready = (shown) => until(() => shown.stream && !shown.stream.isThreadLoading, "the page is there");
const done = (shown, count) => until(() => shown.stream && !shown.stream.isLoading && shown.page().length === count && shown.page(), "the answer");

check("tokens are shown as they come, and the page ends with the state of the thread", async () => {
  const { shown, known } = open();
  await ready(shown);
  shown.stream.submit(says("one two three"));
  const page = await done(shown, 2);

  const partial = new Set(shown.texts.map((said) => said[1]).filter((text) => text !== undefined));
  assert.deepEqual(page, ["one two three", "one two three"]);
  assert.ok(partial.size > 1, [...partial].join(" / "));
  assert.ok([...partial].every((text) => "one two three".startsWith(text)));
  assert.deepEqual(texts((await client.threads.getState(known.threadId)).values), page);
  assert.equal(known.error, null);
  shown.unmount();
});

check("a conversation goes on, and a second page shows it", async () => {
  const { shown, known } = open();
  await ready(shown);
  shown.stream.submit(says("one"));
  await done(shown, 2);
  shown.stream.submit(says("two"), { metadata: { from: "page" }, config: { configurable: { model_name: "x" } } });
  await done(shown, 4);

  const second = open({ threadId: known.threadId }).shown;
  assert.deepEqual(await done(second, 4), ["one", "one", "two", "two"]);
  shown.unmount();
  second.unmount();
});

check("stop ends the run", async () => {
  const { shown, known } = open({ assistantId: "sticky" });
  await ready(shown);
  shown.stream.submit(says("hang"));
  await until(async () => known.threadId && (await client.runs.list(known.threadId))[0]?.status === "running", "the run executes");
  shown.stream.stop();

  await until(async () => (await client.runs.list(known.threadId))[0].status === "interrupted", "the run is cancelled");
  await until(() => !shown.stream.isLoading, "the page is quiet");
  shown.unmount();
});

check("a page that is reloaded in mid-answer comes back to it, and nothing is doubled", async () => {
  const { shown, known } = open({ reconnectOnMount: true });
  await ready(shown);
  shown.stream.submit(says("slow please"));
  await until(() => shown.stream.values?.steps > 3, "some steps are done");
  shown.unmount();

  const again = open({ reconnectOnMount: true, threadId: known.threadId }).shown;
  await until(() => again.stream?.isLoading && again.stream.values?.steps > 0, "the stream is joined");
  assert.deepEqual(await done(again, 2), ["slow please", "slow please"]);
  const [run, ...others] = await client.runs.list(known.threadId);
  assert.deepEqual([run.status, others.length], ["success", 0]);
  again.unmount();
});

check("a page that is reloaded after a resumable run was stopped shows it stopped", async () => {
  const { shown, known } = open({ reconnectOnMount: true, assistantId: "sticky" });
  await ready(shown);
  shown.stream.submit(says("hang"));
  await until(async () => known.threadId && (await client.runs.list(known.threadId))[0]?.status === "running", "the run executes");
  shown.stream.stop();

  await until(async () => (await client.runs.list(known.threadId))[0].status === "interrupted", "the run is cancelled");
  shown.unmount();
});

check("a question is shown and answered", async () => {
  const { shown, known } = open();
  await ready(shown);
  shown.stream.submit(says("refund order 7"));
  const asked = await until(() => !shown.stream.isLoading && shown.stream.interrupt, "the question");
  const second = open({ threadId: known.threadId }).shown;
  const again = await until(() => second.stream?.interrupt, "the question on a second page");
  shown.stream.submit(undefined, { command: { resume: "yes" } });

  assert.equal(asked.value.order, 7);
  assert.deepEqual([again.id, again.value], [asked.id, asked.value]);
  assert.deepEqual(await done(shown, 2), ["refund order 7", "order 7: yes"]);
  assert.equal(shown.stream.interrupt, undefined);
  shown.unmount();
  second.unmount();
});

check("a message is edited, and an answer made again, on a branch of its own", async () => {
  const { shown } = open({ fetchStateHistory: true });
  await ready(shown);
  shown.stream.submit(says("one"));
  await done(shown, 2);
  shown.stream.submit(says("two"));
  await done(shown, 4);

  const metadata = (i) => shown.stream.getMessagesMetadata(shown.stream.messages[i], i);
  await until(() => metadata(2)?.firstSeenState, "the history");
  shown.stream.submit(says("other"), { checkpoint: metadata(2).firstSeenState.parent_checkpoint });
  await until(() => !shown.stream.isLoading && shown.page().at(-1) === "other", "the edited message");
  assert.deepEqual(shown.page(), ["one", "one", "other", "other"]);
  await until(() => metadata(2)?.branchOptions?.length === 2, "the two branches");

  shown.stream.submit(undefined, { checkpoint: metadata(3).firstSeenState.parent_checkpoint });
  await until(() => !shown.stream.isLoading && metadata(3)?.branchOptions?.length === 2, "the answer made again");
  assert.deepEqual(shown.page(), ["one", "one", "other", "other"]);

  shown.stream.setBranch(metadata(2).branchOptions[0]);
  await until(() => shown.page().at(-1) === "two", "the first branch");
  shown.unmount();
});

check("a failure is shown", async () => {
  const { shown, known } = open();
  await ready(shown);
  shown.stream.submit(says("boom"));
  await until(() => shown.stream.error && !shown.stream.isLoading, "the error");

  assert.match(String(shown.stream.error.message ?? shown.stream.error), /the run failed/);
  assert.equal((await client.threads.get(known.threadId)).status, "error");
  shown.unmount();
});

check("callbacks for updates, custom data, tasks, checkpoints and debugging are called", async () => {
  const called = new Set();
  const { shown } = open({
    onUpdateEvent: () => called.add("updates"),
    onCustomEvent: (data) => called.add(`custom ${Object.keys(data)}`),
    onTaskEvent: () => called.add("tasks"),
    onCheckpointEvent: () => called.add("checkpoints"),
    onDebugEvent: () => called.add("debug"),
    onMetadataEvent: () => called.add("metadata"),
    onCreated: () => called.add("created"),
    onFinish: () => called.add("finish"),
  });
  await ready(shown);
  shown.stream.submit(says("one"), { streamSubgraphs: true });
  await done(shown, 2);
  await until(() => called.has("finish"), "the end");

  const expected = ["checkpoints", "created", "custom looked_up", "debug", "finish", "metadata", "tasks", "updates"];
  assert.deepEqual([...called].sort(), expected);
  shown.unmount();
});

check("a page that asks for the progress of tools, which this protocol does not have here, is told so", async () => {
  const { shown, known } = open({ onToolEvent: () => {} });
  await ready(shown);
  shown.stream.submit(says("one"));
  await until(() => known.error, "the error");

  assert.equal(known.error.status, 422);
  assert.match(known.error.message, /stream_mode/);
  await until(() => shown.stream.error && !shown.stream.isLoading, "the page is quiet");
  assert.deepEqual(known.threadId && (await client.runs.list(known.threadId)), []);
  shown.unmount();
});

await main();
