"use strict";
// The page: what you see and press. The model is in gpt.js, which runs in a Worker, so that the page never waits.

const $ = id => document.getElementById(id);
const definition = JSON.parse($("definition").textContent), { config } = definition;
const tokenizer = new Tokenizer(definition.tokenizer);
const worker = new Worker(URL.createObjectURL(new Blob([$("gpt").textContent], { type: "text/javascript" })));
const waiting = new Map(); // calls that the worker has not answered yet

function ask(name, ...args) { // call a function of gpt.js's `api`
  const call = ask.count = (ask.count ?? 0) + 1;
  worker.postMessage([call, name, ...args]);
  return new Promise((resolve, reject) => waiting.set(call, { resolve, reject }));
}

worker.onmessage = ({ data: [call, answer, error] }) => {
  const { resolve, reject } = waiting.get(call);
  waiting.delete(call);
  if (!error) return resolve(answer);
  $("problem").textContent = error;
  reject(new Error(error));
};

// What the page shows follows from this

const MOST = 500; // tokens that "Write on" writes at most
const PACE = 60; // tokens per second, so that you see the text grow
const STEPS = [1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 1000];
const TOP_K = STEPS.filter(k => k < config.vocabulary);
const state = {
  prompt: [], written: [], // ids
  chosen: null, // the token that is looked at; null: the last one
  pointed: null, // the one under the mouse, for as long as it is there
  layer: config.n_layer - 1, head: 0, off: [], // heads, as "layer.head"
  writing: null, // an object of its own for each press of "Write on"
  seed: 1,
  rest: 0, // until when a large model just writes, and is not looked at
};

const ids = () => [...state.prompt, ...state.written];
const ended = () => definition.tokenizer.stop.includes(state.written.at(-1));

function contextStart(length) { // as in Python: when the context is full, only its newest half is read again
  let start = 0;
  for (let n = 1; n <= length; n++)
    if (n - start > config.block_size) start = n - Math.max(config.block_size >> 1, 1);
  return start;
}

function settings() {
  return {
    temperature: Number($("temperature").value),
    top_k: TOP_K[$("top_k").value] ?? null, // the last step of the slider: all
    top_p: Number($("top_p").value),
    seed: state.seed,
  };
}

function current() { // the token that is looked at, as its place in ids()
  const last = ids().length - 1, wanted = state.pointed ?? state.chosen ?? last;
  return Math.min(Math.max(wanted, contextStart(last + 1)), last);
}

// Words for tokens and numbers

function percent(p) {
  if (p === 0) return "0 %";
  return p < 0.001 ? "<0.1 %" : `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`;
}

