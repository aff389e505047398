// The numbers, twice a second, and the buttons. Everything is asked of the server that sent this page.
"use strict";
const at = (id) => document.getElementById(id);
const token = location.pathname.split("/")[1];
const say = (text, warn = false) => { at("message").textContent = text; at("message").className = warn ? "warn" : ""; };
let over = false;

async function ask(what) {
  const answer = await fetch(what, { method: "POST", headers: { "X-Ocuseg-Token": token } });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(typeof found.detail === "string" ? found.detail : "the request was refused");
  return found;
}

const ms = (value) => (value === undefined ? "–" : `${Math.round(value)} ms`);

function stateOf(now) {
  if (now.state === "lost") return [`the source is lost; next try in ${now.retry_s} s`, true];
  if (now.state === "ended") return [now.lost || "the source has ended; this is its last frame", Boolean(now.lost)];
  if (now.refusal) return [`frames the model could not take: ${now.refused} (${now.refusal})`, true];
  return [now.size ? `${now.size[1]} × ${now.size[0]} pixels` : "waiting for the first frame", false];
}

function show(now) {
  const [text, warn] = stateOf(now);
  at("state").textContent = text;
  at("state").className = warn ? "warn" : "muted";
  at("model").textContent = `${now.model} · ${now.bundle_id}`;
  at("fps").textContent = now.state === "ended" ? `${now.fps ?? "–"} (mean)` : now.fps_now.toFixed(1);
  at("source").textContent = now.source_fps ? `${Math.round(now.source_fps * 10) / 10} frames/s` : "does not say";
  for (const name of ["p50", "p95", "p99"]) at(name).textContent = ms(now.latency_ms[name]);
  const { prepare, network, draw } = now.stages_ms;
  at("stages").textContent = network === undefined ? "–" : `${Math.round(prepare)} + ${Math.round(network)} + ${Math.round(draw)} ms`;
  at("shown").textContent = now.shown.toLocaleString("en");
  at("dropped").textContent = now.dropped.toLocaleString("en");
  at("detail").textContent = `${Math.round(100 * now.detail)} % of training's`;
  at("answer").textContent = now.answer;
  at("answered").hidden = !now.answer;
  at("engine").textContent = now.engine;
  at("record").setAttribute("aria-pressed", String(now.recording !== null));
  at("record").firstChild.textContent = now.recording ? `Stop, ${now.recording.seconds} s ` : "Record ";
  const cases = at("cases");
  if (cases.dataset.count !== String(now.snapshots.length)) {
    cases.dataset.count = String(now.snapshots.length);
    if (now.snapshots.length) cases.replaceChildren(...now.snapshots.map((one) => {
      const item = document.createElement("li"), link = document.createElement("a");
      link.href = `cases/${one.page}`;
      link.target = "_blank";
      link.textContent = one.case;
      item.append(link);
      return item;
    }));
  }
}

async function look() {
  try {
    show(await (await fetch("status")).json());
  } catch {
    over = true;
    at("state").textContent = "the session has ended";
    for (const button of document.querySelectorAll("button")) button.disabled = true;
    return;
  }
  setTimeout(look, 500);
}

async function snapshot() {
  const button = at("snapshot");
  if (button.disabled) return;
  button.disabled = true;
  say("the snapshot is being segmented …");
  try {
    const made = await ask(`snapshot?eye=${at("eye").value}`);
    say(`case ${made.case} is written`);
  } catch (error) {
    say(error.message, true);
  }
  button.disabled = over;
}

async function record() {
  const on = at("record").getAttribute("aria-pressed") !== "true";
  try {
    const { file } = await ask(`record?on=${on}`);
    say(on ? `recording to ${file}` : file ? `recorded: ${file}` : "no frame came, so nothing was recorded");
  } catch (error) {
    say(error.message, true);
  }
}

function choose() {
  at("picture").src = at("overlay").checked ? "stream/overlay" : "stream/plain";
}

at("snapshot").addEventListener("click", snapshot);
at("record").addEventListener("click", record);
at("overlay").addEventListener("change", choose);
at("stop").addEventListener("click", () => ask("stop").catch((error) => say(error.message, true)));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  const key = event.key.toLowerCase();
  if (key === "s") snapshot();
  if (key === "r") record();
  if (key === "o") { at("overlay").checked = !at("overlay").checked; choose(); }
});
look();
