// What the page says about the session: checked, and made into the addresses that are asked.

const OWN_ORIGIN = document.currentScript?.src ? new URL(document.currentScript.src).origin : location.origin;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The attributes, checked: a token goes to nobody else. */
const readAttributes = (element) => {
  const id = element.getAttribute("session-id");
  let server;
  try {
    server = new URL(element.getAttribute("server") || OWN_ORIGIN, location.href);
  } catch {
    return null;
  }
  let host = element.getAttribute("preview-host");
  if (!UUID.test(id) || !/^https?:$/.test(server.protocol)) return null;
  if (host) {
    if (!host.startsWith(`${id}.`) || !/^[a-z0-9.-]+(:\d+)?$/.test(host)) return null;
    // The server names hosts without the port that it is reached at.
    if (!host.includes(":") && server.port) host += `:${server.port}`;
  }
  const path = element.getAttribute("path") || "/";
  const base = server.origin;
  const own = `${base}/api/preview/proxy/${id}`;
  const onHost = host ? `${server.protocol}//${host}` : null;
  const framedOnHost = onHost && element.getAttribute("routing") !== "path";
  return {
    id,
    path: path.startsWith("/") ? path : `/${path}`,
    mode: element.getAttribute("mode") || "auto",
    exchange: `${base}/api/preview/session/${id}/exchange`,
    probe: framedOnHost ? `${onHost}/.runwarden/probe` : `${base}/api/preview/probe/${id}`,
    subscriptionToken: `${framedOnHost ? onHost : own}/.runwarden/subscription-token`,
    subscribe: `${base.replace(/^http/, "ws")}/api/preview/subscribe/${id}`,
    frameForm: framedOnHost ? `${onHost}/.runwarden/exchange` : null,
    tabForm: onHost ? `${onHost}/.runwarden/exchange` : `${base}/api/preview/session/${id}/exchange`,
    hasHost: Boolean(onHost),
    own,
    cut: new AbortController(),
    serverAhead: 0,
    expiresAt: null,
  };
};
