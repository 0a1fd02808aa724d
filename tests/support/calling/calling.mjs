// Runs the everyday calls of a client and prints what they gave, as calling.py does for those in Python.

export const QUESTION = "List the names of all clients.";
export const MODEL = "demo";

const calls = [];

/** Registers a function that returns what a call gave, as JSON can say it. */
export function call(words, run) {
  calls.push([words, run]);
}

/** What a call gave, or how it failed. */
async function outcome(run) {
  try {
    return { got: (await run()) ?? null };
  } catch (error) {
    return { error: `${error?.name}: ${error?.message}` };
  }
}

/** Prints the outcome of every call, by its words, in one line of JSON. */
export async function main() {
  const found = {};
  for (const [words, run] of calls) found[words] = await outcome(run);
  console.log(JSON.stringify(found));
}
