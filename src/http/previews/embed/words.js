// What people read: titles and reasons.

const UNSUPPORTED = {
  missing_config: "The repository does not say how its app is started. It needs a file .terragon/preview.json.",
  adapter_unimplemented: "The sandbox of this run cannot show previews.",
  ws_required: "The app needs WebSocket connections, and they are switched off here.",
  frame_bust: "The app refuses to be shown inside another page.",
  capability_missing: "The sandbox lacks something that this preview needs.",
  cookie_blocked: "Your browser keeps the preview's cookie out of this page.",
  proxy_denied: "The app's address is not one that previews may reach.",
};
const WHY_TAB = {
  cookie_blocked: "Your browser keeps the preview's cookie out of this page, so it opens in a tab of its own.",
  ws_required: "The app needs WebSocket connections, so it opens in a tab of its own.",
  new_tab: "This preview opens in a tab of its own.",
};
const ERRORS = {
  command_exited: "The command that starts the app has ended.",
  health_check_timeout: "The app did not answer in time.",
  tunnel_failed: "The sandbox could not be reached.",
  sandbox_not_running: "The sandbox is not running.",
  superseded: "A newer run or another sandbox has taken its place.",
  permission_denied: "You have no access to this preview.",
  binding_mismatch: "This token belongs to another preview.",
  signature_mismatch: "The token was not accepted. Load the page again.",
  token_replay: "The token was used already. Load the page again.",
  token_missing: "The page around it has no token for this preview.",
  not_found: "There is no such preview, or previews are switched off.",
  conflict: "The preview is not ready.",
  rate_limited: "Too many requests. Wait a moment.",
  cache_unavailable: "Previews are briefly unavailable. Wait a moment.",
  store_unavailable: "Previews are briefly unavailable. Wait a moment.",
  unreachable: "The preview server cannot be reached from this page.",
  popup_blocked: "Your browser blocked the new tab. Allow pop-ups for this page.",
  frame_timeout: "The app takes too long to load.",
  wrong_attributes: "The page around it names no valid preview.",
};
const TITLES = {
  idle: "No preview yet",
  loading: "Loading the preview…",
  new_tab: "Open the preview",
  opened: "The preview is open in another tab",
  expired: "This preview has ended",
  revoked: "This preview has ended",
  unsupported: "There is no preview of this run",
  error: "The preview cannot be shown",
};
