"use strict";
const cards = [...document.querySelectorAll("li > a")];
const dialog = document.querySelector("dialog");
const box = document.querySelector("input[type=search]");
let last = null; // the card that was opened last

// A result is open while the address names it, so going back closes it.
function show() {
  const card = cards.find((card) => card.hash === location.hash && location.hash);
  if (!card) {
    if (dialog.open) dialog.close();
    return;
  }
  last = card;
  const image = dialog.querySelector("img");
  image.src = card.dataset.whole;
  image.hidden = !card.dataset.whole;
  image.alt = card.querySelector(".file").textContent;
  const parts = [...card.querySelectorAll("span")].filter((part) => part.className !== "absent");
  dialog.querySelector(".about").replaceChildren(...parts.map((part) => part.cloneNode(true)));
  const similar = dialog.querySelector(".similar");
  similar.hidden = !card.dataset.similar;
  if (card.dataset.similar) similar.href = card.dataset.similar;
  if (!dialog.open) dialog.showModal();
}

function close() {
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  if (dialog.open) dialog.close();
}

function step(by) {
  const next = cards[cards.indexOf(last) + by];
  if (next) location.replace(next.hash);
}

// The card left, right, above or below a card.
function neighbour(card, key) {
  const place = cards.indexOf(card);
  if (key === "ArrowLeft") return cards[place - 1];
  if (key === "ArrowRight") return cards[place + 1];
  const { left, top } = card.getBoundingClientRect();
  const below = key === "ArrowDown";
  const others = below ? cards.slice(place) : cards.slice(0, place).reverse();
  return others.find((other) => {
    const at = other.getBoundingClientRect();
    return Math.abs(at.left - left) < 4 && (below ? at.top > top + 4 : at.top < top - 4);
  });
}

addEventListener("hashchange", show);
dialog.addEventListener("close", () => {
  close();
  if (last) last.focus();
});
dialog.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (event.target === dialog || button?.value === "0") close();
  else if (button) step(Number(button.value));
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (dialog.open) {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  } else if (event.key === "/" && box && !typing) {
    event.preventDefault();
    box.select();
  } else if (event.key.startsWith("Arrow") && !typing && cards.length) {
    const card = cards.includes(document.activeElement) ? neighbour(document.activeElement, event.key) : cards[0];
    if (card) {
      event.preventDefault();
      card.focus();
    }
  } else if (event.key === "ArrowDown" && document.activeElement === box && cards.length) {
    event.preventDefault();
    cards[0].focus();
  }
});

// Searches by an image, chosen or dropped anywhere: uploads it, and opens the results under the name it gets.
async function ask(file) {
  const message = document.querySelector(".message");
  message.textContent = `looking at ${file.name} …`;
  try {
    const address = `/api/image?name=${encodeURIComponent(file.name)}`;
    const answer = await fetch(address, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    const parameters = new URLSearchParams(new FormData(document.querySelector("form")));
    for (const name of ["text", "not", "like"]) parameters.delete(name);
    parameters.set("image", found.image);
    location.href = `/?${parameters}`;
  } catch (error) {
    message.textContent = `${file.name}: ${error.message}`;
  }
}
const chosen = document.querySelector("input[type=file]");
if (chosen) {
  chosen.addEventListener("change", () => chosen.files[0] && ask(chosen.files[0]));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) ask(event.dataTransfer.files[0]);
  });
  addEventListener("pageshow", () => (document.querySelector(".message").textContent = ""));
}
show();
