// Server-sent events of a completion, as objects. Nothing here knows the page.

/** Yields the events' JSON. Throws what the server answers instead of a stream, in one line. */
export async function* completion(body, headers, signal) {
  const response = await fetch("v1/completions", {
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
      const value = JSON.parse(data);
      if (value.error) throw new Error(value.error.message);
      yield value;
    }
  }
  throw new Error("the stream broke off before its end");
}

/** GET as JSON, with the same errors. */
export async function get(path, headers) {
  const response = await fetch(path, { headers });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

async function refusal(response) {
  const text = await response.text();
  let message = text.slice(0, 300) || response.statusText;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // not in OpenAI's shape: a proxy's own page
  }
  return Object.assign(new Error(message), { status: response.status });
}

async function* pieces(stream) {
  const reader = stream.getReader(); // not every browser can iterate a stream
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}
