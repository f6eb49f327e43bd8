// A check says what holds of a client. All run in one process, a few at a time; each answers with one line for the tests to read.
import assert from "node:assert/strict";

export const url = process.env.SERVICE_URL;
export const apiKey = process.env.SERVICE_KEY;
export const says = (text) => ({ messages: [{ role: "user", content: text }] });
export const texts = (values) => values.messages.map((message) => message.content);

const LIMIT = 30_000; // milliseconds that a check may take
const AT_ONCE = 4;
const all = [];

export function check(name, body) {
  all.push({ name, body });
}

export async function collect(parts) {
  const found = [];
  for await (const part of parts) found.push(part);
  return found;
}

export async function rejects(promise, status) {
  await assert.rejects(promise, (error) => {
    assert.equal(error.status, status, String(error));
    return true;
  });
}

export async function until(isSo, what) {
  for (let tries = 0; tries < 500; tries += 1) {
    const found = await isSo();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`it did not happen: ${what}: ${isSo}`);
}

export async function main() {
  const waiting = [...all];
  const work = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      let error = "";
      try {
        await Promise.race([
          next.body(),
          new Promise((_, reject) => setTimeout(() => reject(new Error("it took too long")), LIMIT).unref()),
        ]);
      } catch (thrown) {
        error = String(thrown?.stack ?? thrown) || "failed";
      }
      console.log(`\t${JSON.stringify({ name: next.name, error })}`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  process.exit(0);
}
