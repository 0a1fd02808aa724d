// The server's routes: JSON, and streams of events read as they come.

/** What went wrong, in words for the reader. */
export class ApiError extends Error {
  constructor(message, { status = 0, param = null, code = null } = {}) {
    super(message);
    Object.assign(this, { status, param, code });
  }
}

/** The answer of a GET route. */
export async function getJson(path, key) {
  const response = await reach(path, { headers: headersOf(key) });
  try {
    return await response.json();
  } catch {
    throw new ApiError(`The server's answer to ${path} is not JSON.`, { status: response.status });
  }
}

/** The events of a streamed answer, parsed; ends at [DONE]. */
export async function* stream(path, body, key, signal) {
  const headers = { ...headersOf(key), "Content-Type": "application/json" };
  const request = { method: "POST", headers, body: JSON.stringify(body), signal };
  const response = await reach(path, request);
  for await (const data of events(response.body.getReader())) {
    if (data === "[DONE]") return;
    const event = parsed(data);
    if (event.error) throw new ApiError(event.error.message, event.error);
    yield event;
  }
  throw new ApiError("The connection ended before the text did.");
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError("The server sent an event that is not JSON.");
  }
}

async function* events(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  while (true) {
    const { done, value } = await read(reader);
    if (done) return;
    const parts = (rest + decoder.decode(value, { stream: true })).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError("The connection was lost.");
  }
}

async function reach(path, request) {
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // not in OpenAI's shape: the status says what there is to say
  }
  const status = response.status;
  const said = error.message ?? (response.statusText || "no reason given");
  return new ApiError(advice(status, said, response.headers.get("Retry-After")), {
    status,
    param: error.param,
    code: error.code,
  });
}

function advice(status, said, retryAfter) {
  if (status === 401) return `${said} (401: give the API key at the top of the page)`;
  if (status !== 429) return `${said} (${status})`;
  const wait = retryAfter ? ` Try again in ${retryAfter} s.` : " Try again soon.";
  return `${said} (429)${wait}`;
}

const headersOf = (key) => (key ? { Authorization: `Bearer ${key}` } : {});
