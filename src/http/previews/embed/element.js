// <runwarden-preview>: a preview inside the page of a host application. docs/embed.md says how it is used.
//
// It asks whether a frame would get its cookie, exchanges a token for that cookie, mounts the frame or offers a tab,
// and follows the session until it ends. The page may set `getExchangeToken(sessionId)` on it: a promise of a token.

const PROTOCOL = "runwarden.preview.v1";
const SCHEMA_VERSION = 1;
/** The server's close code of a session that is over. */
const CLOSED_OVER = 4401;
/** Time for a page in the frame to say that it only goes before the app. */
const SETTLES_WITHIN_MS = 300;
const PROBES_MAX = 3;
const TOKEN_WITHIN_MS = 20_000;
const FRAME_WITHIN_MS = 45_000;
const RECONNECTS_MAX = 8;
/** A socket that lived this long was a good one: counting starts again. */
const STEADY_AFTER_MS = 10_000;
const TIMER_MAX_MS = 2 ** 31 - 1;
/** The frame may do what an app does, but not lead the page around it elsewhere. */
const FRAME_MAY = "allow-scripts allow-same-origin allow-forms allow-popups allow-modals allow-downloads";

class RunwardenPreview extends HTMLElement {
  static observedAttributes = [
    "server", "session-id", "exchange-token", "mode", "preview-host", "routing", "path", "unsupported-reason",
    "error-code",
  ];

  #run = null;
  #state = "idle";
  #reason = null;
  #live = false;
  #queued = false;
  #token = null;
  #socket = null;
  #frame = null;
  #title = make("h2");
  #words = make("p");
  #action = make("button", { type: "button", hidden: true });
  #wheel = make("div", { className: "wheel" });
  #panel = make("div", { className: "panel" }, this.#wheel, this.#title, this.#words, this.#action);
  #cover = make("div", { className: "cover" }, this.#panel);
  #again = make("button", { type: "button", textContent: "Reconnect" });
  #notes = make("span");
  #notice = make("div", { className: "notice", hidden: true }, this.#notes, this.#again);

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [SHEET];
    this.#panel.setAttribute("role", "status");
    this.#notice.setAttribute("role", "status");
    this.#wheel.setAttribute("aria-hidden", "true");
    root.append(this.#cover, this.#notice);
    this.#action.addEventListener("click", () => this.#act());
    this.#again.addEventListener("click", () => this.#reconnect(this.#run, 0));
  }

  /** `idle`, `loading`, `ready`, `new_tab`, `opened`, `expired`, `revoked`, `unsupported` or `error`. */
  get state() {
    return this.#state;
  }

  connectedCallback() {
    this.#queue();
  }

  disconnectedCallback() {
    this.#stop();
  }

  attributeChangedCallback(name, before, now) {
    if (name === "exchange-token") {
      if (now === null) return;
      // Out of the document as soon as it is read.
      this.#token = now;
      this.removeAttribute(name);
    } else if (before === now) return;
    this.#queue();
  }

  /** Begins again, with a token from `getExchangeToken`. */
  reload() {
    this.#queue();
  }

