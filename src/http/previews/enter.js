// Runs where the app is about to be: under the same sandbox, which makes a page another site to our cookies. Asks
// whether they come along with what a page loads, lets this place in where they do not, and goes on to the app.
(async () => {
  const { token, base, path, framed } = document.body.dataset;
  const tell = (what) => parent !== self && parent.postMessage({ runwarden: what }, "*");
  let asked = 0;
  const seen = () =>
    new Promise((resolve) => {
      const image = new Image();
      image.onload = () => resolve(true);
      image.onerror = () => resolve(false);
      image.src = `${base}/.runwarden/seen.svg?${asked++}`;
    });
  tell("entering");
  if (!(await seen())) {
    // A cookie that a tab got under the sandbox would end with this page; a frame in a page of ours keeps it.
    if (parent === self && framed) return location.replace(framed);
    const options = { method: "POST", mode: "no-cors", credentials: "include", body: token };
    await fetch(`${base}/.runwarden/enter`, options).catch(() => {});
    if (!(await seen())) {
      tell("cookie_blocked");
      document.querySelector("main").hidden = false;
      return;
    }
  }
  tell("entered");
  location.replace(base + path);
})();
