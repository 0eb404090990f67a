// A host application's part: fresh tokens from its own server, and another session when one has ended.
const preview = document.querySelector("runwarden-preview");

preview.getExchangeToken = async () => {
  const answer = await fetch("/token", { method: "POST" });
  return answer.ok ? (await answer.json()).exchangeToken : null;
};
// The page is made for a session that is open; where there is none, another is started.
preview.addEventListener("runwarden-restart", () => location.reload());
document.getElementById("tab").addEventListener("click", () => preview.openTab());
