// Server-sent events of an answer, as objects; and what went wrong, in words. Nothing here knows the page.

const BROKEN = "the stream broke off before its end";

/** Yields the events' JSON. Throws what the server answers instead of a stream, in one line. */
export async function* events(path, body, headers, signal) {
  const response = await reach(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "x-lts-trace": "true", ...headers },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of pieces(response.body)) {
    rest += decoder.decode(bytes, { stream: true }).replaceAll("\r\n", "\n");
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const value = parsed(data);
      if (value.error) throw new Error(value.error.message ?? JSON.stringify(value.error));
      yield value;
    }
  }
  throw new Error(BROKEN);
}

/** GET as JSON, with the same errors. */
export async function get(path, headers) {
  const response = await reach(path, { headers });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached: is it up?");
  }
}

async function refusal(response) {
  const text = await response.text();
  let message = `The server answered ${response.status} ${response.statusText}`.trim();
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // Not in OpenAI's shape: a proxy's own words, or its page, of which nothing is shown.
    if (text.trim() && !text.trimStart().startsWith("<")) message += `: ${text.trim().slice(0, 300)}`;
  }
  return Object.assign(new Error(message), { status: response.status });
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new Error("the stream has an event that cannot be read");
  }
}

async function* pieces(stream) {
  const reader = stream.getReader(); // not every browser can iterate a stream
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(BROKEN);
  } finally {
    reader.cancel().catch(() => {});
  }
}
