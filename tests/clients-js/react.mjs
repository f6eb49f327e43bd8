// `useStream` of `@langchain/react`, in a page: the second protocol.
import assert from "node:assert/strict";
import { Client } from "@langchain/langgraph-sdk";
import { useStream } from "@langchain/react";
import { apiKey, check, main, says, texts, until, url } from "./checks.mjs";
import { mount } from "./mount.mjs";

const client = new Client({ apiUrl: url, apiKey });

async function open(options = {}) {
  const shown = mount(useStream, { apiUrl: url, apiKey, assistantId: "brisk", ...options });
  await until(() => shown.stream && !shown.stream.isThreadLoading, "the page is there");
  return shown;
}

// What the hook reports as an error is what the check fails with.
async function shows(shown, isSo, what) {
  await until(async () => shown.stream.error || (await isSo()), what);
  if (shown.stream.error) throw shown.stream.error;
}

const done = (shown, count) => shows(shown, () => shown.stream && !shown.stream.isLoading && shown.page().length === count, "the answer");

check("an answer is shown as it comes, and the page ends with the state of the thread", async () => {
  const shown = await open();
  await shown.stream.submit(says("one two three"));
  await done(shown, 2);

  const partial = new Set(shown.texts.map((said) => said[1]).filter((text) => text !== undefined));
  assert.deepEqual(shown.page(), ["one two three", "one two three"]);
  assert.ok([...partial].every((text) => "one two three".startsWith(text)), [...partial].join(" / "));
  assert.deepEqual(texts((await client.threads.getState(shown.stream.threadId)).values), shown.page());
  shown.unmount();
});

check("a conversation goes on, and a second page shows it", async () => {
  const shown = await open();
  await shown.stream.submit(says("one"));
  await done(shown, 2);
  await shown.stream.submit(says("two"), { metadata: { from: "page" } });
  await done(shown, 4);

  const second = await open({ threadId: shown.stream.threadId });
  await done(second, 4);
  assert.deepEqual(second.page(), ["one", "one", "two", "two"]);
  shown.unmount();
  second.unmount();
});

check("a page that is opened in mid-answer follows it to its end", async () => {
  const shown = await open();
  shown.stream.submit(says("slow please"));
  await shows(shown, () => shown.stream.values?.steps > 3, "some steps are done");
  const { threadId } = shown.stream;
  shown.unmount();

  const again = await open({ threadId });
  await done(again, 2);
  assert.deepEqual(again.page(), ["slow please", "slow please"]);
  assert.deepEqual((await client.runs.list(threadId)).map((run) => run.status), ["success"]);
  again.unmount();
});

check("stop ends the run", async () => {
  let created; // stop() cancels the run whose id the answer to `run.start` told the hook; before that it only leaves
  const shown = await open({ assistantId: "sticky", onCreated: (run) => (created = run) });
  shown.stream.submit(says("hang"));
  await shows(shown, () => created, "the hook knows its run");
  const { threadId } = shown.stream;
  await shows(shown, async () => (await client.runs.list(threadId))[0].status === "running", "the run executes");
  await shown.stream.stop();

  assert.equal(created.runId, (await client.runs.list(threadId))[0].run_id);
  await until(async () => (await client.runs.list(threadId))[0].status === "interrupted", "the run is cancelled");
  shown.unmount();
});

check("a question is shown and answered", async () => {
  const shown = await open();
  await shown.stream.submit(says("refund order 7"));
  await shows(shown, () => shown.stream.interrupt, "the question");
  const second = await open({ threadId: shown.stream.threadId });
  await shows(second, () => second.stream.interrupt, "the question on a second page");
  assert.equal(shown.stream.interrupt.value.order, 7);
  assert.equal(second.stream.interrupt.id, shown.stream.interrupt.id);
  await shown.stream.respond("yes");
  await shows(shown, () => shown.page().at(-1) === "order 7: yes", "the answer");

  assert.deepEqual(shown.page(), ["refund order 7", "order 7: yes"]);
  shown.unmount();
  second.unmount();
});

check("a question is answered on the page that was opened last, as soon as it is shown", async () => {
  const shown = await open();
  await shown.stream.submit(says("refund order 7"));
  await shows(shown, () => shown.stream.interrupt, "the question");
  const second = await open({ threadId: shown.stream.threadId });
  await shows(second, () => second.stream.interrupt, "the question on a second page");
  await second.stream.respond("yes", { interruptId: second.stream.interrupt.id });

  await shows(second, () => second.page().at(-1) === "order 7: yes", "the answer");
  await shows(shown, () => shown.page().at(-1) === "order 7: yes", "the answer on the first page");
  assert.deepEqual(second.page(), ["refund order 7", "order 7: yes"]);
  shown.unmount();
  second.unmount();
});

check("two questions are answered in one command", async () => {
  const shown = await open({ assistantId: "asking" });
  await shown.stream.submit(says("go"));
  await shows(shown, () => shown.stream.interrupts.length === 2, "both questions");
  await shown.stream.respondAll(Object.fromEntries(shown.stream.interrupts.map((asked) => [asked.id, asked.value.question])));
  await shows(shown, () => shown.page().at(-1) === "finished", "the answer");

  assert.deepEqual(shown.page(), ["go", "begun", "left: left", "right: right", "finished"]);
  shown.unmount();
});

check("a failure is shown", async () => {
  const shown = await open();
  await shown.stream.submit(says("boom"));
  await until(() => shown.stream.error, "the error");
  const said = String(shown.stream.error?.message ?? shown.stream.error);
  assert.match(said, /the run failed/, said);
  shown.unmount();
});

await main();