function label(id, position = null) {
  if (definition.tokenizer.stop.includes(id)) return position === 0 ? "start" : "end";
  if (id in tokenizer.special) return tokenizer.special[id];
  const text = toText(tokenizer.tokens[id]);
  if (/[\ufffd\p{C}]/u.test(text.replace(/[\n\t]/g, ""))) return Array.from(tokenizer.tokens[id], toHex).join(" ");
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

const toHex = byte => byte.charCodeAt(0).toString(16).padStart(2, "0");
const visible = (id, position) => label(id, position).replaceAll(" ", "·");

function element(kind, className, text) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Drawing

function drawTokens(list, prefix) {
  const all = ids(), start = contextStart(all.length), at = current();
  while (list.children.length > all.length) list.lastChild.remove();
  all.forEach((id, i) => {
    let chip = list.children[i];
    if (chip?.dataset.id !== String(id)) {
      const mark = id in tokenizer.special || definition.tokenizer.stop.includes(id);
      chip = element("span", mark ? "mark" : "", label(id, i));
      if (tokenizer.tokens[id] === "\n" && !mark) chip.textContent = "↵\n";
      chip.id = `${prefix}-${i}`;
      chip.role = "option";
      chip.dataset.id = id;
      chip.style.setProperty("--hue", id * 47 % 360);
      list.children[i] ? list.children[i].replaceWith(chip) : list.append(chip);
    }
    chip.classList.toggle("written", i >= state.prompt.length);
    chip.classList.toggle("forgotten", i < start);
    chip.classList.toggle("chosen", i === at);
    chip.ariaSelected = i === at;
  });
  list.setAttribute("aria-activedescendant", `${prefix}-${at}`);
}

function drawText() {
  drawTokens($("tokens"), "token");
  drawTokens($("looked"), "looked");
  $("write").textContent = state.writing ? "Stop" : "Write on";
  $("write").disabled = $("one").disabled = ended() || !state.prompt.length;
  $("back").disabled = !state.written.length;
  $("again").disabled = !state.prompt.length;
  if (definition.grammar) drawVerdict();
}

const VERDICTS = {
  consistent: "The words and sentences are right, and so are names, pronouns, objects and counts",
  "well-formed": "The words and sentences are right, but it contradicts itself",
  broken: "This is not a tale of the grammar",
};

function drawVerdict() {
  const finished = ended(), all = finished ? ids().slice(0, -1) : ids();
  const begin = all.findLastIndex(id => definition.tokenizer.stop.includes(id)) + 1; // of the last tale
  const tale = tokenizer.decode(all.slice(begin)).replace(/\n$/, "");
  const { level, error, complete } = taleLevel(tale, definition.grammar);
  const text = element("p");
  text.append("The judge of tales: ", element("b", "", complete || level === "broken" ? level : `${level} so far`),
    ". ", VERDICTS[level], complete || level === "broken" || !finished ? "" : ", but it ends too early");
  if (error) {
    const before = tale.slice(Math.max(error.position - 18, 0), error.position).trimEnd();
    const found = tale.slice(error.position, error.position + 14) || "nothing";
    const expected = error.expected.slice(0, 24);
    text.append(`: after “…${before}” it says “${found}”, where it could say “${expected}”`);
  }
  text.append(".");
  $("verdict").hidden = !tale;
  $("verdict").className = `verdict ${level}`;
  $("verdict").replaceChildren(text);
}

function drawNext({ next, actual, all, at }) {
  const ghosts = state.off.length > 0;
  const before = tokenizer.decode(all.slice(Math.max(at - 8, 0), at + 1)).trimEnd().slice(-28);
  $("after").textContent = before ? `After “…${before}” the model expects:` : "At the start the model expects:";
  $("ghost-key").hidden = !ghosts;
  $("bars").replaceChildren(...next.map(({ id, p, drawn, whole }) => {
    const line = element("li", `${drawn ? "" : "out"} ${id === actual?.id ? "actual" : ""}`);
    const bar = element("span", "bar"), own = element("i", "own"), solid = element("i", "drawn");
    own.style.width = `${100 * p}%`;
    solid.style.width = `${100 * drawn}%`;
    bar.append(own, solid);
    if (ghosts) {
      const ghost = element("i", "ghost");
      ghost.style.left = `calc(${100 * whole}% - ${3 * whole}px)`;
      bar.append(ghost);
    }
    bar.ariaHidden = true;
    line.append(element("span", "name", visible(id)), bar, element("span", "value", percent(drawn)));
    return line;
  }));
}

function drawHeads({ maps, attention, from, all, at, start }) {
  const style = getComputedStyle(document.documentElement);
  const colour = style.getPropertyValue("--negative").trim().match(/\w\w/g).map(hex => parseInt(hex, 16));
  for (const [i, heads] of maps.entries()) heads.forEach((cells, h) => {
    const button = $(`head-${i}.${h}`), canvas = button.firstChild, T = Math.sqrt(cells.length);
    const isOff = state.off.includes(`${i}.${h}`);
    button.ariaPressed = i === state.layer && h === state.head;
    button.classList.toggle("off", isOff);
    button.ariaLabel = `Layer ${i + 1}, head ${h + 1}${isOff ? ", switched off" : ""}`;
    canvas.width = canvas.height = T;
    canvas.classList.toggle("coarse", T < 60);
    const pen = canvas.getContext("2d");
    const image = pen.createImageData(T, T);
    cells.forEach((weight, cell) => image.data.set([...colour, 255 * Math.sqrt(weight)], 4 * cell));
    pen.putImageData(image, 0, 0);
    if (at - start >= from) { // the row of the token that is looked at
      pen.globalAlpha = 0.35;
      pen.fillStyle = style.getPropertyValue("--accent");
      pen.fillRect(0, at - start - from, T, 1);
    }
  });
  const weights = attention[state.layer][state.head], most = Math.max(...weights);
  const best = start + weights.indexOf(most);
  [...$("looked").children].forEach((chip, i) =>
    chip.style.setProperty("--weight", i < start ? 0 : (weights[i - start] ?? 0) / most));
  const name = `Layer ${state.layer + 1}, head ${state.head + 1}`;
  $("look").textContent =
    `${name}: “${visible(all[at], at)}” looks most at “${visible(all[best], best)}”` +
    `${best === at ? ", itself" : ""} (${percent(most)}).`;
  const isOff = state.off.includes(`${state.layer}.${state.head}`);
  $("switch").textContent = isOff ? "Switch this head on" : "Switch this head off";
  $("all-on").hidden = !state.off.length;
}

function drawEffect({ next, best, losses }) {
  const off = state.off.length, now = next[0];
  if (!off) return void ($("effect").textContent = "Switch a head off to see what it is good for.");
  const [cut, whole] = losses.map(loss => loss.toFixed(3));
  $("effect").textContent = `With ${off} ${off === 1 ? "head" : "heads"} off, the loss over this text is ${cut} nats ` +
    `per token instead of ${whole}. After the chosen token, the best guess is ` + (now.id === best.id
    ? `still “${visible(now.id)}”: ${percent(now.p)} instead of ${percent(best.p)}.`
    : `“${visible(now.id)}” (${percent(now.p)}) instead of “${visible(best.id)}” (${percent(best.p)}).`);
}

function guess(id, weight, note) { // a token, shaded
  const made = element("span", "guess", visible(id) + " ");
  made.append(element("small", "", note));
  made.style.setProperty("--weight", Math.max(weight, 0));
  return made;
}

function drawLens({ lens }) {
  $("lens").replaceChildren(...lens.map((guesses, i) => {
    const line = element("li"), list = element("div", "guesses");
    const where = i === 0 ? "Before the first layer" : i < config.n_layer ? `After layer ${i}` : "After the last layer";
    list.append(...guesses.map(({ id, p }) => guess(id, p, percent(p))));
    line.append(element("div", "where", where), list);
    return line;
  }));
}

const PARTS = {
  token: "of the token", "n-grams": "+ of the last tokens together", position: "+ of its position",
  sum: "= what goes in", output: "what comes out",
};

function drawEmbeddings({ embeddings, nearest, all, at }) {
  const id = all[at], names = Object.keys(embeddings);
  $("vector").textContent = `“${visible(id, at)}” is token ${id}. To the model it is a list of ${config.n_embd} ` +
    "numbers, an embedding. Each stripe is one number: blue is positive, orange negative.";
  const style = getComputedStyle(document.documentElement), strips = $("strips");
  const blue = style.getPropertyValue("--accent"), orange = style.getPropertyValue("--negative");
  const shown = names.filter(name => name !== "sum" || names.length > 3); // a sum of one part is that part
  strips.replaceChildren(...shown.flatMap(name => {
    const x = embeddings[name], canvas = element("canvas"), pen = canvas.getContext("2d");
    const largest = Math.max(...x.map(Math.abs), 1e-9);
    [canvas.width, canvas.height] = [x.length, 1];
    x.forEach((value, i) => {
      pen.globalAlpha = Math.abs(value) / largest;
      pen.fillStyle = value > 0 ? blue : orange;
      pen.fillRect(i, 0, 1, 1);
    });
    const [least, most] = [Math.min(...x), Math.max(...x)].map(value => value.toFixed(2));
    canvas.role = "img";
    canvas.ariaLabel = `${PARTS[name]}: ${x.length} numbers from ${least} to ${most}`;
    return [element("span", "", PARTS[name]), canvas];
  }));
  $("nearest").replaceChildren(...nearest.map(({ id, cosine }) => guess(id, cosine, cosine.toFixed(2))));
}

// One look at a time: while the worker is busy, only the newest wish is kept

let looking = false, again = false;

async function refresh() {
  drawText();
  if (!state.prompt.length || (state.writing && (looking || performance.now() < state.rest))) return;
  if (looking) return void (again = true);
  looking = true;
  do {
    again = false;
    const begin = performance.now(), all = ids(), at = current(), start = contextStart(all.length);
    const answer = await ask("inspect", all.slice(start), state.off, settings(), at - start, 128);
    if (again) continue; // meanwhile something else is wished for
    const seen = { ...answer, all, at, start };
    for (const draw of [drawNext, drawHeads, drawEffect, drawLens, drawEmbeddings]) draw(seen);
    state.rest = performance.now() + 2 * (performance.now() - begin);
  } while (again);
  looking = false;
}

// Writing

async function write(count) {
  const mine = state.writing = {};
  state.chosen = state.pointed = null;
  const before = state.written.length;
  let seconds = 0, due = performance.now(), drawn = due; // when the next token is due, and when the page was drawn
  while (state.writing === mine && state.written.length - before < count && !ended()) {
    const all = ids(), start = contextStart(all.length);
    const token = await ask("next", all.slice(start), state.off, settings(), all.length);
    if (state.writing !== mine) break;
    state.written.push(token.id);
    seconds += token.seconds;
    due += 1000 / PACE;
    if (performance.now() < due || performance.now() > drawn + 100) {
      refresh();
      await new Promise(requestAnimationFrame);
      drawn = performance.now();
    }
  }
  if (state.writing === mine) state.writing = null;
  const written = state.written.slice(before);
  $("said").textContent = `The model wrote: ${tokenizer.decode(written)}${ended() ? " (end of the text)" : ""}` +
    (definition.grammar ? `. ${$("verdict").textContent}` : "");
  if (written.length > 9) $("speed").textContent = `${Math.round(written.length / seconds)} tokens per second`;
  await refresh();
}

function readText() {
  state.writing = null;
  try {
    state.prompt = [...tokenizer.start, ...tokenizer.encode($("text").value)];
    $("problem").textContent = state.prompt.length ? "" : "Type at least one character.";
  } catch (error) {
    $("problem").textContent = error.message;
    return;
  }
  state.written = [];
  state.chosen = state.pointed = null;
  refresh();
}

function drawFacts() {
  const { n_layer, n_head, n_embd, vocabulary, block_size } = config;
  $("facts").textContent = [`${n_layer} layers`, `${n_head} heads in each`, `${n_embd} numbers wide`,
    `${vocabulary.toLocaleString("en")} tokens to choose from`, `reads up to ${block_size} tokens`].join(" · ");
}

// Wiring

function listen(list) {
  const place = target => target.closest("span") ? [...list.children].indexOf(target.closest("span")) : null;
  list.addEventListener("click", event => choose(place(event.target)));
  list.addEventListener("pointerover", event => event.pointerType === "mouse" && point(place(event.target)));
  list.addEventListener("pointerleave", () => point(null));
  list.addEventListener("keydown", event => {
    const last = ids().length - 1, at = state.chosen ?? last;
    const keys = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: last };
    const to = keys[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(Math.min(Math.max(to, contextStart(last + 1)), last));
  });
}

function choose(i) {
  state.pointed = null;
  state.chosen = i === ids().length - 1 ? null : i;
  refresh();
}

function point(i) {
  if (state.writing || state.pointed === i) return;
  state.pointed = i;
  refresh();
}

function makeHeads() {
  $("heads").classList.toggle("many", config.n_layer * config.n_head > 16);
  $("heads").append(...Array.from({ length: config.n_layer }, (_, i) => {
    const layer = element("div", "layer");
    layer.append(element("span", "", `Layer ${i + 1}`), ...Array.from({ length: config.n_head }, (_, h) => {
      const button = element("button", "head");
      button.id = `head-${i}.${h}`;
      button.append(element("canvas"));
      button.onclick = () => {
        [state.layer, state.head] = [i, h];
        refresh();
      };
      return button;
    }));
    return layer;
  }));
}

function showSettings() {
  const { temperature, top_k, top_p } = settings();
  $("temperature-value").textContent = temperature ? temperature.toFixed(2) : "0: always the best";
  $("top_k-value").textContent = top_k ?? "all";
  $("top_p-value").textContent = top_p < 1 ? top_p.toFixed(2) : "all";
}

async function start() {
  $("size").textContent = definition.parameters.toLocaleString("en");
  $("made").textContent = "Made with nanogpt explain. The model’s weights are rounded to float16.";
  Object.assign($("top_k"), { max: TOP_K.length, value: TOP_K.length });
  $("text").value = definition.text;
  makeHeads();
  drawFacts();
  showSettings();
  listen($("tokens"));
  listen($("looked"));
  $("text").oninput = readText;
  $("write").onclick = () => state.writing ? (state.writing = null) : write(MOST);
  $("one").onclick = () => write(1);
  $("back").onclick = () => {
    state.writing = null;
    state.written.pop();
    refresh();
  };
  $("again").onclick = () => {
    state.seed += 1;
    state.written = [];
    if (!state.writing) write(MOST);
  };
  $("switch").onclick = () => {
    const head = `${state.layer}.${state.head}`;
    state.off = state.off.includes(head) ? state.off.filter(other => other !== head) : [...state.off, head].sort();
    refresh();
  };
  $("all-on").onclick = () => {
    state.off = [];
    refresh();
  };
  for (const name of ["temperature", "top_k", "top_p"]) $(name).oninput = () => {
    showSettings();
    refresh();
  };
  matchMedia("(prefers-color-scheme: dark)").onchange = refresh;
  await ask("load", definition, $("weights").textContent);
  readText();
}

const started = start();
