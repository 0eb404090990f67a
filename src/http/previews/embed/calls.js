// Calls to the server, bounded in time and number.

const CALL_WITHIN_MS = 15_000;
const CALLS_MAX = 3;
const PAUSE_MAX_MS = 30_000;
const TRANSIENT = new Set(["rate_limited", "cache_unavailable", "store_unavailable", "unreachable"]);

/** A refusal, with the server's code or one of ours. */
class Problem extends Error {
  constructor(code, retryAfterMs = 0) {
    super(code);
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

/** The promise, or a problem once it takes too long. */
const within = (promise, ms, code) => {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Problem(code)), ms)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

/** One call, its JSON answer; its refusal as a `Problem`. */
const call = async (url, options, signal) => {
  const cut = new AbortController();
  const stop = () => cut.abort();
  signal.addEventListener("abort", stop, { once: true });
  const timer = setTimeout(stop, CALL_WITHIN_MS);
  try {
    const answer = await fetch(url, { credentials: "include", cache: "no-store", ...options, signal: cut.signal });
    const body = await answer.json();
    if (answer.ok) return body;
    throw new Problem(body.code ?? "error", body.retryAfterMs ?? 1000 * (Number(answer.headers.get("Retry-After")) || 0));
  } catch (error) {
    signal.throwIfAborted();
    throw error instanceof Problem ? error : new Problem("unreachable");
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
  }
};

/** Again, a few times, where waiting may help. */
const persist = async (work, signal) => {
  for (let tried = 1; ; tried++) {
    try {
      return await work();
    } catch (error) {
      if (signal.aborted || tried >= CALLS_MAX || !TRANSIENT.has(error.code)) throw error;
      await pause(Math.min(Math.max(error.retryAfterMs, 500 * 2 ** tried), PAUSE_MAX_MS), signal);
    }
  }
};

/** Posts a form from inside a blank window of ours: the token stands in no address. */
const postInto = (target, url, fields) => {
  const page = target.document;
  const form = Object.assign(page.createElement("form"), { method: "post", action: url });
  for (const [name, value] of Object.entries(fields)) {
    form.append(Object.assign(page.createElement("input"), { type: "hidden", name, value }));
  }
  (page.body ?? page.documentElement).append(form);
  form.submit();
};
