"use strict";
// The token comes after the # of the address, which a browser never sends; it goes into a header that no other site's
// page can set. Texts of requests only ever become text nodes.
const token = location.hash.slice(1);
const keys = "1234567890-=";
const byId = (id) => document.getElementById(id);
let shown = null; // what the server said last
let busy = true; // while an answer is on its way, keys do nothing

async function call(path, body) {
  busy = true;
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Prerouter-Token": token },
      body: JSON.stringify(body || {}),
    });
    const said = await answer.json();
    if (said.error) trouble(said.error);
    else byId("trouble").hidden = true;
    if (said.standing) show(said);
  } catch {
    trouble("The review has ended, or cannot be reached. What you answered is saved: run prerouter review again.");
  } finally {
    busy = false;
  }
}

function trouble(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = false;
}

function show(said) {
  const fresh = !shown || !said.item || !shown.item || shown.item.key !== said.item.key;
  shown = said;
  byId("file").textContent = said.file;
  byId("standing").textContent = said.standing.line;
  byId("progress").max = said.standing.total;
  byId("progress").value = said.standing.done;
  for (const id of ["undo", "undo-end"]) byId(id).disabled = !said.can_undo;
  byId("work").hidden = !said.item || said.ended;
  byId("end").hidden = !byId("work").hidden;
  if (said.item) showItem(said.item, fresh);
  byId("verdict").textContent = said.ended ? "Finished; you can close this page." : "All chosen rows are reviewed.";
  byId("result").textContent = said.standing.result;
  for (const button of document.querySelectorAll("#end button")) button.hidden = said.ended;
}

function showItem(item, fresh) {
  byId("about").textContent = item.about;
  byId("text").textContent = item.text;
  byId("context").textContent = item.context;
  byId("more").hidden = !item.context;
  byId("said").textContent = item.said;
  byId("labels").replaceChildren(...shown.labels.map((label, place) => button(label, place, item)));
  if (fresh) byId("text").scrollTop = 0;
}

function button(label, place, item) {
  const votes = item.votes[label.name];
  const made = element("button", "label" + (label.name === item.label ? " given" : ""), "");
  made.type = "button";
  made.dataset.label = label.name;
  made.append(element("kbd", "", keys[place]), element("b", "", label.name));
  made.append(element("span", "votes", votes ? "●".repeat(Math.min(votes, 9)) + (votes > 9 ? " " + votes : "") : ""));
  made.append(element("small", "", label.told));
  made.addEventListener("click", () => { made.blur(); answer(label.name); });
  return made;
}

function element(tag, kind, text) {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}

function answer(label) {
  if (!busy && shown.item) call("answer", { key: shown.item.key, label });
}

const acts = {
  u: () => shown.can_undo && call("undo"),
  s: () => shown.item && call("skip", { key: shown.item.key }),
  q: () => call("finish"),
};

function act(key) {
  if (!busy && shown && !shown.ended) acts[key]();
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || busy || !shown || shown.ended) return;
  const place = keys.indexOf(event.key);
  if (place >= 0 && place < shown.labels.length) answer(shown.labels[place].name);
  else if (event.key.toLowerCase() in acts) act(event.key.toLowerCase());
  else if (event.key === "Enter" && !event.target.closest("button, summary") && shown.item) answer(shown.item.label);
  else return;
  event.preventDefault();
});
for (const [id, key] of [["undo", "u"], ["skip", "s"], ["finish", "q"], ["undo-end", "u"], ["finish-end", "q"]]) {
  byId(id).addEventListener("click", () => { byId(id).blur(); act(key); });
}
call("state");
