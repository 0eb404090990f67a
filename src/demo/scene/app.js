const teas = new Map([["Green", 120], ["Black", 240], ["Herbal", 420]]);
const left = document.getElementById("left");
const list = document.getElementById("teas");

function brew(name) {
  left.textContent = `${name}: ${teas.get(name)} s`;
}

for (const name of teas.keys()) {
  const button = document.createElement("button");
  button.textContent = name;
  button.addEventListener("click", () => brew(name));
  const item = document.createElement("li");
  item.append(button);
  list.append(item);
}
// next