  /** Opens the preview in a tab too; to be called by a click. */
  openTab() {
    const run = this.#run;
    if (!run) return;
    this.#openTab(run).catch((error) => {
      // A frame goes on without the tab.
      if (this.#frame) this.#notify(ERRORS[error.code] ?? "Something went wrong.", false);
      else this.#fail(run, error);
    });
  }

  /** Once for all attributes that are set together. */
  #queue() {
    if (this.#queued) return;
    this.#queued = true;
    queueMicrotask(() => {
      this.#queued = false;
      if (this.isConnected) this.#begin();
    });
  }

  #stop() {
    this.#run?.cut.abort();
    this.#run = null;
    this.#socket?.close();
    this.#socket = null;
    this.#frame?.remove();
    this.#frame = null;
    this.#live = false;
    this.#notice.hidden = true;
  }

  #begin() {
    this.#stop();
    const unsupported = this.getAttribute("unsupported-reason");
    const failed = this.getAttribute("error-code");
    if (unsupported) return this.#show("unsupported", unsupported);
    if (failed) return this.#show("error", failed);
    if (!this.getAttribute("session-id")) return this.#show("idle");
    const run = readAttributes(this);
    if (!run) return this.#show("error", "wrong_attributes");
    this.#run = run;
    this.#show("loading");
    this.#bringUp(run).catch((error) => this.#fail(run, error));
  }

  async #bringUp(run) {
    const { signal } = run.cut;
    if (run.mode === "new_tab") return this.#show("new_tab", "new_tab");
    const result = await this.#probe(run);
    if (result === "expired") return this.#end(run, "expired");
    if (result === "ws_required" && !run.hasHost) return this.#show("unsupported", result);
    if (result !== "ok") return this.#show("new_tab", result);
    if (run.frameForm) {
      const token = await this.#fresh();
      signal.throwIfAborted();
      await this.#mount(run, (frame) => postInto(frame.contentWindow, run.frameForm, { token, path: run.path }));
      // Tells too whether the frame was let in.
      const { subscriptionToken } = await this.#another(run);
      this.#ready(run, subscriptionToken);
    } else {
      const exchanged = await this.#exchange(run);
      if (run.mode === "auto" && exchanged.openMode === "new_tab") return this.#show("new_tab", "new_tab");
      await this.#mount(run, (frame) => (frame.src = `${run.own}/.runwarden/enter?${new URLSearchParams({ path: run.path })}`));
      this.#ready(run, exchanged.subscriptionToken);
    }
  }

  async #probe(run) {
    const { signal } = run.cut;
    for (let tried = 1; ; tried++) {
      const { result } = await persist(() => call(run.probe, {}, signal), signal);
      // Another probe at the same time may have put its cookie in the place of ours.
      if (result !== "cookie_blocked" || tried >= PROBES_MAX) return result;
      await pause(100 + 300 * Math.random(), signal);
    }
  }

  /** A token that was not used yet. */
  async #fresh() {
    if (typeof this.getExchangeToken === "function") {
      const asked = Promise.resolve(this.getExchangeToken(this.getAttribute("session-id")));
      const token = await within(asked.catch(() => null), TOKEN_WITHIN_MS, "token_missing");
      if (typeof token === "string" && token) return token;
    }
    const token = this.#token;
    this.#token = null;
    if (!token) throw new Problem("token_missing");
    return token;
  }

  /** For the cookie of a frame, or of the tab that is open instead, and for a subscription token. */
  #exchange(run, openMode) {
    const { signal } = run.cut;
    return persist(async () => {
      const body = JSON.stringify({ token: await this.#fresh(), openMode });
      signal.throwIfAborted();
      const exchanged = await call(
        run.exchange, { method: "POST", headers: { "Content-Type": "application/json" }, body }, signal);
      this.#expires(run, exchanged.expiresAt);
      return exchanged;
    }, signal);
  }

  /** Another subscription token, under the frame's cookie; without one, for an exchange token. */
  async #another(run) {
    const { signal } = run.cut;
    try {
      return await persist(() => call(run.subscriptionToken, { method: "POST" }, signal), signal);
    } catch (error) {
      const canExchange = !run.frameForm && typeof this.getExchangeToken === "function";
      if (error.code !== "permission_denied" || !canExchange) throw error;
      return this.#exchange(run, this.#state === "opened" ? "new_tab" : undefined);
    }
  }

  async #mount(run, load) {
    const frame = make("iframe", { title: this.getAttribute("label") || "Preview", allow: "fullscreen" });
    frame.setAttribute("sandbox", FRAME_MAY);
    this.#frame = frame;
    this.shadowRoot.prepend(frame);
    const loaded = new Promise((resolve, reject) => {
      let entering = false;
      // Some browsers tell of the blank page too, which a form is posted from. What goes before the app says so.
      const settle = () => setTimeout(() => entering || resolve(), SETTLES_WITHIN_MS);
      frame.addEventListener("load", () => frame.contentDocument?.URL !== "about:blank" && settle());
      const heard = ({ source, data }) => {
        if (source !== frame.contentWindow) return;
        if (data?.runwarden === "entering") entering = true;
        if (data?.runwarden === "entered") entering = false;
        if (data?.runwarden === "cookie_blocked") reject(new Problem("cookie_blocked"));
      };
      addEventListener("message", heard, { signal: run.cut.signal });
    });
    load(frame);
    await within(loaded, FRAME_WITHIN_MS, "frame_timeout");
    run.cut.signal.throwIfAborted();
  }

  #ready(run, subscriptionToken) {
    this.#show("ready");
    this.#subscribe(run, subscriptionToken, 0);
  }

  #act() {
    const run = this.#run;
    if (this.#state === "new_tab" || this.#state === "opened") {
      this.openTab();
    } else if (this.#state === "error" && run) {
      this.#begin();
    } else {
      // The page starts another session, and sets its id and token here.
      this.dispatchEvent(new CustomEvent("runwarden-restart", { bubbles: true, composed: true, detail: this.#detail() }));
    }
  }

  async #openTab(run) {
    // At once, while the click counts; the token comes later.
    const tab = window.open("about:blank", "_blank");
    if (!tab) throw new Problem("popup_blocked");
    tab.opener = null;
    tab.document.title = "Opening the preview…";
    try {
      const token = await this.#fresh();
      run.cut.signal.throwIfAborted();
      postInto(tab, run.tabForm, { token, path: run.path });
    } catch (error) {
      tab.close();
      throw error;
    }
    // Beside a frame that goes on.
    if (this.#frame) return;
    this.#show("opened");
    if (!this.#socket && typeof this.getExchangeToken === "function") this.#reconnect(run, RECONNECTS_MAX - 1, 0);
  }

  #subscribe(run, token, tried) {
    if (run.cut.signal.aborted) return;
    const socket = new WebSocket(run.subscribe, [PROTOCOL, `token.${token}`]);
    this.#socket = socket;
    let since = Infinity;
    socket.addEventListener("message", ({ data }) => {
      if (socket !== this.#socket) return;
      let event;
      try {
        event = JSON.parse(data);
      } catch {
        return;
      }
      if (event.schemaVersion !== SCHEMA_VERSION || event.previewSessionId !== run.id) return;
      since = Math.min(since, Date.now());
      run.serverAhead = Date.parse(event.tsServer) - Date.now() || 0;
      this.#expires(run, event.expiresAt);
      if (event.state === "expired" || event.state === "revoked") return this.#end(run, event.state);
      this.#setLive(true);
    });
    socket.addEventListener("close", ({ code, reason }) => {
      if (socket !== this.#socket || run.cut.signal.aborted) return;
      this.#socket = null;
      // The reason is the state that the session went to; without access it is over here too.
      if (code === CLOSED_OVER) return this.#end(run, reason === "expired" || this.#isPast(run) ? "expired" : "revoked");
      this.#reconnect(run, Date.now() - since > STEADY_AFTER_MS ? 0 : tried);
    });
  }

  /** With a fresh token after a pause that grows; after the last attempt the person is asked. */
  async #reconnect(run, tried, wait = Math.min(1000 * 2 ** tried, PAUSE_MAX_MS) * (0.5 + Math.random() / 2)) {
    if (!run || run.cut.signal.aborted) return;
    this.#setLive(false);
    if (tried >= RECONNECTS_MAX) {
      if (this.#state === "ready") this.#notify("Live updates are paused.", true);
      return;
    }
    this.#notice.hidden = true;
    try {
      await pause(wait, run.cut.signal);
      const { subscriptionToken } = await this.#another(run);
      this.#subscribe(run, subscriptionToken, tried + 1);
    } catch (error) {
      if (run.cut.signal.aborted) return;
      if (error.code === "expired" || error.code === "revoked") return this.#end(run, error.code);
      if (TRANSIENT.has(error.code)) return this.#reconnect(run, tried + 1);
      // The frame may well work on; only what happens to the session stays unknown.
      this.#reconnect(run, RECONNECTS_MAX);
    }
  }

  #notify(words, mayReconnect) {
    this.#notes.textContent = words;
    this.#again.hidden = !mayReconnect;
    this.#notice.hidden = false;
  }

  #setLive(live) {
    if (live) this.#notice.hidden = true;
    if (this.#live === live) return;
    this.#live = live;
    this.#tell();
  }

  #isPast(run) {
    return run.expiresAt !== null && Date.now() + run.serverAhead >= run.expiresAt - 1000;
  }

  /** Ends it here too, should nobody say that it has ended. */
  #expires(run, when) {
    const at = Date.parse(when);
    if (Number.isNaN(at) || run.expiresAt === at) return;
    run.expiresAt = at;
    const left = at - Date.now() - run.serverAhead;
    pause(Math.min(Math.max(left, 0), TIMER_MAX_MS), run.cut.signal)
      .then(() => this.#isPast(run) && this.#end(run, "expired"), () => {});
  }

  #end(run, state) {
    if (run.cut.signal.aborted) return;
    run.cut.abort();
    this.#live = false;
    this.#socket?.close();
    this.#socket = null;
    this.#notice.hidden = true;
    this.#show(state);
  }

  #fail(run, error) {
    if (!run || run.cut.signal.aborted) return;
    const code = error instanceof Problem ? error.code : "error";
    if (code === "expired" || code === "revoked") return this.#end(run, code);
    this.#frame?.remove();
    this.#frame = null;
    if (code === "cookie_blocked") return this.#show("new_tab", code);
    this.#show("error", code);
  }

  #show(state, reason = null) {
    this.#state = state;
    this.#reason = reason;
    const over = state === "expired" || state === "revoked";
    const tab = state === "new_tab" || state === "opened";
    this.#title.textContent = TITLES[state] ?? "";
    this.#words.textContent = {
      unsupported: UNSUPPORTED[reason] ?? "It is not supported here.",
      error: ERRORS[reason] ?? "Something went wrong.",
      new_tab: WHY_TAB[reason] ?? WHY_TAB.new_tab,
      expired: "Its time is over. You can start it again.",
      revoked: "It was closed. You can start it again.",
    }[state] ?? "";
    this.#words.hidden = !this.#words.textContent;
    const again = over || (state === "error" && this.hasAttribute("error-code"));
    const retry = state === "error" && this.#run && typeof this.getExchangeToken === "function";
    this.#action.hidden = !(again || tab || retry);
    this.#action.textContent = again ? "Start again" : tab ? "Open preview" : "Try again";
    this.#wheel.hidden = state !== "loading";
    this.#cover.classList.toggle("over", over && Boolean(this.#frame));
    this.#cover.hidden = state === "ready";
    if (this.#frame) this.#frame.inert = over;
    this.#tell();
  }

  #detail() {
    return {
      state: this.#state, reason: this.#reason, live: this.#live, sessionId: this.getAttribute("session-id"),
    };
  }

  #tell() {
    this.dataset.state = this.#state;
    this.dispatchEvent(new CustomEvent("runwarden-state", { bubbles: true, composed: true, detail: this.#detail() }));
  }
}

customElements.define("runwarden-preview", RunwardenPreview);
