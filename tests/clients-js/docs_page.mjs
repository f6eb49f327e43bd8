// The component of a documentation page, as it stands there, used by somebody who asks, reloads, and answers.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { transform } from "sucrase";
import { until } from "./checks.mjs";
import { render } from "./mount.mjs";

const source = readFileSync("./page.tsx", "utf8");
writeFileSync("./page.mjs", transform(source, { transforms: ["typescript", "jsx"], jsxRuntime: "automatic", production: true }).code);
const { Chat } = await import("./page.mjs");

const said = (page) => [...page.querySelectorAll("p")].map((item) => item.textContent);
const button = (page, text) => [...page.querySelectorAll("button")].find((found) => found.textContent === text);

async function ask(page, question) {
  await until(() => button(page, "Ask") && !button(page, "Ask").disabled, "the form is there");
  page.querySelector("input").value = question;
  page.querySelector("form").requestSubmit();
  await until(() => button(page, "Ask").disabled, "the question is on its way");
  await until(() => !button(page, "Ask").disabled, "the answer is there");
}

const page = render(Chat);
await ask(page, "Why was I charged a fee for my transfer?");
assert.match(said(page)[1], /What a transfer costs/, said(page).join("\n"));

await ask(page, "I want a refund for order AZ-10234, it arrived broken");
await until(() => button(page, "Yes"), "the question to the human");
const again = render(Chat); // the same page, opened anew: the thread is in the session
await until(() => button(again, "Yes"), "the question after a reload");
await until(() => /charged a fee/.test(said(again)[0]), "what was said before the reload");
button(again, "Yes").click();
await until(() => said(again).some((text) => text.includes("RR-")), "the answer");
console.log(said(again).join("\n"));
process.exit(0);
