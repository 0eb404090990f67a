import { greeting } from "./greeting.js";

const show = (text) => (document.querySelector("h1").textContent = text);

show(greeting);
if (import.meta.hot) {
  import.meta.hot.accept("./greeting.js", (changed) => show(changed.greeting));
  import.meta.hot.on("vite:ws:connect", () => (document.body.dataset.hot = "connected"));
}
